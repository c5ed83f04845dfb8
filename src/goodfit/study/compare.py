"""Comparison: what runs have in common and where they differ, in recipe, score and cost; from their folders alone."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import ENSEMBLE_FILE, Run, list_runs
from goodfit.predict.paired import compare_paired, on_shared_images
from goodfit.recipe.recipe import Recipe
from goodfit.study.folds import FOLDS


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A run, or the folds of one recipe, as its folder tells it."""

    path: Path
    recipe: dict[str, Any]
    about: dict[str, Any]
    scores: dict[str, Any]
    curve: list[tuple[float, float]]
    predictions: Predictions | None
    baselines: dict[str, Any]

    @property
    def key(self) -> str:
        """What entries that differ in their seed alone have in common: recipe and images."""
        data = self.about.get("data", {})
        same = {key: value for key, value in self.recipe.items() if key != "seed"}
        return json.dumps([same, data.get("digest"), data.get("split_digest")], sort_keys=True)


def entries(paths: Sequence[str | Path]) -> list[Entry]:
    """The runs at some paths; a folder of folds is one entry, a folder of runs (such as that of --seeds) is all of them.

    Raises:
        UsageError: there is none, or one has no scores yet.
    """
    found: list[Entry] = []
    for path in map(Path, paths):
        if (path / FOLDS).is_file():
            found.append(of_folds(path))
        elif (path / "recipe.toml").is_file() or not (inner := list_runs(path)):
            found.append(of_run(Run.open(path)))
        else:
            found += [of_run(run) for run in inner]
    return list({entry.path.resolve(): entry for entry in found}.values())


def of_run(run: Run) -> Entry:
    """A run as its folder tells it.

    Raises:
        UsageError: its files do not read, or it has no validation scores.
    """
    try:
        written = tomllib.loads((run.path / "recipe.toml").read_text(encoding="utf-8"))
        recipe = {**Recipe().plain(), **written}  # that of an earlier version lacks some fields
        if together := run.read(ENSEMBLE_FILE):
            recipe["model"] = f"ensemble of {len(together.get('members', []))}" if together.get("members") else "ensemble"
        about, scores = run.read("about.json"), run.read("scores.json").get("validation", {})
        baselines, log = run.read("baselines.json"), run.log("evaluate")
    except (ValueError, OSError) as error:
        raise UsageError(f'The run "{run.path}" does not read ({error}): leave it out.') from error
    if "accuracy" not in scores:
        raise UsageError(f'The run "{run.path}" has no validation scores yet: train it to its end, or leave it out.')
    curve = [(float(line["t"]), float(line["validation"]["accuracy"])) for line in log if "validation" in line]
    return Entry(run.path, recipe, about, scores, curve, Predictions.read(run.path / PREDICTIONS_FILE), baselines)


def of_folds(folder: Path) -> Entry:
    """The folds of a recipe as one: the mean of their accuracies, the out-of-fold predictions, the seconds of all.

    The baselines are those of its first fold, whose name is under "of".

    Raises:
        UsageError: they are not finished.
    """
    said = Run(folder).read(FOLDS)
    if said.get("state") != "finished":
        raise UsageError(f'The folds in "{folder}" are not finished: go on with --resume auto --out "{folder}", or leave them out.')
    first = of_run(Run(folder / Path(said["runs"][0]).name))
    whole = said["out_of_fold"]
    scores = {**whole, "folds": said["accuracies"], "deviation": said["deviation"]}
    about = {**first.about, "seconds": {"all folds": said["seconds"]}}
    recipe = {**first.recipe, "validation": f"{said['folds']} folds"}
    baselines = first.baselines and {**first.baselines, "of": first.path.name}
    return Entry(folder, recipe, about, scores, [], Predictions.read(folder / PREDICTIONS_FILE), baselines)


# ---- comparing -----------------------------------------------------------------------------------------------------------------


