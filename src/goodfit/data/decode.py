"""Decodes encoded images to plain 8-bit pixels: headers, EXIF orientation, 16 bits, palettes and alpha."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from goodfit.core.errors import DataError
from goodfit.data.orientation import get_orientation, orient_size, read_exif_orientation
from goodfit.data.store import Array

MAX_IMAGE_PIXELS = 100_000_000  # more is taken for a decompression bomb and never decoded
JPEG_MAGIC, JPEG_HEADER_BYTES = b"\xff\xd8\xff", 1 << 16
UNREADABLE = "it cannot be read"
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
JPEG_COLORSPACES = {1: "GRAY", 3: "RGB", 4: "RGBA"}
DECODER_VERSIONS = f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"  # others may give other pixels
MAX_BUFFER_BYTES = 1 << 26  # of the memory that a thread keeps to decode into
_thread_local = threading.local()

ImageSource = bytes | str | Path | NDArray[Any] | Image.Image
ExactSize = tuple[float, float]  # (width, height), which need not be whole


class BrokenImage(DataError):
    """An image that cannot be decoded; `reason` says why, without its name."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name or 'The image'} is broken: {reason}.")
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Header:
    """An image's width and height when upright, channels (1 gray, 3 color, 4 with alpha) and bits per channel (8 or 16)."""

    width: int
    height: int
    channels: int
    bits: int


# ---- headers -------------------------------------------------------------------------------------------------------------------


def read_header(source: BinaryIO | Array) -> Header:
    """Read the header of an encoded image, or the shape and type of an array [H, W] or [H, W, C].

    Raises:
        BrokenImage: it is not an image, or has too many pixels.
    """
    if isinstance(source, np.ndarray):
        channels = {2: 1, 3: source.shape[-1] if source.ndim else 0}.get(source.ndim, 0)
        if channels not in PILLOW_MODES:
            raise BrokenImage(f"expected an array [H, W] or [H, W, 1, 3 or 4], found {list(source.shape)}")
        return Header(source.shape[1], source.shape[0], channels, 16 if source.dtype == np.uint16 else 8)
    if (header := _read_jpeg_header(source)) is not None:
        return header
    with open_image(source) as image:
        has_16_bits = is_16_bit(image.mode)
        channels = 4 if image.has_transparency_data else 1 if image.mode in ("1", "L") or has_16_bits else 3
        return Header(*orient_size(image.size, get_orientation(image)), channels, 16 if has_16_bits else 8)


def _read_jpeg_header(file: BinaryIO) -> Header | None:
    """Read the header of a plain JPEG, thirty times as fast as Pillow; None for any other file."""
    layout = read_jpeg_layout(file.read(JPEG_HEADER_BYTES))
    file.seek(0)
    if layout is None:
        return None
    check_size(layout.width, layout.height)
    size = orient_size((layout.width, layout.height), layout.orientation)
    return Header(*size, 1 if layout.space.lower() == "gray" else 3, 8)


class JpegLayout(NamedTuple):
    """What the header of a JPEG says: `width` and `height` as stored, `space` (YCbCr, Gray, CMYK ...) and the EXIF `orientation`."""

    width: int
    height: int
    space: str
    orientation: int


def read_jpeg_layout(data: bytes) -> JpegLayout | None:
    """Read what the header of a JPEG says; None for anything else, and for headers that are damaged or not whole.

    Images made by one program often have one header, byte for byte: each thread remembers the last, and reads it once.
    """
    header, layout = getattr(_thread_local, "layout", (JPEG_MAGIC, None))
    if not data.startswith(header):
        if data[:3] != JPEG_MAGIC:
            return None
        layout = None
    if layout is None:
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return None
        orientation, end = _scan_jpeg_segments(data)
        layout = JpegLayout(width, height, space, orientation)
        if end:
            _thread_local.layout = data[:end], layout
    return layout


def _scan_jpeg_segments(data: bytes) -> tuple[int, int]:
    """The EXIF orientation (1 to 8) in a JPEG's header, 1 if there is none, and where the header ends, 0 if that is not in sight."""
    place, orientation = 2, 0
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and not orientation and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = read_exif_orientation(data[place + 10 : place + 2 + length])
        if marker in (0xDA, 0xD9):
            return orientation or 1, place + 2
        place += 1 if marker == 0xFF else 2 + length
    return orientation or 1, 0


def open_image(file: BinaryIO) -> Image.Image:
    """Open a file with Pillow; its pixels are not read yet.

    Raises:
        BrokenImage: it is not an image, or has too many pixels.
    """
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        raise BrokenImage("it is not an image, or its format is not supported") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(_explain_bomb()) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged headers
        raise BrokenImage(explain_decode_error(error)) from error
    check_size(*image.size)
    return image


def check_size(width: int, height: int) -> None:
    """Refuse images that are empty or far too large.

    Raises:
        BrokenImage: the image has no pixels, or more than MAX_IMAGE_PIXELS.
    """
    if width * height > MAX_IMAGE_PIXELS:
        raise BrokenImage(_explain_bomb(f"{width} x {height} is "))
    if width < 1 or height < 1:
        raise BrokenImage("it has no pixels")


def _explain_bomb(size: str = "") -> str:
    return f"{size}more than {MAX_IMAGE_PIXELS // 1_000_000} million pixels, taken for a decompression bomb"


def explain_decode_error(error: Exception) -> str:
    """Turn an exception into the reason of a BrokenImage."""
    if isinstance(error, OSError) and error.strerror:
        return f"{UNREADABLE} ({error.strerror})"
    text = str(error).rstrip(".") or type(error).__name__
    return f"it cannot be decoded ({text})"


def is_16_bit(mode: str) -> bool:
    """Whether a Pillow mode holds 16-bit gray."""
    return mode == "I" or mode.startswith("I;16")


# ---- pixels --------------------------------------------------------------------------------------------------------------------


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
    """Decode any image file into Pillow's mode for `channels`; returns it as stored, with its orientation.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    with open_image(io.BytesIO(data)) as image:
        try:
            image.load()
            return convert_channels(image, channels, white_level), get_orientation(image)
        except (MemoryError, BrokenImage):
            raise
        except Exception as error:  # Pillow's readers raise nearly anything on damaged data
            raise BrokenImage(explain_decode_error(error)) from error


def convert_channels(image: Image.Image, channels: int, white_level: int) -> Image.Image:
    """Convert an image to mode L, RGB or RGBA: 16 bits are scaled so that `white_level` becomes 255, unwanted alpha is laid over white.

    Raises:
        BrokenImage: its pixels are floating-point numbers.
    """
    if is_16_bit(image.mode):
        image = Image.fromarray(to_8_bit(np.asarray(image), white_level))
    elif image.mode == "F":
        raise BrokenImage("its pixels are floating-point numbers; 8 or 16 bits are supported")
    mode = PILLOW_MODES[channels]
    if image.mode == mode and (channels == 4 or not image.has_transparency_data):
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels < 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def to_8_bit(pixels: Array, white_level: int) -> NDArray[np.uint8]:
    """Scale 16-bit pixels to 8 bits; `white_level` and above become 255."""
    scaled: NDArray[np.uint8] = np.clip(np.rint(pixels.astype(np.float32) * (255 / white_level)), 0, 255).astype(np.uint8)
    return scaled
