"""The linear probe: a softmax classifier on features, fitted to its minimum by L-BFGS, its L2 penalty chosen by cross-validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.chance import Chance
from goodfit.core.errors import DataError
from goodfit.optim.lbfgs import LbfgsOptimizer

FOLDS, FEWER_FOLDS, MANY_IMAGES = 5, 3, 1000  # fewer where each has images enough
PENALTIES = tuple(10.0 ** (1 - i / 2) for i in range(13))  # 10 down to 1e-5: half a power of ten changes the loss by less than its error
MIN_GAIN, MAX_STALE = 0.01, 2  # the path ends after so many penalties that lower the held-out loss by less than this share
LOSS_TOLERANCE, FOLD_LOSS_TOLERANCE = 1e-6, 1e-4  # how far above its minimum the loss of a fit may be; in the folds it is only compared
RIDGE_PENALTIES = tuple(10.0 ** -(k / 2) for k in range(-4, 9))  # as shares of the mean variance of a feature
STALLED_STEPS = 10  # that together lower the loss by less than the tolerance end the fit
MAX_STEPS = 1000  # of one fit
LBFGS_HISTORY = 10


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier on features [n, D]: `weight` [K, D] and `bias` [K], as a head's; `l2` of its penalty on standardized features.

    `held` [N] has, for every image it was fitted to, the class that a probe of the other folds gave it; `path` the mean held-out loss
    of each penalty that was tried.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    held: Tensor
    path: tuple[tuple[float, float], ...]

    def __call__(self, features: NDArray[np.float32] | Tensor) -> Tensor:
        """Scores [n, K]."""
        return to_tensor(features) @ self.weight.T + self.bias


def to_tensor(features: NDArray[np.float32] | Tensor) -> Tensor:
    """Copy features into a float32 tensor; those of the cache are mapped read-only."""
    return features.float() if isinstance(features, Tensor) else torch.from_numpy(np.array(features, dtype=np.float32))


class SoftmaxRegression:
    """The mean cross-entropy of labels [n] under a linear classifier on features [n, D], plus l2 / 2 times its squared weights.

    Called, it fills `.grad` of `theta` [K, D + 1], whose last column is the bias (not penalized), and returns the loss.
    """

    def __init__(self, x: Tensor, labels: Tensor, theta: Tensor, l2: float) -> None:
        self.x, self.labels, self.l2 = x, labels, l2
        self.theta = nn.Parameter(theta.clone())
        self.targets = F.one_hot(labels, len(theta)).to(x.dtype)
        self.evaluated_at: Tensor | None = None
        self.loss = torch.zeros(())

    @torch.no_grad()
    def __call__(self) -> Tensor:
        if self.evaluated_at is not None and torch.equal(self.evaluated_at, self.theta):  # where the last line search ended
            return self.loss
        weight, bias = self.theta[:, :-1], self.theta[:, -1]
        logs = F.log_softmax(torch.addmm(bias, self.x, weight.T), dim=1)
        self.loss = self.l2 / 2 * weight.square().sum() - logs.gather(1, self.labels[:, None]).mean()
        errors = logs.exp_().sub_(self.targets).div_(len(self.x))
        self.theta.grad = torch.cat([torch.addmm(weight * self.l2, errors.T, self.x), errors.sum(0)[:, None]], dim=1)
        self.evaluated_at = self.theta.detach().clone()
        return self.loss

    def minimize(self, tolerance: float) -> Tensor:
        """Find theta [K, D + 1] where the loss is at most about `tolerance` above its minimum.

        Where the curvature is l2 or more the loss is within |gradient|^2 / (2 l2) of its minimum; the fit also ends where steps no longer
        lower it.
        """
        steps = LbfgsOptimizer([{"params": [self.theta]}], history=LBFGS_HISTORY)
        losses: list[float] = []
        for _ in range(MAX_STEPS):
            losses.append(float(self()))
            assert self.theta.grad is not None
            is_close = float(self.theta.grad.square().sum()) <= 2 * self.l2 * tolerance
            if is_close or (len(losses) > STALLED_STEPS and losses[-STALLED_STEPS - 1] - losses[-1] < tolerance / STALLED_STEPS):
                break
            steps.step(self)
        return self.theta.detach()


def deal_folds(labels: Tensor, folds: int, seed: int = 0) -> Tensor:
    """Deal images into folds [n]: every class, shuffled, evenly, each starting where the class before it ended."""
    order = Chance.of(seed, torch.arange(len(labels)), "folds").permutation()
    order = order[labels[order].argsort(stable=True)]  # class by class
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(labels)) % folds
    return fold


def fit_probe(features: NDArray[np.float32] | Tensor, labels: Tensor, classes: int, seed: int = 0) -> LinearProbe:
    """Fit the linear probe of features [n, D] to labels [n]: these, the training images, are all it ever sees.

    The penalty is the one of the least mean loss on held-out folds, along a path from strong to weak, each fit starting from the last.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(labels) < 2:
        raise DataError(f"Expected two images or more to fit a linear probe to, received {len(labels)}.")
    x = to_tensor(features)
    mean, std = x.mean(0), x.std(0, correction=0)
    std[std < 1e-6 * (1 + mean.abs())] = 1.0  # a feature that never changes stays out
    x = (x - mean) / std
    fold = deal_folds(labels, min(FOLDS if len(labels) < MANY_IMAGES else FEWER_FOLDS, len(labels)), seed)
    path: list[tuple[float, float]] = []
    best = BestPenalty(torch.zeros(classes, x.shape[1] + 1), torch.zeros_like(labels), 0.0)
    stale, starts = 0, [best.theta] * (int(fold.max()) + 1)
    for l2 in PENALTIES:
        loss, held = 0.0, torch.zeros_like(labels)
        for k, start in enumerate(starts):
            inside, outside = fold != k, fold == k
            starts[k] = theta = SoftmaxRegression(x[inside], labels[inside], start, l2).minimize(FOLD_LOSS_TOLERANCE)
            scores = torch.addmm(theta[:, -1], x[outside], theta[:, :-1].T)
            loss += float(F.cross_entropy(scores, labels[outside], reduction="sum")) / len(labels)
            held[outside] = scores.argmax(1)
        stale = 0 if not path or loss < (1 - MIN_GAIN) * min(other for _, other in path) else stale + 1
        path.append((l2, loss))
        if loss <= min(other for _, other in path):
            best = BestPenalty(starts[0], held, l2)
        if stale == MAX_STALE:
            break
    theta = SoftmaxRegression(x, labels, best.theta, best.l2).minimize(LOSS_TOLERANCE)
    weight = theta[:, :-1] / std
    return LinearProbe(weight, theta[:, -1] - weight @ mean, best.l2, best.held, tuple(path))


