"""Laws that every augment in the catalog keeps; a new part is tested by existing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from goodfit.augment.color import Color
from goodfit.augment.geometry import Geometry
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.parts import part_name, pipe_parts
from tests.support.augment import batch, chance

CATALOG = Catalog(["goodfit.augment"])
PARTS = sorted(CATALOG.kinds["augment"])
OTHERS = [
    "none",
    "crop(3, border=edge)",
    "crop(50, border=reflect)",
    "crop(3, border=zero, p=0.5)",
    "crop(40, border=mean)",
    "flip(axes=vertical)",
    "flip(axes=both, alternate=True)",
    "scale_crop((30, 90), patch=24, p=0.7)",
    "rotate(40, border=zero) | crop(3, border=zero) | shear(20, border=zero)",
    "stretch(2, border=mean, p=0.6) | rotate(180, border=mean, p=0.5) | flip(axes=both)",
    "stretch(3, p=0.8) | rotate(20, p=0.8)",
    "lens((-0.3, 0.9)) | stretch(2.5) | crop(2) | perspective(0.5)",
    "resized_crop((0.1, 0.5), p=0.5)",
    "jitter(0.3, hue=0.1, p=0.7)",
    "erase(1, fill=noise)",
    "erase(1, fill=black)",
    "cutmix(p=1)",
    "flip | resized_crop | crop(2, border=edge) | jitter | mixup | erase(0.5) | cutmix | smooth",
    "jitter | crop(2) | flip | flip",
]
SIZE = (24, 28)


def pipeline(text: str, size: tuple[int, int] = SIZE) -> Pipeline:
    return Pipeline(pipe_parts(CATALOG.make(text, "augment")), size)  # type: ignore[arg-type]


def floats(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def cut(b: Batch, c: Chance, text: str, pieces: list[int]) -> Batch:
    """The batch augmented piece by piece, each piece a tensor of its own."""
    done, start = [], 0
    for n in pieces:
        rows = slice(start, start + n)
        piece = Batch(b.images[rows].clone(memory_format=torch.channels_last), b.targets[rows].clone(), b.ids[rows].clone())
        done.append(pipeline(text)(piece, Chance(c.key, c.places[rows].clone()), 0.5))
        start += n
    assert start == len(b)
    return Batch(*(torch.cat([getattr(x, name) for x in done]) for name in ("images", "targets", "ids")))


every = pytest.mark.parametrize("text", [*PARTS, *OTHERS])
channels = pytest.mark.parametrize("channels", [1, 3, 4])


@channels
@every
def test_gives_images_of_the_size_and_targets_that_sum_to_one(text: str, channels: int) -> None:
    out = pipeline(text)(batch(channels=channels), chance(), 0.5)
    assert out.images.shape == (83, channels, *SIZE)
    assert out.images.dtype in (torch.uint8, torch.float32)
    assert out.images.is_contiguous(memory_format=torch.channels_last)
    assert floats(out.images).min() >= 0 and floats(out.images).max() <= 1
    assert torch.allclose(out.targets.sum(1), torch.ones(83), atol=1e-6) and (out.targets >= 0).all()
    assert torch.equal(out.ids, torch.arange(83))


@every
def test_leaves_its_input_untouched(text: str) -> None:
    for b in (batch(), batch(box=SIZE), batch().but(images=floats(batch().images))):
        before = Batch(b.images.clone(), b.targets.clone(), b.ids.clone())
        pipeline(text)(b, chance(), 0.5)
        assert all(torch.equal(getattr(b, name), getattr(before, name)) for name in ("images", "targets", "ids"))


@every
def test_same_chance_same_result(text: str) -> None:
    one, two = (pipeline(text)(batch(), chance(), 0.5) for _ in range(2))
    assert torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)


@pytest.mark.parametrize("name", PARTS)
def test_another_chance_another_result_except_for_what_draws_nothing(name: str) -> None:
    one, two = (pipeline(name)(batch(), chance(seed=seed), 0.5) for seed in (0, 1))
    same = torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)
    assert same == (name == "smooth")


@channels
@pytest.mark.parametrize("name", PARTS)
def test_strength_zero_is_the_identity_and_one_the_part(name: str, channels: int) -> None:
    part: Any = CATALOG.make(name, "augment")
    assert part.scaled(1.0) == part
    for b in (batch(channels=channels), batch(channels=channels, box=SIZE)):
        off, plain = Pipeline((part.scaled(0.0),), SIZE)(b, chance(), 0.5), pipeline("none")(b, chance(), 0.5)
        assert (floats(off.images) - floats(plain.images)).abs().max() < 1e-6
        assert torch.equal(off.targets, plain.targets)


@channels
@every
def test_any_pieces_of_whole_blocks_give_the_same_bits(text: str, channels: int) -> None:
    b, c = batch(channels=channels), chance()
    whole = pipeline(text)(b, c, 0.5)
    for pieces in ([16, 48, 19], [32, 32, 16, 3], [80, 3], [16] * 5 + [3]):
        parts = cut(b, c, text, pieces)
        assert parts.images.dtype == whole.images.dtype
        assert torch.equal(parts.images, whole.images), f"{text} in pieces of {pieces}"
        assert torch.equal(parts.targets, whole.targets)


@pytest.mark.parametrize("text", [text for text in (*PARTS, *OTHERS) if "mix" not in text])
def test_what_does_not_mix_may_be_cut_anywhere(text: str) -> None:
    b, c = batch(37), chance(37)
    whole = pipeline(text)(b, c, 0.5)
    assert torch.equal(cut(b, c, text, [1] * 37).images, whole.images)
    assert torch.equal(cut(b, c, text, [5, 17, 15]).images, whole.images)


@channels
@every
def test_uint8_and_float_images_agree(text: str, channels: int) -> None:
    b = batch(channels=channels)
    stored = pipeline(text)(b, chance(), 0.5)
    from_floats = pipeline(text)(b.but(images=floats(b.images).contiguous()), chance(), 0.5)
    assert from_floats.images.dtype == torch.float32
    assert (floats(stored.images) - from_floats.images).abs().max() <= 1.001 / 255
    assert torch.equal(stored.targets, from_floats.targets)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_alone_is_a_function_of_the_batch(name: str) -> None:
    part: Any = CATALOG.make(name, "augment")
    b = batch()
    out = part(b, chance(), 0.5)
    assert out.images.shape == b.images.shape
    inside = Pipeline((part,), (29, 33))(b, _For(chance(), part_name(part.at_progress(0.5))), 0.5)  # type: ignore[arg-type]
    assert torch.equal(out.images, inside.images) and torch.equal(out.targets, inside.targets)


class _For:
    """A chance that is the part's own whatever its place in the pipe."""

    def __init__(self, own: Chance, name: str) -> None:
        self.own, self.name = own, name

    def at(self, name: str, position: int) -> Chance:
        assert (name, position) == (self.name, 0)
        return self.own


def test_parts_in_two_places_of_a_pipe_draw_on_their_own() -> None:
    twice = pipeline("flip | flip")(batch(), chance(), 0.5).images
    plain = pipeline("none")(batch(), chance(), 0.5).images
    assert 0.2 < (twice == plain).all(dim=(1, 2, 3)).float().mean() < 0.8


def test_whole_pixels_stay_uint8_and_kinds_are_known() -> None:
    for name in PARTS:
        part = CATALOG.make(name, "augment")
        out = pipeline(name)(batch(), chance(), 0.5).images
        if isinstance(part, Geometry):
            assert (out.dtype == torch.uint8) == part.is_exact
        if isinstance(part, Color):
            assert out.dtype == torch.float32
