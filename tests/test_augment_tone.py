"""Tone, blur, sharpness and noise against Pillow, kornia and float64 formulas in NumPy and SciPy."""

from __future__ import annotations

import math
from typing import Any

import kornia.enhance as ke
import kornia.filters as kf
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image, ImageEnhance, ImageOps

from goodfit.augment import blur, noise, tone
from goodfit.augment.blur import Blur, Sharpness
from goodfit.augment.noise import Noise
from goodfit.augment.pipeline import Pipeline
from goodfit.augment.tone import Autocontrast, Equalize, Gamma, Posterize, Solarize
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.parts import spell

N, BOX = 24, (19, 22)


def stored(channels: int = 3) -> torch.Tensor:
    """uint8 images: noise, narrow ranges, few levels, one level, all black, all white, and a ramp."""
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 256, (N, *BOX, channels))
    pixels[1] = pixels[1] // 5 + 90
    pixels[2] = pixels[2] // 128 * 77
    pixels[3], pixels[4], pixels[5] = 60, 0, 255
    pixels[6] = np.arange(BOX[1])[None, :, None] * 3 + 20
    pixels[7, ..., 0] = pixels[7, ..., 0] // 2 + 100  # one channel alone
    pixels[8] = np.where(rng.random((*BOX, channels)) < 0.9, 7, pixels[8])
    pixels[9] = (rng.normal(128, 20, (*BOX, channels))).clip(0, 255)
    return torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2)


def batch(pixels: torch.Tensor) -> Batch:
    return Batch(pixels, one_hot(torch.arange(N) % 3, 3), torch.arange(N))


def chance(n: int = N) -> Chance:
    return Chance.of(5, torch.arange(n))


def by_pillow(pixels: torch.Tensor, op: Any) -> torch.Tensor:
    """Each image [H, W, C] through `op(image, k)` of Pillow images."""
    gray = pixels.shape[1] == 1
    out = []
    for k, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        done = np.array(op(Image.fromarray(image[..., 0] if gray else image), k))
        out.append(torch.from_numpy(done[..., None] if gray else done))
    return torch.stack(out).permute(0, 3, 1, 2)


# ---- tables, exactly as Pillow's -----------------------------------------------------------------------------------------------

