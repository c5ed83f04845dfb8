"""Weight surgery: copying the weights of one net into another, tensor by tensor, adapting what can be adapted and reporting the rest."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.core.words import count_of, list_some
from goodfit.models.branches import NetWithAuxHeads
from goodfit.models.weights.stages import find_head

COUNTERS = ("num_batches_tracked", "n_averaged")  # of a norm and of averaged weights; some files lack them, and no output depends on them
GRAY, RGB, RGBA = 1, 3, 4  # channels
MAX_NAMES_LISTED = 4  # tensors in a sentence
NOT_IN_SOURCE = "newly initialized: the source has none of that name"


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What happened to each tensor, by name: `copied` unchanged, `adapted` (and how), `reinitialized` (and why) in the model, or `unused`
    from the source.

    `prefix` was taken off the names of the source; `pairs` has, for each name in the model, the name in the source, where they were
    matched by order.
    """

    copied: tuple[str, ...]
    adapted: dict[str, str]
    reinitialized: dict[str, str]
    unused: tuple[str, ...]
    prefix: str = ""
    pairs: dict[str, str] = dataclasses.field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Describe the transfer: how many tensors were copied, then the others by what happened to them, naming the first few."""
        total = len(self.copied) + len(self.adapted) + len(self.reinitialized)
        lines = [f"{len(self.copied):,} of {count_of(total, 'tensor')} copied unchanged"]
        if self.prefix:
            lines.append(f'"{self.prefix}" is taken off the names in the source')
        if self.pairs:
            matched = list_some([f"{name} <- {other}" for name, other in self.pairs.items()], MAX_NAMES_LISTED)
            lines.append(f"matched by order and shape, not by name: {matched}; all are in about.json")
        names_by_kind: dict[str, list[str]] = {}
        for name, how in {**self.adapted, **self.reinitialized}.items():
            kind, _, detail = how.partition(" (")
            names_by_kind.setdefault(kind, []).append(f"{name} ({detail}" if detail else name)
        for kind, names in names_by_kind.items():
            lines.append(f"{list_names(names, self.unused if kind == NOT_IN_SOURCE else ())} {kind}")
        if self.unused:
            missing = [name for name, how in self.reinitialized.items() if how == NOT_IN_SOURCE]
            lines.append(f"{list_names(self.unused, missing)} left out: the model has none of that name")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        how = {**({"prefix": self.prefix} if self.prefix else {}), **({"pairs": self.pairs} if self.pairs else {})}
        return {"taken": list(self.copied), "adapted": self.adapted, "anew": self.reinitialized, "left": list(self.unused), **how}


def list_names(names: Sequence[str], others: Sequence[str]) -> str:
    """List the first few names, each with the most similar of the others, which may be the same tensor under another name."""
    texts = list(names)
    for i, name in enumerate(texts[:MAX_NAMES_LISTED]):
        nearest = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        texts[i] = f"{name} (nearest there: {nearest[0]})" if nearest else name
    return list_some(texts, MAX_NAMES_LISTED)


@torch.no_grad()
def copy_weights(model: nn.Module, tensors: Mapping[str, Tensor], same_classes: bool = False) -> Transfer:
    """Copy tensors into a freshly initialized model, in place, where name and shape are the same.

    Its heads, auxiliary ones too, keep their initial weights unless the source has the `same_classes`. A first conv for another number of
    channels is adapted (see `adapt_input_channels`). Whatever else does not fit keeps its initial weights.

    Raises:
        UsageError: a tensor that fits is not finite.
    """
    heads, first = find_heads(model), first_conv_weight(model)
    copied, adapted, reinitialized = list[str](), dict[str, str](), dict[str, str]()
    targets: dict[str, Tensor] = model.state_dict()
    for name, target in targets.items():
        source = tensors.get(name)
        if is_counter(name):
            if source is not None:
                target.copy_(source)
            continue
        if name.rpartition(".")[0] in heads and not same_classes:
            reinitialized[name] = f"newly initialized for {heads[name.rpartition('.')[0]]} classes"
            continue
        if source is None:
            reinitialized[name] = NOT_IN_SOURCE
            continue
        new, how = (source, "") if source.shape == target.shape else adapt_input_channels(source, target) if name == first else (None, "")
        if new is None:
            shapes = f"{format_shape(target)} here, {format_shape(source)} there"
            reinitialized[name] = f"newly initialized: the shapes differ ({shapes})"
            continue
        if not new.isfinite().all():
            raise UsageError(f"Expected finite numbers in the weights to start from, received others in {name}.")
        if not how and source.dtype != target.dtype:
            how = f"converted from {str(source.dtype).removeprefix('torch.')}"
        target.copy_(new)
        if how:
            adapted[name] = how
        else:
            copied.append(name)
    unused = tuple(name for name in tensors if name not in targets and not is_counter(name))
    return Transfer(tuple(copied), adapted, reinitialized, unused)


def is_counter(name: str) -> bool:
    """Whether the tensor of this name counts batches or averaged weights."""
    return name.rpartition(".")[2] in COUNTERS


def find_heads(model: nn.Module) -> dict[str, int]:
    """Find the linear layers whose outputs are the classes, the head and those of auxiliary heads: their names and numbers of outputs."""
    extra = model.heads.values() if isinstance(model, NetWithAuxHeads) else ()
    heads = [find_head(model), *((f"{name}.{inner}", m) for name in extra for inner, m in [find_head(model.get_submodule(name))])]
    return {name: layer.out_features for name, layer in heads}


def first_conv_weight(model: nn.Module) -> str:
    """The name of the first conv layer's weight, empty where there is none."""
    return next((f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1), "")


def adapt_input_channels(weight: Tensor, like: Tensor) -> tuple[Tensor | None, str]:
    """Adapt the weight [n, c, h, w] of a first conv to as many channels as `like` has, and say how; (None, "") where that is impossible.

    From color to gray the channels are summed, so that a gray image gives the same output as a color image with three equal channels;
    from gray to color each channel gets a third, for the same reason. Alpha starts at zero, or is left out.
    """
    if weight.ndim != 4 or weight.shape[0] != like.shape[0] or weight.shape[2:] != like.shape[2:]:
        return None, ""
    before, after = weight.shape[1], like.shape[1]
    if not {before, after} <= {GRAY, RGB, RGBA}:
        return None, ""
    new, how = weight[:, :RGB], ["without alpha"] if before == RGBA else []
    if after == GRAY:
        new, how = new.sum(1, keepdim=True), [*how, "summed over red, green and blue for gray images"]
    if before == GRAY:
        new, how = (new / RGB).expand(-1, RGB, -1, -1), [*how, "a third for each of red, green and blue"]
    if after == RGBA:
        new, how = torch.cat([new, torch.zeros_like(new[:, :1])], 1), [*how, "zero for alpha"]
    return new, ", ".join(how)


def adapt_statistics(values: tuple[float, ...], channels: int, alpha: float) -> tuple[float, ...]:
    """Adapt a mean or std per channel to another number of channels: gray gets the mean of the colors, each color the value of gray."""
    colors = values[:RGB]
    if channels == GRAY:
        return (sum(colors) / len(colors),)
    colors = colors * RGB if len(colors) == GRAY else colors
    return (*colors, *(values[RGB:] or (alpha,))) if channels == RGBA else colors


def format_shape(x: Tensor) -> str:
    """Format a shape: `64x3x7x7`, or `one number` without dimensions."""
    return "x".join(map(str, x.shape)) or "one number"
