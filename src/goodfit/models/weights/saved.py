"""The model that a run keeps at its end, model.safetensors and config.json: written once, read without the data or the training code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from goodfit.core.commit import committed
from goodfit.core.dotted_names import dotted_names
from goodfit.core.errors import GoodfitError, UsageError, first_line
from goodfit.core.fetch import hash_file
from goodfit.core.fitted_task import plain_task, read_task
from goodfit.core.parts import Part, spell
from goodfit.core.run import ENSEMBLE_FILE, Run, part_files
from goodfit.core.run_files import DamagedFile, check_hash, explain_damage, format_json
from goodfit.core.task import CLASSES, Task
from goodfit.core.trust import require_trust
from goodfit.data.preprocess import Preprocess

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


@dataclasses.dataclass(frozen=True, eq=False)
class SavedModel:
    """The kept model of a run: its weights, and all that it takes to build the network again and to show it images.

    `model`, `loss` and `views` are the texts of those parts, `use_files` the run's copies of the user's files that define parts,
    `tensors` the state_dict. `temperature` divides the logits; it is 1 unless `goodfit evaluate --calibrate` stored another. `task` says
    what it answers.
    """

    run: Run
    model: str
    loss: str
    views: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: float
    use_files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]
    has_checksum: bool
    task: Task

    @property
    def notes(self) -> list[str]:
        """What is to be said of the model: that damage to it would go unnoticed, where it has no checksum."""
        text = f'Note: the model of "{self.run.path}" has no checksum, as of runs of version 0.1: damage to it would go unnoticed.'
        return [] if self.has_checksum else [text]

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file of weights, in hexadecimal digits."""
        return hash_file(committed(self.run.path / WEIGHTS_FILE))

    @staticmethod
    def read(run: Run) -> SavedModel:
        """Read the kept model of a run, wherever its folder lies.

        Raises:
            UsageError: the run has no finished model yet, or is an ensemble of several.
            UntrustedCode: its parts name code that may not run here.
            DamagedFile: a file of the model is not what was written.
        """
        if not committed(run.path / CONFIG_FILE).exists():
            if (run.path / ENSEMBLE_FILE).exists():
                raise UsageError(
                    f'Expected one model, received the ensemble "{run.path}": name a member of it, such as {run.path}/members/00.'
                )
            raise UsageError(f'The run "{run.path}" has no model yet: train it to its end with --resume auto --out "{run.path}".')
        config = run.read(CONFIG_FILE, "model", "loss", "label_names", "preprocess", "use")
        hashes: Mapping[str, str] = config.get("files", {})
        for file in (name for name in hashes if name != WEIGHTS_FILE):
            check_hash(run.path / file, hashes[file])
        try:
            preprocess = Preprocess.from_dict(config["preprocess"])
        except UsageError as error:
            raise DamagedFile(run.path / CONFIG_FILE, first_line(error)) from error
        with explain_damage(run.path / CONFIG_FILE):
            task = read_task(config.get("task"), config["label_names"])
        use_files = tuple(part_files(run, config["use"]))
        texts = (config["model"], config["loss"], config.get("views", "center"))  # runs of earlier versions have no views, no temperature
        require_trust(f'"{run.path}"', [name for text in texts for name in dotted_names(text)], use_files)
        return SavedModel(
            run,
            model=config["model"],
            loss=config["loss"],
            views=texts[-1],
            classes=tuple(config["label_names"]),
            preprocess=preprocess,
            temperature=float(config.get("temperature", 1.0)),
            use_files=use_files,
            tensors=read_weights(run.path / WEIGHTS_FILE, hashes.get(WEIGHTS_FILE)),
            has_checksum=WEIGHTS_FILE in hashes,
            task=task,
        )


def read_weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file of a run, which must be the one with that SHA-256; None where none was recorded.

    Raises:
        DamagedFile: it is not, or does not read.
    """
    with explain_damage(path):
        content = committed(path).read_bytes()
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("its checksum differs")
        return load(content)


@contextlib.contextmanager
def explain_misfit(run: Run) -> Iterator[None]:
    """Turn what building the network of a saved model and loading its tensors raise into one sentence: files of two runs were mixed.

    Raises:
        GoodfitError: the weights do not fit the network.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = first_line(error).rstrip(":")
        raise GoodfitError(f'The model in "{run.path}" does not read ({reason}): train it again, or restore a copy of the run.') from error


def format_model(
    run: Run, model: nn.Module, parts: Mapping[str, Part], classes: Sequence[str], preprocess: Preprocess, task: Task = CLASSES
) -> dict[str, bytes]:
    """The contents of model.safetensors and config.json, from which `SavedModel.read` reads; `parts` are the recipe's by seat."""
    config = {
        **{seat: spell(parts[seat], full=True) for seat in ("model", "loss", "views")},
        "num_classes": len(classes),
        "label_names": list(classes),
        **({} if task.name == CLASSES.name else {"task": plain_task(task)}),
        "preprocess": preprocess.to_dict(),
        "use": [path.name for path in part_files(run)],
    }
    weights = to_safetensors(model)
    return {WEIGHTS_FILE: weights, CONFIG_FILE: format_json(CONFIG_FILE, with_hashes(run, config, hashlib.sha256(weights).hexdigest()))}


def write_config(run: Run, config: Mapping[str, Any]) -> None:
    """Write config.json beside the weights that it is of, which are there already."""
    run.write(CONFIG_FILE, with_hashes(run, config, hash_file(run.path / WEIGHTS_FILE)))


def with_hashes(run: Run, config: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """The content of config.json with the SHA-256 of each file that the model is made of: its weights and the user's parts."""
    files = {f"use/{name}": hash_file(run.path / "use" / name) for name in config["use"]}
    return {**config, "files": {WEIGHTS_FILE: sha256, **files}}


def to_safetensors(model: nn.Module) -> bytes:
    """Serialize the parameters and buffers of a model as the content of a safetensors file."""
    return save({name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in model.state_dict().items()})
