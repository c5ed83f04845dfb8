"""What a fault is: an injection that changes one thing of a patient, with the cause it stands for and the patients it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.ward.fits import any_patient
from bench.ward.patient import Patient

SEVERITIES = 3
UNLISTED = "unlisted"  # the cause of faults that the doctor has no name for


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that can be injected.

    Attributes:
        name: of the injection, unlike any other.
        cause: as in the list of causes, or `UNLISTED`.
        inject: changes one thing of a patient, at a severity of 0, 1 or 2.
        fits: whether a patient can have it.
        accept: further causes that name the same thing in other words.
        component: of an unlisted cause.
    """

    name: str
    cause: str
    inject: Callable[[Patient, int], Patient]
    fits: Callable[[Patient], bool] = any_patient
    accept: tuple[str, ...] = ()
    component: str = ""
