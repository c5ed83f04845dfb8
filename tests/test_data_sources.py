"""Every kind of source gives the right images, labels and splits; wrong ones give one clear sentence."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodfit.core.errors import DataError
from goodfit.data import builtin
from goodfit.data.cifar import unpickle
from goodfit.data.folder import find_images
from goodfit.data.headers import read_headers
from goodfit.data.index import TEST, TRAIN, UNASSIGNED, VALIDATION, Index
from goodfit.data.names import find_splits
from goodfit.data.sources import index_images
from tests.support.data_files import error_of, png, write_cifar, write_idx, write_image, write_parquet, write_table
from tests.support.photos import COLORS

RNG = np.random.default_rng(0)


# ---- folders -------------------------------------------------------------------------------------------------------------------


def test_flat_folder(photos: Path) -> None:
    index = index_images(str(photos))
    assert index.name == "photos" and index.classes == tuple(sorted(COLORS)) and len(index) == 90
    assert set(index.splits.tolist()) == {UNASSIGNED}
    assert index.names[0] == "blue/000.png" and index.labels[0] == 0
    for row in (0, 45, 89):
        assert index.store.read(row) == (photos / index.names[row]).read_bytes()
        assert index.classes[index.labels[row]] == index.names[row].split("/")[0]


def test_split_folders_and_their_other_names(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("b", "a"):
            write_image(tmp_path / split / name / "deep" / "1.png")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "train" / "a" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("hello")
    (tmp_path / ".git").mkdir()
    index = index_images(str(tmp_path))
    assert index.classes == ("a", "b")
    assert sorted(index.splits.tolist()) == sorted([TRAIN, VALIDATION, TEST] * 2)
    assert any("1 file" in note and ".txt" in note for note in index.notes)
    assert "train/a/deep/1.png" in index.names


def test_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    for where in ("train/a", "train/b", "test/a", "test/b", "extra/a/deep", "more", "val"):
        write_image(tmp_path / where / "1.png")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "x.txt").write_text("x")
    index = index_images(str(tmp_path))
    assert len(index) == 4
    (note,) = index.notes
    assert all(f'"{name}"' in note for name in ("extra", "more", "val", "train", "test")) and "docs" not in note


def test_images_beside_class_folders_and_runs_among_them_are_no_class(tmp_path: Path) -> None:
    for where in ("a/1.png", "b/1.png", "loose.png", "runs/first/worst/1.png", "model/worst/1.png"):
        write_image(tmp_path / where)
    for run in ("runs/first", "model"):
        (tmp_path / run / "recipe.toml").write_text("")
    index = index_images(str(tmp_path))
    assert index.classes == ("a", "b")
    assert index.notes == ("Left out 1 image beside the class folders.",)


def test_a_class_called_train(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "1.png")
    write_image(tmp_path / "plane" / "1.png")
    assert index_images(str(tmp_path)).classes == ("plane", "train")


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / "1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert len(index_images(str(tmp_path))) == 2


def test_an_existing_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "cifar10" / name / "1.png")
    monkeypatch.chdir(tmp_path)
    assert index_images("cifar10").classes == ("a", "b")


def test_limit_keeps_the_same_images_when_one_joins(photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(photos, tmp_path / "photos")
    few = index_images(str(copy), limit=5, seed=1)
    assert np.bincount(few.labels).tolist() == [5, 5, 5]
    assert few.store.read(3) == (copy / few.names[3]).read_bytes()
    write_image(copy / "red" / "new.png")
    again = index_images(str(copy), limit=5, seed=1)
    assert len(set(few.names) - set(again.names)) <= 1
    assert set(index_images(str(copy), limit=5, seed=2).names) != set(again.names)
    assert few.fingerprint() != index_images(str(copy)).fingerprint()


def test_the_stamp_follows_the_files(photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(photos, tmp_path / "photos")
    before = index_images(str(copy)).fingerprint()
    assert index_images(str(copy)).fingerprint() == before
    (copy / "red" / "000.png").touch()
    assert index_images(str(copy)).fingerprint() != before


# ---- what looks like a split ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("train", {TRAIN}),
        ("Training", {TRAIN}),
        ("seg_train", {TRAIN}),
        ("trainImages", {TRAIN}),
        ("partial-train", {TRAIN}),
        ("flowers-train-00000-of-00001", {TRAIN}),
        ("test_set", {TEST}),
        ("PublicTest", {TEST}),
        ("VAL", {VALIDATION}),
        ("my dev 2", {VALIDATION}),
        ("train_test", {TRAIN, TEST}),
        ("trains", set()),
        ("valley", set()),
        ("contest", set()),
        ("1", set()),
    ],
)
def test_the_splits_that_a_name_speaks_of(name: str, splits: set[int]) -> None:
    assert find_splits(name) == splits


def splits_by_name(index: Index) -> dict[str, int]:
    return dict(zip(index.names, index.splits.tolist(), strict=True))


@pytest.mark.parametrize(
    "names", [("seg_train", "seg_test"), ("training_set", "test_set"), ("Train images", "Test images"), ("training", "dev")]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_folders_whose_names_have_a_split_s_word(tmp_path: Path, names: tuple[str, str], wrapped: bool) -> None:
    for name in names:
        for label in ("b", "a"):
            write_image(tmp_path / name / (name if wrapped else "") / label / "1.png")
    write_image(tmp_path / "seg_pred" / "1.png")
    index = index_images(str(tmp_path))
    assert index.classes == ("a", "b") and len(index) == 4
    last = VALIDATION if names[1] == "dev" else TEST
    assert all(split == (TRAIN if name.startswith(names[0]) else last) for name, split in splits_by_name(index).items())
    assert all(name in index.split_source for name in names)
    read = ", ".join(f'"{name}"' for name in sorted(names))
    assert [note for note in index.notes if "Left out" in note] == [f'Left out "seg_pred", which has images: only {read} are read.']


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (("train/1.png", "valid/1.png", "test/1.png"), "look like splits, but have images in place of class folders"),
        (("training_set/1.png", "test_set/1.png"), "look like splits, but have images in place of class folders"),
        (("fold1/1.png", "fold2/1.png", "fold10/1.png"), "look like parts of the data"),
        (("fold1/a/1.png", "fold1/b/1.png", "fold2/a/1.png", "fold2/b/1.png"), "look like parts of the data"),
        (("left/a/1.png", "left/b/1.png", "right/a/1.png", "right/b/1.png"), "hold the same folders (a, b)"),
        (("train/x/a/1.png", "train/x/b/1.png", "train/y/a/1.png", "train/y/b/1.png"), "hold the same folders (a, b)"),
    ],
)
def test_parts_of_the_data_are_no_classes(tmp_path: Path, places: tuple[str, ...], says: str) -> None:
    for place in places:
        write_image(tmp_path / place)
    text = error_of(tmp_path)
    assert says in text and "train/<class>/" in text and "a table with the columns path, label and split" in text


def test_a_class_with_a_split_s_word_is_named(tmp_path: Path) -> None:
    for name in ("beaker", "test tube"):
        write_image(tmp_path / name / "images" / "1.png")
    index = index_images(str(tmp_path))
    assert index.classes == ("beaker", "test tube") and set(index.splits.tolist()) == {UNASSIGNED}
    assert index.notes == ('Taken as classes, though their names could be those of parts of the data: "test tube".',)


def test_folders_of_systems_are_no_data(tmp_path: Path) -> None:
    for name in ("a", "b", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "a/@eaDir"):
        write_image(tmp_path / name / "1.png")
    index = index_images(str(tmp_path))
    assert index.classes == ("a", "b") and len(index) == 2 and not index.notes
    assert find_images([str(tmp_path)]) == [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"], "as predict walks them"


def test_names_stand_in_their_natural_order(tmp_path: Path) -> None:
    labels = ["class10", "class2", "class1"]
    for name in labels:
        for file in ("10.png", "9.png"):
            write_image(tmp_path / "photos" / name / file)
    index = index_images(str(tmp_path / "photos"))
    assert index.classes == ("class1", "class2", "class10")
    assert list(index.names)[:2] == ["class1/9.png", "class1/10.png"]
    assert [path.name for path in find_images([str(tmp_path / "photos" / "class2")])] == ["9.png", "10.png"]
    table = tmp_path / "photos" / "all.csv"
    table.write_text("path,label\n" + "".join(f"{name}/9.png,{name}\n" for name in labels))
    assert index_images(str(table)).classes == index.classes


@pytest.mark.parametrize(
    ("column", "words"), [("set", ("train", "test")), ("Usage", ("Training", "PublicTest")), ("partition", ("train", "val"))]
)
def test_a_column_of_splits_by_another_name(tmp_path: Path, column: str, words: tuple[str, str]) -> None:
    rows = [(f"{k}.png", "ab"[k % 2], words[k >= 4]) for k in range(8)]
    for name, _, _ in rows:
        write_image(tmp_path / name)
    table = tmp_path / "data.csv"
    table.write_text(f"path,label,{column}\n" + "".join(",".join(row) + "\n" for row in rows))
    index = index_images(str(table))
    last = VALIDATION if words[1] == "val" else TEST
    assert index.splits.tolist() == [TRAIN] * 4 + [last] * 4 and index.split_source == f'the column "{column.lower()}"'


@pytest.mark.parametrize("cells", [("A", "B"), ("train", "other"), ("train", "train"), ("test", "val")])
def test_a_column_of_other_words_says_no_splits(tmp_path: Path, cells: tuple[str, str]) -> None:
    for k in range(4):
        write_image(tmp_path / f"{k}.png")
    table = tmp_path / "data.csv"
    table.write_text("path,label,set\n" + "".join(f"{k}.png,{'ab'[k % 2]},{cells[k // 2]}\n" for k in range(4)))
    assert set(index_images(str(table)).splits.tolist()) == {UNASSIGNED}


# ---- bad folders ---------------------------------------------------------------------------------------------------------------


def test_missing_path_names_what_is_near(tmp_path: Path, photos: Path) -> None:
    assert "photos" in error_of(photos.parent / "photo")
    assert "cifar10" in error_of("cifar1")
    assert "nothing there" in error_of(tmp_path / "none" / "here")


def test_empty_folder_and_no_class_folders(tmp_path: Path) -> None:
    assert "one folder per class" in error_of(tmp_path)
    write_image(tmp_path / "1.png")
    assert "1 image but no class folders" in error_of(tmp_path)


def test_classes_without_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / "1.png")
    (tmp_path / "c").mkdir()
    assert f'"{tmp_path / "c"}" has no images' in error_of(tmp_path)
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    assert "Expected images" in error_of(tmp_path)


def test_a_class_empty_in_one_split_is_only_noted(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_image(tmp_path / split / name / "1.png")
    (tmp_path / "test" / "b" / "1.png").unlink()
    assert any('"test/b" has no images' in note for note in index_images(str(tmp_path)).notes)


def test_one_class_case_twins_and_untrained_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "one" / "Cat" / "1.png")
    assert "at least two classes" in error_of(tmp_path / "one")
    write_image(tmp_path / "two" / "Cat" / "1.png")
    write_image(tmp_path / "two" / "cat" / "1.png")
    assert "differ only by case" in error_of(tmp_path / "two")
    for name in ("train/a", "train/b", "test/a", "test/b", "test/c"):
        write_image(tmp_path / "three" / name / "1.png")
    assert '"c" in the test images' in error_of(tmp_path / "three")
    for name in ("test/a", "test/b"):
        write_image(tmp_path / "four" / name / "1.png")
    assert "none to train on" in error_of(tmp_path / "four")


def test_a_file_that_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_text("x")
    assert "Expected a folder of images" in error_of(tmp_path / "x.docx")


# ---- tables --------------------------------------------------------------------------------------------------------------------


def test_csv_with_numbers_and_splits(tmp_path: Path) -> None:
    rows = "Label,path,split\n10,images/0.png,train\n9,images/1.png,\n10,images/2.png,val\n9,images/3.png,test\n"
    index = index_images(str(write_table(tmp_path, rows)))
    assert index.classes == ("9", "10") and index.labels.tolist() == [1, 0, 1, 0]
    assert index.splits.tolist() == [TRAIN, UNASSIGNED, VALIDATION, TEST]
    assert index.store.read(2) == (tmp_path / "images/2.png").read_bytes()


def test_tsv_with_texts(tmp_path: Path) -> None:
    index = index_images(str(write_table(tmp_path, "path\tlabel\nimages/0.png\tcat\nimages/1.png\ta dog, wet\n", "data.tsv")))
    assert index.classes == ("a dog, wet", "cat") and set(index.splits.tolist()) == {UNASSIGNED}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "found: nothing"),
        ("name,label\nimages/0.png,a\n", "Expected the columns path and label"),
        ("path,label\nimages/0.png,a\nimages/9.png,b\n", "images/9.png"),
        ("path,label\nimages/0.png,a\nimages/1.png,\n", "Line 3"),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,exam\n", '"exam"'),
        ("path,label\n", "lists no images"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in error_of(write_table(tmp_path, text))


# ---- parquet -------------------------------------------------------------------------------------------------------------------


def test_parquet_folder_with_class_names(tmp_path: Path) -> None:
    images = [RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(16)]
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", images[:10], [0, 1] * 5, ["zebra", "ant"])
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", images[10:12], [0, 1], ["zebra", "ant"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", images[12:], [1, 0, 1, 0], ["zebra", "ant"])
    index = index_images(str(tmp_path))
    assert index.classes == ("zebra", "ant")  # the schema's order, since that is what the labels count
    pairs = {
        name: (split, np.asarray(Image.open(io.BytesIO(index.store.read(k)))))
        for k, (name, split) in enumerate(zip(index.names, index.splits.tolist(), strict=True))
    }
    for prefix, split, first, n in (("train", TRAIN, 0, 10), ("validation", VALIDATION, 10, 2), ("test", TEST, 12, 4)):
        for k in range(n):
            found = pairs[f"data/{prefix}-00000-of-00001.parquet#{k}"]
            assert found[0] == split and np.array_equal(found[1], images[first + k])


def test_a_damaged_row_group_costs_its_own_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    pictures = [png(np.random.default_rng(k).integers(0, 256, (16, 16), dtype=np.uint8)) for k in range(12)]
    table = pa.table({"image": pa.array([{"bytes": x, "path": None} for x in pictures]), "label": [0, 1] * 6})
    file = tmp_path / "train.parquet"
    pq.write_table(table, file, row_group_size=4, compression="NONE", use_dictionary=False, write_page_checksum=True)
    content = bytearray(file.read_bytes())
    place = content.index(pictures[5])  # in the second group of three
    content[place - 40 : place] = bytes(40)
    file.write_bytes(content)
    headers = read_headers(index_images(str(file)))
    assert sorted(headers.broken) == [4, 5, 6, 7] and all("cannot be" in reason for reason in headers.broken.values())
    assert [type(image) for image in headers.index.store.read_many(range(3, 9))] == [bytes, *[OSError] * 4, bytes]


def test_files_that_parquet_points_to_are_stamped(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for k in range(6):
        write_image(tmp_path / "images" / f"{k}.png", k)
    rows = [{"bytes": None if k % 2 else png(np.full((4, 4), k, np.uint8)), "path": f"images/{k}.png"} for k in range(6)]
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "label": [0, 1] * 3}), tmp_path / "x.parquet", row_group_size=2)

    def stamp() -> str:
        return index_images(str(tmp_path / "x.parquet")).fingerprint()

    first, store = stamp(), index_images(str(tmp_path / "x.parquet")).store
    assert store.read(3) == (tmp_path / "images" / "3.png").read_bytes()
    assert [*store.read_many([5, 4, 0, 3, 3])] == [store.read(row) for row in (5, 4, 0, 3, 3)]  # across the row groups, in that order
    (tmp_path / "images" / "5.png").unlink()
    assert [type(image) for image in store.read_many(range(3, 6))] == [bytes, bytes, FileNotFoundError]
    write_image(tmp_path / "images" / "5.png", 5)
    first = stamp()
    write_image(tmp_path / "images" / "2.png", 77)  # its row has bytes of its own
    assert stamp() == first
    write_image(tmp_path / "images" / "3.png", 77)
    assert stamp() != first


def test_parquet_without_names_and_without_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    write_parquet(tmp_path / "x.parquet", [np.zeros((4, 4, 3), np.uint8)] * 3, [7, 3, 7])
    assert index_images(str(tmp_path / "x.parquet")).classes == ("3", "7")
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "y.parquet")
    assert "no image column" in error_of(tmp_path / "y.parquet")
    (tmp_path / "z.parquet").write_bytes(b"no parquet")
    assert "cannot be read as parquet" in error_of(tmp_path / "z.parquet")


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert 'pip install "goodfit[parquet]"' in error_of(tmp_path / "x.parquet")


# ---- arrays --------------------------------------------------------------------------------------------------------------------


def test_npz_with_splits(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (10, 6, 5, 3), dtype=np.uint8), np.arange(10) % 2
    np.savez_compressed(tmp_path / "d.npz", x_train=x[:6], y_train=y[:6, None], x_val=x[6:8], y_val=y[6:8], x_test=x[8:], y_test=y[8:])
    index = index_images(str(tmp_path / "d.npz"))
    assert index.splits.tolist() == [TRAIN] * 6 + [VALIDATION] * 2 + [TEST] * 2 and index.labels.tolist() == y.tolist()
    assert all(np.array_equal(index.store.read(k), x[k]) for k in range(10))


def test_npz_with_names_channels_first_and_floats(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (4, 3, 6, 5))
    np.savez(tmp_path / "d.npz", images=(x / 255).astype(np.float32), labels=[0, 1, 1, 0], classes=["no", "yes"])
    index = index_images(str(tmp_path / "d.npz"))
    assert index.classes == ("no", "yes")
    assert np.array_equal(index.store.read(2), x[2].transpose(1, 2, 0))


def test_bad_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    assert "found: x" in error_of(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 4, 4)), labels=np.zeros(2, int))
    assert "images [3, 4, 4] and labels [2]" in error_of(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.array([{}, {}], dtype=object), labels=np.array([{}, {}], dtype=object))
    assert "cannot be read" in error_of(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes(b"PK no zip")
    assert "cannot be read" in error_of(tmp_path / "d.npz")


def test_idx(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (6, 7, 5), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", x[:3])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", y[:3])
    write_idx(tmp_path / "t10k-images-idx3-ubyte", x[3:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", y[3:])
    index = index_images(str(tmp_path))
    assert index.splits.tolist() == [TRAIN] * 3 + [TEST] * 3 and index.labels.tolist() == y.tolist()
    assert all(np.array_equal(index.store.read(k), x[k]) for k in range(6))
    alone = index_images(str(tmp_path / "train-images-idx3-ubyte.gz"))
    assert len(alone) == 3 and np.array_equal(alone.store.read(1), x[1])
    content = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content[:-5])
    with pytest.raises(DataError, match="cut short"):
        index_images(str(tmp_path)).store.read(0)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    assert "labels" in error_of(tmp_path / "train-images-idx3-ubyte.gz")


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs, index = load_digits(), index_images("digits")
    assert len(index) == 1797 and index.classes == tuple("0123456789")
    assert np.array_equal(index.labels, theirs.target)
    ours = np.stack([index.store.read(k) for k in range(len(index))])
    assert ours.dtype == np.uint8 and ours.max() == 255 and np.array_equal(np.rint(ours * (16 / 255)), theirs.images)


def test_only_what_is_needed_is_imported(photos: Path) -> None:
    code = "import sys; from goodfit.data.sources import index_images; index_images(sys.argv[1]); print(*sys.modules)"
    for data in (str(photos), "digits"):
        loaded = subprocess.run([sys.executable, "-c", code, data], capture_output=True, text=True, check=True).stdout.split()
        assert not {"torch", "pyarrow", "sklearn"} & set(loaded)


# ---- CIFAR's pickles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_pickles(tmp_path: Path, hundred: bool) -> None:
    pixels = write_cifar(tmp_path / "c", hundred)
    index = index_images(str(tmp_path / "c"))
    assert index.classes == ("cat", "dog") and (index.splits == TEST).sum() == 2
    for k in range(len(index)):
        assert np.array_equal(index.store.read(k), pixels[k].reshape(3, 32, 32).transpose(1, 2, 0))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("evil",)


def test_a_pickle_cannot_run_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (Evil(), {b"data": Evil()}, {b"data": np.array([Evil()], dtype=object)}):
        with pytest.raises(DataError, match=r"builtins.print|__builtin__.print"):
            unpickle(io.BytesIO(pickle.dumps(content, protocol=2)), tmp_path / "x")
    with pytest.raises(DataError, match="dictionary"):
        unpickle(io.BytesIO(pickle.dumps([1])), tmp_path / "x")
    with pytest.raises(DataError, match="pickle"):
        unpickle(io.BytesIO(b"\x80\x04nonsense"), tmp_path / "x")
    assert capsys.readouterr().out == ""


# ---- names ---------------------------------------------------------------------------------------------------------------------


def test_offline_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = error_of("cifar10")
    assert "no network" in text and str(tmp_path / "downloads" / "cifar10" / "cifar-10-python.tar.gz") in text


def test_a_fetched_archive_is_checked_and_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import tarfile

    pixels = write_cifar(tmp_path / "src" / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "src" / "cifar-10-batches-py", "cifar-10-batches-py")
    content = (tmp_path / "a.tar.gz").read_bytes()
    fetched: list[str] = []

    def reply(url: str, timeout: float) -> io.BytesIO:
        fetched.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", reply)
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert "damaged" in error_of("cifar10")
    sums = {"cifar-10-python.tar.gz": hashlib.md5(content).hexdigest()}
    monkeypatch.setitem(builtin.DOWNLOADS, "cifar10", (builtin.CIFAR_URL, sums))
    for _ in range(2):
        index = index_images("cifar10")
        assert index.name == "cifar10" and np.array_equal(index.store.read(3), pixels[3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert fetched == [builtin.CIFAR_URL + "cifar-10-python.tar.gz"]
