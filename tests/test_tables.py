"""Tables as people and programs write them: read where that is clear, else refused with the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goodfit.data.index import TEST, TRAIN, VALIDATION
from goodfit.data.sources import index_images
from tests.support.data_files import error_of, write_image

ROWS = [("images/0.png", "käse"), ("images/1.png", "b"), ("images/2.png", "käse"), ("images/3.png", "b")]


def write_table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    for k in range(4):
        write_image(root / "images" / f"{k}.png", k)
    (root / "d.csv").write_bytes(text.encode(encoding))
    return root / "d.csv"


def lines(header: str, delimiter: str = ",", end: str = "\n") -> str:
    return header + end + "".join(delimiter.join(row) + end for row in ROWS)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (lines("path,label"), "utf-8"),
        (lines("path,label"), "utf-8-sig"),
        (lines("path\tlabel", "\t"), "utf-16"),
        (lines("path;label", ";"), "utf-16"),
        ("\ufeff" + lines("path,label"), "utf-16-be"),
        (lines("path,label"), "utf-32"),
        ("sep=;\n" + lines("path;label", ";"), "utf-8-sig"),
        ("sep=,\r\n" + lines("path,label", end="\r\n"), "utf-8"),
        ('"sep=|"\r' + lines("path|label", "|", "\r"), "utf-8"),
        (lines("path;label;remarks, notes, more", ";"), "utf-8"),
        (lines("path|label|a,b,c;d", "|"), "utf-8"),
        ("\n,\n" + lines("path,label"), "utf-8"),
        (lines('"path","label"'), "utf-8"),
        (lines("path,label").replace("/", "\\"), "utf-8"),
        (lines("path,label").replace(".png", ""), "utf-8"),
        (lines("path,label").replace("/", "\\").replace(".png", ""), "utf-8"),
    ],
)
def test_forms_that_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    index = index_images(str(write_table(tmp_path, text, encoding)))
    assert [index.classes[label] for label in index.labels] == [label for _, label in ROWS]
    assert [*index.store.read_many(range(4))] == [(tmp_path / path).read_bytes() for path, _ in ROWS]


@pytest.mark.parametrize(
    "header",
    [
        "image_path,target",
        "File Name,Class",
        "filepath,category",
        "img,class_name",
        "Image-ID,labels",
        "IMAGE,Class Label",
        "imgpath,class",
    ],
)
def test_other_names_of_columns(tmp_path: Path, header: str) -> None:
    assert index_images(str(write_table(tmp_path, lines(header)))).classes == ("b", "käse")


def test_the_usual_names_come_before_others(tmp_path: Path) -> None:
    text = "image,target,label,path,split\n" + "".join(
        f"x,{k},{'ab'[k % 2]},images/{k}.png,{'train' if k < 2 else 'test'}\n" for k in range(4)
    )
    index = index_images(str(write_table(tmp_path, text)))
    assert index.classes == ("a", "b") and index.splits.tolist() == [TRAIN] * 2 + [TEST] * 2 and index.names[0] == "images/0.png"


def test_paths_written_otherwise_keep_their_names_and_are_noted(tmp_path: Path) -> None:
    index = index_images(str(write_table(tmp_path, lines("path,label").replace("/", "\\"))))
    assert index.names[1] == "images\\1.png", "as the table's other columns and a run's splits.csv know them"
    assert index.notes == ('Read 4 paths such as "images\\0.png" as "images/0.png".',)


def test_a_path_without_suffix_that_two_files_have(tmp_path: Path) -> None:
    table = write_table(tmp_path, lines("path,label").replace(".png", ""))
    write_image(tmp_path / "images" / "2.jpg")
    assert "lists 1 file that is not in" in error_of(table)


@pytest.mark.parametrize(
    ("text", "encoding", "says"),
    [
        (lines("path,label"), "cp1252", ('line 2 is not UTF-8 (byte 0xe4, in Windows-1252 "ä")', "save it as UTF-8")),
        (lines("path,label"), "utf-16-le", ("NUL bytes", "save it as UTF-8")),
        ("\x1f\x8b rest", "latin-1", ("gzipped", "unpack it")),
        ("PK\x03\x04 rest", "latin-1", ("Excel", "save the sheet as CSV")),
        (lines("path,label").replace("images", "https://example.org"), "utf-8", ("Line 2", "an address", "download the images")),
        (lines("path,label").replace("3.png", "9.png"), "utf-8", ("1 file that is not in", "the first in line 5: images/9.png")),
        (lines("id,label"), "utf-8", ("found: id, label", "for path file, filename")),
        (lines("path,label") + 'images/0.png,"' + "a" * 200_000, "utf-8", ("cannot be read as a table", "field limit")),
    ],
)
def test_forms_that_are_refused_with_the_way_out(tmp_path: Path, text: str, encoding: str, says: tuple[str, ...]) -> None:
    sentence = error_of(write_table(tmp_path, text, encoding))
    assert all(words in sentence for words in says), sentence


@pytest.mark.parametrize(("header", "place"), [(True, 0), (False, 0), (True, 784)])
def test_a_table_of_pixels_says_how_it_becomes_arrays(tmp_path: Path, header: bool, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 784), dtype=np.uint8)
    labels = np.array([5, 3, 5, 3], dtype=np.uint8)
    names = ["label" if k == place else f"pixel{k}" for k in range(785)]
    rows = np.insert(pixels, place, labels, axis=1)
    text = (",".join(names) + "\n") * header + "".join(",".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "d.csv").write_text(text)
    sentence = error_of(tmp_path / "d.csv")
    assert "785 columns" in sentence and "pixels" in sentence
    monkeypatch.chdir(tmp_path)
    exec(sentence[sentence.index("t = np.loadtxt") :].rstrip("."), {"np": np})  # the hint is what makes the file
    index = index_images("d.npz")
    assert index.classes == ("3", "5") and index.labels.tolist() == [1, 0, 1, 0]
    assert np.array_equal(np.stack([index.store.read(k) for k in range(4)]), pixels.reshape(4, 28, 28))


def test_wide_tables_with_paths_are_read(tmp_path: Path) -> None:
    header = "path,label," + ",".join(f"attribute{k}" for k in range(100))
    assert len(index_images(str(write_table(tmp_path, lines(header))))) == 4


def test_tables_named_after_splits_are_read_together(tmp_path: Path) -> None:
    write_table(tmp_path, "")
    (tmp_path / "d.csv").unlink()
    for name, rows in (("train", ROWS[:2]), ("my-val", ROWS[2:3]), ("test", ROWS[3:])):
        (tmp_path / f"{name}.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows), encoding="utf-8")
    index = index_images(str(tmp_path))
    assert dict(zip(index.names, index.splits.tolist(), strict=True)) == {
        "images/0.png": TRAIN, "images/1.png": TRAIN, "images/2.png": VALIDATION, "images/3.png": TEST,
    }  # fmt: skip
    assert index.split_source == "the names of its files"
    alone = index_images(str(tmp_path / "train.csv"))
    assert len(alone) == 2 and any("my-val.csv, test.csv" in note and "name the folder" in note for note in alone.notes)
    (tmp_path / "test.csv").write_text("path\nimages/3.png\n")
    index = index_images(str(tmp_path))
    assert len(index) == 3 and '"test.csv" has no labels: left out.' in index.notes
    assert "has test images, but none to train on" in error_of(write_test_table(tmp_path))
    for k in range(4):
        write_image(tmp_path / "classes" / "ab"[k % 2] / f"{k}.png", k)
    assert len(index_images(str(tmp_path / "classes"))) == 4, "class folders come first"


def write_test_table(root: Path) -> Path:
    (root / "test.csv").write_text("path,label\nimages/3.png,a\nimages/2.png,b\n")
    return root / "test.csv"


def test_files_in_another_folder_are_pointed_at(tmp_path: Path) -> None:
    path = write_table(tmp_path, "path,label\n0.png,a\n1.png,b\n")
    assert 'There is "images/0.png": write the paths so.' in error_of(path)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("images/0.png,a\nimages/1.png,b\n", "put a line with path,label above it"),
        ("filename, red, blue\n0.jpg, 1, 0\n1.jpg, 0, 1\n", "of one-hot columns, make one"),
        ("path,color\nimages/0.png,a\n", "other names are for path file"),
    ],
)
def test_a_table_without_the_columns_says_what_would_help(tmp_path: Path, text: str, hint: str) -> None:
    assert hint in error_of(write_table(tmp_path, text))
