"""Colors against float64 formulas in NumPy and against kornia."""

from __future__ import annotations

import itertools

import kornia.enhance as ke
import numpy as np
import pytest
import torch

from goodfit.augment import color
from goodfit.augment.apply import Pipeline
from goodfit.augment.color import Jitter, recolor
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance

GRAY = np.array([0.299, 0.587, 0.114])
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
N, BOX = 48, (13, 15)


def images(low: float = 0.0, high: float = 1.0, channels: int = 3) -> torch.Tensor:
    pixels = torch.rand(N, *BOX, channels, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    return pixels.permute(0, 3, 1, 2)


def batch(pixels: torch.Tensor) -> Batch:
    return Batch(pixels, one_hot(torch.arange(N) % 3, 3), torch.arange(N))


def chance(n: int = N) -> Chance:
    return Chance.of(7, torch.arange(n))


def factors(name: str, low: float, high: float) -> np.ndarray:
    """The factors a jitter at the pipe's start draws."""
    column = ["p", "brightness", "contrast", "saturation", "hue"].index(name)
    return chance().at("jitter", 0).uniform(n=5)[:, column].double().numpy() * (high - low) + low


# ---- each op in float64, on one image [H, W, 3]: (image, factor) -> image ------------------------------------------------------


def bright(x: np.ndarray, f: float) -> np.ndarray:
    return x * f


def contrasted(x: np.ndarray, f: float) -> np.ndarray:
    return f * x + (1 - f) * (x @ GRAY).mean()


def saturated(x: np.ndarray, f: float) -> np.ndarray:
    return f * x + (1 - f) * (x @ GRAY)[..., None]


def hued(x: np.ndarray, turns: float) -> np.ndarray:
    yiq = x @ YIQ.T
    chroma = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(2j * np.pi * turns)
    return np.stack([yiq[..., 0], chroma.real, chroma.imag], -1) @ np.linalg.inv(YIQ).T


OPS = {"brightness": bright, "contrast": contrasted, "saturation": saturated, "hue": hued}


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).double().numpy()


@pytest.mark.item("S119")
@pytest.mark.parametrize("low_high", [(0.0, 1.0), (0.4, 0.6)])
def test_jitter_in_order_against_numpy(low_high: tuple[float, float]) -> None:
    """Within 1e-5; with the narrow range nothing is clamped."""
    part, x = Jitter(0.3, contrast=0.5, hue=0.1), images(*low_high)
    drawn = {
        "brightness": factors("brightness", 0.7, 1.3),
        "contrast": factors("contrast", 0.5, 1.5),
        "saturation": factors("saturation", 0.7, 1.3),
        "hue": factors("hue", -0.1, 0.1),
    }
    want = nhwc(x)
    for name, op in OPS.items():
        want = np.stack([op(image, f) for image, f in zip(want, drawn[name], strict=True)])
    got = nhwc(Pipeline((part,), BOX)(batch(x), chance(), 0.0).images)
    assert np.abs(got - want.clip(0, 1)).max() < 1e-5


@pytest.mark.item("S119")
def test_factors_keep_to_their_ranges() -> None:
    matrix = Jitter(0.0, brightness=0.25).draw(chance(20_000), 0.0)
    factor = matrix[:, 0, 0]
    assert torch.equal(matrix[:, :, :3], torch.eye(3, dtype=torch.float64) * factor[:, None, None]) and not matrix[:, :, 3:].any()
    assert 0.75 <= factor.min() < 0.751 and 1.249 < factor.max() < 1.25
    assert abs(factor.mean() - 1) < 0.005
    wild = Jitter(0.0, contrast=3.0).draw(chance(20_000), 0.0)
    kept = wild[:, 0, 0]
    assert 0 <= kept.min() < 0.001 and 3.999 < kept.max() <= 4  # never a negative
    share = (Jitter(0.4, p=0.3).draw(chance(20_000), 0.0)[:, 0, 0] != 1).double().mean()
    assert abs(share - 0.3) < 0.015


