"""The verdict on a run by its log and its scores alone, in no time: what `goodfit train` ends with."""

from __future__ import annotations

from goodfit.doctor.finding import Finding, Verdict
from goodfit.report.failures import find_failures
from goodfit.report.interpretation import find_notes
from goodfit.report.record import Record
from goodfit.report.remark import Remark

CONFIDENCE, NOTE_CONFIDENCE = 0.6, 0.3  # a log shows what went wrong; its cause is likely, and no trial has confirmed it
DIRECTIONS = ("lr_too_high", "lr_too_low")  # causes of which a log tells in which direction to change a field, and not how far


def read_verdict(record: Record) -> Verdict:
    """Judge a run by what its log and scores tell: a fault where something went wrong, unknown where no cause is known for it.

    What is odd about a run in which nothing went wrong is a note. No step is followed, and no trial is made.
    """
    failures = find_certain_failures(record)
    findings = tuple(make_finding(remark, True) for remark in failures if remark.cause)
    if not failures:
        notes = tuple(make_finding(remark, False) for remark in find_notes(record) if remark.cause)
        return Verdict("healthy", None, notes, False, 0, 0, 0.0)
    if not findings:
        return Verdict("unknown", None, (), True, 0, 0, 0.0)
    return Verdict("fault", findings[0].component, findings, True, 0, 0, 0.0)


def find_certain_failures(record: Record) -> list[Remark]:
    """What went wrong with a run beyond what may be noise."""
    return [failure for failure in find_failures(record) if not failure.may_be_noise]


def make_finding(remark: Remark, is_material: bool) -> Finding:
    """A remark that has a cause as a finding."""
    return Finding(remark.cause, CONFIDENCE if is_material else NOTE_CONFIDENCE, remark.evidence, remark.remedy, {}, is_material)


def describe_log_verdict(verdict: Verdict, path: str) -> str:
    """The verdict on a run by its log in a sentence, and the command that examines more; its evidence stands in the warnings."""
    match verdict.kind:
        case "healthy":
            return f"Doctor: the log shows nothing that harms this training; goodfit doctor {path} --try looks deeper."
        case "unknown":
            return f"Doctor: something is wrong, and the log does not tell its cause; goodfit doctor {path} --try looks for it."
    first = verdict.findings[0]
    return f"Doctor: most likely {first.cause}, by the log; goodfit doctor {path} --try confirms it by trials.{first.describe_patch()}"
