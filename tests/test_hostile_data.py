"""Damaged and hostile data: each outcome is an index or one DataError, in bounded time and memory, and nothing but files is opened."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from goodfit.core import memory
from goodfit.core.errors import DataError
from goodfit.core.memory import available_memory, check_memory
from goodfit.data import table
from goodfit.data.blob import BlobWriter
from goodfit.data.files import MAX_FILE_BYTES, read_file
from goodfit.data.headers import read_headers
from goodfit.data.index import Index
from goodfit.data.opening import read_contents
from goodfit.data.sources import index_images
from tests.support.data_files import error_of, png, write_cifar, write_idx, write_image, write_parquet

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 2

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened waits for ever


def read_all(index: Index) -> list[object]:
    index.fingerprint()
    return [*index.store.read_many(range(len(index)))]


# ---- what is no file ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Paths that name no image file, by what they are."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    names = {"pipe": "pipe.png", "loop": "loop.png", "device": "zero.png", "folder": "folder.png", "absolute device": "/dev/zero"}
    return {**names, "NUL": "a\0.png", "long": "x" * 5000}


KINDS = ("pipe", "loop", "device", "folder", "absolute device", "NUL", "long")


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_opens_files_only(tmp_path: Path, places: dict[str, str], kind: str) -> None:
    rows = [f"{k}.png,{'ab'[k % 2] * 10}\n" for k in range(100)]
    for k in range(100):
        (tmp_path / f"{k}.png").touch()
    (tmp_path / "d.csv").write_text("path,label\n" + "".join(rows) + f"{places[kind]},aaaaaaaaaa\n")
    if kind in ("loop", "NUL", "long"):  # there is nothing
        assert "1 file that is not in" in error_of(tmp_path / "d.csv") and "line 102" in error_of(tmp_path / "d.csv")
    else:
        *good, last = read_all(index_images(str(tmp_path / "d.csv")))
        assert good == [b""] * 100 and isinstance(last, OSError)


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_s_referenced_files_are_files_only(tmp_path: Path, places: dict[str, str], kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"bytes": png(PIXELS[k]) if k else None, "path": None if k else places[kind]} for k in range(6)]
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "label": LABELS[:6]}), tmp_path / "d.parquet")
    images = read_all(index_images(str(tmp_path / "d.parquet")))
    assert isinstance(images[0], OSError) and [type(image) for image in images[1:]] == [bytes] * 5


def test_a_folder_of_pipes_has_broken_images(tmp_path: Path, places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "photos"
    for label in ("a", "b"):
        write_image(data / label / "1.png")
        os.mkfifo(data / label / "2.png")
        (data / label / "3.png").symlink_to("/dev/zero")
        (data / label / "4.png").symlink_to("4.png")
        with (data / label / "5.png").open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)  # takes no place on the disk
    headers = read_headers(index_images(str(data)))
    assert sorted(headers.broken) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert ["not a regular file" in headers.broken[row] for row in (1, 2, 3, 4)] == [True, True, False, False]
    assert "too large" in headers.broken[4]


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.npz", "d.parquet", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
@pytest.mark.parametrize("device", [False, True])
def test_data_that_is_a_pipe_or_a_device(tmp_path: Path, name: str, device: bool) -> None:
    if device:
        (tmp_path / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / name)
    assert "found a pipe or a device" in error_of(tmp_path / name)


def test_pipes_among_the_files_of_a_format(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p" / "train.parquet", PIXELS, LABELS)
    os.mkfifo(tmp_path / "p" / "test.parquet")
    (tmp_path / "p" / "more.parquet").mkdir()
    assert len(index_images(str(tmp_path / "p"))) == 12
    (tmp_path / "p" / "train.parquet").unlink()
    assert "found none that is a file" in error_of(tmp_path / "p")
    for name in ("data_batch_3", "batches.meta"):
        write_cifar(tmp_path / name)
        (tmp_path / name / name).unlink()
        os.mkfifo(tmp_path / name / name)
        assert f'{name}" cannot be read: not a regular file' in error_of(tmp_path / name)


def test_an_image_to_predict_is_a_file(tmp_path: Path, places: dict[str, str]) -> None:
    for kind in KINDS:
        with pytest.raises(OSError, match=r"."):
            read_file(tmp_path / places[kind])
    with pytest.raises(DataError, match="not a regular file"):
        read_contents(tmp_path / places["pipe"])


# ---- what is too much --------------------------------------------------------------------------------------------------------------


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (idx_header(4, 0, 2), idx_header(4) + b"\0\1\0\1", "images with pixels"),
        (idx_header(4, 2, 2) + bytes(16), idx_header(5) + b"\0\1\0\1\0", "a label for each"),
        (idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1), idx_header(4) + b"\0\1\0\1", "a label for each"),
        (idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1), idx_header(2**32 - 1), "4,294,967,295 values"),
        (idx_header(4, 2, 2) + bytes(15), idx_header(4) + b"\0\1\0\1", "expected 16 values, found 15"),
        (idx_header(4, 2, 2) + bytes(17), idx_header(4) + b"\0\1\0\1", "expected 16 values, found more"),
        (idx_header(4, 2), idx_header(4) + b"\0\1\0\1", "not an IDX file"),
        (b"", b"", "not an IDX file"),
    ],
)
def test_idx_files_of_other_shapes(tmp_path: Path, images: bytes, labels: bytes, says: str, gz: str) -> None:
    for name, content in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (tmp_path / f"{name}{gz}").write_bytes(gzip.compress(content) if gz else content)
    with pytest.raises(DataError, match=says):
        read_all(index_images(str(tmp_path)))


def test_a_gzip_bomb_is_read_as_far_as_its_shape_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", LABELS[:4].astype(np.uint8))
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(idx_header(4, 2, 2))
        for _ in range(64):
            file.write(bytes(1 << 20))
    most = 0
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal most
        content = read(self, size)
        most = max(most, len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match="found more"):
        read_all(index_images(str(tmp_path)))
    assert most <= 40


def test_what_does_not_fit_into_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory() < 1e15
    check_memory(1, "x")
    for k in range(12):
        write_image(tmp_path / f"{k}.png", k)
    (tmp_path / "d.csv").write_text("path,label\n" + "".join(f"{k}.png,{k % 2}\n" for k in range(12)))
    np.savez_compressed(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    write_parquet(tmp_path / "d.parquet", PIXELS, LABELS)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", PIXELS[..., 0])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", LABELS.astype(np.uint8))
    monkeypatch.setattr(memory, "available_memory", lambda: 11)
    for name in ("d.csv", "d.npz", "d.parquet", "train-images-idx3-ubyte.gz"):
        assert "of memory, but 11 B are free" in error_of(tmp_path / name)


# ---- arrays, tables and pickles of another shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "found: nothing"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "lists no images"),
        ({"images": PIXELS[:, :0], "labels": LABELS}, "images with pixels, found images [12, 0, 5, 3]"),
        ({"images": PIXELS[None], "labels": LABELS[:1]}, "images [N, H, W]"),
        ({"images": PIXELS, "labels": np.int64(3)}, "a label for each"),
        ({"images": PIXELS.astype(complex), "labels": LABELS}, "found images of complex128"),
        ({"images": PIXELS.astype(str), "labels": LABELS}, "found images of <U3"),
        ({"images": PIXELS, "labels": np.eye(12)}, "one label per image"),
        ({"images": PIXELS, "labels": np.zeros(12, [("a", int)])}, "one label per image"),
        ({"images": PIXELS, "labels": LABELS, "classes": np.array("ab")}, "a list of class names"),
        ({"images": PIXELS, "labels": LABELS, "classes": np.array([["a", "b"]])}, "Expected names"),
        ({"images": PIXELS, "labels": LABELS, "classes": np.array([], str)}, "a list of class names"),
        ({"images": PIXELS, "labels": LABELS, "classes": np.array(["a", None], object)}, "Python objects"),
        ({"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:, :4], "y_test": LABELS}, "images of one size"),
    ],
)
def test_npz_of_other_shapes(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    assert says in error_of(tmp_path / "d.npz")


@pytest.mark.parametrize("shape", [(12, 10**9, 10**9), (12, 2**62, 2**62), (12, -6, 5), (12, 6, 6), (12, 5, 5)])
def test_npz_whose_shape_is_not_that_of_its_bytes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "|u1"})
    np.savez(tmp_path / "d.npz", labels=LABELS)
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive:
        archive.writestr("images.npy", header.getvalue() + PIXELS[..., 0].tobytes())
    assert "is damaged: images" in error_of(tmp_path / "d.npz")


def test_npz_with_medmnist_s_names(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "d.npz", train_images=PIXELS[:8], train_labels=LABELS[:8, None], test_images=PIXELS[8:], test_labels=LABELS[8:, None]
    )
    index = index_images(str(tmp_path / "d.npz"))
    assert index.labels.tolist() == LABELS.tolist() and index.names[8] == "test_images#0"
    assert np.array_equal(np.stack([index.store.read(k) for k in range(12)]), PIXELS)


def described(**label: object) -> str:
    return json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", **label}}}})


ODD_METADATA = (
    "[]", "null", "1", '"x"', "{", '{"info": []}', '{"info": {"features": []}}', '{"info": {"features": {"image": 1, "label": []}}}',
    '{"info": {"features": {"no": {"_type": "Image"}, "nor": {"_type": "ClassLabel", "names": ["a"]}}}}',
    '{"info": {"features": {"label": {"_type": "Image"}, "image": {"_type": "ClassLabel"}}}}', "[" * 100_000, described(names="ab"),
    described(names=[1, [2]]), described(names={"0": "a"}), described(names=["a", None]), described(names=["a"]), described(names=3),
    described(names=["a", "b", "c"]), described(names=None), described(_type=["x"]),
)  # fmt: skip


@pytest.mark.parametrize("metadata", ODD_METADATA, ids=range(len(ODD_METADATA)))
def test_parquet_metadata_of_any_shape(tmp_path: Path, metadata: str) -> None:
    write_parquet(tmp_path / "d.parquet", PIXELS, LABELS, metadata=metadata)
    try:
        index = index_images(str(tmp_path / "d.parquet"))
    except DataError as error:
        assert str(tmp_path / "d.parquet") in str(error)
    else:
        assert index.classes == ("0", "1") and len(read_all(index)) == 12


def test_parquet_columns_of_other_types(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file, images = tmp_path / "d.parquet", [png(x) for x in PIXELS]

    def write(column: object, label: object = LABELS) -> Path:
        pq.write_table(pa.table({"image": column, "label": label}), file)
        return file

    large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    for column in (pa.array([{"bytes": x, "path": None} for x in images], large), pa.array(images, pa.large_binary()), pa.array(images)):
        assert read_all(index_images(str(write(column)))) == images
    assert read_all(index_images(str(write(pa.array([{"bytes": x, "path": k} for k, x in enumerate(images)]))))) == images
    for column in (pa.array(["a.png"] * 12), pa.array([[1, 2]] * 12), pa.array([{"bytes": [1, 2]}] * 12)):
        assert "no image column" in error_of(write(column))
    assert "text in UTF-8" in error_of(write(pa.array(images), pa.array(images)))


def test_parquet_files_stand_in_natural_order(tmp_path: Path) -> None:
    for k in (10, 9, 1):
        write_parquet(tmp_path / f"train-{k}.parquet", PIXELS[:2], [0, 1])
    write_parquet(tmp_path / ".hidden.parquet", PIXELS[:2], [0, 1])
    names = list(index_images(str(tmp_path)).names)
    assert names == [f"train-{k}.parquet#{row}" for k in (1, 9, 10) for row in (0, 1)]


@pytest.mark.parametrize(
    "content",
    [
        [1], {}, {"data": PIXELS}, {"data": [1], "labels": [0, 1]}, {"labels": ["x", "y"]}, {"labels": [None, 1]}, {"labels": [[0], [1]]},
        {"labels": (0, 1)}, {"labels": [0.5, 1]}, {"labels": [2**80, 1]}, {"labels": [-1, 1]}, {"labels": [0]}, {1: 2}, {(1, 2): 3},
    ],
    ids=str,
)  # fmt: skip
def test_cifar_pickles_of_other_types(tmp_path: Path, content: object) -> None:
    write_cifar(tmp_path / "c")
    if isinstance(content, dict):
        content = {"data": np.zeros((2, 3072), np.uint8), **content} if "labels" in content else content
    (tmp_path / "c" / "data_batch_3").write_bytes(pickle.dumps(content, protocol=2))
    assert str(tmp_path / "c" / "data_batch_3") in error_of(tmp_path / "c")


@pytest.mark.parametrize("names", ["ab", [b"\xff", b"a"], [[1], 2], [], None, {"a": 1}])
def test_cifar_class_names_of_other_types(tmp_path: Path, names: object) -> None:
    write_cifar(tmp_path / "c")
    (tmp_path / "c" / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    assert "batches.meta" in error_of(tmp_path / "c")


def test_a_pickle_s_memo_takes_no_gigabytes(tmp_path: Path) -> None:
    import resource

    write_cifar(tmp_path / "c")
    (tmp_path / "c" / "data_batch_3").write_bytes(b"\x80\x02Nr\xff\xff\xff\x0f.")  # the 268 millionth place of the memo
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error_of(tmp_path / "c")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # in kB, here and there in bytes


@pytest.mark.parametrize("line", ["[]", '{"bytes": "x", "crc": 1, "facts": {}}', '{"bytes": -1, "crc": 0, "facts": {}}', '{"facts": 1}'])
def test_a_journal_of_another_shape_starts_anew(tmp_path: Path, line: str) -> None:
    (tmp_path / "blob.bin").write_bytes(b"hello")
    (tmp_path / "journal.jsonl").write_text(line + "\n")
    blob = BlobWriter(tmp_path)
    blob.close()
    assert blob.pieces == [] and (tmp_path / "blob.bin").read_bytes() == b""


# ---- any bytes --------------------------------------------------------------------------------------------------------------------


def write_samples(root: Path) -> None:
    write_parquet(root / "p" / "train.parquet", PIXELS, LABELS, ["a", "b"])
    write_parquet(root / "text.parquet", PIXELS, [*"ab"] * 6)
    np.savez(root / "d.npz", x_train=PIXELS[:8], y_train=LABELS[:8], x_test=PIXELS[8:], y_test=LABELS[8:])
    np.savez_compressed(root / "e.npz", images=PIXELS / 255, labels=np.array(["u", "v"])[LABELS], classes=["u", "v"])
    for suffix in ("", ".gz"):
        (root / f"idx{suffix}").mkdir()
        write_idx(root / f"idx{suffix}" / f"train-images-idx3-ubyte{suffix}", PIXELS[..., 0])
        write_idx(root / f"idx{suffix}" / f"train-labels-idx1-ubyte{suffix}", LABELS.astype(np.uint8))
    write_cifar(root / "c")
    write_cifar(root / "h", hundred=True)
    for k in range(6):
        write_image(root / "images" / f"{k}.png", k)
    rows = [f"images/{k}.png,{'ab'[k % 2]},{'train' if k < 4 else 'test'}\n" for k in range(6)]
    (root / "d.csv").write_text("path,label,split\n" + "".join(rows))


FILES = {  # the file that is damaged: the data that is read
    "p/train.parquet": "p", "text.parquet": "text.parquet", "d.npz": "d.npz", "e.npz": "e.npz", "idx/train-images-idx3-ubyte": "idx",
    "idx/train-labels-idx1-ubyte": "idx", "idx.gz/train-images-idx3-ubyte.gz": "idx.gz", "idx.gz/train-labels-idx1-ubyte.gz": "idx.gz",
    "c/data_batch_3": "c", "c/batches.meta": "c", "h/train": "h", "h/meta": "h", "d.csv": "d.csv",
}  # fmt: skip


def cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def insert(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    content[place:place] = chance.randbytes(chance.randrange(1, 9))


def remove(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    del content[place : place + chance.randrange(1, 40)]


def flip(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        place = chance.choice((chance.randrange(len(content)), len(content) - 1 - chance.randrange(min(len(content), 600))))
        content[place] = chance.choice((chance.randrange(256), 0, 255, content[place] ^ (1 << chance.randrange(8)), ord("r")))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (cut, insert, remove, flip, flip, flip)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("times", [40, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_damaged_bytes_end_in_an_index_or_one_sentence(tmp_path: Path, file: str, times: int) -> None:
    write_samples(tmp_path)
    good = (tmp_path / file).read_bytes()
    refused = 0
    for seed in range(times):
        content, chance = bytearray(good), random.Random(f"{file} {seed}")
        chance.choice(DAMAGES)(content, chance)
        (tmp_path / file).write_bytes(content)
        try:
            images = read_all(index_images(str(tmp_path / FILES[file])))
            assert all(isinstance(image, (bytes, np.ndarray, OSError)) for image in images)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and str(tmp_path) in str(error), error
    assert refused > times / 10, "damage is noticed"


def test_undamaged_samples_are_read(tmp_path: Path) -> None:
    write_samples(tmp_path)
    for data in FILES.values():
        assert not any(isinstance(image, OSError) for image in read_all(index_images(str(tmp_path / data))))


def test_a_table_is_refused_before_all_of_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "check_memory", lambda n_bytes, place: pytest.fail("its first bytes say that it is no text"))
    with (tmp_path / "d.csv").open("wb") as file:
        file.truncate(10**12)
    assert "NUL bytes" in error_of(tmp_path / "d.csv")
