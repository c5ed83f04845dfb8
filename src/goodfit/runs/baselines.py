"""Baselines: what the most common class, the nearest image and a linear softmax come to on the same split; computed once, then kept."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.errors import GoodfitError
from goodfit.core.files import cache_home, write
from goodfit.core.interval import wilson_interval
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.data.store import hash_fields
from goodfit.optim.lbfgs import LbfgsSteps
from goodfit.runs import start
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.recipe.transfer.probe import Softmax
from goodfit.terminal.reporter import Silent, Voice

FILE = "baselines.json"
SIDE = 32  # pixels along a side that larger images are averaged down to
FEWEST, MOST = 500, 20_000  # training images that are learned from whatever the time, and those that are used at most
QUICK, PATIENT = 3.0, 60.0  # seconds for reading and for each baseline: at the end of a training, at least and at most
SHARE = 0.01  # of a training's seconds, between the two; of a budget in minutes, within which they are computed, whatever that is
PENALTIES = (1e-1, 1e-2, 1e-3)  # L2 on standardized pixels, chosen by a fifth of the training images
LEAST, STEPS = 10, 100  # of L-BFGS for each of them: whatever the time, and at most
NEAR = 1e-2  # how far above its minimum the loss may be
PIECE, READ = 512, 64  # images that are judged, and read, at once: between them the clock is looked at
VERSION = 2  # of what is kept


def baselines(data: Dataset, seconds: float = QUICK, cache: Path | None = None) -> dict[str, Any]:
    """The baselines of the validation images, each within a limit of about `seconds`, from the cache where they have been computed.

    "rows" have "name", "accuracy", its 95 % "interval", "judged" (validation images within the limit), "trained" (training images), and
    "seconds". The test images are not read.
    """
    pre = data.preprocess
    facts = (data.digest, data.splits.digest, f"{pre.size} {pre.box} {pre.channels} {pre.aspect} {SIDE} {MOST} {VERSION}")
    file = (cache or cache_home() / "baselines") / f"{hash_fields(*facts)}.json"
    kept: dict[str, Any] = {}
    if file.is_file():
        try:
            kept = json.loads(file.read_text())
        except ValueError:  # damaged: computed anew
            kept = {}
    if kept and (kept["whole"] or 2 * kept["limit"] >= seconds):  # those cut short are not begun anew for a little more time
        return kept
    rows = [majority(data), *learned(data, seconds)]
    found = {"images": len(data.splits.validation), "rows": rows, "limit": seconds, "whole": all(row["whole"] for row in rows)}
    with contextlib.suppress(GoodfitError):  # a cache that cannot be written: computed anew next time
        write(file, json.dumps(found, indent=1) + "\n")
    return found


def limit(training: float) -> float:
    """The seconds for each baseline after a training of so many."""
    return min(PATIENT, max(QUICK, SHARE * training))


def majority(data: Dataset) -> dict[str, Any]:
    """The most common class of the training images for every image."""
    counts, asked = data.class_counts("train"), data.class_counts("validation")
    right = asked[counts.index(max(counts))]
    return row("majority class", right, sum(asked), sum(counts), 0.0, True)


def row(name: str, right: int, judged: int, trained: int, seconds: float, whole: bool) -> dict[str, Any]:
    """A baseline in a row; `whole` is false where the limit cut it short."""
    accuracy, interval = (right / judged, wilson_interval(right, judged)) if judged else (None, None)
    return {
        "name": name, "accuracy": accuracy, "interval": interval, "judged": judged, "trained": trained, "seconds": seconds, "whole": whole,
    }  # fmt: skip


def learned(data: Dataset, seconds: float) -> list[dict[str, Any]]:
    """The nearest neighbor and the linear softmax, on pixels that are standardized by the training images'; by as many of those as can be
    read within the limit.
    """
    train, asked = data.rows("train"), data.rows("validation")
    train, asked = train[spread(len(train))[:MOST]], asked[spread(len(asked))]
    until = time.monotonic() + seconds
    y = vectors(data, asked, until)
    x = vectors(data, train, until)
    whole = (len(x), len(y)) == (len(train), len(asked))
    mean = x.mean(0)
    x -= mean
    y -= mean
    scale = float(x.square().mean().sqrt()) or 1.0
    x /= scale
    y /= scale
    labels, truth = data.labels[train[: len(x)]], data.labels[asked]
    found = []
    for name, answer in (("nearest neighbor", nearest), ("linear softmax", linear)):
        began = time.monotonic()
        guesses, trained, done = answer(x, labels, y, len(data.classes), began + seconds)
        spent = time.monotonic() - began
        right = int((guesses == truth[: len(guesses)]).sum())
        found.append(row(name, right, len(guesses), trained, spent, whole and done))
    return found


def spread(n: int) -> Tensor:
    """An order of n places whose beginnings are spread over all: what a limit cuts off is then like what it leaves."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).permutation(n))


