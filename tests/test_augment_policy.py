"""Policies: what is drawn, and the same ops image by image in Pillow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from goodfit.augment.policy import Policy, RandAugment, TrivialAugment
from goodfit.augment.policy_ops import OPS, Op, SlotDraws
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.parts import spell

CATALOG = Catalog(["goodfit.augment"])
SIZE = (28, 36)
POLICIES = [TrivialAugment(), RandAugment(), RandAugment(3, 27), TrivialAugment(0.4), RandAugment(1, p=0.5)]
SIGNED: tuple[Op, ...] = (
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation", "contrast", "sharpness"
)  # fmt: skip


def chance(n: int, seed: int = 5) -> Chance:
    return Chance.of(seed, torch.arange(n))


def batch(n: int = 140, channels: int = 3) -> Batch:
    """Photos of a kind: two waves of any direction and color, and some noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]][..., None]
    waves = [np.sin(rng.uniform(-0.4, 0.4, (n, 1, 1, channels)) * x + rng.uniform(-0.4, 0.4, (n, 1, 1, channels)) * y) for _ in range(2)]
    pixels = 127 + 55 * (waves[0] + waves[1]) * rng.uniform(0.3, 1, (n, 1, 1, 1)) + rng.normal(0, 5, (n, *SIZE, channels))
    images = torch.from_numpy(pixels.round().clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)
    return Batch(images, one_hot(torch.arange(n) % 3, 3), torch.arange(n))


def part(text: str) -> Any:
    return CATALOG.make(text, "augment")


def names(drawn: SlotDraws) -> list[Op]:
    return [OPS[k] for k in drawn.op.tolist()]


# ---- what is drawn --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [TrivialAugment(), RandAugment(), RandAugment(3, 27)])
def test_every_op_is_as_likely_and_slots_are_independent(policy: Policy) -> None:
    """Chi-square on 28,000 images, each op and each pair of ops in two slots (op 0, identity, also stands for level 0)."""
    drawn = policy.draw(chance(28_000))
    assert len(drawn) == policy.slots
    drawn = [SlotDraws(*(x[slot.level > 0] for x in slot)) for slot in drawn]
    for slot in drawn:
        assert stats.chisquare(np.bincount(slot.op, minlength=len(OPS))).pvalue > 1e-3
    if len(drawn) > 1:
        pairs = np.bincount(drawn[0].op * len(OPS) + drawn[1].op, minlength=len(OPS) ** 2)
        assert stats.chisquare(pairs).pvalue > 1e-3


def test_levels_and_signs() -> None:
    n = 31_000
    (slot,) = TrivialAugment(ops=SIGNED).draw(chance(n))
    levels = (slot.level * 30).round()
    assert np.allclose(slot.level * 30, levels, atol=1e-12)
    assert stats.chisquare(np.bincount(levels.astype(int), minlength=31)).pvalue > 1e-3
    assert set(slot.sign.tolist()) == {-1.0, 1.0} and abs(slot.sign.mean()) < 0.02
    assert abs(np.corrcoef(slot.sign, slot.level)[0, 1]) < 0.02 and abs(np.corrcoef(slot.op[levels > 0], levels[levels > 0])[0, 1]) < 0.02
    assert all((slot.level == 0.3).all() for slot in RandAugment(3, 9).draw(chance(100)))


def test_strength_scales_levels_and_the_share_of_ops_that_have_none() -> None:
    n = 20_000
    for policy in (TrivialAugment(), RandAugment()):
        (whole, *_), (half, *_), (none, *_) = (policy.scaled(strength).draw(chance(n)) for strength in (1.0, 0.5, 0.0))
        assert np.array_equal(half.level, whole.level / 2) and np.array_equal(half.sign, whole.sign) and not none.op.any()
        ungraded = np.isin(whole.op, [OPS.index("autocontrast"), OPS.index("equalize")])
        assert abs((half.op[ungraded] > 0).mean() - 0.5) < 0.03
        assert np.array_equal(half.op[~ungraded], whole.op[~ungraded])
    touched = np.stack([slot.op for slot in RandAugment(p=0.25, ops=("rotate",)).draw(chance(n))]) > 0
    assert np.array_equal(touched[0], touched[1]) and abs(touched[0].mean() - 0.25) < 0.01


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("policy", [TrivialAugment(), RandAugment(3, 30)])
def test_no_strength_no_change_in_a_single_bit(policy: Policy, channels: int) -> None:
    b = batch(channels=channels)
    assert torch.equal(policy.scaled(0.0)(b, chance(140), 0.0).images, b.images)
    floats = torch.rand(140, channels, *SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.scaled(0.0)(b.but(images=floats), chance(140), 0.0).images, floats)
    (slot, *_) = (RandAugment(1, 0) if isinstance(policy, RandAugment) else TrivialAugment(p=0.0)).draw(chance(140))
    assert set(names(slot)) <= {"identity", "autocontrast", "equalize"}  # which have no level


