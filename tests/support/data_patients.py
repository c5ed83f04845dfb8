"""Patients of images that a test makes: digits, gray or colored, changed on disk or on their way to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goodfit.doctor.examination import Examination
from goodfit.doctor.patient import PatientSource, make_patient
from tests.support import patients
from tests.support.patients import prepare

Split = tuple[np.ndarray, np.ndarray]
Transform = Callable[[Tensor], Tensor]


def colored(split: str) -> Split:
    """Digits as uint8 [N, 8, 8, 3] whose color, in red and blue, says which third of the classes they are of, with noise in each image."""
    images, labels = patients.digits()[split]
    chance = np.random.default_rng(len(labels))
    tints = np.array([[1.0, 0.5, 0.1], [0.5, 0.5, 0.5], [0.1, 0.5, 1.0]])[labels % 3]
    tints = np.clip(tints + chance.normal(0, 0.15, tints.shape), 0, 1)
    return (images * tints[:, None, None]).astype(np.uint8), labels


def data_patient(
    train: Split | None = None,
    validation: Split | None = None,
    change: Transform = lambda x: x,
    change_validation: Transform = lambda x: x,
    has_raw: bool = True,
    **parts: Any,
) -> PatientSource:
    """A patient of some images on disk; `change` and `change_validation` are applied to batches of them on their way."""
    train = train if train is not None else patients.digits()["train"]
    validation = validation if validation is not None else patients.digits()["validation"]

    def iterate_train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng(epoch).permutation(len(train[1]))
        for start in range(0, len(order) - patients.BATCH + 1, patients.BATCH):
            rows = order[start : start + patients.BATCH]
            yield change(prepare(train[0][rows])), torch.from_numpy(train[1][rows].copy())

    def iterate_validation() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(validation[1]), 100):
            rows = slice(start, start + 100)
            yield change_validation(prepare(validation[0][rows])), torch.from_numpy(validation[1][rows].copy())

    raw = {"train": train, "validation": validation} if has_raw else None
    made = {"train": iterate_train, "validation": iterate_validation, "raw": raw, **parts}
    return PatientSource("digits", 0, lambda: make_patient(patients.parts(0, **made), "digits"))


def examine(*args: Any, **parts: Any) -> Examination:
    """The examination of such a patient."""
    return Examination(data_patient(*args, **parts))
