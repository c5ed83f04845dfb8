"""Rules of how many images classes have, and of how they are spread over the batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from goodfit.doctor.course import as_scores, clean_labels
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.patient import Batches
from goodfit.doctor.probe import Share
from goodfit.doctor.replay import Change
from goodfit.inspection.chance import OwnChance

MAX_COUNTED = 200_000  # images of a split, beyond which classes that were not seen may still come
MAX_ODDS = 1e-5  # that a class as frequent as in the other split is missing by chance
RARE, FEW_HOLD = 0.35, 0.65  # counts below this share of the mean are rare; the share that a quarter of the classes must hold
LOST_RECALL = 0.85  # of the recall of frequent classes, below which that of rare ones counts as lost
SORTED, PARTLY_SORTED = 0.5, 0.8  # entropy of a batch's labels over that of a shuffled one
WINDOW = 32  # images in a row of which the order is looked at, where batches are smaller
MIN_GAIN = 0.08  # of the accuracy of the validation probe, in a trial


def count_labels(batches: Batches, classes: int) -> Tensor | None:
    """How many images of each class [K] come in a whole pass; None where there are too many."""
    counts = torch.zeros(classes, dtype=torch.long)
    for _, labels in batches:
        counts += torch.bincount(clean_labels(torch.as_tensor(labels), classes), minlength=classes)
        if int(counts.sum()) > MAX_COUNTED:
            return None
    return counts


def count_classes(exam: Examination, split: str) -> Tensor | None:
    """How many images of each class [K] a split has, over a whole pass: of training, over two epochs."""
    sample = exam.sample.train if split == "train" else exam.sample.validation
    counts = torch.bincount(clean_labels(sample.labels, exam.classes), minlength=exam.classes)
    if (sample.is_whole or bool((counts > 0).all())) and (split == "validation" or bool((counts > 0).all())):
        return counts
    patient = exam.source.make()
    with OwnChance(exam.source.seed).active():
        batches = [patient.train(0), patient.train(1)] if split == "train" else [patient.validation()]
        passes = [count_labels(part, exam.classes) for part in batches]
    known = [x for x in passes if x is not None]
    return sum(known[1:], known[0]) if len(known) == len(passes) else None


def find_class_missing(exam: Examination) -> Finding | None:
    """A class that the other split has does not come in a whole pass over one."""
    counts = {split: count_classes(exam, split) for split in ("train", "validation")}
    for split, other in (("train", "validation"), ("validation", "train")):
        own, expected = counts[split], counts[other]
        if own is None or expected is None or bool((own > 0).all()):
            continue
        shares = expected.double() / expected.sum().clamp_min(1)
        # Odds that a class is missing by chance; one image of another split says little of how frequent its class is
        doubted = shares * (1 - expected.double().clamp_min(1).rsqrt()).clamp_min(0)
        odds = torch.exp(-doubted * own.sum())
        missing = [k for k in range(exam.classes) if own[k] == 0 and expected[k] > 0 and odds[k] < MAX_ODDS]
        if missing:
            names = ", ".join(map(str, missing[:5])) + (" ..." if len(missing) > 5 else "")
            where, elsewhere = ("training", "validation") if split == "train" else ("validation", "training")
            return Finding(
                "class_missing",
                0.97,
                f"Of {exam.classes} classes, {len(missing)} ({names}) have none of the {int(own.sum())} {where} images, but"
                f" {int(expected[missing].sum())} of the {int(expected.sum())} {elsewhere} images.",
                f"Add {where} images of these classes, or split the images again, by class.",
            )
    return None


def measure_class_weights(exam: Examination) -> Tensor:
    """How much the loss weighs an image of each class [K], where all scores are equal: the norm of its gradient, with mean 1."""
    labels = torch.arange(exam.classes)
    scores = torch.zeros(exam.classes, exam.preflight.output.shape[-1], requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(exam.patient.loss(scores, labels), scores)
    weights = gradient.norm(dim=1)
    return weights / weights.mean() if float(weights.mean()) > 0 else torch.ones(exam.classes)


def find_class_imbalance(exam: Examination) -> Finding | None:
    """A few classes have nearly all of the gradient, and the rest are not recognized."""
    counts = torch.bincount(clean_labels(exam.sample.train.labels, exam.classes), minlength=exam.classes).double()
    if not is_imbalanced(counts) or not is_imbalanced(counts * measure_class_weights(exam)):
        return None
    first = exam.course.dissected.get(0)
    if first is not None and abs(first.loss - first.fresh_loss) > 0.02 * abs(first.fresh_loss) and first.applied_cosine < 0.98:
        return None  # the step weighs images in its own way
    is_rare = counts < RARE * counts.mean()
    labels = clean_labels(exam.sample.validation.labels, exam.classes)
    right = as_scores(exam.course.replay.scores(exam.sample.validation.images)).argmax(1) == labels
    recalls = [Share(int(right[part].sum()), int(part.sum())) for part in (is_rare[labels], ~is_rare[labels])]
    if not recalls[0].n or recalls[0].value > LOST_RECALL * recalls[1].value:
        return None
    z = recalls[1].above(recalls[0])
    return Finding(
        "class_imbalance",
        0.95 if z > 4 else 0.8 if z > 2.5 else 0.55,
        f"{int(is_rare.sum())} of {exam.classes} classes have {100 * float(counts[is_rare].sum() / counts.sum()):.0f} % of the training"
        f" images, and no weights make up for it: their recall in validation is {100 * recalls[0].value:.0f} % ({recalls[0].n} images),"
        f" that of the others {100 * recalls[1].value:.0f} %.",
        "Weight the loss by class, or draw images of rare classes more often; measure balanced accuracy.",
    )


def is_imbalanced(counts: Tensor) -> bool:
    """Whether a few classes hold nearly all of some counts [K]."""
    few = max(1, math.ceil(len(counts) / 4))
    held = float(counts.sort(descending=True).values[:few].sum() / counts.sum().clamp_min(1e-9))
    is_rare = counts < RARE * counts.mean()
    return len(counts) > 1 and bool(2 * is_rare.sum() >= len(counts)) and held > FEW_HOLD


def measure_mixing_of_classes(labels: Tensor, lengths: tuple[int, ...], classes: int) -> float:
    """The mean entropy of the labels of batches over that of batches of the same labels [N] in a new order: 1 if shuffled, 0 if sorted."""
    chance = torch.Generator().manual_seed(0)
    mixed = labels[torch.randperm(len(labels), generator=chance)]
    own, expected = (sum(_entropy(part, classes) for part in torch.split(x, list(lengths))) for x in (labels, mixed))
    return own / expected if expected > 0 else 1.0


def count_present(labels: Tensor, classes: int) -> int:
    """How many classes are among some labels [N]."""
    return int((torch.bincount(labels, minlength=classes) > 0).sum())


def _entropy(labels: Tensor, classes: int) -> float:
    p = torch.bincount(labels, minlength=classes).double() / max(len(labels), 1)
    return float(-(p * p.clamp_min(1e-12).log()).sum())


def find_not_shuffled(exam: Examination) -> Finding | None:
    """The labels of a batch, or of as many batches as have some images of each class, are far less mixed than those of the epoch."""
    train = exam.sample.train
    labels = clean_labels(train.labels, exam.classes)
    if len(train.lengths) < 3 or count_present(labels, exam.classes) < 2:
        return None
    windows = [WINDOW] * (len(labels) // WINDOW) + ([len(labels) % WINDOW] if len(labels) % WINDOW else [])
    mixing = measure_mixing_of_classes(labels, train.lengths, exam.classes)
    if max(train.lengths) < WINDOW and len(windows) >= 3:
        mixing = min(mixing, measure_mixing_of_classes(labels, tuple(windows), exam.classes))
    if mixing > PARTLY_SORTED:
        return None
    evidence = f"The entropy of the labels within a batch is {100 * mixing:.0f} % of that of shuffled batches of the same images"
    remedy = "Shuffle the training images anew in every epoch."
    if mixing < SORTED:
        in_batch = sum(count_present(part, exam.classes) for part in torch.split(labels, list(train.lengths))) / len(train.lengths)
        text = f"{evidence}: a batch holds {in_batch:.1f} of {count_present(labels, exam.classes)} classes."
        return Finding("not_shuffled", 0.96, text, remedy)
    own, shuffled = (exam.trial(change, 40) for change in (Change(), Change(order="shuffled")))
    gain = shuffled.validation_accuracy - own.validation_accuracy
    is_better = gain > MIN_GAIN and shuffled.validation_loss < own.validation_loss
    text = f"{evidence}; 40 steps with shuffled ones change validation accuracy by {100 * gain:+.0f} points."
    return Finding("not_shuffled", 0.92 if is_better else 0.4, text, remedy, is_material=is_better)


RULES = (
    Rule(
        "class_missing",
        Stage.DATA,
        find_class_missing,
        {
            "small split": "there a class that is as rare in the other split is missing by chance",
            "class_imbalance": "there it has some images",
        },
    ),
    Rule(
        "not_shuffled",
        Stage.DATA,
        find_not_shuffled,
        {"lr_too_high": "there batches hold all classes", "small batches": "there any order would"},
    ),
    Rule(
        "class_imbalance",
        Stage.EARLY,
        find_class_imbalance,
        {
            "weighted imbalance": "there the loss, or how images are drawn, makes up for the counts",
            "hard classes": "there the rare classes have as many images",
        },
    ),
    Rule("class_imbalance", Stage.END, find_class_imbalance, {"trained_too_short": "there frequent classes are not recognized either"}),
)
