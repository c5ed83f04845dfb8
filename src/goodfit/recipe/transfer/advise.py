"""The transfer advisor: which stages of a pretrained net to train on new data, and at what rate, by the lecture's table and probes."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from goodfit.core.words import count_of, format_percent
from goodfit.data.dataset import Dataset
from goodfit.data.index import SPLITS
from goodfit.models.weights.stages import find_stages
from goodfit.recipe.transfer.features import HEAD, FeatureNet, Progress, compute_features, feature_places
from goodfit.recipe.transfer.origin import Origin
from goodfit.recipe.transfer.probe import fit_probe
from goodfit.terminal.tables import format_table

# Of each split: an accuracy then has a standard error below one point.
MAX_PROBED_IMAGES = 4000
# The next three limits were found with a convnet(16) that had learned five classes of CIFAR-10; images are per class.
# Below this a linear classifier on fixed features is as good as training them: at 3 images it was level with training stages, at 9 it
# was 4 points behind; Chen et al. 2019 find it level at 1 and 5.
MIN_IMAGES_TO_TRAIN_STAGES = 5
# Below this it is little data. On different data training half of the stages was level with training all at 9 and at 43 images, and 5
# points behind at 170; the fewer learn, the less can be overfitted.
LITTLE_DATA = 25
# From here on even similar data gains by training all stages at the full rate: it was 1.5 points behind half of them at 43 images, level
# at 170 and 3 points ahead at 850.
MIN_IMAGES_TO_TRAIN_ALL = 120
# Of the errors that a probe makes on the last stage of random weights, the learned ones take away this share or more on similar data:
# other classes of the same photos came to 0.52 to 0.54 at 9 to 850 images per class, photos of clothing to 0.16 to 0.20.
MIN_SIMILARITY = 0.35
# A probe as accurate as this leaves nothing to gain that a training with little data could show.
SOLVED_ACCURACY = 0.98
SIGNIFICANT_ERRORS = 2.0  # standard errors
# The stages below the head move at a tenth of its rate, as the lecture says, where little data is similar; with much data 0.3 was 0.7
# points better at 43 images and the full rate no better still; on different data a tenth was 5 points worse than the full rate.
TENTH_RATE, THIRD_RATE, FULL_RATE = "backbone(0.1)", "backbone(0.3)", "none"
LECTURE = {
    ("little", "similar"): "use a linear classifier on the top layer",
    ("little", "different"): "you're in trouble: try a linear classifier from different stages",
    ("much", "similar"): "finetune a few layers",
    ("much", "different"): "finetune a larger number of layers",
}


@dataclasses.dataclass(frozen=True)
class StageProbe:
    """The linear probe of a stage: the length of its features, and its accuracy on images it was not fitted to.

    `random` is the accuracy for the same stage with random weights; `error` and `random_error` are their standard errors.
    """

    name: str
    length: int
    accuracy: float
    error: float
    random: float
    random_error: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to train, and the evidence: `trainable` and `rates` as a recipe has them.

    `amount` and `kinship` name the cell of the lecture's table, `per_class` is the median of the training images of a class, `judged`
    the number of images behind each accuracy, `chance` the accuracy of always naming the commonest class. `similarity` is the share of the
    errors on the last stage's random features that the pretrained ones avoid. `best` is the stage whose probe is best, `rungs` are the
    probes of all stages.
    """

    trainable: str
    rates: str
    amount: str
    kinship: str
    per_class: float
    judged: int
    chance: float
    similarity: float
    similarity_error: float
    best: str
    rungs: tuple[StageProbe, ...]
    reasons: tuple[str, ...]

    @property
    def lecture(self) -> str:
        """What the lecture says of that cell."""
        return LECTURE[self.amount, self.kinship]

    @property
    def patch(self) -> str:
        """Options for goodfit train."""
        return f'--trainable "{self.trainable}" --rates "{self.rates}"'

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "lecture": self.lecture, "patch": self.patch}

    def table(self) -> str:
        """The accuracy of the probe by stage, as aligned text with bars."""
        rows = []
        for probe in self.rungs:
            learned, random = (
                f"{format_percent(a)} ± {format_percent(e)}" for a, e in ((probe.accuracy, probe.error), (probe.random, probe.random_error))
            )
            bar = "█" * round(30 * probe.accuracy) + (" best" if probe.name == self.best else "")
            rows.append((probe.name, f"{probe.length:,}", learned, random, bar))
        header = ("stage", "features", "learned", "random", f"linear probe, {count_of(self.judged, 'image')} held out")
        return format_table(rows, "<><<<", header)


def advise(origin: Origin, progress: Progress = lambda done, total: None) -> Advice:
    """Measure data and net, and advise what to train; only training images are fitted to, and no test image is looked at.

    Raises:
        DataError: there are too few images to fit a probe to.
        UsageError: the net does not take the images.
    """
    data = origin.data
    splits = tuple(data.sample_rows(split, MAX_PROBED_IMAGES) for split in SPLITS[:2])
    places = feature_places(origin.pretrained.model)
    places = places[:-1] if len(places) > 1 and _head_input_is_last_stage(origin.pretrained, data, splits[1], places) else places
    pretrained = _probe_places(origin.pretrained, data, splits, places, progress)
    random = _probe_places(origin.random, data, splits, places, progress)
    probes = tuple(
        StageProbe(
            place, pretrained[place].length, *accuracy_with_error(pretrained[place].right), *accuracy_with_error(random[place].right)
        )
        for place in places
    )
    similarity, error = feature_similarity(pretrained[places[-1]].right, random[places[-1]].right)
    return decide(origin, probes, {place: result.right for place, result in pretrained.items()}, similarity, error)


