"""The one sampling: every way of reading and every border against float64 oracles, kornia, Pillow and SciPy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import kornia.geometry.transform as kornia
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame, compose_matrices
from goodfit.augment.crop import Crop
from goodfit.augment.flip import Flip
from goodfit.augment.geometry import Geometry
from goodfit.augment.pipeline import Pipeline
from goodfit.augment.sampling import sample
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.parts import spell

BORDERS = get_args(Border)
FILL = (0.2, 0.5, 0.7)
SCIPY = {"reflect": "mirror", "edge": "nearest", "zero": "grid-constant", "mean": "grid-constant"}
every_border = pytest.mark.parametrize("border", BORDERS)


def noise(n: int = 6, box: Frame = (30, 34), channels: int = 3) -> torch.Tensor:
    pixels = torch.randint(0, 256, (n, *box, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return pixels.permute(0, 3, 1, 2)


def smooth(side: int = 64, sigma: float = 1.0, seed: int = 0) -> torch.Tensor:
    """An image [1, 3, side, side] in 0..1; sigma 0 is white noise, at 1 there is no detail of single pixels."""
    image = np.random.default_rng(seed).random((3, side, side))
    image = ndimage.gaussian_filter(image, (0, sigma, sigma)) if sigma else image
    return torch.from_numpy((image - image.min()) / np.ptp(image)).float()[None]


def turn(degrees: float, scale: float, frame: Frame, size: Frame | None = None, ratio: float = 1.0) -> np.ndarray:
    """A matrix [2, 3] from pixels of `size` to pixels of `frame`, center to center."""
    size = size or frame
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([1, ratio])
    middle, to = (np.array([(f[1] - 1) / 2, (f[0] - 1) / 2]) for f in (size, frame))
    return np.concatenate([linear, (to - linear @ middle)[:, None]], axis=1)


def coordinate_map(matrices: list[np.ndarray], size: Frame, **warps: Any) -> CoordinateMap:
    return CoordinateMap(torch.tensor(np.stack(matrices), dtype=torch.float64), size, **warps)


def points(matrix: np.ndarray, size: Frame) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: size[0], : size[1]]
    return matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]


def read(image: np.ndarray, x: np.ndarray, y: np.ndarray, border: str) -> np.ndarray:
    """Bilinear reading of an image [C, H, W] in float64 by SciPy."""
    fill = FILL if border == "mean" else (0.0,) * len(image)
    planes = [
        ndimage.map_coordinates(plane.astype(float), [y, x], order=1, mode=SCIPY[border], cval=c)
        for plane, c in zip(image, fill, strict=False)
    ]
    return np.stack(planes)


def extended(image: np.ndarray, border: str, by: int) -> np.ndarray:
    """An image [C, H, W] with what lies beyond it, by NumPy."""
    if border == "mean":
        return np.stack([np.pad(plane, by, constant_values=c) for plane, c in zip(image, FILL, strict=True)])
    modes: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "zero": "constant"}
    return np.pad(image, ((0, 0), (by, by), (by, by)), mode=modes[border])


def antialiased(image: np.ndarray, matrix: np.ndarray, size: Frame, border: str = "reflect", by: int = 16) -> np.ndarray:
    """The exact filter in float64: a triangle as wide as the output pixels, turned as they are, over the pixels of [C, H, W]."""
    image = extended(image, border, by)
    inverse = np.linalg.inv(matrix[:, :2])
    y, x = np.mgrid[: image.shape[1], : image.shape[2]] - by
    out = np.zeros((len(image), *size))
    for row, column in np.ndindex(*size):
        middle = matrix[:, :2] @ (column, row) + matrix[:, 2]
        away = np.stack([x - middle[0], y - middle[1]], axis=-1) @ inverse.T
        weight = np.clip(1 - np.abs(away), 0, None).prod(axis=-1)
        out[:, row, column] = (weight * image).sum(axis=(1, 2)) / weight.sum()
    return out


# ---- each way, each border -----------------------------------------------------------------------------------------------------


@every_border
def test_whole_pixels_are_moved_exactly(border: Border) -> None:
    images = noise()
    moves = [(1, 5, 1, -3), (-1, 40, 1, 7), (1, -33, -1, 20), (-1, 20, -1, 29), (1, 0, 1, 0), (1, 60, 1, 55)]
    matrices = [np.array([[a, 0, x], [0, b, y]], dtype=float) for a, x, b, y in moves]
    out = sample(images, [coordinate_map(matrices, (30, 34))], border, FILL, is_exact=True)
    assert out.dtype == torch.uint8
    fill = np.round(np.array(FILL) * 255) / 255
    for image, matrix, got in zip(images.numpy() / 255, matrices, out.numpy() / 255, strict=True):
        x, y = points(matrix, (30, 34))
        want = read(image, x, y, border)
        if border == "mean":
            want = np.where((x < 0) | (x > 33) | (y < 0) | (y > 29), fill[:, None, None], want)
        assert np.abs(got - want).max() < 1e-6


@every_border
@pytest.mark.parametrize("box", [(30, 34), (1, 34), (30, 1), (2, 2)])
def test_turned_images_against_scipy(border: Border, box: Frame) -> None:
    images = noise(box=box)
    matrices = [turn(a, s, box) for a, s in ((33, 1.0), (-160, 0.8), (45, 0.3), (90, 1.0), (7, 1.14), (100, 1.0))]
    out = sample(images, [coordinate_map(matrices, box)], border, FILL, is_exact=False)
    for image, matrix, got in zip(images.numpy() / 255, matrices, out.numpy(), strict=True):
        assert np.abs(got - read(image, *points(matrix, box), border)).max() < 1e-5 * max(box)


@every_border
@pytest.mark.parametrize("scale", [0.7, 1.6, 2.9])
def test_scaled_images_against_the_filter_in_float64(border: Border, scale: float) -> None:
    images, matrix = noise(2, (24, 28)), turn(0, scale, (24, 28), (20, 20))
    out = sample(images, [coordinate_map([matrix] * 2, (20, 20))], border, FILL, is_exact=False)
    reach = max(scale, 1.0)
    for image, got in zip(images.numpy() / 255, out.numpy(), strict=True):
        want = extended(image, border, 40)
        for axis, count in ((2, 20), (1, 20)):
            middle = matrix[2 - axis, 2 - axis] * np.arange(count) + matrix[2 - axis, 2]
            weight = np.clip(1 - np.abs(np.arange(want.shape[axis]) - 40 - middle[:, None]) / reach, 0, None)
            want = np.moveaxis(np.tensordot(weight / weight.sum(1, keepdims=True), want, (1, axis)), 0, axis)
        assert np.abs(got - want).max() < 1e-5


@every_border
def test_beyond_the_image_is_what_the_border_says_whatever_the_way(border: Border) -> None:
    """An image of one color far away and shrunk a lot: the middle keeps it, the far outside has the border's."""
    images = torch.tensor([0.9, 0.3, 0.6])[None, :, None, None].repeat(4, 1, 32, 32)
    matrices = [turn(0, 1.0, (32, 32)), turn(0, 5.5, (32, 32)), turn(10, 1.0, (32, 32)), turn(20, 6.0, (32, 32))]
    matrices[0][:, 2] += 40
    matrices[2][:, 2] += 50
    out = sample(images, [coordinate_map(matrices, (32, 32))], border, FILL, is_exact=False).numpy()
    beyond = {"zero": (0.0, 0.0, 0.0), "mean": FILL}.get(border, (0.9, 0.3, 0.6))
    for k, (row, column) in enumerate(((20, 20), (0, 0), (31, 31), (0, 31))):
        assert np.abs(out[k, :, row, column] - beyond).max() < 1e-6
    for k in (1, 3):
        assert np.abs(out[k, :, 15:17, 15:17] - images[0, :, :2, :2].numpy()).max() < 1e-6