def test_images_do_not_see_each_other() -> None:
    """One image of the batch replaced: only it changes; one alone: as in the batch."""
    b, c = batch(), chance(140)
    other = b.images.clone()
    other[17] = 255 - other[17]
    for policy in POLICIES:
        one, two = policy(b, c, 0.0).images, policy(b.but(images=other), c, 0.0).images
        changed = (one != two).flatten(1).any(1)
        assert not changed[torch.arange(140) != 17].any()
        for k in range(0, 140, 9):
            alone = policy(b[k : k + 1], Chance(c.key, c.places[k : k + 1]), 0.0).images
            assert torch.equal(alone[0], one[k])


def test_float_images_keep_their_values_where_nothing_was_drawn() -> None:
    floats = torch.rand(140, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    policy, b = RandAugment(2, ops=("identity", "rotate", "equalize")), batch()
    out = policy(b.but(images=floats), chance(140), 0.0).images
    untouched = torch.from_numpy(np.all([slot.op == 0 for slot in policy.draw(chance(140))], axis=0))
    assert 0 < untouched.sum() < 140 and torch.equal(out[untouched], floats[untouched])
    assert ((out[~untouched] * 255).round() / 255 - out[~untouched]).abs().max() < 1e-6  # of 256 values


def test_ops_can_be_chosen_and_are_spelled() -> None:
    policy = part("trivial_augment(ops=(rotate, 'shear_x'), border=reflect)")
    assert policy == TrivialAugment(ops=("rotate", "shear_x"), border="reflect")
    assert part(spell(policy)) == policy and part("rand_augment(3, m=12)") == RandAugment(3, 12.0)
    assert {name for slot in policy.draw(chance(500)) for name in names(slot)} == {"identity", "rotate", "shear_x"}  # level 0 is identity
    with pytest.raises(UsageError, match="expected ops to be"):
        part("trivial_augment(ops=(rotate, twirl))")
    with pytest.raises(UsageError, match="at least one op"):
        part("rand_augment(ops=())")
    with pytest.raises(UsageError, match="expected m to be a number from 0 to 30"):
        RandAugment(2, 31)


# ---- against Pillow -------------------------------------------------------------------------------------------------------------

WIDE = {"shear": 0.99, "x": 32.0, "y": 32.0, "degrees": 135.0, "factor": 0.99, "bits": 6.0}
RAND = {"shear": 0.3, "x": 150 / 331 * SIZE[1], "y": 150 / 331 * SIZE[0], "degrees": 30.0, "factor": 0.9, "bits": 4.0}


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))


def enhanced(kind: Any) -> Callable[[Image.Image, float, float, dict[str, float]], Image.Image]:
    return lambda image, level, sign, most: kind(image).enhance(1 + sign * level * most["factor"])


PILLOW: dict[str, Callable[[Image.Image, float, float, dict[str, float]], Image.Image]] = {
    "identity": lambda image, *_: image,
    "shear_x": lambda image, level, sign, most: affine(image, 1, sign * level * most["shear"], 0, 0, 1, 0),
    "shear_y": lambda image, level, sign, most: affine(image, 1, 0, 0, sign * level * most["shear"], 1, 0),
    "translate_x": lambda image, level, sign, most: affine(image, 1, 0, -sign * int(level * most["x"]), 0, 1, 0),
    "translate_y": lambda image, level, sign, most: affine(image, 1, 0, 0, 0, 1, -sign * int(level * most["y"])),
    "rotate": lambda image, level, sign, most: image.rotate(
        sign * level * most["degrees"], Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    ),
    "brightness": enhanced(ImageEnhance.Brightness),
    "saturation": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "sharpness": enhanced(ImageEnhance.Sharpness),
    "posterize": lambda image, level, sign, most: ImageOps.posterize(image, 8 - round(level * most["bits"])),
    "solarize": lambda image, level, sign, most: ImageOps.solarize(image, round(256 * (1 - level))),
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
}
# mean and largest absolute difference, of 255; Pillow cuts the decimals off where we round, takes its samples in fixed point, and leaves
# out what lies within half a pixel of the border, where we blend the border in
MOVED, ROUNDED, EXACT = (1.5, 255), (0.6, 1.01), (0.0, 0)


