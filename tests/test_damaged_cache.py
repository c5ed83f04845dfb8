"""Every file of the cache, damaged in many ways, put through what uses it: the same answer, and a sentence where a pack is made anew."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from goodfit.core.cached import read_cached, read_cached_json, write_cached
from goodfit.core.errors import DataError, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.data.blob import BLOB
from goodfit.data.headers import read_headers
from goodfit.data.pack import CacheLimit, pack_images
from goodfit.data.packed import FACTS, ROWS, Pack, PackedImages, load_pack
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images
from goodfit.data.store import FileStat
from tests.support.command import FAST, Said, goodfit, train
from tests.support.damage import DAMAGES
from tests.support.photos import make_photos

PREPROCESS = Preprocess((16, 12), (18, 14))
STORAGES = ("raw", "jpeg", "files")
SAMPLES = 12  # that are tried by default
SLOW_SAMPLES = int(os.environ.get("DAMAGES", "1000"))  # of each verb, by the slow tests: all of them


class Heard(SilentReporter):
    """What was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, *lines: str) -> None:
        self.lines += lines


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(photos: Path, storage: Any = "raw", limit: int = 1 << 40) -> tuple[PackedImages, list[str]]:
    heard = Heard()
    headers = read_headers(index_images(str(photos)), reporter=heard)
    return pack_images(headers, PREPROCESS, CacheLimit(limit, storage), reporter=heard), heard.lines


