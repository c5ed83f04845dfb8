"""The rules of class counts and of the order of images, each on a case made for it and on its look-alikes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding
from goodfit.doctor.rules import classes as rules
from tests.support.data_patients import Split, data_patient, examine
from tests.support.patients import BATCH, digits, find_causes, iterate, patient


def named(exam: Examination, steps: int = 0) -> dict[str, Finding]:
    """What the rules of classes find once a training has been followed for some steps."""
    exam.course.follow(steps)
    return find_causes(exam, rules.RULES[2:3] if steps else rules.RULES[:2])


def thinned(split: str, kept: dict[int, int], usual: int) -> Split:
    """Digits of which each class keeps so many images."""
    images, labels = digits()[split]
    rows = np.concatenate([np.flatnonzero(labels == k)[: kept.get(k, usual)] for k in range(10)])
    rows = np.random.default_rng(0).permutation(rows)
    return images[rows], labels[rows]


def test_a_class_missing_in_training_is_named() -> None:
    found = named(examine(thinned("train", {3: 0, 7: 0}, 200)))
    assert "2 (3, 7) have none of the" in found["class_missing"].evidence and "training" in found["class_missing"].evidence


def test_a_class_missing_in_validation_is_named() -> None:
    found = named(examine(validation=thinned("validation", {5: 0}, 200), has_raw=False))
    assert "1 (5)" in found["class_missing"].evidence and "validation images, but" in found["class_missing"].evidence


def test_a_class_missing_by_chance_in_a_small_split_is_not_named() -> None:
    images, labels = digits()["validation"]
    rows = np.concatenate([np.flatnonzero(labels == k)[: 0 if k == 2 else 5] for k in range(10)])
    assert "class_missing" not in named(examine(validation=(images[rows], labels[rows])))


def test_a_class_that_comes_in_the_next_epoch_is_not_missing() -> None:
    by_class = np.argsort(digits()["train"][1], kind="stable")

    def halves(epoch: int) -> object:
        rows = by_class[:500] if epoch % 2 == 0 else by_class[500:]
        return iterate("train", BATCH, np.random.default_rng(epoch).permutation(rows))

    assert "class_missing" not in named(Examination(patient(train=halves)))


def test_sorted_images_are_named_before_any_step() -> None:
    by_class = np.argsort(digits()["train"][1], kind="stable")
    source = patient(train=lambda epoch: iterate("train", BATCH, by_class))
    assert named(Examination(source))["not_shuffled"].confidence > 0.9
    verdict = diagnose(source)
    assert verdict.findings[0].cause == "not_shuffled" and verdict.steps == 0


def test_sorted_images_are_found_in_batches_too_small_to_show_it() -> None:
    by_class = np.argsort(digits()["train"][1], kind="stable")
    assert "not_shuffled" in named(Examination(patient(train=lambda epoch: iterate("train", 2, by_class))))


@pytest.mark.parametrize("size", [1, 2, 8, 600])
def test_shuffled_images_in_batches_of_any_size_are_not_named(size: int) -> None:
    def train(epoch: int) -> object:
        return iterate("train", size, np.random.default_rng(epoch).permutation(1200))

    assert named(Examination(patient(train=train))) == {}


@pytest.fixture
def imbalanced() -> Split:
    return thinned("train", {0: 110, 1: 110, 2: 110}, 4)


def test_imbalance_is_named_when_rare_classes_are_lost(imbalanced: Split) -> None:
    found = named(examine(imbalanced), steps=50)
    assert found["class_imbalance"].confidence > 0.9 and "7 of 10 classes" in found["class_imbalance"].evidence


@pytest.mark.parametrize("weights_of", [lambda counts: 1 / counts, lambda counts: counts**-0.9])
@pytest.mark.thorough
def test_weights_make_up_for_imbalance(imbalanced: Split, weights_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = weights_of(torch.bincount(torch.from_numpy(imbalanced[1])).float())
    exam = examine(imbalanced, loss=lambda scores, labels: F.cross_entropy(scores, labels, weight=weights))
    assert named(exam, steps=50) == {}


@pytest.mark.thorough
def test_drawing_rare_classes_more_often_makes_up_for_imbalance(imbalanced: Split) -> None:
    images, labels = imbalanced
    odds = 1 / np.bincount(labels)[labels]
    rows = np.random.default_rng(0).choice(len(labels), 640, p=odds / odds.sum())
    assert named(examine((images[rows], labels[rows]), has_raw=False), steps=50) == {}


@pytest.mark.thorough
def test_moderate_imbalance_is_not_named() -> None:
    assert named(examine(thinned("train", dict.fromkeys(range(5), 24), 110)), steps=50) == {}
    assert named(Examination(data_patient()), steps=50) == {}
