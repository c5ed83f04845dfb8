"""Diagnose a patient: ask the rules, stage by stage, until one is sure."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from goodfit.core.words import count_of
from goodfit.doctor.calibration import read_calibration
from goodfit.doctor.causes import Component
from goodfit.doctor.course import EARLY, FIRST
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import UNTESTED, Finding, Rule, Stage, Verdict, VerdictKind
from goodfit.doctor.location import locate_fault
from goodfit.doctor.patient import PatientSource
from goodfit.doctor.rules import RULES

SURE = 0.9  # a material finding this sure ends the examination
TIE = 0.08  # two causes whose confidences differ by less are named together
ACTIVITIES = {
    Stage.DATA: "examining its images and labels", Stage.START: "examining it before its first step",
    Stage.FIRST: "examining its first steps", Stage.EARLY: "examining its first 50 steps", Stage.END: "examining its end",
}  # fmt: skip
TEST_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, ZeroDivisionError)  # of a patient's own code, within a test

T = TypeVar("T")


def diagnose(source: PatientSource, rules: Sequence[Rule] = RULES) -> Verdict:
    """Diagnose a patient."""
    return examine(Examination(source), rules)


def examine(
    exam: Examination, rules: Sequence[Rule] = RULES, last: Stage = Stage.END, show_activity: Callable[[str], None] = lambda activity: None
) -> Verdict:
    """Ask the rules of each stage up to the last, until one is sure. Where none speaks at the end, look for the component at fault.

    Args:
        exam: the examination of the patient.
        rules: to ask.
        last: stage to examine.
        show_activity: is told what is being examined.
    """
    started = time.perf_counter()
    findings: list[Finding] = []
    failed: list[str] = []

    def attempt(test: Callable[[Examination], T | None], what: str) -> T | None:
        try:
            return test(exam)
        except TEST_ERRORS as error:
            failed.append(f"{what}{UNTESTED}: {type(error).__name__}: {str(error)[:200]}")
            return None

    for stage in list(Stage)[: last + 1]:
        show_activity(ACTIVITIES[stage])
        if stage >= Stage.FIRST:
            exam.course.follow({Stage.FIRST: FIRST, Stage.EARLY: EARLY}.get(stage, exam.steps))
        found = [attempt(rule.find, rule.cause) for rule in rules if rule.stage == stage]
        findings += [finding for finding in found if finding is not None]
        if select_alarming(findings, SURE):
            break
    alarming = select_alarming(findings)
    is_searched = last == Stage.END and not alarming and exam.max_trial_steps > 0
    if is_searched:
        show_activity("looking for the component at fault")
    location = attempt(locate_fault, "the component at fault") if is_searched else None
    steps = exam.course.taken if "course" in vars(exam) else 0
    trial_steps = exam.trial_steps + exam.continuation.steps
    verdict = decide(findings, steps, trial_steps, time.perf_counter() - started, failed)
    if location is None and not alarming and steps and exam.course.is_broken:
        evidence = exam.course.error or f"The loss is no finite number any more after {count_of(steps, 'step')}."
        component: Component = "loop" if exam.course.error else "optimization"
        return dataclasses.replace(verdict, kind="unknown", component=component, alarm=True, evidence=(evidence,))
    if location is None:
        return verdict
    ruled_out = (*location.ruled_out, *failed)
    return dataclasses.replace(
        verdict, kind="unknown", component=location.component, alarm=True, ruled_out=ruled_out, evidence=(location.evidence,)
    )


def select_alarming(findings: Sequence[Finding], least: float | None = None) -> list[Finding]:
    """The material findings that are sure enough to stop a person, or as sure as `least`."""
    level = read_calibration().alarm_level if least is None else least
    return [finding for finding in findings if finding.is_material and finding.confidence >= level]


def decide(findings: Sequence[Finding], steps: int, trial_steps: int, seconds: float, failed: Sequence[str] = ()) -> Verdict:
    """The verdict that some findings add up to: material ones first, then by confidence."""
    ordered = sorted(findings, key=lambda finding: (finding.is_material, finding.confidence), reverse=True)
    ranked = tuple({finding.cause: finding for finding in reversed(ordered)}.values())[::-1]  # of each cause the surest
    alarming = select_alarming(ranked)
    p = read_calibration().p_value(max((finding.confidence for finding in ranked if finding.is_material), default=0.0))
    if not alarming:
        return Verdict("healthy", None, ranked, False, steps, trial_steps, seconds, tuple(failed), p)
    is_tie = len(alarming) > 1 and alarming[0].confidence - alarming[1].confidence < TIE
    kind: VerdictKind = "either" if is_tie else "fault"
    return Verdict(kind, alarming[0].component, ranked, True, steps, trial_steps, seconds, tuple(failed), p)
