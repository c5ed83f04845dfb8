"""The contact sheet of augmentation: what is drawn, where, and what is said when nothing can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from goodfit.augment.flip import Flip
from goodfit.augment.pipeline import Pipeline
from goodfit.core.chance import Chance
from goodfit.core.reporter import SilentReporter
from goodfit.recipe.recipe import Recipe
from goodfit.runs.augmentation_preview import preview_augmentation
from goodfit.terminal.sheet import GAP, LINE_HEIGHT, MIN_CAPTION_WIDTH, Picture, render_sheet
from tests.support.command import goodfit, refused


def test_a_sheet_shows_each_picture_in_its_place() -> None:
    random = np.random.default_rng(0)
    rows = [[Picture(random.integers(0, 256, (10, 20, c), dtype=np.uint8), "x") for c in (1, 3, 4)] for _ in range(2)]
    made = np.asarray(render_sheet(rows, ["a", "b", "c"]))
    times = 5  # the most whole pixels that 20 of go into 112
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = GAP + LINE_HEIGHT + y * (10 * times + LINE_HEIGHT + GAP), GAP + x * (MIN_CAPTION_WIDTH + GAP)
            found = made[top : top + 10 * times : times, left : left + 20 * times : times]
            pixels = picture.pixels.astype(float)
            alpha = pixels[:, :, 3:] / 255 if pixels.shape[2] == 4 else 1.0
            expected = pixels[:, :, :3] * alpha + 255 * (1 - alpha)
            assert np.abs(found - expected).max() <= 1


def test_rows_are_the_classes_in_turn_and_columns_draws_of_epochs(photos: Path) -> None:
    recipe = Recipe(data=str(photos), size=16, augment="flip | mixup(1.0)", seed=3)
    rows, titles = preview_augmentation(recipe, SilentReporter(), 6, 2, 1.0, each=False)
    assert titles == ["original", "epoch 1", "epoch 2"]
    assert [len(row) for row in rows] == [3] * 6
    names = [row[0].caption for row in rows]
    assert len(set(names[: len(set(names))])) == len(set(names)) > 1
    assert any(", " in row[1].caption for row in rows), "a mixed target names both classes"


def test_draws_are_the_pipeline_s(photos: Path) -> None:
    rows, _ = preview_augmentation(Recipe(data=str(photos), size=16, augment="flip"), SilentReporter(), 4, 1, 1.0, each=False)
    originals = torch.from_numpy(np.stack([row[0].pixels for row in rows]))
    drawn = np.stack([row[1].pixels for row in rows])
    chosen = Chance.of(0, torch.arange(4), "augment", 0).at("flip", 0).chosen(Flip().p)
    expected = torch.where(chosen[:, None, None, None], originals.flip(2), originals)
    assert np.array_equal(drawn, expected.numpy())
    assert Pipeline((Flip(),), (16, 16)).size == (16, 16)


def test_each_part_alone_at_rising_strength(photos: Path) -> None:
    rows, titles = preview_augmentation(
        Recipe(data=str(photos), size=16, augment="brightness((0.2, 0.4)) | erase(1.0)"), SilentReporter(), 4, 1, 1.0, each=True
    )
    assert titles == [] and [row[0].caption for row in rows] == ["brightness((0.2, 0.4))", "erase(1.0)"]
    assert [cell.caption for cell in rows[0][1:]] == [f"strength {x}" for x in ("0.25", "0.5", "0.75", "1")]
    moved = [np.abs(cell.pixels.astype(float) - rows[0][0].pixels).mean() for cell in rows[0]]
    assert moved == sorted(moved) and moved[-1] > moved[1] > 0


def change(one: Picture, other: Picture) -> float:
    """The mean difference of the pixels, of 1."""
    return float(np.abs(one.pixels.astype(float) - other.pixels).mean() / 255)


@pytest.mark.parametrize("part", ["jitter(0.1)", "brightness((0.99, 1.01))", "rotate(1)", "blur((0.05, 0.1))"])
def test_a_part_too_weak_to_be_seen_is_shown_stronger(photos: Path, part: str) -> None:
    (row,), _ = preview_augmentation(Recipe(data=str(photos), size=16, augment=part), SilentReporter(), 4, 1, 1.0, each=True)
    captions = [cell.caption for cell in row[1:]]
    changes = [change(row[0], cell) for cell in row[1:]]
    assert captions == [f"strength {x:g}" for x in (1, 2, 4, 8)][: len(captions)] and changes == sorted(changes)
    assert changes[0] < 0.06 and (changes[-1] >= 0.12 or len(captions) == 4)


@pytest.mark.parametrize("part", ["flip", "erase(0.1)", "grayscale(0.2)", "cutmix"])
def test_a_part_that_spares_some_images_is_shown_by_draws_that_did_not(photos: Path, part: str) -> None:
    (row,), _ = preview_augmentation(Recipe(data=str(photos), size=16, augment=part), SilentReporter(), 4, 1, 1.0, each=True)
    assert [cell.caption.partition(",")[0] for cell in row[1:]] == [f"draw {n}" for n in range(1, len(row))] and len(row) > 1
    assert all(change(row[0], cell) > 0 for cell in row[1:])
    assert len({cell.pixels.tobytes() for cell in row}) == len(row), "none twice"


def test_parts_that_change_color_say_so_of_gray_images() -> None:
    said = goodfit("train", "digits", "--limit", "20", "--dry", "--augment", "crop(2) | hue | brightness | hue | grayscale").err
    assert "Warning: Gray images have no color that hue and grayscale could change." in said


def test_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    said = goodfit("show", photos, "--size", "16", "--images", "3", "--draws", "2", "--out", out)
    assert said.code == 0 and "augment = " in said.err and "3 rows of 3 pictures" in said.out
    with Image.open(out) as image:
        assert image.width == GAP + 3 * (MIN_CAPTION_WIDTH + GAP)
    refused(goodfit("show", photos, "--images", "0"), 2, "--images and --draws of 1 or more")
    refused(goodfit("show", photos, "--augment", "flop"), 2, 'Did you mean "flip"?')
    refused(goodfit("show", photos, "--augment", "none", "--each", "--out", out), 2, "Expected augmentation to show")
