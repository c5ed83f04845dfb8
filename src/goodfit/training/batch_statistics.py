"""Batch statistics for weights that no step has trained with: averaged ones and soups."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.chance import Chance
from goodfit.core.device import autocast
from goodfit.core.parameters import is_norm
from goodfit.training.freezing import phase_at
from goodfit.training.state import Batches, Plan, State

STATISTICS_IMAGES = 1000  # training images that the statistics of averaged weights are computed from
MAX_PIECE = 256  # images at once


def norms_with_statistics(model: nn.Module, fixed: Container[str] = ()) -> list[nn.Module]:
    """The norms that keep running statistics, apart from those named in `fixed`."""
    norms = (m for name, m in model.named_modules() if is_norm(m) and name not in fixed)
    return [m for m in norms if getattr(m, "running_mean", None) is not None and hasattr(m, "reset_running_stats")]


@torch.no_grad()
def recompute_statistics(model: nn.Module, images: Iterable[Tensor], fixed: Container[str] = (), precision: str = "fp32") -> None:
    """Recompute the running statistics of a model's batch norms as the plain mean over these batches [B, C, h, w]; nothing else changes.

    BatchNorm statistics from training do not match averaged weights (Izmailov et al. 2018). All other layers are in evaluation mode, as
    they will be when the model is evaluated.
    """
    norms: list[Any] = norms_with_statistics(model, fixed)
    if not norms:
        return
    training, momenta = {m: m.training for m in model.modules()}, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the plain mean over the batches
        norm.train()
    try:
        for batch in images:
            with autocast(batch.device, precision):
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode


def refresh_average(state: State, plan: Plan, batches: Batches) -> None:
    """Recompute the batch statistics of averaged weights, if there are any, from the first training batches, always the same."""
    if state.average is None:
        return
    t = plan.t(state)
    phase = phase_at(plan.trainable, t)
    recompute_statistics(plan.network(state.average), statistics_images(plan, batches, t), phase.fixed if phase else (), plan.precision)


def statistics_images(plan: Plan, batches: Batches, t: float) -> Iterator[Tensor]:
    """Yield about STATISTICS_IMAGES training images [B, C, h, w] as the model sees them at progress t."""
    seen = 0
    for _, batch in zip(range(plan.lengths.epoch_steps), batches.stream(0), strict=False):
        for first in range(0, min(len(batch), STATISTICS_IMAGES - seen), MAX_PIECE):
            piece = batch[first : first + MAX_PIECE]
            assert piece.chance is not None
            chance = Chance.for_epoch(plan.seed, "statistics", piece.chance.epoch, piece.chance.places, piece.ids)
            piece = plan.prepare(piece.but(chance=chance), t)
            seen += len(piece)
            yield piece.images
        if seen >= STATISTICS_IMAGES:
            return
