"""Labels go through one door: the same values give the same classes in every format, and what is no label is refused in all of them."""

from __future__ import annotations

import pickle
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodfit.core.errors import DataError
from goodfit.core.words import natural_order
from goodfit.data.labels import encode_labels, match_labels
from goodfit.data.sources import index_images
from tests.support.data_files import error_of, write_cifar, write_image, write_parquet

RNG = np.random.default_rng(0)


# ---- the same texts in each format -------------------------------------------------------------------------------------------------


def as_folder(root: Path, labels: Sequence[str]) -> Path:
    for k, label in enumerate(labels):
        write_image(root / "photos" / label / f"{k}.png", k)
    return root / "photos"


def as_table(root: Path, labels: Sequence[str]) -> Path:
    for k in range(len(labels)):
        write_image(root / f"{k}.png", k)
    (root / "d.csv").write_text("path,label\n" + "".join(f'{k}.png,"{label}"\n' for k, label in enumerate(labels)), encoding="utf-8")
    return root / "d.csv"


def as_parquet(root: Path, labels: Sequence[str]) -> Path:
    write_parquet(root / "d.parquet", pixels(len(labels)), list(labels))
    return root / "d.parquet"


def as_named_parquet(root: Path, labels: Sequence[str]) -> Path:
    names = list(dict.fromkeys(labels))
    write_parquet(root / "d.parquet", pixels(len(labels)), [names.index(label) for label in labels], names)
    return root / "d.parquet"


def as_npz(root: Path, labels: Sequence[str]) -> Path:
    np.savez(root / "d.npz", images=pixels(len(labels)), labels=np.array(labels))
    return root / "d.npz"


def as_named_npz(root: Path, labels: Sequence[str]) -> Path:
    names, numbers = np.unique([label.encode() for label in labels], return_inverse=True)  # as bytes
    np.savez(root / "d.npz", images=pixels(len(labels)), labels=numbers, classes=names)
    return root / "d.npz"


def as_pickle(root: Path, labels: Sequence[str]) -> Path:
    write_cifar(root / "c")  # its labels are 0 and 1 in turn
    names = [label.encode() for label in dict.fromkeys(labels)]
    (root / "c" / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return root / "c"


def pixels(n: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)


Write = Callable[[Path, Sequence[str]], Path]
FORMATS: tuple[Write, ...] = (as_folder, as_table, as_parquet, as_named_parquet, as_npz, as_named_npz, as_pickle)
each_format = pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__[3:])


@each_format
def test_labels_are_the_texts_that_were_given(tmp_path: Path, write: Write) -> None:
    index = index_images(str(write(tmp_path, ["käse", "dog"] * 3)))
    assert set(index.classes) == {"käse", "dog"}
    if write is not as_pickle:
        names = [index.classes[label] for label in index.labels]
        assert sorted(names) == ["dog"] * 3 + ["käse"] * 3
        assert names == ["käse", "dog"] * 3 or write is as_folder


@each_format
@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "None", "NULL", "<NA>", "#na", "NaT", "\u200b", "\u00a0None "])
def test_what_stands_for_a_missing_label_is_no_class(tmp_path: Path, write: Write, word: str) -> None:
    text = error_of(write(tmp_path, ["dog", word] * 3))
    assert "missing label" in text or (write is as_table and "Line 3" in text and "has no label" in text)
    assert "such as" in text or "Line 3" in text, "the image is named"


@pytest.mark.parametrize("word", ["", " ", "n/a", "#N/A", "N.A."])
@pytest.mark.parametrize("write", [as_table, as_parquet, as_npz])
def test_missing_labels_that_no_folder_can_be_named(tmp_path: Path, write: Write, word: str) -> None:
    text = error_of(write(tmp_path, ["dog", word] * 3))
    assert "missing label" in text or "has no label" in text


@pytest.mark.parametrize("word", ["none", "nano", "nun", "+", "-", "?", "#", "nonesuch", "-2"])
def test_words_that_are_classes(tmp_path: Path, word: str) -> None:
    assert set(index_images(str(as_folder(tmp_path, ["dog", word] * 2))).classes) == {"dog", word}


