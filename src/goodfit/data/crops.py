"""Crops cut while decoding: only the window that training asks for is brought to the model's size, from the original's pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goodfit.data.decode import ExactSize, decode_jpeg, decode_with_pillow, to_pillow
from goodfit.data.opening import read_jpeg_layout
from goodfit.data.orientation import apply_orientation, orient_size
from goodfit.data.pixels import FilePixels
from goodfit.data.preprocess import Preprocess

Window = tuple[float, float, float, float]  # top, left, height, width, each a share of the image's own height or width
WindowFunction = Callable[[Tensor, Tensor, int], Tensor]  # (rows [B], their places [B] in the epoch's order, epoch) -> windows [B, 4]


class OriginalCrops:
    """The training images as crops cut from the originals; `shape` is (N, H, W, C) at the model's size."""

    def __init__(self, originals: FilePixels, preprocess: Preprocess, windows: WindowFunction) -> None:
        self.shape = (originals.shape[0], *preprocess.size, preprocess.channels)
        self._originals, self._preprocess, self._windows = originals, preprocess, windows

    def read_for_training(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        """Decode the windows of int64 rows [n], which are at `places` [n] in the order of an epoch, to uint8 [n, H, W, C]."""
        windows = self._windows(rows, places, epoch).tolist()

        def decode(source: bytes | NDArray[Any], place: int) -> NDArray[np.uint8]:
            return decode_window(source, windows[place], self._preprocess)

        return self._originals.map_sources(decode, rows, self.shape[1:])


def decode_window(source: bytes | NDArray[Any], window: Window, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Decode a window of the upright original, an encoded image or an array, to uint8 [height, width, channels] of the model's size.

    Shrinking is antialiased by a triangle filter as wide as the scale. A JPEG is decoded at the smallest scale that has enough pixels,
    and the edges of a window that shrinks go to the nearest whole decoded pixel, which moves them by at most half a pixel of the result.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    if isinstance(source, np.ndarray):
        return _resize_window(np.asarray(preprocess.convert_array(source)), None, window, preprocess.size)
    if (layout := read_jpeg_layout(source)) is not None:
        orientation = layout.orientation
        stored, (height, width) = _stored_window(window, orientation), orient_size(preprocess.size, orientation)
        decoded = decode_jpeg(source, layout, preprocess.channels, lambda w, h: (width / stored[3], height / stored[2]), fast_upsample=True)
        if decoded is not None:
            return apply_orientation(_resize_window(*decoded, stored, (height, width)), orientation)
    image, orientation = decode_with_pillow(source, preprocess.channels, preprocess.white_level)
    size = orient_size(preprocess.size, orientation)
    return apply_orientation(_resize_window(np.asarray(image), None, _stored_window(window, orientation), size), orientation)


def _stored_window(window: Window, orientation: int) -> Window:
    """The window of an upright image in the image as it is stored: the inverse of `apply_orientation`."""
    top, left, height, width = window
    if orientation in (3, 4, 7, 8):
        top = 1 - top - height
    if orientation in (2, 3, 6, 7):
        left = 1 - left - width
    return (top, left, height, width) if orientation < 5 else (left, top, width, height)


def _resize_window(pixels: NDArray[np.uint8], exact_size: ExactSize | None, window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a window of pixels [H, W] or [H, W, C] to (height, width) `size`, as [height, width, C].

    Where the window is enlarged or has alpha Pillow does it: it accepts edges between pixels, and weighs colors by their alpha.
    """
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    (height, width, channels), (exact_width, exact_height) = pixels.shape, exact_size or pixels.shape[1::-1]
    top, left = window[0] * exact_height, window[1] * exact_width
    bottom, right = (window[0] + window[2]) * exact_height, (window[1] + window[3]) * exact_width
    rows = slice(max(0, round(top)), min(height, round(bottom)))
    columns = slice(max(0, round(left)), min(width, round(right)))
    if channels < 4 and rows.stop - rows.start >= size[0] and columns.stop - columns.start >= size[1]:
        # torch's filter for 8-bit images is five times as fast as Pillow's; it runs in the thread that calls it
        part = torch.from_numpy(pixels[rows, columns].copy())[None].permute(0, 3, 1, 2)
        small = torch.nn.functional.interpolate(part, size, mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).numpy()
    box = (max(0.0, left), max(0.0, top), min(width, right), min(height, bottom))
    image = to_pillow(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR, box)
    return np.asarray(image).reshape(*size, channels)
