"""A preview of augmentation: images beside draws of the whole pipe, or beside each part alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.parts import pipe_parts, spell
from goodfit.core.progress import Length, Lengths
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.task_words import describe_target
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.recipe.auto import choose_augment
from goodfit.recipe.prepare import Opened, Prepared, open_recipe
from goodfit.recipe.recipe import Recipe
from goodfit.runs.pictures import encode_as_uri
from goodfit.terminal.sheet import Picture

FILE = "augment.json"  # the sheet of a run, for its report
SHEET_IMAGES, SHEET_DRAWS = 4, 5
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
BEYOND_STRENGTHS = (1.0, 2.0, 4.0, 8.0)
WEAK_CHANGE, VISIBLE_CHANGE = 0.06, 0.12  # means over the pixels, of 1: below it is hard to see, above it is plain
TRIED_DRAWS = 12  # of which the ones that change the most are shown

Grid = tuple[list[list[Picture]], list[str]]  # rows of pictures, and the titles of the columns


def preview_augmentation(asked: Recipe, reporter: Reporter, images: int, draws: int, t: float, each: bool) -> Grid:
    """Augment some training images of a recipe at progress `t`: `draws` times by the whole pipe, or by `each` part alone.

    Raises:
        UsageError: a part is unknown or wrong.
        DataError: the data does not exist.
    """
    opened = open_recipe(asked, reporter)
    chooser, data = opened.chooser, opened.data
    choose_augment(chooser, data)
    for choice in chooser.choices:
        if choice.field == "augment":
            reporter.say(f"augment = {choice.value}  ({choice.rule}: {choice.evidence})")
    pipe, batch = _bind_augment(opened), _sample_images(data, images)
    return _preview_parts(pipe, batch, data, t) if each else _preview_draws(pipe, batch, data, draws, t, chooser.recipe.seed)


def write_sheet(run: Run, prepared: Prepared) -> None:
    """Write some training images and what the augmentation of a run makes of them into its folder; nothing without augmentation."""
    data, augment = prepared.data, prepared.parts["augment"]
    if pipe := pipe_parts(augment.bind(data.facts(prepared.training.plan.lengths))):
        batch = _sample_images(data, SHEET_IMAGES)
        rows, _ = _preview_draws(pipe, batch, data, SHEET_DRAWS, 1.0, prepared.recipe.seed)
        cells = [[{"picture": encode_as_uri(cell.pixels), "caption": cell.caption} for cell in row] for row in rows]
        run.write(FILE, {"rows": cells})


def _bind_augment(opened: Opened) -> tuple[Any, ...]:
    """The parts of the recipe's augmentation, adapted to the data."""
    n, budget = len(opened.data.splits.train), opened.chooser.recipe.budget
    lengths = Lengths(max(1, n // 128), min(n, 128), Length.read("1 epoch" if budget == "auto" else budget))
    augment = opened.chooser.part("augment")
    assert augment is not None
    return pipe_parts(augment.bind(opened.data.facts(lengths)))


def _sample_images(data: Dataset, images: int) -> Batch:
    """Some training images, the classes in turn."""
    if data.task.name != "classes":
        rows = data.spread_rows("train", images)
        return next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), images))
    rows = data.local_rows("train")
    labels = data.labels[rows]
    turn = torch.zeros(len(rows), dtype=torch.long)
    for k in range(len(data.classes)):
        of_class = labels == k
        turn[of_class] = torch.arange(int(of_class.sum()))
    order = (turn * len(data.classes) + labels).argsort()
    return next(iterate_batches(data.pixels, data.labels, rows[order[:images]], len(data.classes), images))


def _preview_draws(pipe: Sequence[Any], batch: Batch, data: Dataset, draws: int, t: float, seed: int) -> Grid:
    """A row for each image: the original, then the image as augmented in the first epochs."""
    size, places = data.preprocess.size, torch.arange(len(batch))
    augmented = [
        Pipeline(tuple(pipe), size)(batch, Chance.for_epoch(seed, "augment", epoch, places, batch.ids), t) for epoch in range(draws)
    ]
    columns = [batch.but(images=data.preprocess.center_crop(batch.images)), *augmented]
    rows = [[_picture(column, row, data) for column in columns] for row in range(len(batch))]
    return rows, ["original", *(f"epoch {epoch + 1}" for epoch in range(draws))]


