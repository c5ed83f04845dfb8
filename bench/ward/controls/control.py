"""What a control is: a healthy variation of a patient, and the patients it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.ward.patient import Patient


def any_patient(patient: Patient) -> bool:
    """Whether a patient can be varied so: all can."""
    return True


def is_pretrained(patient: Patient) -> bool:
    """Whether the model of a healthy patient starts from pretrained weights."""
    return patient.surgery is not Patient.surgery


@dataclasses.dataclass(frozen=True)
class Control:
    """A healthy variation.

    Attributes:
        name: unlike any other.
        change: makes the variation of a healthy patient.
        fits: whether a patient can have it.
        is_comparable: whether it should do as well as the patient it comes from; a harder task cannot.
    """

    name: str
    change: Callable[[Patient], Patient]
    fits: Callable[[Patient], bool] = any_patient
    is_comparable: bool = True
