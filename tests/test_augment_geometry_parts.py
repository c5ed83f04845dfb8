"""Translation, rotation, stretching, shearing, lens, perspective and elastic deformation against NumPy, SciPy, Pillow and kornia."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from kornia.geometry import transform as kornia
from kornia.geometry.linalg import transform_points
from PIL import Image
from scipy import interpolate, ndimage

from goodfit.augment.affine import Rotate, Shear, Stretch, Translate, rotation_matrix, shear_matrix, stretch_matrix, translation_matrix
from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame
from goodfit.augment.geometry import Geometry
from goodfit.augment.lens import Lens
from goodfit.augment.pipeline import Pipeline
from goodfit.augment.warp import CORNERS, Elastic, Perspective, solve_homography, spline_weights, tilt_points
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError

FRAME = (44, 50)
MEAN = (0.2, 0.4, 0.8)  # multiples of 1/255, as exact moves stay uint8
PARTS: list[Any] = [Translate(), Rotate(), Stretch(), Shear(), Lens(p=1.0), Perspective(p=1.0), Elastic(p=1.0)]
BORDERS: list[Border] = ["reflect", "edge", "zero", "mean"]
SCIPY = {"reflect": "mirror", "edge": "nearest", "zero": "grid-constant", "mean": "grid-constant"}
every = pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)


def photo(n: int, box: Frame = FRAME) -> torch.Tensor:
    """Smooth images, uint8 [n, 3, *box]."""
    y, x = np.mgrid[: box[0], : box[1]] / max(box)
    waves = np.stack([[np.sin(9 * x * (k % 3 + 1) + c) * np.cos(7 * y + k) for c in range(3)] for k in range(n)])
    return torch.from_numpy((waves + 1) * 127.5).round().byte()


def batch(n: int = 16, box: Frame = FRAME) -> Batch:
    return Batch(photo(n, box).contiguous(memory_format=torch.channels_last), one_hot(torch.arange(n) % 5, 5), torch.arange(n))


def chance(n: int = 16, seed: int = 0) -> Chance:
    return Chance.of(seed, torch.arange(n))


def floats(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def applied(part: Geometry, n: int = 16, box: Frame = FRAME) -> torch.Tensor:
    return floats(part(batch(n, box), chance(n), 0.0).images)


def drawn(part: Geometry, n: int = 16, box: Frame = FRAME) -> CoordinateMap:
    return part.draw(chance(n), 0.0, box, box)


def points(m: CoordinateMap) -> np.ndarray:
    """Input points [B, h, w, 2] of every output pixel of a map."""
    x, y = torch.meshgrid(*(torch.arange(float(n)) for n in reversed(m.size)), indexing="xy")
    at = torch.stack([x, y], dim=-1).repeat(len(m.matrix), 1, 1, 1)
    if m.warp is not None:
        rows = torch.arange(len(at)) if m.warp_mask is None else m.warp_mask.nonzero()[:, 0]
        at[rows] = m.warp(at[rows], rows)
    a = m.matrix.numpy()[:, None, None]
    return np.stack([a[..., k, 0] * at[..., 0].numpy() + a[..., k, 1] * at[..., 1].numpy() + a[..., k, 2] for k in (0, 1)], axis=-1)


def read(image: torch.Tensor, at: np.ndarray, border: Border) -> np.ndarray:
    """Bilinear reading of an image [3, H, W] at points [h, w, 2] by SciPy."""
    fill = MEAN if border == "mean" else (0.0, 0.0, 0.0)
    planes = zip(floats(image).double().numpy(), fill, strict=True)
    return np.stack([ndimage.map_coordinates(p, [at[..., 1], at[..., 0]], order=1, mode=SCIPY[border], cval=f) for p, f in planes])


def full(n: int, value: float) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


# ---- every part ----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S121")
@pytest.mark.parametrize("border", BORDERS)
@every
def test_at_magnitude_zero_nothing_changes(part: Geometry, border: Border) -> None:
    off = dataclasses.replace(part, border=border).scaled(0.0)  # type: ignore[call-arg]
    m = drawn(off)
    assert torch.equal(m.matrix, torch.eye(2, 3, dtype=torch.float64).repeat(16, 1, 1))
    assert m.warp is None or (m.warp_mask is not None and not m.warp_mask.any())
    assert torch.equal(applied(off), floats(photo(16)))
    assert part.scaled(1.0) == part


@pytest.mark.parametrize("border", BORDERS)
@every
def test_pixels_are_read_where_the_map_says(part: Geometry, border: Border) -> None:
    """Mean absolute difference from SciPy's bilinear reading under 1e-4 of the range; 0.01 where the image shrinks: it is antialiased."""
    part = dataclasses.replace(part, border=border, _mean=MEAN)  # type: ignore[call-arg]
    out, m = applied(part).numpy(), drawn(part)
    away = points(m)
    assert ((away < -0.6) | (away > np.array(FRAME[::-1]) - 0.4)).any(), "no border comes into view"
    same, most = 0, 1 + 1e-6 if isinstance(part, Stretch) else 1.02  # along the axes the exact filter is used from 1 on
    for image, at, got in zip(photo(16), away, out, strict=True):
        plain = max(np.linalg.norm(np.diff(at, axis=k), axis=-1).max() for k in (0, 1)) < most
        same += plain
        assert np.abs(got - read(image, at, border)).mean() < (1e-4 if plain else 1e-2)
    assert same > 2 or isinstance(part, (Perspective, Elastic))
    assert np.abs(out - floats(photo(16)).numpy()).mean() > 0.01


