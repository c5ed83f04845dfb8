"""Turns arrays of any kind of number into pixels, by one rule for training and prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from goodfit.core.errors import DataError
from goodfit.data.store import Array

MAX_16_BIT = 65535
CHANNEL_COUNTS = (1, 3, 4)
MIN_CLEAR_MAXIMUM = 128  # floats above 1 with a smaller maximum may be 0..255 of dark pictures, or something else: a note says so


@dataclasses.dataclass(frozen=True)
class PixelScale:
    """What the numbers of an array mean, which go from `low` to `high`: floats are multiplied by `factor`, which is 0 for integers;
    these are 16-bit ones if `is_16_bit`.
    """

    low: float = 0.0
    high: float = 255.0
    factor: float = 0.0
    is_16_bit: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether the range speaks for itself."""
        return not (self.factor == 1 and self.high < MIN_CLEAR_MAXIMUM) and not (self.is_16_bit and self.high <= 255)

    @property
    def note(self) -> str:
        """What the numbers are taken for, as a sentence."""
        white = 255 / self.factor if self.factor else MAX_16_BIT if self.is_16_bit else 255
        return f"{'Floats' if self.factor else 'Integers'} from {self.low:.3g} to {self.high:.3g} are taken as 0 to {white:.0f}."


def infer_scales(parts: Sequence[Array]) -> list[PixelScale]:
    """Infer the scale of each array of one source, such as its splits, from its own range; integers that may have 16 bits have them
    together.

    Raises:
        DataError: the numbers are no pixels, or 16-bit arrays stand beside 8-bit ones.
    """
    scales = [infer_scale(part) for part in parts]
    if not any(scale.is_16_bit for scale in scales):
        return scales
    if any(part.dtype.kind not in "iu" or part.dtype == np.uint8 for part in parts):
        high = max(scale.high for scale in scales)
        raise DataError(
            f"Expected arrays of one kind, found values up to {high:.0f} in one and numbers of another kind in another: scale them alike."
        )
    return [dataclasses.replace(scale, is_16_bit=True) for scale in scales]


def find_scale_notes(scales: Sequence[PixelScale]) -> tuple[str, ...]:
    """Say what the arrays of one source are taken for, unless that is certain and the same for all."""
    factors = {scale.factor for scale in scales if scale.factor}
    is_certain = len(factors) < 2 and all(scale.is_certain for scale in scales)
    return () if is_certain else tuple(dict.fromkeys(scale.note for scale in scales))


def infer_scale(images: Array, white_level: int = MAX_16_BIT) -> PixelScale:
    """Infer the scale of an array from its range.

    Floats are 0..1, or 0..255 if one of them is above 1 by more than rounding. Integers are 8-bit ones, or 16-bit ones if one is above 255
    or if `white_level` says that the model learned from 16-bit images.

    Raises:
        DataError: the numbers are no pixels: not finite, below 0, or too large.
    """
    if images.dtype in (np.uint8, bool):
        return PixelScale()
    if images.dtype.kind not in "fiu":
        raise DataError(f"Expected an array of integers or of floats from 0 to 1 or 0 to 255, found {images.dtype}.")
    low, high = float(images.min(initial=0)), float(images.max(initial=0))
    if images.dtype.kind != "f":
        if low < 0 or high > MAX_16_BIT:
            raise DataError(f"Expected pixels from 0 to 255 or {MAX_16_BIT}, found {low:.0f} to {high:.0f}.")
        return PixelScale(low, high, is_16_bit=high > 255 or white_level < MAX_16_BIT)
    if not np.isfinite([low, high]).all():
        raise DataError("Expected finite pixels, found NaN or infinity.")
    factor = 255.0 if np.rint(high * 255) <= 255 else 1.0
    if np.rint(low * factor) < 0 or np.rint(high * factor) > 255:
        raise DataError(
            f"Expected floats from 0 to 1 or 0 to 255, found {low:.3g} to {high:.3g}: bring them to that range, as by undoing a "
            "standardization (images * std + mean)."
        )
    return PixelScale(low, high, factor)


def to_pixels(images: Array, scale: PixelScale) -> Array:
    """Convert images of any kind of number to uint8, or to uint16 if the scale has 16 bits."""
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind == "f":
        values = images.astype(np.float32) if images.dtype == np.float16 else images
        levels = np.clip(np.rint(values * scale.factor), 0, 255).astype(np.uint8)  # clips no more than rounding
        return np.asarray(levels)  # of a single number NumPy makes a scalar
    return images if images.dtype == np.uint8 else images.astype(np.uint16 if scale.is_16_bit else np.uint8)


def to_channels_last(images: Array) -> Array:
    """Return images [..., H, W, C] as they are and [..., C, H, W] transposed; the latter have 1, 3 or 4 planes in front and not behind."""
    is_first = images.shape[-3] in CHANNEL_COUNTS and images.shape[-1] not in CHANNEL_COUNTS
    transposed: Array = np.moveaxis(images, -3, -1) if is_first else images
    return transposed
