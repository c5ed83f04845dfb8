"""Telemetry: probes read numbers from each step; training is the same with and without them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from goodfit.core.contracts import Probe
from goodfit.training.gradient import Outcome
from goodfit.training.state import State
from goodfit.training.step import Objective


@dataclasses.dataclass(frozen=True)
class StepView:
    """What a probe may read after a step: the state, the outcome of the step, and what the probe kept from before it."""

    state: State
    outcome: Outcome
    before: Any


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """The probes of a run, in the form that the training loop takes."""

    probes: tuple[Probe, ...]

    @contextlib.contextmanager
    def during(self, state: State, objective: Objective) -> Iterator[dict[str, Any]]:
        """Run the probes due at this step before and after the block; their readings are in the dictionary once it has ended."""
        readings: dict[str, Any] = {}
        due = [(probe, probe.before(state)) for probe in self.probes if state.step % probe.every == 0]
        yield readings
        for probe, before in due:
            assert objective.outcome is not None
            readings.update(probe.read(StepView(state, objective.outcome, before)))