# ---- measuring ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult:
    """Which images [train + validation] a probe got right that it was not fitted to, and the length of its features."""

    right: Tensor
    length: int


def _head_input_is_last_stage(net: FeatureNet, data: Dataset, rows: Tensor, places: list[str]) -> bool:
    """Whether the input of the head is the pooled output of the last stage."""
    features = compute_features(net, data, rows[:2], places[-2:])
    last, head = (features[place] for place in places[-2:])
    return last.shape == head.shape and bool(abs(last - head).max() <= 1e-4 * (1 + abs(head).max()))


def _probe_places(
    net: FeatureNet, data: Dataset, splits: tuple[Tensor, ...], places: list[str], progress: Progress
) -> dict[str, ProbeResult]:
    """Fit a probe at each place: training images are judged by probes of the other folds, validation images by that of all."""
    train, validation = (compute_features(net, data, rows, places, progress) for rows in splits)
    train_labels, validation_labels = (data.labels[rows] for rows in splits)
    results = {}
    for place in places:
        probe = fit_probe(train[place], train_labels, len(data.classes))
        right = torch.cat([probe.held == train_labels, probe(validation[place]).argmax(1) == validation_labels])
        results[place] = ProbeResult(right, train[place].shape[1])
    return results


def accuracy_with_error(right: Tensor) -> tuple[float, float]:
    """The share that is right, and its standard error.

    The error counts one more image right and one more wrong, since none or all right is not certain.
    """
    n = len(right)
    p = (float(right.sum()) + 1) / (n + 2)
    return float(right.double().mean()), math.sqrt(p * (1 - p) / n)


def feature_similarity(pretrained: Tensor, random: Tensor) -> tuple[float, float]:
    """The share of the random features' errors that the pretrained ones avoid, from -1 to 1, and its standard error."""
    (p, p_error), (q, q_error) = accuracy_with_error(pretrained), accuracy_with_error(random)
    wrong = max(1 - q, 1 / len(random))
    similarity = min(max((p - q) / wrong, -1.0), 1.0)
    return similarity, math.sqrt(p_error**2 + ((1 - similarity) * q_error) ** 2) / wrong


def lead_in_errors(a: Tensor, b: Tensor) -> float:
    """By how many standard errors one probe is ahead of another on the same images (paired)."""
    d = a.double() - b.double()
    spread = float(d.std(correction=0)) / math.sqrt(len(d))
    return float(d.mean()) / spread if spread else 0.0


# ---- deciding ----------------------------------------------------------------------------------------------------------------------


def decide(origin: Origin, probes: tuple[StageProbe, ...], right: dict[str, Tensor], similarity: float, error: float) -> Advice:
    """Find the cell of the lecture's table, and what to train in it."""
    counts = origin.data.class_counts()
    per_class, chance = statistics.median(counts), max(counts) / sum(counts)
    amount, kinship = "little" if per_class < LITTLE_DATA else "much", "similar" if similarity >= MIN_SIMILARITY else "different"
    best, last = max(probes, key=lambda probe: probe.accuracy), probes[-1]
    earlier_is_better = lead_in_errors(right[best.name], right[last.name]) > SIGNIFICANT_ERRORS
    doubt = "; two standard errors reach across it" if abs(similarity - MIN_SIMILARITY) < SIGNIFICANT_ERRORS * error else ""
    is_solved = per_class < MIN_IMAGES_TO_TRAIN_STAGES or (amount == "little" and last.accuracy >= SOLVED_ACCURACY)
    linear_is_enough = kinship == "similar" and not earlier_is_better and is_solved
    trainable, rates, why = _what_to_train(per_class, kinship, linear_is_enough, len(find_stages(origin.pretrained.model)))
    pretrained, random, avoided = (format_percent(x) for x in (last.accuracy, last.random, similarity))
    reasons = (
        f"{per_class:g} training images per class are {amount} data (the limit is {LITTLE_DATA}).",
        f"On {last.name} a linear probe gets {pretrained} right with the pretrained weights, {random} with random weights, and"
        f" {format_percent(chance)} by always naming the commonest class: {avoided} ± {format_percent(error)} of the errors of random"
        f" weights are avoided, so the data is {kinship} (the limit is {format_percent(MIN_SIMILARITY, 0)}{doubt}).",
        *([f"{best.name} serves better than {last.name}, which is too specific to the source."] if earlier_is_better else []),
        why,
    )
    n = len(right[last.name])
    return Advice(trainable, rates, amount, kinship, per_class, n, chance, similarity, error, best.name, probes, reasons)


def _what_to_train(per_class: float, kinship: str, linear_is_enough: bool, n_stages: int) -> tuple[str, str, str]:
    """What to train at what rate, and why."""
    later_half = f"last({max(1, n_stages // 2)})"
    if not n_stages:
        return "all", FULL_RATE, "The net is one linear layer, so there is nothing to hold back."
    if linear_is_enough:
        return HEAD, FULL_RATE, "A linear classifier is enough: so few images teach no more, or little is left to gain."
    if kinship == "similar" and per_class < MIN_IMAGES_TO_TRAIN_ALL:
        rates, factor = (TENTH_RATE, "a tenth") if per_class < LITTLE_DATA else (THIRD_RATE, "0.3")
        return later_half, rates, f"Train the later half of the stages at {factor} of the head's rate: they are nearly right."
    if per_class < LITTLE_DATA:
        return later_half, FULL_RATE, "Train the later half of the stages at the full rate; the early ones hold for any images."
    why = "there are images enough" if kinship == "similar" else "what the net has learned is only a start"
    return "all", FULL_RATE, f"Train all stages at the full rate: {why}."
