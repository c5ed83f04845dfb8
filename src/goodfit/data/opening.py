"""Opens images: which can be read, how large they may be, and what their headers say; nothing is decoded yet."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError, _imaging

from goodfit.core.errors import DataError, GoodfitError, UsageError, first_line
from goodfit.data.files import read_file
from goodfit.data.orientation import get_upright_size, orient_size, scan_jpeg_header, tells_orientation_late
from goodfit.data.store import Array

Image.init()
# Pillow warns of oddities, logs them, and libtiff prints them; where a picture cannot be read it raises all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
with contextlib.suppress(AttributeError, OSError):  # libtiff cannot be reached through Pillow everywhere
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # of one text: as many bytes as of all together

OPTIONAL_SUFFIXES = {".avif", ".heic", ".heif", ".jp2", ".jxl"}  # Pillow reads them as it is built, or with a plugin
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff")) | frozenset(
    (".ppm", ".pgm", ".pbm", ".pnm", *OPTIONAL_SUFFIXES.intersection(Image.EXTENSION))
)
REFUSED_FORMATS = {"EPS"}  # a program, which Pillow would have Ghostscript run
MAX_PIXELS, MAX_PIXELS_VARIABLE = 250_000_000, "GOODFIT_MAX_PIXELS"  # more than the largest phones take is never decoded
JPEG_MAGIC, JPEG_HEADER_BYTES = b"\xff\xd8\xff", 1 << 16
UNREADABLE = "it cannot be read"
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
DECODER_VERSIONS = f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"  # others may give other pixels
_thread_local = threading.local()

ImageContent = bytes | NDArray[Any] | Image.Image
ImageSource = ImageContent | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


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
        check_size(source.shape[1], source.shape[0])
        return Header(source.shape[1], source.shape[0], channels, 16 if source.dtype == np.uint16 else 8)
    if (header := _read_jpeg_header(source)) is not None:
        return header
    with open_image(source) as image, explain_errors():
        if tells_orientation_late(image, source):
            image.load()
        has_16_bits = is_16_bit(image.mode)
        channels = 4 if image.has_transparency_data else 1 if image.mode in ("1", "L") or has_16_bits else 3
        return Header(*get_upright_size(image), channels, 16 if has_16_bits else 8)


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
        orientation, end = scan_jpeg_header(data)
        if not end:
            return None
        layout = JpegLayout(width, height, space, orientation)
        _thread_local.layout = data[:end], layout
    return layout


def open_image(file: BinaryIO) -> Image.Image:
    """Open a file with Pillow; its pixels are not read yet.

    Raises:
        BrokenImage: it is not an image, or has too many pixels.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels() // 2)  # Pillow refuses what has more than twice as many
    with explain_errors():
        image = Image.open(file, formats=[name for name in Image.ID if name not in REFUSED_FORMATS])
    check_size(*image.size)
    return image


@contextlib.contextmanager
def explain_errors() -> Iterator[None]:
    """Turn whatever Pillow raises, which is nearly anything on damaged data, into a BrokenImage; want of memory stays what it is."""
    try:
        yield
    except (MemoryError, GoodfitError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage("it is not an image, or its format is not supported") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(_explain_bomb()) from error
    except Exception as error:
        raise BrokenImage(explain_decode_error(error)) from error


@functools.cache
def max_pixels() -> int:
    """How many pixels an image may have: $GOODFIT_MAX_PIXELS as it is first found, else MAX_PIXELS.

    Raises:
        UsageError: the variable is not a whole number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if text and not text.isdecimal():
        raise UsageError(f'Expected {MAX_PIXELS_VARIABLE} to be a number of pixels, such as {MAX_PIXELS}, received "{text}".')
    return int(text) if text else MAX_PIXELS


def check_size(width: int, height: int) -> None:
    """Refuse images that are empty or far too large.

    Raises:
        BrokenImage: the image has no pixels, or more than `max_pixels`.
    """
    if width * height > max_pixels():
        raise BrokenImage(_explain_bomb(f"{width} x {height} is "))
    if width < 1 or height < 1:
        raise BrokenImage("it has no pixels")


def _explain_bomb(size: str = "") -> str:
    million = f"{max_pixels() / 1e6:g} million pixels"
    return f"{size}more than {million}, taken for a decompression bomb; set {MAX_PIXELS_VARIABLE} to read it all the same"


def explain_decode_error(error: Exception) -> str:
    """Turn an exception into the reason of a BrokenImage."""
    if isinstance(error, OSError) and error.strerror:
        return f"{UNREADABLE} ({error.strerror})"
    return f"it cannot be decoded ({first_line(error)})"


def is_16_bit(mode: str) -> bool:
    """Whether a Pillow mode holds 16-bit gray."""
    return mode == "I" or mode.startswith("I;16")


# ---- files ---------------------------------------------------------------------------------------------------------------------


def read_contents(source: Any) -> ImageContent:
    """Read a file, whether a path, open in binary mode or in memory, to bytes; return anything else as it is.

    Raises:
        BrokenImage: the file cannot be read.
        UsageError: it is open as text.
    """
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            return read_file(source)
        if not hasattr(source, "read"):
            content: ImageContent = source
            return content
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):
            source.seek(0)  # as Pillow does
        read = None if isinstance(source, io.TextIOBase) else source.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise BrokenImage(explain_decode_error(error), quote_path(source)) from error
    if not isinstance(read, bytes):
        raise UsageError(f'Expected a file that is open in binary mode, such as open(path, "rb"), received {source!r}.')
    return read


def quote_path(source: object) -> str:
    """A path in quotation marks; nothing for what is none."""
    return f'"{os.fspath(source)}"' if isinstance(source, (str, os.PathLike)) else ""
