"""The advisor: which stages of a trained net to train on new data, and at what rate, from the lecture's table and measured probes."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.words import count, percent
from goodfit.data.dataset import Dataset
from goodfit.models.stages import stages
from goodfit.study.features import HEAD, Net, Progress, Vectors, features, places
from goodfit.study.origin import Origin
from goodfit.study.probe import probe

# Images of each split that are looked at, at most: an accuracy then has a standard error below one point.
MOST = 4000
# Below so few training images per class a linear classifier on fixed features is as good as moving them: at 3 images it was level with
# training stages, at 9 it was behind by 4 points (bench/transfer.py); Chen et al. 2019 find the same at 1 and 5.
FEWEST = 5
# Below it is little data, between 9 images per class, where training all stages of a net was no better than training half of them and
# often worse, and 43, where on different data it was better by far (bench/transfer.py).
LITTLE = 25
# From here on even similar data gains by training all stages at the full rate: at 170 images per class it was level, at 850 ahead by 3
# points; at 43 behind by 2 (bench/transfer.py).
PLENTY = 120
# Of the errors that a probe makes on the last stage of random weights, the learned ones take away this share or more on similar data:
# other classes of the same photos came to 0.52 to 0.54 at 9 to 850 images per class, photos of clothing to 0.16 to 0.20.
SIMILAR = 0.35
# A probe that errs on so few leaves nothing to gain that a training with little data could show.
SOLVED = 0.98
GENTLE, FULL = "backbone(0.1)", "none"

LECTURE = {
    ("little", "similar"): "use a linear classifier on the top layer",
    ("little", "different"): "you're in trouble: try a linear classifier from different stages",
    ("much", "similar"): "finetune a few layers",
    ("much", "different"): "finetune a larger number of layers",
}


@dataclasses.dataclass(frozen=True)
class Rung:
    """A stage: how long its features are, and the share of images that a linear probe of them gets right, which it was not fitted to.

    `random` is that of the same stage with random weights; `error` and `random_error` are standard errors.
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
    the images behind each accuracy, `chance` the accuracy of always naming the commonest class. `similarity` is the share of the errors
    on the last stage's random features that the learned ones take away. `best` is the stage whose probe is best.
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
    rungs: tuple[Rung, ...]
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
        width = max(len(rung.name) for rung in self.rungs)
        lines = [f"{'stage':{width}}  features  learned          random           linear probe, {count(self.judged, 'image')} held out"]
        for rung in self.rungs:
            learned, random = (f"{percent(a)} ± {percent(e)}" for a, e in ((rung.accuracy, rung.error), (rung.random, rung.random_error)))
            bar = "█" * round(30 * rung.accuracy) + (" best" if rung.name == self.best else "")
            lines.append(f"{rung.name:{width}}  {rung.length:8,}  {learned:15}  {random:15}  {bar}")
        return "\n".join(lines)


def advice(origin: Origin, progress: Progress = lambda done, total: None) -> Advice:
    """Measure data and net, and advise; nothing but training images is fitted to, and no test image is looked at.

    Raises:
        DataError: there are too few images to fit a probe to.
        UsageError: the net does not take the images.
    """
    data = origin.data
    train, validation = (some(data.rows(split)) for split in ("train", "validation"))
    names = places(origin.learned.model)
    names = names[:-1] if len(names) > 1 and head_takes_last(origin.learned, data, validation, names) else names
    learned = measured(origin.learned, data, (train, validation), names, progress)
    random = measured(origin.random, data, (train, validation), names, progress)
    rungs = []
    for name in names:
        (right, length), (wild, _) = learned[name], random[name]
        rungs.append(Rung(name, length, share(right), error(right), share(wild), error(wild)))
    similarity, doubt = carried(learned[names[-1]][0], random[names[-1]][0])
    return decide(origin, tuple(rungs), {name: right for name, (right, _) in learned.items()}, (similarity, doubt))


def some(rows: Tensor) -> Tensor:
    """At most as many of the rows as a probe needs, at random."""
    return rows[Chance.of(0, rows, "advice").permutation()[:MOST].sort().values]


def head_takes_last(net: Net, data: Dataset, rows: Tensor, names: list[str]) -> bool:
    """Whether the head takes in what the last stage puts out, pooled."""
    found = features(net, data, rows[:2], names[-2:])
    last, end = (found[name] for name in names[-2:])
    return last.shape == end.shape and bool(abs(last - end).max() <= 1e-4 * (1 + abs(end).max()))


