"""Whole images at any scale, decoded from their originals: what lies outside the stored box, and what is finer than it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodfit.data.decode import BrokenImage, check_size, header, orientation_of, said
from goodfit.data.levels import channels_last
from goodfit.data.preprocess import Preprocess

LONGEST = 8  # times the short side; of a longer picture the middle is taken, so that a panorama does not fill the memory

Source = bytes | str | Path | NDArray[Any] | Image.Image


def picture(preprocess: Preprocess, source: Source, scale: int) -> NDArray[np.uint8]:
    """uint8 [h, w, channels] of an image in any form that `Preprocess.decode` takes: the stored box for `scale` 0, else as follows.

    With the aspect "crop" it is the whole image, its sides in their true proportion, at the smallest size that covers a frame of the
    model's shape whose short side is `scale`: for square models its own short side is. With "pad" and "stretch" it is that frame, as the
    whole image fills it. Shrinking starts from the original's pixels, never from the box.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    if not scale:
        return preprocess.decode(source)
    source, frame = contents(source), frame_of(preprocess.size, scale)
    if preprocess.aspect != "crop":
        return preprocess.but(box=frame).decode(source)
    width, height = _extent(source)
    factor = max(frame[0] / height, frame[1] / width)
    whole = (max(frame[0], round(height * factor)), max(frame[1], round(width * factor)))
    most = LONGEST * max(frame)
    if max(whole) > most:
        return preprocess.but(box=(min(whole[0], most), min(whole[1], most))).decode(source)
    return preprocess.but(box=whole, aspect="stretch").decode(source)  # by less than a pixel, as the sides are rounded


def frame_of(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """(height, width) of the shape of `size`, its short side `scale` pixels long."""
    return round(size[0] * scale / min(size)), round(size[1] * scale / min(size))


def contents(source: Source) -> bytes | NDArray[Any] | Image.Image:
    """What a file holds; anything else as it is.

    Raises:
        BrokenImage: the file cannot be read.
    """
    if not isinstance(source, (str, Path)):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise BrokenImage(said(error), f'"{source}"') from error


def _extent(source: bytes | NDArray[Any] | Image.Image) -> tuple[int, int]:
    """(width, height) of an image, upright."""
    if isinstance(source, Image.Image):
        width, height = source.size[::-1] if orientation_of(source) >= 5 else source.size
    elif isinstance(source, np.ndarray):
        facts = header(channels_last(source) if source.ndim == 3 else source)
        width, height = facts.width, facts.height
    else:
        facts = header(io.BytesIO(source))
        width, height = facts.width, facts.height
    check_size(width, height)
    return width, height
