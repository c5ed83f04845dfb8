"""Checks of the images themselves: broken, blank and odd ones, duplicates, leaks between splits, groups that belong together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from goodfit.core.words import count_of, format_percent, list_some
from goodfit.data.index import SPLITS, TRAIN, IntArray
from goodfit.doctor.audit.counts import find_odd_sizes
from goodfit.doctor.audit.data_finding import DataFinding, Severity
from goodfit.doctor.audit.features import FloatArray
from goodfit.doctor.audit.image_table import ImageTable
from goodfit.doctor.audit.labels import find_some_neighbors
from goodfit.doctor.audit.leakage import Leak, find_leak, measure_excess_likeness
from goodfit.doctor.audit.near_duplicates import NearDuplicates
from goodfit.doctor.defects import find_blank_images

MANY_BROKEN = 0.01  # of the images that cannot be read, or are blank: more is an accident, such as a copy that was cut short
BAD_LEAK, SMALL_LEAK = 0.05, 0.005  # of a held-out split: its score is wrong by points, or may be by a fraction of one
MANY_COPIES = 0.05  # of the training images that are copies: they count several times, and the data is smaller than it seems
MIN_NAME_GROUPS, MIN_LIFT, MIN_TOGETHER = 20, 5.0, 0.2  # of groups by name: so many, whose images look alike so much more than others
KIND_WORDS = {1: "gray", 3: "color", 4: "with alpha"}


def find_broken(table: ImageTable) -> list[DataFinding]:
    """Find images that cannot be read."""
    if not (n := len(table.broken)):
        return []
    share = n / (n + len(table))
    reason = Counter(table.broken.values()).most_common(1)[0][0]
    sentence = (
        f"{count_of(n, 'file')} cannot be read ({format_percent(share)} of all), such as {list_some(list(table.broken), 1)}: {reason}. "
        "Training leaves them out; replace or delete them."
    )
    return [DataFinding("broken", "error" if share > MANY_BROKEN else "warning", sentence, {"images": n, "share": share})]


def find_blank(table: ImageTable) -> list[DataFinding]:
    """Find images that show nothing."""
    found = find_blank_images(table.images)
    findings = []
    for check, rows, what in (("blank", found.blank, "of one color"), ("plain", found.plain, "of one color but for a few pixels")):
        if not len(rows):
            continue
        share, most = len(rows) / len(table), int(np.bincount(table.labels[rows]).argmax())
        severity: Severity = "note" if check == "plain" else "error" if share > MANY_BROKEN and len(rows) > 1 else "warning"
        sentence = (
            f"{count_of(len(rows), 'image is', 'images are')} {what} ({format_percent(share)} of all; most in {table.classes[most]}), "
            "such as "
            f"{table.name(rows[0])}: they teach nothing, and what they are labeled is noise. Remove them."
        )
        findings.append(DataFinding(check, severity, sentence, {"images": len(rows), "share": share}, table.name_groups(rows[:, None])))
    return findings


def find_sizes(table: ImageTable) -> list[DataFinding]:
    """Find images of odd sizes and of several modes."""
    if not table.properties:
        return []
    width, height, channels = (table.properties[name] for name in ("width", "height", "channels"))
    odd = find_odd_sizes(width, height, channels)
    findings = []
    for rows, what in (
        (odd.smaller, "over four times smaller than the median"),
        (odd.larger, "over four times larger than the median"),
        (odd.longer, "over three times longer on one side than on the other"),
    ):
        if len(rows):
            sentence = (
                f"{count_of(len(rows), 'image is', 'images are')} {what}, such as {table.name(rows[0])} "
                f"({width[rows[0]]} x {height[rows[0]]}): look whether they belong here."
            )
            findings.append(DataFinding("sizes", "note", sentence, {"images": len(rows)}, table.name_groups(rows[:, None])))
    if len(odd.kinds) > 1:
        kinds = {KIND_WORDS[kind]: n for kind, n in sorted(odd.kinds.items())}
        text = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
        findings.append(DataFinding("modes", "note", f"The images are mixed ({text}); training reads all of them alike.", kinds))
    return findings


# ---- copies --------------------------------------------------------------------------------------------------------------------------


def find_copies(table: ImageTable, duplicates: NearDuplicates) -> list[DataFinding]:
    """Find pictures that occur more than once in the training images, and those whose copies have several labels."""
    groups, findings = duplicates.groups(), []
    in_train = [group[table.splits[group] == TRAIN] for group in groups]
    in_train = sorted((group for group in in_train if len(group) > 1), key=len, reverse=True)
    copies = sum(len(group) - 1 for group in in_train)
    if copies:
        share = copies / len(table.of_split(TRAIN))
        exact = int((table.splits[duplicates.pairs[duplicates.is_exact]] == TRAIN).all(axis=1).sum())
        sentence = (
            f"{count_of(copies, 'training image repeats', 'training images repeat')} another ({format_percent(share)}), {exact:,} byte for "
            "byte, the others cropped, turned, mirrored or encoded anew: the data is smaller than it seems. --drop-duplicates leaves out "
            "equal files."
        )
        numbers = {"images": copies, "exact": exact, "share": share, "pictures": len(in_train)}
        severity: Severity = "warning" if share > MANY_COPIES else "note"
        findings.append(DataFinding("duplicates", severity, sentence, numbers, table.name_groups(in_train)))
    if mixed := [group for group in groups if len(set(table.labels[group].tolist())) > 1]:
        a = int(mixed[0][0])
        b = next(int(row) for row in mixed[0] if table.labels[row] != table.labels[a])
        sentence = (
            f"{count_of(len(mixed), 'picture occurs', 'pictures occur')} under several labels, such as {table.name(a)} "
            f"({table.classes[table.labels[a]]}) and {table.name(b)} ({table.classes[table.labels[b]]}): at least one label of each is "
            "wrong. "
            "Correct or remove them."
        )
        findings.append(DataFinding("contradictions", "warning", sentence, {"pictures": len(mixed)}, table.name_groups(mixed)))
    return findings


def find_leaks(table: ImageTable, duplicates: NearDuplicates) -> list[DataFinding]:
    """Find held-out images whose picture is among the training images."""
    findings = []
    for number, split in enumerate(SPLITS):
        if number != TRAIN and len(table.of_split(number)):
            leak = find_leak(duplicates, table.splits, number)
            if len(leak.rows):
                findings.append(_describe_leak(table, leak, split))
    excess = measure_excess_likeness(table.images, table.splits)
    if excess.is_leak and not any(finding.severity == "error" for finding in findings):
        low, high = (format_percent(x, 0) for x in excess.interval)
        sentence = (
            f"About {format_percent(excess.share, 0)} of the held-out images (95 % interval {low} to {high}) lie nearer to a training "
            "image "
            "than training images lie to each other: they are copies with noise or another brightness, and scores come out too good. Split "
            "by what they were made from."
        )
        numbers = {"share": excess.share, "interval": list(excess.interval)}
        findings.append(DataFinding("leak", "error" if excess.share > BAD_LEAK else "warning", sentence, numbers))
    return findings


def _describe_leak(table: ImageTable, leak: Leak, split: str) -> DataFinding:
    severity: Severity = "error" if leak.share > BAD_LEAK else "warning" if leak.share > SMALL_LEAK else "note"
    n, row, source = len(leak.rows), int(leak.rows[0]), int(leak.sources[0])
    sentence = (
        f"{count_of(n, f'{split} image')} of {leak.n:,} ({format_percent(leak.share)}) {'is' if n == 1 else 'are'} among the training "
        "images, "
        f"too, {len(leak.exact):,} byte for byte, such as {table.name(row)} as {table.name(source)}: the {split} score is too good. "
        "Keep copies in one split."
    )
    numbers = {"split": split, "images": n, "exact": len(leak.exact), "share": leak.share, "interval": list(leak.interval)}
    return DataFinding("leak", severity, sentence, numbers, table.name_groups(np.stack([leak.rows, leak.sources], axis=1)))


# ---- groups --------------------------------------------------------------------------------------------------------------------------


def group_by_name(names: Sequence[str]) -> IntArray:
    """The group [N] of each name: names of one folder that differ in their last number alone, after a number and a separator, are of one.

    "p07_12.png" and "p07_13.png" are; "img_12.png" and "img_13.png" have no number before the last and are each a group of its own.
    """
    keys: dict[str, int] = defaultdict(lambda: len(keys))
    groups = np.empty(len(names), dtype=np.int64)
    for place, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        match = re.fullmatch(r"(.*\d.*?)[^0-9a-zA-Z]\D*\d+", file.rpartition(".")[0] or file)
        groups[place] = keys[f"{folder}/{match[1]}"] if match else keys[f"{name}\0"]
    return groups


def find_split_groups(table: ImageTable, features: FloatArray) -> list[DataFinding]:
    """Find groups of images by name, as of one patient or burst, that look alike and lie in several splits, by `features` [N, D]."""
    groups = group_by_name(table.names)
    counts = np.bincount(groups)
    is_grouped = counts[groups] > 1
    if (counts > 1).sum() < MIN_NAME_GROUPS:
        return []
    rows, neighbors = find_some_neighbors(features, 1)
    is_chosen = is_grouped[rows]
    together = float((groups[neighbors[:, 0]] == groups[rows])[is_chosen].mean()) if is_chosen.any() else 0.0
    of_class = np.bincount(table.labels)[table.labels]
    chance = float(((counts[groups] - 1) / np.maximum(of_class - 1, 1))[is_grouped].mean())
    has_split = np.zeros((len(counts), len(SPLITS)), dtype=bool)
    has_split[groups, table.splits] = True
    cut = int((has_split[:, TRAIN] & has_split[:, TRAIN + 1 :].any(axis=1)).sum())
    if together < max(MIN_TOGETHER, MIN_LIFT * chance) or not cut:
        return []
    n = int((counts > 1).sum())
    sentence = (
        f"Images whose names differ in their last number alone, such as {table.name(int(np.flatnonzero(is_grouped)[0]))}, look alike: "
        f"{format_percent(together, 0)} have their nearest neighbor in the group (by chance {format_percent(chance)}), and {cut:,} of "
        f"{n:,} "
        "groups lie in several splits. Split by group: train --folds 5 --groups FILE."
    )
    return [DataFinding("groups", "warning", sentence, {"together": together, "chance": chance, "cut": cut, "groups": n})]