TWINS = {
    "Unicode forms": (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"), "look the same"),
    "a no-break space": ("a b", "a\u00a0b", "look the same"),
    "a thin space": ("a b", "a\u2009b", "look the same"),
    "two spaces": ("a b", "a  b", "look the same"),
    "a space of no width": ("ab", "a\u200bb", "look the same"),
    "a soft hyphen": ("ab", "a\u00adb", "look the same"),
    "case": ("Ab", "aB", "differ only by case"),
}


@each_format
@pytest.mark.parametrize("twins", TWINS.values(), ids=TWINS)
def test_names_that_look_alike_are_not_two_classes(tmp_path: Path, write: Write, twins: tuple[str, str, str]) -> None:
    data = write(tmp_path, list(twins[:2]) * 3)
    if write is as_folder and len(list(data.iterdir())) < 2:
        pytest.skip("this file system takes them for one name")
    assert twins[2] in error_of(data)


@pytest.mark.parametrize("write", [as_folder, as_parquet, as_npz])
def test_a_space_at_the_end_makes_no_class(tmp_path: Path, write: Write) -> None:
    assert "'cat '" in error_of(write(tmp_path, ["cat", "cat "] * 2))


def test_a_table_s_cells_have_no_spaces_at_their_ends(tmp_path: Path) -> None:
    assert index_images(str(as_table(tmp_path, ["cat", "cat ", "\u00a0cat", "dog"]))).classes == ("cat", "dog")


@pytest.mark.parametrize("write", [as_table, as_parquet, as_npz])
def test_classes_stand_in_natural_order(tmp_path: Path, write: Write) -> None:
    assert index_images(str(write(tmp_path, ["c10", "c9", "c1", "c9"]))).classes == ("c1", "c9", "c10")
    assert index_images(str(write(tmp_path, ["10.0", "2.0", "1.", "2"]))).classes == ("1", "2", "10")
    assert index_images(str(write(tmp_path, ["a1", "a", "a1b", "b"]))).classes == ("a", "a1", "a1b", "b")


def test_folders_with_and_without_a_number(tmp_path: Path) -> None:
    assert index_images(str(as_folder(tmp_path, ["a1", "a", "2", "a" + "1" * 200]))).classes == ("2", "a", "a1", "a" + "1" * 200)


def test_the_name_of_a_class_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=pixels(6), labels=np.arange(6) % 3, classes=np.array(["red", "red", "blue"]))
    assert 'two classes "red"' in error_of(tmp_path / "d.npz")
    write_parquet(tmp_path / "d.parquet", pixels(6), [0, 1] * 3, ["red", "red"])
    assert 'two classes "red"' in error_of(tmp_path / "d.parquet")


# ---- values ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([b"red", b"blue"]), ["red", "blue"]),
        ([b"red", "blue", np.str_("red")], ["red", "blue", "red"]),
        (np.array([b"red", "blue"], dtype=object), ["red", "blue"]),
        (np.array([10.0, 2.0, -0.0], np.float32), ["10", "2", "0"]),
        (np.array([1e15, 2]), ["1000000000000000", "2"]),
        (["10.0", "2.0", "3"], ["10", "2", "3"]),
        ([10, 2.0, True], ["10", "2", "1"]),
        (["007", "7"], ["007", "7"]),
        (["1.5", "2.0"], ["1.5", "2.0"]),
        (np.array([True, False]), ["1", "0"]),
        (np.array([3, -1, 200], np.int16), ["3", "-1", "200"]),
        (["9" * 9000, "8" * 9000], ["9" * 9000, "8" * 9000]),
        (np.array([2**63, 1], np.uint64), ["9223372036854775808", "1"]),
    ],
)
def test_values_become_names(values: Any, names: list[str]) -> None:
    classes, labels = encode_labels(values, "x")
    assert [classes[label] for label in labels] == names and labels.dtype == np.int64
    whole = all(name.lstrip("-").isdecimal() and len(name) < 300 for name in names)
    assert list(classes) == sorted(set(names), key=(lambda name: (int(name), name)) if whole else natural_order)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.eye(3), "float64 [3, 3]"),
        ([[0, 1], [1, 0]], "found [0, 1]"),
        ([1, [2]], "found [2]"),
        ([(1, 2), (3, 4)], "found (1, 2)"),
        ([{"a": 1}], "found {'a': 1}"),
        (np.array([0.5, 1]), "whole numbers, found 0.5"),
        (np.array([np.inf, 1]), "whole numbers, found inf"),
        ([b"\xff\xfe"], "text in UTF-8"),
        (np.array([1j]), "complex128"),
        (np.zeros(2, "M8[s]"), "datetime64[s]"),
        (np.array(3), "int64 []"),
    ],
)
def test_values_that_cannot_be_one_label(values: Any, says: str) -> None:
    with pytest.raises(DataError, match="in the place") as caught:
        encode_labels(values, "the place")
    assert says in str(caught.value)


