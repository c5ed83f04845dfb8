"""Laws that every augment in the catalog keeps; a new part is tested by existing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from goodfit.augment.color import Color
from goodfit.augment.geometry import Geometry
from goodfit.core.catalog import Catalog
from tests.support.augment_laws import LAWS_OF_PARTS, LAWS_OF_PIPES, batch, chance, pipeline
from tests.support.laws import holds_for

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
Law = Callable[[Catalog, str, int], None]


@pytest.mark.parametrize("law", LAWS_OF_PIPES, ids=lambda law: law.__name__)
@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow), 4])
@pytest.mark.thorough
def test_every_pipe(law: Law, channels: int) -> None:
    holds_for([*PARTS, *OTHERS])(lambda text: law(CATALOG, text, channels))()


@pytest.mark.parametrize("law", LAWS_OF_PARTS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_part(law: Law, channels: int) -> None:
    holds_for(PARTS)(lambda name: law(CATALOG, name, channels))()


def test_parts_in_two_places_of_a_pipe_draw_on_their_own() -> None:
    twice = pipeline(CATALOG, "flip | flip")(batch(), chance(), 0.5).images
    plain = pipeline(CATALOG, "none")(batch(), chance(), 0.5).images
    assert 0.2 < (twice == plain).all(dim=(1, 2, 3)).float().mean() < 0.8


def test_whole_pixels_stay_uint8_and_kinds_are_known() -> None:
    for name in PARTS:
        part = CATALOG.make(name, "augment")
        out = pipeline(CATALOG, name)(batch(), chance(), 0.5).images
        if isinstance(part, Geometry):
            assert (out.dtype == torch.uint8) == part.is_exact
        if isinstance(part, Color):
            assert out.dtype == torch.float32