def vectors(data: Dataset, rows: Tensor, until: float = math.inf) -> Tensor:
    """The images of some rows as float32 [n, D], averaged down to at most 32 pixels a side; of the first of them, if time is up."""
    found = []
    for piece in torch.split(rows, READ):
        images = data.preprocess.center_crop(data.pixels.read(piece).permute(0, 3, 1, 2)).float()
        height, width = images.shape[-2:]
        if max(height, width) > SIDE:
            images = F.adaptive_avg_pool2d(images, (min(height, SIDE), min(width, SIDE)))
        found.append(images.flatten(1))
        if time.monotonic() > until:
            break
    return torch.cat(found)


Answer = tuple[Tensor, int, bool]  # the class guessed for the first images asked about, the training images used, and whether that is all


@torch.no_grad()
def nearest(x: Tensor, labels: Tensor, asked: Tensor, classes: int, until: float) -> Answer:
    """The label of the training image at the least Euclidean distance, by products of matrices; of the first images if time is up."""
    squares = x.square().sum(1)
    found: list[Tensor] = []
    for piece in torch.split(asked, PIECE):
        if found and time.monotonic() > until:
            break
        found.append(labels[torch.addmm(squares, piece, x.T, alpha=-2).argmin(1)])
    guesses = torch.cat(found)
    return guesses, len(x), len(guesses) == len(asked)


def linear(x: Tensor, labels: Tensor, asked: Tensor, classes: int, until: float) -> Answer:
    """The answer of a softmax classifier, its penalty chosen on a fifth of the training images; less well fitted if time is up, and to so
    few images that some steps are made in time.
    """
    theta = torch.zeros(classes, x.shape[1] + 1)
    began = time.monotonic()
    Softmax(x, labels, theta, PENALTIES[0])()
    step = time.monotonic() - began
    trained = min(len(x), max(FEWEST, int(len(x) * (until - began) / (2 * LEAST * step))))
    x, own, whole = x[:trained], labels[:trained], trained == len(x)
    held = torch.zeros(trained, dtype=torch.bool)
    held[spread(trained)[::5]] = True
    best, losses = PENALTIES[0], []
    for l2 in PENALTIES if trained >= 5 else ():
        theta = fitted(x[~held], own[~held], theta, l2, until)
        losses.append(float(F.cross_entropy(scores(theta, x[held]), own[held])))
        if losses[-1] > min(losses):
            break
        best = l2
        if time.monotonic() > until:
            return scores(theta, asked).argmax(1), trained, False
    theta = fitted(x, own, theta, best, until)
    return scores(theta, asked).argmax(1), trained, whole and time.monotonic() <= until


def fitted(x: Tensor, labels: Tensor, theta: Tensor, l2: float, until: float) -> Tensor:
    """The classifier [K, D + 1] after steps of L-BFGS from `theta`: until it is there or time is up, but some in any case."""
    objective = Softmax(x, labels, theta, l2)
    steps = LbfgsSteps([{"params": [objective.theta]}])
    for step in range(STEPS):
        objective()
        assert objective.theta.grad is not None
        if float(objective.theta.grad.square().sum()) <= 2 * l2 * NEAR or (step >= LEAST and time.monotonic() > until):
            break
        steps.step(objective)
    return objective.theta.detach()


def scores(theta: Tensor, x: Tensor) -> Tensor:
    """Scores [n, K]."""
    return torch.addmm(theta[:, -1], x, theta[:, :-1].T)


def ensure(run: Run, seconds: float = PATIENT, voice: Voice | None = None) -> dict[str, Any]:
    """The baselines of a run's validation images, written to its baselines.json; needs the data.

    Raises:
        DataError: the data is gone or has changed.
    """
    voice = voice or Silent()
    recipe = Recipe.from_toml(run.path / "recipe.toml")
    data = open_data(recipe, look(recipe, voice.say), voice.packing)
    start.same_data(run, data)
    found = baselines(data, seconds)
    run.write(FILE, found)
    return found