@every
def test_a_part_milder_moves_less(part: Geometry) -> None:
    still = points(drawn(part.scaled(0.0)))
    far, half, little = (np.abs(points(drawn(part.scaled(s))) - still).mean() for s in (1.0, 0.5, 0.25))
    assert far > 1.6 * half > 2.2 * little > 0


@every
def test_a_share_p_is_changed_and_the_targets_stay(part: Geometry) -> None:
    n, b = 4000, batch(16)
    out = part(b, chance(16), 0.0)
    assert torch.equal(out.targets, b.targets) and torch.equal(out.ids, b.ids)
    for p in (0.0, 0.3, 1.0):
        m = dataclasses.replace(part, p=p).draw(chance(n), 0.0, (64, 64), (64, 64))  # type: ignore[call-arg]
        changed = (m.matrix != torch.eye(2, 3, dtype=torch.float64)).any(2).any(1)
        changed = changed if m.warp_mask is None else changed | m.warp_mask
        lost = 0.01 if isinstance(part, Translate) else 0.0  # whole pixels: few shifts are none
        assert abs(changed.float().mean() - p) <= 4 * math.sqrt(p * (1 - p) / n) + lost


@every
def test_an_image_comes_out_alike_in_any_company(part: Geometry) -> None:
    part = dataclasses.replace(part, p=0.6)  # type: ignore[call-arg]
    b, c = batch(33), chance(33)
    whole = part(b, c, 0.0).images
    for pieces in ([1] * 33, [7, 26], [16, 16, 1]):
        rows = torch.arange(33).split(pieces)
        apart = [part(Batch(b.images[r], b.targets[r], b.ids[r]), Chance(c.key, c.places[r]), 0.0).images for r in rows]
        assert torch.equal(torch.cat(apart), whole)


@every
def test_frames_of_a_pixel_or_a_line_are_no_trouble(part: Geometry) -> None:
    for box in ((1, 1), (1, 9), (9, 1), (2, 3)):
        out = applied(part, 4, box)
        assert out.shape == (4, 3, *box) and out.isfinite().all()


# ---- affine --------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S121")
def test_the_matrices_against_kornia() -> None:
    rng, n = np.random.default_rng(0), 64
    x, y, angle = (torch.from_numpy(rng.uniform(-1, 1, n)) for _ in range(3))
    middle = torch.tensor([[(FRAME[1] - 1) / 2, (FRAME[0] - 1) / 2]], dtype=torch.float64).repeat(n, 1)
    wide, one, zero = torch.stack([1 + x / 2, 1 + y / 2], 1), torch.ones(n, 2, dtype=torch.float64), full(n, 0.0)
    forward = {
        "translation": (translation_matrix(9 * x, 9 * y), kornia.get_affine_matrix2d(9 * torch.stack([x, y], 1), middle, one, zero)),
        "rotation": (rotation_matrix(180 * angle, FRAME), kornia.get_rotation_matrix2d(middle, 180 * angle, one)),
        "stretching": (stretch_matrix(wide[:, 0], wide[:, 1], FRAME), kornia.get_rotation_matrix2d(middle, zero, wide)),
        "shearing": (shear_matrix(x.tan(), y.tan(), FRAME), kornia.get_shear_matrix2d(middle, x, y)),
    }
    row = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64).repeat(n, 1, 1)
    for name, (ours, theirs) in forward.items():
        assert ours.dtype == torch.float64 and ours.shape == (n, 2, 3)
        inverse = torch.linalg.inv(torch.cat([theirs[:, :2], row], 1))[:, :2]
        assert (ours - inverse).abs().max() < 1e-10, name


