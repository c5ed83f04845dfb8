"""Assembly of an ensemble: one classifier out of several trained models, as a folder that works wherever it lies."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from goodfit.core.device import select_device
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.fetch import hash_file
from goodfit.core.files import PARTIAL, copy_file, explain_write_errors, remove, sync_folder, write_atomic
from goodfit.core.fitted_task import plain_task
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.reporter import Reporter
from goodfit.core.run import ENSEMBLE_FILE, Run, part_files
from goodfit.core.task import Task
from goodfit.core.words import count_of
from goodfit.models.weights.saved import WEIGHTS_FILE, read_weights, to_safetensors, write_config
from goodfit.predict.images import ImagesFor
from goodfit.predict.predictor import load_classifier
from goodfit.predict.scoring import score_ensemble
from goodfit.recipe.recipe import Recipe
from goodfit.report.failures import format_warnings
from goodfit.report.record import read_record
from goodfit.runs import baselines
from goodfit.runs.openings import find_openings
from goodfit.runs.start import describe_environment, require_same_data, timestamp
from goodfit.study.ensemble.candidates import Candidate, align_predictions, count_seen_test_images, find_candidates
from goodfit.study.ensemble.selection import average_probabilities, greedy_bag, greedy_soup, scorer_of
from goodfit.study.ensemble.soup import NormRecalibrator, average_weights
from goodfit.terminal.log import LoggingReporter

Select = Literal["all", "greedy"]
Soup = Literal["", "uniform", "greedy"]
EQUAL_IN_A_SOUP = ("model", "loss", "label_names", "preprocess")  # and the task, with the scale of numbers


def make_ensemble(
    names: Sequence[str | Path],
    out: Path | None = None,
    select: Select = "all",
    soup: Soup = "",
    final: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Run:
    """Make an ensemble of the models of some runs; returns its folder, which `load`, `evaluate` and predict take as they take a run's.

    `select` is "all", the plain mean of the probabilities, or "greedy" (see `greedy_bag`). With `soup` the weights are averaged
    instead, of all or of a greedy choice, which needs models alike in everything but their weights. Of a run that has snapshots those
    are used, unless `final`. Choices and scores use the images that every run validated on; test images are not used.

    Raises:
        UsageError: an option is wrong, the runs do not go together, or a greedy choice has no images to choose by.
        DataError: the data of a soup is gone or has changed.
    """
    if select not in ("all", "greedy"):
        raise UsageError(unknown_name("selection", select, ("all", "greedy")))
    if soup not in ("", "uniform", "greedy"):
        raise UsageError(unknown_name("soup", soup, ("uniform", "greedy")))
    if soup and select != "all":
        raise UsageError("Expected one of --select greedy and --soup, received both: a soup is chosen by --soup greedy.")
    reporter = reporter or LoggingReporter()
    candidates = find_candidates(names, final)
    predictions = align_predictions(candidates)
    images = len(predictions[0].names)
    if not images and "greedy" in (select, soup):
        raise UsageError("A greedy choice needs images that every run validated on; these, such as folds, have none in common.")
    soup_builder = SoupBuilder(candidates, predictions, select_device(device), reporter) if soup else None
    if soup_builder:
        counts, mean = soup_builder.build(soup)
    else:
        answers, scorer = [x.probabilities for x in predictions], scorer_of(candidates[0].task)
        counts = greedy_bag(answers, predictions[0].labels, scorer=scorer) if select == "greedy" else [1] * len(candidates)
        mean = average_probabilities([x.probabilities for x in predictions], [n / sum(counts) for n in counts])
    best = find_best_single(candidates, predictions)
    result = dataclasses.replace(predictions[0], probabilities=mean.astype(np.float32))
    task = candidates[0].task
    fitted = task.fit(torch.from_numpy(result.probabilities), torch.from_numpy(result.labels)) if images else task
    run = Run.new(out, "ensemble")
    with made_whole(run) as made:
        content = {
            "kind": "soup" if soup else "average",
            "select": soup or select,
            "classes": list(predictions[0].classes),
            **({} if task.name == "classes" else {"task": plain_task(fitted)}),
            "tests_seen": count_seen_test_images(candidates),
            **(write_soup(made, soup_builder, best, fitted) if soup_builder else copy_members(made, candidates, counts, best)),
            "candidates": describe_candidates(made, candidates, predictions, counts),
        }
        scores = {"validation": score_ensemble(result, predictions[best], task)} if images else {}
        write_results(made, candidates, content, scores, result)
    run.point_latest()
    reporter.say(*format_warnings(read_record(run)))
    return run


def find_best_single(candidates: Sequence[Candidate], predictions: Sequence[Predictions]) -> int:
    """The index of the best single model, by the images that all validated on, else by those of each; the first of equals."""
    scored = predictions if len(predictions[0].names) else [candidate.predictions for candidate in candidates]
    scorer = scorer_of(candidates[0].task)
    scores = [scorer(x.probabilities.astype(np.float64), x.labels) for x in scored]
    return max(range(len(scores)), key=scores.__getitem__)


class SoupBuilder:
    """Builds soups of models that are alike: one model with the mean of their weights, and batch statistics of its own."""

    def __init__(
        self, candidates: Sequence[Candidate], predictions: Sequence[Predictions], device: torch.device, reporter: Reporter
    ) -> None:
        first = candidates[0]
        for other in candidates:
            differing = [key for key in EQUAL_IN_A_SOUP if other.config[key] != first.config[key]]
            differing += ["task"] if other.task != first.task else []
            if differing:
                raise UsageError(
                    f'A soup needs models that differ in their weights alone, but "{first.name}" and "{other.name}" differ in'
                    f" {', '.join(differing)}: average their probabilities, without --soup."
                )
        self.candidates, self.predictions = candidates, predictions
        self.recipe = Recipe.of_run(first.run.path)
        torch.set_num_threads(int(self.recipe.threads))
        self.images = ImagesFor(self.recipe, reporter)
        require_same_data(first.run, self.images.data)
        self.classifier = dataclasses.replace(load_classifier(first.run.path, str(device)), temperature=1.0)
        self.recalibrator = NormRecalibrator(first.run, self.recipe, self.images.data, device)
        row_of = {self.images.data.names[row]: row for row in self.images.data.rows("validation").tolist()}
        self.rows = torch.tensor([row_of[name] for name in predictions[0].names.tolist()], dtype=torch.int64)

    def build(self, soup: Soup) -> tuple[list[int], np.ndarray[Any, Any]]:
        """Build the soup: which models are in (1) or out (0), and its probabilities [n, K] for the images that all validated on."""
        order = sorted(range(len(self.candidates)), key=lambda place: self._score(self.predictions[place].probabilities), reverse=True)
        chosen = greedy_soup(order, self._score_soup) if soup == "greedy" else list(range(len(self.candidates)))
        probabilities = self._soup_probabilities(chosen)
        return [int(place in chosen) for place in range(len(self.candidates))], probabilities

    def _score_soup(self, chosen: list[int]) -> tuple[float, float]:
        return self._score(self._soup_probabilities(chosen))

    def _score(self, probabilities: np.ndarray[Any, Any]) -> tuple[float, float]:
        scorer = scorer_of(self.candidates[0].task)
        return scorer(probabilities.astype(np.float64), self.predictions[0].labels) if len(self.rows) else (0.0, 0.0)

    def _soup_probabilities(self, chosen: list[int]) -> np.ndarray[Any, Any]:
        """The probabilities of the soup of some models; its weights stay in `classifier`."""
        model, candidates = self.classifier.model, [self.candidates[place] for place in chosen]
        model.load_state_dict(average_weights(read_weights(candidate.file, candidate.sha256) for candidate in candidates))
        if len({hash_file(candidate.file) for candidate in candidates}) > 1:  # the statistics of a single model are right
            self.recalibrator.recalibrate(model)
        return (
            self.images.probabilities(self.classifier, self.rows).numpy() if len(self.rows) else np.zeros((0, len(self.classifier.classes)))
        )


# ---- the folder ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def made_whole(run: Run) -> Iterator[Run]:
    """A folder beside that of a new run, which takes its place when all is written: a process that is killed leaves the place free.

    Raises:
        GoodfitError: it cannot be written.
    """
    made = run.path.with_name(f".{run.path.name}{PARTIAL}")
    try:
        with explain_write_errors(run.path):
            remove(made)
            made.mkdir()
        yield Run(made)
        with explain_write_errors(run.path):
            sync_folder(made)
            remove(run.path)
            made.replace(run.path)
    except BaseException:
        remove(made)
        raise


def copy_members(run: Run, candidates: Sequence[Candidate], counts: Sequence[int], best: int) -> dict[str, Any]:
    """Copy the members of an average into its folder."""
    members: list[dict[str, Any]] = []
    single: dict[str, Any] = {}
    for place, (candidate, n) in enumerate(zip(candidates, counts, strict=True)):
        if n or place == best:
            copy = copy_model(run, candidate, f"members/{len(members):02d}")
            members += [{**copy, "weight": n / sum(counts)}]
            single = copy if place == best else single
    return {"members": [member for member in members if member["weight"]], "single": single}


def write_soup(run: Run, soup_builder: SoupBuilder, best: int, task: Task) -> dict[str, Any]:
    """Write a soup as the model of a run, whose task is fitted to its answers, and copy the best single model, to compare it with."""
    first = soup_builder.candidates[0]
    write_atomic(run.path / WEIGHTS_FILE, to_safetensors(soup_builder.classifier.model))
    copy_part_files(run, first)
    own = {} if task.name == "classes" else {"task": plain_task(task)}
    write_config(run, {**{key: value for key, value in first.config.items() if key != "temperature"}, **own})
    return {
        "members": [{"path": ".", "sha256": hash_file(run.path / WEIGHTS_FILE), "weight": 1.0}],
        "single": copy_model(run, soup_builder.candidates[best], "members/00"),
    }


def copy_model(run: Run, candidate: Candidate, place: str) -> dict[str, Any]:
    """Copy a model with everything that loading it needs."""
    member = Run(run.path / place)
    copy_file(candidate.file, member.path / WEIGHTS_FILE)
    copy_file(candidate.run.path / "recipe.toml", member.path / "recipe.toml")
    copy_part_files(member, candidate)
    write_config(member, candidate.config)
    return {"path": place, "sha256": hash_file(member.path / WEIGHTS_FILE)}


def copy_part_files(run: Run, candidate: Candidate) -> None:
    """Copy the user's own parts of a candidate's run."""
    for file in part_files(candidate.run):
        copy_file(file, run.path / "use" / file.name)


def describe_candidates(
    run: Run, candidates: Sequence[Candidate], predictions: Sequence[Predictions], counts: Sequence[int]
) -> list[dict[str, Any]]:
    """A row for each candidate: its source relative to the folder, its weight (0: left out) and its scores on the shared images."""
    rows: list[dict[str, Any]] = []
    for candidate, own_predictions, n in zip(candidates, predictions, counts, strict=True):
        row = {"source": relative_path(candidate.file, run.path), "sha256": hash_file(candidate.file), "weight": n / sum(counts)}
        if len(own_predictions.names):
            value, likelihood = scorer_of(candidate.task)(own_predictions.probabilities.astype(np.float64), own_predictions.labels)
            row |= {candidate.task.figure.key: value, candidate.task.figure.loss_key: -likelihood}
        rows.append(row)
    return rows


def relative_path(file: Path, folder: Path) -> str:
    """A file's path relative to a folder; absolute where there is none, as on another drive."""
    try:
        return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(file.resolve())


