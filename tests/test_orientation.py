"""Every way in gives the upright pixels and sides of Pillow's `ImageOps.exif_transpose`, wherever a format tells its orientation."""

from __future__ import annotations

import functools
import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from goodfit.data.crops import decode_window
from goodfit.data.multiscale import decode_scaled
from goodfit.data.opening import read_header
from goodfit.data.orientation import scan_jpeg_header
from goodfit.data.preprocess import Preprocess

HEIGHT, WIDTH = 24, 40  # as stored
STORED = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
SHORT, LONG = 3, 4


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int, kind: int = SHORT, order: str = "<") -> bytes:
    """An EXIF block with an entry before its orientation, and one behind it."""
    make = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"Cam\0")
    value = struct.pack(order + ("HHIHH" if kind == SHORT else "HHII"), 0x0112, kind, 1, orientation, *[0][: kind == SHORT])
    software = struct.pack(order + "HHI4s", 0x0131, 2, 4, b"Own\0")
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return b"Exif\0\0" + header + struct.pack(order + "H", 3) + make + value + software + bytes(4)


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def text(key: str, value: str, is_international: bool = False) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, value) if is_international else info.add_text(key, value, zip=True)
    return info


def move_behind_pixels(png: bytes, kind: bytes) -> bytes:
    start = png.index(kind) - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    return png[:start] + png[end:-12] + png[start:end] + png[-12:]


def raw_profile(orientation: int) -> str:
    block = exif(orientation)
    return f"\nexif\n{len(block):8}\n{block.hex()}\n"


def xmp_in_png(orientation: int) -> PngImagePlugin.PngInfo:
    return text("XML:com.adobe.xmp", xmp(orientation).decode(), True)


IMAGE = Image.fromarray(STORED)
jpeg = functools.partial(save, IMAGE, "JPEG", quality=95)
png = functools.partial(save, IMAGE, "PNG")
tiff = functools.partial(save, IMAGE, "TIFF")
PLACES: dict[str, Callable[[int], bytes]] = {
    "jpeg": lambda k: jpeg(exif=exif(k)),
    "jpeg, big-endian": lambda k: jpeg(exif=exif(k, order=">")),
    "jpeg, LONG": lambda k: jpeg(exif=exif(k, LONG)),
    "jpeg, LONG, big-endian": lambda k: jpeg(exif=exif(k, LONG, ">")),
    "jpeg, XMP": lambda k: jpeg(xmp=xmp(k)),
    "jpeg, XMP beside EXIF": lambda k: jpeg(xmp=xmp(9 - k), exif=exif(k)),
    "jpeg, gray": lambda k: save(IMAGE.convert("L"), "JPEG", exif=exif(k)),
    "jpeg, CMYK": lambda k: save(IMAGE.convert("CMYK"), "JPEG", exif=exif(k)),
    "jpeg, progressive": lambda k: jpeg(exif=exif(k), progressive=True),
    "jpeg, large EXIF and ICC": lambda k: jpeg(exif=exif(k) + bytes(60_000), icc_profile=bytes(150_000)),
    "mpo": lambda k: save(IMAGE, "MPO", exif=exif(k), save_all=True, append_images=[IMAGE.rotate(180)]),
    "png": lambda k: png(exif=exif(k)),
    "png, behind the pixels": lambda k: move_behind_pixels(png(exif=exif(k)), b"eXIf"),
    "png, raw profile": lambda k: png(pnginfo=text("Raw profile type exif", raw_profile(k))),
    "png, raw profile behind the pixels": lambda k: move_behind_pixels(png(pnginfo=text("Raw profile type exif", raw_profile(k))), b"zTXt"),
    "png, XMP": lambda k: png(pnginfo=xmp_in_png(k)),
    "png, XMP behind the pixels": lambda k: move_behind_pixels(png(pnginfo=xmp_in_png(k)), b"iTXt"),
    "webp": lambda k: save(IMAGE, "WEBP", lossless=True, exif=exif(k)),
    "webp, XMP": lambda k: save(IMAGE, "WEBP", lossless=True, xmp=xmp(k)),
    "tiff": lambda k: tiff(tiffinfo={0x0112: k}),
    "tiff, compressed": lambda k: tiff(tiffinfo={0x0112: k}, compression="tiff_lzw"),
    "tiff, XMP": lambda k: tiff(tiffinfo={700: xmp(k)}),
    "tiff, many pages": lambda k: tiff(tiffinfo={0x0112: k}, save_all=True, append_images=[IMAGE.rotate(180)]),
}
if features.check("avif"):
    PLACES["avif"] = lambda k: save(IMAGE, "AVIF", exif=exif(k))


