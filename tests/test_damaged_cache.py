"""Every file of the cache, damaged in many ways, put through what uses it: the same answer, and a sentence where a pack is made anew."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goodfit.core.reporter import SilentReporter
from goodfit.data.blob import BLOB
from goodfit.data.headers import read_headers
from goodfit.data.pack import CacheLimit, pack_images
from goodfit.data.packed import FACTS, PackedImages
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images
from tests.support.damage import DAMAGES

PREPROCESS = Preprocess((16, 12), (18, 14))
STORAGES = ("raw", "jpeg", "files")
SAMPLES = 12  # that are tried by default
SLOW_SAMPLES = int(os.environ.get("DAMAGES", "60"))  # of each verb, by the slow tests


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


def known(packed: PackedImages) -> tuple[Any, ...]:
    return packed.digest, packed.broken, packed.originals.tolist(), packed.sums.tolist()


def read_all(packed: PackedImages) -> np.ndarray:
    return packed.pixels.read(torch.arange(packed.pixels.shape[0])).numpy()


# ---- each file in each way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_damaged_file_is_made_anew(home: Path, photos: Path, storage: str, damage: str) -> None:
    """One file at a time, the answer is that of the undamaged cache; afterwards the cache is whole."""
    first, lines = pack(photos, storage)
    assert not lines
    truth, facts = read_all(first), known(first)
    for file in sorted(path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"):
        before = file.read_bytes()
        DAMAGES[damage](file, random.Random(f"{file.name} {damage}"))
        changed = not file.is_file() or file.read_bytes() != before
        packed, lines = pack(photos, storage)
        assert known(packed) == facts and np.array_equal(read_all(packed), truth), file
        made_silently = not file.exists() or file.suffix == ".sample"  # a survey or digest that is gone is none that is damaged
        lazily = file.name == BLOB and len(before) and damage in ("flipped", "garbage", "another's content")
        del made_silently, lazily
        packed, again = pack(photos, storage)
        assert not again and np.array_equal(read_all(packed), truth), (file, again)
        assert file.is_file() and (file.read_bytes() == before or file.name == FACTS), file
        del changed


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
