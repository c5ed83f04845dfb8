"""Packing: the same pixels however they are stored, after a kill, beside another process, and on a full disk."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import pytest
import simplejpeg
import torch
from PIL import Image

from goodfit.core import files
from goodfit.core.errors import DataError, GoodfitError
from goodfit.core.files import cache_folder, lock, machine_name
from goodfit.core.reporter import SilentReporter
from goodfit.data import pack
from goodfit.data.blob import BLOB, JOURNAL, BlobWriter
from goodfit.data.dataset import load_dataset
from goodfit.data.headers import ImageHeaders, read_headers
from goodfit.data.opening import DECODER_VERSIONS
from goodfit.data.pack import CacheLimit, pack_images
from goodfit.data.packed import FACTS, ROWS, PackedImages
from goodfit.data.pixels import FilePixels, JpegPixels, RawPixels
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule
from goodfit.data.statistics import sum_images
from tests.support.photos import make_photos
from tests.support.process import Forked, wait_until

PREPROCESS = Preprocess((16, 12), (18, 14))
UNLIMITED = CacheLimit(1 << 40)


class Heard(SilentReporter):
    """What was reported: sentences, and how many images were packed each time."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.packed: list[int] = []

    def say(self, *lines: str) -> None:
        self.lines += lines

    def show_packing(self, done: int, total: int) -> None:
        assert total == 90
        self.packed.append(done)


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "IMAGES_PER_PIECE", (32, 32))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def decode_all(found: ImageHeaders, preprocess: Preprocess) -> np.ndarray:
    return np.stack([preprocess.decode(found.index.store.read(row)) for row in range(len(found.index))])


def read_all(packed: PackedImages, exact: bool = False) -> np.ndarray:
    rows = torch.arange(packed.pixels.shape[0])
    return (packed.pixels.read_exact(rows) if exact else packed.pixels.read(rows)).numpy()


def folders() -> list[Path]:
    return [*(cache_folder() / "packed").glob("*-raw")]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["raw", "jpeg", "files"])
def test_every_storage_gives_the_pixels(own_cache: Path, photos: Path, kind: str, channels: int) -> None:
    found = read_headers(index_images(str(photos)))
    here = dataclasses.replace(PREPROCESS, channels=channels, size=(64, 48), box=(72, 56))
    raw = 90 * 72 * 56 * channels
    limit = {"raw": raw, "jpeg": raw - 1, "files": 1000}[kind]
    truth = decode_all(found, here)
    for workers in (1, 3):
        packed = pack_images(found, here, CacheLimit(limit), workers)
        assert type(packed.pixels) is {"raw": RawPixels, "jpeg": JpegPixels, "files": FilePixels}[kind]
        assert packed.pixels.shape == truth.shape and not packed.broken
        assert np.array_equal(read_all(packed, exact=True), truth)
        assert np.array_equal(packed.sums, sum_images(truth))
        if kind == "jpeg":
            assert 0 < np.abs(read_all(packed).astype(int) - truth).mean() < 4
        else:
            assert np.array_equal(read_all(packed), truth)
        assert bool(packed.notes) == (kind != "raw")
        assert all("cache limit" in note and "kB" in note for note in packed.notes)
        rows = np.array([5, 3, 5])
        assert np.array_equal(packed.pixels.read_exact(rows).numpy(), truth[rows])


def test_the_digest_is_of_the_content_not_of_the_way(own_cache: Path, photos: Path) -> None:
    first = pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)
    copy = shutil.copytree(photos, own_cache / "copy" / "photos")
    assert pack_images(read_headers(index_images(str(copy))), PREPROCESS, CacheLimit(1000)).digest == first.digest
    stretched = dataclasses.replace(PREPROCESS, aspect="stretch")
    assert pack_images(read_headers(index_images(str(photos))), stretched, UNLIMITED).digest == first.digest
    shutil.move(copy / "red" / "000.png", copy / "red" / "zzz.png")
    renamed = pack_images(read_headers(index_images(str(copy))), PREPROCESS, UNLIMITED).digest
    shutil.move(copy / "red" / "zzz.png", copy / "blue" / "zzz.png")
    relabeled = pack_images(read_headers(index_images(str(copy))), PREPROCESS, UNLIMITED).digest
    assert len({first.digest, renamed, relabeled}) == 3


