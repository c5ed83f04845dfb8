"""Parts as subjects of a gradient check: finding a part by its text, and running it on random inputs."""

from __future__ import annotations

import re
import sys
from typing import Any

import torch
from torch import Tensor

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.device import seed_noise
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.facts import Facts
from goodfit.core.parts import ExternalPart, Part, pipe_parts, spell
from goodfit.core.progress import Length, Lengths
from goodfit.core.words import with_article
from goodfit.doctor.gradcheck import CPU, Subject, loss_subject, module_subject, penalty_subject
from goodfit.layers.activation import width_of
from goodfit.models.mlp import Mlp
from goodfit.recipe.parts import make_model

CHECKED_KINDS = ("model", "loss", "penalty", "activation", "norm", "noise", "pool", "augment")  # those with a gradient of their own
BATCH_SIZE = 4
AUGMENTED_IMAGES, MARGIN = 8, 2  # of an augment's batch; pixels that they are larger than their size, so that crops move
MAX_SEEDS = 200  # of draws, the first of which that changes an image is taken
SMALL_CHANGE, LARGE_CHANGE = 1e-7, 0.1  # of pixels of 0 to 1: what is rounded changes with the large one alone


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
    if kind == "augment":
        return augment_subject(bound, classes, channels, size)
    width = channels * width_of(bound) if kind == "activation" else channels
    images = torch.randn(BATCH_SIZE, width, *size, dtype=torch.float64)
    if kind == "model":
        return module_subject(make_model(bound, classes, channels, size), images)
    return module_subject(bound(channels) if kind == "norm" else bound(), images)


def augment_subject(part: Part, classes: int, channels: int, size: tuple[int, int]) -> Subject:
    """An augment, or a pipe of them, bound to facts, with random draws that are the same at every call: checks pixels and targets.

    The draws are the first, of MAX_SEEDS seeds, that change an image.

    Raises:
        UsageError: it rounds pixels, so that its output is constant nearly everywhere.
    """
    random = torch.Generator().manual_seed(0)
    shape = (AUGMENTED_IMAGES, channels, size[0] + MARGIN, size[1] + MARGIN)
    noise, pixels = (torch.rand(shape, dtype=torch.float64, generator=random) for _ in range(2))
    targets = torch.randn(AUGMENTED_IMAGES, classes, dtype=torch.float64, generator=random).softmax(1)
    pipe, ids = Pipeline(pipe_parts(part), size), torch.arange(AUGMENTED_IMAGES)  # type: ignore[arg-type]

    def augment(images: Tensor, seed: int) -> Batch:
        # Copies: an augment of the user's own may change its input in place.
        return pipe(Batch(images.clone(), targets.clone(), ids), Chance.of(seed, ids, "augment", 0), 0.5)

    plain = Pipeline((), size)(Batch(pixels, targets, ids), Chance.of(0, ids), 0.5).images
    seed = next((seed for seed in range(MAX_SEEDS) if not torch.equal(augment(pixels, seed).images, plain)), 0)
    here, near, far = (augment(pixels + change * noise, seed).images.flatten(1) for change in (0, SMALL_CHANGE, LARGE_CHANGE))
    if ((here == near).all(1) & (here != far).any(1)).any():
        raise UsageError(
            f'"{spell(part)}" rounds pixels to whole levels: its output is constant between them and has no gradient to check.'
        )
    leaves = {"pixels": pixels.requires_grad_(), "targets": targets.requires_grad_()}

    def outputs() -> list[Tensor]:
        out = augment(pixels, seed)
        return [out.images, out.targets]

    return Subject(leaves, outputs)


def example_facts(classes: int, channels: int, size: tuple[int, int]) -> Facts:
    """Facts of data that does not exist: classes of different sizes, channels that vary together."""
    covariance = tuple(tuple(0.06 if i == j else 0.03 for j in range(channels)) for i in range(channels))
    return Facts(
        tuple(f"class {k}" for k in range(classes)), tuple(10 + k for k in range(classes)), channels, size,
        (0.5,) * channels, (0.25,) * channels, covariance, Lengths(10, 8, Length.read("100 steps")),
    )  # fmt: skip
