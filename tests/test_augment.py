"""Flips, crops and other geometry against NumPy, Pillow, torch and SciPy."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits

from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame
from goodfit.augment.crop import Crop, ResizedCrop, ScaleCrop
from goodfit.augment.flip import Flip
from goodfit.augment.geometry import Geometry
from goodfit.augment.mix import Mixup
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance
from goodfit.core.errors import DataError, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.recipe.auto import choose_augment
from goodfit.recipe.prepare import open_recipe
from goodfit.recipe.recipe import Recipe

NUMPY = {"reflect": "reflect", "edge": "edge", "zero": "constant", "mean": "constant"}
MEAN = {"reflect": {}, "edge": {}, "zero": {}, "mean": {"constant_values": 128}}


def batch(n: int = 64, box: Frame = (30, 34), channels: int = 3) -> Batch:
    pixels = torch.randint(0, 256, (n, *box, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return Batch(pixels.permute(0, 3, 1, 2), one_hot(torch.arange(n) % 5, 5), torch.arange(n))


def chance(n: int = 64, seed: int = 0) -> Chance:
    return Chance.of(seed, torch.arange(n))


def nhwc(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def drawn(part: Geometry, c: Chance, frame: Frame, size: Frame) -> np.ndarray:
    return part.draw(c, 0.0, frame, size).matrix.numpy()


# ---- whole pixels --------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S116")
def test_flip_mirrors_a_share_p_and_keeps_the_targets() -> None:
    n, b = 20_000, batch(100)
    for p in (0.5, 0.1):
        rate = (drawn(Flip(p), chance(n), (4, 4), (4, 4))[:, 0, 0] < 0).mean()
        assert abs(rate - p) < 4 * math.sqrt(p * (1 - p) / n)
    out = Pipeline((Flip(),), (30, 34))(b, chance(100), 0.0)
    chosen = chance(100).at("flip", 0).chosen(0.5).numpy()
    want = np.where(chosen[:, None, None, None], nhwc(b.images)[:, :, ::-1], nhwc(b.images))
    assert np.array_equal(nhwc(out.images), want) and torch.equal(out.targets, b.targets)


@pytest.mark.item("S116")
def test_flips_are_off_by_default_for_digits_and_on_where_mirror_images_keep_their_class(tmp_path: Path) -> None:
    """The same digits, with a mirror image of each in the same class, are images that mirroring does not change."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * 15.9).astype(np.uint8)[:900]
    both = np.stack([images, images[:, :, ::-1]], 1).reshape(-1, 8, 8)
    np.savez(tmp_path / "both.npz", images=both, labels=labels[:900].repeat(2))
    for data, is_on in (("digits", False), (str(tmp_path / "both.npz"), True)):
        opened = open_recipe(Recipe(data=data, size=16), SilentReporter())
        choose_augment(opened.chooser, opened.data)
        (choice,) = [choice for choice in opened.chooser.choices if choice.field == "augment"]
        assert ("flip" in str(opened.chooser.recipe.augment)) == is_on, data
        assert "of mirrored ones" in choice.evidence


@pytest.mark.item("S116")
def test_flips_along_either_axis_or_both() -> None:
    b, c = batch(100), chance(100)
    x, y = (c.at("flip", 0, *words).chosen(0.3).numpy()[:, None, None, None] for words in ((), ("vertical",)))
    images = nhwc(b.images)
    for axes, across, down in (("horizontal", x, False), ("vertical", False, y), ("both", x, y)):
        want = np.where(across, images[:, :, ::-1], images)
        want = np.where(down, want[:, ::-1], want)
        assert np.array_equal(nhwc(Pipeline((Flip(0.3, axes),), (30, 34))(b, c, 0.0).images), want)  # type: ignore[arg-type]
    assert 0.04 < (x & y).mean() < 0.14  # on their own: 0.09


