"""Parts as subjects of a gradient check: finding a part by its text, and running it on random inputs."""

from __future__ import annotations

import re
import sys
from typing import Any

import torch

from goodfit.core.catalog import Catalog
from goodfit.core.device import seed_noise
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.facts import Facts
from goodfit.core.parts import ExternalPart, Part, pipe_parts
from goodfit.core.progress import Length, Lengths
from goodfit.core.words import with_article
from goodfit.doctor.gradcheck import CPU, Subject, loss_subject, module_subject, penalty_subject
from goodfit.layers.activation import width_of
from goodfit.models.mlp import Mlp
from goodfit.recipe.parts import make_model

CHECKED_KINDS = ("model", "loss", "penalty", "activation", "norm", "noise", "pool")  # those with a gradient of their own
BATCH_SIZE = 4


def find_part(text: str, kind: str, catalog: Catalog) -> tuple[Part, str]:
    """Find the part that a text names, and its kind; a dotted name or a class of a --use file stands for a network unless `kind` says else.

    Raises:
        UsageError: nothing with a gradient has this name, or several parts have.
    """
    if kind and kind not in CHECKED_KINDS:
        raise UsageError(unknown_name("kind with a gradient", kind, CHECKED_KINDS))
    match = re.match(r"\s*([\w.]+)", text)
    name = match.group(1) if match else text
    if kind:
        return catalog.make(_with_module(text, name, catalog), kind), kind
    kinds = [k for k in CHECKED_KINDS if name in catalog.kinds.get(k, {})]
    if len(kinds) > 1:
        raise UsageError(f'"{name}" is the name of {" and of ".join(with_article(k) for k in kinds)}: say which with --kind.')
    if kinds:
        return catalog.make(text, kinds[0]), kinds[0]
    other = next((k for k, parts in catalog.kinds.items() if name in parts), "")
    if other:
        expected = f"{', '.join(CHECKED_KINDS[:-1])} or {CHECKED_KINDS[-1]}"
        raise UsageError(f'"{name}" is {with_article(other)}, which has no gradient to check. Expected {expected}.')
    dotted = _with_module(text, name, catalog)
    if "." not in dotted.split("(")[0]:
        names = sorted({n for k in CHECKED_KINDS for n in catalog.kinds.get(k, {})})
        raise UsageError(unknown_name("part with a gradient", name, names))
    return _make_dotted(dotted, catalog)


def _with_module(text: str, name: str, catalog: Catalog) -> str:
    """The text with the module put before the name of a class in a --use file; other text as it is."""
    for module in catalog.user_modules:
        value = getattr(sys.modules[module], name, None)
        if callable(value) and not (isinstance(value, type) and issubclass(value, Part)):
            return text.strip().replace(name, f"{module}.{name}", 1)
    return text


def _make_dotted(text: str, catalog: Catalog) -> tuple[Part, str]:
    """Make the part of a dotted name, of whichever kind it is; any other class stands for a network."""
    first_error: UsageError | None = None
    for kind in CHECKED_KINDS:
        try:
            return catalog.make(text, kind), kind
        except UsageError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def part_subject(part: Part, kind: str, classes: int, channels: int, size: tuple[int, int]) -> Subject:
    """The part as a subject of the check: on random images, scores or weights.

    Raises:
        UsageError: the part does not take such an input.
    """
    seed_noise(0, CPU)
    bound: Any = part if isinstance(part, ExternalPart) else part.bind(example_facts(classes, channels, size))
    if kind == "loss":
        return loss_subject(bound, classes)
    if kind == "penalty":
        return penalty_subject(pipe_parts(bound), Mlp((8,))(classes, channels, (4, 4)))  # type: ignore[arg-type]
    width = channels * width_of(bound) if kind == "activation" else channels
    images = torch.randn(BATCH_SIZE, width, *size, dtype=torch.float64)
    if kind == "model":
        return module_subject(make_model(bound, classes, channels, size), images)
    return module_subject(bound(channels) if kind == "norm" else bound(), images)


def example_facts(classes: int, channels: int, size: tuple[int, int]) -> Facts:
    """Facts of data that does not exist: classes of different sizes, channels that vary together."""
    covariance = tuple(tuple(0.06 if i == j else 0.03 for j in range(channels)) for i in range(channels))
    return Facts(
        tuple(f"class {k}" for k in range(classes)), tuple(10 + k for k in range(classes)), channels, size,
        (0.5,) * channels, (0.25,) * channels, covariance, Lengths(10, 8, Length.read("100 steps")),
    )  # fmt: skip
