"""Advisers: what is said of a training beyond its plan and its scores, before it and at its end."""

from __future__ import annotations

from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.recipe.prepare import Prepared
from goodfit.report.failures import format_warnings
from goodfit.report.record import read_record


class Adviser:
    """An adviser who has only the numbers of a training. The doctor knows more: see `goodfit.doctor.doctor_adviser`."""

    def remark_on(self, data: Dataset) -> list[str]:
        """What is wrong with the images, a sentence each."""
        return []

    def check(self, prepared: Prepared) -> None:
        """Refuse what is prepared, before its first step.

        Raises:
            GoodfitError: with the reason.
        """

    def conclude(self, run: Run, prepared: Prepared) -> list[str]:
        """What is to be said of a training that has ended, a line each; what it writes into the folder is on the report."""
        return format_warnings(read_record(run))