@pytest.mark.item("S116")
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_alternating_flips_start_at_random_and_then_take_turns(p: float) -> None:
    """At p = 0.5 every image is mirrored in every other epoch, whatever its place in the epoch's order."""
    n, part = 4000, Flip(p, "both", alternate=True)
    seen = []
    for epoch in range(4):
        ids = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
        drawn = part.draw(Chance.for_epoch(3, "augment", epoch, torch.arange(n), ids).at("flip", 0), 0.0, (4, 6), (4, 6)).matrix
        mirrored = torch.empty(n, 2, dtype=torch.bool)
        mirrored[ids] = drawn[:, :, :2].diagonal(dim1=1, dim2=2) < 0
        seen.append(mirrored)
    rates = torch.stack(seen).double().mean(dim=1)
    assert (rates - p).abs().max() < 4 * math.sqrt(p * (1 - p) / n) + 1e-9
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    if p == 0.5:
        assert torch.equal(seen[0], ~seen[1])
        assert abs(np.corrcoef(seen[0].double().numpy().T)[0, 1]) < 0.07  # the axes on their own
    assert not (seen[0] & seen[1]).any() or p > 0.5


def test_an_alternating_flip_that_knows_no_epoch_is_a_random_one() -> None:
    first, second = (drawn(Flip(alternate=True), chance(2000, seed), (4, 4), (4, 4))[:, 0, 0] < 0 for seed in (0, 1))
    assert abs(first.mean() - 0.5) < 0.05 and abs(np.corrcoef(first, second)[0, 1]) < 0.1


@pytest.mark.parametrize("border", ["reflect", "edge", "zero", "mean"])
@pytest.mark.parametrize(("box", "pad"), [((30, 34), 4), ((24, 28), 4), ((24, 28), 0), ((30, 34), 20), ((24, 28), 61)])
def test_crop_is_a_slice_of_the_padded_image(border: Border, box: Frame, pad: int) -> None:
    b, size, part = batch(box=box), (24, 28), Crop(pad, border)  # an unbound part's mean is 0.5
    out = nhwc(Pipeline((part,), size)(b, chance(), 0.0).images)
    padded = np.pad(nhwc(b.images), ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=NUMPY[border], **MEAN[border])  # type: ignore[call-overload]
    for image, matrix, got in zip(padded, drawn(part, chance().at("crop", 0), box, size), out, strict=True):
        left, top = (int(v) + pad for v in matrix[:, 2])
        assert np.array_equal(got, image[top : top + 24, left : left + 28])


def test_crop_reaches_every_position_alike() -> None:
    offsets = drawn(Crop(2), chance(40_000), (9, 8), (8, 8))[:, :, 2]
    for axis, values in ((0, range(-2, 3)), (1, range(-2, 4))):
        found, counts = np.unique(offsets[:, axis], return_counts=True)
        assert list(found) == list(values)
        expected = 40_000 / len(values)
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.03


