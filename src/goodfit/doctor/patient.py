"""A training as its owner wrote it, taken as a black box: the doctor calls its parts, and never reads their code."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.core.errors import GoodfitError, UsageError

Batches = Iterable[tuple[Tensor, Tensor]]
Split = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images [N, H, W, C] and labels [N] as they lie on disk


@dataclasses.dataclass(frozen=True, eq=False)
class Patient:
    """The parts of a training. A patient is used for one training: parts may keep something between calls.

    - `model`: () -> network with new weights, drawn from torch's default generator.
    - `optimizer`: (network) -> optimizer. `schedule`: (optimizer) -> object with .step(), or None, called every "step" or "epoch".
    - `loss`: (outputs, labels [B]) -> scalar.
    - `train`: (epoch) -> batches of images [B, C, H, W] and labels [B], as the network gets them. `validation`: () -> such batches.
    - `step`: (network, optimizer, loss, images, labels) -> scalar: one training step.
    - `evaluate`: (network, batches) -> accuracy.
    - `raw`: of "train" and "validation", what lies on disk before any transform, where that is known.
    """

    classes: int
    steps: int
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer], Any] | None
    schedule_every: Literal["step", "epoch"]
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Callable[[int], Batches]
    validation: Callable[[], Batches]
    step: Callable[..., Tensor]
    evaluate: Callable[[nn.Module, Batches], float]
    raw: Mapping[str, Split] | None = None


@dataclasses.dataclass(frozen=True)
class PatientSource:
    """Where equal, independent patients come from: each training and each trial takes a new one."""

    name: str
    seed: int
    make: Callable[[], Patient]


def read_case_file(path: Path, seed: int) -> PatientSource:
    """Read a case file: a module with a function `case(seed)` that returns a dictionary of the patient's parts.

    Raises:
        UsageError: the file is not there, or is no case file.
    """
    if not path.is_file():
        raise UsageError(f"Expected a case file, found none at {path}.")
    spec = importlib.util.spec_from_file_location(f"goodfit_case_{abs(hash(path.resolve())):x}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} could not be run: {type(error).__name__}: {error}.") from error
    case = getattr(module, "case", None)
    if not callable(case):
        raise UsageError(f"Expected a function case(seed) in {path}, found none.")
    return PatientSource(path.name, seed, lambda: make_patient(case(seed), path.name))


def make_patient(parts: Mapping[str, Any], name: str) -> Patient:
    """Make a patient of the dictionary of a case file.

    Raises:
        GoodfitError: a part is missing.
    """
    fields = dataclasses.fields(Patient)
    optional = {"schedule": None, "schedule_every": "step", "raw": None}
    given = {field.name: parts[field.name] for field in fields if field.name in parts}
    if missing := [field.name for field in fields if field.name not in given and field.name not in optional]:
        raise GoodfitError(f"The case of {name} lacks {', '.join(missing)}.")
    return Patient(**(optional | given))
