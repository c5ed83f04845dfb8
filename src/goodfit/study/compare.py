"""Comparison of runs: where they differ in recipe, score and cost; read from their folders alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.figures import ACCURACY, Figure, figure_of
from goodfit.core.interval import standard_error
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import ENSEMBLE_FILE, Run, list_runs
from goodfit.core.run_files import get, is_number
from goodfit.predict.paired import align_on_shared_images, compare_predictions
from goodfit.recipe.run_recipe import trained_recipe
from goodfit.study.differences import find_differences, name_runs
from goodfit.study.folds import FOLDS_FILE
from goodfit.study.verdict import judge

MAX_GROUPS_IN_ALL_PAIRS = 5  # of more, the one with the highest accuracy is compared with each of the others


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """What the folder of a run, or of the folds of one recipe, holds for a comparison."""

    path: Path
    recipe: dict[str, Any]
    about: dict[str, Any]
    scores: dict[str, Any]
    curve: list[tuple[float, float]]
    predictions: Predictions | None
    baselines: dict[str, Any]

    @property
    def figure(self) -> Figure:
        """The figure of its task."""
        return figure_of(self.scores)

    @property
    def key(self) -> str:
        """A text that is equal for entries of the same recipe, apart from its seed, and the same images."""
        data = self.about.get("data", {})
        recipe = {key: value for key, value in self.recipe.items() if key != "seed"}
        return json.dumps([recipe, data.get("digest"), data.get("split_digest")], sort_keys=True)


def read_entries(paths: Sequence[str | Path]) -> list[Entry]:
    """Read the runs at some paths; a folder of folds is one entry, a folder of runs (such as that of --seeds) is one for each run.

    Raises:
        UsageError: there is none, or one has no scores yet.
    """
    entries: list[Entry] = []
    for path in map(Path, paths):
        if (path / FOLDS_FILE).is_file():
            entries.append(read_folds(path))
        elif (path / "recipe.toml").is_file() or not (inner := list_runs(path)):
            entries.append(read_run(Run.open(path)))
        else:
            entries += [read_run(run) for run in inner]
    return list({entry.path.resolve(): entry for entry in entries}.values())


def read_run(run: Run) -> Entry:
    """Read the folder of a run.

    Raises:
        UsageError: its recipe does not read, or it has no validation scores.
        DamagedFile: another of its files does not read.
    """
    recipe, about = trained_recipe(run.path).plain(), run.read("about.json", "data")
    if ensemble := run.read(ENSEMBLE_FILE, *(["members"] if about.get("kind") else [])):
        recipe["model"] = f"ensemble of {len(ensemble.get('members', []))}" if ensemble.get("members") else "ensemble"
    key = figure_of(get(run.read("scores.json"), "validation")).key
    if get(run.read("scores.json"), "validation", key) is None:
        raise UsageError(f'The run "{run.path}" has no validation scores yet: train it to its end, or leave it out.')
    scores = run.read("scores.json", f"validation.{key}", "validation.interval", "validation.images")["validation"]
    points = [(line.get("t"), get(line, "validation", key)) for line in run.log("evaluate")]
    curve = [(float(t), float(value)) for t, value in points if is_number(t) and is_number(value)]
    predictions = Predictions.read(run.path / PREDICTIONS_FILE)
    return Entry(run.path, recipe, about, scores, curve, predictions, run.read("baselines.json"))


def read_folds(folder: Path) -> Entry:
    """Read the folds of a recipe as one entry: the mean of their accuracies, the out-of-fold predictions, the seconds of all.

    The baselines are those of its first fold, whose name is under "of".

    Raises:
        UsageError: they are not finished.
    """
    results = Run(folder).read(FOLDS_FILE, "state")
    if results["state"] != "finished":
        raise UsageError(f'The folds in "{folder}" are not finished: continue them with --resume auto --out "{folder}", or leave them out.')
    plural = figure_of(results).plural
    results = Run(folder).read(FOLDS_FILE, "runs", "out_of_fold", plural, "deviation", "seconds", "folds")
    first = read_run(Run(folder / Path(results["runs"][0]).name))
    scores = {**results["out_of_fold"], "folds": results[plural], "deviation": results["deviation"]}
    about = {**first.about, "seconds": {"all folds": results["seconds"]}}
    recipe = {**first.recipe, "validation": f"{results['folds']} folds"}
    baselines = first.baselines and {**first.baselines, "of": first.path.name}
    return Entry(folder, recipe, about, scores, [], Predictions.read(folder / PREDICTIONS_FILE), baselines)


# ---- comparing -----------------------------------------------------------------------------------------------------------------


def compare_runs(entries: Sequence[Entry], baseline: str | Path = "") -> dict[str, Any]:
    """Compare some entries; returns everything about them as JSON has it.

    "verdict": which is best, or that none is; "runs": a row each, with its short name; "differences": the fields of the recipes that are
    not all the same, with a value for each run; "groups": runs whose recipes differ in their seed alone; "pairs": each group against that
    of the `baseline`, a name or a path, or all against all while they are few, on the validation images that both have predictions for,
    "problem" where there are none; "baselines": those of the first run that has some.

    Raises:
        UsageError: the baseline is none of the runs, or they are of several tasks.
    """
    differences = find_differences([entry.recipe for entry in entries])
    names, figure = name_runs([entry.path for entry in entries], differences), entries[0].figure
    if other := next((entry for entry in entries if entry.figure != figure), None):
        raise UsageError(
            f'Expected runs of one task, received "{entries[0].path}", judged by {figure.name}, and "{other.path}", by {other.figure.name}.'
        )
    groups = group_by_seed(entries)
    summaries = [summarize_group(entries, members, names) for members in groups]
    ranking = sorted(range(len(groups)), key=lambda k: -summaries[k][figure.key])
    reference = find_group(entries, groups, names, baseline) if baseline else None
    leads = [(ranking[0], k) for k in ranking[1:]]
    shown = choose_pairs(ranking, reference) if reference is not None or len(groups) <= MAX_GROUPS_IN_ALL_PAIRS else leads
    pairs = {pair: compare_groups(entries, groups[pair[0]], groups[pair[1]], names) for pair in dict.fromkeys((*shown, *leads))}
    return {
        **({} if figure is ACCURACY else {"task": entries[0].recipe["task"]}),
        "verdict": judge(summaries[ranking[0]], [pairs[pair] for pair in leads], figure),
        "runs": [{"name": name, **summarize(entry)} for name, entry in zip(names, entries, strict=True)],
        "differences": differences,
        "groups": summaries,
        "pairs": [pairs[pair] for pair in shown],
        "baselines": next((entry.baselines for entry in entries if entry.baselines), {}),
    }


def choose_pairs(ranking: Sequence[int], reference: int | None) -> list[tuple[int, int]]:
    """Each group against the reference, or the better of any two against the other."""
    if reference is None:
        return list(itertools.combinations(ranking, 2))
    return [(k, reference) for k in ranking if k != reference]


def find_group(entries: Sequence[Entry], groups: Sequence[Sequence[int]], names: Sequence[str], baseline: str | Path) -> int:
    """The group that holds the run with this name or path.

    Raises:
        UsageError: there is none.
    """
    path = Path(baseline).resolve()
    for k, members in enumerate(groups):
        if any(names[m] == str(baseline) or entries[m].path.resolve() in (path, *path.glob("*/")) for m in members):
            return k
    raise UsageError(f'Expected --baseline to be one of {", ".join(names)}, or its folder, received "{baseline}".')


def group_by_seed(entries: Sequence[Entry]) -> list[list[int]]:
    """Group the indices of entries whose recipes differ in their seed alone; one that repeats a seed of a group starts another group."""
    groups: dict[tuple[str, int], list[int]] = {}
    counts: dict[tuple[str, Any], int] = {}
    for index, entry in enumerate(entries):
        recipe_and_seed = (entry.key, entry.recipe.get("seed"))
        counts[recipe_and_seed] = counts.get(recipe_and_seed, 0) + 1
        groups.setdefault((entry.key, counts[recipe_and_seed]), []).append(index)
    return list(groups.values())


def summarize(entry: Entry) -> dict[str, Any]:
    """The scores and cost of an entry."""
    scores, seconds = entry.scores, entry.about.get("seconds", {})
    calibration = scores.get("calibration", {})
    return {
        "path": str(entry.path),
        "state": entry.about.get("state", ""),
        entry.figure.key: scores[entry.figure.key],
        "interval": scores["interval"],
        "images": scores["images"],
        "folds": scores.get("folds", []),
        "log_loss": calibration.get("log_loss"),
        "calibration_error": calibration.get("ece"),
        "seconds": sum(seconds.values()) if seconds else None,
        "training_seconds": seconds.get("training"),
        "parameters": entry.about.get("parameters"),
        "multiply_adds": entry.about.get("multiply_adds"),
        "curve": entry.curve,
    }


def summarize_group(entries: Sequence[Entry], members: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """The mean accuracy (or the figure of another task) of runs that differ in their seed, and its standard error."""
    figure = entries[members[0]].figure
    values = [float(entries[k].scores[figure.key]) for k in members]
    return {
        "runs": [names[k] for k in members],
        figure.key: statistics.fmean(values),
        "standard_error": standard_error(values),
    }


def compare_groups(entries: Sequence[Entry], one: Sequence[int], other: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Compare two groups on the images that all of their runs have predictions for."""
    sides_by_name: dict[str, Any] = {"one": [names[k] for k in one], "other": [names[k] for k in other]}
    sides = [[p for k in members if (p := entries[k].predictions)] for members in (one, other)]
    if (len(sides[0]), len(sides[1])) != (len(one), len(other)):
        return {**sides_by_name, "problem": "a run of an earlier version kept no predictions: evaluate it again"}
    aligned = align_on_shared_images(sides)
    if isinstance(aligned, str):
        return {**sides_by_name, "problem": aligned}
    first, second = aligned
    return {**sides_by_name, **compare_predictions(first, second).plain()}