def test_flip_then_crop_is_one_gather_equal_to_two() -> None:
    b, c, flip, crop = batch(), chance(), Flip(), Crop(5, border="reflect")
    together = Pipeline((flip, crop), (24, 28))(b, c, 0.0).images
    flipped = Pipeline((flip,), (30, 34))(b, c, 0.0)
    matrices = drawn(crop, c.at("crop", 1), (30, 34), (24, 28))
    padded = np.pad(nhwc(flipped.images), ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect")
    for image, matrix, got in zip(padded, matrices, nhwc(together), strict=True):
        left, top = (int(v) + 5 for v in matrix[:, 2])
        assert np.array_equal(got, image[top : top + 24, left : left + 28])


@pytest.mark.parametrize("size", [(24, 28), (25, 27), (30, 34), (1, 1)])
def test_without_cropping_parts_the_middle_is_taken_bit_for_bit(size: Frame) -> None:
    b = batch()
    top, left = (30 - size[0]) // 2, (34 - size[1]) // 2
    middle = b.images[..., top : top + size[0], left : left + size[1]]
    for parts in ((), (Flip(0.0),), (Crop(4, p=0.0),), (Flip(0.0), Flip(0.0))):
        assert torch.equal(Pipeline(parts, size)(b, chance(), 0.0).images, middle)
    mirrored = Pipeline((Flip(1.0),), (24, 28))(
        b, chance(), 0.0
    ).images  # an even margin: the middle of the mirror image is the mirrored middle
    assert torch.equal(mirrored, b.images.flip(3)[..., 3:27, 3:31])


def test_neighbors_with_different_borders_are_sampled_one_after_the_other() -> None:
    b, c = batch(), chance()
    zero, edge = Crop(6, "zero"), Crop(6, "edge")
    both = Pipeline((zero, edge), (24, 28))(b, c, 0.0).images
    first = zero.draw(c.at("crop", 0), 0.0, (30, 34), (24, 28)).matrix[:, :, 2].numpy().astype(int)
    second = edge.draw(c.at("crop", 1), 0.0, (24, 28), (24, 28)).matrix[:, :, 2].numpy().astype(int)
    padded = np.pad(nhwc(b.images), ((0, 0), (6, 6), (6, 6), (0, 0)))
    for image, (x, y), (u, v), got in zip(padded, first, second, nhwc(both), strict=True):
        cropped = np.pad(image[y + 6 : y + 30, x + 6 : x + 34], ((6, 6), (6, 6), (0, 0)), mode="edge")
        assert np.array_equal(got, cropped[v + 6 : v + 30, u + 6 : u + 34])


def test_only_the_last_geometry_takes_the_middle() -> None:
    b, c = batch(), chance()
    seen = Pipeline((Flip(0.0), Mixup(0.0), Crop(0)), (24, 28))(b, c, 0.0).images
    offsets = Crop(0).draw(c.at("crop", 2), 0.0, (30, 34), (24, 28)).matrix[:, :, 2].long()
    assert offsets.float().std() > 1
    for image, (left, top), got in zip(b.images, offsets.tolist(), seen, strict=True):
        assert torch.equal(got, image[:, top : top + 24, left : left + 28].float() / 255)


@pytest.mark.parametrize("parts", [(Crop(9, "zero", p=1.0), Flip(1.0)), (Flip(1.0), Crop(9, "zero", p=1.0))])
def test_the_border_is_that_of_the_part_that_has_one(parts: tuple[Geometry, ...]) -> None:
    whole = batch().but(images=torch.full((64, 3, 24, 28), 200, dtype=torch.uint8))
    out = Pipeline(parts, (24, 28))(whole, chance(), 0.0).images
    assert set(out.unique().tolist()) == {0, 200}


def test_an_image_smaller_than_the_size_is_refused() -> None:
    with pytest.raises(DataError, match="at least 31x20 to augment, received 30x34"):
        Pipeline((Flip(),), (31, 20))(batch(), chance(), 0.0)


# ---- resized crop --------------------------------------------------------------------------------------------------------------


def photo(n: int, box: Frame) -> torch.Tensor:
    """Smooth images with edges, uint8 [n, 3, *box]."""
    y, x = np.mgrid[: box[0], : box[1]] / max(box)
    waves = np.stack([[np.sin(9 * x * (k % 3 + 1) + c) * np.cos(7 * y + k) + (x > y) for c in range(3)] for k in range(n)])
    return torch.from_numpy((waves - waves.min()) / (waves.max() - waves.min()) * 255).byte().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("box", "size"), [((80, 90), (32, 32)), ((40, 40), (32, 36)), ((36, 37), (36, 36))])
def test_resized_crop_against_pillow(box: Frame, size: Frame) -> None:
    """Mean absolute difference under 1e-4 of the range where no tap leaves the image, under 2e-3 over all (borders differ there)."""
    part, c, images = ResizedCrop((0.1, 1.0)), chance(24), photo(24, box)
    out = nhwc(Pipeline((part,), size)(batch(24).but(images=images), c, 0.0).images)
    whole, inner = [], []
    for image, matrix, got in zip(nhwc(images), drawn(part, c.at("resized_crop", 0), box, size), out, strict=True):
        (sx, _, ox), (_, sy, oy) = matrix
        left, top = ox + 0.5 - sx / 2, oy + 0.5 - sy / 2
        region = (left, top, min(left + sx * size[1], box[1]), min(top + sy * size[0], box[0]))
        planes = [Image.fromarray(image[..., k].astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR, region) for k in range(3)]
        difference = np.abs(got - np.stack(planes, 2) / 255)
        whole.append(difference.mean())
        if min(left, top) > sx + sy + 2 and region[2] < box[1] - sx - 2 and region[3] < box[0] - sy - 2:
            inner.append(difference.max())
    assert np.mean(whole) < 2e-3
    assert not inner or max(inner) < 1e-4
    assert len(inner) > 2 or box != (80, 90)


@pytest.mark.parametrize(("box", "size"), [((64, 64), (32, 32)), ((50, 50), (33, 33)), ((20, 20), (20, 20))])
def test_the_whole_image_resized_against_torch(box: Frame, size: Frame) -> None:
    images = photo(6, box)
    out = Pipeline((ResizedCrop((1.0, 1.0)),), size)(batch(6).but(images=images), chance(6), 0.0).images
    want = F.interpolate(images.float() / 255, size=size, mode="bilinear", antialias=True, align_corners=False)
    if min(box) >= 64:  # a large window: by 8-bit arithmetic, rounded after each axis
        assert (out - want).abs().max() < 1.01 / 255
    else:
        assert (out - want).abs().mean() < 1e-3
        assert (out - want)[..., 2:-2, 2:-2].abs().max() < 1e-5


