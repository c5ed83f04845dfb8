"""The doctor's answer in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from goodfit.core.words import count_of, format_duration
from goodfit.doctor.calibration import read_calibration
from goodfit.doctor.causes import SENTENCES
from goodfit.doctor.finding import UNTESTED, Finding, Verdict
from goodfit.doctor.rules import LOOK_ALIKES

MAX_SHOWN = 3


def describe_verdict(verdict: Verdict) -> list[str]:
    """The answer in lines: what it is, the evidence and the remedy of each cause, what else may be, and what it took."""
    alarming = [finding for finding in verdict.findings if finding.is_material][:MAX_SHOWN]
    notes = [finding for finding in verdict.findings if not finding.is_material][:MAX_SHOWN]
    match verdict.kind:
        case "healthy":
            lines = ["Healthy: nothing was found that harms this training."]
        case "unknown":
            where = f" in the {verdict.component}" if verdict.component else ""
            lines = [f"Something is wrong{where}, and the cause is not known.", *verdict.evidence, *map(describe_finding, alarming)]
        case "either":
            lines = ["One of these:", *map(describe_finding, alarming), *describe_differences(alarming)]
        case _:
            lines = [describe_finding(alarming[0])]
            if len(alarming) > 1:
                lines += ["Less likely:", *(f"  {describe_short(finding)}" for finding in alarming[1:])]
    lines += [f"Note: {describe_short(finding)}" for finding in notes]
    lines += [f"Not known: {line}" for line in verdict.ruled_out if UNTESTED in line]
    lines += [f"Ruled out: {line}" for line in verdict.ruled_out if UNTESTED not in line] if verdict.kind == "unknown" else []
    if verdict.kind in ("fault", "either") and verdict.p is not None:
        lines.append(f"Of {read_calibration().trainings} healthy trainings, {count_as_sure(verdict.p)} had a finding as sure.")
    took = f"{count_of(verdict.steps, 'step')} followed, {count_of(verdict.trial_steps, 'step')} of trials"
    return [*lines, f"({took}, {format_duration(verdict.seconds)})"]


def count_as_sure(p: float) -> str:
    """How many of the healthy trainings that the doctor was calibrated on had a finding as sure, by its p-value."""
    return str(round(p * (read_calibration().trainings + 1)) - 1 or "none")


def describe_finding(finding: Finding) -> str:
    """A cause with its evidence and its remedy."""
    sure = f"{finding.cause} ({finding.component}, {100 * finding.confidence:.0f} % sure)"
    return f"{sure}: {SENTENCES[finding.cause]} {finding.evidence} What to do: {finding.remedy}{finding.describe_patch()}"


def describe_differences(findings: Sequence[Finding]) -> list[str]:
    """How the causes of some findings are told apart, where a rule knows a test."""
    return [
        f"To tell {one.cause} from {other.cause}: with {other.cause}, {LOOK_ALIKES[one.cause][other.cause].removeprefix('there ')}."
        for one, other in itertools.permutations(findings, 2)
        if other.cause in LOOK_ALIKES.get(one.cause, {})
    ]


def describe_short(finding: Finding) -> str:
    """A cause and how sure it is."""
    return f"{finding.cause} ({100 * finding.confidence:.0f} %): {finding.evidence}"