@dataclasses.dataclass(frozen=True, eq=False)
class BestPenalty:
    """The best penalty so far: the classifier of its first fold, to start from, and the classes of the held-out images."""

    theta: Tensor
    held: Tensor
    l2: float


# ---- labels and numbers ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Ridge:
    """A linear regression: `theta` [D, K] and `bias` [K]; `held_error` is its mean squared error on images it was not fitted to."""

    theta: Tensor
    bias: Tensor
    held_error: float

    def __call__(self, features: Tensor) -> Tensor:
        """The answers [n, K] for features [n, D]."""
        return features @ self.theta + self.bias


def fit_ridge(features: Tensor, targets: Tensor, penalties: Sequence[float] = RIDGE_PENALTIES) -> Ridge:
    """Fit a ridge regression of targets [n, K] to features [n, D], of the penalty that predicts each image best by a fit to the others.

    One decomposition, of the Gram matrix [n, n] or [D, D], whichever is smaller, serves all penalties and, in closed form, the
    predictions of each image by the others. Penalties are shares of the sum of squares of a mean feature.
    Source: Hoerl & Kennard 1970; Allen 1974 (PRESS).
    """
    mean, center, n = features.mean(0), targets.mean(0), len(features)
    x, y = features - mean, (targets - center).to(features.dtype)
    is_dual = n < x.shape[1]
    gram = (x @ x.T if is_dual else x.T @ x).double()
    unit = float(gram.trace()) / x.shape[1] or 1.0
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.clamp(min=0), vectors.to(x.dtype)
    left, back = (vectors, x.T @ vectors) if is_dual else (x @ vectors, vectors)
    fit = (left * values).to(x.dtype) if is_dual else left  # the hat matrix is fit @ diag(1 / (values + penalty)) @ left.T
    aim, both = left.T @ y, fit * left

    def held_error(penalty: float) -> float:
        shrunk = 1 / (values + penalty * unit).to(x.dtype)
        rest = (1 - 1 / n - both @ shrunk).clamp(min=1e-6)  # 1 / n is the leverage of the bias
        return float(((y - fit @ (aim * shrunk[:, None])) / rest[:, None]).square().mean())

    errors = [held_error(penalty) for penalty in penalties]
    error, penalty = min(zip(errors, penalties, strict=True), key=lambda pair: pair[0])
    theta = back @ (aim / (values + penalty * unit)[:, None]).to(x.dtype)
    return Ridge(theta, center - mean @ theta, error)
