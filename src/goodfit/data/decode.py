"""Encoded images to plain 8-bit pixels: what the header says, which way is up, 16 bits, palettes and alpha."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from goodfit.core.errors import DataError

MOST_PIXELS = 100_000_000  # more is taken for a decompression bomb and never decoded
ORIENTATION = 0x0112
JPEG_START, JPEG_HEAD = b"\xff\xd8\xff", 1 << 16
UNREADABLE = "it cannot be read"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
COLORSPACES = {1: "GRAY", 3: "RGB", 4: "RGBA"}
DECODERS = f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"  # others may give other pixels
MOST_BUFFER = 1 << 26  # bytes
_memory = threading.local()

Array = NDArray[Any]
Extent = tuple[float, float]  # (width, height)


class BrokenImage(DataError):
    """An image that cannot be decoded; `reason` says why, without its name."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name or 'The image'} is broken: {reason}.")
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Header:
    """What an image says of itself, upright: width, height, channels (1 gray, 3 color, 4 with alpha) and bits a channel (8 or 16)."""

    width: int
    height: int
    channels: int
    bits: int


# ---- headers -------------------------------------------------------------------------------------------------------------------


def header(source: BinaryIO | Array) -> Header:
    """The header of an encoded image, or the facts of an array [H, W] or [H, W, C].

    Raises:
        BrokenImage: it is no image, or has too many pixels.
    """
    if isinstance(source, np.ndarray):
        channels = {2: 1, 3: source.shape[-1] if source.ndim else 0}.get(source.ndim, 0)
        if channels not in MODES:
            raise BrokenImage(f"expected an array [H, W] or [H, W, 1, 3 or 4], found {list(source.shape)}")
        return Header(source.shape[1], source.shape[0], channels, 16 if source.dtype == np.uint16 else 8)
    if (facts := _jpeg_header(source)) is not None:
        return facts
    with opened(source) as image:
        width, height = image.size
        if orientation_of(image) >= 5:
            width, height = height, width
        deep = is_deep(image.mode)
        channels = 4 if image.has_transparency_data else 1 if image.mode in ("1", "L") or deep else 3
        return Header(width, height, channels, 16 if deep else 8)


def _jpeg_header(file: BinaryIO) -> Header | None:
    """The header of a plain JPEG, thirty times as fast as Pillow's; None for all else."""
    data = file.read(JPEG_HEAD)
    file.seek(0)
    if data[:3] != JPEG_START:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # a long header, or a damaged one
        return None
    check_size(width, height)
    if jpeg_orientation(data) >= 5:
        width, height = height, width
    return Header(width, height, 1 if space.lower() == "gray" else 3, 8)


def opened(file: BinaryIO) -> Image.Image:
    """Pillow's image of a file, its pixels not yet read.

    Raises:
        BrokenImage: it is no image, or has too many pixels.
    """
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        raise BrokenImage("it is not an image, or of a format not known here") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(_bomb()) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged headers
        raise BrokenImage(said(error)) from error
    check_size(*image.size)
    return image


def check_size(width: int, height: int) -> None:
    """Refuse images too large to be meant."""
    if width * height > MOST_PIXELS:
        raise BrokenImage(_bomb(f"{width} x {height} is "))
    if width < 1 or height < 1:
        raise BrokenImage("it has no pixels")


def _bomb(size: str = "") -> str:
    return f"{size}more than {MOST_PIXELS // 1_000_000} million pixels, taken for a decompression bomb"


def said(error: Exception) -> str:
    """An exception as a reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{UNREADABLE} ({error.strerror})"
    text = str(error).rstrip(".") or type(error).__name__
    return f"it cannot be decoded ({text})"


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode holds 16-bit gray."""
    return mode == "I" or mode.startswith("I;16")


# ---- which way is up -----------------------------------------------------------------------------------------------------------


def jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation (1 to 8) in a JPEG's header, 1 where there is none."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return exif_orientation(data[place + 10 : place + 2 + length])
        if marker in (0xDA, 0xD9):
            break
        place += 1 if marker == 0xFF else 2 + length
    return 1


def exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block (a TIFF header and its first directory), 1 where there is none."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], "little" if order == "little" else "big")

    start = number(4, 4)
    for entry in range(number(start, 2)):
        place = start + 2 + 12 * entry
        if place + 12 > len(tiff):
            break
        if number(place, 2) == ORIENTATION:
            return valid(number(place + 8, 2))
    return 1


def valid(orientation: object) -> int:
    """An orientation as a number from 1 to 8; anything else means upright."""
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open image."""
    exif = image.info.get("exif")
    if image.format in ("JPEG", "MPO"):
        return exif_orientation(exif[6:]) if isinstance(exif, bytes) and exif.startswith(b"Exif\0\0") else 1
    if exif is None and image.format != "TIFF":
        return 1
    try:
        return valid(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not make the picture bad
        return 1


def upright(pixels: Array, orientation: int) -> Array:
    """Pixels [H, W, C] turned and mirrored as EXIF says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels if rows == columns == 1 else pixels[::rows, ::columns]


# ---- pixels --------------------------------------------------------------------------------------------------------------------


def jpeg(
    data: bytes, channels: int, needed: Callable[[int, int], tuple[float, float]], quick: bool = False
) -> tuple[NDArray[np.uint8], Extent] | None:
    """A JPEG [H, W, C] decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 that covers `needed(width, height)` -> (width, height),
    and its true extent: the last row and column may be only part of a pixel of the original, which would shift the picture. None where
    Pillow must do it. The pixels are good until the thread's next call. Other scales have no SIMD and are slower than larger ones.
    `quick` repeats coarser colors instead of interpolating them, an eighth faster, where the image has the pixels that are needed.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space in ("CMYK", "YCCK"):
            return None
        check_size(width, height)
        wide, high = needed(width, height)
        divisor = next((k for k in (8, 4, 2) if width / k >= wide and height / k >= high), 1)
        tall, broad = -(-height // divisor), -(-width // divisor)
        buffer = _buffer(tall * broad * channels)
        pixels = simplejpeg.decode_jpeg(
            data, COLORSPACES[channels], False, quick and width >= wide and height >= high, tall, broad, buffer=buffer
        )
    except ValueError:  # damaged, or merely odd: Pillow decides
        return None
    return pixels, (width / divisor, height / divisor)


def _buffer(size: int) -> bytearray | None:
    """This thread's memory for decoded pixels: new memory for each image would cost as much as decoding it."""
    if size > MOST_BUFFER:
        return None
    kept: bytearray = getattr(_memory, "buffer", bytearray())
    if len(kept) < size:
        _memory.buffer = kept = bytearray(size)
    return kept


def from_array(pixels: Array) -> Image.Image:
    """A Pillow image of uint8 pixels [H, W, C]."""
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def whole(data: bytes, channels: int, white: int) -> tuple[Image.Image, int]:
    """Any image file in Pillow's mode for `channels`, not yet turned, and its orientation.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    with opened(io.BytesIO(data)) as image:
        try:
            image.load()
            return plain(image, channels, white), orientation_of(image)
        except (MemoryError, BrokenImage):
            raise
        except Exception as error:  # Pillow's readers raise nearly anything on damaged data
            raise BrokenImage(said(error)) from error


def plain(image: Image.Image, channels: int, white: int) -> Image.Image:
    """An image in mode L, RGB or RGBA: 16 bits scaled so that `white` becomes 255, alpha laid over white where it is not wanted."""
    if is_deep(image.mode):
        image = Image.fromarray(eight_bits(np.asarray(image), white))
    elif image.mode == "F":
        raise BrokenImage("its pixels are floating-point numbers; 8 or 16 bits are read")
    mode = MODES[channels]
    if image.mode == mode and (channels == 4 or not image.has_transparency_data):
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels < 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def eight_bits(pixels: Array, white: int) -> NDArray[np.uint8]:
    """16-bit pixels as 8-bit ones, `white` and above becoming 255."""
    scaled: NDArray[np.uint8] = np.clip(np.rint(pixels.astype(np.float32) * (255 / white)), 0, 255).astype(np.uint8)
    return scaled