def test_missing_values_of_python_get_names_that_are_refused() -> None:
    assert encode_labels(["a", None, float("nan"), float("nan"), b"a"], "x")[0] == ("None", "a", "nan")


def test_minus_one_is_a_class_beside_one_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=pixels(6), labels=[-1, 1] * 3)
    assert index_images(str(tmp_path / "d.npz")).classes == ("-1", "1")
    for labels in ([-1, 0, 1] * 2, [-1.0, 0, 2] * 2):
        np.savez(tmp_path / "d.npz", images=pixels(6), labels=labels)
        assert '2 images with the label "-1", such as images#0' in error_of(tmp_path / "d.npz")


def test_nan_labels_name_their_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=pixels(6), y_train=[0, 1, np.nan] * 2)
    assert '2 images with the label "nan", such as x_train#2' in error_of(tmp_path / "d.npz")
    write_parquet(tmp_path / "d.parquet", pixels(4), [0.0, 1.0, float("nan"), 1.0])
    assert "such as d.parquet#2" in error_of(tmp_path / "d.parquet")
    write_parquet(tmp_path / "d.parquet", pixels(4), ["a", "b", None, "b"])
    assert "1 row without a label, such as row 2" in error_of(tmp_path / "d.parquet")


# ---- labels beside class names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "positions"),
    [
        (np.array(["blue", "red", "1"]), [2, 0, 1]),
        (np.array([b"blue", b"red"]), [2, 0]),
        (["2", "0"], [2, 0]),
        (np.array([2, 1]), [2, 1]),
        ([2, 1], [2, 1]),
        (np.array([2.0, 0.0]), [2, 0]),
    ],
)
def test_labels_are_names_or_positions(values: Any, positions: list[int]) -> None:
    assert match_labels(values, ("red", "1", "blue"), "x").tolist() == positions


@pytest.mark.parametrize("values", [np.array(["blue", "green"]), np.array([-1, 0]), [3], ["0", "red"], [None]])
def test_labels_of_no_class(values: Any) -> None:
    with pytest.raises(DataError, match="of no class: expected numbers from 0 to 1, or the names that it lists"):
        match_labels(values, ("red", "blue"), "x")


def test_the_file_of_labels_that_are_missing_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p" / "train-0.parquet", pixels(4), [0, 1] * 2, ["a", "b"])
    write_parquet(tmp_path / "p" / "test-0.parquet", pixels(4), [-1] * 4, ["a", "b"])
    text = error_of(tmp_path / "p")
    assert 'test-0.parquet" has 4 labels (-1) of no class' in text


@pytest.mark.parametrize("labels", [[[0, 1], [1, 2]], [[0], [1, 1]], [[0], [1]], [[1.0, 0.0], [0.0, 1.0]]])
def test_lists_in_parquet_are_no_labels(tmp_path: Path, labels: list[Any]) -> None:
    write_parquet(tmp_path / "d.parquet", pixels(4), labels * 2)
    assert "one label per image" in error_of(tmp_path / "d.parquet")


def test_python_objects_in_npz_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=pixels(2), labels=np.array(["a", "b"], dtype=object))
    text = error_of(tmp_path / "d.npz")
    assert "labels holds Python objects" in text and ".astype(str)" in text
