"""What a search found: its ranking, which values matter, the winner, and how much of its lead was luck."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from goodfit.core.files import write_atomic
from goodfit.core.words import count_of, format_duration, format_percent
from goodfit.study.search.plan import FINAL
from goodfit.study.search.refine import edge
from goodfit.study.search.scatter import scatters
from goodfit.study.search.settle import settled
from goodfit.study.search.space import Axis, Value
from goodfit.study.search.trials import Row, distribution, optuna, quiet
from goodfit.study.search.work import Search
from goodfit.terminal.tables import format_table

RESULTS, WINNER = "results.json", "winner.toml"
SHOWN = 12  # trials in the table
LEAST = 6  # trials from which on importance is told


@dataclasses.dataclass(frozen=True)
class Finalist:
    """One of the best: its score in the search, and those of its retrainings with fresh seeds; accuracies 0..1."""

    row: Row
    fresh: tuple[float, ...]

    @property
    def score(self) -> float:
        return float(self.row.value or 0.0)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.fresh)

    @property
    def error(self) -> float | None:
        """The standard error of the mean."""
        return statistics.stdev(self.fresh) / math.sqrt(len(self.fresh)) if len(self.fresh) > 1 else None

    @property
    def luck(self) -> float:
        """What of its score in the search fresh seeds did not give again."""
        return self.score - self.mean


@dataclasses.dataclass(frozen=True)
class Results:
    """All that a search has found so far. `finalists` are in the order of their fresh means; `lead` is how far the winner's score in the
    search was above the median of its trials, `luck` the part of it that fresh seeds did not give again; both None where nothing was
    retrained, or not at the same length. `over` tells whether there is nothing left to do, and `timed_out` whether that is because time
    ended the search before it was through.
    """

    rows: tuple[Row, ...]
    ranking: tuple[Row, ...]
    finalists: tuple[Finalist, ...]
    importance: dict[str, float]
    ranges: dict[str, tuple[Axis, ...]]
    warnings: tuple[str, ...]
    lead: float | None
    luck: float | None
    over: bool
    timed_out: bool

    @property
    def winner(self) -> Row | None:
        """The finalist with the best mean over fresh seeds; while there is none, the best trial."""
        return self.finalists[0].row if self.finalists else next(iter(self.ranking), None)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        finals = [
            {"trial": one.row.folder, "score": one.score, "fresh": one.fresh, "mean": one.mean, "error": one.error, "luck": one.luck}
            for one in self.finalists
        ]
        rows = [{**dataclasses.asdict(row), "run": row.folder} for row in self.rows]
        ranges = {stage: [dataclasses.asdict(axis) for axis in axes] for stage, axes in self.ranges.items()}
        winner = self.winner and {"trial": self.winner.folder, "values": self.winner.values, "retrained": bool(self.finalists)}
        return {
            "over": self.over,
            "timed_out": self.timed_out,
            "winner": winner,
            "finalists": finals,
            "lead": self.lead,
            "luck": self.luck,
            "ranking": [row.folder for row in self.ranking],
            "importance": self.importance,
            "ranges": ranges,
            "warnings": self.warnings,
            "trials": rows,
        }


def results(search: Search, brief: bool = False) -> Results:
    """What a search has found so far; a `brief` account leaves out importance, which takes seconds when there are many trials."""
    rows = search.trials.rows()
    ranking = search.ranking()
    finals: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.stage == FINAL and row.value is not None:
            finals.setdefault((row.origin, row.parent), []).append(row.value)
    finalists = [Finalist(row, tuple(finals[row.stage, row.place])) for row in ranking if (row.stage, row.place) in finals]
    most = max((len(one.fresh) for one in finalists), default=0)  # where time was over, only those with as many copies are compared
    finalists = sorted((one for one in finalists if len(one.fresh) == most), key=lambda one: -one.mean)
    ranges = {stage.name: search.axes(stage.name) for stage in search.stages()}
    warnings = list(search.trials.notes().get("warnings", []))
    if ranking and search.plan.method != "grid":
        best = ranking[0]
        edges = [(axis, end) for axis in search.space.axes if (end := edge(axis, best.values[axis.name]))]
        said = [f"The best {axis.name} of {best.values[axis.name]:.3g} lies at the {end} edge of {axis}." for axis, end in edges]
        warnings += [text for text in said if not any(other.startswith(text[:-1]) for other in warnings)]
    lead = luck = None
    if finalists and search.plan.each == search.plan.full:
        lead = finalists[0].score - statistics.median(float(row.value or 0.0) for row in ranking)
        luck = finalists[0].luck
    matter = {} if brief else importance(ranking, search.space.axes)
    over, through = search.over(), FINAL in search.trials.notes().get("closed", {})
    return Results(tuple(rows), tuple(ranking), tuple(finalists), matter, ranges, tuple(warnings), lead, luck, over, over and not through)


def importance(rows: Sequence[Row], axes: Sequence[Axis]) -> dict[str, float]:
    """The share of the scores' variance that each value explains alone and with others, by functional ANOVA over a random forest, most
    important first; empty for fewer than six trials, or when all score the same.

    Source: Hutter et al. 2014, An efficient approach for assessing hyperparameter importance; by Optuna.
    """
    scores = [float(row.value or 0.0) for row in rows]
    if len(rows) < LEAST or min(scores) == max(scores):
        return {}
    spans = {axis.name: distribution(_spanning(axis, [row.values[axis.name] for row in rows])) for axis in axes}
    with quiet():
        study = optuna.create_study(direction="maximize")
        for row, score in zip(rows, scores, strict=True):
            study.add_trial(optuna.trial.create_trial(params=dict(row.values), distributions=spans, value=score))
        judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=judge)
    return {name: float(share) for name, share in found.items()}


def _spanning(axis: Axis, values: Sequence[Value]) -> Axis:
    """The axis, wide enough for the values of an extended range too."""
    if axis.law == "one_of":
        return axis
    numbers = [float(value) for value in values]
    return dataclasses.replace(axis, low=min(axis.low, *numbers), high=max(axis.high, *numbers))


# ---- as text ---------------------------------------------------------------------------------------------------------------------


def table(found: Results) -> str:
    """The results as text for a terminal."""
    lines = [_trials(found)]
    if found.importance:
        lines.append("Importance (share of the scores' variance):")
        rows = [(name, format_percent(share, 0), "█" * round(30 * share)) for name, share in found.importance.items()]
        lines.append(format_table(rows, "<><", indent="  "))
    lines += scatters(found.ranking, found.ranges, found.importance)
    lines += [f"Warning: {text}" for text in found.warnings]
    lines += _finals(found)
    return "\n".join(lines)


def shown(values: dict[str, Value]) -> str:
    """`lr=0.03 model.width=32`."""
    return "  ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())


def _trials(found: Results) -> str:
    failed = [row for row in found.rows if row.state == "failed"]
    rows = []
    for rank, row in enumerate(found.ranking[:SHOWN], 1):
        time = format_duration(row.seconds) if row.seconds is not None else ""
        end = "  (diverged)" if row.why else ""
        rows.append((str(rank), row.folder, format_percent(float(row.value or 0.0), 2), time, f"{shown(row.values)}{end}"))
    if len(found.ranking) > SHOWN:
        rows.append(("", f"and {len(found.ranking) - SHOWN:,} more", "", "", ""))
    rows += [("-", row.folder, "failed", "", row.why) for row in failed[:SHOWN]]
    return format_table(rows, "><>><", ("rank", "trial", "accuracy", "time", "values"))


def _finals(found: Results) -> list[str]:
    """The retrainings, the winner, and the luck."""
    if found.winner is None:
        return ["No trial has ended yet."]
    if not found.finalists:
        return [f"Best so far: {found.winner.folder}, not retrained with fresh seeds, so some of its lead is luck."]
    rows = []
    for one in found.finalists:
        error = f" ± {format_percent(one.error, 2)}" if one.error is not None else ""
        mean, score = format_percent(one.mean, 2), format_percent(one.score, 2)
        rows.append((one.row.folder, f"{mean}{error} ({count_of(len(one.fresh), 'seed')}); {score} in the search"))
    lines = ["Retrained with fresh seeds:", format_table(rows, "<<", indent="  ")]
    best = found.finalists[0]
    if found.luck is not None and found.lead is not None:
        points, ahead = 100 * found.luck, 100 * found.lead
        again = f"{points:.2f} did not come again" if points >= 0 else f"all came again, and {-points:.2f} more,"
        lines.append(f"Luck: of the {ahead:.2f} points that it was ahead of the median trial in the search, {again} with fresh seeds.")
    else:
        lines.append("Luck: not told, for the retrainings were of another length than the trials.")
    return [*lines, f"Winner: {best.row.folder}  {shown(best.row.values)}"]


def keep(search: Search, found: Results) -> None:
    """Write the results as JSON, and the winner's recipe at full length as TOML, into the search's folder."""
    write_atomic(search.study / RESULTS, json.dumps(found.plain(), indent=1) + "\n")
    if found.winner is not None:
        recipe = settled(search.base, search.space, found.winner.values, search.known).but(budget=search.plan.full)
        write_atomic(search.study / WINNER, recipe.to_toml())
