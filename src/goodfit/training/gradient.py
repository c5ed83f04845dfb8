"""The gradient of one logical batch: forward, loss per example, mean, penalties, backward, clip; in pieces when memory is short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import BLOCK, MASK, Chance, fold
from goodfit.core.contracts import Loss, Penalty
from goodfit.core.device import autocast, out_of_memory, seed_noise
from goodfit.core.errors import GoodfitError
from goodfit.losses.scores import at_least_fp32
from goodfit.training.finite import blame
from goodfit.training.heads import heads
from goodfit.training.state import Plan, State

ROWS = 256  # of a Hessian that are computed at once


@runtime_checkable
class Weighing(Protocol):
    """A loss in whose mean some examples count more than others."""

    def weigh(self, targets: Tensor) -> Tensor:
        """How much each example counts [B], by its target [B, K]."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one gradient came to: `loss` the mean with its penalties, `losses` [B] and `correct` [B] per example, `norm` of the gradient
    before clipping. Losses per example are without their weights. Tensors stay on the device.
    """

    loss: Tensor
    losses: Tensor
    correct: Tensor
    norm: Tensor


def gradient(
    model: nn.Module,
    pieces: Iterator[Batch],
    examples: int,
    loss: Loss,
    penalties: tuple[Penalty, ...] = (),
    clip: float = 0.0,
    precision: str = "fp32",
    before_piece: Callable[[int, torch.device], None] = lambda place, device: None,
) -> Outcome:
    """Fill `.grad` with the gradient of the mean loss over `examples` examples, given in pieces, plus the penalties.

    Each piece holds normalized images; `clip` > 0 limits the gradient's norm. The mean is over the whole logical batch, so pieces
    of any size add up to the same gradient (batch statistics, if the model has them, are taken piece by piece). A loss that weighs
    its examples is divided by the sum of their weights, also over the whole; `.grad` has to be empty or zero before.
    """
    total, counted, losses, correct = torch.zeros(()), torch.zeros(()), [], []
    for place, batch in enumerate(pieces):
        device = batch.images.device
        before_piece(place, device)
        share, each, logits = share_of(model, batch, examples, loss, precision)
        share.backward()  # type: ignore[no-untyped-call]
        total = total.to(device) + share.detach()
        if isinstance(loss, Weighing):
            counted = counted.to(device) + mean_weight(loss, batch, examples)
        losses.append(each.detach())
        correct.append(logits.detach().argmax(1) == batch.targets.argmax(1))
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if isinstance(loss, Weighing):
        total = total / counted
        for grad in grads:
            grad.div_(counted)
    for penalty in penalties:
        term = penalty(model)
        if term.requires_grad:  # else it is on frozen weights alone
            term.backward()  # type: ignore[no-untyped-call]
        total = total + term.detach()
    grads = [p.grad for p in model.parameters() if p.grad is not None]  # a penalty may have brought one
    norm = torch.nn.utils.get_total_norm(grads)
    if clip > 0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
    return Outcome(total, torch.cat(losses), torch.cat(correct), norm)


def share_of(model: nn.Module, batch: Batch, examples: int, loss: Loss, precision: str = "fp32") -> tuple[Tensor, Tensor, Tensor]:
    """What one piece adds to the mean loss over `examples` examples, its losses [B], and its logits [B, K].

    Where the loss weighs its examples the sum of all shares is still to be divided by that of `mean_weight`.
    """
    with autocast(batch.images.device, precision):
        logits, extras = heads(model(batch.images))
    each = loss(at_least_fp32(logits), batch.targets)
    for extra, weight in extras:
        each = each + weight * loss(at_least_fp32(extra), batch.targets)
    weighed = each * loss.weigh(batch.targets) if isinstance(loss, Weighing) else each
    return weighed.sum() / examples, each, logits


def mean_weight(loss: Weighing, batch: Batch, examples: int) -> Tensor:
    """What one piece adds to the mean weight of `examples` examples."""
    return loss.weigh(batch.targets).sum() / examples


def cut(n: int, pieces: int) -> list[slice]:
    """`pieces` slices of n places, of whole blocks, so that mixing partners stay together; a last one of one image joins the one before."""
    blocks = -(-n // BLOCK)
    length = -(-blocks // pieces) * BLOCK
    ends = [*range(length, n, length), n]
    if len(ends) > 1 and n - ends[-2] == 1:  # one image alone has no batch statistics
        del ends[-2]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors as one vector, in the order of their indices whatever their layout in memory."""
    return torch.cat([x.reshape(-1) for x in tensors])


def rows_of(turn: Callable[[Tensor], Tensor], units: Tensor) -> Tensor:
    """`turn` of each row of `units` [N, N], many at once where torch can."""
    try:
        return torch.func.vmap(turn, chunk_size=ROWS)(units)
    except RuntimeError:  # a backward pass without a rule for many at once, as max pooling's of channels-last maps
        return torch.stack([turn(unit) for unit in units])


def put_back(model: nn.Module, buffers: list[Tensor]) -> None:
    """Give the model's buffers (batch statistics) their earlier values."""
    for buffer, old in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(old)


