"""The doctor at a run of ours: its first steps are taken again, the rest is read from its log and its last weights."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from typing import Any

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.run_files import get
from goodfit.doctor.course import Course, Look, StepRecord, count_tensors
from goodfit.doctor.diagnose import examine
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Stage, Verdict
from goodfit.doctor.log_verdict import find_certain_failures, read_verdict
from goodfit.doctor.patches import Trained, with_patches
from goodfit.doctor.patient import PatientSource
from goodfit.doctor.run_patient import make_run_source, prepare_run
from goodfit.doctor.sample import Sample
from goodfit.doctor.wording import describe_verdict
from goodfit.recipe.parts import refuse_other_tasks
from goodfit.recipe.prepare import Prepared
from goodfit.report.record import Record, read_record
from goodfit.report.sections.doctor import FINDINGS_FILE
from goodfit.runs.resume import restore_last
from goodfit.training.checkpoint import Checkpoints

HARMLESS_TO_TRAINING = ("validation_too_small",)  # which is to be known, but no reason not to train
UNKNOWN_STEPS = 1000  # that a training is taken to have whose budget is in minutes
SPLITS = ("clean_train", "validation")  # as evaluations in the log call them
MIN_TRIAL_STEPS = 150  # that trials may take of a run however short it was
MAX_EARLY_SHARE = 0.15  # of the run's steps, that are taken again


@dataclasses.dataclass(frozen=True)
class RunDiagnosis:
    """What the doctor says of a run, and what it was prepared from."""

    verdict: Verdict
    prepared: Prepared
    planned_steps: int

    def to_json(self, run: Run) -> dict[str, Any]:
        """The object of the protocol of case files."""
        return self.verdict.to_json(str(run.path), self.prepared.recipe.seed)


def diagnose_run(run: Run, reporter: Reporter, trial_share: float = 0.0) -> RunDiagnosis:
    """Diagnose a run, with trials of up to a share of its steps, and write `findings.json` into its folder.

    Raises:
        UsageError: it has made no steps.
        DataError: its images are gone, or are not those it was trained on.
    """
    rows = run.log("train")
    if not rows:
        raise UsageError(f'"{run.path}" has no training step in its log: there is nothing to examine.')
    prepared = prepare_run(run, reporter)
    steps = int(rows[-1]["step"])
    source = make_run_source(prepared, str(run.path), steps)
    exam = RunExamination(source, run, prepared, max(trial_share * steps, MIN_TRIAL_STEPS) if trial_share else 0.0)
    verdict = add_log_verdict(examine(exam, show_activity=reporter.show_activity), read_record(run))
    diagnosis = RunDiagnosis(with_patches(verdict, Trained(prepared.recipe, prepared.parts)), prepared, steps)
    with contextlib.suppress(OSError, GoodfitError):  # a folder that can only be read is examined all the same
        run.write(FINDINGS_FILE, diagnosis.to_json(run))
    return diagnosis


def add_log_verdict(verdict: Verdict, record: Record) -> Verdict:
    """A verdict on a run that is not healthier than its log: what went wrong by it, where the examination found nothing."""
    by_log = read_verdict(record)
    if verdict.alarm or not by_log.alarm:
        return verdict
    failures = tuple(str(failure) for failure in find_certain_failures(record) if not failure.cause)
    return dataclasses.replace(
        verdict, kind=by_log.kind, component=by_log.component, alarm=True, findings=(*by_log.findings, *verdict.findings),
        evidence=failures, p=None,
    )  # fmt: skip


def check_training(prepared: Prepared, reporter: Reporter) -> None:
    """Examine what is about to be trained: its images, its network and its first steps, which are then undone.

    Raises:
        GoodfitError: the doctor would stop a person, and says why.
    """
    refuse_other_tasks(prepared.recipe.task, "The doctor")
    lengths = prepared.training.plan.lengths
    source = make_run_source(prepared, prepared.data.name, UNKNOWN_STEPS if lengths.timed else lengths.total_steps)
    verdict = examine(Examination(source), last=Stage.EARLY, show_activity=reporter.show_activity)
    stopping = [finding for finding in verdict.findings if finding.is_material and finding.cause not in HARMLESS_TO_TRAINING]
    if not verdict.alarm:
        reporter.say("The doctor found nothing that harms this training in its images, its network and its first steps.")
        return
    if not stopping:
        reporter.say(*describe_verdict(verdict))
        return
    patched = with_patches(verdict, Trained(prepared.recipe, prepared.parts))
    raise GoodfitError(" ".join(["Nothing was trained.", *describe_verdict(patched)]))


class RunExamination(Examination):
    """The examination of a run."""

    def __init__(self, source: PatientSource, run: Run, prepared: Prepared, max_trial_steps: float) -> None:
        super().__init__(source, max_trial_steps)
        self.run, self.prepared = run, prepared

    @cached_property
    def course(self) -> Course:
        return RunCourse(self.source, self.sample, self.run, self.prepared)


class RunCourse(Course):
    """The course of a run: its first steps are followed anew, up to a share of them; its end is what was logged and saved."""

    def __init__(self, source: PatientSource, sample: Sample, run: Run, prepared: Prepared) -> None:
        super().__init__(source, sample)
        self.run, self.prepared = run, prepared

    def follow(self, until: int) -> None:
        """Follow the training anew up to an early step; to its end, read what it left."""
        if until < self.steps:
            super().follow(min(until, max(round(MAX_EARLY_SHARE * self.steps), 10)))
        elif self.taken < self.steps:
            self.read_end()

    def read_end(self) -> None:
        """Read the log and the last state of the run."""
        rows = self.run.log()
        seen = len(self.records)
        self.records += [read_step(row) for row in rows if row["kind"] == "train" and int(row["step"]) > seen]
        self.looks |= {look.step: look for look in read_looks(rows) if look.step > seen}
        state = self.prepared.training.state
        restore_last(self.run, Checkpoints(self.run.checkpoints), state)
        self.replay.model.load_state_dict(state.model.state_dict())
        self.replay.optimizer.load_state_dict(state.optimizer.state_dict())
        self.replay.taken = self.steps
        self.is_broken = self.is_broken or get(self.run.read("about.json"), "state") == "diverged"
        self.keep_state()


def read_step(row: dict[str, Any]) -> StepRecord:
    """A row of the log as a step."""
    nan = float("nan")
    images, speed, share = get(row, "images"), get(row, "images_per_s") or nan, get(row, "data_share") or 0.0
    seconds = (images or 1) / speed
    loss = get(row, "loss")
    wait, work = share * seconds, (1 - share) * seconds
    return StepRecord(
        int(row["step"]) - 1, nan if loss is None else loss, get(row, "lr") or 0.0, int(images or 0), nan, wait, nan, work, nan, 0, nan
    )


def read_looks(rows: list[dict[str, Any]]) -> list[Look]:
    """The evaluations in a log as looks; the loss in training mode is the mean of the steps just before."""
    nan = float("nan")
    looks, losses = [], []
    for row in rows:
        if row["kind"] == "train" and row.get("loss") is not None:
            losses.append(float(row["loss"]))
        if row["kind"] == "evaluate":
            train, validation = ([nan if (x := get(row, s, name)) is None else x for name in ("loss", "accuracy")] for s in SPLITS)
            noisy = sum(losses[-20:]) / len(losses[-20:]) if losses else nan
            looks.append(
                Look(int(row["step"]), train[0], train[1], validation[0], validation[1], noisy, nan, 0.0, 0.0, count_tensors(), 0.0)
            )
    return looks
