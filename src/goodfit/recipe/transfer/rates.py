"""A rate for fine-tuning that is safe for the weights and images at hand: found by a few steps, which are then undone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from goodfit.core.errors import Diverged
from goodfit.core.parts import Part
from goodfit.data.dataset import Dataset
from goodfit.data.loader import Loader
from goodfit.recipe.build import build_optimizer
from goodfit.training.freezing import freezing_phases
from goodfit.training.rescue import MAX_EXCESS, MAX_FACTOR
from goodfit.training.state import SOFTMAX, Plan, State
from goodfit.training.step import train_step

TEST_STEPS, TEST_BATCH = 3, 32
RATE_FACTOR, MAX_TRIES = 1 / 3, 5


def find_safe_rate(
    model: nn.Module,
    data: Dataset,
    trainable: Part,
    augment: Part,
    optimizer_at: Callable[[float], Part],
    rate: float,
    loss: Any = SOFTMAX,
    factors: Mapping[str, float] | None = None,
) -> float:
    """The largest of `rate`, a third of it, a ninth of it, ... at which some steps without a warm-up do not raise the loss far.

    `optimizer_at` makes the optimizer part of a rate, which `factors` multiply by stage; all parts are bound. The model is left as it was;
    if every rate raises the loss, the last is returned.
    """
    loader = Loader.of(data, TEST_BATCH)
    plan = Plan.of(data, loader, f"{TEST_STEPS} steps", loss, augment)
    phases = freezing_phases(trainable, model)
    plan = dataclasses.replace(plan, device=next(model.parameters()).device, trainable=phases)
    batches = [loader.batch(step) for step in range(TEST_STEPS)]
    for attempt in range(MAX_TRIES):
        with restoring(model), contextlib.suppress(Diverged):
            model.train()
            state = State.start(model, build_optimizer(optimizer_at(rate), model, factors or {}))
            losses = [train_step(state, batch, plan, 0.0, 1.0)[0].numbers()["loss"] for batch in batches]
            after = train_step(state, batches[0], plan, 0.0, 0.0)[0].numbers()["loss"]
            if float(after) <= MAX_FACTOR * float(losses[0]) + MAX_EXCESS:
                break
        if attempt < MAX_TRIES - 1:
            rate *= RATE_FACTOR
    return rate


@contextlib.contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Put back whatever the block does to a model: its weights, buffers and modes, and which parameters learn; gradients are gone."""
    tensors = {name: x.clone() for name, x in model.state_dict().items()}
    learns, modes = {p: p.requires_grad for p in model.parameters()}, {m: m.training for m in model.modules()}
    try:
        yield
    finally:
        model.load_state_dict(tensors)
        for parameter, flag in learns.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, mode in modes.items():
            module.training = mode
