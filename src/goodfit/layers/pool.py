"""Pooling: how conv nets make their maps smaller."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Pool
from goodfit.core.settings import Range


def factor_of(pool: Pool) -> float:
    """Return how many times smaller a pool makes a side; 2 for a user's own module by dotted name."""
    return float(getattr(pool, "factor", 2.0))


@dataclasses.dataclass(frozen=True)
class Max(Pool):
    """The largest of each 2x2 square of pixels.

    Helps: keeps whether a feature is there, drops where exactly.
    Hurts: throws three quarters of the map away at once.
    Cost: about 6 % of a small net's step.
    Source: CS231n, convolutional networks.
    """

    factor: ClassVar[float] = 2.0  # type: ignore[misc]

    def __call__(self) -> nn.Module:
        return nn.MaxPool2d(2)


@dataclasses.dataclass(frozen=True)
class FractionalMax(Pool):
    """Max pooling over randomly placed, overlapping squares that makes sides `factor` times smaller: [.., H, W] -> floor(H / factor).

    Every image draws the places of its rows and columns anew. Evaluation computes the exact mean over all places; as a net is not
    linear, `evaluate --marginalize` averages its predictions instead.

    Helps: small data: elastic distortions inside the net, and more stages between the first map and the last.
    Hurts: on a budget: a net of the same width does more work.
    Cost: twice as many stages at a factor of 1.414, which is about five times the work of a small net.
    Source: Graham 2014 (pseudorandom, overlapping); CS231n, dropout family.
    """

    factor: Annotated[float, Range(above=1, below=2)] = 1.414

    def __call__(self) -> nn.Module:
        return FractionalMaxPool(self.factor)


class FractionalMaxPool(nn.Module):
    """[B, C, H, W] -> [B, C, floor(H / factor), floor(W / factor)], never below 1."""

    noisy: ClassVar[bool] = True

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def extra_repr(self) -> str:
        return f"factor={self.factor}"

    def forward(self, x: Tensor) -> Tensor:
        sides = [(n, max(1, int(n / self.factor))) for n in x.shape[2:]]
        means = [mean_start_matrix(n, out) for n, out in sides]
        # All possible windows first, then those at the places drawn: exact gathers, whose gradients are deterministic on any device.
        windows = F.max_pool2d(x, tuple(n + 1 - mean.shape[1] for n, mean in zip(x.shape[2:], means, strict=True)), stride=1)
        if not self.training:
            down, across = (mean.to(x.device, x.dtype) for mean in means)
            return down @ windows @ across.T
        rows, columns = (draw_starts(window_starts(n, out), len(x), x.device) for n, out in sides)
        b, c, height, width = windows.shape
        images = torch.arange(b, device=x.device)[:, None, None]
        places = (images * height + rows[:, :, None]) * width + columns[:, None, :]  # [B, h, w]
        picked = windows.permute(0, 2, 3, 1).reshape(-1, c).index_select(0, places.flatten())  # whole pixels, channels together
        return picked.view(*places.shape, c).permute(0, 3, 1, 2).contiguous(memory_format=memory_format_of(x))


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of a batch of maps."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def draw_starts(table: Tensor, n: int, device: torch.device) -> Tensor:
    """Draw the places [n, out] of one side for n images, each a row of the table."""
    return table.to(device)[torch.randint(len(table), (n,), device=device)]


@functools.lru_cache(maxsize=256)
def window_starts(n: int, out: int) -> Tensor:
    """List where the `out` windows over n pixels may start, [draws, out]: floor(alpha (i + u)) - floor(alpha u), for u from 0 to 1.

    alpha = last / (out - 1) brings the last window to the last pixel. As a function of u the places change only at multiples of 1 / last,
    so one u inside each interval makes a row, and all rows are equally likely.
    """
    window = 2 if n - 2 <= 2 * (out - 1) else 3  # wide enough to leave no pixel out
    last = max(n - min(window, n), 0)
    if last == 0 or out == 1:
        return torch.full((1, out), last, device="cpu")
    u = 2 * torch.arange(last, device="cpu")[:, None] + 1  # in units of 1 / (2 last); whole numbers throughout, so nothing rounds
    steps = 2 * (out - 1)
    return (2 * last * torch.arange(out, device="cpu") + u) // steps - u // steps


@functools.lru_cache(maxsize=256)
def mean_start_matrix(n: int, out: int) -> Tensor:
    """Compute how likely each window is to start at each place: [out, places], rows summing to 1."""
    table = window_starts(n, out)
    return F.one_hot(table, int(table.max()) + 1).double().mean(dim=0)
