"""Telemetry: probes read numbers from each step; training cannot tell whether anybody looks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from goodfit.core.contracts import Probe
from goodfit.training.gradient import Objective, Outcome
from goodfit.training.state import State


@dataclasses.dataclass(frozen=True)
class View:
    """What a probe may read after a step: the state, the step's outcome, and what the probe itself kept from before it."""

    state: State
    outcome: Outcome
    before: Any


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """The probes of a run, as the loop's `watch` seat."""

    probes: tuple[Probe, ...]

    @contextlib.contextmanager
    def during(self, state: State, objective: Objective) -> Iterator[dict[str, Any]]:
        """Let the probes due at this step look before and after; what they read is in the dictionary when the block has ended."""
        seen: dict[str, Any] = {}
        due = [(probe, probe.before(state)) for probe in self.probes if state.step % probe.every == 0]
        yield seen
        for probe, before in due:
            assert objective.outcome is not None
            seen.update(probe.read(View(state, objective.outcome, before)))
