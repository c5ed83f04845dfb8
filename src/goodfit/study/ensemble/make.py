"""Ensembles: one classifier out of several trained models, as a folder that works wherever it lies."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file

from goodfit.core.device import choose, machine
from goodfit.core.errors import UsageError, one_of
from goodfit.core.fetch import hash_file
from goodfit.core.files import full_disk_said, write
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import ENSEMBLE, Run, used
from goodfit.core.words import count
from goodfit.predict.ensemble import MODEL
from goodfit.predict.predictor import load_run
from goodfit.recipe.recipe import Recipe
from goodfit.runs import baselines, start
from goodfit.runs.panel import Album, scores_of
from goodfit.study.ensemble.candidates import Candidate, aligned, candidates, tests_seen
from goodfit.study.ensemble.selection import average, greedy, greedy_soup, score
from goodfit.study.ensemble.soup import Kitchen, blend
from goodfit.terminal.reporter import Silent, Voice
from goodfit.training.snapshots import packed

Select = Literal["all", "greedy"]
Soup = Literal["", "uniform", "greedy"]
ALIKE = ("model", "loss", "label_names", "preprocess")  # what models of one soup must have in common


def ensemble(
    words: Sequence[str | Path],
    out: Path | None = None,
    select: Select = "all",
    soup: Soup = "",
    final: bool = False,
    device: str = "auto",
    voice: Voice | None = None,
) -> Run:
    """Make an ensemble of the models of some runs; returns its folder, which `load`, `evaluate` and predict take as they take a run's.

    `select` is "all", the plain mean of the probabilities, or "greedy" (see `selection.greedy`). With `soup` the weights are averaged
    instead, of all or of a greedy choice, which needs models alike in everything but their weights. Of a run that has snapshots those
    are taken, unless `final`. Choices and scores are by the images that every run validated on; test images are not looked at.

    Raises:
        UsageError: an option is wrong, the runs do not go together, or a choice is asked for without images to choose by.
        DataError: the data of a soup is gone or has changed.
    """
    if select not in ("all", "greedy"):
        raise UsageError(one_of("selection", select, ("all", "greedy")))
    if soup not in ("", "uniform", "greedy"):
        raise UsageError(one_of("soup", soup, ("uniform", "greedy")))
    if soup and select != "all":
        raise UsageError("Expected one of --select greedy and --soup, received both: a soup chooses by --soup greedy.")
    voice = voice or Silent()
    found = candidates(words, final)
    answers = aligned(found)
    images = len(answers[0].names)
    if not images and "greedy" in (select, soup):
        raise UsageError("A greedy choice needs images that every run validated on; these, such as folds, have none in common.")
    cook = Cook(found, answers, choose(device), voice) if soup else None
    if cook:
        counts, mean = cook.serve(soup)
    else:
        counts = greedy([one.probabilities for one in answers], answers[0].labels) if select == "greedy" else [1] * len(found)
        mean = average([one.probabilities for one in answers], [n / sum(counts) for n in counts])
    best = best_of(found, answers)
    result = dataclasses.replace(answers[0], probabilities=mean.astype(np.float32))
    run = begin(out)
    content = {
        "kind": "soup" if soup else "average",
        "select": soup or select,
        "classes": list(answers[0].classes),
        "tests_seen": tests_seen(found),
        **(pour(run, cook, best) if cook else copies(run, found, counts, best)),
        "candidates": table(run, found, answers, counts),
    }
    scores = {"validation": scores_of(result, answers[best])} if images else {}
    finish(run, found[0], content, scores, result)
    return run


def best_of(found: Sequence[Candidate], answers: Sequence[Predictions]) -> int:
    """The best single model: by the images that all validated on, else by those that each validated on; the first of equals."""
    judged = answers if len(answers[0].names) else [one.answers for one in found]
    scores = [score(one.probabilities.astype(np.float64), one.labels) for one in judged]
    return max(range(len(scores)), key=scores.__getitem__)


class Cook:
    """Makes soups of models that are alike: one model with the mean of their weights, and batch statistics of its own."""

    def __init__(self, found: Sequence[Candidate], answers: Sequence[Predictions], device: torch.device, voice: Voice) -> None:
        first = found[0]
        for other in found:
            if differing := [key for key in ALIKE if other.config[key] != first.config[key]]:
                raise UsageError(
                    f'A soup needs models that differ in their weights alone, but "{first.name}" and "{other.name}" differ in'
                    f" {', '.join(differing)}: average their probabilities, without --soup."
                )
        self.found, self.answers = found, answers
        self.recipe = Recipe.from_toml(first.run.path / "recipe.toml")
        torch.set_num_threads(int(self.recipe.threads))
        self.album = Album(self.recipe, voice)
        start.same_data(first.run, self.album.data)
        self.classifier = dataclasses.replace(load_run(first.run.path, str(device)), temperature=1.0)
        self.kitchen = Kitchen(first.run, self.recipe, self.album.data, device)
        row_of = {self.album.data.names[row]: row for row in self.album.data.rows("validation").tolist()}
        self.rows = torch.tensor([row_of[name] for name in answers[0].names.tolist()], dtype=torch.int64)

    def serve(self, soup: Soup) -> tuple[list[int], np.ndarray[Any, Any]]:
        """Cook it: which models are in (1) or out (0), and its probabilities [n, K] for the images that all validated on."""
        order = sorted(range(len(self.found)), key=lambda place: self._score(self.answers[place].probabilities), reverse=True)
        chosen = greedy_soup(order, self._tried) if soup == "greedy" else list(range(len(self.found)))
        probabilities = self._asked(chosen)
        return [int(place in chosen) for place in range(len(self.found))], probabilities

    def _tried(self, chosen: list[int]) -> tuple[float, float]:
        return self._score(self._asked(chosen))

    def _score(self, probabilities: np.ndarray[Any, Any]) -> tuple[float, float]:
        return score(probabilities.astype(np.float64), self.answers[0].labels) if len(self.rows) else (0.0, 0.0)

    def _asked(self, chosen: list[int]) -> np.ndarray[Any, Any]:
        """The probabilities of the soup of some models, which stays in `classifier`."""
        model, files = self.classifier.model, [self.found[place].file for place in chosen]
        model.load_state_dict(blend(load_file(file) for file in files))
        if len({hash_file(file) for file in files}) > 1:  # the statistics of one model are its own
            self.kitchen.settle(model)
        return self.album.ask(self.classifier, self.rows).numpy() if len(self.rows) else np.zeros((0, len(self.classifier.classes)))


# ---- the folder ----------------------------------------------------------------------------------------------------------------


def begin(out: Path | None) -> Run:
    """A new folder; it is no run before its recipe.toml is there, which comes last."""
    run = Run.new(out, "ensemble")
    run.checkpoints.rmdir()
    return run


def copies(run: Run, found: Sequence[Candidate], counts: Sequence[int], best: int) -> dict[str, Any]:
    """Copy the members of an average into its folder."""
    members: list[dict[str, Any]] = []
    single: dict[str, Any] = {}
    for place, (candidate, n) in enumerate(zip(found, counts, strict=True)):
        if n or place == best:
            kept = copied(run, candidate, f"members/{len(members):02d}")
            members += [{**kept, "weight": n / sum(counts)}]
            single = kept if place == best else single
    return {"members": [member for member in members if member["weight"]], "single": single}


def pour(run: Run, cook: Cook, best: int) -> dict[str, Any]:
    """Write a soup as a run has its model, and copy the best single model, to compare it with."""
    first = cook.found[0]
    write(run.path / MODEL, packed(cook.classifier.model))
    run.write("config.json", {key: value for key, value in first.config.items() if key != "temperature"})
    with_parts(run, first)
    return {
        "members": [{"path": ".", "sha256": hash_file(run.path / MODEL), "weight": 1.0}],
        "single": copied(run, cook.found[best], "members/00"),
    }


def copied(run: Run, candidate: Candidate, place: str) -> dict[str, Any]:
    """Copy a model with all that loading it needs."""
    member = Run(run.path / place)
    with full_disk_said(member.path):
        member.path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(candidate.file, member.path / MODEL)
        shutil.copyfile(candidate.run.path / "recipe.toml", member.path / "recipe.toml")
    member.write("config.json", candidate.config)
    with_parts(member, candidate)
    return {"path": place, "sha256": hash_file(member.path / MODEL)}


def with_parts(run: Run, candidate: Candidate) -> None:
    """Copy the user's own parts of a candidate's run."""
    for file in used(candidate.run):
        (run.path / "use").mkdir(exist_ok=True)
        shutil.copyfile(file, run.path / "use" / file.name)


def table(run: Run, found: Sequence[Candidate], answers: Sequence[Predictions], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Each model that was named: where it came from, seen from the folder, its weight (0: left out) and its scores on the shared images."""
    rows: list[dict[str, Any]] = []
    for candidate, own, n in zip(found, answers, counts, strict=True):
        row = {"source": beside(candidate.file, run.path), "sha256": hash_file(candidate.file), "weight": n / sum(counts)}
        if len(own.names):
            accuracy, likelihood = score(own.probabilities.astype(np.float64), own.labels)
            row |= {"accuracy": accuracy, "log_loss": -likelihood}
        rows.append(row)
    return rows


