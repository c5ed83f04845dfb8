"""Images with the same bytes are told, stay in one split where it is made here, and can be dropped."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from goodfit.data.duplicates import choose_duplicates_to_drop, describe_duplicates, find_originals
from goodfit.data.index import TEST, TRAIN, UNASSIGNED, VALIDATION, Index
from goodfit.data.splits import SplitRule, make_splits
from goodfit.data.store import ArrayStore
from tests.support.command import goodfit, train
from tests.support.photos import make_photos

SEEDS = range(20)


def make_index(labels: np.ndarray, splits: np.ndarray | None = None) -> Index:
    n, given = len(labels), np.full(len(labels), UNASSIGNED) if splits is None else splits
    store = ArrayStore(lambda: np.zeros((n, 4, 4), np.uint8), "x")
    return Index("x", ("a", "b", "c"), labels, given.astype(np.int8), [f"{k}.png" for k in range(n)], store)


def group(contents: list[int]) -> dict[int, list[int]]:
    """The rows of each content."""
    rows: dict[int, list[int]] = {}
    for row, content in enumerate(contents):
        rows.setdefault(content, []).append(row)
    return rows


@pytest.mark.parametrize("seed", SEEDS)
def test_originals_are_the_first_rows_with_the_same_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents, usable = rng.integers(0, 30, 60), rng.random(60) > 0.2 * (seed % 2)
    hashes = np.random.default_rng(99).integers(0, 256, (30, 16), dtype=np.uint8)[contents]
    hashes[:, :8] //= 128  # two words are compared, not one
    seen: dict[bytes, int] = {}
    expected = [seen.setdefault(hashes[row].tobytes(), row) if usable[row] else row for row in range(60)]
    assert find_originals(hashes, usable).tolist() == expected
    assert find_originals(hashes[:0], usable[:0]).tolist() == []


@pytest.mark.parametrize("seed", SEEDS)
def test_duplicates_stay_in_one_split_that_is_made_here(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, originals = rng.integers(0, 3, 200), np.arange(200)
    contents = np.where(rng.random(200) < 0.5, rng.integers(0, 40, 200), np.arange(200))
    if seed % 2:  # each picture under one label
        labels = contents % 3
    for rows in group(contents.tolist()).values():
        originals[rows] = rows[0]
    index = make_index(labels)
    made = make_splits(index, np.ones(200, bool), SplitRule(0.2, seed), originals)
    where = np.full(200, UNASSIGNED)
    for split, part in ((TRAIN, made.train), (VALIDATION, made.validation), (TEST, made.test)):
        where[part] = split
    assert (where != UNASSIGNED).all()
    for rows in group(contents.tolist()).values():
        assert len(set(where[rows])) == 1
        if len(set(labels[rows])) > 1:
            assert where[rows[0]] == TRAIN
    held = np.bincount(labels[where != TRAIN], minlength=3) / np.bincount(labels, minlength=3)
    assert (held > 0.05).all() and (held < 0.45).all()  # 0.2 + 0.8 x 0.2 of what has one label
    assert not any("several splits" in note for note in made.notes)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_picture_that_is_most_of_a_class_stays_in_training(seed: int) -> None:
    originals = np.arange(300)
    originals[:90] = 0
    index = make_index(np.arange(300) // 100)
    made = make_splits(index, np.ones(300, bool), SplitRule(0.1, seed), originals)
    held = np.bincount(index.labels[np.concatenate([made.validation, made.test])], minlength=3)
    assert np.isin(np.arange(90), made.train).all() and 1 <= held[0] <= 10 and 26 <= held[1] <= 30


def test_test_images_have_no_say_in_what_validates() -> None:
    """Whatever test images are duplicates of, and whatever their labels, the same training images are held out."""
    labels, splits = np.arange(90) % 3, np.where(np.arange(90) < 30, TEST, TRAIN)
    held = []
    for copied, shift in ((None, 0), (np.arange(60, 90), 0), (np.arange(60, 90)[::-1], 1)):
        originals, given = np.arange(90), labels.copy()
        if copied is not None:
            originals[copied] = np.arange(30)
            given[:30] = (labels[:30] + shift) % 3
        held.append(make_splits(make_index(given, splits), np.ones(90, bool), SplitRule(0.2, 0), originals).validation.tolist())
    assert held[0] == held[1] == held[2] and len(held[0]) == 12


def test_without_duplicates_the_splits_are_as_ever() -> None:
    index, usable = make_index(np.arange(90) % 3), np.ones(90, bool)
    assert make_splits(index, usable, SplitRule(0.1, 0), np.arange(90)).digest == make_splits(index, usable, SplitRule(0.1, 0)).digest
    dropped = make_splits(index, usable, SplitRule(0.1, 0, drop_duplicates=True), np.arange(90))
    assert dropped.digest == make_splits(index, usable, SplitRule(0.1, 0)).digest


@pytest.mark.parametrize("seed", SEEDS)
def test_of_duplicates_one_stays_a_held_out_one_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents, splits, labels = rng.integers(0, 25, 60), rng.integers(-1, 3, 60), rng.integers(0, 3, 60)
    labels = np.where(contents < 15, contents % 3, labels)
    originals = np.array([int(np.flatnonzero(contents == content)[0]) for content in contents])
    dropped = choose_duplicates_to_drop(make_index(labels, splits), originals)
    for rows in group(contents.tolist()).values():
        kept = [row for row in rows if not dropped[row]]
        if len(set(labels[rows])) > 1:
            assert not kept
        else:
            assert kept == [max(rows, key=lambda row: (splits[row], -row))]


def test_what_is_said_of_duplicates() -> None:
    labels, splits = np.array([0, 0, 1, 1, 1, 2]), np.array([TRAIN, TEST, TRAIN, TRAIN, TEST, TEST], dtype=np.int8)
    first, across, labeled = describe_duplicates(make_index(labels, splits), splits, np.array([0, 0, 2, 2, 4, 4]))
    assert first == "3 images are duplicates of another, byte for byte; --drop-duplicates leaves them out."
    assert across.startswith("1 picture stands in several splits, such as 0.png and 1.png:")
    assert labeled.startswith("1 picture stands under several labels, such as 4.png and 5.png:")
    assert describe_duplicates(make_index(labels, splits), splits, np.arange(6)) == []


@pytest.fixture(scope="module")
def copied_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that each stand there twice, and one more time under another class."""
    folder = make_photos(tmp_path_factory.mktemp("copied") / "photos", each=12)
    for path in sorted(folder.rglob("*.png")):
        shutil.copy(path, path.with_name(f"{path.stem} (1).png"))
    shutil.copy(folder / "red" / "003.png", folder / "blue" / "003 of red.png")
    return folder


