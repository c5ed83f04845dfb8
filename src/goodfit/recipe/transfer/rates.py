"""A rate for fine-tuning that is safe for the weights and images at hand: found by a few steps, which are then undone."""

from __future__ import annotations

import contextlib
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
from goodfit.training.lr_range import restoring
from goodfit.training.rescue import MAX_EXCESS, MAX_FACTOR
from goodfit.training.state import SOFTMAX, Plan, State
from goodfit.training.step import train_step

# Three steps at the full rate were too strict a test: Adam's first ones move every weight by the whole rate, and training warms up. The
# rates that it let pass were 0 to 4 points worse than those of this one (photos of clothing and gratings, 20 to 200 a class).
TEST_STEPS, TEST_BATCH = 5, 32
RATE_FACTOR, MAX_TRIES = 1 / 2, 7


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
    """The largest of `rate`, a half of it, a quarter of it, ... to which some steps warm up without raising the loss far.

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
            losses = [train_step(state, x, plan, 0.0, (step + 1) / TEST_STEPS)[0].numbers()["loss"] for step, x in enumerate(batches)]
            after = train_step(state, batches[0], plan, 0.0, 0.0)[0].numbers()["loss"]
            if float(after) <= MAX_FACTOR * float(losses[0]) + MAX_EXCESS:
                break
        if attempt < MAX_TRIES - 1:
            rate *= RATE_FACTOR
    return rate
