"""The results of a search: its ranking, which values matter, the winner, and how much of its lead was luck; as files and as text."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goodfit.core.figures import ACCURACY, FIGURES, Figure
from goodfit.core.files import write_atomic
from goodfit.core.interval import standard_error
from goodfit.core.run_files import write_json
from goodfit.core.words import count_of, format_duration, format_percent
from goodfit.study.search.plan import FINAL_STAGE
from goodfit.study.search.refine import describe_edge, find_edge
from goodfit.study.search.search import Search
from goodfit.study.search.space import Axis, Value
from goodfit.study.search.storage import no_warnings, optuna
from goodfit.study.search.trial_recipe import recipe_of_trial
from goodfit.study.search.trials import Trial, to_distribution
from goodfit.terminal.sketch import sketch_curve
from goodfit.terminal.tables import format_table

RESULTS_FILE, WINNER_FILE = "results.json", "winner.toml"
MIN_TRIALS_FOR_IMPORTANCE = 6
MAX_ROWS = 12  # of the table, and again of the failed trials in it
MAX_SKETCHED_VALUES = 2  # the most important numbers
MIN_POINTS_FOR_SKETCH = 3
SKETCH_WIDTH, SKETCH_HEIGHT = 48, 6


@dataclasses.dataclass(frozen=True)
class Finalist:
    """One of the best trials, and the accuracies 0..1 of its retrainings with fresh seeds."""

    trial: Trial
    fresh: tuple[float, ...]

    @property
    def score(self) -> float:
        """Its accuracy in the search."""
        return float(self.trial.value or 0.0)

    @property
    def mean(self) -> float:
        """The mean of the fresh accuracies."""
        return statistics.fmean(self.fresh)

    @property
    def error(self) -> float | None:
        """The standard error of the mean."""
        return standard_error(self.fresh)

    @property
    def luck(self) -> float:
        """The part of its accuracy in the search that fresh seeds did not repeat."""
        return self.score - self.mean


@dataclasses.dataclass(frozen=True)
class Results:
    """All that the search in the folder `path` has found so far.

    `finalists` are in the order of their fresh means. `lead` is how far the winner's accuracy in the search was above the median of its
    trials, `luck` the part of it that fresh seeds did not repeat; both are None where nothing was retrained, or not at the same length.
    `over` says whether nothing is left to do, and `timed_out` whether that is because time ended the search before it was through.
    """

    path: Path
    trials: tuple[Trial, ...]
    ranking: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]
    importance: dict[str, float]
    ranges: dict[str, tuple[Axis, ...]]
    warnings: tuple[str, ...]
    lead: float | None
    luck: float | None
    over: bool
    timed_out: bool
    task: str = "classes"

    @property
    def figure(self) -> Figure:
        """The figure by which the trials are ranked."""
        return FIGURES[self.task]

    @property
    def winner(self) -> Trial | None:
        """The finalist with the best mean over fresh seeds; while there is none, the best trial."""
        return self.finalists[0].trial if self.finalists else next(iter(self.ranking), None)

    def plain(self) -> dict[str, Any]:
        """The results as JSON has them, but for where they lie."""
        finalists = [
            {"trial": x.trial.folder, "score": x.score, "fresh": x.fresh, "mean": x.mean, "error": x.error, "luck": x.luck}
            for x in self.finalists
        ]
        trials = [{**dataclasses.asdict(trial), "run": trial.folder} for trial in self.trials]
        ranges = {stage: [dataclasses.asdict(axis) for axis in axes] for stage, axes in self.ranges.items()}
        winner = self.winner and {"trial": self.winner.folder, "values": self.winner.values, "retrained": bool(self.finalists)}
        return {
            "task": self.task,
            "over": self.over,
            "timed_out": self.timed_out,
            "winner": winner,
            "finalists": finalists,
            "lead": self.lead,
            "luck": self.luck,
            "ranking": [trial.folder for trial in self.ranking],
            "importance": self.importance,
            "ranges": ranges,
            "warnings": self.warnings,
            "trials": trials,
        }


def collect_results(search: Search, with_importance: bool = True) -> Results:
    """Collect what a search has found so far; importance takes seconds when there are many trials."""
    trials = search.trials.all()
    ranking = search.rank()
    finalists = _collect_finalists(trials, ranking)
    notes = search.trials.read_notes()
    warnings = list(notes.get("warnings", []))
    if ranking and search.plan.method != "grid":
        values = ranking[0].values
        edges = [(axis, edge) for axis in search.space.axes if (edge := find_edge(axis, values[axis.name]))]
        texts = [describe_edge(axis, values[axis.name], edge) for axis, edge in edges]
        warnings += [f"{text}." for text in texts if not any(other.startswith(text) for other in warnings)]
    over = search.is_over()
    lead = luck = None
    if finalists and search.plan.each == search.plan.full:
        lead = finalists[0].score - statistics.median(float(trial.value or 0.0) for trial in ranking)
        luck = finalists[0].luck
    return Results(
        search.folder,
        tuple(trials),
        tuple(ranking),
        tuple(finalists),
        measure_importance(ranking, search.space.axes) if with_importance else {},
        {stage.name: search.axes_of(stage.name) for stage in search.stages()},
        tuple(warnings),
        lead,
        luck,
        over=over,
        timed_out=over and FINAL_STAGE not in notes.get("closed", {}),
        task=search.base.task,
    )


def _collect_finalists(trials: Sequence[Trial], ranking: Sequence[Trial]) -> list[Finalist]:
    """The trials that were retrained, the best mean first; where time was over, only those with as many retrainings as any."""
    fresh: dict[tuple[str, int], list[float]] = {}
    for trial in trials:
        if trial.stage == FINAL_STAGE and trial.value is not None:
            fresh.setdefault((trial.origin, trial.parent), []).append(trial.value)
    finalists = [Finalist(trial, tuple(fresh[trial.stage, trial.place])) for trial in ranking if (trial.stage, trial.place) in fresh]
    most = max((len(finalist.fresh) for finalist in finalists), default=0)
    return sorted((finalist for finalist in finalists if len(finalist.fresh) == most), key=lambda finalist: -finalist.mean)


def measure_importance(trials: Sequence[Trial], axes: Sequence[Axis]) -> dict[str, float]:
    """The share of the accuracies' variance that each value explains alone and with others, by functional ANOVA over a random forest, most
    important first; empty for too few trials, or when all are equal.

    Source: Hutter et al. 2014, An efficient approach for assessing hyperparameter importance; by Optuna.
    """
    scores = [float(trial.value or 0.0) for trial in trials]
    if len(trials) < MIN_TRIALS_FOR_IMPORTANCE or min(scores) == max(scores):
        return {}
    distributions = {axis.name: to_distribution(_widen(axis, [trial.values[axis.name] for trial in trials])) for axis in axes}
    with no_warnings():
        study = optuna.create_study(direction="maximize")
        for trial, score in zip(trials, scores, strict=True):
            study.add_trial(optuna.trial.create_trial(params=dict(trial.values), distributions=distributions, value=score))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in importance.items()}


def _widen(axis: Axis, values: Sequence[Value]) -> Axis:
    """Widen an axis to hold values of an extended range too."""
    if axis.law == "one_of":
        return axis
    numbers = [float(value) for value in values]
    return dataclasses.replace(axis, low=min(axis.low, *numbers), high=max(axis.high, *numbers))


def write_results(search: Search, results: Results) -> None:
    """Write the results as JSON, and the winner's recipe at full length as TOML, into the search's folder."""
    write_json(search.folder / RESULTS_FILE, results.plain())
    if results.winner is not None:
        recipe = recipe_of_trial(search.base, search.space, results.winner.values, search.catalog, search.is_own).but(
            budget=search.plan.full
        )
        write_atomic(search.folder / WINNER_FILE, recipe.to_toml())


# ---- as text ---------------------------------------------------------------------------------------------------------------------


def format_results(results: Results) -> str:
    """Format the results for a terminal."""
    lines = [_format_ranking(results)]
    if results.importance:
        lines.append("Importance (share of the scores' variance):")
        rows = [(name, format_percent(share, 0), "█" * round(30 * share)) for name, share in results.importance.items()]
        lines.append(format_table(rows, "<><", indent="  "))
    lines += sketch_scatters(results.ranking, results.ranges, results.importance, results.figure)
    lines += [f"Warning: {text}" for text in results.warnings]
    lines += _format_finalists(results)
    return "\n".join(lines)


def format_values(values: dict[str, Value]) -> str:
    """`lr=0.03 model.width=32`."""
    return "  ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())


def _format_ranking(results: Results) -> str:
    """The best trials, then those that failed, as a table."""
    rows = []
    has_machines = len({trial.machine for trial in results.ranking}) > 1
    for rank, trial in enumerate(results.ranking[:MAX_ROWS], 1):
        time = format_duration(trial.seconds) if trial.seconds is not None else ""
        note = ("  (diverged)" if trial.why else "") + (f"  on {trial.machine}" if has_machines and trial.machine else "")
        rows.append(
            (str(rank), trial.folder, results.figure.format(float(trial.value or 0.0), 2), time, f"{format_values(trial.values)}{note}")
        )
    if len(results.ranking) > MAX_ROWS:
        rows.append(("", f"and {len(results.ranking) - MAX_ROWS:,} more", "", "", ""))
    failed = [trial for trial in results.trials if trial.state == "failed"]
    rows += [("-", trial.folder, "failed", "", trial.why) for trial in failed[:MAX_ROWS]]
    return format_table(rows, "><>><", ("rank", "trial", results.figure.title, "time", "values"))


def _format_finalists(results: Results) -> list[str]:
    """The retrainings, the winner, and the luck."""
    if results.winner is None:
        return ["No trial has ended yet."]
    if not results.finalists:
        best = f"Best so far: {results.winner.folder}, not retrained with fresh seeds, so some of its lead is luck."
        return [best, *_describe_location(results)]
    rows = []
    for finalist in results.finalists:
        error = f" ± {results.figure.format(finalist.error, 2)}" if finalist.error is not None else ""
        mean, score = results.figure.format(finalist.mean, 2), results.figure.format(finalist.score, 2)
        rows.append((finalist.trial.folder, f"{mean}{error} ({count_of(len(finalist.fresh), 'seed')}); {score} in the search"))
    lines = ["Retrained with fresh seeds:", format_table(rows, "<<", indent="  ")]
    if results.luck is not None and results.lead is not None:
        scale, unit = (100, " points") if results.figure.is_share else (1, f" of {results.figure.name}")
        points, lead = scale * results.luck, scale * results.lead
        lost = f"lost {points:.2f}" if points >= 0 else f"kept all, and gained {-points:.2f} more,"
        lines.append(f"Luck: of its lead of {lead:.2f}{unit} over the median trial in the search, the winner {lost} with fresh seeds.")
    else:
        lines.append("Luck: unknown, because the retrainings had another length than the trials.")
    return [*lines, f"Winner: {results.winner.folder}  {format_values(results.winner.values)}", *_describe_location(results)]


def _describe_location(results: Results) -> list[str]:
    """Say where the winner's run is, if it is not in the folder of the search on this machine."""
    winner = results.winner
    if winner is None or not winner.location or (results.path / winner.folder).is_dir():
        return []
    return [f"Its run is elsewhere: {winner.location}"]


