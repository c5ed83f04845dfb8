"""Trials of a search: the best with fresh seeds, the ranking, and those that failed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.core.figures import ACCURACY, Figure, figure_of
from goodfit.core.run_files import get
from goodfit.report.frame import link_to_run
from goodfit.report.markup import (
    EMPTY,
    Child,
    Column,
    Html,
    bar,
    bullet_list,
    details,
    format_figure,
    join,
    paragraph,
    section,
    table,
    tag,
)
from goodfit.report.record import as_items, as_number, as_rows, as_texts, get_number, get_share

MAX_OPEN_ROWS = 12  # trials shown without unfolding


@dataclasses.dataclass(frozen=True)
class Trials:
    """The trials in the results of a search: all of them by folder, those that are done with the best first, and the winner's folder.

    `ranges` holds what each stage draws from: axes by name.
    """

    folder: Path
    all: dict[str, dict[str, Any]]
    ranked: list[dict[str, Any]]
    winner: str
    ranges: dict[str, dict[str, dict[str, Any]]]
    figure: Figure = ACCURACY

    @staticmethod
    def read(folder: Path, results: dict[str, Any]) -> Trials:
        """Read the trials from the results of the search in `folder`."""
        trials = {str(row.get("run")): row for row in as_rows(get(results, "trials"))}
        ranked = [trials[name] for name in as_texts(get(results, "ranking")) if name in trials]
        ranges = {stage: {str(axis.get("name")): axis for axis in as_rows(axes)} for stage, axes in as_items(get(results, "ranges"))}
        return Trials(folder, trials, ranked, str(get(results, "winner", "trial")), ranges, figure_of(results))

    def value(self, row: dict[str, Any]) -> float | None:
        """What a trial scored by the figure of the search."""
        return get_share(row, "value") if self.figure.is_share else get_number(row, "value")

    @property
    def axes(self) -> dict[str, dict[str, Any]]:
        """The axes of the first stage by name."""
        return next(iter(self.ranges.values()), {})


def format_drawn_value(value: object) -> str:
    """Format a drawn value: a number with four digits, a choice as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def has_diverged(row: dict[str, Any]) -> bool:
    """Tell whether a trial ran to its end but diverged."""
    return bool(row.get("why")) and row.get("state") == "done"


def render_finalists(trials: Trials, results: dict[str, Any]) -> Html:
    """Render the best trials, retrained with fresh seeds, with their scores in the search."""
    body: list[list[Child]] = []
    scale, digits = (100, 2) if trials.figure.is_share else (1, 3)
    for row in as_rows(get(results, "finalists")):
        mean, error, score = (get_number(row, key) for key in ("mean", "error", "score"))
        fresh = row.get("fresh")
        seeds = ", ".join(format_figure(trials.figure, as_number(x), 2) for x in fresh) if isinstance(fresh, list) else ""
        loss = f"{scale * (score - mean):+.{digits}f}" if score is not None and mean is not None else ""
        uncertainty = f" ± {scale * error:.{digits}f}" if error is not None else ""
        accuracy = f"{format_figure(trials.figure, mean, 2)}{uncertainty}" if mean is not None else ""
        body.append(
            [link_to_run(trials.folder, str(row.get("trial"))), bar(mean), accuracy, seeds, format_figure(trials.figure, score, 2), loss]
        )
    columns = [Column("Trial"), Column("", "wide")] + [
        Column(title, "number") for title in ("Mean of fresh seeds", "Each seed", "In the search", "Lost with fresh seeds")
    ]
    unit = ", in points" if trials.figure.is_share else ""
    intro = f"± is the standard error of the mean{unit}; with so few seeds it is itself rough."
    return section("finalists", "The best trials with fresh seeds", paragraph(intro), table(columns, body)) if body else EMPTY


def render_ranking(trials: Trials) -> Html:
    """Render all trials that are done, the best first, and those that failed with the reason."""
    failed = [row for row in trials.all.values() if row.get("state") == "failed"]
    body = [_ranking_row(trials, rank, row) for rank, row in enumerate(trials.ranked, 1)]
    numbers = (trials.figure.heading, "Time", *trials.axes)
    columns = [Column("Trial"), Column("Rank", "number"), Column("", "wide"), *(Column(title, "number") for title in numbers)]
    machines = [str(row.get("machine") or "") for row in trials.ranked]
    if len(set(machines)) > 1:
        columns.append(Column("Machine"))
        body = [[*row, machine] for row, machine in zip(body, machines, strict=True)]
    rest = body[MAX_OPEN_ROWS:]
    failures = [
        join([link_to_run(trials.folder, str(row.get("run"))), ": ", str(row.get("why") or "no reason was recorded")]) for row in failed
    ]
    return section(
        "ranking",
        "Ranking",
        table(columns, body[:MAX_OPEN_ROWS]) if body else EMPTY,
        details(f"The other {words.count_of(len(rest), 'trial')}", table(columns, rest)) if rest else None,
        tag("h3", "Failed") if failures else None,
        bullet_list(failures),
    )


def _ranking_row(trials: Trials, rank: int, row: dict[str, Any]) -> list[Child]:
    accuracy, seconds = trials.value(row), get_number(row, "seconds")
    score = (
        tag("span", "diverged", attrs={"title": str(row.get("why"))}) if has_diverged(row) else format_figure(trials.figure, accuracy, 2)
    )
    values = [format_drawn_value(value) if (value := get(row, "values", name)) is not None else "" for name in trials.axes]
    time = words.format_duration(seconds) if seconds is not None else ""
    return [link_to_run(trials.folder, str(row.get("run"))), f"{rank:,}", bar(accuracy), score, time, *values]