def files_of(home: Path) -> list[Path]:
    """The files of a cache, but for its locks."""
    return sorted(path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock")


def known(packed: PackedImages) -> tuple[Any, ...]:
    return packed.digest, packed.broken, packed.originals.tolist(), packed.sums.tolist()


def read_all(packed: PackedImages) -> np.ndarray:
    return packed.pixels.read(torch.arange(packed.pixels.shape[0])).numpy()


# ---- each file in each way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_damaged_file_is_made_anew(home: Path, photos: Path, storage: str, damage: str) -> None:
    """One file at a time: the answer is that of the whole cache, what was damaged is said in one sentence, and then the cache is whole."""
    first, lines = pack(photos, storage)
    assert not lines
    truth, facts = read_all(first), known(first)
    for file in files_of(home):
        before = file.read_bytes()
        DAMAGES[damage](file, random.Random(f"{file.name} {damage}"))
        is_changed = not file.is_file() or file.read_bytes() != before  # of nothing, half is the whole
        is_missed = file.exists() or file.name in (BLOB, ROWS, FACTS)  # other files are made when they are first needed
        packed, lines = pack(photos, storage)
        assert known(packed) == facts and np.array_equal(read_all(packed), truth), file
        assert ["in the cache is damaged" in line for line in lines] == [True] * (is_changed and is_missed), (file, lines)
        packed, again = pack(photos, storage)
        assert not again and np.array_equal(read_all(packed), truth), (file, again)
        assert file.read_bytes() == before, file


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_any_flipped_bit_of_the_pixels_is_noticed_when_it_is_read(home: Path, photos: Path, storage: str) -> None:
    packed, _ = pack(photos, storage)
    truth = read_all(packed)
    (blob,) = home.rglob(BLOB)
    whole = blob.read_bytes()
    chance = random.Random(0)
    for _ in range(40):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        blob.write_bytes(content)
        heard = Heard()
        packed = pack_images(read_headers(index_images(str(photos))), PREPROCESS, CacheLimit(1 << 40, storage), reporter=heard)  # type: ignore[arg-type]
        assert not heard.lines, "nothing is read yet"
        assert np.array_equal(read_all(packed), truth)
        assert heard.lines == [f'Warning: "{blob}" in the cache is damaged: the images concerned are prepared anew.']
        assert blob.read_bytes() == whole, "it is put right"


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_damaged_pixels_whose_source_has_changed_are_refused(home: Path, tmp_path: Path, storage: str) -> None:
    """Nothing is invented in their place, and the image is named."""
    photos = make_photos(tmp_path / "photos", each=8)
    packed, _ = pack(photos, storage)
    (blob,) = home.rglob(BLOB)
    blob.write_bytes(bytes(b ^ 255 for b in blob.read_bytes()))
    packed, _ = pack(photos, storage)
    (photos / "red" / "003.png").unlink()
    shutil.copyfile(photos / "red" / "004.png", photos / "red" / "005.png")
    names = list(index_images(str(photos)).names)
    rows = {name: row for row, name in enumerate(sorted([*names, "red/003.png"]))}
    with pytest.raises(DataError, match=r'"red/003.png" was read before, but now it cannot be read \(No such file'):
        packed.pixels.read(torch.tensor([rows["red/003.png"]]))
    with pytest.raises(DataError, match=r'The prepared pixels of "red/005.png" .* the image itself has changed'):
        packed.pixels.read(torch.tensor([rows["red/005.png"]]))
    assert packed.pixels.read(torch.tensor([rows["red/004.png"]])).any()


def test_broken_images_stay_black_where_their_bytes_are_damaged(home: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", each=8)
    cut = (photos / "red" / "002.png").read_bytes()
    (photos / "red" / "002.png").write_bytes(cut[: len(cut) // 2])  # its header is whole
    packed, _ = pack(photos)
    truth, (row,) = read_all(packed), packed.broken
    (blob,) = home.rglob(BLOB)
    blob.write_bytes(bytes(b ^ 255 for b in blob.read_bytes()))
    packed, _ = pack(photos)
    assert not truth[row].any() and np.array_equal(read_all(packed), truth)


def test_an_unfinished_pack_with_altered_facts_is_begun_again(home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes and sums of a piece stand in its line of the journal, of which one digit is changed here."""
    truth = known(pack(photos)[0])
    shutil.rmtree(home)
    monkeypatch.setattr("goodfit.data.pack.write_facts", lambda *_: (_ for _ in ()).throw(DataError("killed")))
    with pytest.raises(DataError, match="killed"):
        pack(photos)
    monkeypatch.undo()
    monkeypatch.setenv("GOODFIT_CACHE", str(home))
    (journal,) = home.rglob("journal.jsonl")
    line = json.loads(journal.read_text().splitlines()[0])
    rows = line["facts"]["rows"]
    line["facts"]["rows"] = rows[:40] + ("A" if rows[40] != "A" else "B") + rows[41:]
    journal.write_text(json.dumps(line) + "\n")
    assert known(pack(photos)[0]) == truth


# ---- what a file is known by, and how many there may be -----------------------------------------------------------------------------


def test_a_swapped_file_is_another_though_its_size_and_time_are_the_same(home: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", each=8)
    one, other = photos / "red" / "000.png", photos / "red" / "001.png"
    for file in (one, other):
        file.write_bytes(file.read_bytes().ljust(4096, b"\0"))  # what follows the end of a PNG is no part of it
        os.utime(file, (1e9, 1e9))
    first, _ = pack(photos)
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert (one.stat().st_size, one.stat().st_mtime) == (other.stat().st_size, other.stat().st_mtime)
    swapped, _ = pack(photos)
    assert swapped.digest != first.digest and not np.array_equal(read_all(swapped), read_all(first))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    os.utime(one, (1e9, 1e9))
    assert pack(photos)[0].digest not in (first.digest, swapped.digest) and content != one.read_bytes()


def test_a_link_or_chmod_keeps_the_pack(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of which only the inode or change time is another are compared by content: nothing is decoded, and it is said, once."""
    photos = make_photos(tmp_path / "photos", each=8)
    whole, cut = photos / "red" / "000.png", photos / "red" / "001.png"
    cut.write_bytes(cut.read_bytes()[:-40])  # it cannot be decoded, which its header does not tell
    first, _ = pack(photos)
    assert first.broken

    def move_copy() -> None:
        shutil.copy2(whole, tmp_path / "copy")
        (tmp_path / "copy").rename(whole)

    changes: list[Callable[[], object]] = [
        lambda: whole.chmod(0o600), lambda: os.link(whole, tmp_path / "link"), move_copy, lambda: cut.chmod(0o600),
    ]  # fmt: skip
    for change in changes:
        change()
        with monkeypatch.context() as patch:
            patch.setattr("goodfit.data.pack._write_pack", None)
            again, lines = pack(photos)
            assert pack(photos)[1] == []
        assert known(again) == known(first) and np.array_equal(read_all(again), read_all(first))
        assert [line for line in lines if "packed pixels are kept" in line] == lines and len(lines) == 1
    assert len(list((home / "packed").glob("*-raw"))) == 1


def test_a_stamp_tells_every_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    before = FileStat.of("a", tmp_path)
    assert FileStat.of("a", tmp_path) == before
    (tmp_path / "a").write_bytes(b"5678")
    os.utime(tmp_path / "a", ns=(before.stamp[0], before.stamp[0]))
    changed = FileStat.of("a", tmp_path)
    assert changed.size == before.size and changed.stamp[0] == before.stamp[0] and changed != before
    shutil.copyfile(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / "a")
    assert FileStat.of("a", tmp_path).stamp[2] != changed.stamp[2]


def age(folder: Path, hours: float) -> None:
    os.utime(folder / FACTS, (time.time() - 3600 * hours,) * 2)


def test_all_packs_together_keep_within_the_limit_of_the_machine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was not used for the longest time goes first, and only for one that is made and fits then, whatever a recipe says."""
    sets = [make_photos(tmp_path / name, each=8) for name in "abcd"]
    packs = []
    for data in sets[:3]:
        _, lines = pack(data)
        packs += [next(path for path in (home / "packed").glob("*-raw") if path not in packs)]
        assert not lines
    size = sum(file.stat().st_size for file in packs[0].iterdir())
    for folder, hours in zip(packs, (5, 9, 7), strict=True):
        age(folder, hours)
    pack(sets[1])  # it is used, so that it is the newest now
    monkeypatch.setenv("GOODFIT_CACHE_GB", str((3 * size + 2000) / 1e9))
    _, lines = pack(sets[3])
    assert [path.exists() for path in packs] == [True, True, False]
    (line,) = lines
    assert line.startswith("Removed 1 packed data set not used for the longest time (") and line.endswith("(GOODFIT_CACHE_GB).")
    monkeypatch.setenv("GOODFIT_CACHE_GB", str(size / 1e9))
    assert pack(sets[1])[1] == [] and packs[1].exists(), "nothing is removed where nothing is made"
    lost, _ = pack(sets[0])
    assert pack(sets[2], limit=1, storage="files")[1] == [] and packs[0].exists(), "nothing is removed where nothing is stored"
    monkeypatch.setenv("GOODFIT_CACHE_GB", "1e-8")
    _, lines = pack(sets[2], limit=1, storage="raw")
    assert lines == [] and len(list((home / "packed").glob("*-raw"))) == 4, "nothing is removed for what does not fit at all"
    shutil.rmtree(home / "packed" / packs[2].name)
    monkeypatch.setenv("GOODFIT_CACHE_GB", str(size / 1e9))
    _, lines = pack(sets[2], limit=1, storage="raw")
    assert "Removed 3 packed data sets" in lines[0] and len(list((home / "packed").glob("*-raw"))) == 1
    assert read_all(lost).any(), "who uses one keeps it"
    assert not list((home / "packed").glob(".*"))


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_a_limit_of_the_machine_that_is_none_is_refused(home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GOODFIT_CACHE_GB", text)
    with pytest.raises(UsageError, match=f'GOODFIT_CACHE_GB as a number above 0, such as 8, received "{text}"'):
        pack(photos)


def test_a_recipe_with_a_small_cache_removes_no_packs_of_others(home: Path, tmp_path: Path) -> None:
    for name in "abc":
        pack(make_photos(tmp_path / name, each=8))
    before = files_of(home)
    assert train(make_photos(tmp_path / "d", each=8), tmp_path / "run", cache="0.000001").code == 0
    assert set(before) <= set(files_of(home))


def test_a_pack_that_another_process_removes_as_it_is_loaded_is_made_anew(
    home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its check and the memory map, once."""
    first, left = known(pack(photos)[0]), [1]

    def lose_and_load(found: Pack, *arguments: Any) -> PackedImages:
        if left:
            left.pop()
            shutil.rmtree(found.folder)
        return load_pack(found, *arguments)

    monkeypatch.setattr("goodfit.data.pack.load_pack", lose_and_load)
    again, lines = pack(photos)
    assert known(again) == first and read_all(again).any() and not left and not lines


def test_a_pack_that_another_process_removes_once_it_is_mapped_leaves_no_folder(
    home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would be taken for a damaged pack the next time."""

    def lose(path: Path, reporter: Any = None) -> None:
        shutil.rmtree(path.parent)

    with monkeypatch.context() as patch:
        patch.setattr("goodfit.data.packed.read_cached", lose)
        packed, _ = pack(photos)
    assert read_all(packed).any() and not list((home / "packed").glob("*-raw"))
    assert pack(photos)[1] == []


# ---- results of the cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_counts_as_missing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "results" / "0123.json"
    for number in range(20):
        content = json.dumps({"value": number}).encode()
        write_cached(path, content)
        assert read_cached(path) == content and read_cached_json(path) == {"value": number}
        write_cached(path.with_name("4567.json"), b'{"value": 99}')
        DAMAGES[damage](path, random.Random(number))
        heard = Heard()
        assert read_cached(path, heard) is None and read_cached_json(path) is None
        assert len(heard.lines) == path.exists()
    write_cached(path, b"")
    assert read_cached(path) == b""


def test_a_pipe_in_the_cache_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    assert read_cached(tmp_path / "x.json") is None
    write_cached(tmp_path / "x.json", b"1")
    assert read_cached(tmp_path / "x.json") == b"1"


# ---- through every verb -------------------------------------------------------------------------------------------------------------


class House:
    """A cache that every verb has used, for each storage, and what each verb makes of it undamaged."""

    def __init__(self, photos: Path, folder: Path) -> None:
        self.photos, self.folder, self.caches = photos, folder, folder / "caches"
        self.run, self.results = {storage: folder / f"run-{storage}" for storage in STORAGES}, dict[tuple[str, str], Any]()
        with pytest.MonkeyPatch.context() as patch:
            for storage in STORAGES:
                patch.setenv("GOODFIT_CACHE", str(self.caches / storage))
                assert goodfit("train", photos, "--out", self.run[storage], *self.options(storage)).code == 0
                for verb in VERBS:  # twice: the second time everything is in the cache
                    assert self.use(verb, storage)[0].code == 0
                    self.results[verb, storage] = self.use(verb, storage)[1]

    def options(self, storage: str) -> list[str]:
        changes = {**FAST, "storage": storage, "augment": "crop(2) | flip", "precision": "auto", "model": "linear"}
        return [word for key, value in changes.items() for word in (f"--{key.replace('_', '-')}", value)]

    def use(self, verb: str, storage: str) -> tuple[Said, Any]:
        """What a verb says, and its result."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        said = VERBS[verb](self, storage, out)
        return said, RESULTS[verb](said, out) if said.code == 0 else None

    def try_damage(self, storage: str, file: Path, damage: str, verb: str) -> str:
        """Damage a copy of the cache, use it, and check what comes of it; returns what was said."""
        cache = self.folder / "damaged"
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(self.caches / storage, cache)  # with the times of its files
        DAMAGES[damage](cache / file, random.Random(f"{file} {damage} {verb}"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GOODFIT_CACHE", str(cache))
            patch.setattr("goodfit.recipe.measure._measured", {})  # as in another process
            said, result = self.use(verb, storage)
        where = (storage, str(file), damage, verb, said)
        assert said.code == 0 and "Traceback" not in said.err, where
        assert result == self.results[verb, storage], where
        lines = [line for line in said.err.splitlines() if "in the cache is damaged" in line]
        assert len(lines) <= 1, where
        return "said" if lines else "made anew or not needed"


def read_weights(said: Said, out: Path) -> Any:
    return {name: x.tolist() for name, x in load_file(out / "run" / "model.safetensors").items()}


def read_scores(said: Said, out: Path) -> Any:
    return {key: value for key, value in json.loads(said.out).items() if key in ("accuracy", "loss", "images", "confusion")}


def read_findings(said: Said, out: Path) -> Any:
    return json.loads(said.out)["findings"]


VERBS: dict[str, Callable[[House, str, Path], Said]] = {
    "train": lambda house, storage, out: goodfit("train", house.photos, "--out", out / "run", *house.options(storage)),
    "evaluate": lambda house, storage, out: goodfit("evaluate", house.run[storage], "--json"),
    "show": lambda house, storage, out: goodfit("show", house.photos, "--out", out / "x.png", *house.options(storage)),
    "audit": lambda house, storage, out: goodfit("audit", house.photos, "--json"),
}
RESULTS: dict[str, Callable[[Said, Path], Any]] = {
    "train": read_weights, "evaluate": read_scores, "show": lambda said, out: (out / "x.png").read_bytes(), "audit": read_findings,
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("caches")
    return House(make_photos(folder / "photos", each=12), folder)


def test_some_damages(house: House) -> None:
    cases = [
        (s, f.relative_to(house.caches / s), d, v) for s in STORAGES for f in files_of(house.caches / s) for d in DAMAGES for v in VERBS
    ]
    ends = Counter(house.try_damage(*case) for case in random.Random(0).sample(cases, SAMPLES))
    print(f"{SAMPLES} of {len(cases)} cases: {dict(ends)}")
    assert ends["said"], "some of them are of files that are needed"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", VERBS)
def test_many_damages(house: House, verb: str) -> None:
    """Every file in every way, or as many cases as are asked for."""
    places = [(storage, file) for storage in STORAGES for file in files_of(house.caches / storage)]
    cases = [(storage, file.relative_to(house.caches / storage), damage) for (storage, file), damage in itertools.product(places, DAMAGES)]
    chosen = random.Random(verb).sample(cases, min(SLOW_SAMPLES, len(cases)))
    ends = Counter(house.try_damage(*case, verb) for case in chosen)
    print(f"{verb}: {len(chosen)} of {len(cases)} cases: {dict(ends)}")
    assert ends["said"]
