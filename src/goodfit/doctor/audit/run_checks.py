"""Checks of a data set with a run on it: its score without leaked images, labels that its predictions contradict, its transforms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.interval import wilson_interval
from goodfit.core.parts import pipe_parts, spell
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.progress import Length, Lengths
from goodfit.core.reporter import Reporter
from goodfit.core.words import count_of, format_percent
from goodfit.data.dataset import Dataset
from goodfit.data.index import IntArray, SplitName
from goodfit.data.loader import iterate_batches
from goodfit.doctor.audit.data_finding import DataFinding, Severity
from goodfit.doctor.audit.image_table import ImageTable
from goodfit.doctor.audit.label_checks import describe_label_noise, describe_order, find_order
from goodfit.doctor.audit.labels import estimate_label_noise
from goodfit.doctor.audit.shift import TwoSamples, compare_sets
from goodfit.doctor.pixels import to_bytes
from goodfit.recipe.prepare import open_recipe
from goodfit.recipe.recipe import Recipe

MIN_IMAGES = 100  # with predictions: fewer say nothing of labels
MATERIAL = 0.005  # of accuracy: half a point
TRANSFORMED_IMAGES = 1000  # of each split
MAX_MEAN_SHIFT, MAX_STD_RATIO = 0.5, 1.5  # of the deviation of the validation images, after the transforms


def check_run(table: ImageTable, findings: Sequence[DataFinding], folder: Path) -> list[DataFinding]:
    """The findings on a data set that the predictions of a run or a study of folds allow, given its other `findings`.

    Raises:
        UsageError: the folder has no predictions, or they are for other images.
        DamagedFile: they do not read.
    """
    predictions = Predictions.read(folder / PREDICTIONS_FILE)
    if predictions is None:
        raise UsageError(f'"{folder}" has no {PREDICTIONS_FILE}: give a finished run, or write it with "goodfit evaluate {folder}".')
    places = {name: place for place, name in enumerate(table.names)}
    rows = np.array([places.get(name, -1) for name in predictions.names.tolist()], dtype=np.int64)
    known = rows >= 0
    if not known.any() or predictions.classes != table.classes:
        raise UsageError(f'The predictions in "{folder}" are for other images than these, such as {predictions.names[0]}.')
    leaked = {group[0] for finding in findings if finding.check == "leak" for group in finding.groups}
    kept = Predictions(predictions.names[known], table.labels[rows[known]], predictions.probabilities[known], predictions.classes)
    return [*_score_without(kept, leaked, folder), *_check_labels(table, kept, rows[known])]


def _score_without(predictions: Predictions, leaked: set[str], folder: Path) -> list[DataFinding]:
    """The accuracy of the images that are not leaked, beside that of all."""
    honest = ~np.isin(predictions.names, np.array(sorted(leaked) or [""], dtype=np.str_))
    n, right = int(honest.sum()), int(predictions.correct[honest].sum())
    if n in (0, len(honest)):
        return []
    before, after, (low, high) = float(predictions.correct.mean()), right / n, wilson_interval(right, n)
    severity: Severity = "warning" if before - after > MATERIAL else "note"
    sentence = (
        f"The accuracy of {folder.name} on {len(honest):,} held-out images is {format_percent(before)}; without the "
        f"{count_of(len(honest) - n, 'leaked one')} it is {format_percent(after)} (95 % interval {format_percent(low)} to "
        f"{format_percent(high)}). Report that."
    )
    numbers = {"accuracy": before, "honest_accuracy": after, "interval": [low, high], "images": n, "leaked": len(honest) - n}
    return [DataFinding("honest_score", severity, sentence, numbers)]


def _check_labels(table: ImageTable, predictions: Predictions, rows: IntArray) -> list[DataFinding]:
    """Wrong labels and other orders of classes, by predictions for images that the model was not trained on, at `rows` of the table."""
    if len(rows) < MIN_IMAGES:
        return []
    classes, findings = len(table.classes), []
    if (order := find_order(predictions.predicted, predictions.labels, classes)) is not None:
        sentence = (
            f"The run finds the classes of the held-out images in another order: {describe_order(order, table.classes)}. Its accuracy is "
            f"{format_percent(order.before)}, in the other order {format_percent(order.after)}. Make both from one list of classes."
        )
        findings.append(DataFinding("class_order", "error", sentence, {"before": order.before, "after": order.after}))
    noise = estimate_label_noise(predictions.probabilities, predictions.labels)
    return findings + (describe_label_noise(table, noise, rows, "held-out") if noise.is_telling and not findings else [])


# ---- transforms ----------------------------------------------------------------------------------------------------------------------


def check_transforms(recipe: Recipe, reporter: Reporter) -> list[DataFinding]:
    """Compare training and validation images before the transforms of a recipe and after them, as the model gets them halfway through."""
    opened = open_recipe(recipe.but(source=""), reporter)
    data, augment = opened.data, opened.chooser.part("augment")
    train, validation = (_read_batch(data, split) for split in ("train", "validation"))
    plain = [to_bytes(data.preprocess.center_crop(batch.images)) for batch in (train, validation)]
    labels = (data.labels[train.ids].numpy(), data.labels[validation.ids].numpy())
    before = compare_sets(plain[0], plain[1], labels)
    lengths = Lengths(max(1, len(data.splits.train) // 128), min(128, len(data.splits.train)), Length.read("1 epoch"))
    parts: tuple[Any, ...] = pipe_parts(augment.bind(data.facts(lengths))) if augment is not None else ()
    places = torch.arange(len(train))
    augmented = Pipeline(parts, data.preprocess.size)(train, Chance.for_epoch(recipe.seed, "augment", 0, places, train.ids), 0.5)
    after = compare_sets(to_bytes(augmented.images), plain[1], labels)
    return [_describe_transforms(before, after, spell(augment) if augment is not None else "none")]


def _read_batch(data: Dataset, split: SplitName) -> Batch:
    """Some images of a split, drawn at random."""
    rows = data.sample_rows(split, TRANSFORMED_IMAGES)
    return next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), len(rows)))


def _describe_transforms(before: TwoSamples, after: TwoSamples, augment: str) -> DataFinding:
    """Say how well training images can be told from validation images before and after the transforms, and whether colors move far."""
    spread = max(float(np.mean(after.stds[1])), 1e-6)
    shift = float(np.abs(np.subtract(*after.means)).max()) / spread
    ratio = float(np.mean(after.stds[0])) / spread
    is_far = shift > MAX_MEAN_SHIFT or not 1 / MAX_STD_RATIO < ratio < MAX_STD_RATIO
    sentence = (
        f"Before the transforms a classifier tells training from validation images with an AUC of {before.auc:.2f} (0.5 is chance), after "
        f"them ({augment}) with {after.auc:.2f}; their channel means lie {shift:.2f} deviations apart, their deviations by a factor of "
        f"{ratio:.2f}. {'Make the augmentation milder.' if is_far else 'That is usual for augmentation.'}"
    )
    numbers = {
        "auc_before": before.auc, "auc_after": after.auc, "interval_before": list(before.interval), "interval_after": list(after.interval),
        "mean_shift": shift, "std_ratio": ratio,
    }  # fmt: skip
    return DataFinding("transforms", "warning" if is_far else "note", sentence, numbers)
