"""What the doctor finds: a cause with its evidence and remedy, and the verdict on a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from goodfit.doctor.causes import COMPONENT_OF, Component

if TYPE_CHECKING:
    from goodfit.doctor.examination import Examination

VerdictKind = Literal["healthy", "fault", "either", "unknown"]
MAX_CAUSES = 5
UNTESTED = " could not be tested"  # what is said of a rule that failed


def spell_patch(patch: Mapping[str, Any]) -> str:
    """Fields of a recipe with their values, as recipe.toml has them."""
    return ", ".join(f'{name} = "{text}"' for name, text in patch.items())


@dataclasses.dataclass(frozen=True)
class Finding:
    """A cause, how sure it is (0 to 1), the numbers that show it, what to change, and the recipe fields that do so in a run of ours.

    `is_material` says whether it does harm that is seen or certain; what is not material is a note, and never an alarm. `rate_factor` is
    what a trial multiplied the learning rate by and found better, 0 where none did.
    """

    cause: str
    confidence: float
    evidence: str
    remedy: str
    patch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_material: bool = True
    rate_factor: float = 0.0

    @property
    def component(self) -> Component:
        return COMPONENT_OF[self.cause]

    def describe_patch(self) -> str:
        """The fields of the recipe to change in a sentence; empty where there are none."""
        return f" In the recipe: {spell_patch(self.patch)}." if self.patch else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "cause": self.cause, "component": self.component, "confidence": round(self.confidence, 3), "evidence": self.evidence,
            "remedy": self.remedy, "patch": dict(self.patch),
        }  # fmt: skip


class Stage(IntEnum):
    """When a rule can speak, earliest first: from the images and labels alone, before the first step, after the first 10, after the first
    50, at the end.
    """

    DATA = 0
    START = 1
    FIRST = 2
    EARLY = 3
    END = 4


@dataclasses.dataclass(frozen=True)
class Rule:
    """One cause: from when on it shows, the function that looks for it, and its look-alikes, each with the test that tells it apart."""

    cause: str
    stage: Stage
    find: Callable[[Examination], Finding | None]
    look_alikes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The doctor's answer: the kind, the causes, most likely first, whether to stop a person, what it took, and the share of healthy
    trainings in which a finding is as sure (`p`, see `calibration`; None where that is not known), and what shows that something is wrong
    whose cause is unknown.
    """

    kind: VerdictKind
    component: Component | None
    findings: tuple[Finding, ...]
    alarm: bool
    steps: int
    trial_steps: int
    seconds: float
    ruled_out: tuple[str, ...] = ()
    p: float | None = None
    evidence: tuple[str, ...] = ()

    def to_json(self, case: str, seed: int) -> dict[str, Any]:
        """The object of the protocol of case files."""
        return {
            "case": case, "seed": seed, "verdict": self.kind, "component": self.component,
            "causes": [finding.to_json() for finding in self.findings[:MAX_CAUSES]], "alarm": self.alarm, "steps": self.steps,
            "trial_steps": self.trial_steps, "seconds": round(self.seconds, 2), "ruled_out": list(self.ruled_out),
            "p": None if self.p is None else round(self.p, 4), "evidence": list(self.evidence),
        }  # fmt: skip
