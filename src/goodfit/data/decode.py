"""Decodes encoded images to plain 8-bit pixels: JPEGs fast, all else by Pillow; orientation, 16 bits, palettes and alpha."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from goodfit.data.opening import PILLOW_MODES, BrokenImage, JpegLayout, check_size, explain_errors, is_16_bit, open_image
from goodfit.data.orientation import get_orientation
from goodfit.data.store import Array

JPEG_COLORSPACES = {1: "GRAY", 3: "RGB", 4: "RGBA"}
MAX_BUFFER_BYTES = 1 << 26  # of the memory that a thread keeps to decode into
_thread_local = threading.local()

ExactSize = tuple[float, float]  # (width, height), which need not be whole


def decode_jpeg(
    data: bytes, layout: JpegLayout, channels: int, needed_size: Callable[[int, int], tuple[float, float]], fast_upsample: bool = False
) -> tuple[NDArray[np.uint8], ExactSize] | None:
    """Decode a JPEG to [H, W, C] at the smallest of the scales 1, 1/2, 1/4 and 1/8 that covers `needed_size(width, height)`
    -> (width, height); other scales have no SIMD and are slower than larger ones.

    Also returns the exact size: the last row and column may cover only part of a pixel, and counting them as whole would shift the
    picture. None means that Pillow must decode it. The pixels are valid until the thread's next call. `fast_upsample` repeats
    subsampled colors instead of interpolating them, an eighth faster, if the image is as large as the needed size.
    """
    width, height = layout.width, layout.height
    if layout.space in ("CMYK", "YCCK"):
        return None
    check_size(width, height)
    try:
        min_width, min_height = needed_size(width, height)
        divisor = next((k for k in (8, 4, 2) if width / k >= min_width and height / k >= min_height), 1)
        rows, columns = -(-height // divisor), -(-width // divisor)
        fast_upsample = fast_upsample and width >= min_width and height >= min_height
        buffer = _thread_buffer(rows * columns * channels)
        pixels = simplejpeg.decode_jpeg(data, JPEG_COLORSPACES[channels], False, fast_upsample, rows, columns, buffer=buffer)
    except ValueError:  # damaged, or merely odd: Pillow decides
        return None
    return pixels, (width / divisor, height / divisor)


def _thread_buffer(size: int) -> bytearray | None:
    """This thread's memory for decoded pixels: new memory for each image would cost as much as decoding it."""
    if size > MAX_BUFFER_BYTES:
        return None
    buffer: bytearray = getattr(_thread_local, "buffer", bytearray())
    if len(buffer) < size:
        _thread_local.buffer = buffer = bytearray(size)
    return buffer


def to_pillow(pixels: Array) -> Image.Image:
    """Turn uint8 pixels [H, W] or [H, W, C] into a Pillow image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def decode_with_pillow(data: bytes, channels: int, white_level: int) -> tuple[Image.Image, int]:
    """Decode any image file as `convert_image` converts an open image.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    with open_image(io.BytesIO(data)) as image:
        return convert_image(image, channels, white_level)


def convert_image(image: Image.Image, channels: int, white_level: int) -> tuple[Image.Image, int]:
    """Convert an open image to Pillow's mode for `channels`; returns it as stored, with the orientation that is still to be applied.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    check_size(*image.size)
    with explain_errors():
        image.load()  # only now Pillow knows the orientation of every PNG, and has applied that of a TIFF
        return convert_channels(image, channels, white_level), get_orientation(image)


def convert_channels(image: Image.Image, channels: int, white_level: int) -> Image.Image:
    """Convert an image to mode L, RGB or RGBA: 16 bits are scaled so that `white_level` becomes 255, unwanted alpha is laid over white.

    Alpha that is 0 everywhere would leave nothing to see: it is taken for a channel that nobody filled, and the colors count as opaque.

    Raises:
        BrokenImage: its pixels are floating-point numbers, or some are below 0 or above `white_level`.
    """
    if is_16_bit(image.mode):
        image = Image.fromarray(to_8_bit(np.asarray(image), white_level))
    elif image.mode == "F":
        raise BrokenImage("its pixels are floating-point numbers; 8 or 16 bits are supported")
    mode = PILLOW_MODES[channels]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not image.getchannel("A").getbbox():
            image.putalpha(255)
        if channels < 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def to_8_bit(pixels: Array, white_level: int) -> NDArray[np.uint8]:
    """Scale 16-bit pixels to 8 bits, `white_level` to 255.

    Raises:
        BrokenImage: a pixel is below 0 or above `white_level`.
    """
    low, high = int(pixels.min(initial=0)), int(pixels.max(initial=0))
    if low < 0 or high > white_level:
        raise BrokenImage(f"its values go from {low} to {high}, but white is {white_level}: scale them to that range")
    scaled: NDArray[np.uint8] = np.rint(pixels.astype(np.float32) * (255 / white_level)).astype(np.uint8)
    return scaled
