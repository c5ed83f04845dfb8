"""Ramps: strength by progress, and everything else as without them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from goodfit.augment.pipeline import Pipeline
from goodfit.augment.ramp import Ramp
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError
from goodfit.core.parts import pipe_parts, spell
from goodfit.core.progress import Length, Lengths

CATALOG = Catalog(["goodfit.augment"])
SIZE = (28, 36)


def chance(n: int) -> Chance:
    return Chance.of(5, torch.arange(n))


def batch(n: int = 140) -> Batch:
    pixels = torch.randint(40, 216, (n, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels.permute(0, 3, 1, 2), one_hot(torch.arange(n) % 3, 3), torch.arange(n))


def part(text: str) -> Any:
    return CATALOG.make(text, "augment")


@pytest.mark.parametrize(
    ("ramp", "points"),
    [
        ("ramp(flip)", [(0, 0), (0.25, 0.25), (1, 1)]),
        ("ramp(flip, end=0.5)", [(0, 0), (0.25, 0.5), (0.5, 1), (0.9, 1)]),
        ("ramp(flip, start=0.2, end=0.6, before=0.5, after=0.9)", [(0, 0.5), (0.2, 0.5), (0.4, 0.7), (0.6, 0.9), (1, 0.9)]),
        ("ramp(flip, start=0.8, before=1, after=0)", [(0, 1), (0.8, 1), (0.9, 0.5), (1, 0)]),
        ("ramp(flip, end=0.5, shape=cosine)", [(0, 0), (0.125, (1 - np.cos(np.pi / 4)) / 2), (0.25, 0.5), (0.5, 1), (1, 1)]),
        ("ramp(flip, start=0.5, end=0.5)", [(0, 0), (0.499, 0), (0.5, 1), (1, 1)]),
    ],
)
def test_strength_at_its_landmarks_and_between(ramp: str, points: list[tuple[float, float]]) -> None:
    made = part(ramp)
    for t, strength in points:
        assert abs(made.strength(t) - strength) < 1e-12
        assert abs(made.at_progress(t).p - 0.5 * strength) < 1e-12
    steps_of = np.diff([made.strength(t) for t in np.linspace(0, 1, 101)])
    assert (steps_of >= 0).all() or (steps_of <= 0).all()
    assert made.strength(0.0) == made.before and made.strength(1.0) == made.after  # to the bit


RAMPED = ["flip", "rotate(20)", "jitter(0.4, hue=0.1)", "erase(1.0)", "cutout", "mixup", "cutmix(p=1)", "smooth", "rand_augment", "crop(3)"]


@pytest.mark.parametrize("text", RAMPED)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_a_ramp_is_the_scaled_part_in_its_place(text: str, t: float) -> None:
    """Bit for bit, alone and among neighbors it composes with; so what is drawn is the same at every strength."""
    scaled, box = part(text).scaled(t), (SIZE[0] - 4, SIZE[1] - 4)
    for pipe in ("{}", "shear(5) | {} | rotate(10)", "flip | jitter(0.2) | {} | jitter(0.1)"):
        ramped, other = pipe_parts(part(pipe.format(f"ramp({text})"))), pipe_parts(part(pipe.format("flip")))
        plain = tuple(scaled if isinstance(x, Ramp) else x for x in ramped)
        assert len(other) == len(plain)
        one, two = (Pipeline(parts, box)(batch(), chance(140), t) for parts in (ramped, plain))  # type: ignore[arg-type]
        assert torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)


@pytest.mark.parametrize("text", [text for text in RAMPED if text != "crop(3)"])
def test_more_strength_more_change(text: str) -> None:
    """The mean change grows with progress, from nothing; nothing jumps: near the ends it is near to what it is there."""
    b, made = batch(), part(f"ramp({text})")
    plain = b.images.float() / 255

    def change(t: float) -> float:
        out = made(b, chance(140), t)
        pixels = out.images / 255 if out.images.dtype == torch.uint8 else out.images
        return ((pixels - plain).abs().mean() + (out.targets - b.targets).abs().mean()).item()

    changes = [change(t) for t in (0.0, 1e-6, 0.25, 0.5, 1.0, 1 - 1e-6)]
    assert changes[0] < 1e-6 and changes[1] < 1e-4 and abs(changes[5] - changes[4]) < 1e-3
    assert changes[0] < changes[2] < changes[3] < changes[4]


def test_ramps_bind_their_part_and_their_lengths() -> None:
    facts: Any = SimpleNamespace(mean=(0.2, 0.4, 0.6), lengths=Lengths(100, 32, Length.read("40 epochs")))
    bound = Ramp(part("cutout"), end="10 epochs").bind(facts)
    assert bound.strength(0.125) == 0.5 and bound.part._mean == (0.2, 0.4, 0.6)  # type: ignore[attr-defined]
    assert part(spell(bound)) == bound
    with pytest.raises(UsageError, match="lengths that need a budget"):
        Ramp(part("flip"), end="10 epochs").strength(0.1)
    with pytest.raises(UsageError, match="expected end to fit into the budget"):
        Ramp(part("flip"), end="50 epochs").bind(facts)
    with pytest.raises(UsageError, match="expected start to be at most end"):
        Ramp(part("flip"), start="20 epochs", end="10 epochs").bind(facts)


def test_ramps_within_ramps_multiply() -> None:
    made = part("ramp(ramp(smooth(0.4)), end=0.5)")
    assert abs(made.at_progress(0.25).epsilon - 0.4 * 0.25 * 0.5) < 1e-12
    assert abs(made.scaled(0.5).at_progress(1.0).epsilon - 0.2) < 1e-12


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ramp(flip | crop)", "ramp: expected one augment"),
        ("ramp(none)", "ramp: expected one augment"),
        ("ramp(torch.nn.Flatten)", "ramp: expected one augment"),
        ("ramp(flip, start=0.5, end=0.2)", "ramp: expected start to be at most end, received 0.5 and 0.2"),
        ("ramp(flip, end='soon')", "Expected a length"),
        ("ramp(flip, shape=square)", "expected shape to be"),
    ],
)
def test_ramps_refuse_what_they_cannot_follow(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        part(text)


def test_every_augment_can_be_ramped() -> None:
    for name in CATALOG.kinds["augment"]:
        made = Ramp(part(name))
        assert isinstance(made.at_progress(0.5), Augment) and made.at_progress(1.0) == made.part.at_progress(1.0)
        assert made.at_progress(0.0) == made.part.at_progress(0.0).scaled(0.0)
