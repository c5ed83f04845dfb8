"""The doctor's advice at every training: on its images before it, on its first steps if that is asked, on its log at its end."""

from __future__ import annotations

import contextlib
import dataclasses

from goodfit.core.errors import GoodfitError
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.doctor.audit.quick import remark_on_data
from goodfit.doctor.log_verdict import DIRECTIONS, find_certain_failures, read_verdict
from goodfit.doctor.run_examination import check_training, with_patches
from goodfit.doctor.wording import describe_log_verdict
from goodfit.recipe.prepare import Prepared
from goodfit.report.record import read_record
from goodfit.report.sections.doctor import BY_LOG, FINDINGS_FILE
from goodfit.runs.adviser import Adviser


@dataclasses.dataclass(frozen=True)
class DoctorAdviser(Adviser):
    """The doctor as adviser; `is_thorough` has it examine the images, the network and its first steps before the training."""

    reporter: Reporter
    is_thorough: bool = False

    def remark_on(self, data: Dataset) -> list[str]:
        return remark_on_data(data)

    def check(self, prepared: Prepared) -> None:
        if self.is_thorough:
            check_training(prepared, self.reporter)

    def conclude(self, run: Run, prepared: Prepared) -> list[str]:
        record = read_record(run)
        verdict = with_patches(read_verdict(record), prepared, without=DIRECTIONS)
        failures = [str(failure) for failure in find_certain_failures(record)]
        with contextlib.suppress(OSError, GoodfitError):  # the run is finished all the same
            found = verdict.to_json(str(run.path), prepared.recipe.seed)
            run.write(FINDINGS_FILE, {**found, "by": BY_LOG, "failures": failures})
        return [*super().conclude(run, prepared), describe_log_verdict(verdict, record.shell_path)]
