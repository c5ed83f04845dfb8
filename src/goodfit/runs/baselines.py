"""Baselines on the same split: the most common class, the nearest image and a linear model; computed once, then kept."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.cached import read_cached_json, write_cached_json
from goodfit.core.device import release_freed_pages
from goodfit.core.errors import GoodfitError
from goodfit.core.files import cache_folder
from goodfit.core.interval import wilson_interval
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.data.store import hash_fields
from goodfit.optim.lbfgs import LbfgsOptimizer
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.recipe.transfer.probe import SoftmaxRegression, fit_ridge
from goodfit.runs.start import require_same_data
from goodfit.terminal.log import LoggingReporter

FILE = "baselines.json"
MAX_SIDE = 32  # pixels; larger images are averaged down to it
MIN_TRAIN_IMAGES, MAX_TRAIN_IMAGES = 500, 20_000  # used whatever the time limit, and at most
MIN_SECONDS, MAX_SECONDS = 3.0, 60.0  # for reading and for each baseline, at the end of a training
SHARE = 0.01  # of a training's seconds, within those limits; of a budget in minutes without limits, since they count towards it
PENALTIES = (1e-1, 1e-2, 1e-3)  # L2 on standardized pixels, chosen by a fifth of the training images
RIDGE_TRIAL = 300  # images that a ridge regression is timed on
EIGEN_PRODUCTS = 20  # that take as long as an eigendecomposition of a matrix [m, m], as a multiple of m ** 3
MIN_STEPS, MAX_STEPS = 10, 100  # of L-BFGS for each penalty: whatever the time limit, and at most
LOSS_TOLERANCE = 1e-2  # how far above its minimum the loss may be
JUDGED_AT_ONCE, READ_AT_ONCE = 512, 64  # images; the time limit is checked in between
CACHE_VERSION = 3


def compute_baselines(data: Dataset, seconds: float = MIN_SECONDS, cache: Path | None = None) -> dict[str, Any]:
    """Compute the baselines for the validation images, each within about `seconds`, or read them from the cache.

    "rows" have "name", "accuracy" (or the figure of another task), its 95 % "interval", "judged" (validation images within the limit),
    "trained" (training images used) and "seconds". The test images are not read.
    """
    pre = data.preprocess
    key = (
        data.digest,
        data.splits.digest,
        f"{pre.size} {pre.box} {pre.channels} {pre.aspect} {MAX_SIDE} {MAX_TRAIN_IMAGES} {CACHE_VERSION}",
    )
    file = (cache or cache_folder() / "baselines") / f"{hash_fields(*key)}.json"
    cached: dict[str, Any] = read_cached_json(file) or {}
    if cached and (cached["whole"] or 2 * cached["limit"] >= seconds):  # those cut short are not repeated for a little more time
        return cached
    rows = [constant_baseline(data), *learned_baselines(data, seconds)]
    release_freed_pages()  # of hundreds of megabytes, which training has no use for
    task = {} if data.task.name == "classes" else {"task": data.task.name}
    result = {**task, "images": len(data.splits.validation), "rows": rows, "limit": seconds, "whole": all(row["whole"] for row in rows)}
    with contextlib.suppress(GoodfitError):  # a cache that cannot be written: computed again next time
        write_cached_json(file, result)
    return result


def time_limit(training: float) -> float:
    """The seconds for each baseline after a training of `training` seconds."""
    return min(MAX_SECONDS, max(MIN_SECONDS, SHARE * training))


def constant_baseline(data: Dataset) -> dict[str, Any]:
    """The baseline that answers the same for every image: the most common class of the training images, or the mean of their targets."""
    train, validation = data.rows("train"), data.rows("validation")
    if data.task.name == "classes":
        counts = data.class_counts("train")
        guesses = torch.full((len(validation),), counts.index(max(counts)))
    else:
        guesses = data.labels[train].mean(0).expand(len(validation), -1)
    name = {"classes": "majority class", "labels": "label frequencies", "numbers": "mean"}[data.task.name]
    return baseline_row(data, name, guesses, len(train), 0.0, True)


def baseline_row(data: Dataset, name: str, guesses: Tensor, trained: int, seconds: float, whole: bool) -> dict[str, Any]:
    """One row of the result, by the guesses for the first validation images in `spread_order`, or for all of them in any order.

    Guesses are classes [n], or scores [n, K] of labels or numbers; `whole` is false where the time limit cut the baseline short.
    """
    figure, judged = data.task.figure.key, len(guesses)
    validation = data.rows("validation")
    truth = data.truth[validation[spread_order(len(validation))[:judged]]]
    value, interval = None, None
    if judged and guesses.ndim == 1:
        right = int((guesses == truth).sum())
        value, interval = right / judged, wilson_interval(right, judged)
    elif judged:
        scores = data.task.score(guesses.double(), truth, 0.0, data.classes)
        value, interval = scores[figure], scores["interval"]
    return {
        "name": name, figure: value, "interval": interval, "judged": judged, "trained": trained, "seconds": seconds, "whole": whole,
    }  # fmt: skip


def learned_baselines(data: Dataset, seconds: float) -> list[dict[str, Any]]:
    """The nearest neighbor and the linear model on standardized pixels, from as many training images as can be read in time."""
    train, validation = data.local_rows("train"), data.rows("validation")
    train, validation = train[spread_order(len(train))[:MAX_TRAIN_IMAGES]], validation[spread_order(len(validation))]
    until = time.monotonic() + seconds
    y = image_vectors(data, validation, until)
    x = image_vectors(data, train, until)
    whole = (len(x), len(y)) == (len(train), len(validation))
    mean = x.mean(0)
    x -= mean
    y -= mean
    scale = float(torch.linalg.vector_norm(x)) / math.sqrt(x.numel()) or 1.0  # without a second copy of the images
    x /= scale
    y /= scale
    labels, rows = data.labels[train[: len(x)]], []
    linear = ("linear softmax", predict_linear) if data.task.name == "classes" else ("linear ridge", predict_ridge)
    for name, predict in (("nearest neighbor", predict_nearest), linear):
        began = time.monotonic()
        guesses, trained, done = predict(x, labels, y, len(data.classes), began + seconds)
        spent = time.monotonic() - began
        rows.append(baseline_row(data, name, guesses, trained, spent, whole and done))
    return rows


def spread_order(n: int) -> Tensor:
    """A random order of n places, always the same, so that what a time limit cuts off resembles what it leaves."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).permutation(n))