# ---- shrinking -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "aim"), [(0.0, 0.04), (1.0, 0.02)])
@pytest.mark.parametrize("scale", [*(pytest.param(x, marks=pytest.mark.slow) for x in (1.2, 1.7, 3.5)), 1.3, 2.3, 2.5, 4.6, 5.0])
def test_turned_shrinking_is_antialiased_as_stated(scale: float, sigma: float, aim: float) -> None:
    """The mean absolute difference to the exact filter is under 0.04 for white noise, 0.02 without detail of single pixels."""
    image, side = smooth(sigma=sigma), int(48 / scale)
    for degrees in (12, 45):
        matrix = turn(degrees, scale, (64, 64), (side, side))
        want = antialiased(image[0].numpy(), matrix, (side, side))
        got = sample(image, [coordinate_map([matrix], (side, side))], "reflect", (0.0,), is_exact=False)[0].numpy()
        plain = read(image[0].numpy(), *points(matrix, (side, side)), "reflect")
        assert np.abs(got - want).mean() < aim
        if scale > 1.2:
            assert np.abs(got - want).mean() < 0.75 * np.abs(plain - want).mean()


@every_border
@pytest.mark.parametrize("scale", [1.6, 3.0])
def test_turned_shrinking_knows_what_lies_beyond(scale: float, border: Border) -> None:
    """Over the image's edge too the difference to the exact filter stays under 0.02, and the corners far away are the border's."""
    image, size = smooth(32), (24, 24)
    matrix = turn(20, scale, (32, 32), size)
    want = antialiased(image[0].numpy().astype(float), matrix, size, border, by=31)
    got = sample(image, [coordinate_map([matrix], size)], border, FILL, is_exact=False)[0].numpy()
    x, y = points(matrix, size)
    known = (np.abs(x - 15.5) < 40) & (np.abs(y - 15.5) < 40)
    assert np.abs(got - want)[:, known].mean() < 0.02