def sketch_scatters(
    trials: Sequence[Trial], ranges: Mapping[str, tuple[Axis, ...]], importance: Mapping[str, float], figure: Figure = ACCURACY
) -> list[str]:
    """Sketch accuracy over each of the most important numbers, stage by stage, without the trials that diverged."""
    sketches = []
    axes = [axis for axis in next(iter(ranges.values()), ()) if axis.law != "one_of"]
    for axis in sorted(axes, key=lambda axis: -importance.get(axis.name, 0.0))[:MAX_SKETCHED_VALUES]:
        for stage, stage_axes in ranges.items():
            scale, unit = (100, " in %") if figure.is_share else (1, "")
            points = [(float(x.values[axis.name]), scale * float(x.value or 0.0)) for x in trials if x.stage == stage and not x.why]
            if len(points) >= MIN_POINTS_FOR_SKETCH:
                span = next(other for other in stage_axes if other.name == axis.name)
                sketches.append(_sketch_points(points, span, f"{stage}: {figure.name}{unit} over {axis.name}"))
    return sketches


def _sketch_points(points: Sequence[tuple[float, float]], axis: Axis, title: str) -> str:
    """Sketch points (x, y) as dots over the whole of an axis."""
    gap = float("nan")
    dots = [(axis.low, gap), *(pair for x, y in sorted(points) for pair in ((x, y), (x, gap))), (axis.high, gap)]
    xs, ys = [x for x, _ in dots], [y for _, y in dots]
    return sketch_curve(xs, ys, title, axis.name, SKETCH_WIDTH, SKETCH_HEIGHT, log_x=axis.law == "log")
