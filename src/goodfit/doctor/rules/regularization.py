"""Rules of what holds a training back, or fails to: weight decay, clipping, all of it together, and too little of it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from goodfit.doctor.continuation import Outcome, measure_outcome
from goodfit.doctor.examination import Examination, Trial
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.patient import Patient, PatientSource
from goodfit.doctor.progress import (
    DECAY_STEPS,
    NO_DECAY,
    SHRUNK,
    TRIAL_STEPS,
    OwnLosses,
    is_decay_the_cause,
    is_mended,
    mean_end,
    measure_norm_left,
    repeat_steps,
)
from goodfit.doctor.replay import Change, Replay

CLIPPED = 0.05  # share of the gradient's norm that is left by clipping that is too tight
NO_DROPOUT = Change(dropout="off")
NEITHER = Change(step="clean", weight_decay=0.0, dropout="off")
NOTHING_LEARNED = 1.6  # times the accuracy of chance, below which nothing was learned that carries over
FEW_IMAGES = 40  # for each class
HELD_BACK = 0.93  # share of the weights' norm that is left where decay is at work
FREE_STEPS = (30, 120)  # of a training without decay, dropout and augmentation: the longer one at the end, if the first does not tell


def find_clip_too_tight(exam: Examination) -> Finding | None:
    """The optimizer gets gradients of one and the same norm, far below those that are due, and learns faster when it gets these."""
    signs = [s for s in exam.course.dissected.values() if s.fresh_norm > 0 and math.isfinite(s.applied_norm) and s.applied_norm > 0]
    if len(signs) < 5 or not all(s.applied_norm < CLIPPED * s.fresh_norm and s.applied_cosine > 0.2 for s in signs):
        return None
    applied, fresh = [s.applied_norm for s in signs], [s.fresh_norm for s in signs]
    spread = statistics.pstdev(applied) / statistics.fmean(applied)
    if spread > max(0.02, 0.2 * statistics.pstdev(fresh) / statistics.fmean(fresh)):
        return None
    trial, own = exam.trial(Change(step="clean"), TRIAL_STEPS), OwnLosses.of(exam)
    is_better = mean_end(trial) < 0.93 * min(own.mean(TRIAL_STEPS - 6, TRIAL_STEPS), own.first)
    if exam.course.taken == exam.steps and not is_better:
        here = exam.continuation.standing()
        is_better = trial.validation_loss < 0.95 * here.loss or trial.validation_accuracy > here.accuracy + 0.04
    if not (is_better or is_mended(exam, trial)):
        return None
    return Finding(
        "clip_too_tight",
        0.97,
        f"Every gradient is clipped to a norm of {statistics.fmean(applied):.2g}, {statistics.fmean(fresh) / statistics.fmean(applied):.0f}"
        f" times below its own; without that the loss after {TRIAL_STEPS} steps is {mean_end(trial):.2f} instead of"
        f" {own.mean(TRIAL_STEPS - 6, TRIAL_STEPS):.2f}.",
        f"Clip to a norm of {max(statistics.median(fresh), 1.0):.1g} or more, so that few gradients are clipped.",
    )


def find_weight_decay_too_strong(exam: Examination) -> Finding | None:
    """The weights shrink fast while the steps teach little, and without weight decay they teach more."""
    return _describe_decay(exam, exam.trial(NO_DECAY, DECAY_STEPS)) if is_decay_the_cause(exam) else None


def find_weight_decay_too_strong_at_end(exam: Examination) -> Finding | None:
    """The weights have shrunk while nothing much was learned, and a fraction of the steps without weight decay learns more."""
    trained = _find_held_back(exam)
    if trained is None or measure_norm_left(exam) > SHRUNK:
        return None
    trial = exam.trial(NO_DECAY, _count_trial(exam))
    return _describe_decay(exam, trial) if _is_gain(trial, trained) else None


def _describe_decay(exam: Examination, trial: Trial) -> Finding:
    own, decay, left = OwnLosses.of(exam), read_weight_decay(exam), measure_norm_left(exam)
    taken = len(own.losses)
    return Finding(
        "weight_decay_too_strong",
        0.95,
        f"The weights' norm has shrunk to {100 * left:.0f} % of what it was, and the loss is {own.mean(max(taken - 10, 0), taken):.2f}"
        f" after {taken} steps; without weight decay it is {mean_end(trial):.2f} after {trial.steps}.",
        f"Use a weight decay of at most {decay / 100:.1g} instead of {decay:.2g}." if decay else "Take most of the weight penalty away.",
        {"weight_decay": decay / 100} if decay else {},
    )


def read_weight_decay(exam: Examination) -> float:
    """The highest weight decay of the optimizer's groups."""
    return float(max((group.get("weight_decay") or 0.0 for group in exam.course.replay.optimizer.param_groups), default=0.0))


