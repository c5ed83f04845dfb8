"""The passes of one step over the pieces of its batch: each draws its own noise, and is shared among the ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from goodfit.core.device import seed_noise
from goodfit.core.ranks import Ranks, Share
from goodfit.layers.sync_norm import sync_batch_norm
from goodfit.training.noise import noise_layers
from goodfit.training.state import Plan


class Passes(Protocol):
    """How the pieces of a logical batch are run."""

    def run_piece(self, index: int, device: torch.device) -> contextlib.AbstractContextManager[int]:
        """The forward and backward pass of a piece runs within the block; yields how many ranks run the same."""

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, a sum over the pieces of this rank, by the sum over all ranks."""


class PlainPasses:
    """The passes of one process, with noise from wherever the generators stand."""

    def run_piece(self, index: int, device: torch.device) -> contextlib.AbstractContextManager[int]:
        return contextlib.nullcontext(1)

    def sum_(self, tensors: Iterable[Tensor]) -> None: ...


PLAIN_PASSES = PlainPasses()


@dataclasses.dataclass(frozen=True)
class StepPasses:
    """The passes of a step of a plan: each piece has its share of this rank, and noise of its own that does not depend on the ranks.

    Ranks that are `apart` send nothing.
    """

    plan: Plan
    step: int
    model: nn.Module
    shares: tuple[Share, ...]
    apart: bool = False

    @contextlib.contextmanager
    def run_piece(self, index: int, device: torch.device) -> Iterator[int]:
        plan, share = self.plan, self.shares[index]
        seed_noise(plan.noise_seed(self.step, index), device)
        with contextlib.ExitStack() as stack:
            if share.is_part:
                stack.enter_context(noise_of_whole_piece(self.model, share))
                if plan.sync_norms and not self.apart:
                    stack.enter_context(synchronized_norms(self.model, plan.ranks))
            yield 1 if self.apart else share.copies

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        if not self.apart:
            self.plan.ranks.sum_(tensors)


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms of a model that normalize by the batch."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]


@contextlib.contextmanager
def synchronized_norms(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Within the block the batch norms of a model take their statistics from the images of all ranks."""
    norms: list[Any] = batch_norms(model)
    for norm in norms:
        norm.forward = functools.partial(sync_batch_norm, norm, ranks)  # on the object: its class comes back when this is deleted
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


@contextlib.contextmanager
def noise_of_whole_piece(model: nn.Module, share: Share) -> Iterator[None]:
    """Within the block each noise layer draws for all images of a piece, so that those of a share get the draws they get in one process.

    The layer sees the share between rows of zeros, which are cut off behind it. One that has weights draws for these, not for images.
    """
    before, after = share.rows.start - share.piece.start, share.piece.stop - share.rows.stop

    def extend(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (pad(inputs[0], (*[0, 0] * (inputs[0].ndim - 1), before, after)), *inputs[1:])

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output[before : len(output) - after]

    with contextlib.ExitStack() as stack:
        for layer in noise_layers(model):
            if layer.training and next(layer.parameters(recurse=False), None) is None:
                stack.callback(layer.register_forward_pre_hook(extend).remove)
                stack.callback(layer.register_forward_hook(cut).remove)
        yield
