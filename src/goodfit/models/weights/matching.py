"""Matching the tensors of a source to those of a model: by name, whatever was put before the names, or by order and shape."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.core.words import list_some
from goodfit.models.weights.files import Weights
from goodfit.models.weights.surgery import (
    Transfer,
    adapt_input_channels,
    copy_weights,
    find_heads,
    first_conv_weight,
    format_shape,
    is_counter,
)

# What DataParallel, torch.compile, averaged models and training scripts put before each name.
PREFIX_WORDS = {"module", "_orig_mod", "model", "net", "network", "backbone", "encoder"}
# Last words of names that mean the same in every torch net, in the order of a norm's state_dict.
TENSOR_KINDS = ("weight", "bias", "running_mean", "running_var")


class Matching(NamedTuple):
    """The tensors of a source under the names of a model where they match it; others keep their own.

    `prefix` is what was taken off their names; `pairs` are the names in the source of the model's, where they were matched by order.
    """

    tensors: dict[str, Tensor]
    prefix: str
    pairs: dict[str, str]


def transfer_weights(model: nn.Module, weights: Weights, same_classes: bool = False) -> Transfer:
    """Match the tensors of the weights to those of a freshly initialized model, and copy them into it, in place; see `copy_weights`.

    Raises:
        UsageError: no tensor fits, those that are to fit by order do not, or one that fits is not finite.
    """
    matching = match_tensors(model, weights)
    transfer = copy_weights(model, matching.tensors, same_classes)
    if not transfer.copied and not transfer.adapted:
        advice = "Give the --model that the weights were trained with."
        if weights.by == "name" and fits_by_order(model, weights):
            advice = "By order and shape they fit: --from-by order takes them so."
        raise UsageError(
            f"None of the checkpoint's tensors match the model: they are named {list_some(list(weights.tensors), 3)}, the model's"
            f" {list_some(list(model.state_dict()), 3)}. {advice}"
        )
    return dataclasses.replace(transfer, prefix=matching.prefix, pairs=matching.pairs)


def match_tensors(model: nn.Module, weights: Weights) -> Matching:
    """Match the tensors of the weights to those of a model by name or by order, as `weights.by` says.

    Raises:
        UsageError: they are to fit by order, and do not.
    """
    if weights.by == "name":
        prefix = find_prefix(model, weights.tensors)
        return Matching(without_prefix(weights.tensors, prefix), prefix, {})
    pairs = pair_by_order(model, weights)
    paired = set(pairs.values())
    others = {name: x for name, x in weights.tensors.items() if name not in paired}
    return Matching({**others, **{name: weights.tensors[other] for name, other in pairs.items()}}, "", pairs)


def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are no counters, in their order."""
    return {name: x for name, x in tensors.items() if not is_counter(name)}


# ---- by name -----------------------------------------------------------------------------------------------------------------------


def find_prefix(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Find what to take off the names of a source, such as "module.backbone.", so that most tensors fit the model by name and shape.

    It is the shortest that makes most tensors fit, so empty where as many fit as they are. One of unusual words must make half of the
    model's tensors fit.
    """
    shapes = {name: x.shape for name, x in without_counters(model.state_dict()).items()}
    fitting = Counter[str]({"": 0})
    for name, x in tensors.items():
        words = name.split(".")
        for i in range(len(words)):
            if shapes.get(".".join(words[i:])) == x.shape:
                fitting["".join(f"{word}." for word in words[:i])] += 1
    best = max(fitting, key=lambda prefix: (fitting[prefix], -len(prefix)))
    is_usual = set(best.split(".")[:-1]) <= PREFIX_WORDS
    return best if is_usual or 2 * fitting[best] >= len(shapes) else ""


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors with a prefix taken off the names that have it; the others keep theirs."""
    others = {name: x for name, x in tensors.items() if not name.startswith(prefix)}
    return {**others, **{name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}}


# ---- by order ----------------------------------------------------------------------------------------------------------------------


def pair_by_order(model: nn.Module, weights: Weights) -> dict[str, str]:
    """Pair the tensors of a model with those of the weights, one after the other: the name there of each name in the model.

    Every shape must be equal, save for the number of classes and of image channels. Where the weights have no head, or another one at
    their end, the tensors below the head are paired.

    Raises:
        UsageError: they do not fit in this order; the sentence says where.
    """
    here, heads, first = without_counters(model.state_dict()), find_heads(model), first_conv_weight(model)
    there = without_counters(weights.tensors)
    names = order_of_net(list(there)) if weights.is_sorted else list(there)
    own = list(here) if len(here) == len(names) else [name for name in here if name.rpartition(".")[0] not in heads]
    if len(names) < len(own):
        raise UsageError(f"The weights do not fit the model by order: it has {len(own):,} tensors below its head, they are {len(names):,}.")
    for i, (name, other) in enumerate(zip(own, names, strict=False), start=1):
        x, y = here[name], there[other]
        is_head = name.rpartition(".")[0] in heads and x.shape[1:] == y.shape[1:]
        fits = x.shape == y.shape or is_head or (name == first and adapt_input_channels(y, x)[0] is not None)
        if not fits or not _may_be_the_same_kind(name, other):
            raise UsageError(
                f"The weights do not fit the model by order: tensor {i:,} is {name} ({format_shape(x)}) here,"
                f" {other} ({format_shape(y)}) there."
            )
    return dict(zip(own, names, strict=False))


def fits_by_order(model: nn.Module, weights: Weights) -> bool:
    """Whether `pair_by_order` pairs them."""
    try:
        return bool(pair_by_order(model, weights))
    except UsageError:
        return False


def order_of_net(names: Sequence[str]) -> list[str]:
    """Put names that were sorted into the order of their net, which is known where modules side by side are numbered.

    Raises:
        UsageError: some are not, so the order of the net is lost.
    """
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in names:
        words = name.split(".")[:-1]
        for i, word in enumerate(words):
            children[tuple(words[:i])].add(word)
    named = next((words for words in children.values() if len(words) > 1 and not all(word.isdigit() for word in words)), None)
    if named:
        raise UsageError(
            f"The weights do not fit the model by order: their file keeps them sorted by name, and {', '.join(sorted(named)[:3])}"
            " do not say which comes first. A .pth file keeps the order of its net."
        )

    def place(name: str) -> tuple[list[tuple[int, str]], int, str]:
        *modules, last = name.split(".")
        numbers = [(int(word), "") if word.isdigit() else (0, word) for word in modules]
        return numbers, TENSOR_KINDS.index(last) if last in TENSOR_KINDS else len(TENSOR_KINDS), last

    return sorted(names, key=place)


def _may_be_the_same_kind(name: str, other: str) -> bool:
    """Whether two tensors may be of one kind: a weight is not paired with a running mean that has its shape."""
    kinds = {name.rpartition(".")[2], other.rpartition(".")[2]}
    return len(kinds) == 1 or not kinds <= set(TENSOR_KINDS)
