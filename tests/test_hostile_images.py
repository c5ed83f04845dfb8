"""Files that are damaged, absurd or none at all: each is read as Pillow reads it, or broken with a reason, and nothing else is printed."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from goodfit.core.errors import UsageError
from goodfit.data.crops import decode_window
from goodfit.data.files import MAX_FILE_BYTES
from goodfit.data.headers import read_headers
from goodfit.data.multiscale import decode_scaled
from goodfit.data.opening import IMAGE_SUFFIXES, MAX_PIXELS_VARIABLE, BrokenImage, max_pixels, read_contents, read_header
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest has undone what `opening` does

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
IMAGE = Image.fromarray(PIXELS)
PREPROCESS = Preprocess((20, 30), (20, 30))


def save(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A black and white PNG without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(4) + b"IDAT5\xafq\x1e"


def jpeg_header(width: int, height: int) -> bytes:
    data = save("JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


# ---- damaged -------------------------------------------------------------------------------------------------------------------


WAYS_TO_READ: dict[str, Callable[[bytes], object]] = {
    "header": lambda data: read_header(io.BytesIO(data)),
    "decode": PREPROCESS.decode,
    "decode in color and alpha": Preprocess((9, 9), (9, 9), 4, "pad").decode,
    "window": lambda data: decode_window(data, (0.1, 0.1, 0.5, 0.5), PREPROCESS),
    "scaled": lambda data: decode_scaled(PREPROCESS, data, 20),
}
FRAMES = [IMAGE.rotate(90 * k) for k in (1, 2)]
DAMAGEABLE = {
    "jpeg": save("JPEG"),
    "png": save("PNG"),
    "apng": save("PNG", save_all=True, append_images=FRAMES),
    "png, palette": save("PNG", IMAGE.quantize(8), transparency=bytes([0, 9, 255])),
    "gif": save("GIF", save_all=True, append_images=FRAMES),
    "tiff": save("TIFF", compression="tiff_lzw", tiffinfo={0x0112: 6}),
    "tiff, 32 bits": save("TIFF", Image.fromarray(np.arange(600, dtype=np.int32).reshape(20, 30))),
    "webp": save("WEBP", save_all=True, append_images=FRAMES),
    "bmp": save("BMP"),
    "ppm": save("PPM"),
}


@pytest.mark.parametrize("kind", DAMAGEABLE)
def test_damage_is_a_broken_image_or_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are cut, or have bytes changed, most of them in the header."""
    monkeypatch.setattr("goodfit.data.opening.max_pixels", lambda: 10**6)  # so that no absurd size costs time
    chance, whole = np.random.default_rng(3), DAMAGEABLE[kind]
    reasons, n_read = set(), 0
    for k in range(40):
        data = bytearray(whole)
        for place in chance.integers(0, min(len(data), 400 if k % 2 else 60), 4):
            data[place] = chance.choice([0, 1, 127, 128, 255])
        data = data[: chance.integers(len(data))] if k % 4 == 0 else data
        for name, read in WAYS_TO_READ.items():
            try:
                read(bytes(data))
                n_read += 1
            except BrokenImage as error:
                assert error.reason, name
                reasons.add(error.reason)
    assert n_read and reasons


def test_postscript_is_not_run() -> None:
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(data)).format == "EPS"
    with pytest.raises(BrokenImage, match="not an image, or its format is not supported"):
        PREPROCESS.decode(data)


def test_long_texts_of_a_png_do_not_matter() -> None:
    """Neither one that Pillow takes for a bomb, nor XMP of that length, whose orientation counts."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 2_000_000, zip=True)
    assert np.array_equal(PREPROCESS.decode(save("PNG", pnginfo=info)), PIXELS)
    info.add_itxt("XML:com.adobe.xmp", 'tiff:Orientation="3"' + " " * 3_000_000, zip=True)
    assert np.array_equal(PREPROCESS.decode(save("PNG", pnginfo=info)), PIXELS[::-1, ::-1])


WITH_PILLOW = """
import io, sys
from PIL import Image
for data in eval(sys.stdin.read()):
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        pass
"""
WITH_GOODFIT = """
import io, sys
from goodfit.data.decode import decode_with_pillow
from goodfit.data.opening import BrokenImage, read_header
for data in eval(sys.stdin.read()):
    try:
        read_header(io.BytesIO(data))
        decode_with_pillow(data, 3, 65535)
    except BrokenImage:
        pass