def _uses_dropout(exam: Examination) -> bool:
    """Whether dropout is at work in the patient's steps: its first losses are others without it."""
    own, off = repeat_steps(exam)[0].losses, exam.trial(NO_DROPOUT, max(len(repeat_steps(exam)[0].losses), 1)).losses
    return any(a != b for a, b in zip(own, off, strict=False))


def find_regularized_too_much(exam: Examination) -> Finding | None:
    """Weights shrink, dropout is at work, little is learned, and neither alone explains it; without both, on plain images, it learns.

    Validation images stand in for training images without augmentation: half of them to learn from, half to measure.
    """
    own = OwnLosses.of(exam)
    taken = len(own.losses)
    latest = own.mean(max(taken - 10, 0), taken)
    is_poor = latest > (0.92 if taken < exam.steps else 0.75) * min(own.first, math.log(exam.classes))
    if exam.course.is_broken or taken < 30 or not is_poor or measure_norm_left(exam) > HELD_BACK or not _uses_dropout(exam):
        return None
    if is_decay_the_cause(exam) or is_mended(exam, exam.trial(NO_DROPOUT, TRIAL_STEPS)):
        return None
    here = exam.continuation.standing()
    if (found := find_free_training(exam, here, FREE_STEPS if taken == exam.steps else FREE_STEPS[:1])) is None:
        return None
    steps, free = found
    no_decay, no_dropout = mean_end(exam.trial(NO_DECAY, DECAY_STEPS)), mean_end(exam.trial(NO_DROPOUT, TRIAL_STEPS))
    return Finding(
        "regularized_too_much",
        0.92,
        f"After {taken} steps the loss is {latest:.2f}; without decay alone it is {no_decay:.2f}, without dropout alone {no_dropout:.2f}."
        f" {steps} steps without both and without augmentation reach a validation loss of {free.loss:.2f} instead of {here.loss:.2f}.",
        "Take most of the weight decay, the dropout and the augmentation away, and bring them back one at a time.",
    )


def find_free_training(exam: Examination, here: Outcome, lengths: Sequence[int]) -> tuple[int, Outcome] | None:
    """The first of some lengths at which a training without decay, dropout and augmentation gets clearly further, and what it reaches."""
    for steps in lengths:
        free = train_on_validation(exam, NEITHER, steps)
        if free is not None and free.loss <= 0.93 * here.loss and free.accuracy >= here.accuracy + 0.04:
            return steps, free
    return None