def test_large_windows_are_crops_resized_whatever_the_dtype() -> None:
    """Of whole pixels; no tap reads beyond the window; mirrored ones too. Floats are exact, 8-bit images within a level."""
    images, box, size = photo(40, (150, 170)), (150, 170), (48, 40)
    pipe = Pipeline((Flip(0.5), ResizedCrop((0.3, 1.0))), size)
    floats = images.float() / 255
    for given, bound in ((floats, 1e-5), (images, 1.01 / 255)):
        out = pipe(batch(40).but(images=given), chance(40), 0.0).images
        matrices = drawn(ResizedCrop((0.3, 1.0)), chance(40).at("resized_crop", 1), box, size)
        flipped = chance(40).at("flip", 0).chosen(0.5)
        for k, ((sx, _, ox), (_, sy, oy)) in enumerate(matrices):
            left, top = round(ox + 0.5 - sx / 2), round(oy + 0.5 - sy / 2)
            high, wide = round(sy * size[0]), round(sx * size[1])
            assert min(high, wide) >= 64
            image = floats[k : k + 1].flip(3) if flipped[k] else floats[k : k + 1]
            window = image[:, :, top : top + high, left : left + wide]
            want = F.interpolate(window, size=size, mode="bilinear", antialias=True)
            assert (out[k] - want[0]).abs().max() < bound


def test_windows_have_the_area_and_ratio_asked_for_and_lie_inside() -> None:
    for box in ((40, 40), (30, 50), (20, 200)):
        m = drawn(ResizedCrop((0.2, 0.9), (0.5, 2.0)), chance(20_000), box, (16, 16))
        width, height = m[:, 0, 0] * 16, m[:, 1, 1] * 16
        left, top = (m[:, k, 2] + 0.5 - m[:, k, k] / 2 for k in (0, 1))
        assert (left > -1e-9).all() and (top > -1e-9).all()
        assert (left + width < box[1] + 1e-9).all() and (top + height < box[0] + 1e-9).all()
        share, ratio = width * height / (box[0] * box[1]), width / height
        assert ratio.min() > 0.5 - 1e-9 and ratio.max() < 2 + 1e-9
        if box != (20, 200):
            assert share.min() > 0.2 - 1e-9 and share.max() < 0.9 + 1e-9
            assert abs(share.mean() - 0.55) < 0.01
        else:  # no such window is larger than 20 x 40, a fifth of the image: the largest, as torchvision falls back to
            assert np.allclose(share, 0.2) and np.allclose(ratio, 2)


def test_the_ratio_is_even_in_the_logarithm_where_every_window_fits() -> None:
    m = drawn(ResizedCrop((0.1, 0.3)), chance(50_000), (40, 40), (16, 16))
    logs = np.log(m[:, 0, 0] / m[:, 1, 1]) / np.log(4 / 3)
    assert abs(logs.mean()) < 0.02 and abs(logs.var() - 1 / 3) < 0.01


def test_flip_and_resized_crop_are_one_sampling() -> None:
    b, c = batch().but(images=photo(64, (60, 60))), chance()
    flip, crop = Flip(1.0), ResizedCrop((0.2, 0.9))
    together = Pipeline((flip, crop), (24, 24))(b, c, 0.0).images
    apart = Pipeline((Flip(0.0), crop), (24, 24))(b.but(images=b.images.flip(3)), c, 0.0).images
    assert (together - apart).abs().max() < 1e-5