def _preview_parts(pipe: Sequence[Any], batch: Batch, data: Dataset, t: float) -> Grid:
    """A row for each part alone: the image it changes most, then what it makes of that, at rising strength or in several draws."""
    originals = batch.but(images=data.preprocess.center_crop(batch.images))
    rows = [_preview_part(part.at_progress(t), (batch, originals), data, t) for part in pipe]
    return [[Picture(cells[0].pixels, spell(part)), *cells[1:]] for part, cells in zip(pipe, rows, strict=True)], []


def _preview_part(part: Any, images: tuple[Batch, Batch], data: Dataset, t: float) -> list[Picture]:
    """The original, then pictures by one part: draws that changed it where strength is but a share of the images, else one draw at
    several strengths, which go beyond its own where that could not be seen.
    """
    batch, originals = images
    places = torch.arange(len(batch))

    def draw(part: Any, k: int) -> Batch:
        return Pipeline((part,), data.preprocess.size)(batch, Chance.of(0, places, "show", k), t)

    draws = [draw(part, k) for k in range(TRIED_DRAWS)]
    pixels, targets = (torch.stack(column) for column in zip(*(_measure_change(one, originals) for one in draws), strict=True))
    row = int((pixels + targets).mean(0).argmax())
    by_change = (pixels + targets)[:, row].argsort(descending=True, stable=True)
    cells = [_picture(originals, row, data)]
    if not _has_strength(part):
        changes = {float((pixels + targets)[k, row]): k for k in by_change.tolist()}  # those of the same change are taken for the same
        changed = [k for change, k in changes.items() if change > 0] or [int(by_change[0])]
        places_shown = torch.linspace(0, len(changed) - 1, min(len(STRENGTHS), len(changed))).long().tolist()
        return [*cells, *(_picture(draws[changed[place]], row, data, f"draw {n}") for n, place in enumerate(places_shown, 1))]
    k = int(by_change[0])
    is_weak = float(pixels[k, row]) < WEAK_CHANGE and not (pixels[k, row] == 0 and targets[k, row] > 0)
    for strength in BEYOND_STRENGTHS if is_weak else STRENGTHS:
        try:
            augmented = draw(part.scaled(strength), k)
        except UsageError:  # it goes no further
            break
        cells.append(_picture(augmented, row, data, f"strength {strength:g}"))
        if strength > 1 and float(_measure_change(augmented, originals)[0][row]) >= VISIBLE_CHANGE:
            break
    return cells


def _has_strength(part: Any) -> bool:
    """Whether a part can be made milder otherwise than by sparing more images."""
    try:
        half = part.scaled(0.5)
    except UsageError:
        return False
    return not hasattr(part, "p") or dataclasses.replace(half, p=part.p) != part


def _measure_change(augmented: Batch, originals: Batch) -> tuple[Tensor, Tensor]:
    """How much each image [B] and its target [B] changed: the mean over the pixels, on a scale of 0 to 1, and the sum over the classes."""
    pixels = (_as_bytes(augmented.images).float() - originals.images.float()).abs().flatten(1).mean(1) / 255
    return pixels, (augmented.targets - originals.targets).abs().sum(1)


def _picture(batch: Batch, row: int, data: Dataset, label: str = "") -> Picture:
    """One image of a batch, with its target as the caption, or with a label and its target if that is mixed."""
    captions, is_whole = describe_target(data.task, batch.targets[row])
    texts = [label] if label and is_whole else [label, *captions] if label else captions
    return Picture(_as_bytes(batch.images[row]).permute(1, 2, 0).cpu().numpy(), ", ".join(texts))


def _as_bytes(images: Tensor) -> Tensor:
    """Convert uint8 or float 0..1 images to uint8."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
