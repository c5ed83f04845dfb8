"""Snapshots: the weights at the ends of a schedule's cycles, each a model of its own for the price of one training."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

from goodfit.core.errors import UsageError
from goodfit.core.files import remove, write_atomic
from goodfit.core.run_files import read_json, write_json
from goodfit.core.words import count_of
from goodfit.models.weights.saved import to_safetensors
from goodfit.schedules.span import T_TOLERANCE
from goodfit.training.checkpoint import Checkpoints, is_finite
from goodfit.training.state import Plan, State

FOLDER = "snapshots"  # of a run


def snapshot_points(asked: int | Literal["all"], ends: tuple[float, ...]) -> tuple[float, ...]:
    """The values of t at which snapshots are taken: the last of the `ends` of the schedule's cycles, where its factor is lowest.

    A schedule without cycles is cut into equal lengths instead, as a control for the claim that cycles make better snapshots.
    Source: Huang et al. 2017 (snapshot ensembles).

    Raises:
        UsageError: the schedule has fewer cycles than snapshots are asked for.
    """
    if asked == "all":
        if not ends:
            raise UsageError(
                "Snapshots of all cycles need a schedule with cycles, such as sgdr(5, growth=1) or cyclic: choose one, or say how many."
            )
        return ends
    if asked > len(ends) > 0:
        raise UsageError(f"Expected {count_of(asked, 'cycle')} for as many snapshots, but the schedule has {len(ends)}.")
    return (ends or tuple(n / asked for n in range(1, asked + 1)))[-asked:] if asked else ()


def snapshots_due(plan: Plan, t: float) -> int:
    """How many snapshots are due by progress t."""
    return sum(point <= t + T_TOLERANCE for point in plan.snapshots)


def record_snapshot(state: State, plan: Plan, keep: bool = False) -> None:
    """Record that the weights of this step are a snapshot, if one has become due since the last or `keep` is true."""
    due = snapshots_due(plan, plan.t(state))
    if due > state.snapshots_taken or keep:
        state.snapshots_taken = max(due, state.snapshots_taken)
        state.snapshots += [state.step]


@dataclasses.dataclass(frozen=True)
class Snapshots:
    """Checkpoints that also keep the weights of each step that is a snapshot, as STEP.safetensors in a folder of the run.

    They are the weights of the step itself, not their running average, with the batch statistics of training. STEP.json has their checksum.
    """

    checkpoints: Checkpoints
    folder: Path

    def save(self, state: State) -> None:
        """Write the snapshot, if the step is one, then the checkpoint; after a kill in between, the same snapshot is written again."""
        if state.step in state.snapshots and is_finite(state):
            content = to_safetensors(state.model)
            write_atomic(self.path(state.step), content)
            write_json(self.path(state.step).with_suffix(".json"), {"weights": hashlib.sha256(content).hexdigest()})
        self.checkpoints.save(state)

    def path(self, step: int) -> Path:
        """The file of a step's weights."""
        return self.folder / f"{step:08d}.safetensors"

    def prune(self, state: State) -> None:
        """Delete files that are no snapshot of this training: of steps that a resume under a budget in minutes did not reach again."""
        kept = {self.path(step) for step in state.snapshots}
        for file in self.folder.glob("*"):
            if file.with_suffix(".safetensors") not in kept:
                remove(file)


def snapshot_hash(file: Path) -> str | None:
    """The SHA-256 of a snapshot as it was written; None where an earlier version has not recorded it.

    Raises:
        DamagedFile: its record does not read.
    """
    sha256: str | None = read_json(file.with_suffix(".json")).get("weights")
    return sha256
