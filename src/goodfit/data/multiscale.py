"""Whole images at any scale, decoded from their originals: they show what lies outside the stored box, and finer detail."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodfit.data.levels import to_channels_last
from goodfit.data.opening import ImageContent, ImageSource, check_size, explain_errors, read_contents, read_header
from goodfit.data.orientation import get_upright_size
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
    content, frame = read_contents(source), frame_size(preprocess.size, scale)
    if preprocess.aspect != "crop":
        return preprocess.but(box=frame).decode(content)
    width, height = _read_size(content)
    factor = max(frame[0] / height, frame[1] / width)
    scaled = (max(frame[0], round(height * factor)), max(frame[1], round(width * factor)))
    longest = MAX_ASPECT_RATIO * max(frame)
    if max(scaled) > longest:
        return preprocess.but(box=(min(scaled[0], longest), min(scaled[1], longest))).decode(content)
    return preprocess.but(box=scaled, aspect="stretch").decode(content)  # by less than a pixel, since the sides are rounded


def frame_size(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """The (height, width) in the proportions of `size` whose short side is `scale` pixels long."""
    return round(size[0] * scale / min(size)), round(size[1] * scale / min(size))


def _read_size(source: ImageContent) -> tuple[int, int]:
    """Read the (width, height) of an image when upright."""
    if isinstance(source, Image.Image):
        check_size(*source.size)
        with explain_errors():
            source.load()
        return get_upright_size(source)
    header = read_header(io.BytesIO(source) if isinstance(source, bytes) else to_channels_last(source) if source.ndim == 3 else source)
    return header.width, header.height
