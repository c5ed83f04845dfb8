"""The gradient of one logical batch: forward, loss per example, mean, penalties, backward, clip; in pieces when memory is short."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import MIXING_BLOCK
from goodfit.core.contracts import Loss, Penalty
from goodfit.core.device import autocast
from goodfit.core.ranks import Ranks, Share
from goodfit.core.task import task_of
from goodfit.losses.scores import at_least_fp32, split_outputs
from goodfit.training.passes import PLAIN_PASSES, Passes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one gradient: `loss`, the mean with its penalties; `losses` [B] and `correct` [B] per example of this process, and
    the mean of `hits` over all; `norm` of the gradient before clipping. The losses per example are without their weights; what is correct
    is what the task of the loss calls a hit. Tensors stay on the device.
    """

    loss: Tensor
    losses: Tensor
    correct: Tensor
    hits: Tensor
    norm: Tensor


@dataclasses.dataclass(frozen=True)
class PieceLoss:
    """What one piece adds to the mean loss of its logical batch (`term`), its `losses` [B], its `logits` [B, K], and what it adds to the
    mean weight of the examples, which the sum of the terms is still to be divided by; None where all examples count alike.
    """

    term: Tensor
    losses: Tensor
    logits: Tensor
    weight: Tensor | None


def gradient(
    model: nn.Module,
    pieces: Iterable[Batch],
    examples: int,
    loss: Loss,
    penalties: tuple[Penalty, ...] = (),
    clip: float = 0.0,
    precision: str = "fp32",
    passes: Passes = PLAIN_PASSES,
) -> Outcome:
    """Fill `.grad` with the gradient of the mean loss over `examples` examples, given in pieces, plus the penalties.

    Each piece holds normalized images; `clip` > 0 limits the gradient's norm. The mean is over the whole logical batch, so pieces
    of any size add up to the same gradient (batch statistics, if the model has them, are computed piece by piece). Where the loss weighs
    its examples, the sum is divided by the sum of their weights, also over the whole batch. `.grad` must be empty or zero before.
    Several processes, each with its share of every piece, get the same gradient: `passes` sums what they have, once.
    """
    total, hits, weight, losses, correct = torch.zeros(()), torch.zeros(()), None, [], []
    for index, batch in enumerate(pieces):
        device = batch.images.device
        with passes.run_piece(index, device) as copies:
            piece = piece_loss(model, batch, examples * copies, loss, precision)
            piece.term.backward()  # type: ignore[no-untyped-call]
        total = total.to(device) + piece.term.detach()
        weight = add_weight(weight, piece)
        losses.append(piece.losses.detach())
        correct.append(task_of(loss).hits(piece.logits.detach(), batch.targets))
        hits = hits.to(device) + correct[-1].float().sum() / copies
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    passes.sum_([total, hits, *([] if weight is None else [weight]), *gradients])
    if weight is not None:
        total = total / weight
        for p in model.parameters():
            if p.grad is not None:
                p.grad.div_(weight)
    for penalty in penalties:
        term = penalty(model)
        if term.requires_grad:  # not so when all the weights it is on are frozen
            term.backward()  # type: ignore[no-untyped-call]
        total = total + term.detach()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if clip > 0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
    return Outcome(total, torch.cat(losses), torch.cat(correct), hits / examples, norm)


def piece_loss(model: nn.Module, batch: Batch, examples: int, loss: Loss, precision: str = "fp32") -> PieceLoss:
    """Run one piece of a logical batch of `examples` examples through the model and the loss."""
    with autocast(batch.images.device, precision):
        logits, auxiliary = split_outputs(model(batch.images))
    losses = loss(at_least_fp32(logits), batch.targets)
    for extra_logits, factor in auxiliary:
        losses = losses + factor * loss(at_least_fp32(extra_logits), batch.targets)
    weights = loss.weigh(batch.targets) if hasattr(loss, "weigh") else None  # a function of the user's own has no weights
    if weights is None:
        return PieceLoss(losses.sum() / examples, losses, logits, None)
    return PieceLoss((losses * weights).sum() / examples, losses, logits, weights.sum() / examples)


def add_weight(total: Tensor | None, piece: PieceLoss) -> Tensor | None:
    """Add a piece's share to the mean weight of the examples so far; None as long as all examples count alike."""
    if piece.weight is None:
        return total
    return piece.weight if total is None else total + piece.weight


def shares_of(n: int, pieces: int, ranks: Ranks) -> tuple[Share, ...]:
    """The shares of this rank in the pieces of a batch of n images."""
    return tuple(ranks.share(rows) for rows in piece_slices(n, pieces))


def piece_slices(n: int, pieces: int) -> list[slice]:
    """Cut n places into `pieces` slices of whole blocks, so that mixing partners stay together.

    A last slice of a single image joins the one before: alone it has no batch statistics.
    """
    blocks = -(-n // MIXING_BLOCK)
    length = -(-blocks // pieces) * MIXING_BLOCK
    ends = [*range(length, n, length), n]
    if len(ends) > 1 and n - ends[-2] == 1:
        del ends[-2]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def restore_buffers(model: nn.Module, buffers: list[Tensor]) -> None:
    """Set the model's buffers (batch statistics) back to earlier values."""
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)
