"""State owns everything that changes while training; Plan holds everything that does not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Average, Brake, Loss, Penalty, Stop
from goodfit.core.progress import Every, Lengths
from goodfit.training.trainable import Phase


@dataclasses.dataclass
class State:
    """All that a checkpoint has to hold.

    `elapsed` is seconds since the command started, over all sessions; `reserve` seconds of it are kept for the final evaluation.
    `brake` (of a plateau) and `lever` (a person's) multiply the learning rate; `history` holds the validation score of each
    evaluation; `updates` counts the weights in the average, which were last taken in at progress `averaged`; `snapshots` are the steps
    whose weights were kept, at the `passed` first points of the plan's.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    step: int = 0
    elapsed: float = 0.0
    reserve: float = 0.0
    brake: float = 1.0
    lever: float = 1.0
    pieces: int = 1
    updates: int = 0
    averaged: float = 0.0
    evaluations: int = 0
    history: list[float] = dataclasses.field(default_factory=list)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    snapshots: list[int] = dataclasses.field(default_factory=list)
    passed: int = 0

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the running average where there is one."""
        return self.average if self.average is not None else self.model

    def scalars(self) -> dict[str, Any]:
        """The fields that are plain values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("model", "optimizer", "average")}


def ready(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None = None, pieces: int = 1) -> State:
    """The state before the first step; a running average starts as a copy of the model."""
    return State(model, optimizer, copy.deepcopy(model).eval().requires_grad_(False) if average else None, pieces=pieces)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training does, fixed before its first step.

    `augment` (Batch, Chance, t) -> Batch ends at the model's size; `normalize` turns its images into what the model takes.
    `evaluate` (model) -> scores, with the key "score" (higher is better) and whatever else is to be logged, of `judged` images.
    `snapshots` are the t whose weights are kept beside the checkpoints.
    """

    loss: Loss
    lengths: Lengths
    augment: Callable[[Batch, Chance, float], Batch]
    normalize: Callable[[Tensor], Tensor]
    schedule: Callable[[float], float]
    penalties: tuple[Penalty, ...] = ()
    average: Average | None = None
    stop: Stop | None = None
    brake: Brake | None = None
    trainable: tuple[Phase, ...] = ()
    clip: float = 0.0
    clip_value: float = 0.0
    seed: int = 0
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None
    evaluate_every: Every | None = None
    judged: int = 0
    save_every: Every | None = None
    snapshots: tuple[float, ...] = ()

    def t(self, state: State) -> float:
        """Progress in 0..1."""
        return self.lengths.t(state.step, state.elapsed, state.reserve)