def train_on_validation(exam: Examination, change: Change, steps: int) -> Outcome | None:
    """The outcome on half of the validation images of a training of a new network on the other half; None where there are too few."""
    images, labels = exam.sample.validation.images, exam.sample.validation.labels
    size = min(exam.sample.train.lengths[0], len(labels) // 4)
    if len(labels) < 8 * exam.classes or size < 2:
        return None

    def make() -> Patient:
        def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            for rows in (2 * torch.randperm(len(labels) // 2)).split(size):  # type: ignore[no-untyped-call]
                if len(rows) == size:
                    yield images[rows], labels[rows]

        return dataclasses.replace(exam.source.make(), train=train)

    replay = Replay(PatientSource(exam.source.name, exam.source.seed, make), change)
    losses = replay.advance(steps)
    exam.trial_steps += steps
    return measure_outcome(replay, images[1::2], labels[1::2], statistics.fmean(losses[-6:]))


def _count_trial(exam: Examination) -> int:
    return min(max(round(0.15 * exam.steps), TRIAL_STEPS), 60)


def _find_held_back(exam: Examination) -> Outcome | None:
    """The training's outcome if it ended with training images learned badly and no better than validation images."""
    if exam.course.is_broken or exam.course.taken < exam.steps or exam.steps not in exam.course.looks:
        return None
    look = exam.course.looks[exam.steps]
    here = exam.continuation.standing()
    is_low = look.train_accuracy < 0.9 and look.train_accuracy < here.accuracy + 0.12
    is_regularized = read_weight_decay(exam) > 0 or measure_norm_left(exam) < SHRUNK
    return here if is_low and is_regularized and (measure_norm_left(exam) < SHRUNK or _uses_dropout(exam)) else None


def _is_gain(trial: Trial, here: Outcome) -> bool:
    return trial.validation_loss < 0.88 * here.loss and trial.validation_accuracy > here.accuracy + 0.05


def find_overfitting(exam: Examination) -> Finding | None:
    """Training images are all right, validation images far from it, and their loss has risen since its minimum or stays far above."""
    if exam.course.is_broken or exam.course.taken < exam.steps or exam.steps not in exam.course.looks:
        return None
    looks = [look for step, look in sorted(exam.course.looks.items()) if step > 0]
    end, least = looks[-1], min(look.validation_loss for look in looks)
    here = exam.continuation.standing()
    gap, rise = end.train_accuracy - here.accuracy, end.validation_loss / max(least, 1e-9)
    images = len(exam.sample.train) if exam.sample.train.is_whole else math.inf
    epochs = exam.steps / max(exam.batches_per_epoch, 1)
    if end.train_accuracy < 0.97 or gap < 0.15 or epochs < 8 or here.loss < 4 * end.train_loss:
        return None
    is_few = images / exam.classes < FEW_IMAGES
    confidence = 0.9 if rise > 1.5 and gap > 0.25 else 0.75 if rise > 1.25 and gap > 0.2 else 0.3
    if is_few and rise > 1.08 and gap > 0.2:
        confidence = max(confidence, 0.55)
    if max(look.validation_accuracy for look in looks) < NOTHING_LEARNED / exam.classes:
        confidence = 0.3  # nothing of what it learned has ever carried over: less of it would not, either
    return Finding(
        "overfitting",
        confidence,
        f"{100 * end.train_accuracy:.0f} % of the training images are right and {100 * here.accuracy:.0f} % of the validation images, whose"
        f" loss is {rise:.2f} times its minimum ({least:.2f}); {images} images were seen {epochs:.0f} times each.",
        "Get more images or augment them, add weight decay or dropout, or stop where the validation loss was lowest.",
        is_material=confidence >= 0.5,
    )


RULES = (
    Rule(
        "clip_too_tight",
        Stage.EARLY,
        find_clip_too_tight,
        {"lr_too_low": "there the gradient that is applied is the one that is due", "wrong_loss": "there its norm varies with what is due"},
    ),
    Rule(
        "weight_decay_too_strong",
        Stage.EARLY,
        find_weight_decay_too_strong,
        {"lr_too_high": "there the weights do not shrink", "regularized_too_much": "there dropout has to go, too"},
    ),
    Rule(
        "regularized_too_much",
        Stage.EARLY,
        find_regularized_too_much,
        {"weight_decay_too_strong": "there no decay alone mends it", "dropout_too_strong": "there no dropout alone mends it"},
    ),
    Rule("clip_too_tight", Stage.END, find_clip_too_tight, {"lr_too_low": "there the gradient that is applied is the one that is due"}),
    Rule(
        "weight_decay_too_strong",
        Stage.END,
        find_weight_decay_too_strong_at_end,
        {"capacity_too_small": "there the weights grow, and no decay changes nothing"},
    ),
    Rule(
        "regularized_too_much",
        Stage.END,
        find_regularized_too_much,
        {"weight_decay_too_strong": "there no decay alone mends it", "dropout_too_strong": "there no dropout alone mends it"},
    ),
    Rule(
        "overfitting",
        Stage.END,
        find_overfitting,
        {
            "preprocessing_differs": "there the gap is as wide from the first looks on",
            "distribution_shift": "there the gap is as wide from the first looks on",
            "label_noise": "there many training images are learned late, against their neighbors' labels",
        },
    ),
)
