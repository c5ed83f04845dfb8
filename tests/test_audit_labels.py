"""Labels against images: noise, confusions, shifts and renamed classes are measured, and right labels raise nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from goodfit.doctor.audit.features import find_neighbors, reduce_pixels
from goodfit.doctor.audit.labels import (
    estimate_label_noise,
    measure_agreement,
    predict_out_of_fold,
)
from goodfit.doctor.class_order import match_class_order
from goodfit.doctor.label_offset import search_offset
from goodfit.doctor.probe import Ridge
from tests.support.digits import read_digits

IMAGES, LABELS = read_digits(900)
FEATURES = reduce_pixels(IMAGES)


def test_neighbors_are_those_of_scikit_learn() -> None:
    expected = NearestNeighbors(n_neighbors=6).fit(FEATURES).kneighbors(FEATURES, return_distance=False)[:, 1:]
    assert (find_neighbors(FEATURES, 5) == expected).mean() > 0.999
    assert (find_neighbors(FEATURES[:7], 1, FEATURES)[:, 0] == np.arange(7)).all()


def test_agreement_is_near_one_for_right_labels_and_zero_for_labels_at_random() -> None:
    right = measure_agreement(FEATURES, LABELS)
    assert right.corrected > 0.9 and right.interval[0] < right.share < right.interval[1]
    shuffled = measure_agreement(FEATURES, np.random.default_rng(0).permutation(LABELS))
    assert abs(shuffled.corrected) < 0.05 and abs(shuffled.chance - 0.1) < 0.01


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_label_noise_is_estimated_and_its_images_are_the_first_suspects(share: float) -> None:
    rng = np.random.default_rng(1)
    labels, chosen = LABELS.copy(), rng.random(len(LABELS)) < share
    labels[chosen] = (labels[chosen] + rng.integers(1, 10, chosen.sum())) % 10
    noise = estimate_label_noise(predict_out_of_fold(FEATURES, labels, 10), labels)
    assert noise.is_telling
    assert noise.interval[0] - 0.02 <= chosen.mean() <= noise.interval[1] + 0.02
    if share:
        assert chosen[noise.suspects[: chosen.sum()]].mean() > 0.75


def test_a_confusion_of_two_classes_is_named() -> None:
    labels = LABELS.copy()
    ones = np.flatnonzero(LABELS == 1)
    labels[ones[::2]] = 7
    noise = estimate_label_noise(predict_out_of_fold(FEATURES, labels, 10), labels)
    assert noise.pair == (7, 1) and noise.pair_share > 0.25 and 0.25 < noise.pair_rate < 0.6
    assert noise.joint.sum() == pytest.approx(1)


def test_poor_features_say_nothing_of_labels() -> None:
    rng = np.random.default_rng(0)
    features = np.eye(10)[LABELS] + rng.normal(0, 1.1, (len(LABELS), 10))
    noise = estimate_label_noise(predict_out_of_fold(features.astype(np.float32), LABELS, 10), LABELS)
    assert not noise.is_telling


@pytest.mark.parametrize("rows", [0, 1, -3])
def test_shifted_labels_are_found_with_their_offset(rows: int) -> None:
    labels = torch.from_numpy(np.roll(LABELS, rows))
    shift = search_offset(Ridge(torch.from_numpy(FEATURES), labels, 10), labels, torch.arange(len(labels)))
    if rows == 0:
        assert shift is None
    else:
        assert shift is not None and shift.rows == rows and shift.after.value > 0.85 and shift.z > 20


def test_renamed_classes_are_matched_and_errors_alone_are_not() -> None:
    rng, labels = np.random.default_rng(0), LABELS[:300]
    errs = rng.random(300) < 0.2
    predicted = torch.from_numpy(np.where(errs, rng.integers(0, 10, 300), labels))
    healthy = match_class_order(predicted, torch.from_numpy(labels), 10)
    assert healthy.moved == [] and healthy.z == 0 and healthy.after == healthy.before
    renamed = np.array([1, 0, 2, 3, 4, 5, 6, 7, 9, 8])[labels]
    order = match_class_order(predicted, torch.from_numpy(renamed), 10)
    assert order.meaning == (1, 0, 2, 3, 4, 5, 6, 7, 9, 8) and order.z > 5
    assert order.before < 0.6 and order.after == pytest.approx((predicted.numpy() == labels).mean())
    guesses = match_class_order(torch.from_numpy(rng.integers(0, 10, 300)), torch.from_numpy(labels), 10)
    assert abs(guesses.z) < 2.5, "guesses match no order"
