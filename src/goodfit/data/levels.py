"""Arrays of any kind of number as pixels: the one rule, for training and for prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from goodfit.core.errors import DataError
from goodfit.data.store import Array

WHITEST = 65535
PLANES = (1, 3, 4)
DARKEST = 128  # floats above 1 whose largest is less may be 0..255 of dark pictures, or something else: it is said


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the numbers of arrays mean: floats are multiplied by `factor`, whole numbers are 16-bit ones where `deep`; `note` says what
    cannot be told for certain.
    """

    factor: float = 255.0
    deep: bool = False
    note: str = ""


def scale_of(parts: Sequence[Array], white: int = WHITEST) -> Scale:
    """The scale of all arrays of one source together, so that no split is scaled apart from another.

    Floats are 0..1, unless one of them is above 1: then they are 0..255. Whole numbers are 8-bit ones, unless one is above 255, or
    `white` says that the model learned from 16-bit images.

    Raises:
        DataError: numbers that are no pixels, or 16-bit arrays beside 8-bit ones.
    """
    strange = next((part.dtype for part in parts if part.dtype.kind not in "fiub"), None)
    if strange is not None:
        raise DataError(f"Expected an array of whole numbers or of floats from 0 to 1 or 0 to 255, found {strange}.")
    floats = [part for part in parts if part.dtype.kind == "f"]
    wide = [part for part in parts if part.dtype.kind in "iu" and part.dtype != np.uint8]
    low, high = _range(wide)
    if low < 0 or high > WHITEST:
        raise DataError(f"Expected pixels from 0 to 255 or {WHITEST}, found {low:.0f} to {high:.0f}.")
    deep = bool(wide) and (high > 255 or white < WHITEST)
    if deep and len(wide) < len(parts):
        raise DataError(f"Expected arrays of one kind, found values to {high:.0f} in one and 8-bit pixels in another: scale them alike.")
    low, high = _range(floats)
    if not np.isfinite([low, high]).all():
        raise DataError("Expected finite pixels, found NaN or infinity.")
    factor = 255.0 if high <= 1 else 1.0
    doubtful = low < 0 or 1 < high < DARKEST or high > 255
    note = f"Floats from {low:.3g} to {high:.3g} are taken as 0 to {'1' if factor > 1 else '255'}, and what lies outside is cut off."
    return Scale(factor, deep, note if doubtful else "")


def _range(parts: Sequence[Array]) -> tuple[float, float]:
    if not parts:
        return 0.0, 0.0
    low = np.min([float(part.min(initial=0)) for part in parts])
    return float(low), float(np.max([float(part.max(initial=0)) for part in parts]))


def to_pixels(images: Array, scale: Scale) -> Array:
    """Images of any kind of number as uint8, or uint16 where the scale is deep."""
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind == "f":
        values = images.astype(np.float32) if images.dtype == np.float16 else images
        levels: Array = np.clip(np.rint(values * scale.factor), 0, 255).astype(np.uint8)
        return levels
    return images if images.dtype == np.uint8 else images.astype(np.uint16 if scale.deep else np.uint8)


def channels_last(images: Array) -> Array:
    """Images [..., H, W, C], or [..., C, H, W] turned so: what has 1, 3 or 4 planes in front and none behind."""
    first = images.shape[-3] in PLANES and images.shape[-1] not in PLANES
    turned: Array = np.moveaxis(images, -3, -1) if first else images
    return turned
