"""How tensors come from the images and the weights of a network: how many weights and nonlinearities lie on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

# Operations that are affine in the one tensor that comes from the images; whatever is not listed counts as a nonlinearity.
AFFINE_NAMES = (
    "view _unsafe_view reshape _reshape_alias permute transpose t expand squeeze unsqueeze flatten unflatten clone contiguous"
    " copy copy_ _to_copy alias detach slice select narrow split split_with_sizes chunk unbind index index_select gather flip"
    " roll as_strided repeat pad constant_pad_nd reflection_pad2d replication_pad2d cat stack sum mean mul mul_ div div_ neg"
    " avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d pixel_shuffle im2col col2im"
    " lift_fresh view_as unfold add add_ sub sub_ rsub _conj movedim unsafe_split channel_shuffle native_dropout dropout"
    " slice_scatter"
)
JOIN_NAMES = "cat stack add add_ sub sub_ rsub copy_"
FRESH_NAMES = "empty_like zeros_like ones_like rand_like randn_like full_like new_empty new_zeros new_ones new_full"
LINEAR_KINDS = frozenset(("weights", "norm", "sum", "dropout"))
MAX_POOL_NAMES = "max_pool2d max_pool2d_with_indices adaptive_max_pool2d amax max"

AFFINE = frozenset(AFFINE_NAMES.split())
JOINS = frozenset(JOIN_NAMES.split())  # affine in two tensors from the images, too
FRESH = frozenset(FRESH_NAMES.split())
MAX_POOLS = frozenset(MAX_POOL_NAMES.split())


@dataclasses.dataclass(frozen=True)
class Flow:
    """Where a tensor comes from.

    - `shortest`, `longest`: how many weights lie on the shortest and on the longest way from the images.
    - `run`: how many of them since the last nonlinearity, by the way with the fewest.
    - `bends`: how many nonlinearities lie on the way with the most; norms and max-pools do not count.
    - `weight`: for a tensor that comes from parameters alone, the name of the one with the most numbers.
    """

    shortest: int = 0
    longest: int = 0
    run: int = 0
    bends: int = 0
    weight: str = ""


class FlowTracker:
    """Follows tensors from the images and the parameters through the operations of one call of a network."""

    def __init__(self, model: nn.Module, images: Tensor | None) -> None:
        self._flows: dict[int, tuple[Tensor, Flow]] = {}  # the tensor is kept, so that its identity is not given to another
        self._sizes = {name: p.numel() for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            if p.ndim >= 2:
                self._flows[id(p)] = p, Flow(weight=name)
        if images is not None:
            self._flows[id(images)] = images, Flow()

    def of(self, x: Tensor) -> Flow | None:
        """Where a tensor comes from; None if from neither images nor weights."""
        return self._flows[id(x)][1] if id(x) in self._flows else None

    def follow(self, name: str, kind: str, args: Any, out: Any) -> Flow | None:
        """Note what an operation did; returns where its result comes from."""
        if name in FRESH:
            return None
        flows = [flow for x in tensors_in(args) if (flow := self.of(x)) is not None]
        from_images = [flow for flow in flows if not flow.weight]
        weights = [flow for flow in flows if flow.weight]
        if from_images:
            flow = _combine(name, kind, from_images, bool(weights))
        elif weights:
            flow = max(weights, key=lambda flow: self._sizes[flow.weight])
        else:
            return None
        for x in tensors_in((out,)):
            self._flows[id(x)] = x, flow
        return flow

    def clear(self) -> None:
        """Let go of the tensors."""
        self._flows.clear()


def tensors_in(args: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some arguments, and in lists of them."""
    for x in args:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from tensors_in(x)


def _combine(name: str, kind: str, flows: list[Flow], has_weight: bool) -> Flow:
    """Where the result of an operation on tensors from the images comes from."""
    shortest, longest = min(flow.shortest for flow in flows), max(flow.longest for flow in flows)
    run, bends = min(flow.run for flow in flows), max(flow.bends for flow in flows)
    if kind == "weights" and has_weight and len(flows) == 1:
        return Flow(shortest + 1, longest + 1, run + 1, bends)
    if name in MAX_POOLS:
        return Flow(shortest, longest, 0, bends)
    is_affine = (kind in LINEAR_KINDS or name in AFFINE) and (len(flows) == 1 or name in JOINS or kind == "norm")
    return Flow(shortest, longest, run, bends) if is_affine else Flow(shortest, longest, 0, bends + 1)
