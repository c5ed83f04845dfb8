"""A rate for fine-tuning that is safe for the weights and images at hand: found by a few steps, which are then undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    requires, modes = {p: p.requires_grad for p in model.parameters()}, {m: m.training for m in model.modules()}
    model.train()
    for attempt in range(MAX_TRIES):
        state = State.start(model, build_optimizer(optimizer_at(rate), model, factors or {}))
        try:
            losses = [train_step(state, batch, plan, 0.0, 1.0)[0].numbers()["loss"] for batch in batches]
            after = train_step(state, batches[0], plan, 0.0, 0.0)[0].numbers()["loss"]
            is_safe = float(after) <= MAX_FACTOR * float(losses[0]) + MAX_EXCESS
        except Diverged:
            is_safe = False
        model.load_state_dict(weights)
        if is_safe or attempt == MAX_TRIES - 1:
            break
        rate *= RATE_FACTOR
    for parameter, flag in requires.items():
        parameter.requires_grad_(flag)
        parameter.grad = None
    for module, mode in modes.items():
        module.training = mode
    return rate