@pytest.mark.parametrize(("kind", "most"), [(TrivialAugment, WIDE), (RandAugment, RAND)])
@pytest.mark.parametrize("op", OPS)
def test_each_op_against_pillow(op: Op, kind: Any, most: dict[str, float]) -> None:
    b, policy = batch(60), kind(ops=(op,), border="mean")
    policies = [policy] if kind is TrivialAugment else [RandAugment(1, m, ops=(op,)) for m in (3, 9, 17, 30)]
    for policy in policies:
        (slot,) = policy.draw(chance(60))
        got = policy(b, chance(60), 0.0).images.permute(0, 2, 3, 1).double().numpy()
        want = [
            np.asarray(PILLOW[name](Image.fromarray(x), level, sign, most), dtype=float)
            for x, name, level, sign in zip(
                b.images.permute(0, 2, 3, 1).numpy(), names(slot), slot.level.tolist(), slot.sign.tolist(), strict=True
            )
        ]
        difference = np.abs(got - np.stack(want))
        mean, most_of_all = MOVED if op in SIGNED[:5] else ROUNDED if op in (*SIGNED[5:], "autocontrast") else EXACT
        assert difference.mean() <= mean and difference.max() <= most_of_all, (op, difference.mean(), difference.max())
        if op in ("shear_x", "shear_y", "rotate"):
            assert np.median(difference) <= 1


@pytest.mark.parametrize("policy", POLICIES)
def test_slots_one_after_the_other_against_pillow(policy: Policy) -> None:
    """What was drawn, done image by image in Pillow: the mean absolute difference is below 0.8 of 255 levels a slot."""
    most, bound = WIDE if isinstance(policy, TrivialAugment) else RAND, 0.8 * policy.slots
    for ops in (OPS[6:], OPS):
        chosen, b = dataclasses.replace(policy, ops=ops, border="mean"), batch()
        got = chosen(b, chance(140), 0.0).images.permute(0, 2, 3, 1).double().numpy()
        want = [Image.fromarray(x) for x in b.images.permute(0, 2, 3, 1).numpy()]
        for slot in chosen.draw(chance(140)):
            drawn = zip(want, names(slot), slot.level.tolist(), slot.sign.tolist(), strict=True)
            want = [PILLOW[op](image, level, sign, most) for image, op, level, sign in drawn]
        difference = np.abs(got - np.stack([np.asarray(image, dtype=float) for image in want]))
        assert difference.mean() < bound and np.median(difference) <= 1
        assert np.abs(got - b.images.permute(0, 2, 3, 1).double().numpy()).mean() > 5 * bound  # and there was something to do


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("border", ["reflect", "edge", "zero", "mean"])
@pytest.mark.parametrize("op", ["shear_x", "shear_y"])
def test_shears_read_bilinearly_with_every_border(op: Op, border: Any, channels: int) -> None:
    """Each row or column read at its own distance, in float64 NumPy, within half a level."""
    b, policy = batch(24, channels), TrivialAugment(ops=(op,), border=border)
    (slot,) = policy.draw(chance(24))
    got = policy(b, chance(24), 0.0).images.permute(0, 2, 3, 1).double().numpy()
    pixels = b.images.permute(0, 2, 3, 1).double().numpy()
    if op == "shear_y":
        got, pixels = got.swapaxes(1, 2), pixels.swapaxes(1, 2)
    height, width = pixels.shape[1:3]
    mode = {"reflect": "reflect", "edge": "edge"}.get(border, "constant")
    fill = {"constant_values": 128.0 * (border == "mean")} if mode == "constant" else {}
    wide = np.pad(pixels, ((0, 0), (0, 0), (60, 60), (0, 0)), mode=mode, **fill)  # type: ignore[call-overload]
    at = np.arange(-60, width + 60)
    for k, slope in enumerate(slot.level * slot.sign * 0.99):
        for y in range(height):
            x = np.arange(width) + slope * (y + 0.5)
            want = np.stack([np.interp(x, at, wide[k, y, :, c]) for c in range(channels)], axis=1)
            assert np.abs(got[k, y] - want).max() <= 0.501