def test_images_that_shrink_more_in_one_direction() -> None:
    for degrees, ratio in ((5, 3.0), (85, 3.0), (30, 2.0)):
        image = smooth(sigma=1.0)
        matrix = turn(degrees, 1.0, (64, 64), (16, 16), ratio)
        want = antialiased(image[0].numpy(), matrix, (16, 16))
        got = sample(image, [coordinate_map([matrix], (16, 16))], "reflect", (0.0,), is_exact=False)[0].numpy()
        assert np.abs(got - want).mean() < 0.03


# ---- warps ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.8, 1.5, 2.8])
def test_a_warp_that_is_an_affine_map_reads_as_that_map(scale: float) -> None:
    image, size = smooth().repeat(3, 1, 1, 1), (40, 36)
    whole = turn(25, scale, (64, 64), size)
    middle = torch.tensor([17.5, 19.5])
    shrunk = np.array([[1, 0, 31.5 - 17.5], [0, 1, 31.5 - 19.5]])
    linear = torch.tensor(whole[:, :2], dtype=torch.float32)

    def warp(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        away = points - middle
        return torch.stack([(row * away).sum(-1) for row in linear], dim=-1) + middle

    for border in BORDERS:
        warped = sample(image, [coordinate_map([shrunk] * 3, size, warp=warp)], border, FILL, is_exact=False)
        straight = sample(image, [coordinate_map([whole] * 3, size)], border, FILL, is_exact=False)
        assert (warped - straight).abs().max() < 1e-3  # the coordinates are float32
        assert (warped - straight).abs().mean() < 2e-5


def test_only_bent_images_are_bent_and_the_others_stay_exact() -> None:
    images, seen = noise(8), []
    warp_mask = torch.tensor([True, False, False, True, True, False, True, False])

    def warp(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert len(points) == len(rows)
        seen.extend(rows.tolist())
        return points + 0.5

    identity = np.eye(2, 3)
    maps = [coordinate_map([identity] * 8, (30, 34), warp=warp, warp_mask=warp_mask), coordinate_map([identity] * 8, (30, 34))]
    out = sample(images, maps, "edge", FILL, is_exact=False)
    assert sorted(set(seen)) == [0, 3, 4, 6]
    assert torch.equal(out[~warp_mask], images[~warp_mask].float() / 255)
    x, y = points(identity, (30, 34))
    for k in (0, 3, 4, 6):
        assert np.abs(out[k].numpy() - read(images[k].numpy() / 255, x + 0.5, y + 0.5, "edge")).max() < 1e-5


def test_two_warps_apply_one_after_the_other_with_what_lies_between() -> None:
    images, half = noise(2), turn(30, 0.7, (30, 34))
    right = coordinate_map([np.eye(2, 3)] * 2, (30, 34), warp=lambda points, rows: points + torch.tensor([1.5, 0.0]))
    left = coordinate_map(
        [np.eye(2, 3)] * 2, (30, 34), warp=lambda points, rows: points * torch.tensor([0.9, 1.0]), warp_mask=torch.tensor([True, False])
    )
    out = sample(images, [right, coordinate_map([half] * 2, (30, 34)), left], "reflect", FILL, is_exact=False)
    for k, squeezed in ((0, 0.9), (1, 1.0)):
        y, x = np.mgrid[:30, :34]
        u, v = (half[i, 0] * squeezed * x + half[i, 1] * y + half[i, 2] for i in (0, 1))
        assert np.abs(out[k].numpy() - read(images[k].numpy() / 255, u + 1.5, v, "reflect")).max() < 1e-4


# ---- other libraries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["reflect", "edge", "zero"])
def test_affine_maps_against_kornia(border: Border) -> None:
    """Mean absolute difference under 1e-5 of the range (both bilinear)."""
    images, box = noise(8), (30, 34)
    matrices = [turn(angle, 0.8, box, ratio=1.2) for angle in (-170, -60, -20, 5, 15, 40, 80, 130)]
    out = sample(images, [coordinate_map(matrices, box)], border, FILL, is_exact=False)
    forward = np.linalg.inv(np.stack([np.vstack([m, [0, 0, 1]]) for m in matrices]))[:, :2]
    modes = {"reflect": "reflection", "edge": "border", "zero": "zeros"}
    want = kornia.warp_affine(images.double() / 255, torch.from_numpy(forward), box, padding_mode=modes[border], align_corners=True)
    assert (out - want).abs().mean() < 1e-5


def test_affine_maps_against_pillow() -> None:
    """Mean absolute difference under 1e-5 of the range inside the image; Pillow counts from the corner of a pixel and reads no border."""
    images, box = noise(5), (30, 34)
    matrices = [turn(angle, 0.6, box, ratio=1.1) for angle in (-60, -20, 5, 15, 80)]
    out = sample(images, [coordinate_map(matrices, box)], "zero", FILL, is_exact=False)
    for image, m, got in zip(images.numpy(), matrices, out.numpy(), strict=True):
        corner = m[:, 2] + 0.5 - m[:, :2].sum(1) / 2
        data = (*m[0, :2], corner[0], *m[1, :2], corner[1])
        for plane, mine in zip(image, got, strict=True):
            picture = Image.fromarray(plane.astype(np.float32))
            theirs = np.asarray(picture.transform(box[::-1], Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))
            x, y = points(m, box)
            inside = (x > 1) & (x < 32) & (y > 1) & (y < 28)
            assert inside.mean() > 0.5
            assert np.abs(theirs / 255 - mine)[inside].mean() < 1e-5


# ---- composition ---------------------------------------------------------------------------------------------------------------


def zone_plate(x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """Rings that grow finer outwards, to a quarter of the sampling rate at the rim; defined between the pixels too."""
    square = (x - (side - 1) / 2) ** 2 + (y - (side - 1) / 2) ** 2
    return 0.5 + 0.5 * np.cos(np.pi * square / side / 2)


def test_composed_geometry_equals_one_after_the_other_and_is_nearer_to_the_truth() -> None:
    """Turned to and fro inside a zone plate: each rereading blurs, one reading of the composed maps hardly does."""
    side, size = 96, (40, 40)
    y, x = np.mgrid[:side, :side].astype(float)
    image = torch.from_numpy(zone_plate(x, y, side)).float()[None, None]
    box = (side, side)
    angles = (25.0, -40.0, 22.0)
    turns = [coordinate_map([turn(angle, 1.0, box)], box) for angle in angles]
    cut = coordinate_map([np.array([[1, 0, 28.0], [0, 1, 28.0]])], size)  # of which every intermediate point is inside
    together = sample(image, [*turns, cut], "edge", (0.0,), is_exact=False)[0, 0].numpy()
    apart = image
    for each in (*turns, cut):
        apart = sample(apart, [each], "edge", (0.0,), is_exact=False)
    matrix = np.vstack([turn(sum(angles), 1.0, box), [0, 0, 1]]) @ np.array([[1, 0, 28], [0, 1, 28], [0, 0, 1]])
    truth = zone_plate(*points(matrix[:2], size), side)
    error_together, error_apart = (np.abs(made - truth).mean() for made in (together, apart[0, 0].numpy()))
    assert error_together < 0.02
    assert np.abs(together - apart[0, 0].numpy()).mean() < 0.06  # to the interpolation error
    assert error_together < 0.45 * error_apart


def test_turned_and_turned_back_is_the_image_itself() -> None:
    image, box = smooth(48, sigma=0.0), (48, 48)
    there, back = (coordinate_map([turn(angle, 1.0, box)], box) for angle in (33.0, -33.0))
    together = sample(image, [there, back], "zero", (0.0,), is_exact=False)
    assert torch.equal(together, image)
    apart = sample(sample(image, [there], "zero", (0.0,), is_exact=False), [back], "zero", (0.0,), is_exact=False)
    assert (apart - image)[..., 12:36, 12:36].abs().mean() > 0.05


def test_compose_is_the_matrix_product() -> None:
    first, then = (torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    last = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(5, 1, 3)
    want = torch.cat([first, last], 1) @ torch.cat([then, last], 1)
    assert (compose_matrices(first, then) - want[:, :2]).abs().max() < 1e-12


# ---- parts ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Facts:
    mean: tuple[float, ...] = FILL


def test_the_mean_border_is_learned_when_a_part_is_bound() -> None:
    part = Crop(6, "mean")
    bound = part.bind(Facts())
    assert (part.fill, bound.fill) == ((0.5,), FILL)
    assert bound == part and spell(bound, full=True) == spell(part, full=True) == "crop(6, border='mean', p=1.0)"
    images = torch.full((4, 3, 8, 8), 255, dtype=torch.uint8)
    batch = Batch(images, one_hot(torch.zeros(4), 2), torch.arange(4))
    for first, want in ((bound, FILL), (part, (0.5,) * 3)):
        out = Pipeline((Flip(), first, Flip(axes="vertical")), (8, 8))(batch, Chance.of(5, torch.arange(4)), 0.0).images
        beyond = out.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
        assert {tuple(row) for row in beyond.tolist()} == {(255,) * 3, tuple(round(255 * c) for c in want)}


def test_every_geometry_that_has_a_border_has_all_of_them() -> None:
    for name, cls in Catalog(["goodfit.augment"]).kinds["augment"].items():
        if issubclass(cls, Geometry) and "border" in {field.name for field in dataclasses.fields(cls)}:
            for border in BORDERS:
                assert Catalog(["goodfit.augment"]).make(f"{name}(border={border})", "augment").border == border  # type: ignore[attr-defined]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_image_gets_the_same_bits_alone(channels: int) -> None:
    images, box = noise(40, (30, 34), channels), (30, 34)
    matrices = [turn(k % 3 * 8.0, 0.6 + 0.11 * k, box, ratio=1 + k % 4 / 3) for k in range(40)]
    for border in BORDERS:
        whole = sample(images, [coordinate_map(matrices, box)], border, (0.4,), is_exact=False)
        for k in range(40):
            assert torch.equal(
                sample(images[k : k + 1], [coordinate_map(matrices[k : k + 1], box)], border, (0.4,), is_exact=False), whole[k : k + 1]
            )
