"""Labels against images: do neighbors agree, and which labels contradict what the others teach."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.interval import Z_95, wilson_interval
from goodfit.data.index import IntArray
from goodfit.doctor.audit.features import FloatArray, find_neighbors, standardize
from goodfit.doctor.pixels import spread
from goodfit.recipe.transfer.probe import SoftmaxRegression, deal_folds

NEIGHBORS = 5
MAX_QUERIES, MAX_GALLERY = 3000, 12_000  # images whose neighbors are looked up, and among how many, evenly spread
FOLDS, PENALTIES = 5, (0.1, 0.01, 0.001)
MAX_STEPS, LOSS_TOLERANCE = 200, 1e-5  # of a fit
# Where features tell the classes apart, wrong labels are as frequent among the surest predictions as among middling ones; where they do
# not, the surest are wrong far less often than middling ones. Only the first says anything of the labels.
SUREST, MIDDLING = 0.2, 0.6  # shares of the images, by how sure their out-of-fold prediction is
# The middling ones may be contradicted this much more often, and the surest at most so often: with pixels of photos as features it is 2.2
# times as often, or a share of 0.45.
MAX_RISE, MAX_SHARE = 1.2, 0.4


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The share of an image's nearest neighbors that have its label: `share`, its 95 % `interval`, what it would be by `chance`, and
    `corrected`: 0 for chance, 1 for full agreement.
    """

    share: float
    interval: tuple[float, float]
    chance: float
    corrected: float


def measure_agreement(features: FloatArray, labels: IntArray, k: int = NEIGHBORS) -> Agreement:
    """Measure how often the k nearest neighbors by `features` [N, D] have the same label [N]."""
    rows, neighbors = find_some_neighbors(features, k)
    shares = (labels[neighbors] == labels[rows, None]).mean(axis=1)
    share, error = float(shares.mean()), float(shares.std() / max(len(shares), 1) ** 0.5)
    frequencies = np.bincount(labels) / len(labels)
    chance = float((frequencies**2).sum())
    return Agreement(
        share, (max(0.0, share - Z_95 * error), min(1.0, share + Z_95 * error)), chance, (share - chance) / max(1 - chance, 1e-9)
    )


def find_some_neighbors(features: FloatArray, k: int) -> tuple[IntArray, IntArray]:
    """The rows of up to MAX_QUERIES of `features` [N, D] and those of the k nearest others of up to MAX_GALLERY: [n] and [n, k]."""
    gallery = spread(len(features), MAX_GALLERY)
    places = spread(len(gallery), MAX_QUERIES)
    near = find_neighbors(features[gallery][places], k + 1, features[gallery])
    is_other = near != places[:, None]
    is_other[is_other.all(axis=1), -1] = False  # where equal images hide the image itself
    return gallery[places], gallery[near[is_other].reshape(len(places), -1)]


def predict_out_of_fold(features: FloatArray, labels: IntArray, classes: int, seed: int = 0) -> FloatArray:
    """The probabilities [N, K] that linear probes of `features` [N, D] give images that they were not fitted to.

    The penalty is that of the least held-out loss.
    """
    x, y = torch.from_numpy(standardize(features)), torch.from_numpy(labels)
    fold = deal_folds(y, min(FOLDS, len(y)), seed)
    best, least = torch.full((len(y), classes), 1 / classes), torch.inf
    starts = [torch.zeros(classes, x.shape[1] + 1) for _ in range(int(fold.max()) + 1)]
    for l2 in PENALTIES:
        scores = torch.zeros(len(y), classes)
        for k, start in enumerate(starts):
            inside, outside = fold != k, fold == k
            starts[k] = theta = fit_softmax(SoftmaxRegression(x[inside], y[inside], start, l2))
            scores[outside] = torch.addmm(theta[:, -1], x[outside], theta[:, :-1].T)
        loss = float(F.cross_entropy(scores, y))
        if loss >= least:
            break
        best, least = scores.softmax(1), loss
    result: FloatArray = best.numpy()
    return result


def fit_softmax(regression: SoftmaxRegression) -> Tensor:
    """Find the theta [K, D + 1] of the least loss by SciPy's L-BFGS: torch's optimizers import its compiler, which takes seconds."""

    def evaluate(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        with torch.no_grad():
            regression.theta.copy_(torch.from_numpy(values).view_as(regression.theta))
        loss = float(regression())
        assert regression.theta.grad is not None
        return loss, regression.theta.grad.double().flatten().numpy()

    start = regression.theta.detach().double().flatten().numpy()
    options = {"maxiter": MAX_STEPS, "ftol": LOSS_TOLERANCE}
    found = minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found).float().view_as(regression.theta)