def comparison(found: Sequence[Entry]) -> dict[str, Any]:
    """Everything about some entries, as JSON has it.

    "runs": a row each, with its letter; "differences": the fields of the recipes that are not all the same, with a value for each
    run; "groups": runs whose recipes differ in their seed alone; "pairs": the first group against each of the
    others on the validation images that both judged, "problem" where they judged none; "baselines": those of the first run that has
    some.
    """
    letters = [name(k) for k in range(len(found))]
    groups = seeds(found)
    rows = [{"letter": letter, **row(entry)} for letter, entry in zip(letters, found, strict=True)]
    return {
        "runs": rows,
        "differences": differences([entry.recipe for entry in found]),
        "groups": [group(found, members, letters) for members in groups],
        "pairs": [pair(found, groups[0], other, letters) for other in groups[1:]],
        "baselines": next((entry.baselines for entry in found if entry.baselines), {}),
    }


def seeds(found: Sequence[Entry]) -> list[list[int]]:
    """The places of the entries whose recipes differ in their seed alone; one that repeats a seed is no further copy, but by itself."""
    groups: dict[tuple[str, int], list[int]] = {}
    seen: dict[tuple[str, Any], int] = {}
    for k, entry in enumerate(found):
        own = (entry.key, entry.recipe.get("seed"))
        seen[own] = seen.get(own, 0) + 1
        groups.setdefault((entry.key, seen[own]), []).append(k)
    return list(groups.values())


def name(place: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    return (name(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


def row(entry: Entry) -> dict[str, Any]:
    """A run's scores and cost."""
    scores, seconds = entry.scores, entry.about.get("seconds", {})
    calibration = scores.get("calibration", {})
    return {
        "path": str(entry.path),
        "state": entry.about.get("state", ""),
        "accuracy": scores["accuracy"],
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


def group(found: Sequence[Entry], members: Sequence[int], letters: Sequence[str]) -> dict[str, Any]:
    """Mean accuracy of runs that differ in their seed, and its standard error."""
    accuracies = [float(found[k].scores["accuracy"]) for k in members]
    error = statistics.stdev(accuracies) / math.sqrt(len(accuracies)) if len(accuracies) > 1 else None
    return {"runs": [letters[k] for k in members], "accuracy": statistics.fmean(accuracies), "standard_error": error}


def pair(found: Sequence[Entry], one: Sequence[int], other: Sequence[int], letters: Sequence[str]) -> dict[str, Any]:
    """Two groups on the images that all of their runs judged."""
    said: dict[str, Any] = {"one": [letters[k] for k in one], "other": [letters[k] for k in other]}
    sides = [[p for k in members if (p := found[k].predictions)] for members in (one, other)]
    if (len(sides[0]), len(sides[1])) != (len(one), len(other)):
        return {**said, "problem": "a run of an earlier version kept no predictions: evaluate it again"}
    first, second = on_shared_images(sides)
    if not first.shape[1]:
        return {**said, "problem": "they have no validation images in common"}
    return {**said, **compare_paired(first, second).plain()}


# ---- recipes -------------------------------------------------------------------------------------------------------------------


def differences(recipes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields whose values are not all the same: "field", and "values" as text, of parts only the settings that differ."""
    fields = dict.fromkeys(field for recipe in recipes for field in recipe)
    found = []
    for field in fields:
        values = [text(recipe.get(field)) for recipe in recipes]
        if len(set(values)) > 1:
            found.append({"field": field, "values": apart(values)})
    return found


def text(value: Any) -> str:
    """A field's value as a person writes it; a run of another version may not have the field."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value) or "none"


def apart(values: Sequence[str]) -> list[str]:
    """Texts of one part with different settings, with the settings that are the same left out as `...`; other texts as they are."""
    try:
        calls = [ast.parse(value, mode="eval").body for value in values]
    except SyntaxError:
        return list(values)
    parts = [call for call in calls if isinstance(call, ast.Call)]
    if len(parts) < len(calls) or len({ast.unparse(part.func) for part in parts}) > 1:
        return list(values)
    settings = [
        {**{str(place): ast.unparse(x) for place, x in enumerate(part.args)}, **{str(k.arg): ast.unparse(k.value) for k in part.keywords}}
        for part in parts
    ]
    same = {key for key, value in settings[0].items() if all(other.get(key) == value for other in settings)}
    told = []
    for part, mine in zip(parts, settings, strict=True):
        words = [value if key.isdecimal() else f"{key}={value}" for key, value in mine.items() if key not in same]
        told.append(f"{ast.unparse(part.func)}({', '.join([*words, *(['...'] if same else [])])})")
    return told
