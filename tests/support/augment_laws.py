"""Laws that an augment keeps, each a function of a catalog, the text of a part or a pipe, and the number of channels."""

from __future__ import annotations

from typing import Any

import torch

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.parts import part_name, pipe_parts

SIZE = (24, 28)
CUTS = ([16, 48, 19], [32, 32, 16, 3], [80, 3], [16] * 5 + [3])  # of 83 images; mixing draws within blocks of 16


def batch(n: int = 83, channels: int = 3, box: tuple[int, int] = (29, 33)) -> Batch:
    generator = torch.Generator().manual_seed(channels)
    pixels = torch.randint(0, 256, (n, *box, channels), dtype=torch.uint8, generator=generator)
    return Batch(pixels.permute(0, 3, 1, 2), one_hot(torch.arange(n) % 7, 7), torch.arange(n))


def chance(n: int = 83, seed: int = 0) -> Chance:
    return Chance.of(seed, torch.arange(1000, 1000 + n), "augment", 3)


def pipeline(catalog: Catalog, text: str, size: tuple[int, int] = SIZE) -> Pipeline:
    return Pipeline(pipe_parts(catalog.make(text, "augment")), size)  # type: ignore[arg-type]


def floats(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def augment_in_pieces(pipe: Pipeline, b: Batch, c: Chance, pieces: list[int]) -> Batch:
    """The batch augmented piece by piece, each piece a tensor of its own."""
    done, start = [], 0
    for n in pieces:
        rows = slice(start, start + n)
        piece = Batch(b.images[rows].clone(memory_format=torch.channels_last), b.targets[rows].clone(), b.ids[rows].clone())
        done.append(pipe(piece, Chance(c.key, c.places[rows].clone()), 0.5))
        start += n
    assert start == len(b)
    return Batch(*(torch.cat([getattr(x, name) for x in done]) for name in ("images", "targets", "ids")))


# ---- of pipes ------------------------------------------------------------------------------------------------------------------------


def gives_images_of_the_size_and_targets_that_sum_to_one(catalog: Catalog, text: str, channels: int) -> None:
    out = pipeline(catalog, text)(batch(channels=channels), chance(), 0.5)
    assert out.images.shape == (83, channels, *SIZE)
    assert out.images.dtype in (torch.uint8, torch.float32)
    assert out.images.is_contiguous(memory_format=torch.channels_last)
    assert floats(out.images).min() >= 0 and floats(out.images).max() <= 1
    assert torch.allclose(out.targets.sum(1), torch.ones(83), atol=1e-6) and (out.targets >= 0).all()
    assert torch.equal(out.ids, torch.arange(83))


def leaves_its_input_untouched(catalog: Catalog, text: str, channels: int) -> None:
    for b in (batch(channels=channels), batch(channels=channels, box=SIZE), batch(channels=channels).but(images=floats(batch().images))):
        before = Batch(b.images.clone(), b.targets.clone(), b.ids.clone())
        pipeline(catalog, text)(b, chance(), 0.5)
        assert all(torch.equal(getattr(b, name), getattr(before, name)) for name in ("images", "targets", "ids"))


def gives_the_same_for_the_same_chance(catalog: Catalog, text: str, channels: int) -> None:
    one, two = (pipeline(catalog, text)(batch(channels=channels), chance(), 0.5) for _ in range(2))
    assert torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)


def gives_the_same_bits_in_any_pieces_of_whole_blocks(catalog: Catalog, text: str, channels: int) -> None:
    pipe, b, c = pipeline(catalog, text), batch(channels=channels), chance()
    whole = pipe(b, c, 0.5)
    for pieces in CUTS if channels == 3 else CUTS[::3]:
        parts = augment_in_pieces(pipe, b, c, pieces)
        assert parts.images.dtype == whole.images.dtype
        assert torch.equal(parts.images, whole.images), f"in pieces of {pieces}"
        assert torch.equal(parts.targets, whole.targets)


def may_be_cut_anywhere_unless_it_mixes(catalog: Catalog, text: str, channels: int) -> None:
    if "mix" in text:
        return
    pipe, b, c = pipeline(catalog, text), batch(21, channels), chance(21)
    whole = pipe(b, c, 0.5)
    assert torch.equal(augment_in_pieces(pipe, b, c, [1] * 21).images, whole.images)
    assert torch.equal(augment_in_pieces(pipe, b, c, [5, 9, 7]).images, whole.images)


def agrees_on_uint8_and_float_images(catalog: Catalog, text: str, channels: int) -> None:
    b = batch(channels=channels)
    stored = pipeline(catalog, text)(b, chance(), 0.5)
    from_floats = pipeline(catalog, text)(b.but(images=floats(b.images).contiguous()), chance(), 0.5)
    assert from_floats.images.dtype == torch.float32
    assert (floats(stored.images) - from_floats.images).abs().max() <= 1.001 / 255
    assert torch.equal(stored.targets, from_floats.targets)


# ---- of parts ------------------------------------------------------------------------------------------------------------------------


def gives_another_result_for_another_chance_unless_it_draws_nothing(catalog: Catalog, name: str, channels: int) -> None:
    if channels == 1:
        return  # what changes colors alone does nothing to gray images
    one, two = (pipeline(catalog, name)(batch(channels=channels), chance(seed=seed), 0.5) for seed in (0, 1))
    same = torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)
    assert same == (name == "smooth")


def is_the_identity_at_strength_zero_and_the_part_at_one(catalog: Catalog, name: str, channels: int) -> None:
    part: Any = catalog.make(name, "augment")
    assert part.scaled(1.0) == part
    for b in (batch(channels=channels), batch(channels=channels, box=SIZE)):
        off, plain = Pipeline((part.scaled(0.0),), SIZE)(b, chance(), 0.5), pipeline(catalog, "none")(b, chance(), 0.5)
        assert (floats(off.images) - floats(plain.images)).abs().max() < 1e-6
        assert torch.equal(off.targets, plain.targets)


def is_alone_what_it_is_in_a_pipe(catalog: Catalog, name: str, channels: int) -> None:
    part: Any = catalog.make(name, "augment")
    b = batch(channels=channels)
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


LAWS_OF_PIPES = (
    gives_images_of_the_size_and_targets_that_sum_to_one,
    leaves_its_input_untouched,
    gives_the_same_for_the_same_chance,
    gives_the_same_bits_in_any_pieces_of_whole_blocks,
    may_be_cut_anywhere_unless_it_mixes,
    agrees_on_uint8_and_float_images,
)
LAWS_OF_PARTS = (
    gives_another_result_for_another_chance_unless_it_draws_nothing,
    is_the_identity_at_strength_zero_and_the_part_at_one,
    is_alone_what_it_is_in_a_pipe,
)