@pytest.mark.parametrize("settings", [{"area": (0.5, 0.2)}, {"area": (0.5, 1.5)}, {"ratio": (2.0, 1.0)}])
def test_ranges_the_wrong_way_round_are_refused(settings: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(UsageError, match="resized_crop: expected"):
        ResizedCrop(**settings)


@pytest.mark.item("S117")
def test_scale_crop_draws_the_short_side_from_its_range_and_the_patch_lies_inside() -> None:
    """For a model that sees 224: L is each integer from 256 to 480 alike, and the patch is 224 pixels of the image resized so."""
    n, box = 60_000, (300, 420)
    tall, wide = ScaleCrop().draw_sides(chance(n), torch.tensor(box).double().expand(n, 2), (224, 224)).numpy().T
    assert np.array_equal(tall, wide)  # the shape of things stays
    side = 300 * 224 / wide
    assert np.abs(side - side.round()).max() < 1e-9
    m = drawn(ScaleCrop(), chance(n), box, (224, 224))
    scale = m[:, 0, 0]
    assert np.array_equal(scale, m[:, 1, 1]) and not m[:, [0, 1], [1, 0]].any()
    assert np.abs(scale * 224 - wide).max() <= 0.5 + 1e-9  # large windows are of whole pixels
    values, counts = np.unique(side.round().astype(int), return_counts=True)
    assert values.tolist() == list(range(256, 481))
    assert (np.abs(counts - n / 225) < 5 * math.sqrt(n / 225)).all()
    for axis, length in ((0, 420), (1, 300)):
        start = m[:, axis, 2] + 0.5 - scale / 2
        free = (start + 1e-9) / (length - 224 * scale + 1)  # of whole pixels, one more than is left over
        assert free.min() > -1e-9 and free.max() < 1 + 1e-9
        assert abs(free.mean() - 0.5) < 0.01 and abs(free.var() - 1 / 12) < 0.003


@pytest.mark.item("S117")
def test_scale_crop_takes_the_same_share_of_the_image_at_any_size() -> None:
    large, small = (drawn(ScaleCrop(), chance(200), box, size) for box, size in (((500, 500), (224, 224)), ((50, 50), (32, 32))))
    assert np.allclose(large[:, 0, 0] * 224 / 500, small[:, 0, 0] * 32 / 50, rtol=0, atol=0.51 / 500)  # large windows are of whole pixels
    share = drawn(ScaleCrop((40, 64), patch=32), chance(5000), (50, 50), (32, 32))[:, 0, 0] * 32 / 50
    assert abs(share.min() - 32 / 64) < 1e-9 and abs(share.max() - 32 / 40) < 1e-9
    wide = drawn(ScaleCrop((40, 64), patch=32), chance(500), (40, 44), (16, 32))  # of 16 x 32, half as wide as the short side: too wide
    assert (wide[:, 0, 0] * 32 < 44 + 1e-9).all() and np.array_equal(wide[:, 0, 0], wide[:, 1, 1])


@pytest.mark.item("S117")
def test_scale_crop_against_pillow_and_that_it_is_another_scheme_than_resized_crop() -> None:
    """Mean absolute difference under 2e-3 of the range (borders differ)."""
    part, images, box, size = ScaleCrop((36, 60), patch=32), photo(24, (80, 90)), (80, 90), (32, 32)
    out = nhwc(Pipeline((part,), size)(batch(24).but(images=images), chance(24), 0.0).images)
    differences = []
    for image, (row, other), got in zip(nhwc(images), drawn(part, chance(24).at("scale_crop", 0), box, size), out, strict=True):
        left, top, side = row[2] + 0.5 - row[0] / 2, other[2] + 0.5 - row[0] / 2, row[0] * 32
        region = (max(left, 0), max(top, 0), min(left + side, 90), min(top + side, 80))
        planes = [Image.fromarray(image[..., k].astype(np.float32)).resize((32, 32), Image.Resampling.BILINEAR, region) for k in range(3)]
        differences.append(np.abs(got - np.stack(planes, 2) / 255).mean())
    assert np.mean(differences) < 2e-3
    assert "not resized_crop" in str(ScaleCrop.__doc__) and "Not the ResNet scale crop" in str(ResizedCrop.__doc__)


@pytest.mark.parametrize("settings", [{"short": (300, 256)}, {"short": (200, 300)}, {"short": (16, 20), "patch": 17}])
def test_scale_crop_refuses_a_patch_that_does_not_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"scale_crop: expected short to be \(low, high\) with patch <= low <= high"):
        ScaleCrop(**settings)


# ---- any other map: parts of a user's own --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Turn(Geometry):
    """Rotates about the middle, every `every`-th image."""

    degrees: float = 20.0
    rule: Border = "edge"
    every: int = 1

    @property
    def border(self) -> Border:
        return self.rule

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        angle = torch.where(chance.places % self.every == 0, math.radians(self.degrees), 0.0).double()
        cos, sin = angle.cos(), angle.sin()
        x, y = (frame[1] - 1) / 2, (frame[0] - 1) / 2
        rows = [torch.stack([cos, -sin, x - cos * x + sin * y], 1), torch.stack([sin, cos, y - sin * x - cos * y], 1)]
        return CoordinateMap(torch.stack(rows, 1), frame)


