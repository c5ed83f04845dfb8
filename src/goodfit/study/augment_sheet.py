"""What augmentation makes of images: the originals beside draws of the whole pipe, or each part alone at rising strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from goodfit.augment.apply import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.catalog import Catalog, spell, steps
from goodfit.core.chance import Chance, of_epoch
from goodfit.core.progress import Length, Lengths
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.recipe.auto import Chooser, augment_choice, data_choices, machine_choices
from goodfit.recipe.build import catalog, facts_of, parts
from goodfit.recipe.plan import plain_paths
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.terminal.reporter import Voice
from goodfit.terminal.sheet import Picture

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
NAMED = 0.05  # least share of a target that is named


def shown(asked: Recipe, voice: Voice, images: int, draws: int, t: float, each: bool) -> tuple[list[list[Picture]], list[str]]:
    """Rows of pictures and titles of their columns, for training images of a recipe at progress `t`.

    Raises:
        UsageError: a part is unknown or wrong.
        DataError: the data is not there.
    """
    chooser = Chooser(plain_paths(asked))
    known = catalog(asked.use)
    parts(chooser.recipe, known)  # a misspelled part is said before any work
    machine_choices(chooser)
    seen = look(chooser.recipe, voice.say)
    data_choices(chooser, seen)
    data = open_data(chooser.recipe, seen, voice.packing)
    augment_choice(chooser, data)
    for choice in chooser.choices:
        if choice.field == "augment":
            voice.say(f"augment = {choice.value}  ({choice.rule}: {choice.evidence})")
    pipe = bound(chooser.recipe, data, known)
    batch = some(data, images)
    return by_part(pipe, batch, data, t) if each else by_draw(pipe, batch, data, draws, t, chooser.recipe.seed)


def bound(recipe: Recipe, data: Dataset, known: Catalog) -> tuple[Any, ...]:
    """The parts of the recipe's pipe, knowing the data."""
    n = len(data.splits.train)
    budget = Length.read("1 epoch" if recipe.budget == "auto" else recipe.budget)
    lengths = Lengths(max(1, n // 128), min(n, 128), budget)
    return steps(known.make(recipe.augment, "augment").bind(facts_of(data, lengths)))


def some(data: Dataset, images: int) -> Batch:
    """Training images, the classes in turn."""
    rows = data.rows("train")
    labels = data.labels[rows]
    turn = torch.zeros(len(rows), dtype=torch.long)
    for k in range(len(data.classes)):
        mine = labels == k
        turn[mine] = torch.arange(int(mine.sum()))
    order = (turn * len(data.classes) + labels).argsort()
    return next(iterate_batches(data.pixels, data.labels, rows[order[:images]], len(data.classes), images))


def by_draw(pipe: Sequence[Any], batch: Batch, data: Dataset, draws: int, t: float, seed: int) -> tuple[list[list[Picture]], list[str]]:
    """A row for each image: itself, then what it becomes in the first epochs."""
    size, places = data.preprocess.size, torch.arange(len(batch))
    made = [Pipeline(tuple(pipe), size)(batch, of_epoch(seed, "augment", epoch, places, batch.ids), t) for epoch in range(draws)]
    columns = [batch.but(images=data.preprocess.center_crop(batch.images)), *made]
    rows = [[picture(column, row, data) for column in columns] for row in range(len(batch))]
    return rows, ["original", *(f"epoch {epoch + 1}" for epoch in range(draws))]


def by_part(pipe: Sequence[Any], batch: Batch, data: Dataset, t: float) -> tuple[list[list[Picture]], list[str]]:
    """A row for each part: the image it changes most, then what the part alone makes of it at each strength, by the same chance."""
    rows, plain = [], batch.but(images=data.preprocess.center_crop(batch.images))
    for part in pipe:
        now = part.now(t)
        made = [
            Pipeline((now.scaled(strength),), data.preprocess.size)(batch, Chance.of(0, torch.arange(len(batch)), "show"), t)
            for strength in STRENGTHS
        ]
        pixels = (as_bytes(made[-1].images).float() - plain.images.float()).abs().flatten(1).mean(1) / 255
        row = int((pixels + (made[-1].targets - plain.targets).abs().sum(1)).argmax())
        cells = [picture(column, row, data) for column in (plain, *made)]
        rows.append([Picture(cells[0].pixels, spell(part)), *cells[1:]])
    return rows, ["original", *(f"strength {strength:g}" for strength in STRENGTHS)]


def picture(batch: Batch, row: int, data: Dataset) -> Picture:
    """One image of a batch over its target."""
    shares = batch.targets[row]
    order = [k for k in shares.argsort(descending=True, stable=True).tolist() if shares[k] >= NAMED]
    named = [data.classes[k] + (f" {shares[k]:.2f}" if shares[k] < 1 else "") for k in order]
    return Picture(as_bytes(batch.images[row]).permute(1, 2, 0).cpu().numpy(), ", ".join(named))


def as_bytes(images: Tensor) -> Tensor:
    """uint8 images for uint8 or float 0..1 ones."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
