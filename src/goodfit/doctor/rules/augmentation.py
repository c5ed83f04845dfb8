"""Rule of augmentation that destroys what the label is about."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from goodfit.doctor.course import as_scores
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.probe import Share, count_right
from goodfit.doctor.replay import Replay

MAX_WITHIN, MAX_ACROSS = 0.55, 0.4  # of what clean images teach: shares that augmented ones do, beyond which nothing is suspected
NEXT_TO_NOTHING = 0.2  # of both, below which no trial is needed
MAX_LEARNED, MAX_LEARNED_AT_END = 0.35, 0.85  # of what the network learns from clean images in as many steps; in some of its steps
MIN_LEARNED_CLEAN = 0.06  # accuracy above chance that clean images must teach for a trial to say something
TRIAL_STEPS, LONG_TRIAL_STEPS = 50, 125  # early, and at the end
MIN_Z = 3.5


@dataclasses.dataclass(frozen=True)
class Retention:
    """What augmented training images teach a probe, as shares of what clean images do beyond chance: of each other's labels (`within`),
    and of the validation labels (`across`); the accuracies are `augmented` and `clean`.
    """

    within: float
    across: float
    augmented: Share
    clean: Share

    @property
    def is_suspicious(self) -> bool:
        return self.within < MAX_WITHIN or self.across < MAX_ACROSS


def measure_retention(exam: Examination) -> Retention | None:
    """Measure what augmentation leaves; None if training images come alike in each epoch, or if clean ones teach nothing, either."""
    raw, inputs = exam.comparison.raw, exam.comparison.inputs
    clean = raw.within_train if raw else inputs.within_validation
    chance = inputs.train.chance
    if not exam.comparison.is_augmented or clean.above_value(chance) < 8 or inputs.within_validation.above_value(chance) < 8:
        return None
    within = (inputs.within_train.value - chance) / (clean.value - chance)
    across = (inputs.across.value - chance) / (inputs.within_validation.value - chance)
    return Retention(within, across, inputs.within_train, clean)


def describe(retention: Retention) -> str:
    return (
        f"A probe gets {100 * retention.augmented.value:.0f} % of the labels of augmented training images right, and"
        f" {100 * retention.clean.value:.0f} % of clean ones"
    )


REMEDY = "Augment less: keep most of each image in view, and leave out what changes the class or drowns it."


def find_destroying_augmentation(exam: Examination) -> Finding | None:
    """Augmented training images teach a probe next to nothing, where clean images teach it much."""
    retention = measure_retention(exam)
    if retention is None or max(retention.within, retention.across) > NEXT_TO_NOTHING:
        return None
    text = f"{describe(retention)}; fitted on augmented ones it fails on validation images."
    return Finding("augmentation_too_strong", 0.93, text, REMEDY)


def find_augmentation_too_strong(exam: Examination) -> Finding | None:
    """Augmented training images teach a probe little, and the network hardly anything of what as many clean images teach it."""
    retention = measure_retention(exam)
    if retention is None or not retention.is_suspicious:
        return None
    images, labels, held, held_labels = take_clean_images(exam)
    chance = float(torch.bincount(held_labels, minlength=exam.classes).max()) / len(held_labels)
    is_early = exam.course.taken <= TRIAL_STEPS
    steps, most = (TRIAL_STEPS, MAX_LEARNED) if is_early else (LONG_TRIAL_STEPS, MAX_LEARNED_AT_END)
    steps = min(steps, exam.steps)
    own = count_right(as_scores(exam.course.replay.scores(held)), held_labels)
    clean = count_right(as_scores(train_on(exam, images, labels, steps).scores(held)), held_labels)
    if clean.value - chance < MIN_LEARNED_CLEAN or own.value - chance > most * (clean.value - chance) or clean.above(own) < MIN_Z:
        return None
    return Finding(
        "augmentation_too_strong",
        0.94,
        f"{describe(retention)}. After {exam.course.taken} steps the network gets {100 * own.value:.0f} % of validation images right;"
        f" trained {steps} steps on clean images, {100 * clean.value:.0f} %.",
        REMEDY,
    )


def take_clean_images(exam: Examination) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean images with labels to train on, and others to validate on: training images on disk prepared as validation images, or else half
    of the validation images.
    """
    validation = exam.comparison.inputs.validation
    prepared = exam.counterparts.prepare_as_validation()
    if prepared is not None:
        return prepared.images, prepared.labels, validation.images, validation.labels
    is_first = torch.arange(len(validation)) % 2 == 0
    return (
        validation.images[is_first], validation.labels[is_first], validation.images[~is_first], validation.labels[~is_first]
    )  # fmt: skip


def train_on(exam: Examination, images: Tensor, labels: Tensor, steps: int) -> Replay:
    """The patient's training, but on batches of these images [N, C, H, W] with labels [N], as long as its own."""
    replay = Replay(exam.source)
    size = min(exam.sample.train.lengths[0], len(images))
    chance = torch.Generator().manual_seed(exam.source.seed)
    rows = torch.cat([torch.randperm(len(images), generator=chance) for _ in range(-(-steps * size // len(images)))])
    for batch in rows[: steps * size].split(size):  # type: ignore[no-untyped-call]
        replay.take_step(images[batch], labels[batch])
    exam.trial_steps += steps
    return replay


LOOK_ALIKES = {
    "strong augmentation": "there a probe still learns most of the labels from augmented images, or the network does",
    "lr_too_low": "there clean images teach the network no more",
    "labels_shifted": "there clean images teach no more than augmented ones",
}
RULES = (
    Rule("augmentation_too_strong", Stage.DATA, find_destroying_augmentation, LOOK_ALIKES),
    Rule("augmentation_too_strong", Stage.EARLY, find_augmentation_too_strong, LOOK_ALIKES),
    Rule("augmentation_too_strong", Stage.END, find_augmentation_too_strong, LOOK_ALIKES),
)
