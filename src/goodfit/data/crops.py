"""Crops at decode: of an original only the window that is asked for is brought to the model's size, at the cost of its scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goodfit.data.decode import JPEG_START, Extent, from_array, jpeg, jpeg_orientation, upright, whole
from goodfit.data.pixels import FilePixels
from goodfit.data.preprocess import Preprocess

Window = tuple[float, float, float, float]  # top, left, height, width, each a share of the image's own height or width
Windows = Callable[[Tensor, Tensor, int], Tensor]  # (rows [B], their places [B] in the epoch's order, epoch) -> windows [B, 4]


class Cuts:
    """The images as training sees them when its crops are cut from the originals; `shape` is (N, H, W, C) at the model's size."""

    def __init__(self, originals: FilePixels, preprocess: Preprocess, windows: Windows) -> None:
        self.shape = (originals.shape[0], *preprocess.size, preprocess.channels)
        self._originals, self._preprocess, self._windows = originals, preprocess, windows

    def drawn(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        """uint8 [n, H, W, C]: the windows of int64 rows [n] at their places [n] in the order of an epoch."""
        windows = self._windows(rows, places, epoch).tolist()

        def one(source: bytes | NDArray[Any], place: int) -> NDArray[np.uint8]:
            return cut(source, windows[place], self._preprocess)

        return self._originals.each(one, rows, self.shape[1:])


def cut(source: bytes | NDArray[Any], window: Window, preprocess: Preprocess) -> NDArray[np.uint8]:
    """uint8 [height, width, channels] of the model's size: a window of the upright original, an encoded image or an array.

    Shrinking is antialiased by a triangle as wide as the scale. A JPEG is decoded at the smallest scale that has the pixels, and the
    edges of a window that shrinks go to the nearest whole pixel of what is decoded: by half a pixel of the result at most.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    if isinstance(source, np.ndarray):
        return _resized(np.asarray(preprocess.image(source)), None, window, preprocess.size)
    if source[:3] == JPEG_START:
        orientation = jpeg_orientation(source)
        lying, (high, wide) = _lying(window, orientation), _sides(preprocess.size, orientation)
        found = jpeg(source, preprocess.channels, lambda width, height: (wide / lying[3], high / lying[2]), quick=True)
        if found is not None:
            return upright(_resized(*found, lying, (high, wide)), orientation)
    image, orientation = whole(source, preprocess.channels, preprocess.white)
    pixels = _resized(np.asarray(image), None, _lying(window, orientation), _sides(preprocess.size, orientation))
    return upright(pixels, orientation)


def _sides(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) before the image is turned upright."""
    return size if orientation < 5 else (size[1], size[0])


def _lying(window: Window, orientation: int) -> Window:
    """The window of an upright image in the image as it is stored: the way back of `upright`."""
    top, left, height, width = window
    if orientation in (3, 4, 7, 8):
        top = 1 - top - height
    if orientation in (2, 3, 6, 7):
        left = 1 - left - width
    return (top, left, height, width) if orientation < 5 else (left, top, width, height)


def _resized(pixels: NDArray[np.uint8], extent: Extent | None, window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A window of pixels [H, W] or [H, W, C] at (height, width) `size`, as [height, width, C].

    Pillow takes edges between pixels, which matters when they are enlarged, and weighs colors by their alpha.
    """
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    (tall, broad, channels), (across, down) = pixels.shape, extent or pixels.shape[1::-1]
    top, left, bottom, right = window[0] * down, window[1] * across, (window[0] + window[2]) * down, (window[1] + window[3]) * across
    rows = slice(max(0, round(top)), min(tall, round(bottom)))
    columns = slice(max(0, round(left)), min(broad, round(right)))
    if channels < 4 and rows.stop - rows.start >= size[0] and columns.stop - columns.start >= size[1]:
        # torch's filter for 8-bit images is five times as fast as Pillow's; it runs in the thread that calls it
        part = torch.from_numpy(pixels[rows, columns].copy())[None].permute(0, 3, 1, 2)
        small = torch.nn.functional.interpolate(part, size, mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).numpy()
    box = (max(0.0, left), max(0.0, top), min(broad, right), min(tall, bottom))
    image = from_array(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR, box)
    return np.asarray(image).reshape(*size, channels)
