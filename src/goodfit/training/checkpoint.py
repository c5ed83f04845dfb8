"""Checkpoints: the whole state on disk, atomic and checksummed; the last two and the best are kept, a damaged one is passed over."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from goodfit.core import checkpoint_files
from goodfit.core.checkpoint_files import GONE_ERRORS, checksum, read_checkpoint, saved_steps
from goodfit.core.errors import Diverged, GoodfitError, first_line
from goodfit.core.files import explain_write_errors, remove, write_atomic
from goodfit.core.ranks import Ranks
from goodfit.training.state import Plan, State

RECENT_CHECKPOINTS_KEPT = 2
DAMAGED_FOLDER = "damaged"  # of the checkpoints, to which those that do not read are moved
DAMAGE_ERRORS = (*checkpoint_files.DAMAGE_ERRORS, SafetensorError)
# Names that fields of the state had in checkpoints of version 0.1.
FORMER_FIELDS = {
    "brake": "plateau_factor",
    "lever": "manual_factor",
    "updates": "average_updates",
    "averaged": "averaged_at",
    "passed": "snapshots_taken",
}


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: NUMBER.safetensors with the tensors, then NUMBER.json with the rest and the checksum of the first."""

    folder: Path

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, oldest first."""
        return saved_steps(self.folder)

    def save(self, state: State) -> None:
        """Write the state, then delete all checkpoints but the last two and the best.

        Raises:
            Diverged: a weight is not finite.
            GoodfitError: no space is left.
        """
        if state.step in self.steps():
            return
        if not is_finite(state):
            raise Diverged(f"Training diverged by step {state.step}: a weight is not finite. What was saved before is kept.")
        about, tensors = pack_state(state)
        content = save(tensors)
        write_atomic(self._tensors(state.step), content)
        about["sha256"] = checksum(about, content)
        write_atomic(self._about(state.step), json.dumps(about))
        kept = [*self.steps()[-RECENT_CHECKPOINTS_KEPT:], state.best.get("step")]
        for step in self.steps():
            if step not in kept:
                remove(self._about(step))
                remove(self._tensors(step))
        for path in self.folder.glob("*.safetensors"):  # left by a save that was killed before its JSON
            if not path.with_suffix(".json").exists():
                remove(path)

    def restore(self, state: State, step: int | None = None) -> list[str]:
        """Set the state to the last good checkpoint, or to that of `step`; returns a warning for each that was damaged.

        Raises:
            GoodfitError: there is no good checkpoint, or it is of another model.
        """
        warnings: list[str] = []
        for number in [step] if step is not None else reversed(self.steps()):
            try:
                about, tensors = self._read(number)
            except DAMAGE_ERRORS as error:
                if not isinstance(error, OSError) or isinstance(error, GONE_ERRORS):
                    self._set_aside(number)
                reason = error.strerror if isinstance(error, OSError) else first_line(error)
                warnings.append(f"The checkpoint of step {number} is damaged ({reason}); falling back to the one before.")
                continue
            try:
                unpack_state(state, about, tensors)
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise GoodfitError(
                    f'The checkpoint of step {number} in "{self.folder}" is of another model than that of the recipe ({first_line(error)}):'
                    " restore the run's recipe.toml, or start anew with another --out."
                ) from error
            return warnings
        raise GoodfitError(f'No good checkpoint is left in "{self.folder}"; start the run anew.')

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights and statistics of the model, not of its average, in the checkpoint of a step.

        Raises:
            OSError, ValueError: it is not there, or damaged.
        """
        model: dict[str, Tensor] = self.read(step)[1]["model"]
        return model

    def read(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of the state in the checkpoint of a step, and what `tensor_values` gave of it.

        Raises:
            OSError, ValueError: it is not there, or damaged.
        """
        about, tensors = self._read(step)
        return about["state"], from_json_tree(about["tree"], tensors)

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        about, content = read_checkpoint(self.folder, step)
        return about, load(content)

    def _set_aside(self, step: int) -> None:
        """Move a damaged checkpoint aside, so that its step is saved again and it does not count among those kept."""
        aside = self.folder / DAMAGED_FOLDER
        with explain_write_errors(aside):
            aside.mkdir(exist_ok=True)
            for path in (self._about(step), self._tensors(step)):
                if path.exists():
                    remove(aside / path.name)
                    path.replace(aside / path.name)

    def _tensors(self, step: int) -> Path:
        return checkpoint_files.tensors_file(self.folder, step)

    def _about(self, step: int) -> Path:
        return checkpoint_files.values_file(self.folder, step)


def pack_state(state: State) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The whole state as values for JSON, and the tensors that these name."""
    tensors: dict[str, Tensor] = {}
    tree = to_json_tree({**tensor_values(state), **({"ranks": state.rank_trees} if state.rank_trees else {})}, tensors)
    return {"state": state.scalars(), "tree": tree}, tensors


def tensor_values(state: State) -> dict[str, Any]:
    """The weights, statistics and moments of a state, as torch's `state_dict` names them."""
    average = state.average.state_dict() if state.average is not None else None
    return {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict(), "average": average}


def unpack_state(state: State, about: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Set the state to what `pack_state` returned; what is of another model raises as torch's `load_state_dict` does."""
    tree = from_json_tree(about["tree"], tensors)
    state.model.load_state_dict(tree["model"])
    state.optimizer.load_state_dict(tree["optimizer"])
    if state.average is not None:
        state.average.load_state_dict(tree["average"])
    state.rank_trees = tree.get("ranks", [])
    for name, value in about["state"].items():
        setattr(state, FORMER_FIELDS.get(name, name), value)


def broadcast_state(state: State, ranks: Ranks) -> None:
    """Set the state of every rank to that of rank 0."""
    if ranks.size == 1:
        return
    about, tensors = pack_state(state)
    about, content = ranks.broadcast_object((about, save(tensors)))
    if not ranks.is_first:
        unpack_state(state, about, load(content))


def best_weights(plan: Plan, checkpoints: Checkpoints, state: State) -> Mapping[str, Tensor]:
    """The weights of the best evaluation, as far as their checkpoint reads, else those of the pretrained start."""
    assert plan.start is not None
    with contextlib.suppress(*DAMAGE_ERRORS):
        return checkpoints.weights(state.best["step"])
    return plan.start


def to_json_tree(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Turn a nested structure into JSON values, moving its tensors to `tensors` under their path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        channels_last = tree.dim() == 4 and not tree.is_contiguous() and tree.is_contiguous(memory_format=torch.channels_last)
        return {"tensor": path, "channels_last": channels_last}
    if isinstance(tree, dict):
        return {"items": [[key, to_json_tree(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {type(tree).__name__: [to_json_tree(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]}
    return tree


def from_json_tree(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuild the structure that `to_json_tree` was given."""
    match tree:
        case {"tensor": path, "channels_last": channels_last}:  # sums run in memory order, so the layout is part of the state
            return tensors[path].contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        case {"items": items}:
            return {key: from_json_tree(value, tensors) for key, value in items}
        case {"list": values}:
            return [from_json_tree(value, tensors) for value in values]
        case {"tuple": values}:
            return tuple(from_json_tree(value, tensors) for value in values)
    return tree


def is_finite(state: State) -> bool:
    """Whether every weight and statistic is a finite number."""
    return all(bool(torch.isfinite(x).all()) for x in state.model.state_dict().values() if x.is_floating_point())
