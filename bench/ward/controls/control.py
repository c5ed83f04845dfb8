"""What a control is: a healthy variation of a patient, and the patients it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.ward.fits import any_patient
from bench.ward.patient import Patient


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
