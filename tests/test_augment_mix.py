"""Erasing, mixing and smoothing against NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from goodfit.augment.erase import Cutout, Erase
from goodfit.augment.mix import Cutmix, Mixup, Smooth
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import MIXING_BLOCK, Chance
from goodfit.core.errors import UsageError

SIZE = (20, 26)


def batch(n: int = 200, channels: int = 3) -> Batch:
    """Every pixel of image k has the value k + 1, so that it is known where it came from."""
    pixels = torch.arange(1, n + 1, dtype=torch.uint8)[:, None, None, None].repeat(1, *SIZE, channels)
    return Batch(pixels.permute(0, 3, 1, 2), one_hot(torch.arange(n), n), torch.arange(n))


def chance(n: int = 200) -> Chance:
    return Chance.of(3, torch.arange(n))


def partners(name: str, n: int = 200) -> np.ndarray:
    found = chance(n).at(name, 0).at("partners").partners().numpy()
    assert (found // MIXING_BLOCK == np.arange(n) // MIXING_BLOCK).all()
    return found


def test_mixup_against_numpy() -> None:
    b = batch()
    out = Pipeline((Mixup(0.6),), SIZE)(b, chance(), 0.0)
    share = chance().at("mixup", 0).at("share").beta(0.6, 0.6).double().numpy()
    mate = partners("mixup")
    pixels = b.images.double().numpy() / 255
    own = share[:, None, None, None]
    assert np.abs(out.images.numpy() - (own * pixels + (1 - own) * pixels[mate])).max() < 1e-6
    eye = np.eye(200)
    assert np.abs(out.targets.numpy() - (share[:, None] * eye + (1 - share[:, None]) * eye[mate])).max() < 1e-6


def test_mixup_shares_are_of_the_beta_distribution_and_p_is_a_rate() -> None:
    n = 4000
    b = Batch(torch.zeros(n, 1, 1, 1), one_hot(torch.arange(n) % 2, 2), torch.arange(n))
    share = chance(n).at("share").beta(0.2, 0.2)
    assert abs(share.mean() - 0.5) < 0.03 and abs(share.var() - 0.25 / 1.4) < 0.01
    mixed = (Mixup(0.2, p=0.25)(b.but(targets=torch.eye(n)), chance(n), 0.0).targets.diagonal() < 1).double().mean()
    assert 0.15 < mixed < 0.26  # a sixteenth are their own partners, some shares round to 1
    for part in (Mixup(0.0), Cutmix(0.0, p=1.0)):
        assert torch.equal(part(b, chance(n), 0.0).targets, b.targets)


def test_cutmix_targets_are_the_area_each_image_has() -> None:
    b = batch()
    out = Pipeline((Cutmix(p=1.0),), SIZE)(b, chance(), 0.0)
    assert out.images.dtype == torch.uint8
    mate, pixels = partners("cutmix"), out.images[:, 0].numpy()
    for k in range(200):
        foreign = pixels[k] != k + 1
        assert (pixels[k][foreign] == mate[k] + 1).all()
        rows, columns = foreign.any(1).nonzero()[0], foreign.any(0).nonzero()[0]
        if mate[k] != k and len(rows):
            assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle
            assert foreign.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert abs(out.targets[k, k].item() - (1 - foreign.mean())) < 1e-6
        if mate[k] != k:
            assert abs(out.targets[k, mate[k]].item() - foreign.mean()) < 1e-6


def test_cutmix_rectangles_follow_the_paper() -> None:
    """Side sqrt(1 - share), centered anywhere, cut at the border; rate p."""
    n = 6000
    b = Batch(torch.zeros(n, 1, *SIZE), torch.eye(n), torch.arange(n))
    kept = Cutmix(1.0, p=1.0)(b, chance(n), 0.0).targets.diagonal().numpy()
    rng = np.random.default_rng(0)
    side, y, x = np.sqrt(1 - rng.random(10**6)), rng.integers(0, SIZE[0], 10**6), rng.integers(0, SIZE[1], 10**6)
    tall, wide = (side * SIZE[0]).astype(int), (side * SIZE[1]).astype(int)
    area = np.diff([(y - tall // 2).clip(0), (y - tall // 2 + tall).clip(max=SIZE[0])], axis=0)[0]
    area = area * np.diff([(x - wide // 2).clip(0), (x - wide // 2 + wide).clip(max=SIZE[1])], axis=0)[0] / (SIZE[0] * SIZE[1])
    other = chance(n).at("partners").partners() != torch.arange(n)
    assert abs((1 - kept[other.numpy()]).mean() - area.mean()) < 0.01
    rate = (Cutmix(1.0, p=0.3)(b, chance(n), 0.0).targets.diagonal() < 1).double().mean()
    assert 0.24 < rate < 0.31


@pytest.mark.parametrize("fill", ["mean", "black", "noise"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_erase_hides_one_rectangle(fill: str, channels: int) -> None:
    b, part = batch(channels=channels), Erase(0.6, (0.1, 0.3), (0.5, 2.0), fill)  # type: ignore[arg-type]
    out = Pipeline((part,), SIZE)(b, chance(), 0.0)
    assert out.images.dtype == torch.uint8 and torch.equal(out.targets, b.targets)
    changed = (out.images[:, : min(channels, 3)] != b.images[:, : min(channels, 3)]).any(1).numpy()
    hit = changed.any((1, 2))
    assert 0.48 < hit.mean() < 0.72
    for k in hit.nonzero()[0]:
        rows, columns = changed[k].any(1).nonzero()[0], changed[k].any(0).nonzero()[0]
        tall, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert 0.07 < tall * wide / (SIZE[0] * SIZE[1]) < 0.34 and 0.4 < tall / wide < 2.4
        inside = out.images[k, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if channels == 4:
            assert (inside[3] == 255).all()
        if fill == "noise":
            assert inside[0].double().std() > 40
        else:
            assert (inside[: min(channels, 3)] == {"mean": 128, "black": 0}[fill]).all()


def test_erase_reaches_the_corners_alike() -> None:
    b = batch(4000)
    b = b.but(images=torch.ones(4000, 1, 8, 8))
    hidden = (Erase(1.0, (0.1, 0.2), fill="black")(b, chance(4000), 0.0).images[:, 0] == 0).double().mean(0)
    assert torch.allclose(hidden, hidden.flip(0), atol=0.03) and torch.allclose(hidden, hidden.flip(1), atol=0.03)
    assert hidden[0, 0] > 0.01


@pytest.mark.parametrize("fill", ["mean", "black", "noise"])
@pytest.mark.parametrize("side", [0.35, 0.5])
def test_cutout_hides_a_square_centered_anywhere(side: float, fill: str) -> None:
    """Against NumPy: a square of the side rounded, about each pixel alike, cut at the border."""
    n, length = 6000, round(side * SIZE[0])
    b = Batch(torch.full((n, 3, *SIZE), 200, dtype=torch.uint8), torch.eye(2).repeat(n // 2, 1), torch.arange(n))
    out = Pipeline((Cutout(side, fill=fill),), SIZE)(b, chance(n), 0.0)  # type: ignore[arg-type]
    hidden = (out.images != 200).any(1).numpy()
    assert out.images.dtype == torch.uint8 and torch.equal(out.targets, b.targets)
    y, x = ((chance(n).at("cutout", 0).at(axis).double().numpy() * k).astype(int) for axis, k in (("y", SIZE[0]), ("x", SIZE[1])))
    assert len(np.unique(y)) == SIZE[0] and len(np.unique(x)) == SIZE[1]
    down, across = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])
    top, left = (y - length // 2)[:, None, None], (x - length // 2)[:, None, None]
    want = (down >= top) & (down < top + length) & (across >= left) & (across < left + length)
    assert (hidden <= want).all() and (want & ~hidden).mean() < (1e-4 if fill == "noise" else 1e-12)  # noise may be 200 too
    assert hidden.sum((1, 2)).max() == length**2 and hidden.sum((1, 2)).min() >= (length // 2) ** 2


def test_cutout_rate_and_color() -> None:
    b = batch()
    out = Cutout(p=0.3).bind(SimpleNamespace(mean=(0.2, 0.4, 0.6)))(b, chance(), 0.0).images
    hit = (out != b.images).any(1).flatten(1).any(1)
    assert 0.2 < hit.double().mean() < 0.4
    k = int(hit.nonzero()[0])
    place = (out[k] != b.images[k]).any(0).nonzero()[0]
    assert out[k, :, place[0], place[1]].tolist() == [51, 102, 153]


@pytest.mark.parametrize("part", [Erase(1.0), Cutout(), Mixup(), Cutmix(p=1.0), Smooth()])
def test_strength_is_a_rate_and_none_mixes_nothing(part: Any) -> None:
    """At strength s what changes at full strength changes for a share s of the images, the same way; smoothing is s times as much."""
    b = batch()
    b = b.but(images=b.images.float() / 255)
    none, half, full = (part.scaled(strength)(b, chance(), 0.0) for strength in (0.0, 0.5, 1.0))
    assert torch.equal(none.images, b.images) and torch.equal(none.targets, b.targets)
    if isinstance(part, Smooth):
        assert torch.allclose(half.targets, (b.targets + full.targets) / 2, atol=1e-7)
        return
    changed = [(x.images != b.images).flatten(1).any(1) | (x.targets != b.targets).any(1) for x in (half, full)]
    assert (changed[0] <= changed[1]).all() and 0.35 < changed[0].sum() / changed[1].sum() < 0.65
    assert torch.equal(half.images[changed[0]], full.images[changed[0]]) and torch.equal(half.targets[changed[0]], full.targets[changed[0]])


def test_erase_learns_the_mean_color() -> None:
    part = Erase(1.0).bind(SimpleNamespace(mean=(0.2, 0.4, 0.6)))
    assert part == Erase(1.0)
    stored, floats = batch(), batch().but(images=torch.ones(200, 3, *SIZE))
    for b, want in ((stored, torch.tensor([51, 102, 153])), (floats, torch.tensor([0.2, 0.4, 0.6]))):
        out = part(b, chance(), 0.0).images
        k = int((out != b.images).any(1).flatten(1).any(1).nonzero()[0])
        place = (out[k] != b.images[k]).any(0).nonzero()[0]
        assert torch.equal(out[k, :, place[0], place[1]], want.to(out.dtype))


def test_erase_refuses_ranges_the_wrong_way_round() -> None:
    with pytest.raises(UsageError, match="erase: expected"):
        Erase(area=(0.3, 0.1))


@pytest.mark.parametrize("classes", [2, 10])
def test_smooth_is_the_formula(classes: int) -> None:
    targets = torch.softmax(torch.randn(40, classes, generator=torch.Generator().manual_seed(0)), 1)
    b = Batch(torch.zeros(40, 1, 2, 2), targets, torch.arange(40))
    out = Smooth(0.2)(b, chance(40), 0.0).targets
    assert np.abs(out.numpy() - (targets.double().numpy() * 0.8 + 0.2 / classes)).max() < 1e-7
    assert torch.equal(out.argmax(1), targets.argmax(1))
