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
    """What the numbers of arrays mean: floats are multiplied by `factor`, integers are 16-bit ones if `is_16_bit`.

    `note` names what is not certain.
    """

    factor: float = 255.0
    is_16_bit: bool = False
    note: str = ""


def infer_scale(parts: Sequence[Array], white_level: int = MAX_16_BIT) -> PixelScale:
    """Infer the scale of all arrays of one source together, so that no split is scaled differently from another.

    Floats are 0..1, or 0..255 if one of them is above 1. Integers are 8-bit ones, or 16-bit ones if one is above 255 or if `white_level`
    says that the model learned from 16-bit images.

    Raises:
        DataError: the numbers are no pixels, or 16-bit arrays stand beside 8-bit ones.
    """
    unsupported = next((part.dtype for part in parts if part.dtype.kind not in "fiub"), None)
    if unsupported is not None:
        raise DataError(f"Expected an array of integers or of floats from 0 to 1 or 0 to 255, found {unsupported}.")
    floats = [part for part in parts if part.dtype.kind == "f"]
    integers = [part for part in parts if part.dtype.kind in "iu" and part.dtype != np.uint8]
    low, high = _value_range(integers)
    if low < 0 or high > MAX_16_BIT:
        raise DataError(f"Expected pixels from 0 to 255 or {MAX_16_BIT}, found {low:.0f} to {high:.0f}.")
    is_16_bit = bool(integers) and (high > 255 or white_level < MAX_16_BIT)
    if is_16_bit and len(integers) < len(parts):
        raise DataError(f"Expected arrays of one kind, found values up to {high:.0f} in one and 8-bit pixels in another: scale them alike.")
    low, high = _value_range(floats)
    if not np.isfinite([low, high]).all():
        raise DataError("Expected finite pixels, found NaN or infinity.")
    factor = 255.0 if high <= 1 else 1.0
    is_uncertain = low < 0 or 1 < high < MIN_CLEAR_MAXIMUM or high > 255
    note = f"Floats from {low:.3g} to {high:.3g} are taken as 0 to {'1' if factor > 1 else '255'}, and values outside are clipped."
    return PixelScale(factor, is_16_bit, note if is_uncertain else "")


def _value_range(parts: Sequence[Array]) -> tuple[float, float]:
    if not parts:
        return 0.0, 0.0
    low = np.min([float(part.min(initial=0)) for part in parts])
    return float(low), float(np.max([float(part.max(initial=0)) for part in parts]))


def to_pixels(images: Array, scale: PixelScale) -> Array:
    """Convert images of any kind of number to uint8, or to uint16 if the scale has 16 bits."""
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind == "f":
        values = images.astype(np.float32) if images.dtype == np.float16 else images
        levels: Array = np.clip(np.rint(values * scale.factor), 0, 255).astype(np.uint8)
        return levels
    return images if images.dtype == np.uint8 else images.astype(np.uint16 if scale.is_16_bit else np.uint8)


def to_channels_last(images: Array) -> Array:
    """Return images [..., H, W, C] as they are and [..., C, H, W] transposed; the latter have 1, 3 or 4 planes in front and not behind."""
    is_first = images.shape[-3] in CHANNEL_COUNTS and images.shape[-1] not in CHANNEL_COUNTS
    transposed: Array = np.moveaxis(images, -3, -1) if is_first else images
    return transposed
