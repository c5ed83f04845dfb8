"""How labels and numbers are read from tables, folders, parquet files and arrays, how they are split, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from goodfit.core.errors import DataError
from goodfit.core.predictions import Predictions
from goodfit.data.index import TRAIN, Index
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule, make_splits, write_splits
from goodfit.data.table import read_table
from goodfit.data.table_targets import TargetSpec
from goodfit.predict.paired import align_on_shared_images
from tests.support.tasks import LABELS, draw_squares, make_label_folder, make_number_folder, write_folder

AS_LABELS, AS_NUMBERS, TAGS = TargetSpec("labels"), TargetSpec("numbers"), TargetSpec("labels", ("tags",))


def read(path: Path, spec: TargetSpec) -> Index:
    return index_images(str(path), spec=spec)


def write_table(folder: Path, rows: list[tuple[Any, ...]], name: str = "data.csv") -> Path:
    """A table of some of the pictures of `draw_squares`."""
    write_folder(folder, draw_squares(len(rows) - 1)[0], [("path", "labels")])
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / name


# ---- labels ------------------------------------------------------------------------------------------------------------------------


def test_lists_and_columns_say_the_same_labels(tmp_path: Path) -> None:
    _, labels, _ = draw_squares(60)
    folder = make_label_folder(tmp_path / "lists", 60)
    columns = write_table(
        tmp_path / "columns", [("path", "Bright", "left", "top"), *((f"{k}.png", *map(int, labels[k])) for k in range(60))]
    )
    lists = read(folder, AS_LABELS)
    assert lists.classes == LABELS and np.array_equal(lists.targets, labels) and lists.name == "lists"
    found = read(columns, AS_LABELS)
    assert found.classes == ("Bright", "left", "top"), "names keep their capitals"
    assert np.array_equal(found.targets, labels)


@pytest.mark.parametrize(("cells", "names"), [
    (["a;b c", "b c", "", "a"], ("a", "b c")),
    (["a|b", "b", "", "a"], ("a", "b")),
    (["a, b", "b", "", "a"], ("a", "b")),
    (["a b", "b", "", "a"], ("a", "b")),
    (["10;9", "9", "", "10"], ("9", "10")),
    (['["a", "b c"]', "['b c']", "[]", "['a']"], ("a", "b c")),
    (['["a", "it\'s"]', '["it\'s"]', "", '["a"]'], ("a", "it's")),
    (["[9, 10]", "[10]", "", "[9]"], ("9", "10")),
])  # fmt: skip
def test_separators_of_lists(cells: list[str], names: tuple[str, ...], tmp_path: Path) -> None:
    index = read(
        write_table(tmp_path, [("image", "tags"), *((f"{k}.png", cell) for k, cell in enumerate(cells))]), TargetSpec("labels", ("tags",))
    )
    assert index.classes == names
    order = [0, 1] if names[0] in cells[3] else [1, 0]
    assert np.array_equal(index.targets[:, order], [[1, 1], [0, 1], [0, 0], [1, 0]])  # type: ignore[index]


def test_labels_of_parquet(tmp_path: Path) -> None:
    images, labels, numbers = draw_squares(12)
    folder = write_folder(tmp_path / "png", images, [("path",)])
    contents = [(folder / f"{k}.png").read_bytes() for k in range(12)]
    lists = [[name for name, has in zip(LABELS, row, strict=True) if has] for row in labels]
    places = [[k for k, has in enumerate(row) if has] for row in labels]
    features = (
        '{"info": {"features": {"labels": {"feature": {"names": ["bright", "left", "top"], "_type": "ClassLabel"}, "_type": "Sequence"}}}}'
    )
    for name, column, metadata in (("words", lists, {}), ("places", places, {b"huggingface": features.encode()})):
        table = pa.table({"image": contents, "labels": column}).replace_schema_metadata(metadata)
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        index = read(tmp_path / f"{name}.parquet", AS_LABELS)
        assert index.classes == LABELS and np.array_equal(index.targets, labels), name
    parquet.write_table(pa.table({"image": contents, "light": numbers[:, 0], "place": numbers[:, 1]}), tmp_path / "numbers.parquet")
    index = read(tmp_path / "numbers.parquet", AS_NUMBERS)
    assert index.classes == ("light", "place") and np.allclose(index.targets, numbers)  # type: ignore[arg-type]
    assert read(tmp_path / "numbers.parquet", TargetSpec("numbers", ("place",))).classes == ("place",)
    parquet.write_table(pa.table({"image": contents, "label": numbers.tolist()}), tmp_path / "vectors.parquet")
    assert np.allclose(read(tmp_path / "vectors.parquet", AS_NUMBERS).targets, numbers)  # type: ignore[arg-type]


def test_labels_and_numbers_of_arrays(tmp_path: Path) -> None:
    images, labels, numbers = draw_squares(20)
    np.savez(tmp_path / "labels.npz", images=images, labels=labels.astype(int), classes=np.array(LABELS))
    index = read(tmp_path / "labels.npz", AS_LABELS)
    assert index.classes == LABELS and np.array_equal(index.targets, labels)
    np.savez(tmp_path / "numbers.npz", x_train=images[:15], y_train=numbers[:15, 0], x_test=images[15:], y_test=numbers[15:, 0])
    index = read(tmp_path / "numbers.npz", AS_NUMBERS)
    assert index.classes == ("number",) and np.allclose(index.targets[:, 0], numbers[:, 0]) and (index.splits == TRAIN).sum() == 15  # type: ignore[index]


# ---- numbers -----------------------------------------------------------------------------------------------------------------------


def test_columns_of_numbers_are_found_or_named(tmp_path: Path) -> None:
    rows = [
        ("path", "note", "Price", "rooms", "split"),
        *((f"{k}.png", "fine", 0.5 * k, k % 3, "train" if k < 8 else "val") for k in range(10)),
    ]
    index = read(write_table(tmp_path, rows), AS_NUMBERS)
    assert index.classes == ("Price", "rooms") and np.allclose(index.targets[:, 0], 0.5 * np.arange(10))  # type: ignore[index]
    assert "left out the columns note" in " ".join(index.notes)
    assert read(tmp_path / "data.csv", TargetSpec("numbers", ("rooms",))).classes == ("rooms",)


@pytest.mark.parametrize(("names", "first"), [(("id",), 7), (("",), 7), (("Image_ID", "row"), 7), (("n",), 0), (("n",), 1)])
def test_columns_that_count_the_rows_are_no_targets(names: tuple[str, ...], first: int, tmp_path: Path) -> None:
    rows = [(*names, "path", "price", "has"), *((*[k + first] * len(names), f"{k}.png", 10 - k, k % 2) for k in range(6))]
    table = write_table(tmp_path, rows)
    index = read(table, AS_NUMBERS)
    assert index.classes == ("price", "has"), index.classes
    assert f"left out the columns {names[0] or 'without a name'} (counts the rows)" in " ".join(index.notes)
    assert read(table, AS_LABELS).classes == ("has",)
    if names[0]:
        assert np.array_equal(read(table, TargetSpec("numbers", names)).targets[:, 0], np.arange(6) + first)  # type: ignore[index]


def test_columns_that_nearly_count_the_rows_are_targets(tmp_path: Path) -> None:
    rows = [
        ("path", "up", "down", "twice", "row", "id"),
        *((f"{k}.png", k + 2, 3 - k, 2 * k, k / 2, "" if k == 3 else 9) for k in range(4)),
    ]
    assert read(write_table(tmp_path, rows), AS_NUMBERS).classes == ("up", "down", "twice", "row"), "a row of fractions is a place"


def test_true_numbers_of_compared_runs_are_equal() -> None:
    def predict(time: float) -> Predictions:
        return Predictions(np.array(["a"]), np.array([[time]]), np.zeros((1, 1), dtype=np.float32), ("time",), "numbers")

    assert not isinstance(align_on_shared_images([[predict(1.7e9)], [predict(1.7e9)]]), str)
    assert align_on_shared_images([[predict(1.7e9)], [predict(1.7e9 + 3600)]]) == "they label some images differently"


def test_splits_hold_like_numbers_and_labels(tmp_path: Path) -> None:
    for folder, spec in ((make_number_folder(tmp_path / "n"), AS_NUMBERS), (make_label_folder(tmp_path / "l"), AS_LABELS)):
        index = read(folder, spec)
        splits = make_splits(index, np.ones(len(index), dtype=bool), SplitRule(0.15, 0))
        assert sorted([*splits.train, *splits.validation, *splits.test]) == list(range(150))
        whole, held = index.targets.mean(0), index.targets[splits.validation].mean(0)  # type: ignore[union-attr, index]
        spread = index.targets.std(0)  # type: ignore[union-attr]
        assert (np.abs(held - whole)[:1] < 0.25 * spread[:1]).all(), "by the fifths of the first number, or the rarest label"
        write_splits(tmp_path / "splits.csv", index, splits)
        assert read_table(tmp_path / "splits.csv").column("label")[3] == index.describe_answer(3)
    assert index.describe_answer(3) == ";".join(name for name, has in zip(LABELS, draw_squares()[1][3], strict=True) if has)


def test_rare_labels_are_dealt_out_by_their_share(tmp_path: Path) -> None:
    rows = [("path", "labels"), *((f"{k}.png", "common;rare" if k % 5 == 0 else "common" if k % 3 else "") for k in range(100))]
    index = read(write_table(tmp_path, rows), AS_LABELS)
    splits = make_splits(index, np.ones(100, dtype=bool), SplitRule(0.25, 0))
    rare = index.targets[:, index.classes.index("rare")]  # type: ignore[index]
    assert rare[splits.test].sum() == 4 and rare[splits.validation].sum() == 4, "a fifth of 20, then a quarter of 16"


def test_other_answers_are_other_data(tmp_path: Path) -> None:
    folder = make_number_folder(tmp_path / "n", 20)
    before = read(folder, AS_NUMBERS).fingerprint()
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("100.0", "99.5"))
    assert read(folder, AS_NUMBERS).fingerprint() != before


# ---- refusals ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "spec", "parts"),
    [
        ([("path", "price"), ("0.png", "3"), ("1.png", "cheap")], TargetSpec("numbers", ("price",)), ("Line 3", "a number for price")),
        ([("path", "price"), ("0.png", "3"), ("1.png", "")], TargetSpec("numbers", ("price",)), ("Line 3", 'found ""')),
        ([("path", "price"), ("0.png", "3"), ("1.png", "")], AS_NUMBERS, ("Line 3", "a number for price", 'found ""')),
        ([("path", "price", "rooms"), ("0.png", "3", "1"), ("1.png", " ", "2")], AS_NUMBERS, ("Line 3", "a number for price")),
        ([("path", "price", "rooms"), ("0.png", "3", "1"), ("1.png", "4")], AS_NUMBERS, ("Line 3", "a number for rooms")),
        ([("path", "cat", "dog"), ("0.png", "", "1"), ("1.png", "1", "0")], AS_LABELS, ("Line 2", "0 or 1 for cat")),
        ([("path", "cat"), ("0.png", "0"), ("1.png", "1"), ("2.png", "")], AS_LABELS, ("Line 4", "0 or 1 for cat")),
        ([("path", "a"), ("0.png", "1"), ("1.png", "2"), ("2.png", "3")], AS_NUMBERS, ("path, a; what only counts the rows, a",)),
        ([("path", "tags"), ("0.png", "traffic light"), ("1.png", "car")], TAGS, ('"traffic" never', '"light" beside it', 'by ";"')),
        ([("path", "tags"), ("0.png", "red light"), ("1.png", "light")], TAGS, ('"red" never stands without "light"',)),
        ([("path", "tags"), ("0.png", '["a", "b"]'), ("1.png", "a")], TAGS, ("data.csv", '["cat", "dog"]', "found a.")),
        ([("path", "tags"), ("0.png", "['a' 'b']"), ("1.png", "['a']")], TAGS, ("found ['a' 'b']",)),
        ([("path", "tags"), ("0.png", "[a, b]"), ("1.png", "[a]")], TAGS, ("found [a, b]",)),
        ([("path", "price"), ("0.png", "3"), ("1.png", "inf")], TargetSpec("numbers", ("price",)), ("Line 3", '"inf"')),
        ([("path", "price"), ("0.png", "3"), ("1.png", "3")], AS_NUMBERS, ("the same number price", "nothing to learn")),
        ([("path", "word"), ("0.png", "x"), ("1.png", "y")], AS_NUMBERS, ("Expected columns of numbers", "found: path, word")),
        ([("path", "a", "b"), ("0.png", "1", "0"), ("1.png", "2", "1")], TargetSpec("labels", ("a", "b")), ("Line 3", "0 or 1 for a")),
        ([("path", "cat"), ("0.png", "1"), ("1.png", "1")], AS_LABELS, ("have the label cat",)),
        ([("path", "labels"), ("0.png", ""), ("1.png", "")], AS_LABELS, ("found none",)),
        ([("path", "price"), ("0.png", "3"), ("1.png", "4")], TargetSpec("numbers", ("rent",)), ("columns rent", "found: path, price")),
        ([("file", "price"), ("", "3"), ("1.png", "4")], AS_NUMBERS, ("Line 2", "no path")),
    ],
)  # fmt: skip
def test_tables_that_are_refused(rows: list[tuple[str, ...]], spec: TargetSpec, parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(write_table(tmp_path, rows), spec)
    assert all(part in str(error.value) for part in parts), error.value


def test_data_that_is_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="one class for each image, no labels"):
        index_images("digits", spec=AS_LABELS)
    with pytest.raises(DataError, match=r"Expected a table labels\.csv"):
        index_images(str(photos), spec=AS_NUMBERS)
    images = draw_squares(6)[0]
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(6))
    with pytest.raises(DataError, match="0 or 1 for each label, found 2"):
        index_images(str(tmp_path / "a.npz"), spec=AS_LABELS)
    np.savez(tmp_path / "b.npz", images=images, labels=np.array([0, 1, 2, np.nan, 4, 5]))
    with pytest.raises(DataError, match="finite numbers, found nan for number, as in row 3"):
        index_images(str(tmp_path / "b.npz"), spec=AS_NUMBERS)
    split = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]])
    np.savez(tmp_path / "c.npz", x_train=images[:3], y_train=split[:3] * [1, 0], x_test=images[3:5], y_test=split[:2])
    with pytest.raises(DataError, match='The label "label 2" in the test images'):
        index_images(str(tmp_path / "c.npz"), spec=AS_LABELS)
