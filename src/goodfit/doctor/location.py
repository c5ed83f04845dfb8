"""Locate a fault whose cause no rule names: put known parts in the place of the patient's, one component after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping

import torch

from goodfit.core.words import format_percent
from goodfit.doctor.causes import Component
from goodfit.doctor.course import clean_labels
from goodfit.doctor.examination import Examination
from goodfit.doctor.probe import PatchFeatures, Ridge, Share, compare_right, count_right
from goodfit.doctor.recording import NotSeen
from goodfit.doctor.replay import Change
from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import untouched
from goodfit.inspection.fitting import SMALL_SET, fit_small_set
from goodfit.training.batch_statistics import STATISTICS_IMAGES, norms_with_statistics, recompute_statistics

SWAPS: dict[Component, Change] = {  # the least change first
    "loop": Change(step="clean", loss="cross_entropy"),
    "optimization": Change(optimizer="adamw"),
    "data": Change(inputs="standardized", order="shuffled"),
    "model": Change(model="reference", optimizer="adamw"),
}
MAX_REACHED, MIN_ERRORS = 0.7, 3.0  # share of the probe's accuracy, and standard errors below it, at which a training is suspected
MAX_REACHED_BY_MODEL = 0.5  # the same for blaming the network, which may be small on purpose
MAX_REACHED_AT_CHANCE = 0.2  # share of what a probe has beyond chance, up to which a training has learned next to nothing
MIN_STATISTICS_GAIN, STATISTICS_BATCH = 0.05, 64  # accuracy that statistics computed anew gain, and images of a batch of them
MIN_GAIN, ENOUGH = 0.1, 0.7  # accuracy that a swap gains; share of the best gain that a smaller change has to reach
MAX_STEPS, SHARE = 60, 0.25  # of the planned steps, that one trial takes


@dataclasses.dataclass(frozen=True)
class Location:
    """The component at fault, the evidence, and what was ruled out."""

    component: Component
    evidence: str
    ruled_out: tuple[str, ...]


def locate_fault(exam: Examination) -> Location | None:
    """Locate the fault of a training that has been followed to its end; None if nothing speaks for one.

    Suspected is what ends clearly below a probe that is fitted to the same images within a second, and an accuracy that is not the share
    of images which the network gets right.
    """
    with contextlib.suppress(NotSeen):  # a watched loop may not show how it measures accuracy
        if (found := locate_in_evaluation(exam) or locate_in_statistics(exam)) is not None:
            return found
    return locate_in_training(exam)


def locate_in_evaluation(exam: Examination) -> Location | None:
    """Compare the accuracy that the patient reports with the share of the same images that its network gets right."""
    signs = exam.evaluation()
    error = math.sqrt(max(signs.honest * (1 - signs.honest), 0.01) / max(signs.images, 1))
    is_average = signs.of_other_weights and signs.accuracy > signs.honest  # which is better than the network, and meant to be
    if is_average or not abs(signs.accuracy - signs.honest) > max(0.03, MIN_ERRORS * error):
        return None
    evidence = (
        f"The evaluation says {format_percent(signs.accuracy)}; of the same {signs.images} images the network in evaluation mode gets"
        f" {format_percent(signs.honest)} right.{' It evaluates other weights.' if signs.of_other_weights else ''}"
    )
    return Location("evaluation", evidence, ())


def locate_in_statistics(exam: Examination) -> Location | None:
    """Compare what the network gets right by its running statistics with what it does by statistics of training images computed anew.

    Those of a pretrained network may be kept on purpose, and those of a network that is not evaluated itself do not matter.
    """
    replay, (images, labels) = exam.course.replay, exam.sample.validation_probe
    if exam.is_pretrained or not norms_with_statistics(replay.model) or exam.evaluation().of_other_weights:
        return None
    own = replay.scores(images).argmax(1) == labels
    with untouched(replay.model), keep_chance():
        recompute_statistics(replay.model, torch.split(exam.sample.train.spread(STATISTICS_IMAGES)[0], STATISTICS_BATCH))
        fresh = replay.scores(images).argmax(1) == labels
    gain, z = compare_right(fresh, own)
    if gain < MIN_STATISTICS_GAIN or z < MIN_ERRORS:
        return None
    shares = format_percent(float(own.double().mean())), format_percent(float(fresh.double().mean()))
    evidence = (
        f"By the running statistics of its norms the network gets {shares[0]} of {len(labels)} validation images right, by statistics"
        f" computed anew from training images {shares[1]}: what it uses in evaluation is not what it was trained with."
    )
    return Location("evaluation", evidence, ())


def locate_in_training(exam: Examination) -> Location | None:
    """Compare the end of the training with a probe, and where it falls short, look for the swap that mends it."""
    (images, labels), validation = exam.sample.train.spread(3000), exam.sample.validation
    labels = clean_labels(labels, exam.classes)
    features = PatchFeatures(images)
    probe = count_right(Ridge(features(images), labels, exam.classes).predict(features(validation.images)), validation.labels)
    if not exam.course.looks:
        return None  # of a training that broke before it was evaluated
    last = exam.course.looks[max(exam.course.looks)]
    reached = Share(round(last.validation_accuracy * len(exam.sample.validation_probe[1])), len(exam.sample.validation_probe[1]))
    steps = max(1, min(MAX_STEPS, round(SHARE * exam.steps)))
    is_suspected = reached.value < MAX_REACHED * probe.value and probe.above(reached) >= MIN_ERRORS
    if exam.is_pretrained or not is_suspected or exam.trial_steps + steps * (1 + len(SWAPS)) > exam.max_trial_steps:
        return None
    own = exam.trial(steps=steps).validation_accuracy
    gains = {component: exam.trial(change, steps).validation_accuracy - own for component, change in SWAPS.items()}
    gains = {component: 0.0 if math.isnan(gain) else gain for component, gain in gains.items()}
    best = max(gains.values())
    shares = format_percent(reached.value), format_percent(probe.value)
    shortfall = f"It ends at {shares[0]} of validation images, where a probe fitted to their pixels has {shares[1]}"
    least = ENOUGH * max(best, MIN_GAIN)
    ruled_out = tuple(f"{c}: {describe_swap(c)} gains {100 * gain:.0f} points" for c, gain in gains.items() if gain < least)
    if best < MIN_GAIN:
        evidence = f"{shortfall}; {', '.join(ruled_out)}, after {steps} steps."
        return blame_most_helpful(exam.classes, reached, probe, evidence, gains)
    component = next(c for c, gain in gains.items() if gain >= ENOUGH * best)
    if component == "model" and reached.value > MAX_REACHED_BY_MODEL * probe.value:
        return None
    evidence = f"{shortfall}; {describe_swap(component)} gains {100 * gains[component]:.0f} points after {steps} steps."
    return Location(component, f"{evidence}{describe_small_fit(exam)}", ruled_out)


def blame_most_helpful(classes: int, reached: Share, probe: Share, evidence: str, gains: Mapping[Component, float]) -> Location | None:
    """Where a training is at fault that learned next to nothing and that no swap mends in time: in what gains most."""
    chance = 1 / classes
    if reached.value - chance > MAX_REACHED_AT_CHANCE * (probe.value - chance):
        return None
    return Location(max(gains, key=lambda component: gains[component]), evidence, ())


def describe_small_fit(exam: Examination) -> str:
    """Whether the network learns a few images by heart with its own loss, in a sentence: if it does, the way from loss to weights is
    sound. Nothing where no more steps may be taken.
    """
    if (steps := int(min(MAX_STEPS, exam.max_trial_steps - exam.trial_steps))) < 1:
        return ""
    fit = fit_small_set(exam.start_model, exam.patient.loss, *exam.sample.train.spread(SMALL_SET), steps)
    exam.trial_steps += fit.steps
    return f" By Adam the network {fit.describe()}."


def describe_swap(component: Component) -> str:
    """What a swap puts in the place of the patient's own."""
    return {
        "loop": "a plain step with cross-entropy",
        "optimization": "AdamW at 0.001 in a plain step",
        "data": "standardized images in shuffled order",
        "model": "a small network that is known to learn",
    }.get(component, component)