def measured(net: Net, data: Dataset, splits: tuple[Tensor, Tensor], names: list[str], progress: Progress) -> dict[str, tuple[Tensor, int]]:
    """By place: which images [train + validation] a probe got right that was not fitted to them, and the length of the features."""
    train, validation = (features(net, data, rows, names, progress) for rows in splits)
    return {name: (right(train[name], validation[name], data, splits), train[name].shape[1]) for name in names}


def right(train: Vectors, validation: Vectors, data: Dataset, splits: tuple[Tensor, Tensor]) -> Tensor:
    """Whether [n] each image's class was found: training images by probes of the other folds, validation images by that of all."""
    labels = [data.labels[rows] for rows in splits]
    fitted = probe(train, labels[0], len(data.classes))
    return torch.cat([fitted.held == labels[0], fitted(validation).argmax(1) == labels[1]])


def share(right: Tensor) -> float:
    return float(right.double().mean())


def error(right: Tensor) -> float:
    """The standard error of a share; as if one image more had been right and one wrong, for none or all right is not certain."""
    n = len(right)
    p = (float(right.sum()) + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / n)


def carried(learned: Tensor, random: Tensor) -> tuple[float, float]:
    """The share of the random features' errors that the learned ones take away, from -1 to 1, and its standard error."""
    p, q = share(learned), share(random)
    wrong = max(1 - q, 1 / len(random))
    similarity = min(max((p - q) / wrong, -1.0), 1.0)
    doubt = math.sqrt(error(learned) ** 2 + ((1 - similarity) * error(random)) ** 2) / wrong
    return similarity, doubt


def ahead(a: Tensor, b: Tensor) -> float:
    """By how many standard errors one probe is ahead of another on the same images (paired)."""
    d = a.double() - b.double()
    spread = float(d.std(correction=0)) / math.sqrt(len(d))
    return float(d.mean()) / spread if spread else 0.0


def decide(origin: Origin, rungs: tuple[Rung, ...], right: dict[str, Tensor], similar: tuple[float, float]) -> Advice:
    """The cell, and what to do in it."""
    data, (similarity, doubt) = origin.data, similar
    counts = data.counts()
    per_class = statistics.median(counts)
    amount, kinship = "little" if per_class < LITTLE else "much", "similar" if similarity >= SIMILAR else "different"
    best = max(rungs, key=lambda rung: rung.accuracy)
    last = rungs[-1]
    if best is not last and ahead(right[best.name], right[last.name]) < 2:
        best = last  # what cannot be told from the last is no reason to leave it
    there = len(stages(origin.learned.model))
    trainable, rates, why = action(per_class, kinship, best, (last, there))
    chance = max(counts) / sum(counts)
    doubtful = "; two standard errors reach across it" if abs(similarity - SIMILAR) < 2 * doubt else ""
    reasons = (
        f"{per_class:g} training images per class are {amount} data (the line is at {LITTLE}).",
        f"On {last.name} a linear probe gets {percent(last.accuracy)} right with what the net has learned, {percent(last.random)} with"
        f" random weights, {percent(chance)} by always naming the commonest class: {percent(similarity)} ± {percent(doubt)} of the errors"
        f" of random weights are gone, so the data is {kinship} (the line is at {percent(SIMILAR, 0)}{doubtful}).",
        *([] if best is last else [f"{best.name} is better than {last.name}: what the later stages know does not serve here."]),
        why,
    )
    n = len(next(iter(right.values())))
    return Advice(trainable, rates, amount, kinship, per_class, n, chance, similarity, doubt, best.name, rungs, reasons)


def action(per_class: float, kinship: str, best: Rung, end: tuple[Rung, int]) -> tuple[str, str, str]:
    """What to train at what rate, and why."""
    last, there = end
    half = max(1, there // 2)
    if not there:
        return "all", FULL, "The net is one linear layer, so there is nothing to hold back."
    if best is last and kinship == "similar" and (per_class < FEWEST or (per_class < LITTLE and last.accuracy >= SOLVED)):
        why = "with so few images" if per_class < FEWEST else "which is nearly always right"
        return HEAD, FULL, f"A linear classifier on {last.name} is enough, {why}."
    if per_class < LITTLE:
        rates = GENTLE if kinship == "similar" else FULL
        why = "a tenth of the rate: they know it nearly" if rates == GENTLE else "the full rate: they have to learn anew"
        return f"last({half})", rates, f"The later half of the stages learns, at {why}; the early ones keep what holds for any images."
    if kinship == "similar" and per_class < PLENTY:
        return f"last({half})", GENTLE, "The later half of the stages learns, at a tenth of the rate: they know it nearly."
    why = "there are images enough" if kinship == "similar" else "what it has learned is only a start here"
    return "all", FULL, f"All stages learn at the full rate, for {why}."
