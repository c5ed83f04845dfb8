"""Whole images at any scale, decoded from their originals: they show what lies outside the stored box, and finer detail."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodfit.data.decode import BrokenImage, ImageSource, check_size, explain_decode_error, read_header
from goodfit.data.files import read_image_file
from goodfit.data.levels import to_channels_last
from goodfit.data.orientation import get_orientation, orient_size
from goodfit.data.preprocess import Preprocess

MAX_ASPECT_RATIO = 8  # of a longer picture the middle is taken, so that a panorama does not fill the memory


def decode_scaled(preprocess: Preprocess, source: ImageSource, scale: int) -> NDArray[np.uint8]:
    """Decode an image, in any form that `Preprocess.decode` accepts, to uint8 [h, w, channels]; `scale` 0 means the stored box.

    With the aspect "crop" it is the whole image in its own proportions, at the smallest size that covers a frame of the model's
    proportions whose short side is `scale`; for square models, the image's own short side is then `scale`. With "pad" and "stretch" it is
    that frame, as the whole image fills it. Shrinking starts from the original's pixels, never from the box.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    if not scale:
        return preprocess.decode(source)
    source, frame = read_contents(source), frame_size(preprocess.size, scale)
    if preprocess.aspect != "crop":
        return preprocess.but(box=frame).decode(source)
    width, height = _read_size(source)
    factor = max(frame[0] / height, frame[1] / width)
    scaled = (max(frame[0], round(height * factor)), max(frame[1], round(width * factor)))
    longest = MAX_ASPECT_RATIO * max(frame)
    if max(scaled) > longest:
        return preprocess.but(box=(min(scaled[0], longest), min(scaled[1], longest))).decode(source)
    return preprocess.but(box=scaled, aspect="stretch").decode(source)  # by less than a pixel, since the sides are rounded


def frame_size(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """The (height, width) in the proportions of `size` whose short side is `scale` pixels long."""
    return round(size[0] * scale / min(size)), round(size[1] * scale / min(size))


def read_contents(source: ImageSource) -> bytes | NDArray[Any] | Image.Image:
    """Read a file; return anything else as it is.

    Raises:
        BrokenImage: the file cannot be read.
    """
    if not isinstance(source, (str, Path)):
        return source
    try:
        return read_image_file(source)
    except OSError as error:
        raise BrokenImage(explain_decode_error(error), f'"{source}"') from error


def _read_size(source: bytes | NDArray[Any] | Image.Image) -> tuple[int, int]:
    """Read the (width, height) of an image when upright."""
    if isinstance(source, Image.Image):
        size = orient_size(source.size, get_orientation(source))
    else:
        header = read_header(io.BytesIO(source) if isinstance(source, bytes) else to_channels_last(source) if source.ndim == 3 else source)
        size = header.width, header.height
    check_size(*size)
    return size
