"""The trials of a search: the best with fresh seeds, the ranking, and those that failed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.report.frame import link
from goodfit.report.markup import NOTHING, Child, Column, Html, bar, folded, joined, listed, paragraph, percent, section, table, tag
from goodfit.report.record import at, finite, items, number, rows, share, texts

MOST_OPEN = 12  # trials shown at once


@dataclasses.dataclass(frozen=True)
class Trials:
    """What the results of a search say of its trials: all of them by their folders, those that are done, best first, and the winner."""

    folder: Path
    all: dict[str, dict[str, Any]]
    ranked: list[dict[str, Any]]
    winner: str
    ranges: dict[str, dict[str, dict[str, Any]]]  # what each stage draws from: axes by name

    @staticmethod
    def read(folder: Path, results: dict[str, Any]) -> Trials:
        found = {str(row.get("run")): row for row in rows(at(results, "trials"))}
        ranked = [found[name] for name in texts(at(results, "ranking")) if name in found]
        ranges = {stage: {str(axis.get("name")): axis for axis in rows(own)} for stage, own in items(at(results, "ranges"))}
        return Trials(folder, found, ranked, str(at(results, "winner", "trial")), ranges)

    @property
    def axes(self) -> dict[str, dict[str, Any]]:
        """What was drawn to begin with: axes by name."""
        return next(iter(self.ranges.values()), {})


def value_said(value: object) -> str:
    """A drawn value: a number with four digits, a choice as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def diverged(row: dict[str, Any]) -> bool:
    """Whether a trial that is done came to nothing."""
    return bool(row.get("why")) and row.get("state") == "done"


def finalists(trials: Trials, results: dict[str, Any]) -> Html:
    """The best, trained anew with fresh seeds, beside what they scored in the search."""
    body: list[list[Child]] = []
    for one in rows(at(results, "finalists")):
        mean, error, score = (number(one, key) for key in ("mean", "error", "score"))
        fresh = one.get("fresh")
        seeds = ", ".join(percent(finite(x), 2) for x in fresh) if isinstance(fresh, list) else ""
        gone = f"{100 * (score - mean):+.2f}" if score is not None and mean is not None else ""
        more = f" ± {100 * error:.2f}" if error is not None else ""
        said = f"{percent(mean, 2)}{more}" if mean is not None else ""
        body.append([link(trials.folder, str(one.get("trial"))), bar(mean), said, seeds, percent(score, 2), gone])
    columns = [Column("Trial"), Column("", "wide")] + [
        Column(title, "number") for title in ("Fresh seeds, mean", "One by one", "In the search", "Less with fresh seeds")
    ]
    intro = "± is the standard error of the mean, in points; with so few seeds it is a rough one itself."
    return section("finalists", "The best, with fresh seeds", paragraph(intro), table(columns, body)) if body else NOTHING


def ranking(trials: Trials) -> Html:
    """All trials that are done, the best first, and the others with what became of them."""
    failed = [row for row in trials.all.values() if row.get("state") == "failed"]
    body = [_line(trials, rank, row) for rank, row in enumerate(trials.ranked, 1)]
    numbers = ("Accuracy", "Time", *trials.axes)
    columns = [Column("Trial"), Column("Rank", "number"), Column("", "wide"), *(Column(title, "number") for title in numbers)]
    rest = body[MOST_OPEN:]
    lost = [joined([link(trials.folder, str(row.get("run"))), ": ", str(row.get("why") or "no reason was written")]) for row in failed]
    return section(
        "ranking",
        "Ranking",
        table(columns, body[:MOST_OPEN]) if body else NOTHING,
        folded(f"The other {words.count_of(len(rest), 'trial')}", table(columns, rest)) if rest else None,
        tag("h3", "Failed") if lost else None,
        listed(lost),
    )


def _line(trials: Trials, rank: int, row: dict[str, Any]) -> list[Child]:
    accuracy, seconds = share(row, "value"), number(row, "seconds")
    said = tag("span", "diverged", attrs={"title": str(row.get("why"))}) if diverged(row) else percent(accuracy, 2)
    values = [value_said(found) if (found := at(row, "values", name)) is not None else "" for name in trials.axes]
    time = words.format_duration(seconds) if seconds is not None else ""
    return [link(trials.folder, str(row.get("run"))), f"{rank:,}", bar(accuracy), said, time, *values]