def test_jitter_against_kornia_on_the_same_factors() -> None:
    """kornia's ops one after the other, on pixels that no step clamps: within 1e-5."""
    x = images(0.45, 0.55)
    got = Pipeline((Jitter(0.3),), BOX)(batch(x), chance(), 0.0).images
    b, c, s = (torch.from_numpy(factors(name, 0.7, 1.3)).float() for name in ("brightness", "contrast", "saturation"))
    want = ke.adjust_brightness_accumulative(x.contiguous(), b)
    want = ke.adjust_contrast_with_mean_subtraction(want, c)
    want = ke.adjust_saturation_with_gray_subtraction(want, s)
    assert (got - want).abs().max() < 1e-5


def test_random_orders_are_all_there_and_each_is_its_own_sequence() -> None:
    part, x = Jitter(0.2, hue=0.1, order="random"), images(0.4, 0.6)
    got = nhwc(Pipeline((part,), BOX)(batch(x), chance(), 0.0).images)
    drawn = {name: factors(name, 0.8, 1.2) for name in OPS} | {"hue": factors("hue", -0.1, 0.1)}
    found = []
    for k, image in enumerate(nhwc(x)):
        errors = {}
        for order in itertools.permutations(OPS):
            want = image
            for name in order:
                want = OPS[name](want, drawn[name][k])
            errors[order] = np.abs(got[k] - want).max()
        found.append(min(errors, key=errors.__getitem__))
        assert errors[found[-1]] < 1e-5
    assert len(set(found)) > 8  # of 24, some alike to rounding, among 48 images
    orders = chance(5000).at("order").bits(4).argsort(dim=1)
    assert len(orders.unique(dim=0)) == 24


def test_neighbours_equal_one_after_the_other() -> None:
    """Without clamping, to 1e-5; with one pass over the pixels."""
    x, c = images(0.4, 0.6), chance()
    parts = (Jitter(0.2, hue=0.05), Jitter(0.1, order="random"), Jitter(0.3))
    together = Pipeline(parts, BOX)(batch(x), c, 0.0).images
    apart = batch(x)
    for position, part in enumerate(parts):
        apart = part(apart, c.at("jitter", position), 0.0)
    assert (together - apart.images).abs().max() < 1e-5


def test_hue_turns_chroma_and_leaves_luma_and_gray() -> None:
    x = images(0.3, 0.7)
    turned = recolor(x, color.hue(torch.full((N,), 0.2)))
    luma = torch.from_numpy(GRAY).float()
    assert ((turned - x).permute(0, 2, 3, 1) @ luma).abs().max() < 1e-5
    assert (turned - x).abs().mean() > 0.02
    gray = x[:, :1].expand(-1, 3, -1, -1)
    assert (recolor(gray, color.hue(torch.full((N,), 0.37))) - gray).abs().max() < 1e-5
    full = color.compose(color.hue(torch.full((N,), 0.3)), color.hue(torch.full((N,), 0.7)))
    assert (full - color.identity(N)).abs().max() < 1e-12


def test_one_channel_is_gray_and_alpha_is_left_alone() -> None:
    part = Jitter(0.4, hue=0.2)
    gray, rgba = images(channels=1), images(channels=4)
    got = Pipeline((part,), BOX)(batch(gray), chance(), 0.0).images
    as_rgb = Pipeline((part,), BOX)(batch(gray.expand(-1, 3, -1, -1)), chance(), 0.0).images
    assert (got - as_rgb).abs().max() < 1e-5
    assert torch.equal(recolor(gray, color.identity(N)), gray)
    only_chroma = Pipeline((Jitter(0.0, saturation=0.9, hue=0.3),), BOX)(batch(gray), chance(), 0.0).images
    assert (only_chroma - gray).abs().max() < 1e-6
    four = Pipeline((part,), BOX)(batch(rgba), chance(), 0.0).images
    three = Pipeline((part,), BOX)(batch(rgba[:, :3]), chance(), 0.0).images
    assert torch.equal(four[:, 3], rgba[:, 3]) and (four[:, :3] - three).abs().max() < 1e-6


@pytest.mark.parametrize("box", [(8, 8), (7, 9), (1, 1), (2, 3)])
def test_any_number_of_pixels(box: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (5, *box, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    got = recolor(pixels, color.contrast(torch.tensor([0.5, 1.0, 1.5, 0.0, 2.0])))
    for image, f, out in zip(nhwc(pixels) / 255, (0.5, 1.0, 1.5, 0.0, 2.0), nhwc(got), strict=True):
        assert np.abs(out - contrasted(image, f).clip(0, 1)).max() < 1e-5
