"""The rules of splits that differ, each on a case made for it and on its look-alikes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding
from goodfit.doctor.patient import Patient, PatientSource, make_patient
from goodfit.doctor.preparation import Preparation, take_aligned
from goodfit.doctor.rules import splits as rules
from tests.support.data_patients import Split, colored, data_patient, examine
from tests.support.patients import digits, find_causes, iterate, parts, patient, prepare


def named(exam: Examination) -> dict[str, Finding]:
    """What the rules of splits find."""
    return find_causes(exam, rules.RULES)


def shift(images: np.ndarray) -> np.ndarray:
    """Darker images of less contrast on a gray ground with noise, as by another camera."""
    chance = np.random.default_rng(0)
    return np.clip(90 - 0.35 * images + chance.normal(0, 12, images.shape), 0, 255).astype(np.uint8)


def test_augmented_validation_images_are_named() -> None:
    found = named(examine(change_validation=lambda x: x + 0.5 * torch.randn_like(x)))
    assert list(found) == ["augmentation_at_validation"] and found["augmentation_at_validation"].confidence > 0.9


def test_random_numbers_that_the_patient_keeps_do_not_hide_it() -> None:
    def make() -> Patient:
        chance = np.random.default_rng(7)  # equal in all patients, and kept between the passes of each

        def validation() -> object:
            return ((x.roll(int(chance.integers(1, 8)), 3), y) for x, y in iterate("validation", 50))

        return make_patient(parts(validation=validation), "digits")

    assert list(named(Examination(PatientSource("digits", 0, make)))) == ["augmentation_at_validation"]


def test_validation_images_in_another_order_are_not_augmented() -> None:
    def validation() -> object:
        return iterate("validation", 100, torch.randperm(597).numpy())

    assert named(Examination(patient(validation=validation))) == {}


def test_renumbered_classes_are_named_with_their_meaning() -> None:
    images, labels = digits()["validation"]
    for numbers in (np.roll(np.arange(10), 1), np.array([0, 1, 2, 3, 4, 5, 6, 9, 8, 7])):
        found = named(examine(validation=(images, numbers[labels]), has_raw=False))
        assert list(found) == ["label_order_differs"]
        first = int(np.flatnonzero(numbers != np.arange(10)).min())
        assert f"({first} means {int(np.flatnonzero(numbers == first)[0])}" in found["label_order_differs"].evidence


@pytest.mark.parametrize("has_raw", [True, False])
def test_swapped_channels_of_validation_are_named(has_raw: bool) -> None:
    exam = examine(colored("train"), colored("validation"), change_validation=lambda x: x.flip(1), has_raw=has_raw)
    found = named(exam)
    assert list(found) == ["channels_differ"] and "order 2, 1, 0" in found["channels_differ"].evidence


@pytest.mark.parametrize(
    ("change", "has_raw"),
    [
        (lambda x: x * 94 + 76, True),
        (lambda x: x * 94 + 76, False),
        (lambda x: F.interpolate(x[:, :, 2:6, 2:6], size=8, mode="bilinear"), True),
        (lambda x: x.rot90(1, (2, 3)), True),
        (lambda x: x.rot90(1, (2, 3)), False),
        (lambda x: F.interpolate(F.interpolate(x, size=3, mode="area"), size=8, mode="bilinear"), True),
        (lambda x: -x, True),
    ],
)
@pytest.mark.thorough
def test_other_preparation_of_validation_images_is_named(change: Callable[[Tensor], Tensor], has_raw: bool) -> None:
    found = named(examine(change_validation=change, has_raw=has_raw))
    assert list(found) == ["preprocessing_differs"] and found["preprocessing_differs"].confidence > 0.9


@pytest.mark.parametrize("has_raw", [True, False])
@pytest.mark.thorough
def test_images_from_elsewhere_are_a_shift(has_raw: bool) -> None:
    images, labels = digits()["validation"]
    found = named(examine(validation=(shift(images), labels), has_raw=has_raw))
    assert list(found) == ["distribution_shift"]
    assert found["distribution_shift"].confidence > (0.9 if has_raw else 0.7)


def test_a_shift_ends_the_examination_at_the_data() -> None:
    images, labels = digits()["validation"]
    verdict = diagnose(data_patient(validation=(shift(images), labels)))
    assert verdict.findings[0].cause == "distribution_shift" and verdict.steps == 0


@pytest.mark.parametrize(("n", "is_named"), [(20, True), (36, True), (100, False)])
def test_few_validation_images_are_named(n: int, is_named: bool) -> None:
    images, labels = digits()["validation"]
    assert ("validation_too_small" in named(examine(validation=(images[:n], labels[:n])))) == is_named


def augment(x: Tensor) -> Tensor:
    """Strong, but right: moved, mirrored in part, erased in part, with noise and other contrast."""
    x = x.roll(tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3)) * (0.6 + 0.8 * torch.rand(len(x), 1, 1, 1))
    x[:, :, :3, :3] = torch.where(torch.rand(len(x), 1, 1, 1) < 0.3, torch.zeros(()), x[:, :, :3, :3])
    return x + 0.4 * torch.randn_like(x)


@pytest.mark.parametrize("has_raw", [True, False])
@pytest.mark.thorough
def test_healthy_cases_stay_silent(has_raw: bool) -> None:
    assert named(examine(change=augment, has_raw=has_raw)) == {}
    assert named(examine(colored("train"), colored("validation"), has_raw=has_raw)) == {}


def test_a_preparation_is_found_from_pairs() -> None:
    images: Split = colored("validation")
    inputs = prepare(images[0])[:, [2, 0, 1]] * 3 - 1
    found, likeness = Preparation.regress(inputs, torch.from_numpy(images[0]).permute(0, 3, 1, 2).float() / 255)
    assert found.order == (2, 0, 1) and likeness == pytest.approx(1, abs=1e-3)
    assert torch.allclose(found.gain, torch.full((3,), 3 / 0.37), rtol=1e-3)
    sample = Examination(data_patient()).sample.validation
    assert take_aligned(sample, *digits()["validation"], 50) is not None
    assert take_aligned(sample, digits()["validation"][0], digits()["validation"][1][::-1].copy(), 50) is None
