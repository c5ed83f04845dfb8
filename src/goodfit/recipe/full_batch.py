"""Noise that a full-batch optimizer cannot bear: what makes it in a recipe, and how to turn it off."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from goodfit.augment.color import Color
from goodfit.augment.mix import Smooth
from goodfit.core.catalog import Part, name_of, spell, steps
from goodfit.core.contracts import Noise
from goodfit.core.errors import UsageError
from goodfit.layers import noise, norm, pool
from goodfit.recipe.recipe import Recipe

NOISY = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)
# What auto chooses beside such an optimizer: a field, its value, and why.
CHOICES = (
    ("augment", "none", "a full-batch optimizer needs the same images at every call"),
    ("batch_size", "all", "a full-batch optimizer needs all training images in each step"),
    ("model", "linear", "a small model without noise or batch statistics, for each step passes over all images several times"),
    ("schedule", "constant", "a full-batch optimizer finds the length of its steps by itself"),
    ("layout", "contiguous", "second derivatives are taken in that layout"),
    ("precision", "fp32", "rounding to bf16 would hide how the loss falls along a step"),
)


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of noise, and the option that turns it off."""

    what: str
    remedy: str


def hear(recipe: Recipe, seats: dict[str, Any], model: nn.Module, images: int) -> tuple[str, ...]:
    """What to warn of when a full-batch optimizer meets noise that the recipe allows; nothing for other optimizers.

    `seats` are the recipe's parts, `images` the training images.

    Raises:
        UsageError: there is noise, or clipping, and the recipe does not allow it; the sentence says how to turn each off.
    """
    optimizer = seats["optimizer"]
    found = sources(recipe, seats, model, images) if getattr(optimizer, "full_batch", False) else []
    if not found:
        return ()
    name = spell(optimizer)
    what = ", ".join(source.what for source in found)
    if recipe.noise == "allow":
        return (f"{name} takes a loss that changes from call to call for curvature, and may stall; allowed by --noise allow: {what}.",)
    remedies = " ".join(dict.fromkeys(source.remedy for source in found))
    raise UsageError(
        f"{name} needs the same loss at every call, found {what}: turn that off with {remedies}; --noise allow trains in spite of it."
    )


def idle(augment: Part, channels: int) -> tuple[str, ...]:
    """What to warn of when a pipe has parts that do nothing to such images."""
    tints = [name_of(part) for part in steps(augment) if isinstance(part, Color) and part.keeps_gray] if channels == 1 else []
    return (f"Gray images have no color that {' and '.join(dict.fromkeys(tints))} could change.",) if tints else ()


def sources(recipe: Recipe, seats: dict[str, Any], model: nn.Module, images: int) -> list[Source]:
    """Everything in a recipe that makes the loss differ from call to call or step to step, or its gradient another's."""
    found = []
    random = [part for part in steps(seats["augment"]) if not isinstance(part, Smooth)]
    if random:
        found.append(Source(f"the augmentation {spell(seats['augment'])}", "--augment none"))
    found += _in_model(seats["model"], model)
    if (batch := recipe.images_a_step(images)) < images:
        found.append(Source(f"mini-batches of {batch:,} of {images:,} images", "--batch-size all"))
    if recipe.clip:
        found.append(Source(f"clipping at {recipe.clip:g}", "--clip 0"))
    if recipe.clip_value:
        found.append(Source(f"clipping of values at {recipe.clip_value:g}", "--clip-value 0"))
    return found


def _in_model(part: Part, model: nn.Module) -> list[Source]:
    """The noise layers and batch norms of a model: by the settings that ask for them, else by the modules themselves."""
    changes = {name: quiet for name, value in vars(part).items() if (quiet := _quieter(value)) is not None}
    if changes:
        remedy = f'--model "{spell(dataclasses.replace(part, **changes))}"'  # type: ignore[type-var]
        return [Source(f"{name}={spell(getattr(part, name))} in the model", remedy) for name in changes]
    modules = {type(m).__name__: m for m in model.modules() if getattr(m, "noisy", False) or isinstance(m, NOISY)}
    return [Source(f"{name} in the model", f'a --model like "{spell(part)}" without it') for name in modules]


def _quieter(value: object) -> Part | None:
    """The part to take instead of one that makes noise or batch statistics; None for others."""
    match value:
        case norm.Batch():
            return norm.Layer()
        case pool.FractionalMax():
            return pool.Max()
        case Noise() if not isinstance(value, noise.None_):
            return noise.None_()
    return None
