"""One training step: set the rates, let the optimizer call its objective, return what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from goodfit.core.batch import Batch
from goodfit.core.chance import MIXING_BLOCK
from goodfit.core.device import is_out_of_memory
from goodfit.core.errors import Diverged, GoodfitError
from goodfit.core.ranks import ALONE, Share
from goodfit.core.task import task_of
from goodfit.training import curvature
from goodfit.training.finite import divergence_error
from goodfit.training.freezing import set_trainable
from goodfit.training.gradient import Outcome, gradient, piece_slices, restore_buffers, shares_of
from goodfit.training.noise import set_progress
from goodfit.training.passes import StepPasses
from goodfit.training.state import Plan, State


class Watch(Protocol):
    """Looks at a step and reads numbers from it; changes nothing."""

    def during(self, state: State, objective: Objective) -> AbstractContextManager[dict[str, Any]]: ...


class NoWatch:
    """Watches nothing."""

    def during(self, state: State, objective: Objective) -> AbstractContextManager[dict[str, Any]]:
        return contextlib.nullcontext({})


NO_WATCH = NoWatch()


def train_step(
    state: State, batch: Batch, plan: Plan, t: float, lr_factor: float, watch: Watch = NO_WATCH
) -> tuple[Objective, dict[str, Any]]:
    """Take one optimizer step on a batch at progress `t`, at `lr_factor` times the peak rates; returns the objective and what was watched.

    Raises:
        Diverged: on a CPU, the loss or its gradient was not finite; the weights are then unchanged.
    """
    set_rates(state.optimizer, lr_factor)
    set_trainable(state.model, plan.trainable, t)
    set_progress(state.model, t)
    objective = Objective(state, batch, plan, t)
    with watch.during(state, objective) as readings:
        state.optimizer.step(objective)  # type: ignore[arg-type]
    state.step += 1
    return objective, readings


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each parameter group to its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("peak", group["lr"]) * factor


class Objective:
    """The closure of one step: calling it fills `.grad` and returns the loss.

    Every call within the step sees the same augmentation and the same noise. Buffers (batch statistics) change with the first
    call only. When memory runs out it goes on in smaller pieces of the same logical batch, and `events` says so.
    """

    def __init__(self, state: State, batch: Batch, plan: Plan, t: float) -> None:
        self.state, self.batch, self.plan, self.t, self.step = state, batch, plan, t, state.step
        self.is_apart = plan.is_apart(t)  # the gradient is then that of this rank's images alone
        self.outcome: Outcome | None = None
        self.events: list[str] = []
        self._prepared: Batch | None = None

    def __call__(self) -> Tensor:
        model = self.state.model
        buffers = [b.clone() for b in model.buffers()]
        outcome = self._gradient_within_memory(buffers)
        if self.outcome is not None:
            restore_buffers(model, buffers)
            return outcome.loss
        self.outcome = outcome
        if self.plan.device.type == "cpu" and not torch.isfinite(outcome.norm + outcome.loss):
            error = self.divergence_error(self.step)
            restore_buffers(model, buffers)
            raise error
        return outcome.loss

    def divergence_error(self, step: int) -> Diverged:
        """The error that says where a number of `step` is not finite, with this step's images; ranks that are apart look at their own."""
        plan = dataclasses.replace(self.plan, ranks=ALONE) if self.is_apart else self.plan
        return divergence_error(plan.network(self.state.model), self.pieces(), plan, step)

    @property
    def examples(self) -> int:
        """How many images the loss is the mean over."""
        return sum(share.rows.stop - share.rows.start for share in self.shares) if self.is_apart else len(self.batch)

    @property
    def shares(self) -> tuple[Share, ...]:
        """What this rank computes of each piece."""
        return shares_of(len(self.batch), self.state.pieces, self.plan.ranks)

    @property
    def passes(self) -> StepPasses:
        """How the pieces are run at the current number of them."""
        return StepPasses(self.plan, self.step, self.state.model, self.shares, self.is_apart)

    def pieces(self) -> Iterator[Batch]:
        """The share of this rank in the batch as the model sees it, piece by piece: augmented and normalized."""
        if self.state.pieces == 1 and self._prepared is not None:
            yield self._prepared
            return
        for share in self.shares:
            piece = self.plan.prepare(self.batch[share.rows], self.t)
            if self.state.pieces == 1:
                self._prepared = piece
            yield piece

    def hvp(self, vector: Tensor) -> Tensor:
        """The Hessian of the loss times a vector [N], at the current weights; N counts the optimizer's parameters, in order."""
        return curvature.hessian_vector_product(self.state, self.plan, self.pieces, self.passes, self.examples, vector)

    def hessian(self) -> Tensor:
        """The Hessian [N, N] of the loss, at the current weights; for small models."""
        return curvature.hessian(self.state, self.plan, self.pieces, self.passes, self.examples)

    def numbers(self) -> dict[str, Tensor]:
        """Loss, accuracy (or what its task has in place of it) and gradient norm of the step, as scalars on the device."""
        assert self.outcome is not None, "the optimizer did not call its objective"
        return {
            "loss": self.outcome.loss,
            task_of(self.plan.loss).hit_name: self.outcome.hits,
            "grad_norm": self.outcome.norm,
        }

    def _gradient_within_memory(self, buffers: list[Tensor]) -> Outcome:
        """Compute the gradient, in ever smaller pieces while memory runs out."""
        plan, state = self.plan, self.state
        while True:
            state.optimizer.zero_grad(set_to_none=True)
            try:
                model = plan.network(state.model)
                outcome = gradient(model, self.pieces(), self.examples, plan.loss, plan.penalties, plan.clip, plan.precision, self.passes)
                if plan.clip_value:
                    torch.nn.utils.clip_grad_value_(state.model.parameters(), plan.clip_value)
                return outcome
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._use_smaller_pieces(error)
            restore_buffers(state.model, buffers)

    def _use_smaller_pieces(self, error: BaseException) -> None:
        """Halve the pieces.

        Raises:
            GoodfitError: they are as small as they may be.
        """
        reason = str(error).splitlines()[0]
        if self.plan.ranks.size > 1:  # the others are in the middle of the same step
            advice = f"give --pieces {2 * self.state.pieces} or more"
            raise GoodfitError(f"Memory ran out on rank {self.plan.ranks.rank}: {advice} ({reason}).") from error
        if self.state.pieces * MIXING_BLOCK >= len(self.batch):
            raise GoodfitError(
                f"Memory ran out even with pieces of {MIXING_BLOCK} images: choose a smaller --model or --size ({reason})."
            ) from error
        self._prepared = None
        self.state.pieces *= 2
        if self.plan.device.type == "cuda":
            torch.cuda.empty_cache()
        pieces = piece_slices(len(self.batch), self.state.pieces)
        images = pieces[0].stop
        self.events.append(
            f"Memory ran out: going on in {len(pieces)} pieces of up to {images} images, with the same {len(self.batch)} images a step;"
            f" batch norm, if the model has it, now takes its statistics from {images} images."
        )