BITS = torch.arange(N) % 8 + 1
THRESHOLD = torch.linspace(0, 256, N).round()
EXACT: dict[str, Any] = {
    "posterize": (lambda x: tone.posterize(x, BITS), lambda x, k: ImageOps.posterize(x, int(BITS[k]))),
    "solarize": (lambda x: tone.solarize(x, THRESHOLD), lambda x, k: ImageOps.solarize(x, int(THRESHOLD[k]))),
    "autocontrast": (tone.autocontrast, lambda x, k: ImageOps.autocontrast(x)),
    "equalize": (tone.equalize, lambda x, k: ImageOps.equalize(x)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXACT)
def test_tables_are_pillows_exactly(name: str, channels: int) -> None:
    ours, theirs = EXACT[name]
    got, want = ours(stored(channels)), by_pillow(stored(channels), theirs)
    assert got.dtype == torch.uint8 and torch.equal(got, want)
    assert not torch.equal(got, stored(channels))


@pytest.mark.parametrize("name", EXACT)
def test_floats_are_taken_at_their_levels_and_alpha_is_left_alone(name: str) -> None:
    ours, _ = EXACT[name]
    want = ours(stored()).float() / 255
    rgba = torch.cat([stored(), stored(1)], dim=1)
    for x in (rgba, rgba.float() / 255, (rgba.float() / 255 + 0.4 / 255).clamp(max=1)):  # the last lies between two levels
        got = ours(x)
        assert got.dtype == x.dtype and torch.equal(got[:, 3], x[:, 3])
        colors = got[:, :3].float() / 255 if x.dtype == torch.uint8 else got[:, :3]
        assert torch.equal(colors, want)


def test_equalize_of_fewer_pixels_than_levels() -> None:
    """Where Pillow does nothing: the lowest level becomes 0, the highest 255, those between by the share of pixels below them."""
    x = stored()[..., :7, :9]
    got = tone.equalize(x)
    for image, out in zip(x.numpy().reshape(-1, 63), got.numpy().reshape(-1, 63), strict=True):
        below = (image[None] < image[:, None]).sum(1)
        spread = (image < image.max()).sum()
        assert np.array_equal(out, below * 255 // spread if spread else image)
    assert (got.flatten(1).amax(1)[:3] == 255).all()


def test_gamma_against_numpy_and_kornia() -> None:
    exponent = torch.linspace(0.3, 3, N, dtype=torch.float64)
    x = stored()
    got = tone.adjust_gamma(x, exponent)
    want = (x.double().numpy() / 255) ** exponent.numpy()[:, None, None, None]
    assert got.dtype == torch.uint8 and np.abs(got.numpy() - 255 * want).max() <= 0.5 + 1e-9
    floats = x.float() / 255
    theirs = torch.stack([ke.adjust_gamma(image, float(g)) for image, g in zip(floats, exponent, strict=True)])
    assert (tone.adjust_gamma(floats, exponent) - theirs).abs().max() <= 0.5 / 255 + 1e-5


def test_large_images_are_cut_into_chunks_alike() -> None:
    """Images of more values than a chunk holds, and batches of several chunks."""
    x = torch.randint(0, 256, (3, 320, 310, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    assert torch.equal(tone.equalize(x), by_pillow(x, lambda image, _: ImageOps.equalize(image)))
    small = stored().repeat(20, 1, 1, 1)
    assert torch.equal(tone.autocontrast(small), tone.autocontrast(stored()).repeat(20, 1, 1, 1))


# ---- blur and sharpness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_against_kornia(channels: int) -> None:
    """kornia's gaussian_blur2d, its kernel cut at the same 3 sigma: within 1e-5."""
    sigma = torch.linspace(0.1, 3, N, dtype=torch.float64)
    x = stored(channels)
    floats = (x.float() / 255).contiguous()
    want = torch.empty_like(floats)
    for k, s in enumerate(sigma.tolist()):
        side = 2 * math.ceil(3 * s) + 1
        want[k] = kf.gaussian_blur2d(floats[k : k + 1], (side, side), (s, s), border_type="reflect")[0]
    for given in (x, floats, floats.contiguous(memory_format=torch.channels_last)):
        assert (blur.blur(given, sigma) - want).abs().max() < 1e-5


def test_blur_keeps_the_mean_of_a_point_and_spreads_it_by_sigma() -> None:
    """The variance of what one pixel becomes is sigma^2, less what is cut off beyond 3 sigma (under 3 in a hundred)."""
    x = torch.zeros(5, 1, 41, 41)
    x[:, :, 20, 20] = 1
    sigma = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    out = blur.blur(x, sigma)
    assert (out.sum(dim=(1, 2, 3)) - 1).abs().max() < 1e-5
    away = torch.arange(41.0) - 20
    for axis in (2, 3):
        variance = (out.sum(dim=(1, axis)) * away**2).sum(1)
        assert ((variance / sigma**2 - 1).abs() < 0.03).all()


def test_no_blur_is_the_image_and_wide_blur_is_flat_even_where_it_reaches_beyond_the_image() -> None:
    x = stored().float() / 255
    assert (blur.blur(x, torch.zeros(N)) - x).abs().max() < 1e-6
    assert blur.blur(x, torch.full((N,), 40.0)).std(dim=(2, 3)).max() < 0.02


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.9])
def test_sharpness_against_pillow(channels: int, factor: float) -> None:
    """Pillow rounds the smoothed image to whole levels, and cuts the result: at most 1 to 2 levels apart."""
    x = stored(channels)
    want = by_pillow(x, lambda image, _: ImageEnhance.Sharpness(image).enhance(factor)).float()
    got = blur.adjust_sharpness(x, torch.full((N,), factor)) * 255
    assert (got - want).abs().max() <= 1 + max(0.5, abs(factor - 1) / 2)
    assert (got - want).abs().mean() < 0.6
    assert (blur.adjust_sharpness(x.float() / 255, torch.full((N,), factor)) * 255 - got).abs().max() < 1e-3


@pytest.mark.parametrize("box", [(1, 1), (1, 5), (2, 3), (3, 1), (3, 3)])
def test_tiny_images(box: tuple[int, int]) -> None:
    x = torch.randint(0, 256, (4, *box, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)).permute(0, 3, 1, 2)
    sharp = blur.adjust_sharpness(x, torch.full((4,), 1.5))
    if box != (3, 3):
        assert (sharp - x.float() / 255).abs().max() < 1e-6  # nothing but border
    else:
        middle = (1.5 * x[:, :, 1, 1].double() - 0.5 * (x.double().sum((2, 3)) + 4 * x[:, :, 1, 1].double()) / 13) / 255
        assert (sharp[:, :, 1, 1] - middle.clamp(0, 1)).abs().max() < 1e-6
    soft = blur.blur(x, torch.full((4,), 1.0))
    assert soft.shape == x.shape and (box != (1, 1) or (soft - x.float() / 255).abs().max() < 1e-6)
    assert tone.equalize(x).shape == tone.autocontrast(x).shape == x.shape


# ---- noise ---------------------------------------------------------------------------------------------------------------------


def test_noise_is_normal_of_its_std_and_independent() -> None:
    values = noise.draw_normals(chance(400), 1001)
    assert values.shape == (400, 1001) and values.dtype == torch.float32
    flat = values.double().numpy().ravel()
    assert abs(flat.mean()) < 0.005 and abs(flat.std() - 1) < 0.005
    assert scipy.stats.kstest(flat, "norm").pvalue > 1e-3
    assert abs(scipy.stats.kurtosis(flat)) < 0.03 and abs(scipy.stats.skew(flat)) < 0.02
    for lag in (1, 2, 3, 4, 1001):
        assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 0.006
    x, std = torch.full((400, 3, 9, 11), 0.5), torch.linspace(0.0, 0.1, 400)
    added = noise.add_noise(x, std, chance(400)) - x
    found = added.flatten(1).std(1)
    assert found[0] == 0 and ((found[20:] / std[20:] - 1).abs() < 0.2).all() and abs((found[20:] / std[20:]).mean() - 1) < 0.01


def test_noise_is_added_to_the_colors_and_clamped() -> None:
    rgba, std = torch.cat([stored(), stored(1)], dim=1), torch.full((N,), 0.2)
    got = noise.add_noise(rgba, std, chance())
    want = stored().double().permute(0, 2, 3, 1).reshape(N, -1) / 255 + 0.2 * noise.draw_normals(chance(), BOX[0] * BOX[1] * 3)
    assert (got[:, :3].permute(0, 2, 3, 1).reshape(N, -1) - want.clamp(0, 1)).abs().max() < 1e-6
    assert torch.equal(got[:, 3], rgba[:, 3].float() / 255)
    assert got.min() == 0 and got.max() == 1


# ---- parts ---------------------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Any, Any]] = {
    "gamma": (Gamma((0.5, 2.0), p=0.6), lambda x, c: tone.adjust_gamma(x, 0.5 + 1.5 * c.double(n=2)[:, 1])),
    "posterize": (Posterize((2, 5), p=0.6), lambda x, c: tone.posterize(x, c.at("bits").integers(2, 6))),
    "solarize": (Solarize((0.2, 0.7), p=0.6), lambda x, c: tone.solarize(x, (0.2 + 0.5 * c.at("threshold").double(n=2)[:, 1]) * 256)),
    "autocontrast": (Autocontrast(0.6), lambda x, c: tone.autocontrast(x)),
    "equalize": (Equalize(0.6), lambda x, c: tone.equalize(x)),
    "blur": (Blur((0.5, 2.0), p=0.6), lambda x, c: blur.blur(x, 0.5 + 1.5 * c.at("sigma").double(n=2)[:, 1])),
    "sharpness": (Sharpness((0.0, 3.0), p=0.6), lambda x, c: blur.adjust_sharpness(x, 3.0 * c.at("factor").double(n=2)[:, 1])),
    "noise": (Noise((0.1, 0.3), p=0.6), lambda x, c: noise.add_noise(x, 0.1 + 0.2 * c.at("std").double(n=2)[:, 1], c.at("pixels"))),
}


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_does_its_op_to_its_share_of_the_images(name: str, floats: bool) -> None:
    part, op = PARTS[name]
    x = stored().float() / 255 if floats else stored()
    c = chance().at(name, 0)
    got, done = Pipeline((part,), BOX)(batch(x), chance(), 0.0).images, op(x, c)
    chosen = c.at("p").chosen(0.6)
    assert 5 < chosen.sum() < N and got.dtype == done.dtype == (x.dtype if part.keeps_uint8 else torch.float32)
    same = x if got.dtype == x.dtype else x.float() / 255
    assert torch.equal(got[chosen], done[chosen]) and torch.equal(got[~chosen], same[~chosen])
    every = Pipeline((type(part)(**{**vars(part), "p": 1.0}),), BOX)(batch(x), chance(), 0.0).images
    assert torch.equal(every, done)
    none = Pipeline((type(part)(**{**vars(part), "p": 0.0}),), BOX)(batch(x), chance(), 0.0).images
    assert torch.equal(none, same)


@pytest.mark.parametrize(
    ("part", "milder"),
    [
        (Gamma((0.5, 2.0)), Gamma((0.75, 1.5))),
        (Blur((0.5, 2.0)), Blur((0.25, 1.0))),
        (Sharpness((0.0, 1.8)), Sharpness((0.5, 1.4))),
        (Noise((0.1, 0.2)), Noise((0.05, 0.1))),
        (Posterize(p=0.4), Posterize(p=0.2)),
        (Solarize(p=0.4), Solarize(p=0.2)),
        (Autocontrast(0.4), Autocontrast(0.2)),
        (Equalize(0.4), Equalize(0.2)),
    ],
)
def test_milder_parts(part: Any, milder: Any) -> None:
    assert part.scaled(0.5) == milder and part.scaled(1.0) == part


@pytest.mark.parametrize("make", [Gamma, Blur, Sharpness, Noise, lambda ends: Posterize((7, 3)), Solarize])
def test_ranges_the_wrong_way_round_are_said(make: Any) -> None:
    with pytest.raises(UsageError, match=r"to be \(low, high\) with low <= high, received"):
        make((0.9, 0.3))


@pytest.mark.parametrize(
    ("short", "meant"),
    [
        ("noise(0.2)", "noise((0, 0.2))"),
        ("blur(2)", "blur((0, 2))"),
        ("hue(0.1)", "hue((-0.1, 0.1))"),
        ("lens(0.2)", "lens((-0.2, 0.2))"),
        ("brightness(0.4, p=0.5)", "brightness((0.6, 1.4), p=0.5)"),
        ("saturation(1.5)", "saturation((0, 2.5))"),
        ("gamma(exponent=0.3)", "gamma((0.7, 1.3))"),
        ("posterize(4)", "posterize((4, 4))"),
        ("solarize(0.5)", "solarize((0.5, 0.5))"),
    ],
)
def test_a_number_stands_for_a_range(short: str, meant: str) -> None:
    """As far as that from what changes nothing, as jitter(0.4) is; a fixed number where nothing changes nothing."""
    known = Catalog(["goodfit.augment"])
    assert known.make(short, "augment") == known.make(meant, "augment")
    assert known.make(spell(known.make(short, "augment"), full=True), "augment") == known.make(meant, "augment")


@pytest.mark.parametrize("text", ["noise(-0.1)", "lens(0.5)", "hue(0.6)", "gamma(1)", "posterize(4.5)", "blur(True)", "solarize(white)"])
def test_a_number_that_makes_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"{text.partition('(')[0]}: expected \w+ to be "):
        Catalog(["goodfit.augment"]).make(text, "augment")


def test_drawn_numbers_keep_to_their_ranges() -> None:
    x = torch.full((4000, 1, 1, 1), 0.25)
    c = Chance.of(0, torch.arange(4000))
    bits = c.at("bits").integers(3, 8)
    assert bits.unique().tolist() == [3, 4, 5, 6, 7]
    powers = torch.log(Gamma((0.5, 2.0)).change(x, c).flatten().double()) / math.log(0.25)
    assert 0.49 < powers.min() < 0.52 and 1.9 < powers.max() < 2.05  # of whole levels
