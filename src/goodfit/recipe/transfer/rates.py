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
from goodfit.training.rescue import MAX_EXCESS, MAX_FACTOR
from goodfit.training.restored import restored_model
from goodfit.training.state import Plan, State
from goodfit.training.step import train_step

# Three steps at the full rate were too strict where training warms up, for Adam's first ones move every weight by the whole rate: the
# higher rates that steps with a warm-up let pass were up to 3 points better, once a point worse (clothing and gratings, 20 to 200 a class).
TEST_STEPS, TEST_BATCH = 5, 32
RATE_FACTOR, MAX_TRIES = 1 / 2, 7


def find_safe_rate(
    model: nn.Module,
    data: Dataset,
    parts: Mapping[str, Any],
    optimizer_at: Callable[[float], Part],
    rate: float,
    warms_up: bool = True,
) -> tuple[float, bool]:
    """The largest of `rate`, a half of it, a quarter of it, ... at which some steps do not raise the loss far, and whether one was found.

    The steps warm up if training does. `parts` are those of the seats trainable, augment, loss and, if it is chosen, rates, all bound;
    `optimizer_at` makes the optimizer part of a rate. The model is left as it was; if every rate raises the loss, the last is returned.
    """
    loader = Loader.of(data, TEST_BATCH)
    plan = Plan.of(data, loader, f"{TEST_STEPS} steps", parts["loss"], parts["augment"])
    phases = freezing_phases(parts["trainable"], model)
    plan = dataclasses.replace(plan, device=next(model.parameters()).device, trainable=phases)
    batches = [loader.batch(step) for step in range(TEST_STEPS)]
    factors = parts["rates"](model) if "rates" in parts else {}
    for attempt in range(MAX_TRIES):
        with restored_model(model), contextlib.suppress(Diverged):
            model.train()
            state = State.start(model, build_optimizer(optimizer_at(rate), model, factors))
            lr_factors = [(step + 1) / TEST_STEPS if warms_up else 1.0 for step in range(TEST_STEPS)]
            steps = [train_step(state, batch, plan, 0.0, factor) for batch, factor in zip(batches, lr_factors, strict=True)]
            before, after = (step[0].numbers()["loss"] for step in (steps[0], train_step(state, batches[0], plan, 0.0, 0.0)))
            if float(after) <= MAX_FACTOR * float(before) + MAX_EXCESS:
                return rate, True
        if attempt < MAX_TRIES - 1:
            rate *= RATE_FACTOR
    return rate, False