def test_right_angles_have_exact_coefficients() -> None:
    for frame in ((5, 5), (4, 6), (5, 8)):
        angle = torch.arange(-720.0, 721, 90, dtype=torch.float64)
        m = rotation_matrix(angle, frame)
        assert set(m[:, :, :2].abs().unique().tolist()) == {0.0, 1.0}
        assert (m[:, :, 2] * 2 == (m[:, :, 2] * 2).round()).all()
        for k, one in zip((angle / 90).int().tolist(), m, strict=True):
            assert torch.equal(one, torch.eye(2, 3, dtype=torch.float64)) == (k % 4 == 0)
    near = rotation_matrix(torch.tensor([89.999, 90.0, 90.001, 45.0, -45.0, 135.0]), (5, 5))
    assert (near[0] - near[1]).abs().max() < 1e-3 and (near[2] - near[1]).abs().max() < 1e-3
    assert torch.allclose(near[3:, 0, 0], torch.tensor([0.5, 0.5, -0.5], dtype=torch.float64).sqrt().nan_to_num(-math.sqrt(0.5)))


@dataclasses.dataclass(frozen=True)
class Turn(Rotate):
    """Rotates by exactly `degrees`."""

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        return CoordinateMap(rotation_matrix(full(len(chance.places), self.degrees), frame), frame)


def test_right_angles_are_torchs() -> None:
    b = batch(8, (20, 20))
    quarter, half = (floats(Turn(degrees)(b, chance(8), 0.0).images) for degrees in (90.0, 180.0))
    assert (quarter - floats(b.images).rot90(1, (2, 3))).abs().max() < 1e-5  # counterclockwise
    assert torch.equal(half, floats(b.images).rot90(2, (2, 3)))  # moved, not interpolated


