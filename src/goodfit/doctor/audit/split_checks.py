"""Checks of splits against each other, and of what predicts the class without being it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from goodfit.core.words import format_percent
from goodfit.data.index import SPLITS, TRAIN, IntArray
from goodfit.doctor.audit.data_finding import DataFinding, Severity
from goodfit.doctor.audit.image_table import ImageTable
from goodfit.doctor.audit.shift import compare_sets
from goodfit.doctor.audit.shortcuts import PropertyShortcut, border_colors, draw_rows, find_pixel_shortcut, find_property_shortcuts

MIN_AUC, BAD_AUC = 0.65, 0.85  # the lower end of the interval: sets split at random stay below 0.55, other writers of digits reach 0.63
MIN_TRAIN = 60  # images: fewer say nothing of shortcuts
MIN_BORDER_LEAD = 0.15  # of the color of the border over that of the middle
FORMAT_BYTES = 4  # of a file, which say its format


def find_shift(table: ImageTable) -> list[DataFinding]:
    """Find held-out splits whose images a classifier can tell from those of training."""
    findings = []
    train = table.of_split(TRAIN)
    for number, split in enumerate(SPLITS):
        held = table.of_split(number)
        if number == TRAIN or not len(held) or not len(train):
            continue
        found = compare_sets(table.images[train], table.images[held], (table.labels[train], table.labels[held]))
        if found.interval[0] <= MIN_AUC:
            continue
        means, stds = (" and ".join(f"{float(np.mean(side)):.2f}" for side in sides) for sides in (found.means, found.stds))
        severity: Severity = "error" if found.interval[0] > BAD_AUC else "warning"
        sentence = (
            f"The {split} images differ from those of training: a simple classifier tells which is which with an AUC of {found.auc:.2f} "
            f"(0.5 is chance, 95 % interval from {found.interval[0]:.2f}); their means are {means}, deviations {stds}. Prepare both "
            "alike, or "
            "split anew."
        )
        numbers = {"split": split, "auc": found.auc, "interval": list(found.interval), "means": found.means, "stds": found.stds}
        findings.append(DataFinding("split_shift", severity, sentence, numbers))
    return findings


def find_shortcuts(table: ImageTable) -> list[DataFinding]:
    """Find cells, borders and properties of files that give the class of training images away."""
    rows = table.of_split(TRAIN)
    if len(rows) < MIN_TRAIN or len(np.unique(table.labels[rows])) < 2:
        return []
    findings, labels = [], table.labels[rows]
    cell = find_pixel_shortcut(table.images[rows], labels)
    if cell.is_shortcut:
        sentence = (
            f"{cell.name.capitalize()} alone tells the class of {format_percent(cell.accuracy, 0)} of the training images, other places of "
            f"its size {format_percent(cell.elsewhere, 0)} at most: a mark gives the class away. Crop or cover it."
        )
        numbers = {"place": cell.name, "accuracy": cell.accuracy, "elsewhere": cell.elsewhere, "box": list(cell.box)}
        examples = [np.flatnonzero(labels == k)[:2] for k in np.unique(labels)[:8]]
        groups = table.name_groups(rows[part] for part in examples)
        findings.append(
            DataFinding("shortcut", "warning", sentence, numbers, groups, tuple(table.classes[k] for k in np.unique(labels)[:8]))
        )
    findings += [
        DataFinding(
            "property",
            "warning",
            f"The {found.name} alone tells the class of {format_percent(found.accuracy, 0)} of the training images (the most frequent "
            "class "
            f"has {format_percent(found.chance, 0)}): the classes come from different sources, and a model may learn these. Prepare all "
            "alike.",
            {"property": found.name, "accuracy": found.accuracy, "chance": found.chance, "interval": list(found.interval)},
        )
        for found in _find_telling_properties(table, rows)
    ]
    return findings


def _find_telling_properties(table: ImageTable, rows: IntArray) -> list[PropertyShortcut]:
    """The properties of the files and borders of training images, at `rows`, that give their class away."""
    chosen = rows[draw_rows(len(rows), 0)]
    labels = table.labels[chosen]
    properties: dict[str, NDArray[np.generic]] = {}
    if table.properties:
        properties["size in pixels"] = np.stack([table.properties[name][chosen] for name in ("width", "height")], axis=1)
        properties["number of channels"] = table.properties["channels"][chosen]
    properties |= _read_file_properties(table, chosen)
    found = [shortcut for shortcut in find_property_shortcuts(properties, labels) if shortcut.is_shortcut]
    small = table.images[chosen]
    height, width = small.shape[1:3]
    middle = small[:, height // 4 : height - height // 4, width // 4 : width - width // 4].mean(axis=(1, 2), dtype=np.float32)
    colors = {shortcut.name: shortcut for shortcut in find_property_shortcuts({"border": border_colors(small), "middle": middle}, labels)}
    border, center = colors.get("border"), colors.get("middle")
    if border is not None and border.is_shortcut and (center is None or border.accuracy - center.accuracy > MIN_BORDER_LEAD):
        found.append(PropertyShortcut("color of the border", border.accuracy, border.interval, border.chance, True))
    return found


def _read_file_properties(table: ImageTable, places: IntArray) -> dict[str, NDArray[np.generic]]:
    """The sizes and formats of the files of some images; nothing where they are not files."""
    if table.data is None or table.rows is None:
        return {}
    sizes, formats = [], []
    for source in table.data.store.read_many(table.rows[places].tolist()):
        if not isinstance(source, bytes):
            return {}
        sizes.append(len(source))
        formats.append(int.from_bytes(source[:FORMAT_BYTES].ljust(FORMAT_BYTES, b"\0")))
    _, kinds = np.unique(formats, return_inverse=True)
    return {"size of the file": np.log(np.maximum(sizes, 1)), "format of the file": kinds}