def beside(file: Path, folder: Path) -> str:
    """A file's path as seen from a folder, absolute where there is no way."""
    try:
        return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(file.resolve())


def with_baselines(run: Run, first: Candidate, result: Predictions) -> None:
    """Copy the baselines of the first model's run where the ensemble is judged on the same images, which runs of other splits prevent."""
    file = first.run.path / baselines.FILE
    if file.is_file() and len(result.names) == len(first.answers.names):
        with full_disk_said(run.path):
            shutil.copyfile(file, run.path / file.name)


def finish(run: Run, first: Candidate, content: dict[str, Any], scores: dict[str, Any], result: Predictions) -> None:
    """Write what the folder is, its scores and answers, and at last the recipe that opens its data."""
    about = {
        "goodfit": version("goodfit"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": machine(torch.device("cpu")),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": start.now(),
        "finished": start.now(),
        "state": "finished",
        "asked": {},
        "choices": [{"field": "model", "value": f"{content['kind']} of {count(len(content['candidates']), 'model')}"}],
        "data": first.run.read("about.json")["data"],
        "openings": [],
    }
    run.write("about.json", about)
    run.write(ENSEMBLE, content)
    run.write("scores.json", scores)
    if scores:
        result.save(run.path / PREDICTIONS_FILE)
        with_baselines(run, first, result)
    shutil.copyfile(first.run.path / "recipe.toml", run.path / "recipe.toml")
    run.point_latest()