"""


def test_nothing_of_pillow_is_printed() -> None:
    """Neither its warnings (of size, of EXIF, of texts), nor what it logs, nor what libtiff prints."""
    tiff = save("TIFF", compression="tiff_lzw")
    many_samples = save("TIFF", IMAGE.convert("L"), tiffinfo={277: 40})
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0"
    files = [
        png_header(10_000, 10_000),
        save("PNG", exif=exif),
        save("JPEG", IMAGE.convert("CMYK"), exif=exif),
        save("PNG", IMAGE.quantize(8), transparency=bytes(8)),
        tiff[:8] + bytes(60) + tiff[68:],
        many_samples,
    ]
    printed = [
        subprocess.run([sys.executable, "-c", code], input=repr(files), capture_output=True, text=True, check=True).stderr
        for code in (WITH_PILLOW, WITH_GOODFIT)
    ]
    assert all(word in printed[0] for word in ("DecompressionBombWarning", "UserWarning", "More samples", "code not yet in table")), (
        printed[0]
    )
    assert not printed[1]


# ---- too large -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_limit() -> Iterator[None]:
    max_pixels.cache_clear()
    yield
    max_pixels.cache_clear()


@pytest.mark.parametrize("kind", ["png", "jpeg", "array"])
def test_photos_of_phones_are_read_and_bombs_are_not(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = {"png": png_header, "jpeg": jpeg_header}

    def header(width: int, height: int) -> tuple[int, int]:
        source = np.broadcast_to(np.uint8(0), (height, width)) if kind == "array" else io.BytesIO(make[kind](width, height))
        found = read_header(source)
        return found.width, found.height

    assert header(12_000, 9_000) == (12_000, 9_000) and header(16_320, 12_240) == (16_320, 12_240)
    with pytest.raises(BrokenImage, match=rf"more than 250 million pixels.*set {MAX_PIXELS_VARIABLE}"):
        header(30_000, 30_000)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(10**9))
    max_pixels.cache_clear()
    assert header(30_000, 30_000) == (30_000, 30_000)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "10000")
    max_pixels.cache_clear()
    with pytest.raises(BrokenImage, match=r"200 x 100 is more than 0\.01 million pixels"):
        header(200, 100)


def test_the_limit_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("many", "-1", "1e9"):
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, text)
        with pytest.raises(UsageError, match=f'Expected {MAX_PIXELS_VARIABLE} to be a number of pixels, .* received "{text}"'):
            PREPROCESS.decode(save("PNG"))


def test_headers_are_read_anew_under_another_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png_header(100, 100 if name != "a/1.png" else 300))
    for limit, broken in ((20_000, [1]), (40_000, [])):
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(limit))
        max_pixels.cache_clear()
        assert sorted(read_headers(index_images(str(tmp_path))).broken) == broken


# ---- no files ------------------------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    cases = {
        "pipe.png": "not a regular file",
        "huge.png": "too large for an image",
        "/dev/zero": "not a regular file",
        ".": "Is a directory",
        "missing.png": "No such file",
        "null\0.png": "null",
    }
    for name, reason in cases.items():
        for source in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(BrokenImage, match=rf"it cannot be read \(.*{reason}"):
                PREPROCESS.decode(source)


def test_a_pipe_among_the_images_is_broken(tmp_path: Path) -> None:
    """Of a table, which may name anything."""
    (tmp_path / "good.png").write_bytes(save("PNG"))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "data.csv").write_text("path,label\ngood.png,a\npipe.png,a\ngood.png,b\n")
    assert read_headers(index_images(str(tmp_path / "data.csv"))).broken == {1: "it cannot be read (not a regular file)"}


def test_files_in_any_form_are_read(tmp_path: Path) -> None:
    path, data = tmp_path / "x.png", save("PNG")
    path.write_bytes(data)
    entry = next(iter(os.scandir(tmp_path)))
    for source in (path, str(path), entry, data, bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb")):
        assert read_contents(source) == data
    for text in (path.open(encoding="latin-1"), io.StringIO("text")):
        with pytest.raises(UsageError, match="open in binary mode"):
            read_contents(text)
    closed = path.open("rb")
    closed.close()
    with pytest.raises(BrokenImage, match="closed file"):
        read_contents(closed)


def test_suffixes_are_those_that_pillow_reads() -> None:
    assert {".jpg", ".png", ".tif", ".webp", ".pnm"} <= IMAGE_SUFFIXES
    assert (".avif" in IMAGE_SUFFIXES) == features.check("avif") and (".jp2" in IMAGE_SUFFIXES) == features.check("jpg_2000")
    assert {x for x in IMAGE_SUFFIXES if Image.registered_extensions().get(x) not in Image.OPEN} == set()
