"""Rules of how much of the network is at work: its size, its dropout, and the batches that its norms see."""

from __future__ import annotations

import math

import torch

from goodfit.doctor.course import EARLY
from goodfit.doctor.examination import PREFLIGHT_IMAGES, Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.gain import MIN_ACCURACY, measure_gain
from goodfit.doctor.network import Network, median
from goodfit.doctor.replay import Change
from goodfit.doctor.surgery import operated
from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import untouched
from goodfit.inspection.operations import trace

LOWER = "Lower the dropout to 0.5 or less."
EXTREME_DROPOUT, STRONG_DROPOUT, MAX_KEPT = 0.9, 0.7, 0.12  # rates of one dropout; share that passes all of them
MIN_EXTRA_ZEROS = 0.6  # in training mode, of what is not zero in evaluation mode, that only a dropout makes
SMALL_BATCH = 4  # images
MIN_NOISE, STRONG_NOISE = 0.2, 0.4  # change of the scores by a batch's statistics, over how far they differ between images
NARROW_UNITS, FEW_WEIGHTS, NARROWEST = 4, 2000, 4
TRIAL_SHARE = 0.15  # of the planned steps


def find_extreme_dropout(exam: Examination) -> Finding | None:
    """A dropout leaves less than a tenth."""
    rate = max(measure_dropout(exam), default=0.0)
    if rate < EXTREME_DROPOUT:
        return None
    evidence = f"A dropout at work in training sets {100 * rate:.0f} % of its inputs to zero."
    return Finding("dropout_too_strong", 0.96, evidence, LOWER)


def find_dropout_too_strong(exam: Examination) -> Finding | None:
    """Dropout at work leaves little, and without it the network learns far better."""
    rates = measure_dropout(exam)
    kept = math.prod(1 - rate for rate in rates)
    if not rates or (max(rates) < STRONG_DROPOUT and kept > MAX_KEPT):
        return None
    gain = measure_gain(exam, Change(dropout="off"))
    if not gain.is_clear:
        return None
    said = " and ".join(sorted({f"{rate:.2f}" for rate in rates}))
    return Finding("dropout_too_strong", 0.95, f"Dropout of {said} lets {100 * kept:.2g} % of all ways through. Without it: {gain}.", LOWER)


def measure_dropout(exam: Examination) -> list[float]:
    """The rates of all dropouts at work in training mode, in order; one made by hand shows by the zeros it adds to what enters a weight."""
    rates = [o.rate for o in exam.preflight.operations if o.kind == "dropout" and 0 < o.rate < 1]
    if rates:
        return rates
    images, _ = exam.sample.train.spread(PREFLIGHT_IMAGES)
    model = exam.start_model
    zeros: list[list[float]] = []
    with untouched(model), keep_chance():
        for mode in (True, False):
            model.train(mode)
            operations, _ = trace(model, images, signals=True)
            zeros.append([o.entering.zeros for o in operations.of_kind("weights") if o.entering and o.weight])
    if len(zeros[0]) != len(zeros[1]):
        return []
    extra = [(train - evaluate) / max(1 - evaluate, 1e-6) for train, evaluate in zip(*zeros, strict=True)]
    return [share for share in extra if MIN_EXTRA_ZEROS < share < 1]


def find_batch_too_small_for_norm(exam: Examination) -> Finding | None:
    """In the training's own steps batch norm takes its statistics from so few images that the scores depend on which these are."""
    remedy = "Use batches of 16 or more, or group norm in the place of batch norm."
    if exam.course.is_broken and "more than 1 value per channel" in exam.course.error:
        evidence = f"The training stops at step {exam.course.taken}, where batch norm gets a single number per channel."
        return Finding("batch_too_small_for_norm", 0.97, evidence, remedy)
    images = [s.norm_images for s in exam.course.dissected.values() if s.norm_images]
    size = median(images)
    if not images or size > SMALL_BATCH:
        return None
    noise = measure_norm_noise(exam, max(int(size), 2))
    if noise < MIN_NOISE:
        return None
    evidence = f"Batch norm takes its statistics from {size:g} images at a time: which these are changes scores by {100 * noise:.0f} % of"
    confidence = 0.96 if noise > STRONG_NOISE else 0.9
    return Finding("batch_too_small_for_norm", confidence, f"{evidence} how far they differ between images.", remedy)