@dataclasses.dataclass(frozen=True)
class Barrel(Geometry):
    """A lens: points move away from the middle with the square of their distance."""

    k: float = 0.1

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        middle = torch.tensor([(frame[1] - 1) / 2, (frame[0] - 1) / 2], dtype=torch.float64)

        def warp(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            away = (points - middle) / middle.max()
            return middle + away * (1 + self.k * away.square().sum(-1, keepdim=True)) * middle.max()

        return CoordinateMap(torch.eye(2, 3, dtype=torch.float64).repeat(len(chance.places), 1, 1), frame, warp)


SCIPY = {"reflect": "mirror", "edge": "nearest", "zero": "grid-constant"}


def read(image: np.ndarray, x: np.ndarray, y: np.ndarray, border: str) -> np.ndarray:
    """Bilinear reading of an image [H, W, C] by SciPy."""
    return np.stack(
        [ndimage.map_coordinates(plane.astype(float), [y, x], order=1, mode=SCIPY[border]) for plane in image.transpose(2, 0, 1)], 2
    )


@pytest.mark.parametrize("border", ["reflect", "edge", "zero"])
def test_a_rotation_against_scipy(border: Border) -> None:
    b, part = batch(8), Turn(33.0, border)
    out = nhwc(Pipeline((part,), (30, 34))(b, chance(8), 0.0).images)
    y, x = np.mgrid[:30, :34]
    for image, m, got in zip(nhwc(b.images), drawn(part, chance(8), (30, 34), (30, 34)), out, strict=True):
        u, v = (m[k, 0] * x + m[k, 1] * y + m[k, 2] for k in (0, 1))
        assert np.abs(got - read(image, u, v, border) / 255).max() < 1e-4


def test_rotation_flip_and_crop_compose_to_one_reading() -> None:
    b, c, size = batch(8), chance(8), (20, 20)
    parts = (Turn(15.0, "reflect"), Flip(1.0), Crop(0))
    out = nhwc(Pipeline(parts, size)(b, c, 0.0).images)
    left, top = (drawn(parts[2], c.at("crop", 2), (30, 34), size)[:, k, 2] for k in (0, 1))
    m = drawn(parts[0], c, (30, 34), (30, 34))[0]
    y, x = np.mgrid[:20, :20]
    for k, image in enumerate(nhwc(b.images)):
        p, q = 33 - (x + left[k]), y + top[k]
        u, v = (m[i, 0] * p + m[i, 1] * q + m[i, 2] for i in (0, 1))
        assert np.abs(out[k] - read(image, u, v, "reflect") / 255).max() < 1e-4


def test_a_warp_composes_with_its_neighbors() -> None:
    b = batch(4)
    out = nhwc(Pipeline((Barrel(-0.1), Flip(1.0), Turn(10.0)), (30, 34))(b, chance(4), 0.0).images)
    m = drawn(Turn(10.0), chance(4), (30, 34), (30, 34))[0]
    y, x = np.mgrid[:30, :34]
    p, q = (m[i, 0] * x + m[i, 1] * y + m[i, 2] for i in (0, 1))
    p = 33 - p
    u, v = (p - 16.5) / 16.5, (q - 14.5) / 16.5
    u, v = (16.5 + 16.5 * u * (1 - 0.1 * (u * u + v * v)), 14.5 + 16.5 * v * (1 - 0.1 * (u * u + v * v)))
    for image, got in zip(nhwc(b.images), out, strict=True):
        assert np.abs(got - read(image, u, v, "edge") / 255).max() < 1e-4


def test_an_image_is_sampled_alike_whatever_its_neighbors_need() -> None:
    b, c, part = batch(32), chance(32), Turn(20.0, every=3)
    out = Pipeline((part,), (30, 34))(b, c, 0.0).images
    straight = torch.arange(32) % 3 != 0
    assert torch.equal(out[straight], b.images[straight].float() / 255)  # whole pixels, exactly
    for k in range(32):
        assert torch.equal(Pipeline((part,), (30, 34))(b[k : k + 1], Chance(c.key, c.places[k : k + 1]), 0.0).images, out[k : k + 1])
