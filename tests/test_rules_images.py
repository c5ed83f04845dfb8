"""The rules of images, each on a case made for it and on its look-alikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from goodfit.doctor.defects import find_effective_side, measure_broken
from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding
from goodfit.doctor.rules import images as rules
from tests.support.data_patients import Split, colored, data_patient, examine
from tests.support.patients import BATCH, digits, find_causes, iterate, patient, prepare


def named(exam: Examination) -> dict[str, Finding]:
    """What the rules of images find."""
    return find_causes(exam, rules.RULES)


def split(name: str) -> Split:
    images, labels = digits()[name]
    return images.copy(), labels.copy()


def enlarged(name: str, side: int = 24) -> Split:
    """Digits of more pixels, with a little noise, so that pictures differ in many details."""
    images, labels = digits()[name]
    x = F.interpolate(torch.from_numpy(images).permute(0, 3, 1, 2).float(), size=side, mode="bicubic", align_corners=False)
    chance = torch.Generator().manual_seed(len(labels))
    texture = F.interpolate(torch.randn(len(x), 1, side // 2, side // 2, generator=chance), size=side, mode="bilinear") * 30
    return (x + texture).clamp(0, 255).permute(0, 2, 3, 1).byte().numpy(), labels


@pytest.mark.parametrize("has_raw", [True, False])
def test_blank_images_are_named(has_raw: bool) -> None:
    images, labels = split("train")
    images[::8] = 0
    found = named(examine((images, labels), has_raw=has_raw))
    assert list(found) == ["blank_images"] and "12 % are blank" in found["blank_images"].evidence


def test_images_that_break_off_are_named_but_not_things_on_a_plain_ground() -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(200, 3, 16, 16, generator=chance)
    cut = x.clone()
    cut[:50, :, 9:] = 0.5
    plain = torch.ones(200, 3, 16, 16)
    plain[:, :, 3:9, 4:12] = x[:, :, 3:9, 4:12]
    assert measure_broken(cut).cut == pytest.approx(0.25) and measure_broken(plain).total == 0 and measure_broken(x).total == 0


def test_static_among_smooth_images_is_found() -> None:
    chance = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(100, 1, 4, 4, generator=chance), size=16, mode="bilinear")
    smooth[:20] = torch.rand(20, 1, 16, 16, generator=chance)
    assert measure_broken(smooth).static == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("axis", [2, 3])
def test_images_of_threads_are_not_static(axis: int) -> None:
    """Their pixels are equal along the threads, and unlike across them."""
    draw = torch.Generator().manual_seed(0)
    threads = torch.rand((20, 1, 1, 20) if axis == 2 else (20, 1, 20, 1), generator=draw).expand(20, 1, 20, 20)
    smooth = F.avg_pool2d(torch.rand(80, 1, 26, 26, generator=draw), 7, 1)
    smooth = smooth / smooth.std() * threads.std()
    assert measure_broken(torch.cat([threads + 0.1 * torch.rand(20, 1, 20, 20, generator=draw), smooth])).static == 0


def test_repeated_images_are_named() -> None:
    images, labels = split("train")
    rows = np.random.default_rng(0).integers(0, 300, 1200)
    found = named(examine((images[rows], labels[rows])))
    assert list(found) == ["duplicates_in_train"] and found["duplicates_in_train"].is_material


def test_a_few_repeated_images_are_not_named() -> None:
    images, labels = split("train")
    images[:12] = images[100:112]
    assert "duplicates_in_train" not in named(examine((images, labels)))


def test_drawing_with_replacement_is_no_repetition() -> None:
    def train(epoch: int) -> object:
        return iterate("train", BATCH, np.random.default_rng(epoch).integers(0, 1200, 1200))

    assert named(Examination(patient(raw=None, train=train))) == {}


@pytest.mark.parametrize("has_raw", [True, False])
def test_leaked_images_are_named(has_raw: bool) -> None:
    (images, labels), (held, held_labels) = split("train"), split("validation")
    leaked = np.concatenate([images, held[:100]]), np.concatenate([labels, held_labels[:100]])
    found = named(examine(leaked, has_raw=has_raw))
    assert list(found) == ["leakage_exact"] and found["leakage_exact"].confidence > 0.9


def test_leaked_images_are_found_through_augmentation() -> None:
    (images, labels), (held, held_labels) = enlarged("train"), enlarged("validation")
    leaked = np.concatenate([images[:600], held[:150]]), np.concatenate([labels[:600], held_labels[:150]])

    def move(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([image.roll(tuple(torch.randint(-2, 3, (2,)).tolist()), (1, 2)) for image in x])

    assert list(named(examine(leaked, (held[:200], held_labels[:200]), change=move, has_raw=False))) == ["leakage_exact"]


def test_near_copies_are_named_and_similar_images_are_not() -> None:
    (images, labels), (held, held_labels) = enlarged("train"), enlarged("validation")
    chance = np.random.default_rng(0)
    changed = np.clip(held[:100].astype(float) * 0.8 + chance.normal(20, 8, held[:100].shape), 0, 255).astype(np.uint8)[:, :, ::-1]
    leaked = np.concatenate([images[:600], changed]), np.concatenate([labels[:600], held_labels[:100]])
    assert list(named(examine(leaked, (held[:200], held_labels[:200])))) == ["leakage_near"]
    assert named(examine((images[:600], labels[:600]), (held[:200], held_labels[:200]))) == {}


def mark(images: np.ndarray, labels: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Images with a bright pixel in the first or last row whose place gives the class away, in a share of them."""
    marked = images.copy()
    rows = np.flatnonzero(np.random.default_rng(0).random(len(labels)) < share)
    marked[rows, 7 * (labels[rows] // 5), labels[rows] % 5, 0] = 255
    return marked


@pytest.mark.parametrize("share", [1.0, 0.85])
def test_marks_are_a_shortcut(share: float) -> None:
    (images, labels), (held, held_labels) = split("train"), split("validation")
    found = named(examine((mark(images, labels, share), labels), (mark(held, held_labels, share), held_labels)))
    assert list(found) == ["shortcut"] and "rows 0 to 7" in found["shortcut"].evidence


def test_marks_that_validation_lacks_are_a_shortcut_not_a_shift() -> None:
    images, labels = split("train")
    assert diagnose(data_patient((mark(images, labels), labels))).findings[0].cause == "shortcut"


def test_classes_that_are_places_are_no_shortcut() -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 10, 1200)
    images = chance.integers(0, 120, (1200, 8, 8, 1)).astype(np.uint8)
    images[np.arange(1200), labels % 8, labels // 2, 0] = 255  # the place of a spot is the class
    assert "shortcut" not in named(examine((images[:800], labels[:800]), (images[800:], labels[800:])))


@pytest.mark.parametrize("has_raw", [True, False])
def test_images_shrunk_and_enlarged_have_too_low_a_resolution(has_raw: bool) -> None:
    def shrink(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.interpolate(x, size=3, mode="area"), size=x.shape[2:], mode="bilinear", align_corners=False)

    found = named(examine(change=shrink, change_validation=shrink, has_raw=has_raw))
    assert list(found) == ["resolution_too_low"] and "3 pixels" in found["resolution_too_low"].evidence


def test_harmless_shrinking_and_enlarging_are_not_named() -> None:
    large = {name: enlarged(name, 32) for name in ("train", "validation")}
    half = named(examine(*large.values(), change=lambda x: F.avg_pool2d(x, 2), change_validation=lambda x: F.avg_pool2d(x, 2)))
    assert "resolution_too_low" not in half
    assert "resolution_too_low" not in named(examine(change=lambda x: x, has_raw=False))


def test_effective_side_is_that_before_enlarging() -> None:
    chance = torch.Generator().manual_seed(0)
    small = torch.rand(20, 3, 6, 6, generator=chance)
    for mode in ("nearest", "bilinear", "bicubic"):
        assert find_effective_side(F.interpolate(small, size=18, mode=mode)) == 6
    assert find_effective_side(torch.rand(20, 1, 18, 18, generator=chance)) == 18


def test_healthy_cases_stay_silent() -> None:
    assert named(Examination(patient())) == {}
    assert named(examine(colored("train"), colored("validation"))) == {}
    assert prepare(digits()["train"][0][:2]).shape == (2, 1, 8, 8)
