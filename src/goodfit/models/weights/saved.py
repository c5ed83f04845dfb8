"""The model that a run keeps at its end, model.safetensors and config.json: written once, read without the data or the training code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.fetch import hash_file
from goodfit.core.files import write_atomic
from goodfit.core.parts import Part, spell
from goodfit.core.run import ENSEMBLE_FILE, Run, part_files
from goodfit.data.preprocess import Preprocess

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


@dataclasses.dataclass(frozen=True, eq=False)
class SavedModel:
    """The kept model of a run: its weights, and all that it takes to build the network again and to show it images.

    `model`, `loss` and `views` are the texts of those parts, `use_files` the run's copies of the user's files that define parts,
    `tensors` the state_dict. `temperature` divides the logits; it is 1 unless `goodfit evaluate --calibrate` stored another.
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

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file of weights, in hexadecimal digits."""
        return hash_file(self.run.path / WEIGHTS_FILE)

    @staticmethod
    def read(run: Run) -> SavedModel:
        """Read the kept model of a run, wherever its folder lies.

        Raises:
            UsageError: the run has no finished model yet, or is an ensemble of several.
            GoodfitError: the model is damaged.
        """
        with explain_damage(run):
            config = run.read(CONFIG_FILE)
            if not config and run.read(ENSEMBLE_FILE):
                raise UsageError(
                    f'Expected one model, received the ensemble "{run.path}": name a member of it, such as {run.path}/members/00.'
                )
            if not config:
                raise UsageError(f'The run "{run.path}" has no model yet: train it to its end with --resume auto --out "{run.path}".')
            return SavedModel(
                run,
                model=config["model"],
                loss=config["loss"],
                views=config.get("views", "center"),  # runs of earlier versions have no views and no temperature
                classes=tuple(config["label_names"]),
                preprocess=Preprocess.from_dict(config["preprocess"]),
                temperature=float(config.get("temperature", 1.0)),
                use_files=tuple(run.path / "use" / name for name in config["use"]),
                tensors=load((run.path / WEIGHTS_FILE).read_bytes()),
            )


@contextlib.contextmanager
def explain_damage(run: Run) -> Iterator[None]:
    """Turn what reading or building a damaged model raises into one sentence; wrap building the network and loading its tensors too.

    Raises:
        GoodfitError: the model in the run does not read.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0].rstrip(".:")
        raise GoodfitError(f'The model in "{run.path}" does not read ({reason}): train it again, or restore a copy of the run.') from error


def save_model(run: Run, model: nn.Module, parts: Mapping[str, Part], classes: Sequence[str], preprocess: Preprocess) -> None:
    """Write model.safetensors and config.json, from which `SavedModel.read` reads; `parts` are the recipe's by seat."""
    config = {
        **{seat: spell(parts[seat], full=True) for seat in ("model", "loss", "views")},
        "num_classes": len(classes),
        "label_names": list(classes),
        "preprocess": preprocess.to_dict(),
        "use": [path.name for path in part_files(run)],
    }
    write_atomic(run.path / WEIGHTS_FILE, to_safetensors(model))
    write_atomic(run.path / CONFIG_FILE, json.dumps(config, indent=1) + "\n")


def to_safetensors(model: nn.Module) -> bytes:
    """Serialize the parameters and buffers of a model as the content of a safetensors file."""
    return save({name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in model.state_dict().items()})
