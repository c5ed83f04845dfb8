"""Noise that a full-batch optimizer cannot use: where it comes from in a recipe, and how to turn it off."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from goodfit.augment.color import Color
from goodfit.augment.mix import Smooth
from goodfit.core.contracts import Noise
from goodfit.core.errors import UsageError
from goodfit.core.parts import Part, part_name, pipe_parts, spell
from goodfit.layers import noise, norm, pool
from goodfit.recipe.recipe import Recipe
from goodfit.training.rules.resolution import Full

NOISY_MODULES = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """A source of noise in words, and the option that turns it off."""

    name: str
    remedy: str


def check_full_batch(recipe: Recipe, parts: dict[str, Any], model: nn.Module, images: int) -> tuple[str, ...]:
    """Refuse noise beside a full-batch optimizer; returns a warning where the recipe allows it, nothing for other optimizers.

    `parts` are the recipe's parts by seat, `images` the number of training images.

    Raises:
        UsageError: there is noise, or clipping, that the recipe does not allow; the sentence says how to turn each off.
    """
    optimizer = parts["optimizer"]
    sources = noise_sources(recipe, parts, model, images) if getattr(optimizer, "full_batch", False) else []
    if not sources:
        return ()
    name = spell(optimizer)
    names = ", ".join(source.name for source in sources)
    if recipe.noise == "allow":
        return (f"{name} mistakes a loss that changes from call to call for curvature, and may stall; allowed by --noise allow: {names}.",)
    remedies = " ".join(dict.fromkeys(source.remedy for source in sources))
    raise UsageError(
        f"{name} needs the same loss at every call, found {names}: turn that off with {remedies}; --noise allow trains in spite of it."
    )


def check_inactive_parts(augment: Part, channels: int) -> tuple[str, ...]:
    """A warning for parts of the augmentation that do nothing to images with so few channels."""
    color_parts = [part_name(part) for part in pipe_parts(augment) if isinstance(part, Color) and part.keeps_gray] if channels == 1 else []
    return (f"Gray images have no color that {' and '.join(dict.fromkeys(color_parts))} could change.",) if color_parts else ()


def noise_sources(recipe: Recipe, parts: dict[str, Any], model: nn.Module, images: int) -> list[NoiseSource]:
    """Everything in a recipe that changes the loss from call to call or from step to step, or its gradient."""
    sources = []
    random = [part for part in pipe_parts(parts["augment"]) if not isinstance(part, Smooth)]
    if random:
        sources.append(NoiseSource(f"the augmentation {spell(parts['augment'])}", "--augment none"))
    if not isinstance(parts["resolution"], Full):
        sources.append(NoiseSource(f"the resolution {spell(parts['resolution'])}", "--resolution full"))
    sources += _in_model(parts["model"], model)
    if (batch := recipe.images_per_step(images)) < images:
        sources.append(NoiseSource(f"mini-batches of {batch:,} of {images:,} images", "--batch-size all"))
    if recipe.clip:
        sources.append(NoiseSource(f"clipping at {recipe.clip:g}", "--clip 0"))
    if recipe.clip_value:
        sources.append(NoiseSource(f"clipping of values at {recipe.clip_value:g}", "--clip-value 0"))
    return sources


def _in_model(part: Part, model: nn.Module) -> list[NoiseSource]:
    """The noise layers and batch norms of a model: named by the settings that ask for them, else by the modules themselves."""
    changes = {name: replacement for name, value in vars(part).items() if (replacement := _noiseless(value)) is not None}
    if changes:
        remedy = f'--model "{spell(dataclasses.replace(part, **changes))}"'  # type: ignore[type-var]
        return [NoiseSource(f"{name}={spell(getattr(part, name))} in the model", remedy) for name in changes]
    modules = {type(m).__name__: m for m in model.modules() if getattr(m, "noisy", False) or isinstance(m, NOISY_MODULES)}
    return [NoiseSource(f"{name} in the model", f'a --model like "{spell(part)}" without it') for name in modules]


def _noiseless(value: object) -> Part | None:
    """The part to use in place of one that makes noise or takes batch statistics; None for others."""
    match value:
        case norm.Batch():
            return norm.Layer()
        case pool.FractionalMax():
            return pool.Max()
        case Noise() if not isinstance(value, noise.None_):
            return noise.None_()
    return None
