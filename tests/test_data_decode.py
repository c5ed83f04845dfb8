"""Every format becomes the pixels Pillow gives, upright, at the right size; broken images give a reason."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from goodfit.core.errors import DataError, UsageError
from goodfit.data.dataset import load_dataset
from goodfit.data.headers import read_headers
from goodfit.data.multiscale import decode_scaled
from goodfit.data.opening import BrokenImage, read_jpeg_layout
from goodfit.data.pack import CacheLimit
from goodfit.data.preprocess import Preprocess, choose_box_size
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule
from goodfit.data.store import FileStore
from tests.support.laws import holds_for


def smooth_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture without fine detail, different at each corner and in each channel."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    planes = [127 + 120 * np.sin(3 * x + 2 * k) * np.cos(2 * y + k) for k in range(channels)]
    image = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return image if channels > 1 else image[:, :, 0]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def preprocess_to(height: int, width: int, channels: int = 3, **options: object) -> Preprocess:
    return Preprocess((height, width), (height, width), channels, **options)


# ---- formats against Pillow ----------------------------------------------------------------------------------------------------


MODES = {  # what Pillow can write
    "JPEG": "L RGB 1 CMYK",
    "PNG": "L RGB P 1 RGBA LA",
    "WEBP": "L RGB P 1 CMYK RGBA LA PA",
    "BMP": "L RGB P 1 RGBA",
    "GIF": "L RGB P 1 RGBA LA",
    "TIFF": "L RGB P 1 CMYK RGBA LA PA",
    "PPM": "L RGB 1 RGBA",
}
OPTIONS: dict[str, dict[str, object]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}


@holds_for({f"{kind} {mode}": (kind, mode) for kind, modes in MODES.items() for mode in modes.split()})
def test_formats_equal_pillow(kind: str, mode: str) -> None:
    image = Image.fromarray(smooth_image(20, 30, 4), "RGBA")
    image = image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode)
    data = encode(image, kind, **OPTIONS.get(kind, {}))
    theirs = Image.open(io.BytesIO(data))
    if theirs.has_transparency_data:
        theirs = theirs.convert("RGBA")
        theirs = Image.alpha_composite(Image.new("RGBA", theirs.size, "white"), theirs)
    close = 3 if kind == "JPEG" else 0  # two decoders may round differently
    for channels, wanted in ((1, "L"), (3, "RGB")):
        ours = preprocess_to(20, 30, channels).decode(data)
        oracle = np.asarray(theirs.convert(wanted)).reshape(20, 30, channels)
        assert ours.dtype == np.uint8 and ours.shape == oracle.shape
        assert np.abs(ours.astype(int) - oracle).max() <= close


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_kept_when_wanted(kind: str) -> None:
    pixels = smooth_image(9, 12, 4)
    pixels[..., 3] = np.maximum(pixels[..., 3], 1)  # WebP may change the color of what is invisible
    data = encode(Image.fromarray(pixels, "RGBA"), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.array_equal(preprocess_to(9, 12, 4).decode(data), pixels)
    gray = preprocess_to(9, 12, 4).decode(encode(Image.fromarray(smooth_image(9, 12, 1)), kind))
    assert (gray[..., 3] == 255).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "array", "palette"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(20, 30), (10, 15)])
def test_alpha_that_nobody_filled_leaves_the_colors(form: str, channels: int, size: tuple[int, int]) -> None:
    """0 everywhere: the picture is neither blank white nor, resized with its alpha, black."""
    pixels = smooth_image(20, 30, 4)
    pixels[..., 3] = 0
    opaque = Image.fromarray(pixels[..., :3].copy())
    source: object = pixels
    if form == "palette":
        source = encode(opaque.quantize(8), "PNG", transparency=bytes(8))
        opaque = opaque.quantize(8).convert("RGB")
    elif form == "BMP":
        source = bmp_with_alpha(pixels)
    elif form != "array":
        source = encode(Image.fromarray(pixels), form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    oracle = preprocess_to(*size, channels).decode(np.asarray(opaque))
    assert np.array_equal(preprocess_to(*size, channels).decode(source), oracle)


def bmp_with_alpha(pixels: np.ndarray) -> bytes:
    """A BMP with masks for four channels, as screen shots have it."""
    height, width = pixels.shape[:2]
    body = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    info = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    info += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (preprocess_to(8, 8, 1).decode(data) == 10).all()


@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_16_bits_are_scaled_by_the_white_that_is_said(white: int) -> None:
    values = np.linspace(0, white, 64).astype(np.uint16).reshape(8, 8)
    oracle = np.rint(values.astype(float) * 255 / white)
    for source in (encode(Image.fromarray(values), "PNG"), encode(Image.fromarray(values), "TIFF"), values):
        assert np.abs(preprocess_to(8, 8, 1, white_level=white).decode(source)[..., 0] - oracle).max() <= (1 if white < 65535 else 0)
        assert preprocess_to(8, 8, 3, white_level=white).decode(source).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("int32", 0, 2_000_000_000), ("int32", -5, 300), ("uint16", 0, 5000), ("int32", 0, 4096)]
)
def test_values_that_would_be_clipped_are_refused(dtype: str, low: int, high: int) -> None:
    values = np.linspace(low, high, 64).astype(dtype).reshape(8, 8)
    image = Image.fromarray(values)
    reason = rf"its values go from {low} to {high}, but white is 4095"
    for source in (encode(image, "TIFF"), image, *([values] if dtype == "uint16" else [])):
        for decode in (preprocess_to(8, 8, white_level=4095).decode, lambda x: decode_scaled(preprocess_to(8, 8, white_level=4095), x, 8)):
            with pytest.raises(BrokenImage, match=reason):
                decode(source)


@pytest.mark.parametrize(("kind", "dtype"), [("TIFF", np.int32), ("TIFF", np.uint16), ("PNG", np.uint16)])
def test_8_bits_in_wider_numbers_keep_their_values(tmp_path: Path, kind: str, dtype: type) -> None:
    pixels = smooth_image(8, 8, 1)
    images = {f"{c}/0.{kind.lower()}": encode(Image.fromarray(pixels.astype(dtype)), kind) for c in "ab"}
    data = load_dataset(
        read_headers(index_images(str(write_files(tmp_path, images)))), (8, 8), "crop", SplitRule(0.0, 0), CacheLimit(1 << 20)
    )
    assert np.array_equal(data.pixels.read_exact(np.arange(2)).numpy()[..., 0], [pixels, pixels])


def test_the_white_level_is_that_of_all_arrays(tmp_path: Path) -> None:
    """Also of more arrays than files would be sampled, of which only one is bright."""
    images = np.full((600, 2, 2), 900, np.uint16)
    images[1] = 4000
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(600) % 2)
    assert read_headers(index_images(str(tmp_path / "d.npz"))).white_level == 4095


def test_16_bit_rgb_png() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    ours = preprocess_to(6, 5).decode(png_file(5, 6, 16, 2, zlib.compress(rows)))
    assert np.abs(ours.astype(int) - values / 257).max() <= 1


def png_file(width: int, height: int, bits: int, color: int, content: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


# ---- which way is up -----------------------------------------------------------------------------------------------------------


@holds_for({str(case): case for case in itertools.product(("JPEG", "PNG", "WEBP", "TIFF"), range(1, 9), ("crop", "pad", "stretch"))})
def test_orientation_is_applied_as_pillow_does(kind: str, orientation: int, aspect: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker whose name comes first"
    exif[0x0112] = orientation
    data = encode(Image.fromarray(smooth_image(80, 48)), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    upright = encode(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), "PNG")
    oracle = preprocess_to(20, 16, aspect=aspect).decode(upright).astype(int)
    ours = preprocess_to(20, 16, aspect=aspect).decode(data).astype(int)
    assert np.abs(ours - oracle).max() <= 6 and np.abs(ours - oracle).mean() < 1.0
    if orientation > 1:
        wrong = preprocess_to(20, 16, aspect=aspect).decode(encode(Image.fromarray(smooth_image(80, 48)), "PNG")).astype(int)
        assert np.abs(wrong - oracle).max() > 30  # the picture can tell the eight apart


def test_a_thread_that_remembers_the_last_header_reads_each_images_own() -> None:
    """Of two images in turn, alike up to some byte of the header, and of one that ends within it."""
    exif = {k: Image.Exif() for k in (1, 6)}
    for k, tags in exif.items():
        tags[0x0112] = k
    wide, tall = smooth_image(80, 48), smooth_image(48, 80)
    files = [encode(Image.fromarray(x), "JPEG", exif=exif[k], quality=q) for x in (wide, tall) for k in (1, 6) for q in (80, 95)]
    files += [encode(Image.fromarray(wide[..., 0]), "JPEG"), files[0][:300], files[0]]
    alone = [in_new_thread(lambda file=file: read_jpeg_layout(file)) for file in files]
    assert [read_jpeg_layout(file) for file in files] == alone
    assert alone[-1] == (48, 80, "YCbCr", 1) and alone[-2] is None and len(set(alone)) == 6
    assert [read_jpeg_layout(file) for file in reversed(files)] == alone[::-1]


def in_new_thread(function: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_damaged_exif_does_not_matter() -> None:
    data = encode(Image.fromarray(smooth_image(8, 8)), "JPEG")
    for block in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        assert preprocess_to(8, 8).decode(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]).shape == (8, 8, 3)


# ---- geometry ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 160), (400, 533), (533, 400), (37, 41)])
@pytest.mark.parametrize("box", [(32, 32), (24, 40), (73, 60)])
def test_crop_is_pillows_fit(size: tuple[int, int], box: tuple[int, int]) -> None:
    image = Image.fromarray(smooth_image(*size))
    oracle = np.asarray(ImageOps.fit(image, box[::-1], Image.Resampling.BICUBIC)).astype(int)
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 98, "subsampling": 0})):
        ours = preprocess_to(*box).decode(encode(image, kind, **options)).astype(int)
        assert np.abs(ours - oracle).max() <= 4, kind


def test_scaled_jpeg_is_not_shifted() -> None:
    """Sizes that no power of two divides: the last partial pixels must not move the picture, which on a ramp would change its mean."""
    for across in (True, False):
        ramp = np.linspace(0, 255, 401).astype(np.uint8)
        image = Image.fromarray(np.tile(ramp, (401, 1)) if across else np.tile(ramp[:, None], (1, 401)))
        data = encode(image, "JPEG", quality=98)
        oracle = np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC)).astype(int)
        assert abs((preprocess_to(48, 48, 1).decode(data)[..., 0].astype(int) - oracle).mean()) < 0.25


def test_pad_keeps_the_whole_image_on_black() -> None:
    pixels = np.full((40, 20, 3), 200, dtype=np.uint8)
    ours = preprocess_to(16, 16, aspect="pad").decode(pixels)
    assert (ours[:, 4:12] == 200).all() and not ours[:, :4].any() and not ours[:, 12:].any()


def test_stretch_uses_all_of_it() -> None:
    pixels = np.zeros((10, 40, 3), dtype=np.uint8)
    pixels[:, 20:] = 255
    ours = preprocess_to(8, 8, aspect="stretch").decode(pixels)
    assert not ours[:, :3].any() and (ours[:, 5:] == 255).all()


def test_sources_of_one_picture_agree(tmp_path: Path) -> None:
    pixels = smooth_image(30, 20)
    data = encode(Image.fromarray(pixels), "PNG")
    (tmp_path / "x.png").write_bytes(data)
    here = preprocess_to(12, 12)
    first = here.decode(data)
    for source in (tmp_path / "x.png", str(tmp_path / "x.png"), pixels, pixels.astype(np.float32) / 255, Image.open(tmp_path / "x.png")):
        assert np.array_equal(here.decode(source), first)


def test_box_leaves_room_only_where_there_are_pixels() -> None:
    assert choose_box_size((224, 224), "crop", np.array([300, 400]), np.array([256, 256])) == (256, 256)
    assert choose_box_size((224, 224), "crop", np.array([300, 400]), np.array([255, 255])) == (224, 224)
    assert choose_box_size((28, 28), "crop", np.full(3, 32), np.full(3, 32)) == (32, 32)
    assert choose_box_size((32, 32), "crop", np.full(3, 32), np.full(3, 32)) == (32, 32)
    assert choose_box_size((64, 32), "crop", np.full(3, 100), np.full(3, 100)) == (73, 37)
    assert choose_box_size((64, 64), "pad", np.full(3, 100), np.full(3, 100)) == (64, 64)


def test_center_is_a_view_of_the_middle() -> None:
    images = torch.arange(2 * 3 * 9 * 8).view(2, 3, 9, 8)
    middle = Preprocess((5, 4), (9, 8)).center_crop(images)
    assert torch.equal(middle, images[:, :, 2:7, 2:6]) and middle.data_ptr() == images[:, :, 2:, 2:].data_ptr()


# ---- numbers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S007")
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["stored", "contiguous", "float", "view"])
def test_normalize_is_the_formula(channels: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (5, 7, 6, channels), dtype=np.uint8)).permute(0, 3, 1, 2)
    mean, std = tuple(rng.random(channels).tolist()), tuple((0.1 + rng.random(channels)).tolist())
    images = {"stored": pixels, "contiguous": pixels.contiguous(), "float": pixels.float() / 255, "view": pixels[:, :, 1:6, 2:]}[kind]
    before = images.clone()
    ours = Preprocess((7, 6), (7, 6), channels, mean=mean, std=std).normalize(images)
    values = images.double().numpy() / (1 if kind == "float" else 255)
    oracle = (values - np.array(mean).reshape(1, -1, 1, 1)) / np.array(std).reshape(1, -1, 1, 1)
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(ours.double().numpy() - oracle).max() < 2e-6
    assert torch.equal(images, before)


def test_dict_round_trip() -> None:
    here = Preprocess((64, 96), (73, 110), 4, "pad", 4095, (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 1.0))
    content = here.to_dict()
    assert content["input_size"] == [4, 64, 96] and {"mean", "std", "crop_pct", "interpolation"} <= content.keys()
    assert Preprocess.from_dict(content) == here
    with pytest.raises(UsageError, match="box_size"):
        Preprocess.from_dict({"input_size": [3, 1, 1], "crop_mode": "center"})


# ---- broken images and headers -------------------------------------------------------------------------------------------------


def test_broken_images_are_named_with_their_reason(tmp_path: Path) -> None:
    whole = encode(Image.fromarray(smooth_image(200, 200)), "JPEG")
    cases = {
        "text.jpg": (b"this is text", "not an image"),
        "empty.png": (b"", "not an image"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut.png": (encode(Image.fromarray(smooth_image(60, 60)), "PNG")[:400], ""),
        "bomb.png": (png_file(30_000, 30_000, 8, 2, b""), "million pixels"),
        "float.tif": (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImage, match=name) as caught:
            preprocess_to(16, 16).decode(tmp_path / name)
        assert reason in caught.value.reason and isinstance(caught.value, DataError)
    with pytest.raises(BrokenImage, match="No such file"):
        preprocess_to(16, 16).decode(tmp_path / "none.jpg")
    with pytest.raises(BrokenImage, match="found \\[2, 3, 4, 5\\]"):
        preprocess_to(16, 16).decode(np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.raises(BrokenImage, match="complex"):
        preprocess_to(16, 16).decode(np.zeros((4, 4), complex))


def write_files(root: Path, images: dict[str, bytes]) -> Path:
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_read_headers(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = write_files(
        tmp_path / "d",
        {
            "a/0.jpg": encode(Image.fromarray(smooth_image(20, 30)), "JPEG", exif=exif),
            "a/1.jpg": encode(Image.fromarray(smooth_image(20, 30, 1)), "JPEG"),
            "a/2.png": encode(Image.fromarray(smooth_image(20, 30, 4)), "PNG"),
            "b/3.png": encode(Image.fromarray(np.full((20, 30), 900, np.uint16)), "PNG"),
            "b/4.jpg": b"text",
            "b/5.png": png_file(30_000, 30_000, 8, 2, b""),
        },
    )
    for _ in range(2):  # the second time from the cache
        found = read_headers(index_images(str(root)))
        assert found.widths.tolist() == [20, 30, 30, 30, 0, 0] and found.heights.tolist() == [30, 20, 20, 20, 0, 0]
        assert found.channels.tolist() == [3, 1, 4, 1, 0, 0] and found.bits.tolist() == [8, 8, 8, 16, 0, 0]
        assert sorted(found.broken) == [4, 5] and "not an image" in found.broken[4] and "bomb" in found.broken[5]
        assert found.white_level == 1023 and found.model_channels == 3
        assert any("mixed" in note for note in found.notes) and any("1023" in note for note in found.notes)


def test_headers_of_one_kind(tmp_path: Path) -> None:
    gray = {f"{c}/{k}.png": encode(Image.fromarray(smooth_image(8, 8, 1)), "PNG") for c in "ab" for k in range(2)}
    alpha = {f"{c}/{k}.png": encode(Image.fromarray(smooth_image(8, 8, 4)), "PNG") for c in "ab" for k in range(2)}
    assert read_headers(index_images(str(write_files(tmp_path / "g", gray)))).model_channels == 1
    assert read_headers(index_images(str(write_files(tmp_path / "a", alpha)))).model_channels == 4


def test_headers_with_every_file_broken(tmp_path: Path) -> None:
    root = write_files(tmp_path / "d", {f"{c}/{k}.jpg": b"text" for c in "ab" for k in range(2)})
    with pytest.raises(DataError, match=r"All 4 images are broken; the first, a/0\.jpg"):
        read_headers(index_images(str(root)))


def test_a_file_that_cannot_be_read_is_broken(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_images(str(photos), limit=7)  # rows of its own, so that no earlier headers are found
    own = FileStore._open

    def locked(store: FileStore, row: int) -> object:
        if row == index.store.rows[3]:
            raise PermissionError(13, "Permission denied")
        return own(store, row)

    monkeypatch.setattr(FileStore, "_open", locked)
    assert read_headers(index).broken == {3: "it cannot be read (Permission denied)"}
    monkeypatch.undo()
    assert not read_headers(index_images(str(photos), limit=7)).broken  # readable again, though no time changed
