"""The rules of wrong labels, each on a case made for it and on its look-alikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding
from goodfit.doctor.label_offset import find_offset, search_offset
from goodfit.doctor.probe import PatchFeatures, Ridge
from goodfit.doctor.rules import labels as rules
from tests.support.data_patients import data_patient, examine
from tests.support.patients import digits, find_causes, patient


def relabeled(share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Training digits of which a share has a label drawn at random."""
    images, labels = digits()["train"]
    chance = np.random.default_rng(seed)
    drawn = chance.random(len(labels)) < share
    return images, np.where(drawn, chance.integers(0, 10, len(labels)), labels)


def named(exam: Examination) -> dict[str, Finding]:
    """What the rules of labels find."""
    return find_causes(exam, rules.RULES)


@pytest.mark.parametrize("has_raw", [True, False])
def test_label_noise_is_named_with_its_share(has_raw: bool) -> None:
    found = named(examine(relabeled(0.3), has_raw=has_raw))
    assert list(found) == ["label_noise"] and found["label_noise"].confidence > 0.9
    assert "about 3" in found["label_noise"].evidence or "about 2" in found["label_noise"].evidence


def test_where_validation_is_easy_because_it_leaked_labels_are_not_blamed() -> None:
    images, labels = digits()["train"]
    assert named(examine(relabeled(0.3), (images[:300], labels[:300]))) == {}


def test_noise_ends_the_examination_at_the_data() -> None:
    verdict = diagnose(data_patient(relabeled(0.4)))
    assert verdict.findings[0].cause == "label_noise" and verdict.steps == 0 and verdict.alarm


@pytest.mark.parametrize("stride", [2, 5])
def test_label_confusion_is_told_from_noise(stride: int) -> None:
    images, labels = digits()["train"]
    swapped = labels.copy()
    swapped[np.flatnonzero(labels == 4)[::stride]] = 9
    found = named(examine((images, swapped)))
    assert list(found) == ["label_confusion"]
    assert "labeled 9 look like class 4" in found["label_confusion"].evidence


def test_a_class_given_away_whole_but_for_a_few_images_is_confusion() -> None:
    images, labels = digits()["train"]
    swapped = labels.copy()
    swapped[np.flatnonzero(labels == 4)[:-6]] = 9
    assert "label_confusion" in named(examine((images, swapped)))


def test_a_class_of_which_images_were_taken_away_is_no_confusion() -> None:
    images, labels = digits()["train"]
    kept = np.delete(np.arange(len(labels)), np.flatnonzero(labels == 4)[:-6])
    assert named(examine((images[kept], labels[kept]))) == {}


@pytest.mark.parametrize(("rows", "words"), [(1, "those 1 row further on"), (-3, "those 3 rows before")])
def test_shifted_labels_are_named_with_the_rows(rows: int, words: str) -> None:
    images, labels = digits()["train"]
    found = named(examine((images, np.roll(labels, rows))))
    assert list(found) == ["labels_shifted"] and words in found["labels_shifted"].evidence


def test_labels_in_another_order_than_the_images_are_shifted() -> None:
    images, labels = digits()["train"]
    found = named(examine((images, np.random.default_rng(1).permutation(labels)), has_raw=False))
    assert list(found) == ["labels_shifted"] and "chance" in found["labels_shifted"].evidence


def test_labels_shifted_within_each_batch_are_found_without_the_disk() -> None:
    source = patient(raw=None)

    def shifted(epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(x, y.roll(1)) for x, y in source.make().train(epoch)]

    found = named(Examination(patient(raw=None, train=shifted)))
    assert "1 row further on" in found["labels_shifted"].evidence


def test_sorted_labels_are_not_taken_for_shifted_ones() -> None:
    images, labels = digits()["train"]
    order = np.argsort(labels, kind="stable")
    assert named(examine((images[order], labels[order]))) == {}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda y: y + 1, "from 1 to 10"),
        (lambda y: np.where(np.arange(len(y)) % 50 == 0, 255, y), "from 0 to 255"),
        (lambda y: np.where(np.arange(len(y)) % 10 == 0, -1, y), "from -1 to 9"),
        (lambda y: y + 0.5, "not whole numbers"),
    ],
)
def test_labels_out_of_range(change: object, what: str) -> None:
    images, labels = digits()["train"]
    found = named(examine((images, change(labels)), has_raw=False))  # type: ignore[operator]
    assert what in found["labels_out_of_range"].evidence


def test_healthy_and_hard_cases_stay_silent() -> None:
    assert named(Examination(patient())) == {}
    images = {split: digits()[split] for split in ("train", "validation")}
    chance = np.random.default_rng(3)
    drowned = {s: (np.clip(x + chance.normal(0, 130, x.shape), 0, 255).astype(np.uint8), y) for s, (x, y) in images.items()}
    assert named(examine(drowned["train"], drowned["validation"])) == {}  # as hard in both splits


def test_mild_augmentation_is_no_noise() -> None:
    def move(x: torch.Tensor) -> torch.Tensor:
        rows = torch.randint(-1, 2, (2,)).tolist()
        return x.roll(rows, (2, 3)) + 0.3 * torch.randn_like(x)

    assert named(examine(change=move, has_raw=False)) == {}


def test_leave_one_out_is_what_fits_without_each_image_give() -> None:
    images, labels = digits()["train"]
    x = torch.from_numpy(images[:60].copy()).permute(0, 3, 1, 2).float()
    y = torch.from_numpy(labels[:60].copy())
    features = PatchFeatures(x)(x)[:, ::7]
    fit = Ridge(features, y, 10)
    z = (features - features.mean(0)) / (features.std(0, correction=0) + 1e-3)
    z = torch.cat([z, torch.ones(60, 1)], dim=1).double()
    targets = torch.nn.functional.one_hot(y, 10).double()
    for row in range(5):
        others = torch.arange(60) != row
        a = z[others]
        weights = torch.linalg.solve(a.T @ a + fit.penalty * 60 * torch.eye(z.shape[1]), a.T @ targets[others])
        assert torch.allclose((z[row] @ weights).float(), fit.scores[row], atol=1e-4)


def test_offsets_are_found_from_predictions_and_from_labels_alone() -> None:
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (600,), generator=chance)
    noisy = torch.where(torch.rand(600, generator=chance) < 0.5, labels, torch.randint(5, (600,), generator=chance))
    offset = find_offset(noisy.roll(-7), labels, 5)
    assert offset is not None and offset.rows == 7
    assert find_offset(noisy, labels, 5) is None
    assert find_offset(torch.randint(5, (600,), generator=chance), labels, 5) is None
    features = torch.nn.functional.one_hot(labels, 5).float() + 0.5 * torch.randn(600, 5, generator=chance)
    searched = search_offset(Ridge(features, labels.roll(4), 5), labels.roll(4), torch.arange(600))
    assert searched is not None and searched.rows == 4
    some = torch.arange(0, 600, 2)
    searched = search_offset(Ridge(features[some], labels.roll(3)[some], 5), labels.roll(3), some)
    assert searched is not None and searched.rows == 3, "rows are those of the whole list"
    assert search_offset(Ridge(features, labels, 5), labels, torch.arange(600)) is None
