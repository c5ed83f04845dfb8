"""Diagnose a patient: ask the rules, stage by stage, until one is sure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from goodfit.doctor.course import EARLY, FIRST
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage, Verdict
from goodfit.doctor.patient import PatientSource
from goodfit.doctor.rules import RULES

SURE = 0.9  # a material finding this sure ends the examination
MIN_ALARM = 0.5  # below, the doctor does not stop a person
TIE = 0.08  # two causes whose confidences differ by less are named together
TEST_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, ZeroDivisionError)  # of a patient's own code, within a test


def diagnose(source: PatientSource, rules: Sequence[Rule] = RULES) -> Verdict:
    """Diagnose a patient."""
    exam = Examination(source)
    started = time.perf_counter()
    findings: list[Finding] = []
    failed: list[str] = []
    for stage in Stage:
        if stage >= Stage.FIRST:
            exam.course.follow({Stage.FIRST: FIRST, Stage.EARLY: EARLY}.get(stage, exam.steps))
        for rule in rules:
            if rule.stage == stage:
                try:
                    found = rule.find(exam)
                except TEST_ERRORS as error:
                    failed.append(f"{rule.cause} could not be tested: {type(error).__name__}: {str(error)[:200]}")
                    continue
                if found is not None:
                    findings.append(found)
        if any(finding.is_material and finding.confidence >= SURE for finding in findings):
            break
    steps = exam.course.taken if "course" in vars(exam) else 0
    return decide(findings, steps, exam.trial_steps + exam.continuation.steps, time.perf_counter() - started, failed)


def decide(findings: Sequence[Finding], steps: int, trial_steps: int, seconds: float, failed: Sequence[str] = ()) -> Verdict:
    """The verdict that some findings add up to: material ones first, then by confidence."""
    ordered = sorted(findings, key=lambda finding: (finding.is_material, finding.confidence), reverse=True)
    ranked = tuple({finding.cause: finding for finding in reversed(ordered)}.values())[::-1]  # of each cause the surest
    alarming = [finding for finding in ranked if finding.is_material and finding.confidence >= MIN_ALARM]
    if not alarming:
        return Verdict("healthy", None, ranked, False, steps, trial_steps, seconds, tuple(failed))
    is_tie = len(alarming) > 1 and alarming[0].confidence - alarming[1].confidence < TIE
    return Verdict("either" if is_tie else "fault", alarming[0].component, ranked, True, steps, trial_steps, seconds, tuple(failed))