def open_loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def file_at_end(data: bytes) -> io.BytesIO:
    file = io.BytesIO()
    file.write(data)
    return file


WAYS_IN: dict[str, Callable[[bytes, Path], object]] = {
    "path": lambda data, path: path,
    "bytes": lambda data, path: data,
    "bytearray": lambda data, path: bytearray(data),
    "file in memory, at its end": lambda data, path: file_at_end(data),
    "open file": lambda data, path: path.open("rb"),
    "Pillow image": lambda data, path: Image.open(io.BytesIO(data)),
    "Pillow image of a path": lambda data, path: Image.open(path),
    "Pillow image, loaded": lambda data, path: open_loaded(data),
    "Pillow image, copied": lambda data, path: Image.open(path).copy(),
    "array": lambda data, path: np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_way_in_is_upright(place: str, tmp_path: Path) -> None:
    is_jpeg = place.startswith(("jpeg", "mpo"))
    for orientation in range(1, 9):
        data, path = PLACES[place](orientation), tmp_path / f"{orientation}"
        path.write_bytes(data)
        truth = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
        sides = (WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH)
        assert truth.shape == (*sides, 3)
        header = read_header(io.BytesIO(data))
        assert (header.height, header.width) == sides
        preprocess, square = Preprocess(sides, sides, aspect="stretch"), Preprocess((8, 8), (8, 8))
        window = decode_window(data, (0, 0, 1, 1), preprocess)
        assert np.abs(window - truth).mean() <= (8 if is_jpeg else 0)  # of JPEGs it repeats subsampled colors
        for name, way in WAYS_IN.items():
            found = preprocess.decode(way(data, path))
            assert np.abs(found - truth).max() <= (3 if is_jpeg else 0), name  # two decoders of JPEG may round differently
            assert decode_scaled(square, way(data, path), HEIGHT).shape == (*sides, 3), name


def test_the_eight_differ() -> None:
    decode = Preprocess((32, 32), (32, 32), aspect="stretch").decode
    assert len({decode(PLACES["jpeg"](k)).tobytes() for k in range(1, 9)}) == 8


def insert_exif(file: bytes, block: bytes) -> bytes:
    return file[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + file[2:]


def test_the_fast_scan_reads_damaged_exif_as_pillow_does() -> None:
    """Bytes are changed at random, and blocks are cut, doubled and followed by others."""
    chance, plain = np.random.default_rng(1), jpeg()
    blocks = [exif(6, kind, order) for kind in (SHORT, LONG) for order in "<>"]
    seen = set()
    for _ in range(1500):
        block = bytearray(blocks[chance.integers(4)])
        for place in chance.integers(6, len(block), chance.integers(4)):
            block[place] = chance.choice([0, 1, 3, 6, 8, 12, 18, 255])
        block = block[: chance.choice([10, 30, 40, 60])] if chance.random() < 0.1 else block
        data = insert_exif(plain, bytes(block))
        data = insert_exif(data, blocks[0]) if chance.random() < 0.1 else data
        data = insert_exif(data, b"http://ns.adobe.com/xap/1.0/\0" + xmp(8)) if chance.random() < 0.3 else data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                theirs = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
            except Exception:
                theirs = 1
            orientation, end = scan_jpeg_header(data)
        assert orientation == (theirs if theirs in range(1, 9) else 1), data[:120]
        assert data[end - 2 : end] == b"\xff\xda"
        seen.add(orientation)
    assert {1, 6, 8} <= seen


@pytest.mark.parametrize("junk", [b"\xff\xd0", b"\xff\x01", b"\0\0", b"\xff\xbf\0\4\0\0"])
def test_an_odd_header_is_left_to_pillow(junk: bytes) -> None:
    data = PLACES["jpeg"](6)
    assert scan_jpeg_header(data[:2] + b"\xff\xff\xff" + data[3:]) == (6, scan_jpeg_header(data)[1] + 2), "padding is not odd"
    assert scan_jpeg_header(data[:2] + junk + data[2:]) == (1, 0)