def image_vectors(data: Dataset, rows: Tensor, until: float = math.inf) -> Tensor:
    """The images of some rows as float32 [n, D], averaged down to at most MAX_SIDE pixels; of the first of them, if time is up."""
    vectors, n = torch.empty(0), 0
    for piece in torch.split(rows, READ_AT_ONCE):
        images = data.preprocess.center_crop(data.pixels.read(piece).permute(0, 3, 1, 2)).float()
        height, width = images.shape[-2:]
        if max(height, width) > MAX_SIDE:
            images = F.adaptive_avg_pool2d(images, (min(height, MAX_SIDE), min(width, MAX_SIDE)))
        vectors = vectors if n else torch.empty(len(rows), images[0].numel())
        vectors[n : n + len(piece)] = images.flatten(1)
        n += len(piece)
        if time.monotonic() > until:
            break
    return vectors[:n]


Guesses = tuple[Tensor, int, bool]  # the class guessed for the first queries, the training images used, and whether those are all


@torch.no_grad()
def predict_nearest(x: Tensor, labels: Tensor, queries: Tensor, classes: int, until: float) -> Guesses:
    """Guess the label of the training image at the least Euclidean distance; for the first queries only, if time is up."""
    squares = torch.linalg.vector_norm(x, dim=1).square()
    guesses: list[Tensor] = []
    for piece in torch.split(queries, JUDGED_AT_ONCE):
        if guesses and time.monotonic() > until:
            break
        guesses.append(labels[torch.addmm(squares, piece, x.T, alpha=-2).argmin(1)])
    guessed = torch.cat(guesses)
    return guessed, len(x), len(guessed) == len(queries)


