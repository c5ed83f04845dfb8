"""The transfer advisor: how well each stage of a pretrained net serves new images, by linear probes, and what a training would train."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import numpy as np
from torch import Tensor

from goodfit.core.words import count_of, format_percent
from goodfit.data.dataset import Dataset
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.parts import refuse_other_tasks
from goodfit.recipe.transfer.defaults import MIN_IMAGES_PER_CLASS, choose_length, choose_trainable, seconds_of
from goodfit.recipe.transfer.domain_shift import is_similar, measure_shift
from goodfit.recipe.transfer.features import HEAD, FeatureNet, Progress, Vectors, compute_features, feature_places
from goodfit.recipe.transfer.probe import fit_probe
from goodfit.recipe.transfer.start import MAX_PROBE_IMAGES
from goodfit.terminal.tables import format_table

COMPARED_IMAGES = 64  # that tell whether two features are the same
LECTURE = {
    ("little", "similar"): "use a linear classifier on the top layer",
    ("little", "different"): "you're in trouble: try a linear classifier from different stages",
    ("much", "similar"): "finetune a few layers",
    ("much", "different"): "finetune a larger number of layers",
}


@dataclasses.dataclass(frozen=True)
class StageProbe:
    """The linear probe of a stage: the length of its features, and its accuracy on images it was not fitted to, with its error."""

    name: str
    length: int
    accuracy: float
    error: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to train, as a recipe has it, with the rule and the evidence that a training would give for it.

    `amount` and `kinship` name the cell of the lecture's table: the data is little with fewer images per class than the head alone needs,
    and different where it moves the statistics of the net's norms far from those of the pretraining. `per_class` is the median of the
    training images of a class, `judged` the number of images behind each accuracy, `chance` the accuracy of always naming the commonest
    class, `best` the stage whose probe is best.
    """

    trainable: str
    rule: str
    evidence: str
    amount: str
    kinship: str
    per_class: float
    judged: int
    chance: float
    best: str
    probes: tuple[StageProbe, ...]

    @property
    def lecture(self) -> str:
        """What the lecture says of that cell."""
        return LECTURE[self.amount, self.kinship]

    @property
    def patch(self) -> str:
        """The option for goodfit train."""
        return f"--trainable '{self.trainable}'"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "lecture": self.lecture, "patch": self.patch}

    def table(self) -> str:
        """The accuracy of the probe by stage, as aligned text with bars."""
        rows = []
        for probe in self.probes:
            bar = "█" * round(30 * probe.accuracy) + (" best" if probe.name == self.best else "")
            rows.append((probe.name, f"{probe.length:,}", f"{format_percent(probe.accuracy)} ± {format_percent(probe.error)}", bar))
        return format_table(rows, "<><<", ("stage", "features", "right", f"linear probe, {count_of(self.judged, 'image')} held out"))


def advise(chooser: Chooser, net: FeatureNet, data: Dataset, progress: Progress = lambda done, total: None) -> Advice:
    """Probe every stage of a net on open data, and say what a training of that recipe would train; a budget in minutes counts from now.

    Only training images are looked at; each is judged by a probe that was not fitted to it.

    Raises:
        DataError: there are too few images to fit a probe to.
        UsageError: the net does not take the images.
    """
    refuse_other_tasks(chooser.recipe.task, "advise")
    rows, places = data.sample_rows("train", MAX_PROBE_IMAGES), feature_places(net.model)
    features, labels = compute_features(net, data, rows, places, progress), data.labels[rows]
    if len(places) > 1 and is_same(features[places[-2]], features[HEAD]):  # the input of the head is the last stage, pooled
        del features[places[-2]]
    right = {place: fit_probe(x, labels, len(data.classes)).held == labels for place, x in features.items()}
    probes = tuple(StageProbe(place, features[place].shape[1], *accuracy_with_error(hits)) for place, hits in right.items())
    shift = measure_shift(net, data)
    choosing = Chooser(chooser.recipe.but(trainable="auto"), chooser.catalog)
    choose_length(choosing, data)
    choose_trainable(choosing, net.model, data, seconds_of(choosing.recipe.budget), shift)
    choice, counts = choosing.choices[-1], data.class_counts()
    return Advice(
        str(choice.value),
        choice.rule,
        choice.evidence,
        "little" if statistics.median(counts) < MIN_IMAGES_PER_CLASS else "much",
        "similar" if is_similar(shift) else "different",
        statistics.median(counts),
        len(rows),
        max(counts) / sum(counts),
        max(probes, key=lambda probe: probe.accuracy).name,
        probes,
    )


def is_same(a: Vectors, b: Vectors) -> bool:
    """Whether two features of the same images are equal but for rounding."""
    a, b = a[:COMPARED_IMAGES], b[:COMPARED_IMAGES]
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4 * (1 + float(abs(b).max())))


def accuracy_with_error(right: Tensor) -> tuple[float, float]:
    """The share that is right, and its standard error.

    The error counts one more image right and one more wrong, since none or all right is not certain.
    """
    n = len(right)
    p = (float(right.sum()) + 1) / (n + 2)
    return float(right.double().mean()), math.sqrt(p * (1 - p) / n)
