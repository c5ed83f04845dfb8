"""A preview of augmentation: images beside draws of the whole pipe, or beside each part alone at rising strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.parts import pipe_parts, spell
from goodfit.core.progress import Length, Lengths
from goodfit.core.reporter import Reporter
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.recipe.auto import choose_augment
from goodfit.recipe.prepare import Opened, open_recipe
from goodfit.recipe.recipe import Recipe
from goodfit.terminal.sheet import Picture

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MIN_NAMED_SHARE = 0.05  # of a target

Grid = tuple[list[list[Picture]], list[str]]  # rows of pictures, and the titles of the columns


def preview_augmentation(asked: Recipe, reporter: Reporter, images: int, draws: int, t: float, each: bool) -> Grid:
    """Augment some training images of a recipe at progress `t`: `draws` times by the whole pipe, or by `each` part at rising strength.

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


def _bind_augment(opened: Opened) -> tuple[Any, ...]:
    """The parts of the recipe's augmentation, adapted to the data."""
    n, budget = len(opened.data.splits.train), opened.chooser.recipe.budget
    lengths = Lengths(max(1, n // 128), min(n, 128), Length.read("1 epoch" if budget == "auto" else budget))
    augment = opened.chooser.part("augment")
    assert augment is not None
    return pipe_parts(augment.bind(opened.data.facts(lengths)))


def _sample_images(data: Dataset, images: int) -> Batch:
    """Some training images, the classes in turn."""
    rows = data.rows("train")
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
    """A row for each part: the image it changes most, then that image augmented by the part alone at each strength, by the same chance."""
    rows, originals = [], batch.but(images=data.preprocess.center_crop(batch.images))
    for part in pipe:
        now = part.at_progress(t)
        augmented = [
            Pipeline((now.scaled(strength),), data.preprocess.size)(batch, Chance.of(0, torch.arange(len(batch)), "show"), t)
            for strength in STRENGTHS
        ]
        pixels = (_as_bytes(augmented[-1].images).float() - originals.images.float()).abs().flatten(1).mean(1) / 255
        row = int((pixels + (augmented[-1].targets - originals.targets).abs().sum(1)).argmax())
        cells = [_picture(column, row, data) for column in (originals, *augmented)]
        rows.append([Picture(cells[0].pixels, spell(part)), *cells[1:]])
    return rows, ["original", *(f"strength {strength:g}" for strength in STRENGTHS)]


def _picture(batch: Batch, row: int, data: Dataset) -> Picture:
    """One image of a batch, with its target as the caption."""
    shares = batch.targets[row]
    order = [k for k in shares.argsort(descending=True, stable=True).tolist() if shares[k] >= MIN_NAMED_SHARE]
    captions = [data.classes[k] + (f" {shares[k]:.2f}" if shares[k] < 1 else "") for k in order]
    return Picture(_as_bytes(batch.images[row]).permute(1, 2, 0).cpu().numpy(), ", ".join(captions))


def _as_bytes(images: Tensor) -> Tensor:
    """Convert uint8 or float 0..1 images to uint8."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