def splits_of(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_train_says_what_is_there_twice_and_keeps_it_together(copied_photos: Path, tmp_path: Path) -> None:
    said = train(copied_photos, tmp_path / "run")
    assert said.code == 0
    assert "37 images are duplicates of another" in said.err
    assert "under several labels, such as blue/003 of red.png and red/003" in said.err and "several splits" not in said.err
    splits = splits_of(tmp_path / "run")
    assert len(splits) == 73 and {splits[name] == splits[name.replace(" (1)", "")] for name in splits} == {True}


def test_duplicates_are_dropped(copied_photos: Path, tmp_path: Path) -> None:
    said = train(copied_photos, tmp_path / "run", "--drop-duplicates")
    assert said.code == 0 and "Left out 38 duplicates." in said.err and "byte for byte" not in said.err
    pictures = [name.replace(" (1)", "") for name in splits_of(tmp_path / "run")]
    assert len(pictures) == len(set(pictures)) == 35 and not {"red/003.png", "blue/003 of red.png"} & set(pictures)
    assert goodfit("evaluate", tmp_path / "run", "--json").code == 0


def test_folds_keep_duplicates_together(copied_photos: Path, tmp_path: Path) -> None:
    said = train(copied_photos, tmp_path / "folds", "--folds", "3", budget="1 epoch")
    assert said.code == 0, said.err
    for k in (1, 2, 3):
        splits = splits_of(tmp_path / "folds" / f"fold-{k}")
        assert {splits[name] == splits[name.replace(" (1)", "")] for name in splits} == {True}


def test_a_table_that_lists_each_image_four_times(photos: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(photos).as_posix()},{path.parent.name}\n" for path in sorted(photos.rglob("*.png"))]
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "list.csv").write_text("path,label\n" + "".join(rows) * 4)
    said = train(tmp_path / "photos" / "list.csv", tmp_path / "run")
    assert said.code == 0 and "270 images are duplicates" in said.err
    with (tmp_path / "run" / "splits.csv").open(newline="", encoding="utf-8") as file:
        by_name: dict[str, set[str]] = {}
        for row in csv.DictReader(file):
            by_name.setdefault(row["path"], set()).add(row["split"])
    assert len(by_name) == 90 and all(len(found) == 1 for found in by_name.values())
    assert set.union(*by_name.values()) == {"train", "validation", "test"}
