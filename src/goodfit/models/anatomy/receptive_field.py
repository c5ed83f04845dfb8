"""Receptive fields: which pixels of the image a value of a map depends on, propagated from operation to operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


@dataclasses.dataclass(frozen=True)
class Axis:
    """How a tensor's dimension `dim` (counted from the right, -1 is the last) corresponds to the rows or columns of the image.

    Position i of `size` depends on the pixels from low + i * stride to high + i * stride. Without a dim, everything in the tensor depends
    on the pixels from low to high.
    """

    low: int
    high: int
    stride: int
    size: int
    dim: int | None

    @property
    def width(self) -> int:
        """How many pixels a position depends on; padding counts as pixels."""
        return self.high - self.low + 1

    def slide(self, kernel: int, stride: int, padding: int, dilation: int, size: int) -> Axis:
        """The axis after a window has slid over it."""
        low = self.low - padding * self.stride
        return Axis(low, self.high + (dilation * (kernel - 1) - padding) * self.stride, self.stride * stride, size, self.dim)

    def collapse(self) -> Axis:
        """The axis after all its positions have been reduced to one."""
        return self if self.dim is None else Axis(self.low, self.high + (self.size - 1) * self.stride, self.stride, 1, None)

    def move_to(self, dim: int) -> Axis:
        """The same axis at another dimension."""
        return dataclasses.replace(self, dim=dim)


Field = tuple[Axis, ...] | None  # rows and columns; (): depends on no pixel; None: unknown


def field_of_image(size: tuple[int, int]) -> Field:
    """The field of the image itself [B, C, H, W]."""
    return tuple(Axis(0, 0, 1, n, dim) for n, dim in zip(size, (-2, -1), strict=True))


def propagate(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor, field: Callable[[Tensor], Field]) -> Field:
    """The field of an operation's output, from those of its inputs.

    Convs, pools, slices, padding, means over the map, and all elementwise operations are known; the statistics of normalization layers
    are ignored. Where paths meet, the output sees what any of them sees. Any other operation that mixes pixels makes the field unknown.
    """
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    inputs = [field(x) for x in tensors]
    name, output = func.overloadpacket.__name__, None
    if all(f == () for f in inputs):
        return ()
    if torch.Tag.pointwise in func.tags or name in POSITION_PRESERVING:
        output = merge_fields(inputs)
    elif name in PRODUCTS:
        output = _product(inputs)
    elif name in RULES and inputs[0] and all(f == () for f in inputs[1:]):
        output = RULES[name](inputs[0], tensors[0], args, kwargs, out)
    return output if output and _fits(output, out) else None


def _fits(field: tuple[Axis, ...], out: Tensor) -> bool:
    """Whether a tensor's dimensions have the sizes of a field's axes; axes may share a dimension."""
    sizes: dict[int, int] = {}
    for a in field:
        if a.dim is not None:
            sizes[a.dim] = sizes.get(a.dim, 1) * a.size
    return all(-dim <= out.ndim and out.shape[dim] == n for dim, n in sizes.items())


def merge_fields(fields: Iterable[Field]) -> Field:
    """The field where paths meet: all pixels that any of them depends on; unknown where their maps are not aligned."""
    total: Field = ()
    for f in fields:
        if f is None:
            return None
        if total and f:
            axes = [_merge_axes(a, b) for a, b in zip(total, f, strict=True)]
            if None in axes:
                return None
            total = tuple(a for a in axes if a)
        else:
            total = total or f
    return total


def _merge_axes(a: Axis, b: Axis) -> Axis | None:
    if a.dim is None or (b.dim is not None and a.size < b.size):
        a, b = b, a
    if b.dim is not None and b.size > 1 and (a.dim, a.size, a.stride) != (b.dim, b.size, b.stride):
        return None  # otherwise b is the same for every position of a
    return dataclasses.replace(a, low=min(a.low, b.low), high=max(a.high, b.high))


# ---- the rules: (field, tensor, arguments, keywords, output) -> field -----------------------------------------------------------


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _slide_window(field: tuple[Axis, ...], kernel: Any, stride: Any, padding: Any, dilation: Any, out: Tensor) -> Field:
    """A window that slides over the last dimensions; unknown over a dimension that two axes share, unless it is one wide."""
    n = out.ndim - 2
    settings = [
        [x] * n if isinstance(x, int) else list(x) * (n if len(x) == 1 else 1) for x in (kernel, stride or kernel, padding, dilation)
    ]
    axes = []
    for a in field:
        if a.dim is not None and a.dim < -n:
            return None
        k, s, p, d = (1, 1, 0, 1) if a.dim is None else (x[a.dim] for x in settings)
        if (k, s, p) != (1, 1, 0) and field[0].dim == field[1].dim:
            return None
        axes.append(a if a.dim is None or (k, s, p) == (1, 1, 0) else a.slide(k, s, p, d, out.shape[a.dim]))
    return tuple(axes)


def _conv(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    weight, _, stride, padding, dilation, transposed = args[1:7]
    return None if transposed else _slide_window(field, weight.shape[2:], stride, padding, dilation, out)


def _pool(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    stride, padding = _argument(args, kwargs, 2, "stride", []), _argument(args, kwargs, 3, "padding", 0)
    return _slide_window(field, args[1], stride, padding, _argument(args, kwargs, 4, "dilation", 1), out)


def _mean_pool(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    return _slide_window(field, args[1], _argument(args, kwargs, 2, "stride", []), _argument(args, kwargs, 3, "padding", 0), 1, out)


def _adaptive(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """Adaptive pooling; known where the windows tile the map."""
    if any(n % m for n, m in zip(x.shape[-2:], out.shape[-2:], strict=True)):
        return None
    kernel = [n // m for n, m in zip(x.shape[-2:], out.shape[-2:], strict=True)]
    return _slide_window(field, kernel, kernel, 0, 1, out)


def _reduce(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """A mean, sum or maximum over some dimensions, which may be dropped."""
    dim = _argument(args, kwargs, 1, "dim", None)
    dims = [dim] if isinstance(dim, int) else dim or range(x.ndim)
    reduced = {d if d < 0 else d - x.ndim for d in dims}
    keepdim = out.ndim == x.ndim
    return tuple(
        a
        if a.dim is None
        else a.collapse()
        if a.dim in reduced
        else a.move_to(a.dim if keepdim else a.dim + sum(d > a.dim for d in reduced))
        for a in field
    )


def _view(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """The same values in another shape: rows and columns stay apart, share a dimension, or become part of an image's features."""
    if all(a.dim is None for a in field):
        return field
    wide = [[d for d in range(-t.ndim, 0) if t.shape[d] != 1] for t in (x, out)]
    if [x.shape[d] for d in wide[0]] == [out.shape[d] for d in wide[1]]:  # only dimensions of size one came or went
        return tuple(a.move_to(wide[1][wide[0].index(a.dim)]) if a.dim in wide[0] else a.collapse() for a in field)
    height, width = (a.size for a in field)
    dims = tuple(a.dim for a in field)
    if dims in ((-2, -1), (-1, -1)):
        if out.shape[-2:] == (height, width):
            return field[0].move_to(-2), field[1].move_to(-1)
        if out.shape[-1] == height * width:
            return field[0].move_to(-1), field[1].move_to(-1)
        if out.shape[-1] % (height * width) == 0:
            return tuple(a.collapse() for a in field)
    return tuple(a.collapse() for a in field) if out.ndim == 2 and out.shape[0] == x.shape[0] else None


