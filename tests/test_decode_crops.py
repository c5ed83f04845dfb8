"""Crops cut from the originals while they are decoded: the right pixels, the chance of the pipe, the same however they are read."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import goodfit
from goodfit.augment.crop import ResizedCrop, ScaleCrop, WindowCrop, find_early_crop
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.parts import pipe_parts
from goodfit.data import crops
from goodfit.data.crops import OriginalCrops, decode_window
from goodfit.data.dataset import Dataset, load_dataset
from goodfit.data.headers import read_headers
from goodfit.data.loader import LazyBatch, Loader
from goodfit.data.pack import CacheLimit
from goodfit.data.pixels import FilePixels, JpegPixels, RawPixels
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule
from goodfit.recipe.auto import choose_training
from goodfit.recipe.build import Training
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.early_crops import crop_early
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.step import Objective
from tests.support.build import build_training
from tests.support.runs import assert_equal_weights
from tests.support.runs import recipe as fast

CATALOG = Catalog(["goodfit.augment"])
RNG = np.random.default_rng(5)


def make_parts(text: str) -> tuple:
    return pipe_parts(CATALOG.make(text, "augment"))


def make_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with shapes and shades of every size, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for octave in range(2, 7):
        small = rng.uniform(-1, 1, (2**octave, 2**octave, 3)).astype(np.float32)
        planes = [np.asarray(Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC)) for c in range(3)]
        picture += np.stack(planes, axis=-1) * 0.6**octave
    return np.clip(128 + 220 * picture, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def triangle_weights(n: int, start: float, length: float, size: int) -> np.ndarray:
    """[size, n] float64: the triangle filter that reads `size` pixels from a stretch of n, as wide as the scale, and nothing beyond it."""
    scale = length / size
    middle = start + (np.arange(size) + 0.5) * scale - 0.5
    taps = np.clip(1 - np.abs(np.arange(n) - middle[:, None]) / max(1.0, scale), 0, None)
    taps[:, : int(start)] = taps[:, math.ceil(start + length) :] = 0
    return taps / taps.sum(1, keepdims=True)


def oracle(pixels: np.ndarray, window: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """The window (top, left, height, width, in pixels) of a picture [H, W, C] at `size`, in float64."""
    top, left, height, width = window
    down, across = triangle_weights(pixels.shape[0], top, height, size[0]), triangle_weights(pixels.shape[1], left, width, size[1])
    return np.einsum("ahc,ba->hbc", np.tensordot(down, pixels.astype(np.float64), 1).transpose(1, 0, 2), across)


def decode(data: bytes, mode: str = "RGB") -> np.ndarray:
    """Pillow's upright pixels [H, W, C]."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode)
    return np.asarray(image).reshape(image.height, image.width, -1)


def to_shares(window: tuple[float, ...], height: int, width: int) -> tuple[float, float, float, float]:
    return window[0] / height, window[1] / width, window[2] / height, window[3] / width


def preprocess_to(height: int, width: int, channels: int = 3) -> Preprocess:
    return Preprocess((height, width), (height, width), channels)


# ---- pixels --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(0, 0, 90, 120), (10, 20, 64, 48), (26, 72, 64, 48), (3, 5, 40, 100)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_of_whole_pixels_is_the_oracles(window: tuple[int, ...], channels: int) -> None:
    data = encode(make_photo(90, 120), "PNG")
    found = decode_window(data, to_shares(window, 90, 120), preprocess_to(32, 24, channels))
    wanted = oracle(decode(data, "L" if channels == 1 else "RGB"), window, (32, 24))
    assert found.shape == (32, 24, channels) and found.dtype == np.uint8
    assert np.abs(found - wanted).mean() < 0.4 and np.abs(found - wanted).max() < 1.5


