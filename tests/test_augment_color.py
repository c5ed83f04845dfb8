"""Colors against float64 formulas in NumPy and against kornia."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import kornia.enhance as ke
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from goodfit.augment import color
from goodfit.augment.color import Color, apply_color_matrix
from goodfit.augment.jitter import PCA, Brightness, Contrast, Grayscale, Hue, Jitter, Saturation, compute_color_components
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.facts import Facts
from goodfit.core.progress import Length, Lengths
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from tests.support.build import build_training

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


def test_jitter_is_the_same_in_every_order() -> None:
    """Which is why it has no setting for it: all 24 sequences of the float64 ops give what it gives, to 1e-5 (nothing is clamped)."""
    part, x = Jitter(0.2, hue=0.1), images(0.4, 0.6)
    got = nhwc(Pipeline((part,), BOX)(batch(x), chance(), 0.0).images)
    drawn = {name: factors(name, 0.8, 1.2) for name in OPS} | {"hue": factors("hue", -0.1, 0.1)}
    for order in itertools.permutations(OPS):
        for image, k in zip(nhwc(x)[:8], range(8), strict=True):
            want = functools.reduce(lambda y, name: OPS[name](y, drawn[name][k]), order, image)
            assert np.abs(got[k] - want).max() < 1e-5


PARTS: tuple[Color, ...] = (
    Jitter(0.2, hue=0.05), Brightness((0.9, 1.1)), PCA(0.05), Contrast((0.7, 1.1)), Saturation((0.6, 1.2), p=0.5), Hue((-0.2, 0.1)),
    Grayscale(0.3), Brightness((0.95, 1.05), p=0.5), PCA(0.02),
)  # fmt: skip


def test_neighbors_equal_one_after_the_other() -> None:
    """Without clamping, to 1e-5; with one pass over the pixels."""
    x, c = images(0.4, 0.6), chance()
    together = Pipeline(PARTS, BOX)(batch(x), c, 0.0).images
    apart = batch(x)
    for position, part in enumerate(PARTS):
        apart = part(apart, c.at(type(part).__name__.lower(), position), 0.0)
        assert apart.images.min() > 0 and apart.images.max() < 1
    assert (together - apart.images).abs().max() < 1e-5
    assert (together - x).abs().mean() > 0.01


def test_a_composed_matrix_is_the_sequence_also_for_contrast_after_an_offset() -> None:
    """Contrast sees the mean that the ops before it leave; in float64."""
    offset, f = torch.linspace(-0.1, 0.1, N * 3, dtype=torch.float64).view(N, 3), torch.linspace(0.5, 1.5, N, dtype=torch.float64)
    got = nhwc(apply_color_matrix(images(0.3, 0.7), color.compose_colors(color.offset_matrix(offset), color.contrast_matrix(f))))
    for image, out, d, factor in zip(nhwc(images(0.3, 0.7)), got, offset.numpy(), f.tolist(), strict=True):
        assert np.abs(out - contrasted(image + d, factor).clip(0, 1)).max() < 1e-6


# ---- one op alone --------------------------------------------------------------------------------------------------------------

ALONE: dict[str, Any] = {
    "brightness": (Brightness((0.5, 1.2)), bright, (0.5, 1.2)),
    "contrast": (Contrast((0.3, 1.6)), contrasted, (0.3, 1.6)),
    "saturation": (Saturation((0.0, 2.0)), saturated, (0.0, 2.0)),
    "hue": (Hue((-0.3, 0.1)), hued, (-0.3, 0.1)),
}


@pytest.mark.item("S119")
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("p", [1.0, 0.4])
def test_an_op_alone_against_numpy(name: str, p: float) -> None:
    """Within 1e-5 of the float64 formula with the drawn numbers."""
    part, op, (low, high) = ALONE[name]
    part = type(part)((low, high), p=p)
    chosen, way = chance().at(name, 0).double(n=2).numpy().T
    neutral = 0.0 if name == "hue" else 1.0
    got = nhwc(Pipeline((part,), BOX)(batch(images()), chance(), 0.0).images)
    for image, out, share, w in zip(nhwc(images()), got, chosen, way, strict=True):
        want = op(image, low + w * (high - low) if share < p else neutral)
        assert np.abs(out - want.clip(0, 1)).max() < 1e-5


@pytest.mark.item("S119")
def test_factors_of_ops_alone_keep_to_their_ranges() -> None:
    many = chance(20_000)
    read = {"brightness": lambda m: m[:, 0, 0], "contrast": lambda m: m[:, 0, 0], "saturation": lambda m: m[:, 0, 0] - m[:, 1, 0]}
    for name, of in read.items():
        part, _, (low, high) = ALONE[name]
        factor = of(part.draw(many, 0.0))
        assert low - 1e-9 <= factor.min() < low + 0.001 and high - 0.001 < factor.max() <= high + 1e-9
        assert abs(factor.mean() - (low + high) / 2) < 0.015
    turns = (
        torch.atan2(
            *(color.RGB_TO_YIQ @ Hue((-0.3, 0.1)).draw(many, 0.0)[:, :, :3] @ torch.linalg.inv(color.RGB_TO_YIQ))[:, 1:, 1].T.flip(0)
        )
        / 2
        / np.pi
    )
    assert -0.3 <= turns.min() < -0.299 and 0.099 < turns.max() <= 0.1


def test_milder_ops_have_milder_ranges() -> None:
    assert Brightness((0.5, 1.2)).scaled(0.5) == Brightness((0.75, 1.1))
    assert Hue((-0.2, 0.1)).scaled(0.5) == Hue((-0.1, 0.05))
    assert PCA(0.1).scaled(0.5) == PCA(0.05)
    assert Grayscale(0.2).scaled(0.5) == Grayscale(0.1)
    assert all(part.scaled(1.0) == part for part in PARTS)
    for part in PARTS:
        assert torch.equal(part.scaled(0.0).draw(chance(), 0.0), color.identity_matrix(N)) or isinstance(part, (Jitter, Hue))
        assert (part.scaled(0.0).draw(chance(), 0.0) - color.identity_matrix(N)).abs().max() < 1e-15


@pytest.mark.parametrize(("cls", "name"), [(Brightness, "factor"), (Hue, "turns")])
def test_a_range_the_wrong_way_round_is_said(cls: Any, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} to be \(low, high\) with low <= high, received \(0.4, 0.1\)"):
        cls((0.4, 0.1))


@pytest.mark.parametrize(("op", "theirs"), [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")])
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.7])
def test_against_pillow(op: str, theirs: str, factor: float) -> None:
    """Pillow's ImageEnhance on the same factors: at most 2 of 255 levels apart (it rounds the gray, and the mean gray, to whole levels)."""
    pixels = torch.randint(0, 256, (4, 3, 16, 17), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    got = apply_color_matrix(pixels, getattr(color, f"{op}_matrix")(torch.full((4,), factor))).mul(255).permute(0, 2, 3, 1).numpy()
    for image, out in zip(pixels.permute(0, 2, 3, 1).numpy(), got, strict=True):
        want = np.asarray(getattr(ImageEnhance, theirs)(Image.fromarray(image)).enhance(factor)).astype(float)
        assert np.abs(out - want).max() <= 2
        assert np.abs(out - want).mean() < 1


def test_grayscale_is_luma_in_every_channel() -> None:
    x = images()
    got = Pipeline((Grayscale(0.5),), BOX)(batch(x), chance(), 0.0).images
    luma = torch.from_numpy(nhwc(x) @ GRAY)[:, None]
    gray = ((got - luma).abs() < 1e-6).all(dim=(1, 2, 3))
    assert torch.equal(gray, chance().at("grayscale", 0).chosen(0.5)) and 10 < gray.sum() < 38
    assert (got[~gray] - x[~gray]).abs().max() < 1e-6


# ---- PCA -----------------------------------------------------------------------------------------------------------------------

MIX = np.array([[0.25, 0.1, 0.0], [0.2, -0.05, 0.06], [0.15, -0.1, -0.05]])


def facts(covariance: np.ndarray) -> Facts:
    n, rows = len(covariance), tuple(tuple(row) for row in covariance.tolist())
    return Facts(("a", "b"), (1, 1), n, BOX, (0.5,) * n, (0.2,) * n, rows, Lengths(10, 8, Length.read("100 steps")))


@pytest.mark.item("S120")
def test_the_offset_is_constant_over_the_image_and_its_std_along_each_component_is_alpha_times_lambda() -> None:
    covariance, n = MIX @ MIX.T, 20_000
    values, vectors = np.linalg.eigh(covariance)
    part = PCA(0.1).bind(facts(covariance))
    matrix = part.draw(chance(n), 0.0)
    assert torch.equal(matrix[:, :, :6], color.identity_matrix(n)[:, :, :6])
    offset = matrix[:, :, 6].numpy()
    along = offset @ vectors
    assert np.allclose(along.std(axis=0), 0.1 * values, rtol=0.03)
    assert np.abs(along.mean(axis=0)).max() < 0.03 * 0.1 * values.max()
    assert np.abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.03  # drawn independently
    x = images(0.4, 0.6)
    moved = Pipeline((part,), BOX)(batch(x), chance(), 0.0).images - x
    own = part.draw(chance().at("pca", 0), 0.0)[:, :, 6]
    assert (moved - own[:, :, None, None]).abs().max() < 1e-6
    assert moved.std(dim=(2, 3)).max() < 1e-6 < moved.abs().mean()


@pytest.mark.item("S120")
def test_the_covariance_is_that_of_the_training_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = (rng.random((60, 8, 8, 1)) * rng.integers(40, 250, (60, 1, 1, 3)) * rng.uniform(0.2, 1, (60, 1, 1, 1))).astype(np.uint8)
    np.savez(tmp_path / "colors.npz", images=stored, labels=np.arange(60) % 3)
    recipe = Recipe(
        data=str(tmp_path / "colors.npz"), size=8, channels=3, model="mlp((5,))", augment="pca(0.2)", optimizer="sgd(0.05)",
        schedule="constant", budget="2 steps", batch_size=8, evaluate_every="1 step", probes="none", precision="fp32", layout="contiguous",
        device="cpu", threads=1, workers=0, validation=0.5,
    )  # fmt: skip
    data = open_images(recipe)
    built: Any = build_training(recipe, data)
    (part,) = built.plan.augment.parts
    train = data.pixels.read(data.rows("train")).numpy().reshape(-1, 3) / 255
    values, vectors = np.linalg.eigh(np.cov(train.T, bias=True))
    assert part.sigma == 0.2
    found = np.array(part._components)
    assert np.allclose(np.linalg.norm(found, axis=1), values[::-1], atol=1e-12)
    assert np.allclose(np.abs((found / values[::-1, None]) @ vectors[:, ::-1]), np.eye(3), atol=1e-9)
    assert not np.allclose(
        found, compute_color_components(tuple(map(tuple, np.cov(stored.reshape(-1, 3).T / 255)))), atol=1e-4
    )  # not that of all images


def test_principal_components() -> None:
    covariance = MIX @ MIX.T
    found = np.array(compute_color_components(tuple(map(tuple, covariance))))
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.allclose(unit.T @ found, covariance)  # the sum of lambda e e^T
    assert (np.diff(np.linalg.norm(found, axis=1)) < 0).all()
    assert all(row[np.abs(row).argmax()] > 0 for row in found)
    assert compute_color_components(((0.04,),)) == ((0.04, 0.04, 0.04),)
    padded = np.pad(covariance, (0, 1), constant_values=0.3)
    assert compute_color_components(tuple(map(tuple, padded))) == compute_color_components(
        tuple(map(tuple, covariance))
    )  # alpha is left out


def test_pca_of_gray_images_moves_them_by_their_variance() -> None:
    part = PCA(0.1).bind(facts(np.array([[0.05]])))
    moved = Pipeline((part,), BOX)(batch(images(0.4, 0.6, channels=1)), chance(), 0.0).images - images(0.4, 0.6, channels=1)
    assert moved.std(dim=(2, 3)).max() < 1e-6
    assert abs(moved.mean(dim=(1, 2, 3)).std() / 0.005 - 1) < 0.3


# ---- what all share ------------------------------------------------------------------------------------------------------------


def test_hue_turns_chroma_and_leaves_luma_and_gray() -> None:
    x = images(0.3, 0.7)
    turned = apply_color_matrix(x, color.hue_matrix(torch.full((N,), 0.2)))
    luma = torch.from_numpy(GRAY).float()
    assert ((turned - x).permute(0, 2, 3, 1) @ luma).abs().max() < 1e-5
    assert (turned - x).abs().mean() > 0.02
    gray = x[:, :1].expand(-1, 3, -1, -1)
    assert (apply_color_matrix(gray, color.hue_matrix(torch.full((N,), 0.37))) - gray).abs().max() < 1e-5
    full = color.compose_colors(color.hue_matrix(torch.full((N,), 0.3)), color.hue_matrix(torch.full((N,), 0.7)))
    assert (full - color.identity_matrix(N)).abs().max() < 1e-12


def test_one_channel_is_gray_and_alpha_is_left_alone() -> None:
    part = Jitter(0.4, hue=0.2)
    gray, rgba = images(channels=1), images(channels=4)
    got = Pipeline((part,), BOX)(batch(gray), chance(), 0.0).images
    as_rgb = Pipeline((part,), BOX)(batch(gray.expand(-1, 3, -1, -1)), chance(), 0.0).images
    assert (got - as_rgb).abs().max() < 1e-5
    assert torch.equal(apply_color_matrix(gray, color.identity_matrix(N)), gray)
    only_chroma = Pipeline((Jitter(0.0, saturation=0.9, hue=0.3),), BOX)(batch(gray), chance(), 0.0).images
    assert (only_chroma - gray).abs().max() < 1e-6
    four = Pipeline((part,), BOX)(batch(rgba), chance(), 0.0).images
    three = Pipeline((part,), BOX)(batch(rgba[:, :3]), chance(), 0.0).images
    assert torch.equal(four[:, 3], rgba[:, 3]) and (four[:, :3] - three).abs().max() < 1e-6


@pytest.mark.parametrize("box", [(8, 8), (7, 9), (1, 1), (2, 3)])
def test_any_number_of_pixels(box: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (5, *box, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    got = apply_color_matrix(pixels, color.contrast_matrix(torch.tensor([0.5, 1.0, 1.5, 0.0, 2.0])))
    for image, f, out in zip(nhwc(pixels) / 255, (0.5, 1.0, 1.5, 0.0, 2.0), nhwc(got), strict=True):
        assert np.abs(out - contrasted(image, f).clip(0, 1)).max() < 1e-5