def test_a_rotation_against_pillow() -> None:
    """Mean absolute difference under 0.002 of the range: Pillow rounds to 8 bits."""
    for degrees in (10.0, 33.0, 120.0):
        out = floats(Turn(degrees, "zero")(batch(4), chance(4), 0.0).images).numpy()
        for image, got in zip(photo(4).numpy(), out, strict=True):
            want = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).rotate(degrees, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            inside = ndimage.binary_erosion(want.sum(0) > 0, iterations=2)
            assert inside.mean() > 0.5 and np.abs(got - want / 255)[:, inside].mean() < 2e-3


def test_affine_parts_against_kornia() -> None:
    """Mean absolute difference under 1e-4 of the range."""
    for part in (Translate(border="zero"), Rotate(180.0, border="zero"), Shear(5.0, border="zero")):
        m = torch.cat([drawn(part).matrix, torch.tensor([[[0.0, 0.0, 1.0]]]).repeat(16, 1, 1)], 1)
        want = kornia.warp_affine(floats(photo(16)), torch.linalg.inv(m)[:, :2].float(), FRAME, padding_mode="zeros")
        assert (applied(part) - want).abs().mean() < 1e-4


def test_positive_is_right_down_larger_counterclockwise_and_leaning_right() -> None:
    middle, one = np.array([24.5, 21.5]), full(1, 1.0)

    def seen(matrix: torch.Tensor, x: float, y: float) -> np.ndarray:
        """Where the content at (x, y) from the center is seen."""
        a = matrix[0].numpy()
        return np.linalg.solve(a[:, :2], middle + np.array([x, y]) - a[:, 2]) - middle  # type: ignore[no-any-return]

    assert np.allclose(seen(translation_matrix(3 * one, 5 * one), 1, 2), (4, 7))
    assert np.allclose(seen(rotation_matrix(90 * one, FRAME), 1, 0), (0, -1))
    assert np.allclose(seen(stretch_matrix(2 * one, 0.5 * one, FRAME), 4, 4), (8, 2))
    assert np.allclose(seen(shear_matrix(0.5 * one, 0 * one, FRAME), 0, -4), (2, -4))
    assert np.allclose(seen(shear_matrix(0 * one, 0.5 * one, FRAME), 4, 0), (4, -2))


def test_draws_are_even_over_their_range() -> None:
    n, box = 40_000, (200, 100)
    m = {type(part): drawn(part, n, box).matrix.numpy() for part in (Translate(0.2), Rotate(30.0), Stretch(1.5), Shear(20.0))}
    x, y = m[Translate][:, 0, 2] / 20, m[Translate][:, 1, 2] / 40
    turn = np.degrees(np.arctan2(m[Rotate][:, 1, 0], m[Rotate][:, 0, 0])) / 30
    wide, tall = (np.log(m[Stretch][:, k, k]) / np.log(1.5) for k in (0, 1))
    lean = np.degrees(np.arctan(m[Shear][:, 0, 1])) / 20
    fall = np.degrees(np.arctan(m[Shear][:, 1, 0])) / 20
    assert np.array_equal(x * 20, (x * 20).round())
    for values in (x, y, turn, wide, tall, lean, fall):
        assert abs(values.mean()) < 0.02 and abs(values.var() - 1 / 3) < 0.01
        assert 0.99 < values.max() <= 1 + 1e-9 and -0.99 > values.min() >= -1 - 1e-9
    for one, other in ((x, y), (wide, tall), (lean, fall)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


# ---- lens ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S121")
@pytest.mark.parametrize("k", [-0.3, -0.1, 0.0, 0.15, 0.5])
def test_a_lens_reads_radius_r_at_r_times_one_plus_k_r_squared(k: float) -> None:
    at = points(drawn(Lens((k, k), p=1.0), 2))[0]
    y, x = np.mgrid[: FRAME[0], : FRAME[1]].astype(np.float64)
    u, v = x - 24.5, y - 21.5
    r = np.hypot(u, v) / (math.hypot(*FRAME) / 2)  # 1 at the image's corners
    factor = (1 + k * r**2)[..., None]
    assert np.abs(at - (np.stack([u, v], -1) * factor + (24.5, 21.5))).max() < 2e-5  # pixels; points are float32
    got = np.hypot(at[..., 0] - 24.5, at[..., 1] - 21.5) / (math.hypot(*FRAME) / 2)
    assert np.abs(got - r * (1 + k * r**2)).max() < 1e-6


def test_barrel_shrinks_the_corners_and_pincushion_grows_them() -> None:
    for k, sign in ((0.3, 1), (-0.3, -1)):
        at = points(drawn(Lens((k, k), p=1.0), 1))[0]
        steps = np.diff(at[..., 0], axis=1)[20]  # input pixels per output pixel along the middle row
        assert (np.diff(steps[25:]) * sign > -1e-5).all() and (steps[-1] - steps[25]) * sign > 0.1


def test_a_lens_never_folds_the_image_and_what_is_outside_stays_outside() -> None:
    at = torch.zeros(1, 1, 400, 2)
    at[..., 0], at[..., 1] = torch.linspace(24.5, 24.5 + 200, 400), torch.linspace(21.5, 21.5 + 176, 400)
    m = drawn(Lens((-0.33, -0.33), p=1.0), 1)
    assert m.warp is not None
    moved = m.warp(at, torch.arange(1))[0, 0]
    assert (moved.diff(dim=0) > 0).all() and moved[-1, 0] > 100


def test_k_is_even_over_its_range() -> None:
    n = 20_000
    m = Lens((-0.1, 0.3), p=1.0).draw(chance(n), 0.0, (3, 3), (3, 3))
    assert m.warp is not None
    corner = m.warp(torch.tensor([2.5, 2.5]).expand(n, 1, 1, 2), torch.arange(n))[:, 0, 0, 0]  # r = 1
    k = ((corner - 1) / 1.5 - 1).numpy()
    assert abs(k.mean() - 0.1) < 0.003 and abs(k.std() - 0.4 / math.sqrt(12)) < 0.002
    assert -0.1 - 1e-5 < k.min() < -0.099 and 0.299 < k.max() < 0.3 + 1e-5


# ---- perspective ---------------------------------------------------------------------------------------------------------------


def test_the_corners_of_the_image_are_seen_where_they_were_moved() -> None:
    inwards = np.random.default_rng(0).uniform(0, 0.6, (200, 4, 2))
    corners = CORNERS * (1 - inwards)
    matrix, tilt = solve_homography(corners, FRAME)
    half, middle = np.array([25.0, 22.0]), np.array([24.5, 21.5])
    for k in range(4):
        away = corners[:, k] * half
        near = away / (1 + (tilt.numpy() * away).sum(1, keepdims=True)) + middle
        at = (matrix.numpy()[:, :, :2] * near[:, None]).sum(2) + matrix.numpy()[:, :, 2]
        assert np.abs(at - (middle + CORNERS[k] * half)).max() < 1e-9


def seen_by_kornia(part: Perspective, n: int) -> torch.Tensor:
    """kornia's homographies [n, 3, 3] float64 from the image to the frame, for the corners that the part draws."""
    inwards = chance(n).double(n=9)[:, 1:].view(n, 4, 2) * part.strength
    corners, half, middle = torch.from_numpy(CORNERS), torch.tensor([25.0, 22.0]), torch.tensor([24.5, 21.5])
    return kornia.get_perspective_transform((corners * half + middle).expand(n, -1, -1), corners * (1 - inwards) * half + middle)


def test_perspective_against_kornia() -> None:
    """Points within 1e-3 pixels of kornia's float64 homography; images within 1e-4 of the range on average."""
    part = Perspective(0.5, "zero", p=1.0)
    y, x = np.mgrid[: FRAME[0], : FRAME[1]]
    back = torch.linalg.inv(seen_by_kornia(part, 16)).numpy()
    at = np.einsum("bij,jhw->bhwi", back / back[:, 2:, 2:], np.stack([x, y, np.ones_like(x)]))
    before = at[..., 2] / (back[:, 2:, :2] @ [24.5, 21.5] / back[:, 2:, 2] + 1)[..., None] > 0.06  # the horizon
    assert before.mean() > 0.95
    assert np.abs(points(drawn(part)) - at[..., :2] / at[..., 2:])[before].max() < 1e-3
    mild = part.scaled(0.08)  # hardly smaller, so not antialiased
    want = kornia.warp_perspective(floats(photo(16)), seen_by_kornia(mild, 16).float(), FRAME)
    assert (applied(mild) - want).abs().mean() < 1e-4


def test_the_corners_move_inwards_evenly_up_to_the_strength() -> None:
    n, strength = 4000, 0.4
    m = Perspective(strength, p=1.0).draw(chance(n), 0.0, FRAME, FRAME)
    assert m.warp is not None
    corners, half, middle = torch.from_numpy(CORNERS), torch.tensor([25.0, 22.0]), torch.tensor([24.5, 21.5])
    inner = (corners * half / 3 + middle).expand(n, -1, -1)
    bent = m.warp(inner.float()[:, None], torch.arange(n))[:, 0].double()
    sent = torch.einsum("bij,bkj->bki", m.matrix[:, :, :2], bent) + m.matrix[:, None, :, 2]
    seen = transform_points(kornia.get_perspective_transform(sent, inner), (corners * half + middle).expand(n, -1, -1))
    inwards = (1 - (seen - middle) / half / corners).flatten(1).numpy() / strength
    assert inwards.min() > -1e-3 and inwards.max() < 1 + 1e-3
    assert np.abs(inwards.mean(0) - 0.5).max() < 0.02 and np.abs(inwards.var(0) - 1 / 12).max() < 0.005
    assert np.abs(np.corrcoef(inwards.T) - np.eye(8)).max() < 0.08


def test_beyond_the_horizon_points_are_finite_and_outside() -> None:
    part = Perspective(0.6, p=1.0)
    at = points(part.draw(chance(3000), 0.0, (9, 9), (9, 9)))
    assert np.isfinite(at).all() and np.abs(at).max() > 50
    assert applied(part, 16, (9, 9)).isfinite().all()
    row = torch.stack([torch.arange(101.0), torch.zeros(101)], dim=1)[None, None]
    moved = tilt_points(row, torch.tensor([[-0.04, 0.0]]), (1, 101))[0, 0, :, 0] - 50  # its horizon lies 25 pixels right of the center
    assert (moved[51:75].diff() > 0).all() and (moved[74:] > 400).all() and (moved[:50] < 0).all()


# ---- elastic -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "step"), [(32, 6.65), (44, 9.1), (7, 1.0), (1, 3.0)])
def test_the_splines_are_scipys(n: int, step: float) -> None:
    weights = spline_weights(n, step).numpy()
    knots = np.arange(-3, weights.shape[1] + 1, dtype=np.float64) * step  # of the B-splines centered at -step, 0, step, ...
    want = np.stack([interpolate.BSpline.basis_element(knots[k : k + 5], False)(np.arange(n)) for k in range(weights.shape[1])], 1)
    assert np.abs(weights - np.nan_to_num(want)).max() < 1e-6
    assert np.abs(weights.sum(1) - 1).max() < 1e-6


def field(part: Elastic, n: int, box: Frame) -> np.ndarray:
    """Displacements [n, h, w, 2] in pixels."""
    return points(drawn(part, n, box)) - points(drawn(part.scaled(0.0), n, box))  # type: ignore[no-any-return]


def test_elastic_displacements_are_as_wide_and_as_smooth_as_asked() -> None:
    alpha, sigma, side = 0.04, 0.1, 60
    moved = field(Elastic(alpha, sigma, p=1.0), 600, (side, side + 20))
    assert abs(moved.mean()) < 0.05 * alpha * side
    assert np.abs(moved.std(axis=(0, 1, 2)) / (alpha * side) - 1).max() < 0.03
    for lag in (3, 6, 12):  # even noise under a Gaussian of sigma has this autocorrelation
        want = math.exp(-((lag / (2 * sigma * side)) ** 2))
        for one, other in ((moved[:, lag:], moved[:, :-lag]), (moved[:, :, lag:], moved[:, :, :-lag])):
            assert abs((one * other).mean() / moved.var() - want) < 0.06
    assert abs((moved[..., 0] * moved[..., 1]).mean() / moved.var()) < 0.03


def test_the_field_is_the_tensor_product_of_splines_over_even_noise() -> None:
    part, box = Elastic(0.05, 0.15, p=1.0), (20, 24)
    down, across = (spline_weights(n, math.sqrt(3) * 0.15 * 20).double().numpy() for n in box)
    noise = chance(5).at("field").uniform(-1, 1, n=2 * down.shape[1] * across.shape[1]).double().numpy()
    noise = noise.reshape(5, 2, down.shape[1], across.shape[1]) * 0.05 * 20 * math.sqrt(3) * 315 / 151
    want = np.einsum("yr,bcrs,xs->byxc", down, noise, across)
    assert np.abs(field(part, 5, box) - want).max() < 1e-4


def test_at_its_default_strength_elastic_does_not_fold_the_image() -> None:
    at = points(drawn(Elastic(p=1.0), 300, (48, 48)))
    (xx, xy), (yx, yy) = ((np.diff(at[..., k], axis=2)[:, :-1], np.diff(at[..., k], axis=1)[:, :, :-1]) for k in (0, 1))
    assert (xx * yy - xy * yx > 0).mean() > 0.9999


# ---- settings ------------------------------------------------------------------------------------------------------------------


def test_settings_out_of_range_are_refused() -> None:
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (Translate, {"share": 1.5}, "translate"),
        (Rotate, {"degrees": 181.0}, "rotate"),
        (Stretch, {"factor": 0.9}, "stretch"),
        (Shear, {"degrees": 90.0}, "shear"),
        (Lens, {"k": (0.2, 0.1)}, "lens: expected k to be"),
        (Lens, {"k": (-0.4, 0.1)}, "lens"),
        (Perspective, {"strength": 0.7}, "perspective"),
        (Elastic, {"sigma": 0.0}, "elastic"),
        (Rotate, {"border": "wrap"}, "rotate"),
    ]
    for part, settings, sentence in refused:
        with pytest.raises(UsageError, match=sentence):
            part(**settings)


def test_all_of_them_in_one_pipe_are_one_sampling() -> None:
    b, c = batch(4), chance(4)
    parts = (Rotate(), Lens(p=1.0), Shear(), Perspective(0.3, p=1.0), Elastic(0.03, 0.12), Stretch(), Translate())
    parts = tuple(dataclasses.replace(part, border="reflect") for part in parts)  # type: ignore[type-var]
    out = Pipeline(parts, FRAME)(b, c, 0.0).images
    at = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in reversed(FRAME)), indexing="xy"), -1).repeat(4, 1, 1, 1).double()
    rows = torch.arange(4)
    for k, part in reversed(list(enumerate(parts))):
        m = part.draw(c.at(type(part).__name__.lower(), k), 0.0, FRAME, FRAME)
        at = m.warp(at.float(), rows).double() if m.warp else at
        at = torch.einsum("bij,bhwj->bhwi", m.matrix, torch.cat([at, torch.ones_like(at[..., :1])], -1))
    for image, where, got in zip(b.images, at.numpy(), out.numpy(), strict=True):
        assert np.abs(got - read(image, where, "reflect")).mean() < 5e-3
