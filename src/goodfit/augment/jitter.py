"""The parts that are affine in color: brightness, contrast, saturation and hue, singly or together, grayscale and PCA."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.color import (
    Color,
    brightness_matrix,
    compose_colors,
    contrast_matrix,
    hue_matrix,
    identity_matrix,
    offset_matrix,
    saturation_matrix,
)
from goodfit.augment.traits import RangedAugment, draw_from_range
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Range, Share

HueTurn = Annotated[float, Range(-0.5, 0.5)]

# ---- one at a time -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ColorFactor(RangedAugment, Color):
    """A color op with one factor per image, drawn uniformly from its range; 1 changes nothing, and a share 1 - p of the images gets it."""

    neutral: ClassVar[float | None] = 1.0
    factor: tuple[NonNegative, NonNegative] = (0.6, 1.4)
    p: Share = 1.0

    def draw_factors(self, chance: Chance) -> Tensor:
        """Draw the factor of each place, [B]."""
        return draw_from_range(chance, self.factor, self.p, neutral=1.0)


@dataclasses.dataclass(frozen=True)
class Brightness(ColorFactor):
    """Multiplies the colors of a share `p` of the images by a factor drawn uniformly from its range.

    brightness(0.4) is brightness((0.6, 1.4)).

    Helps: when exposure differs between photos of the same thing.
    Hurts: when how bright it is tells the classes apart.
    Cost: one pass over the pixels, shared with neighbors that are affine in color.
    Source: CS231n, training neural networks II (color jitter: contrast and brightness).
    """

    def draw(self, chance: Chance, t: float) -> Tensor:
        return brightness_matrix(self.draw_factors(chance))


@dataclasses.dataclass(frozen=True)
class Contrast(ColorFactor):
    """Moves colors toward the image's mean gray (below 1) or away from it, by a factor drawn uniformly from its range.

    contrast(0.4) is contrast((0.6, 1.4)). A share 1 - p of the images stays as it is.

    Helps: when light or haze differ between photos of the same thing.
    Hurts: faint differences that are the answer.
    Cost: one pass over the pixels, shared with neighbors that are affine in color.
    Source: CS231n, training neural networks II (color jitter: contrast and brightness).
    """

    def draw(self, chance: Chance, t: float) -> Tensor:
        return contrast_matrix(self.draw_factors(chance))


@dataclasses.dataclass(frozen=True)
class Saturation(ColorFactor):
    """Moves each pixel's color toward its own gray (below 1; 0 is gray) or away from it, by a factor from its range.

    saturation(0.4) is saturation((0.6, 1.4)). A share 1 - p of the images stays as it is, and so do gray pixels.

    Helps: when cameras and light differ in how vivid colors are.
    Hurts: when color is what tells the classes apart.
    Cost: one pass over the pixels, shared with neighbors that are affine in color.
    Source: Howard 2013, Some improvements on deep convolutional neural network based image classification (color manipulations).
    """

    keeps_gray: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float) -> Tensor:
        return saturation_matrix(self.draw_factors(chance))


@dataclasses.dataclass(frozen=True)
class Hue(RangedAugment, Color):
    """Rotates colors around the gray axis, by a share of a full circle drawn uniformly from `turns`: luma and grays do not change.

    It is a rotation in YIQ, which is affine, not one in HSV; half a turn gives every color its complement. hue(0.1) is hue((-0.1, 0.1)).
    A share 1 - p of the images stays as it is.

    Helps: when white balance differs, or things of one class come in any color.
    Hurts: when color is what tells the classes apart.
    Cost: one pass over the pixels, shared with neighbors that are affine in color.
    Source: Szegedy et al. 2015, Going deeper with convolutions (photometric distortions of Howard 2013).
    """

    keeps_gray: ClassVar[bool] = True
    min_value: ClassVar[float] = -math.inf
    turns: tuple[HueTurn, HueTurn] = (-0.1, 0.1)
    p: Share = 1.0

    def draw(self, chance: Chance, t: float) -> Tensor:
        return hue_matrix(draw_from_range(chance, self.turns, self.p))


@dataclasses.dataclass(frozen=True)
class Grayscale(Color):
    """Takes the color from a share `p` of the images: every channel becomes the luma.

    Helps: when shape and texture tell the classes apart and color misleads; contrastive learning.
    Hurts: when color is what tells the classes apart.
    Cost: one pass over the pixels, shared with neighbors that are affine in color.
    Source: Chen et al. 2020, A simple framework for contrastive learning (p 0.2).
    """

    keeps_gray: ClassVar[bool] = True
    p: Share = 0.2

    def draw(self, chance: Chance, t: float) -> Tensor:
        return saturation_matrix(1 - chance.chosen(self.p).double())


# ---- together ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Jitter(Color):
    """Random brightness, contrast, saturation and hue: factors from 1 - strength to 1 + strength, hue in turns either way.

    `strength` stands for brightness, contrast and saturation where those are not given. Their order does not matter: they commute, as
    nothing is clamped in between. A share 1 - p of the images stays as it is.

    Helps: when light, exposure or white balance differ between photos of the same thing.
    Hurts: when color is what tells the classes apart.
    Cost: one pass over the pixels, whatever the number of ops.
    Source: CS231n, training neural networks II (color jitter: contrast and brightness); Krizhevsky et al. 2012.
    """

    strength: NonNegative = 0.4
    brightness: NonNegative | None = None
    contrast: NonNegative | None = None
    saturation: NonNegative | None = None
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    p: Share = 1.0

    def scaled(self, strength: float) -> Self:
        """Return the same part, milder: 0 changes nothing, 1 is this part."""
        own_strengths = {
            name: value * strength for name in ("brightness", "contrast", "saturation") if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, strength=self.strength * strength, hue=self.hue * strength, **own_strengths)

    def draw(self, chance: Chance, t: float) -> Tensor:
        chosen, *factors, turns = chance.uniform(n=5).unbind(1)  # in one call: its cost is per call
        changed = chosen < self.p
        matrices = []
        for factor, own_strength, make_matrix in zip(
            factors, (self.brightness, self.contrast, self.saturation), (brightness_matrix, contrast_matrix, saturation_matrix), strict=True
        ):
            strength = self.strength if own_strength is None else own_strength
            low, high = max(0.0, 1 - strength), 1 + strength
            if strength:
                matrices.append(make_matrix(torch.where(changed, low + factor * (high - low), 1.0)))
        if self.hue:
            matrices.append(hue_matrix((2 * turns - 1) * self.hue * changed))
        return functools.reduce(compose_colors, matrices) if matrices else identity_matrix(len(chosen))


@dataclasses.dataclass(frozen=True)
class PCA(Color):
    """Adds to all pixels of an image one offset along the principal components of the training images' colors.

    The offset is the sum of a_i * lambda_i * e_i over the eigenvectors e_i and eigenvalues lambda_i of the covariance of the training
    pixels' RGB, with a_i drawn anew for each image from a normal distribution of standard deviation `sigma`: so its standard deviation
    along e_i is sigma * lambda_i. The eigenvalues are variances of colors from 0 to 1, as in the usual implementations; the paper does not
    state its scale (on 0 to 255 the same formula would move colors 255 times as far, beyond any use). Gray images have one component,
    their variance; alpha is left out. A share 1 - p of the images stays as it is.

    Helps: natural photos, whose light varies in strength and color.
    Hurts: little; on data with little variance in color it does next to nothing.
    Cost: one pass over the pixels, shared with neighbors that are affine in color.
    Source: Krizhevsky et al. 2012 (AlexNet: sigma 0.1); CS231n, training neural networks II (color jitter by PCA).
    """

    strength_field: ClassVar[str] = "sigma"
    sigma: NonNegative = 0.1
    p: Share = 1.0
    _components: tuple[tuple[float, ...], ...] = dataclasses.field(default=((0.1, 0.1, 0.1),), repr=False, compare=False)

    def bind(self, facts: Any) -> Self:
        """Return the part with the eigenvectors of the training images' covariance, each times its eigenvalue."""
        return dataclasses.replace(self, _components=compute_color_components(facts.covariance))

    def draw(self, chance: Chance, t: float) -> Tensor:
        amounts = chance.at("a").normal(std=self.sigma, n=len(self._components)).double() * chance.at("p").chosen(self.p)[:, None]
        rows = torch.tensor(self._components, dtype=torch.float64)
        return offset_matrix(
            sum((amount[:, None] * row for amount, row in zip(amounts.unbind(1), rows, strict=True)), torch.zeros(len(amounts), 3))
        )


def compute_color_components(covariance: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    """Compute the eigenvectors of a covariance [C, C] of colors, each times its eigenvalue, largest first; one gray direction if C is 1.

    The largest coordinate of each is positive, so that the result does not depend on a library's choice of sign.
    """
    colors = np.array(covariance, dtype=np.float64)[:3, :3]
    if len(colors) == 1:
        return ((float(colors[0, 0]),) * 3,)
    values, vectors = np.linalg.eigh(colors)
    rows = vectors.T[::-1] * values[::-1, None].clip(min=0)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return tuple(tuple(row) for row in (rows * np.where(largest < 0, -1.0, 1.0)).tolist())
