"""Surgery: weights of one net put into another, tensor by tensor; what does not fit is made to, or made anew, and nothing goes unsaid."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.core.words import count_of, list_some
from goodfit.models.branches import Tapped
from goodfit.models.weights.stages import head

COUNTER = "num_batches_tracked"  # of a norm; some files leave it out, and nothing depends on it
GRAY, RGB, ALPHA = 1, 3, 4  # channels
MOST = 4  # tensors that are named of a kind
ABSENT = "made anew: the source has no such"


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What became of each tensor, by name: `taken` as it is, `adapted` and how, made `anew` and why, or `left` out of the source."""

    taken: tuple[str, ...]
    adapted: dict[str, str]
    anew: dict[str, str]
    left: tuple[str, ...]

    def sentences(self) -> list[str]:
        """The account for people: how many were taken, then the others by kind, the first of each by name."""
        total = len(self.taken) + len(self.adapted) + len(self.anew)
        said = [f"{len(self.taken):,} of {count_of(total, 'tensor')} taken as they are"]
        kinds: dict[str, list[str]] = {}
        for name, how in {**self.adapted, **self.anew}.items():
            kind, _, detail = how.partition(" (")
            kinds.setdefault(kind, []).append(f"{name} ({detail}" if detail else name)
        for kind, names in kinds.items():
            said.append(f"{listed(names, self.left if kind == ABSENT else ())} {kind}")
        if self.left:
            absent = [name for name, how in self.anew.items() if how == ABSENT]
            said.append(f"{listed(self.left, absent)} left out: the model has no such")
        return said

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"taken": list(self.taken), "adapted": self.adapted, "anew": self.anew, "left": list(self.left)}


def listed(names: Sequence[str], others: Sequence[str]) -> str:
    """The first few names, each with the nearest of the others, which it may have been meant for."""
    said = list(names)
    for place, name in enumerate(said[:MOST]):
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        said[place] = f"{name} (nearest there: {near[0]})" if near else name
    return list_some(said, MOST)


@torch.no_grad()
def transplant(model: nn.Module, tensors: Mapping[str, Tensor], same_classes: bool = False) -> Transfer:
    """Put tensors into a fresh model, in place, where name and shape are the same.

    Its heads, auxiliary ones too, stay as they are unless they tell the `same_classes` apart. A first conv for another number of
    channels is adapted (see `recolored`). Whatever else does not fit stays as it is.

    Raises:
        UsageError: not one tensor fits, or one that does is not finite.
    """
    ends, first = heads_of(model), first_conv(model)
    taken, adapted, anew = list[str](), dict[str, str](), dict[str, str]()
    own: dict[str, Tensor] = model.state_dict()
    for name, x in own.items():
        there = tensors.get(name)
        if name.rpartition(".")[2] == COUNTER:
            if there is not None:
                x.copy_(there)
            continue
        if name.rpartition(".")[0] in ends and not same_classes:
            anew[name] = f"made anew for {ends[name.rpartition('.')[0]]} classes"
            continue
        if there is None:
            anew[name] = ABSENT
            continue
        new, how = (there, "") if there.shape == x.shape else recolored(there, x) if name == first else (None, "")
        if new is None:
            anew[name] = f"made anew for another shape ({shape(x)} here, {shape(there)} there)"
            continue
        if not new.isfinite().all():
            raise UsageError(f"Expected finite numbers in the weights to begin from, found others in {name}.")
        if not how and there.dtype != x.dtype:
            how = f"converted from {str(there.dtype).removeprefix('torch.')}"
        x.copy_(new)
        if how:
            adapted[name] = how
        else:
            taken.append(name)
    left = tuple(name for name in tensors if name not in own and name.rpartition(".")[2] != COUNTER)
    if not taken and not adapted:
        raise UsageError(
            f"Not one tensor of the weights to begin from fits the model: those are called {list_some(list(tensors), 3)},"
            f" these {list_some(list(own), 3)}. Give the --model that they are of."
        )
    return Transfer(tuple(taken), adapted, anew, left)


def heads_of(model: nn.Module) -> dict[str, int]:
    """The linear layers whose outputs are the classes, by name, and how many those are: the head, and that of each auxiliary head."""
    extra = model.heads.values() if isinstance(model, Tapped) else ()
    found = [head(model), *((f"{name}.{inner}", m) for name in extra for inner, m in [head(model.get_submodule(name))])]
    return {name: layer.out_features for name, layer in found}


def first_conv(model: nn.Module) -> str:
    """The name of the weights of the first conv layer, empty where there is none."""
    found = (name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
    return next((f"{name}.weight" for name in found), "")


def recolored(weight: Tensor, like: Tensor) -> tuple[Tensor | None, str]:
    """Weights [n, c, h, w] of a first conv for as many channels as `like` has, and how; (None, "") where that cannot be.

    From colors to gray they are summed, so that a gray image gives what it gave as a color image of three equal channels; from gray to
    colors each gets a third, for the same reason. Alpha starts at zero, or is left out.
    """
    if weight.ndim != 4 or weight.shape[0] != like.shape[0] or weight.shape[2:] != like.shape[2:]:
        return None, ""
    before, after = weight.shape[1], like.shape[1]
    if not {before, after} <= {GRAY, RGB, ALPHA}:
        return None, ""
    new, how = weight[:, :RGB], ["without alpha"] if before == ALPHA else []
    if after == GRAY:
        new, how = new.sum(1, keepdim=True), [*how, "summed over red, green and blue for gray images"]
    if before == GRAY:
        new, how = (new / RGB).expand(-1, RGB, -1, -1), [*how, "a third for each of red, green and blue"]
    if after == ALPHA:
        new, how = torch.cat([new, torch.zeros_like(new[:, :1])], 1), [*how, "zero for alpha"]
    return new, ", ".join(how)


def for_channels(values: tuple[float, ...], channels: int, alpha: float) -> tuple[float, ...]:
    """A mean or std per channel for another number of channels: gray gets the mean of the colors, colors get that of gray."""
    colors = values[:RGB]
    if channels == GRAY:
        return (sum(colors) / len(colors),)
    colors = colors * RGB if len(colors) == GRAY else colors
    return (*colors, *(values[RGB:] or (alpha,))) if channels == ALPHA else colors


def shape(x: Tensor) -> str:
    """`64x3x7x7`; `one number` without dimensions."""
    return "x".join(map(str, x.shape)) or "one number"