def predict_from_neighbors(features: FloatArray, labels: IntArray, others: FloatArray, classes: int, k: int = NEIGHBORS) -> IntArray:
    """The class [M] that is the most frequent among the k of `features` [N, D] nearest to each of `others` [M, D], by labels [N]."""
    votes = np.zeros((len(others), classes), dtype=np.int64)
    for column in find_neighbors(others, k, features).T:
        votes[np.arange(len(others)), labels[column]] += 1
    predicted: IntArray = votes.argmax(axis=1)
    return predicted


@dataclasses.dataclass(frozen=True, eq=False)
class LabelNoise:
    """How many labels contradict what the other images teach.

    `share` of the labels and its 95 % `interval` are estimated from the images whose prediction is surest. `is_telling` says whether the
    predictions are good enough for that to be about the labels. `joint` [K, K] is the estimated share of images by label (row) and class
    (column), `suspects` are the rows of the images that contradict their label, the surest first. `pair` is the label and the class of the
    most frequent confusion, `pair_share` its part of all wrong labels, `pair_rate` the part of images of that class that carry the label.
    """

    share: float
    interval: tuple[float, float]
    is_telling: bool
    joint: NDArray[np.float64]
    suspects: IntArray
    pair: tuple[int, int]
    pair_share: float
    pair_rate: float


def estimate_label_noise(probabilities: FloatArray, labels: IntArray) -> LabelNoise:
    """Estimate which labels [N] are wrong from probabilities [N, K] of models that were not trained on the image itself.

    The joint is that of confident learning (Northcutt et al. 2021); the share comes from the images whose prediction is surest, where
    models err least.
    """
    n, classes = probabilities.shape
    predicted, order = probabilities.argmax(axis=1), np.sort(probabilities, axis=1)
    is_contradicted = predicted != labels
    margin = order[:, -1] - (order[:, -2] if classes > 1 else 0)
    ranks = rank_within(margin, predicted)
    surest, middling = ranks <= SUREST, (ranks > SUREST) & (ranks <= MIDDLING)
    wrong, wrong_middling = int(is_contradicted[surest].sum()), float(is_contradicted[middling].mean()) if middling.any() else 1.0
    share, interval = wrong / max(int(surest.sum()), 1), wilson_interval(wrong, max(int(surest.sum()), 1))
    joint = count_confident_joint(probabilities, labels)
    outside = joint * (1 - np.eye(classes))
    label, truth = (int(i) for i in np.unravel_index(outside.argmax(), outside.shape))
    own = probabilities[np.arange(n), labels]
    suspects = np.flatnonzero(is_contradicted)
    return LabelNoise(
        share,
        interval,
        share <= MAX_SHARE and wrong_middling <= MAX_RISE * interval[1],
        joint,
        suspects[np.argsort((own - order[:, -1])[suspects], kind="stable")],
        (label, truth),
        float(outside[label, truth] / max(outside.sum(), 1e-12)),
        float(joint[label, truth] / max(joint[:, truth].sum(), 1e-12)),
    )


def rank_within(values: FloatArray, groups: IntArray) -> NDArray[np.float64]:
    """The rank of each value [N] among those of its group [N], from the largest (near 0) to the smallest (1)."""
    order = np.lexsort((-values, groups))
    counts = np.bincount(groups)
    ranks = np.empty(len(values))
    ranks[order] = np.concatenate([(np.arange(n) + 1) / n for n in counts if n]) if len(values) else 0
    return ranks


def count_confident_joint(probabilities: FloatArray, labels: IntArray) -> NDArray[np.float64]:
    """The share of images [K, K] by label and by the class that is surest among those as sure as is usual for images of their label."""
    n, classes = probabilities.shape
    counts = np.bincount(labels, minlength=classes)
    usual = np.array([probabilities[labels == k, k].mean() if counts[k] else np.inf for k in range(classes)])
    excess = np.where(probabilities >= usual, probabilities, -1)
    chosen, is_sure = excess.argmax(axis=1), excess.max(axis=1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[is_sure], chosen[is_sure]), 1)
    rows = joint.sum(axis=1, keepdims=True)
    estimate: NDArray[np.float64] = np.where(rows > 0, joint / np.maximum(rows, 1), np.eye(classes)) * counts[:, None] / max(n, 1)
    return estimate