def predict_linear(x: Tensor, labels: Tensor, queries: Tensor, classes: int, until: float) -> Guesses:
    """Guess by a linear softmax classifier, its penalty chosen on a fifth of the training images.

    It is fitted to so few images that some steps end in time, and less well if time is up.
    """
    theta = torch.zeros(classes, x.shape[1] + 1)
    began = time.monotonic()
    SoftmaxRegression(x, labels, theta, PENALTIES[0])()
    step_seconds = time.monotonic() - began
    trained = min(len(x), max(MIN_TRAIN_IMAGES, int(len(x) * (until - began) / (2 * MIN_STEPS * step_seconds))))
    x, labels, whole = x[:trained], labels[:trained], trained == len(x)
    held = torch.zeros(trained, dtype=torch.bool)
    held[spread_order(trained)[::5]] = True
    best, losses = PENALTIES[0], []
    for l2 in PENALTIES if trained >= 5 else ():
        theta = fit_softmax(x[~held], labels[~held], theta, l2, until)
        losses.append(float(F.cross_entropy(linear_scores(theta, x[held]), labels[held])))
        if losses[-1] > min(losses):
            break
        best = l2
        if time.monotonic() > until:
            return linear_scores(theta, queries).argmax(1), trained, False
    theta = fit_softmax(x, labels, theta, best, until)
    return linear_scores(theta, queries).argmax(1), trained, whole and time.monotonic() <= until


def predict_ridge(x: Tensor, targets: Tensor, queries: Tensor, classes: int, until: float) -> Guesses:
    """Answer by ridge regression of the targets [n, K]; fitted to so few images that it probably ends in half of the time."""
    trained, began = len(x), time.monotonic()
    if trained > MIN_TRAIN_IMAGES:
        fit_ridge(x[:RIDGE_TRIAL], targets[:RIDGE_TRIAL].float())
        products = ridge_products(np.arange(trained + 1), x.shape[1])
        now = time.monotonic()
        most = products[RIDGE_TRIAL] * (until - now) / (2 * (now - began))
        trained = min(len(x), max(MIN_TRAIN_IMAGES, int((products <= most).sum()) - 1))
    return fit_ridge(x[:trained], targets[:trained].float())(queries), trained, trained == len(x)


def ridge_products(images: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """How many products `fit_ridge` takes, about, for some numbers of images with features [n, width]."""
    n = images.astype(np.float64)
    smaller = np.minimum(n, width)
    products: NDArray[np.float64] = 2 * n * width * smaller + EIGEN_PRODUCTS * smaller**3
    return products


def fit_softmax(x: Tensor, labels: Tensor, theta: Tensor, l2: float, until: float) -> Tensor:
    """Fit the classifier [K, D + 1] by steps of L-BFGS from `theta`, until it is at its minimum or time is up, but at least MIN_STEPS."""
    objective = SoftmaxRegression(x, labels, theta, l2)
    steps = LbfgsOptimizer([{"params": [objective.theta]}])
    for step in range(MAX_STEPS):
        objective()
        assert objective.theta.grad is not None
        if float(objective.theta.grad.square().sum()) <= 2 * l2 * LOSS_TOLERANCE or (step >= MIN_STEPS and time.monotonic() > until):
            break
        steps.step(objective)
    return objective.theta.detach()


def linear_scores(theta: Tensor, x: Tensor) -> Tensor:
    """The scores [n, K] of a linear classifier [K, D + 1] for vectors [n, D]."""
    return torch.addmm(theta[:, -1], x, theta[:, :-1].T)


def update_baselines(run: Run, seconds: float = MAX_SECONDS, reporter: Reporter | None = None) -> dict[str, Any]:
    """Compute the baselines for a run's validation images and write them to its baselines.json; needs the data.

    Raises:
        DataError: the data is gone or has changed.
    """
    reporter = reporter or LoggingReporter()
    recipe = Recipe.of_run(run.path)
    data = open_images(recipe, reporter)
    require_same_data(run, data)
    result = compute_baselines(data, seconds)
    run.write(FILE, result)
    return result