@pytest.mark.parametrize(("side", "divisor"), [(200, 1), (330, 2), (600, 4), (1200, 8)])
def test_a_jpeg_is_decoded_at_the_scale_of_the_window(side: int, divisor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edges go to whole pixels of what is decoded, so the mean absolute difference to the exact window is up to 2 of 255."""
    height, width = round(1.2 * side), round(1.5 * side)
    data = encode(make_photo(height, width, side), "JPEG", quality=92)
    seen = []
    ours = crops.decode_jpeg
    monkeypatch.setattr(crops, "decode_jpeg", lambda *given, **named: seen.append(ours(*given, **named)) or seen[-1])
    window = (0.13 * side, 0.277 * side, 0.9 * side, 1.1 * side)
    found = decode_window(data, to_shares(window, height, width), preprocess_to(128, 128))
    assert seen[0][0].shape == (-(-height // divisor), -(-width // divisor), 3)
    assert np.abs(found - oracle(decode(data), window, (128, 128))).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "far"), [("JPEG", 2.0), ("PNG", 1.0)])
def test_a_window_is_of_the_upright_image(orientation: int, kind: str, far: float) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(make_photo(200, 300), kind, exif=exif.tobytes(), **({"quality": 95} if kind == "JPEG" else {}))
    upright = decode(data)
    assert upright.shape[:2] == ((300, 200) if orientation >= 5 else (200, 300))
    window = (20, 40, 130, 90)
    found = decode_window(data, to_shares(window, *upright.shape[:2]), preprocess_to(40, 30))
    assert np.abs(found - oracle(upright, window, (40, 30))).mean() < far


def test_a_window_that_is_enlarged_keeps_its_edges_between_pixels() -> None:
    data = encode(make_photo(9, 7), "PNG")
    window = (1.3, 0.4, 3.5, 5.1)
    found = decode_window(data, to_shares(window, 9, 7), preprocess_to(20, 24))
    theirs = Image.open(io.BytesIO(data)).resize((24, 20), Image.Resampling.BILINEAR, (0.4, 1.3, 5.5, 4.8))
    assert np.array_equal(found, np.asarray(theirs))
    wide = make_photo(60, 80)  # enlarged one way, shrunk the other
    theirs = Image.fromarray(wide).resize((24, 20), Image.Resampling.BILINEAR, (3, 2.3, 43, 7.8))
    assert np.array_equal(decode_window(wide, to_shares((2.3, 3, 5.5, 40), 60, 80), preprocess_to(20, 24)), np.asarray(theirs))
    tiny = encode(make_photo(1, 2), "PNG")
    assert decode_window(tiny, (0, 0, 1, 1), preprocess_to(16, 16)).shape == (16, 16, 3)


def test_other_kinds_of_images() -> None:
    pixels, window = make_photo(60, 80), (6, 8, 40, 60)
    part = to_shares(window, 60, 80)
    gray = encode(pixels[..., 0], "PNG")
    assert np.abs(decode_window(gray, part, preprocess_to(16, 16)) - oracle(decode(gray), window, (16, 16))).max() < 1.5  # gray among color
    assert np.abs(decode_window(pixels, part, preprocess_to(16, 16)) - oracle(pixels, window, (16, 16))).max() < 1.5  # an array
    deep = decode_window(pixels[..., 0].astype(np.uint16) * 257, part, preprocess_to(16, 16, 1))
    assert np.abs(deep - oracle(pixels[..., :1], window, (16, 16))).max() < 1.5
    clear = np.dstack([pixels, np.full((60, 80), 255, np.uint8)])
    clear[:30, :, 3] = 0
    found = decode_window(encode(clear, "PNG"), part, preprocess_to(16, 16, 4))
    assert found.shape == (16, 16, 4) and found[0, 0, 3] == 0 and found[-1, -1, 3] == 255
    theirs = Image.fromarray(clear).resize((16, 16), Image.Resampling.BILINEAR, (8, 6, 68, 46))
    assert np.array_equal(found, np.asarray(theirs))
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG", quality=95)
    found = decode_window(cmyk.getvalue(), part, preprocess_to(16, 16))
    assert np.abs(found - oracle(decode(cmyk.getvalue()), window, (16, 16))).max() < 1.5


# ---- windows -------------------------------------------------------------------------------------------------------------------


def draw_windows(part: WindowCrop, extents: torch.Tensor, pre: Preprocess, n: int = 0) -> torch.Tensor:
    return part.draw_windows(
        Chance.of(n, torch.arange(len(extents)), "x"), extents.double(), pre.center_windows(extents.double()), pre.size
    )


def test_windows_lie_inside_with_their_area_and_ratio() -> None:
    extents = torch.tensor([[300, 400], [400, 300], [100, 900], [900, 100], [7, 5]]).repeat(400, 1)
    top, left, height, width = draw_windows(ResizedCrop(area=(0.3, 0.8)), extents, preprocess_to(32, 32)).unbind(1)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= extents[:, 0] + 1e-9).all() and (left + width <= extents[:, 1] + 1e-9).all()
    share = height * width / extents.double().prod(1)
    usual = (extents.double().max(1).values / extents.double().min(1).values) < 2
    rounded = 1 / torch.minimum(width, height)  # of large windows, which are of whole pixels
    assert (share[usual] >= (0.3 * (1 - rounded))[usual]).all() and (share <= 0.8 * (1 + rounded)).all()
    assert ((width / height) >= 0.75 * (1 - rounded)).all() and ((width / height) <= 4 / 3 * (1 + rounded)).all()
    assert abs(share[usual].mean() - 0.55) < 0.02


@pytest.mark.item("S117")
def test_scale_crops_windows_are_resnets() -> None:
    """The short side resized to L in [256, 480], then 224 pixels of it: in the original 224 / L of its short side, in the model's shape."""
    extents = torch.tensor([[300, 400], [900, 250]]).repeat(500, 1)
    top, left, height, width = draw_windows(ScaleCrop(), extents, preprocess_to(224, 224)).unbind(1)
    short = 224 * extents.double().amin(1) / height
    assert torch.equal(height, height.round()) and torch.equal(height, width)
    assert short.min() >= 255 and short.max() <= 482 and abs(short.mean() - 368) < 8
    assert (top >= 0).all() and (left + width <= extents[:, 1] + 1e-9).all() and (top + height <= extents[:, 0] + 1e-9).all()


@pytest.mark.parametrize("part", [ResizedCrop(), ResizedCrop(area=(0.5, 0.9), p=0.6), ScaleCrop(), ScaleCrop(p=0.5)])
def test_windows_are_those_of_the_part_on_whole_images(part: WindowCrop) -> None:
    """A pixel's middle at output + 0.5 lies at start + (output + 0.5) * scale of the image."""
    pre, extents = preprocess_to(32, 24), torch.tensor([[90, 120]]).repeat(64, 1).double()
    chance, middle = Chance.of(3, torch.arange(64), "x"), torch.tensor([29.0, 48.0, 32.0, 24.0], dtype=torch.float64).expand(64, 4)
    windows = part.draw_windows(chance, extents, middle, pre.size)
    matrix = part.draw(chance, 0.0, (90, 120), (32, 24)).matrix
    for start, side, axis, n in ((0, 2, 1, 32), (1, 3, 0, 24)):
        scale = matrix[:, axis, axis]
        assert torch.allclose(scale * n, windows[:, side])
        assert torch.allclose(matrix[:, axis, 2] + 0.5 - scale / 2, windows[:, start])
    share = float((windows == middle).all(1).double().mean())
    assert abs(share - (1 - part.p)) < 0.2 and (share == 0) == (part.p == 1)  # type: ignore[attr-defined]


def test_a_windows_draw_is_its_own_images() -> None:
    extents = torch.from_numpy(RNG.integers(5, 3000, (67, 2)))
    for part in (ResizedCrop(area=(0.1, 1.0), p=0.8), ScaleCrop(p=0.8)):
        whole = draw_windows(part, extents, preprocess_to(32, 24))
        for n in (1, 2, 3, 16, 33):
            assert torch.equal(whole[:n], draw_windows(part, extents[:n], preprocess_to(32, 24)))


@pytest.mark.parametrize(("height", "width"), [(200, 300), (300, 200), (20, 31)])
def test_the_middle_is_what_evaluation_sees(height: int, width: int) -> None:
    pre, pixels = Preprocess((28, 28), (32, 32)), make_photo(height, width)
    window = pre.center_windows(torch.tensor([[height, width]], dtype=torch.float64))[0]
    found = decode_window(pixels, to_shares(window.tolist(), height, width), pre)
    seen = pre.center_crop(torch.from_numpy(pre.decode(pixels).copy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    assert np.abs(found.astype(float) - seen.numpy()).mean() < 3  # other filters


def test_a_crop_behind_flips_alone_is_cut_early() -> None:
    found = {
        text: find_early_crop(make_parts(text))
        for text in ("resized_crop", "flip | resized_crop | jitter", "crop | resized_crop", "flip", "none")
    }
    assert [found[text] and found[text][1] for text in found] == [0, 1, None, None, None]
    assert find_early_crop(make_parts("flip | scale_crop"))[1] == 1  # type: ignore[index]
    for text in ("erase | resized_crop", "jitter | resized_crop", "ramp(resized_crop)"):
        assert find_early_crop(make_parts(text)) is None


# ---- training batches ----------------------------------------------------------------------------------------------------------

SIZE = (24, 32)
PIPE = "resized_crop(area=(0.25, 1.0)) | flip | jitter(0.2)"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several sizes and kinds in two classes, of which some are smaller than the model's size."""
    root = tmp_path_factory.mktemp("mixed") / "pictures"
    for k in range(36):
        folder = root / ("a", "b")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = (12, 15) if k % 9 == 8 else (60 + 7 * (k % 5), 90 - 5 * (k % 4))
        pixels = make_photo(height, width, k)
        pixels[..., k % 2] //= 2
        exif = Image.Exif()
        exif[0x0112] = 1 + k % 8
        if k % 3:
            (folder / f"{k}.jpg").write_bytes(encode(pixels, "JPEG", quality=90, exif=exif.tobytes()))
        else:
            (folder / f"{k}.png").write_bytes(encode(pixels[..., 0] if k % 2 else pixels, "PNG"))
    return root


def load_folder(folder: Path, storage: str = "files", workers: int = 2, aspect: str = "crop") -> Dataset:
    return load_dataset(read_headers(index_images(str(folder))), SIZE, aspect, SplitRule(0.2, 0), CacheLimit(1 << 30, storage), workers)  # type: ignore[arg-type]


def make_loader(data: Dataset, text: str = PIPE, batch: int = 8, workers: int = 1) -> tuple[Loader, Pipeline]:
    pixels, position = crop_early(make_parts(text), data, 7)
    assert isinstance(pixels, OriginalCrops)
    return Loader(pixels, data.labels, data.rows("train"), 2, batch, 7, workers), Pipeline(make_parts(text), SIZE, position)


def test_the_crops_are_those_the_pipe_would_have_drawn(pictures: Path) -> None:
    """On the whole original the pipe gives the same image, to the rounding of the window's edges (a mean of 0.01 of 0..1)."""
    data = load_folder(pictures)
    source, behind = make_loader(data)
    differences = []
    for step in (0, 2, 5):
        batch, (epoch, places) = source.batch(step), source.places(step)
        assert batch.images.shape[1:] == (3, *SIZE) and batch.images.dtype == torch.uint8
        chance = Chance.of(7, places, "augment", epoch)
        ours = behind(batch, chance, 0.3).images
        for k, row in enumerate(batch.ids.tolist()):
            original = torch.from_numpy(decode((pictures / data.names[row]).read_bytes()).copy()).permute(2, 0, 1)[None]
            assert tuple(original.shape[2:]) == tuple(data.extents[row].tolist())
            if original.shape[2] >= SIZE[0] and original.shape[3] >= SIZE[1]:
                one = Batch(original, batch.targets[k : k + 1], batch.ids[k : k + 1])
                whole = Pipeline(make_parts(PIPE), SIZE)(one, Chance(chance.key, chance.places[k : k + 1]), 0.3).images
                differences.append(float((whole - ours[k : k + 1]).abs().mean()))
    assert len(differences) > 15 and np.mean(differences) < 0.01 and max(differences) < 0.03


@pytest.mark.parametrize("start", [0, 3, 7])
def test_batches_are_the_same_for_any_number_of_threads(pictures: Path, start: int) -> None:
    one = make_loader(load_folder(pictures, workers=1))[0]
    truth = [one.batch(step) for step in range(start, start + 6)]
    for workers in (0, 1, 4):
        stream = make_loader(load_folder(pictures, workers=3), workers=workers)[0].stream(start)
        for wanted, found in zip(truth, itertools.islice(stream, 6), strict=True):
            assert torch.equal(wanted.images, found.images) and torch.equal(wanted.ids, found.ids)
            assert torch.equal(wanted.targets, found.targets)


def test_windows_change_with_the_epoch_and_not_with_the_batch_size(pictures: Path) -> None:
    data = load_folder(pictures)
    eights, threes = make_loader(data)[0], make_loader(data, batch=3)[0]
    images = [torch.cat([one.batch(k).images for k in range(one.epoch_steps)]) for one in (eights, threes)]
    assert torch.equal(*images)
    everything = make_loader(data, batch=len(data.splits.train))[0]  # keeps its order, not its crops
    first, second = everything.batch(0), everything.batch(1)
    assert torch.equal(first.ids, second.ids) and not torch.equal(first.images, second.images)


def test_a_batch_that_is_read_piece_by_piece_is_the_same(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_loader(load_folder(pictures), batch=12)[0]
    whole = source.batch(3)
    monkeypatch.setattr("goodfit.data.loader.MAX_EAGER_BYTES", 1)
    unread = source.batch(3)
    assert isinstance(unread, LazyBatch) and unread.images.device.type == "meta" and unread.images.shape == whole.images.shape
    for rows in (slice(0, 5), slice(5, 12), slice(None)):
        assert torch.equal(unread[rows].images, whole.images[rows]) and torch.equal(unread[rows].targets, whole.targets[rows])


def test_only_originals_that_are_cropped_to_the_models_shape_are_cut(pictures: Path) -> None:
    for storage, kind in (("raw", RawPixels), ("jpeg", JpegPixels), ("files", FilePixels)):
        data = load_folder(pictures, storage)
        assert type(data.pixels) is kind
        pixels, position = crop_early(make_parts(PIPE), data, 0)
        assert (pixels is data.pixels) == (storage != "files") and position == (0 if storage == "files" else None)
    for aspect in ("pad", "stretch"):
        data = load_folder(pictures, aspect=aspect)
        assert crop_early(make_parts(PIPE), data, 0) == (data.pixels, None)
    data = load_folder(pictures)
    assert crop_early(make_parts("flip | crop(2)"), data, 0) == (data.pixels, None)


def test_evaluation_stays_as_it_is(pictures: Path) -> None:
    raw, files = load_folder(pictures, "raw"), load_folder(pictures, "files")
    rows = raw.rows("validation")
    assert torch.equal(raw.pixels.read_exact(rows), files.pixels.read_exact(rows)) and raw.digest == files.digest


# ---- from a recipe -------------------------------------------------------------------------------------------------------------


def build_recipe(folder: Path, **words: str) -> Training:
    asked = fast(data=str(folder), size="24x32", channels="3", augment=PIPE, average="none", **words)
    data = open_images(asked)
    chooser = Chooser(asked, load_catalog())
    choose_training(chooser, data)
    return build_training(chooser.recipe, data)


def test_a_step_in_pieces_has_the_same_images(pictures: Path) -> None:
    whole = build_recipe(pictures, storage="files", batch_size="20")
    cut_up = build_recipe(pictures, storage="files", batch_size="20", pieces="2")
    assert isinstance(whole.loader.pixels, OriginalCrops) and whole.plan.augment.early_crop == 0  # type: ignore[attr-defined]
    images = []
    for one in (whole, cut_up):
        objective = Objective(one.state, one.loader.batch(1), one.plan, 0.5)
        images.append(torch.cat([piece.images for piece in objective.pieces()]))
    assert torch.equal(*images)


def test_training_from_files_is_the_same_twice_and_after_a_resume(pictures: Path, tmp_path: Path) -> None:
    words = {
        "size": "24x32",
        "storage": "files",
        "augment": f"flip | {PIPE.replace(' | flip', '')}",
        "batch_size": "8",
        "budget": "3 epochs",
    }
    first = goodfit.train(pictures, fast(**words), out=tmp_path / "a", quiet=True)
    second = goodfit.train(pictures, fast(**words, workers="4"), out=tmp_path / "b", quiet=True)
    assert_equal_weights(first.path, second.path)
    words["schedule"] = "constant"
    straight = goodfit.train(pictures, fast(**words), out=tmp_path / "c", quiet=True)
    goodfit.train(pictures, fast(**{**words, "budget": "5 steps"}), out=tmp_path / "d", quiet=True)
    resumed = goodfit.train(pictures, fast(**words), out=tmp_path / "d", resume="auto", quiet=True)
    assert len(resumed.log("train")) == len(straight.log("train")) > 5
    assert [row["loss"] for row in resumed.log("train")] == [row["loss"] for row in straight.log("train")]
    assert_equal_weights(straight.path, resumed.path)
    raw = goodfit.train(pictures, fast(**{**words, "storage": "raw"}), out=tmp_path / "e", quiet=True)
    assert [row["loss"] for row in raw.log("train")] != [row["loss"] for row in straight.log("train")]


def test_a_storage_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="storage"):
        Recipe().but_text({"storage": "tape"})
