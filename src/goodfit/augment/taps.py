"""Taps: rows that are weighted sums of a few other rows, which is what resampling and blurring come to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of each image's float table: table [B, N, ...], index and weights [B, n, T] -> [B * n, row].

    An embedding bag, summed in the order of the taps, so that an image gets the same bits in any batch.
    """
    n, rows = table.shape[:2]
    flat = (index + torch.arange(n)[:, None, None] * rows).flatten(0, 1).to(table.device)
    lines = table.reshape(n * rows, -1).contiguous()  # a view with other strides would be summed another way, rounding otherwise
    return F.embedding_bag(flat, lines, per_sample_weights=weights.flatten(0, 1).to(table.device), mode="sum")