def test_the_second_time_nothing_is_decoded(own_cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    found = read_headers(index_images(str(photos)))
    first = pack_images(found, PREPROCESS, UNLIMITED, reporter=heard)
    assert heard.packed[-1] == 90 and heard.packed == sorted(heard.packed) and not heard.lines
    monkeypatch.setattr(Preprocess, "decode", None)
    again = pack_images(read_headers(index_images(str(photos))), dataclasses.replace(PREPROCESS, mean=(0.5,), std=(0.1,)), UNLIMITED)
    assert len(folders()) == 1 and np.array_equal(read_all(again), read_all(first))


def test_packed_pixels_cannot_be_changed(own_cache: Path, photos: Path) -> None:
    packed = pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)
    before = read_all(packed)
    packed.pixels.read(np.arange(4)).zero_()
    assert np.array_equal(read_all(pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)), before)


def test_broken_images_are_left_out_and_named(own_cache: Path) -> None:
    root = make_photos(own_cache / "d", each=8)
    (root / "red" / "001.png").write_bytes(b"text")
    cut = (root / "blue" / "002.png").read_bytes()
    (root / "blue" / "002.png").write_bytes(cut[: len(cut) // 2])  # its header is whole: only decoding finds it
    found = read_headers(index_images(str(root)))
    assert list(found.broken) == [found.index.names.index("red/001.png")]
    data = load_dataset(found, (16, 16), "crop", SplitRule(0.2, 0), UNLIMITED)
    assert set(data.broken) == {"red/001.png", "blue/002.png"} and "not an image" in data.broken["red/001.png"]
    used = np.concatenate([data.splits.train, data.splits.validation, data.splits.test])
    assert sorted(data.names[row] for row in set(range(24)) - set(used.tolist())) == ["blue/002.png", "red/001.png"]
    assert any("2 broken images left out" in note for note in data.notes)


def test_every_image_failing_to_decode(own_cache: Path) -> None:
    root = make_photos(own_cache / "d", each=2)
    for file in root.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:120])
    with pytest.raises(DataError, match="All 6 images are broken"):
        pack_images(read_headers(index_images(str(root))), PREPROCESS, UNLIMITED)


def test_no_space_is_said_and_nothing_half_is_taken_for_whole(own_cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_headers(index_images(str(photos)))
    truth = decode_all(found, PREPROCESS)
    add = BlobWriter.add

    def full(self: BlobWriter, piece: bytes, facts: dict[str, object]) -> None:
        if len(self.pieces) == 1:
            self._blob.write(piece[:100])  # part of it still fits
            self._blob.flush()
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, piece, facts)

    monkeypatch.setattr(BlobWriter, "add", full)
    with pytest.raises(GoodfitError, match="No space is left") as caught:
        pack_images(found, PREPROCESS, UNLIMITED)
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    monkeypatch.setenv("GOODFIT_CACHE", str(own_cache / "cache"))
    heard = Heard()
    packed = pack_images(found, PREPROCESS, UNLIMITED, reporter=heard)
    assert heard.packed[0] == 64  # the first piece was kept
    assert np.array_equal(read_all(packed), truth)