class Objective:
    """The closure of one step: calling it fills `.grad` and returns the loss.

    Every call within the step sees the same augmentation and the same noise. Buffers (batch statistics) change with the first
    call only. When memory runs out it goes on in smaller pieces of the same logical batch, and `events` says so.
    """

    def __init__(self, state: State, batch: Batch, plan: Plan, chance: Chance, t: float) -> None:
        self.state, self.batch, self.plan, self.chance, self.t = state, batch, plan, chance, t
        self.outcome: Outcome | None = None
        self.events: list[str] = []
        self._kept: Batch | None = None

    def __call__(self) -> Tensor:
        model = self.state.model
        before = [b.clone() for b in model.buffers()]
        outcome = self._with_room(before)
        if self.outcome is not None:
            put_back(model, before)
            return outcome.loss
        self.outcome = outcome
        if self.plan.device.type == "cpu" and not torch.isfinite(outcome.norm + outcome.loss):
            error = blame(model, self.pieces(), self.plan, self.state.step)
            put_back(model, before)
            raise error
        return outcome.loss

    def pieces(self) -> Iterator[Batch]:
        """The batch as the model sees it, piece by piece: augmented and normalized."""
        if self.state.pieces == 1 and self._kept is not None:
            yield self._kept
            return
        for rows in cut(len(self.batch), self.state.pieces):
            raw = self.batch[rows].to(self.plan.device, non_blocking=True)
            made = self.plan.augment(raw, self.chance[rows], self.t)
            piece = made.but(images=self.plan.normalize(made.images))
            if self.state.pieces == 1:
                self._kept = piece
            yield piece

    def hvp(self, vector: Tensor) -> Tensor:
        """The Hessian of the loss times a vector [N], at the weights of now; N are the optimizer's parameters, one after the other."""
        return self._second(lambda turn: turn(vector), torch.zeros_like(vector))

    def hessian(self) -> Tensor:
        """The Hessian [N, N] of the loss, at the weights of now; for small models."""
        parameters = self._parameters()
        n = sum(p.numel() for p in parameters)
        units = torch.eye(n, dtype=parameters[0].dtype, device=parameters[0].device)
        found = self._second(lambda turn: rows_of(turn, units), torch.zeros_like(units))
        return (found + found.T) / 2

    def numbers(self) -> dict[str, Tensor]:
        """What the step came to, as scalars on the device."""
        assert self.outcome is not None, "the optimizer did not call its objective"
        return {"loss": self.outcome.loss, "accuracy": self.outcome.correct.float().mean(), "grad_norm": self.outcome.norm}

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.state.optimizer.param_groups for p in group["params"]]

    @torch.enable_grad()
    def _second(self, of: Callable[[Callable[[Tensor], Tensor]], Tensor], total: Tensor) -> Tensor:
        """The sum, over pieces and penalties, of what `of` makes of the products of their Hessians with vectors [N].

        Images and noise are those of every other call in the step; buffers are put back.
        """
        model, parameters = self.state.model, self._parameters()
        before = [b.clone() for b in model.buffers()]
        moving = [p for p in parameters if p.requires_grad]

        def spread(gradients: Iterable[Tensor]) -> Tensor:
            found = dict(zip(map(id, moving), gradients, strict=True))
            return flat(found.get(id(p), torch.zeros_like(p)) for p in parameters)

        def add(term: Tensor) -> None:
            gradient = spread(torch.autograd.grad(term, moving, create_graph=True, materialize_grads=True))
            if gradient.requires_grad:  # else the term is linear here, and its Hessian zero
                total.add_(of(lambda v: spread(torch.autograd.grad(gradient, moving, v, retain_graph=True, materialize_grads=True))))

        counted = torch.zeros((), device=total.device)
        for place, piece in enumerate(self.pieces()):
            seed_noise(fold(self._noise(), place) >> 1, piece.images.device)
            add(share_of(model, piece, len(self.batch), self.plan.loss, self.plan.precision)[0])
            if isinstance(self.plan.loss, Weighing):
                counted = counted + mean_weight(self.plan.loss, piece, len(self.batch))
        if isinstance(self.plan.loss, Weighing):
            total.div_(counted)
        for penalty in self.plan.penalties:
            add(penalty(model))
        put_back(model, before)
        return total

    def _noise(self) -> int:
        return fold(self.plan.seed & MASK, "noise", self.state.step)

    def _with_room(self, before: list[Tensor]) -> Outcome:
        plan, state = self.plan, self.state
        seed = self._noise()
        while True:
            state.optimizer.zero_grad(set_to_none=True)
            try:
                outcome = gradient(
                    state.model, self.pieces(), len(self.batch), plan.loss, plan.penalties, plan.clip, plan.precision,
                    lambda place, device: seed_noise(fold(seed, place) >> 1, device),
                )  # fmt: skip
                if plan.clip_value:
                    torch.nn.utils.clip_grad_value_(state.model.parameters(), plan.clip_value)
                return outcome
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._smaller(error)
            put_back(state.model, before)

    def _smaller(self, error: BaseException) -> None:
        if self.state.pieces * BLOCK >= len(self.batch):
            raise GoodfitError(
                f"Memory ran out even with pieces of {BLOCK} images: choose a smaller --model or --size ({str(error).splitlines()[0]})."
            ) from error
        self._kept = None
        self.state.pieces *= 2
        if self.plan.device.type == "cuda":
            torch.cuda.empty_cache()
        made = cut(len(self.batch), self.state.pieces)
        per = made[0].stop
        self.events.append(
            f"Memory ran out: going on in {len(made)} pieces of up to {per} images, with the same {len(self.batch)} images a step;"
            f" batch norm, if the model has it, now takes its statistics from {per} images."
        )