def copy_baselines(run: Run, first: Candidate, result: Predictions) -> None:
    """Copy the baselines of the first model's run where the ensemble is scored on the same images, which runs of other splits prevent."""
    file = first.run.path / baselines.FILE
    if file.is_file() and len(result.names) == len(first.predictions.names):
        copy_file(file, run.path / file.name)


def write_results(run: Run, candidates: Sequence[Candidate], content: dict[str, Any], scores: dict[str, Any], result: Predictions) -> None:
    """Write what the folder is, its scores and predictions, and last the recipe that opens its data."""
    first = candidates[0]
    about = {
        **describe_environment(torch.device("cpu")),
        "started": timestamp(),
        "finished": timestamp(),
        "state": "finished",
        "kind": content["kind"],
        "asked": {},
        "recipe": Recipe.of_run(first.run.path).plain(),
        "choices": [{"field": "model", "value": f"{content['kind']} of {count_of(len(content['candidates']), 'model')}"}],
        "data": first.run.read("about.json", "data")["data"],
        "openings": find_openings([candidate.run for candidate in candidates], candidates[0].digests[1]),
    }
    run.write("about.json", about)
    run.write(ENSEMBLE_FILE, content)
    run.write("scores.json", scores)
    if scores:
        result.save(run.path / PREDICTIONS_FILE)
        copy_baselines(run, first, result)
    copy_file(first.run.path / "recipe.toml", run.path / "recipe.toml")