def test_too_little_space_is_said_before_the_work(own_cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(own_cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(GoodfitError, match="GOODFIT_CACHE"):
        pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)


class Slow(SilentReporter):
    """Prints how many images are packed, and waits so many seconds each time."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def show_packing(self, done: int, total: int) -> None:
        print(done, flush=True)
        time.sleep(self.pause)


def pack_slowly(photos: Path, pause: float) -> None:
    pack.IMAGES_PER_PIECE = (32, 32)  # this process is another
    print("digest", pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED, 1, Slow(pause)).digest)


def test_a_killed_packing_goes_on_where_it_stopped(own_cache: Path, photos: Path) -> None:
    process = Forked(own_cache / "packer", pack_slowly, photos, 60)
    wait_until(lambda: process.out == "32\n")
    process.kill()
    partial = next((cache_folder() / "packed").glob("*partial"))
    with (partial / BLOB).open("ab") as blob, (partial / JOURNAL).open("ab") as lines:
        blob.write(b"torn")  # what a kill in the middle of a write leaves
        lines.write(b'{"bytes": 4, "cr')
    heard = Heard()
    found = read_headers(index_images(str(photos)))
    packed = pack_images(found, PREPROCESS, UNLIMITED, reporter=heard)
    assert heard.packed == [64, 90]
    assert np.array_equal(read_all(packed), decode_all(found, PREPROCESS))
    assert not list((cache_folder() / "packed").glob("*partial"))


def test_damaged_bytes_of_an_unfinished_pack_are_made_anew(own_cache: Path, tmp_path: Path) -> None:
    first = BlobWriter(tmp_path / "p")
    for k in range(3):
        first.add(bytes([k]) * 100, {"n": k})
    first.close()
    blob = tmp_path / "p" / BLOB
    blob.write_bytes(blob.read_bytes()[:150] + b"x" + blob.read_bytes()[151:])
    assert [piece["n"] for piece in BlobWriter(tmp_path / "p").pieces] == [0]
    assert blob.stat().st_size == 100


def test_two_processes_at_once_make_one_whole_pack(own_cache: Path, photos: Path) -> None:
    processes = [Forked(own_cache / f"packer{k}", pack_slowly, photos, 0.2) for k in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    outputs = [process.out.split() for process in processes]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(len(words) for words in outputs) == [2, 5]  # one packed, the other waited and found it
    found = read_headers(index_images(str(photos)))
    assert np.array_equal(read_all(pack_images(found, PREPROCESS, UNLIMITED)), decode_all(found, PREPROCESS))


def test_without_locks_each_process_has_a_place_of_its_own(own_cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    found = read_headers(index_images(str(photos)))
    assert np.array_equal(read_all(pack_images(found, PREPROCESS, UNLIMITED)), decode_all(found, PREPROCESS))


def pack_on_machine(name: str, photos: Path) -> None:
    """Pack as another machine does, to which the locks of this one mean nothing."""
    files.platform.node = lambda: name  # this process is another
    pack.lock = lambda path, wait=True: contextlib.nullcontext(True)
    pack_slowly(photos, 0.2)


def test_two_machines_with_one_cache_make_one_whole_pack(own_cache: Path, photos: Path) -> None:
    processes = [Forked(own_cache / name, pack_on_machine, name, photos) for name in ("north", "south")]
    assert [process.wait() for process in processes] == [0, 0], [process.err for process in processes]
    outputs = [process.out.split() for process in processes]
    assert [len(words) for words in outputs] == [5, 5] and outputs[0][-1] == outputs[1][-1], "each has packed, neither waits"
    assert not list((cache_folder() / "packed").glob("*partial"))
    heard = Heard()
    found = read_headers(index_images(str(photos)))
    assert np.array_equal(read_all(pack_images(found, PREPROCESS, UNLIMITED, reporter=heard)), decode_all(found, PREPROCESS))
    assert not heard.packed, "what they left is whole"


def test_prepare_binds_it_all(own_cache: Path, photos: Path) -> None:
    data = load_dataset(read_headers(index_images(str(photos))), (16, 12), "crop", SplitRule(0.1, 3), UNLIMITED)
    assert data.class_counts() == (22, 22, 22) and data.class_counts("validation") == (2, 2, 2) and data.class_counts("test") == (6, 6, 6)
    assert data.preprocess.size == (16, 12) and data.preprocess.box == (18, 14) and data.preprocess.mean == data.statistics.mean
    begun = time.perf_counter()
    again = load_dataset(read_headers(index_images(str(photos))), (16, 12), "crop", SplitRule(0.1, 3), UNLIMITED)
    assert time.perf_counter() - begun < 30
    assert again.digest == data.digest and again.splits.digest == data.splits.digest and again.statistics == data.statistics
    assert torch.equal(again.rows("train"), data.rows("train"))


def test_rows_are_spread_evenly_over_a_split(own_cache: Path, photos: Path) -> None:
    data = load_dataset(read_headers(index_images(str(photos))), (16, 12), "crop", SplitRule(0.1, 3), UNLIMITED)
    train = data.rows("train")
    assert data.spread_rows("train", 4).tolist() == train[[0, 21, 43, 65]].tolist()
    assert torch.equal(data.spread_rows("train", 1000), train)


def test_a_constant_channel_does_not_divide_by_zero(own_cache: Path) -> None:
    for name in "ab":
        (own_cache / "d" / name).mkdir(parents=True)
        for k in range(4):
            pixels = np.random.default_rng(k).integers(0, 256, (9, 9, 4), dtype=np.uint8)
            pixels[..., 3] = 255
            file = io.BytesIO()
            Image.fromarray(pixels, "RGBA").save(file, "PNG")
            (own_cache / "d" / name / f"{k}.png").write_bytes(file.getvalue())
    data = load_dataset(read_headers(index_images(str(own_cache / "d"))), (8, 8), "crop", SplitRule(0.25, 0), UNLIMITED)
    assert data.preprocess.channels == 4 and data.preprocess.std[3] == 1.0
    images = data.pixels.read(data.splits.train).permute(0, 3, 1, 2)
    assert torch.isfinite(data.preprocess.normalize(images)).all()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the names of open files are asked of Linux")
def test_all_of_a_pack_is_on_the_disk_before_it_takes_its_place(own_cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blob, its rows, its pack.json and its folder are synced, so that a power cut leaves all of it or none."""
    synced: list[str] = []
    rename = Path.rename

    def rename_and_note(path: Path, target: Path) -> Path:
        if path.name.endswith("partial"):
            synced.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    monkeypatch.setattr(Path, "rename", rename_and_note)
    pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)
    before, after = synced[: synced.index("renamed")], synced[synced.index("renamed") + 1 :]
    (folder,) = folders()
    for name in (BLOB, ROWS, FACTS):
        assert any(name in file for file in before), (name, before)
    assert before.index(BLOB) < next(k for k, file in enumerate(before) if FACTS in file), "what is counted on comes first"
    assert f"{folder.name}.{machine_name()}.partial" in before and "packed" in after


