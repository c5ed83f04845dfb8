"""Synchronized batch norm: normalizes each channel over the images that all ranks hold, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from goodfit.core.ranks import Ranks


def sync_batch_norm(norm: nn.modules.batchnorm._BatchNorm, ranks: Ranks, x: Tensor) -> Tensor:
    """[B, C, ...] -> the output of a torch batch norm in training mode for the images of all ranks; its running statistics are updated.

    Like torch's SyncBatchNorm, which runs on GPUs alone. The gradient may be taken once, not twice.
    """
    y, mean, var, n = _Normalize.apply(x, norm.weight, norm.bias, norm.eps, ranks)  # type: ignore[no-untyped-call]
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        factor = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
        norm.running_var.lerp_((var * (n / (n - 1))).to(norm.running_var.dtype), factor)  # unbiased, as torch's
    return y  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    """x [B, C, ...] -> y, and the mean [C], the biased variance [C] and the number of values a channel (no gradient) over all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks) -> Any:
        channels, other = x.shape[1], [d for d in range(x.ndim) if d != 1]
        var, mean = torch.var_mean(x.float() if x.dtype.itemsize < 4 else x, dim=other, correction=0)
        n = torch.full((1,), x.numel() / channels, dtype=torch.float64, device=x.device)
        mean, var = mean.double(), var.double()  # what follows cancels
        moments = torch.cat([n * mean, n * (var + mean.square()), n])
        ranks.sum_([moments])
        n = moments[-1:]
        mean = moments[:channels] / n
        var = (moments[channels:-1] / n - mean.square()).clamp(min=0)
        dtype = x.dtype if weight is None else weight.dtype
        mean_as, var_as = mean.to(dtype), var.to(dtype)
        ctx.save_for_backward(x, weight, mean_as, var_as, n)
        ctx.eps, ctx.ranks = eps, ranks
        ctx.mark_non_differentiable(mean, var, n)
        return F.batch_norm(x, mean_as, var_as, weight, bias, training=False, eps=eps), mean, var, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *of_statistics: Tensor) -> Any:
        x, weight, mean, var, n = ctx.saved_tensors
        # The derivatives as if mean and variance were constants: dx, the sum of dy * (x - mean) / std, and that of dy.
        ones = torch.ones_like(mean) if weight is None else weight
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, ones, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([dweight.double(), dbias.double()])
        ctx.ranks.sum_([sums])
        along, constant = (sums / n).chunk(2)
        shape = (1, -1, *[1] * (x.ndim - 2))
        std = (var.double() + ctx.eps).sqrt()
        slope = -ones / std.square() * along
        offset = -ones / std * constant - slope * mean
        dx.add_(offset.to(dx.dtype).view(shape)).addcmul_(x, slope.to(dx.dtype).view(shape))
        return dx, None if weight is None else dweight, None if weight is None else dbias, None, None