def measure_norm_noise(exam: Examination, size: int) -> float:
    """How far the scores of images in batches of `size` are from those of one batch, over how far these differ between images."""
    model, (images, _) = exam.start_model, exam.sample.train.spread(PREFLIGHT_IMAGES)
    with untouched(model), keep_chance(), torch.no_grad(), operated(model, "own", True):
        model.train()
        whole = model(images).float()
        model.train()
        parts = torch.cat([model(part).float() for part in torch.split(images, size) if len(part) > 1])
    return float((parts - whole[: len(parts)]).norm() / (whole - whole.mean(0)).norm())


def find_bottleneck(exam: Examination) -> Finding | None:
    """Everything that the scores depend on passes a few numbers, and a network of usual size learns far better."""
    narrowest = measure_bottleneck(exam.network)
    if narrowest > min(NARROWEST, exam.classes / 2):
        return None
    gain = measure_gain(exam, Change(model="reference", optimizer="adamw"))
    if gain.accuracy < gain.own_accuracy + 2 * MIN_ACCURACY:
        return None
    evidence = f"All that the {exam.classes} scores depend on passes {narrowest} numbers. With a network of usual size: {gain}."
    return Finding("capacity_too_small", 0.92, evidence, "Make the narrowest layer wider.")


def measure_bottleneck(network: Network) -> int:
    """The fewest numbers of an image in any place that everything passes on its way to the scores."""
    narrowest = 10**9
    for i, weight in enumerate(network.weights[:-1]):
        ways = [later.flow.shortest for later in network.weights[i + 1 :] if later.flow]
        if weight.flow and weight.leaving and all(way > weight.flow.shortest for way in ways):
            narrowest = min(narrowest, weight.leaving.units * weight.leaving.places)
    return narrowest


def find_capacity_too_small(exam: Examination) -> Finding | None:
    """A narrow network does no better on training images than on others, and one of usual size passes it in a part of the steps."""
    network, course = exam.network, exam.course
    looks = [course.looks[step] for step in sorted(course.looks)]
    if network.depth < 2 or network.bends == 0 or len(looks) < 6 or course.is_broken:
        return None
    narrowest = min((w.leaving.units for w in network.weights[:-1] if w.leaving), default=10**9)
    numbers = sum(dict(exam.start_model.named_parameters())[layer.name].numel() for layer in network.layers)
    last = looks[-1]
    is_even = last.train_accuracy - last.validation_accuracy < MIN_ACCURACY
    if not is_even or (narrowest > NARROW_UNITS and numbers > FEW_WEIGHTS) or last.train_accuracy > 0.97:
        return None
    steps = min(max(EARLY, round(TRIAL_SHARE * exam.steps)), exam.steps)
    reference = exam.trial(Change(model="reference", optimizer="adamw"), steps).validation_accuracy
    better = reference - last.validation_accuracy
    if not (better > MIN_ACCURACY or (better > MIN_ACCURACY / 2 and 1 - reference < 0.7 * (1 - last.validation_accuracy))):
        return None
    own = exam.trial(Change(optimizer="adamw"), steps)
    if own.validation_accuracy > last.validation_accuracy + better / 2:
        return None
    return Finding(
        "capacity_too_small",
        0.92,
        f"With {numbers:,} weights and layers of {narrowest} units, the network gets {100 * last.train_accuracy:.0f} % of training and"
        f" {100 * last.validation_accuracy:.0f} % of validation images right; one of usual size gets {100 * reference:.0f} %"
        f" after {steps} steps.",
        "Make the network wider, then deeper.",
    )


RULES = (
    Rule("dropout_too_strong", Stage.START, find_extreme_dropout, {"dropout": "of 0.5 is healthy, and of 0.7 may be"}),
    Rule(
        "dropout_too_strong",
        Stage.EARLY,
        find_dropout_too_strong,
        {"regularized_too_much": "there no single dropout is strong, and leaving it out gains little"},
    ),
    Rule(
        "batch_too_small_for_norm",
        Stage.EARLY,
        find_batch_too_small_for_norm,
        {"lr_too_high": "there batches are larger, or have no norm", "small batches": "of 8 images are healthy"},
    ),
    Rule("capacity_too_small", Stage.EARLY, find_bottleneck, {"a squeezed gate": "it stands beside the way, and not in it"}),
    Rule(
        "capacity_too_small",
        Stage.END,
        find_capacity_too_small,
        {
            "lr_too_low": "there the same network learns more by another optimizer",
            "label_noise": "there a larger network gets no more of the validation images right",
            "missing_nonlinearity": "there nothing bends",
        },
    ),
)
