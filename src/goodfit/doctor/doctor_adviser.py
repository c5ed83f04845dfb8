"""The doctor's advice at every training: on its images before it, on its first steps if that is asked, on its log at its end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from goodfit.core.errors import GoodfitError
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.doctor.audit.quick import remark_on_data
from goodfit.doctor.log_verdict import DIRECTIONS, describe_log_verdict, find_certain_failures, read_verdict
from goodfit.doctor.patches import Trained, with_patches
from goodfit.recipe.prepare import Prepared
from goodfit.report.record import read_record
from goodfit.report.sections.doctor import BY_LOG, FINDINGS_FILE
from goodfit.runs.adviser import Adviser


@dataclasses.dataclass(frozen=True)
class DoctorAdviser(Adviser):
    """The doctor as adviser; `examine`, if given, examines what is prepared before its first step, and may refuse it."""

    examine: Callable[[Prepared], None] | None = None

    def remark_on(self, data: Dataset) -> list[str]:
        return remark_on_data(data) if data.task.name == "classes" else []

    def check(self, prepared: Prepared) -> None:
        if self.examine is not None:
            self.examine(prepared)

    def conclude(self, run: Run, prepared: Prepared) -> list[str]:
        if prepared.recipe.task != "classes":  # the doctor knows classifiers
            return super().conclude(run, prepared)
        record = read_record(run)
        verdict = with_patches(read_verdict(record), Trained(prepared.recipe, prepared.parts), without=DIRECTIONS)
        failures = [str(failure) for failure in find_certain_failures(record)]
        with contextlib.suppress(OSError, GoodfitError):  # the run is finished all the same
            found = verdict.to_json(str(run.path), prepared.recipe.seed)
            run.write(FINDINGS_FILE, {**found, "by": BY_LOG, "failures": failures})
        return [*super().conclude(run, prepared), describe_log_verdict(verdict, record.shell_path)]
