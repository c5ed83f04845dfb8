"""A case: a setting with a fault or a healthy variation by name, and the patient made of it."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

from bench.ward.controls import CONTROLS, ODD_SETTINGS
from bench.ward.faults import FAULTS, UNLISTED, component_of
from bench.ward.patient import Patient
from bench.ward.settings import HELD_OUT_SETTINGS, SETTINGS, admit

ALL_SETTINGS = {**SETTINGS, **HELD_OUT_SETTINGS, **ODD_SETTINGS}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a case is made of.

    Attributes:
        setting: a key of `ALL_SETTINGS`.
        change: a key of `FAULTS` or `CONTROLS`.
        severity: of a fault, 0, 1 or 2.
        draw: added to the seed, so that cases of one setting have different images.
    """

    setting: str
    change: str = "plain"
    severity: int = 0
    draw: int = 0

    @property
    def is_fault(self) -> bool:
        return self.change in FAULTS

    @property
    def is_odd(self) -> bool:
        """Whether a healthy case looks odd."""
        return not self.is_fault and (self.change != "plain" or self.setting in ODD_SETTINGS)

    @property
    def cause(self) -> str | None:
        """The right answer: a cause, `UNLISTED`, or None for healthy ones."""
        return FAULTS[self.change].cause if self.is_fault else None

    def twin(self) -> Spec:
        """The same without the change."""
        return dataclasses.replace(self, change="plain", severity=0)

    def make(self, seed: int, folder: Path) -> Patient:
        """Make the patient."""
        patient = admit(ALL_SETTINGS[self.setting], 1000 * self.draw + seed, folder)
        return FAULTS[self.change].inject(patient, self.severity) if self.is_fault else CONTROLS[self.change].change(patient)

    def answer(self) -> dict[str, object]:
        """What the case is, for the file of answers."""
        fault = FAULTS.get(self.change)
        return {
            **dataclasses.asdict(self),
            "kind": "fault" if fault and fault.cause != UNLISTED else "unlisted" if fault else "odd" if self.is_odd else "plain",
            "cause": self.cause,
            "accept": list(fault.accept) if fault else [],
            "component": component_of(fault) if fault else None,
            "data": ALL_SETTINGS[self.setting].data,
            "architecture": family_of(self.setting),
        }


def family_of(setting: str) -> str:
    """The family of the network of a setting, with its norm or activation where they are not the usual."""
    net = ALL_SETTINGS[setting].net
    return "-".join([net.family, *([net.norm] if net.norm != "none" else []), *([net.act] if net.act != "relu" else [])])


def fitting(change: str, settings: list[str], folder: Path) -> list[str]:
    """The settings that a fault or a control fits."""
    fits = FAULTS[change].fits if change in FAULTS else CONTROLS[change].fits
    return [name for name in settings if fits(_example(name, folder))]


@lru_cache(maxsize=len(ALL_SETTINGS))
def _example(setting: str, folder: Path) -> Patient:
    return admit(ALL_SETTINGS[setting], 0, folder)