# ---- what a pack is known by -----------------------------------------------------------------------------------------------------


def test_other_decoders_make_another_pack(own_cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PIL.__version__ in DECODER_VERSIONS and simplejpeg.__version__ in DECODER_VERSIONS
    for decoders in (DECODER_VERSIONS, "Pillow 0.1"):
        monkeypatch.setattr(pack, "DECODER_VERSIONS", decoders)
        pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)
    assert len(folders()) == 2


def test_other_labels_use_the_same_pack_and_give_another_digest(own_cache: Path, photos: Path) -> None:
    index = index_images(str(photos))
    turned = dataclasses.replace(index, labels=(index.labels + 1) % 3)
    renamed = dataclasses.replace(index, classes=("a", "b", "c"))
    packs = [pack_images(read_headers(x), PREPROCESS, UNLIMITED) for x in (index, turned, renamed)]
    assert len(folders()) == 1 and len({x.digest for x in packs}) == 3
    assert [pack_images(read_headers(x), PREPROCESS, UNLIMITED).digest for x in (index, turned, renamed)] == [x.digest for x in packs]


def test_abandoned_packings_are_removed_and_others_kept(own_cache: Path, photos: Path) -> None:
    home = cache_folder() / "packed"
    for key, age in (("aa", 2 * 86400), ("bb", 3600), ("cc", 2 * 86400)):
        folder = home / f"{key}-raw.partial"
        folder.mkdir(parents=True)
        (folder / BLOB).write_bytes(b"x")
        for path in (folder / BLOB, folder):
            os.utime(path, (time.time() - age,) * 2)
    with lock(home / "cc.lock"):  # another process packs there, however slowly
        pack_images(read_headers(index_images(str(photos))), PREPROCESS, UNLIMITED)
    assert sorted(path.name for path in home.glob("*partial")) == ["bb-raw.partial", "cc-raw.partial"]
