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
from goodfit.models.weights.stages import stages
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.features import HEAD, Net, Progress, Vectors, features, places
from goodfit.recipe.transfer.origin import Origin, origin
from goodfit.recipe.transfer.probe import probe
from goodfit.terminal.reporter import Voice

# Images of each split that are looked at, at most: an accuracy then has a standard error below one point.
MOST = 4000
# The next three lines were found with a convnet(16) that had learned five classes of CIFAR-10 (bench/transfer.py); images are per class.
# Below so few a linear classifier on fixed features is as good as moving them: at 3 images it was level with training stages, at 9 it
# was 4 points behind; Chen et al. 2019 find it level at 1 and 5.
FEWEST = 5
# Below it is little data. On different data training half of the stages was level with training all at 9 and at 43 images, and 5 points
# behind at 170; the fewer learn, the less can be overfitted.
LITTLE = 25
# From here on even similar data gains by training all stages at the full rate: it was 1.5 points behind half of them at 43 images, level
# at 170 and 3 points ahead at 850.
PLENTY = 120
# Of the errors that a probe makes on the last stage of random weights, the learned ones take away this share or more on similar data:
# other classes of the same photos came to 0.52 to 0.54 at 9 to 850 images per class, photos of clothing to 0.16 to 0.20.
SIMILAR = 0.35
# A probe that errs on so few leaves nothing to gain that a training with little data could show.
SOLVED = 0.98
SURE = 2.0  # standard errors
# What is below the head moves at a tenth of its rate, as the lecture has it, where little data is similar; where it is much, 0.3 was 0.7
# points better at 43 images and the full rate no better still; on different data a tenth was 5 points worse than the full rate.
GENTLE, FIRM, FULL = "backbone(0.1)", "backbone(0.3)", "none"

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


def advice(there: Origin, progress: Progress = lambda done, total: None) -> Advice:
    """Measure data and net, and advise; nothing but training images is fitted to, and no test image is looked at.

    Raises:
        DataError: there are too few images to fit a probe to.
        UsageError: the net does not take the images.
    """
    data = there.data
    train, validation = (some(data.rows(split)) for split in ("train", "validation"))
    names = places(there.learned.model)
    names = names[:-1] if len(names) > 1 and head_takes_last(there.learned, data, validation, names) else names
    learned = measured(there.learned, data, (train, validation), names, progress)
    random = measured(there.random, data, (train, validation), names, progress)
    rungs = []
    for name in names:
        (right, length), (wild, _) = learned[name], random[name]
        rungs.append(Rung(name, length, share(right), error(right), share(wild), error(wild)))
    similarity, doubt = carried(learned[names[-1]][0], random[names[-1]][0])
    return decide(there, tuple(rungs), {name: right for name, (right, _) in learned.items()}, (similarity, doubt))


def resolved(asked: Recipe, voice: Voice) -> Recipe:
    """The recipe with `trainable`, where it is "auto", as advised for its source and data, and `rates` where they are "auto", too."""
    if asked.trainable != "auto":
        return asked
    if not asked.source:
        return asked.but(trainable="all")
    found = advice(origin(asked, voice))
    for reason in found.reasons:
        voice.say(reason)
    return asked.but(trainable=found.trainable, rates=found.rates if asked.rates == "auto" else asked.rates)


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


def decide(there: Origin, rungs: tuple[Rung, ...], right: dict[str, Tensor], similar: tuple[float, float]) -> Advice:
    """The cell of the table, and what to do in it."""
    counts, (similarity, doubt) = there.data.class_counts(), similar
    per_class, chance = statistics.median(counts), max(counts) / sum(counts)
    amount, kinship = "little" if per_class < LITTLE else "much", "similar" if similarity >= SIMILAR else "different"
    best, last = max(rungs, key=lambda rung: rung.accuracy), rungs[-1]
    sooner = ahead(right[best.name], right[last.name]) > SURE
    doubtful = "; two standard errors reach across it" if abs(similarity - SIMILAR) < SURE * doubt else ""
    linear = kinship == "similar" and not sooner and (per_class < FEWEST or (amount == "little" and last.accuracy >= SOLVED))
    trainable, rates, why = action(per_class, kinship, linear, len(stages(there.learned.model)))
    reasons = (
        f"{per_class:g} training images per class are {amount} data (the line is at {LITTLE}).",
        f"On {last.name} a linear probe gets {percent(last.accuracy)} right with what the net has learned, {percent(last.random)} with"
        f" random weights, {percent(chance)} by always naming the commonest class: {percent(similarity)} ± {percent(doubt)} of the errors"
        f" of random weights are gone, so the data is {kinship} (the line is at {percent(SIMILAR, 0)}{doubtful}).",
        *([f"{best.name} serves better than {last.name}, which knows too much of the source."] if sooner else []),
        why,
    )
    n = len(right[last.name])
    return Advice(trainable, rates, amount, kinship, per_class, n, chance, similarity, doubt, best.name, rungs, reasons)


def action(per_class: float, kinship: str, linear: bool, n: int) -> tuple[str, str, str]:
    """What to train at what rate, and why, for a net of n stages."""
    half = f"last({max(1, n // 2)})"
    if not n:
        return "all", FULL, "The net is one linear layer, so there is nothing to hold back."
    if linear:
        return HEAD, FULL, "A linear classifier is enough: more could not be learned from so few images, or is hardly left to learn."
    if kinship == "similar" and per_class < PLENTY:
        rates, word = (GENTLE, "a tenth") if per_class < LITTLE else (FIRM, "0.3")
        return half, rates, f"The later half of the stages learns, at {word} of the head's rate: they are nearly right."
    if per_class < LITTLE:
        return half, FULL, "The later half of the stages learns anew, at the full rate; the early ones hold for any images."
    why = "there are images enough" if kinship == "similar" else "what the net has learned is only a start"
    return "all", FULL, f"All stages learn at the full rate: {why}."