def _permute(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """Dimensions in another order."""
    order = list(range(x.ndim))
    if len(args) == 2:
        order = [d % x.ndim for d in args[1]]
    elif x.ndim > 1:
        first, second = (d % x.ndim for d in (args[1:3] if len(args) == 3 else (0, 1)))
        order[first], order[second] = order[second], order[first]
    return tuple(a if a.dim is None else a.move_to(order.index(a.dim + x.ndim) - x.ndim) for a in field)


def _slice(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """Every `step`-th position from `start` on."""
    dim = _argument(args, kwargs, 1, "dim", 0) % x.ndim - x.ndim
    start, step = _argument(args, kwargs, 2, "start", 0) or 0, _argument(args, kwargs, 4, "step", 1)
    n_axes = sum(a.dim == dim for a in field)
    if n_axes == 0 or out.shape == x.shape:
        return field
    start = start + x.shape[dim] if start < 0 else start
    return None if n_axes == 2 else tuple(a.slide(1, step, -start, 1, out.shape[dim]) if a.dim == dim else a for a in field)


def _pad(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """Positions added before the first and after the last."""
    before = {-1 - i // 2: n for i, n in enumerate(args[1]) if i % 2 == 0}
    padded = [a for a in field if a.dim is not None and out.shape[a.dim] != x.shape[a.dim]]
    if padded and field[0].dim == field[1].dim:
        return None
    return tuple(a.slide(1, 1, before[a.dim], 1, out.shape[a.dim]) if a in padded and a.dim else a for a in field)


def _split(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """Fewer or more positions in a dimension; `propagate` checks that it is not one of the field's."""
    return field


def _select(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """One position of a dimension, which must not be one of the field's."""
    return None if any(a.dim == args[1] % x.ndim - x.ndim for a in field) else _reduce(field, x, args[:2], {}, out)


def _mix_channels(field: tuple[Axis, ...], x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> Field:
    """Values mixed along a dimension, which must not be one of the field's."""
    return None if any(a.dim == args[1] % x.ndim - x.ndim for a in field) else field


def _product(fields: list[Field]) -> Field:
    """A matrix product, which must not sum over pixels."""
    *added, first, second = fields
    for f, summed in ((first, -1), (second, -2)):
        if f is None or any(f != () for f in added) or any(a.dim == summed for a in f):
            return None
    return merge_fields((first, second))


# All by the names of torch's operators.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
RULES: dict[str, Callable[..., Field]] = {
    "convolution": _conv, "max_pool2d_with_indices": _pool, "avg_pool2d": _mean_pool, "avg_pool3d": _mean_pool,
    "_adaptive_avg_pool2d": _adaptive, "adaptive_max_pool2d": _adaptive, "slice": _slice, "select": _select,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "logsumexp", "var", "std", "var_mean"), _reduce),
    **dict.fromkeys(("view", "_unsafe_view", "unsqueeze", "squeeze", "reshape"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("_softmax", "_log_softmax", "glu"), _mix_channels),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("split", "split_with_sizes", "expand", "repeat", "index_select"), _split),
}  # fmt: skip
POSITION_PRESERVING = {  # besides what torch calls pointwise
    "_to_copy", "copy_", "detach", "alias", "lift_fresh", "hardswish", "hardswish_", "_prelu_kernel", "rrelu_with_noise",
    "rrelu_with_noise_functional", "native_dropout", "bernoulli", "bernoulli_", "cat", "native_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "native_group_norm",
    "native_layer_norm", "_fused_rms_norm", "channel_shuffle", "native_channel_shuffle",
}  # fmt: skip
