"""The index of a shard: where each record lies, its label, header and hash, and what is broken; made once and kept in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodfit.core.cached import read_cached, write_cached
from goodfit.core.files import cache_folder
from goodfit.core.reporter import Reporter
from goodfit.data.headers import find_maximum
from goodfit.data.opening import DECODER_VERSIONS, BrokenImage, explain_errors, max_pixels, read_header
from goodfit.data.packed import hash_content
from goodfit.data.preprocess import Preprocess
from goodfit.data.shards.places import Place, Shard
from goodfit.data.shards.records import Record
from goodfit.data.store import hash_fields

VERSION = "1"  # raise it when what is read of a record changes
HASH_BYTES = 8  # of that of each image
RECORD = np.dtype(
    [
        ("offset", "<i8"), ("size", "<i4"), ("hash", "<u8"), ("label", "<i4"), ("width", "<i4"), ("height", "<i4"), ("channels", "i1"),
        ("bits", "i1"),
    ]
)  # fmt: skip
CHECK = Preprocess((8, 8), (8, 8), aspect="stretch")  # decodes whole images, at the least cost


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """What is known of the records of a shard: `records` [n] of RECORD, whose labels are places in `labels`, and their `keys`.

    `broken` gives the reason by place, `classes` are the class names that the shard lists, if any, `maximum` is that of its 16-bit images,
    and `digest` hashes keys, labels and images.
    """

    records: NDArray[Any]
    keys: Keys
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    broken: dict[int, str]
    maximum: int
    digest: str


class Keys:
    """Texts in one piece of memory: `text` has all of them as UTF-8, and `ends` [n] is where each one ends."""

    def __init__(self, text: bytes, ends: NDArray[np.uint32]) -> None:
        self.text, self.ends = text, ends

    @staticmethod
    def of(keys: Iterable[str]) -> Keys:
        encoded = [key.encode(errors="surrogateescape") for key in keys]
        return Keys(b"".join(encoded), np.cumsum([*map(len, encoded)], dtype=np.uint32))

    def __getitem__(self, place: int) -> str:
        start = int(self.ends[place - 1]) if place else 0
        return self.text[start : int(self.ends[place])].decode(errors="surrogateescape")

    def __len__(self) -> int:
        return len(self.ends)


def make_index(records: Iterable[Record], classes: tuple[str, ...] = ()) -> ShardIndex:
    """Make the index of a shard from its records: each image is decoded once, and those that cannot be are broken."""
    rows: list[tuple[int, ...]] = []
    keys: list[str] = []
    label_places: dict[str, int] = {}
    broken: dict[int, str] = {}
    maximum, total = 0, hashlib.sha256()
    for place, record in enumerate(records):
        digest, header, reason = hash_content(record.content), (0, 0, 0, 0), record.reason
        if not reason:
            try:
                header, highest = _check_image(record.content)
                maximum = max(maximum, highest)
            except BrokenImage as error:
                reason = error.reason
        if reason:
            broken[place] = reason
        label = label_places.setdefault(record.label, len(label_places)) if not reason else 0
        rows.append((record.offset, len(record.content), int.from_bytes(digest[:HASH_BYTES], "little"), label, *header))
        keys.append(record.key)
        total.update(f"{record.key}\0{record.label}\0{reason}\0".encode(errors="surrogateescape") + digest)
    return ShardIndex(np.array(rows, dtype=RECORD), Keys.of(keys), tuple(label_places), classes, broken, maximum, total.hexdigest())


def _check_image(content: bytes) -> tuple[tuple[int, int, int, int], int]:
    """The width, height, channels and bits of an image, and the maximum of one with 16 bits.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    header = read_header(io.BytesIO(content))
    CHECK.decode(content)
    with explain_errors():
        maximum = find_maximum(content) if header.bits == 16 else 0
    return (header.width, header.height, header.channels, header.bits), maximum


# ---- kept in the cache ---------------------------------------------------------------------------------------------------------


def index_path(place: Place, shard: Shard) -> Path:
    """Where the index of a shard is kept: under another name once the shard has changed."""
    name = hash_fields(VERSION, DECODER_VERSIONS, str(max_pixels()), place.root, shard.name, str(shard.size), shard.stamp)
    return cache_folder() / "shard-indexes" / f"{name}.npz"


def load_index(path: Path, reporter: Reporter | None = None) -> ShardIndex | None:
    """Load an index; None where there is none, or a damaged one, which is reported."""
    if (content := read_cached(path, reporter)) is None:
        return None
    with np.load(io.BytesIO(content)) as file:
        facts, keys = json.loads(file["facts"].tobytes()), Keys(file["keys"].tobytes(), file["ends"])
        records = file["records"]
    broken = {int(place): reason for place, reason in facts["broken"]}
    return ShardIndex(records, keys, tuple(facts["labels"]), tuple(facts["classes"]), broken, facts["maximum"], facts["digest"])


def save_index(path: Path, index: ShardIndex) -> None:
    """Keep an index."""
    names = ("labels", "classes", "maximum", "digest")
    facts = {name: getattr(index, name) for name in names} | {"broken": [*index.broken.items()]}
    file = io.BytesIO()
    np.savez(
        file,
        records=index.records,
        keys=np.frombuffer(index.keys.text, dtype=np.uint8),
        ends=index.keys.ends,
        facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
    )
    write_cached(path, file.getvalue())


class Names(Sequence[str]):
    """The names of all records, made when they are asked for: `train-0.tar/000123`, or `train-0.parquet#17`."""

    def __init__(self, shards: list[tuple[str, Keys]]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *(len(keys) for _, keys in shards)])

    def __getitem__(self, row: Any) -> Any:
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        name, keys = self._shards[shard]
        return join_name(name, keys[row - int(self._starts[shard])])

    def __iter__(self) -> Iterator[str]:
        return (join_name(name, keys[place]) for name, keys in self._shards for place in range(len(keys)))

    def __len__(self) -> int:
        return int(self._starts[-1])


def join_name(shard: str, key: str) -> str:
    """The name of a record in a shard."""
    return f"{shard}{key}" if key.startswith("#") else f"{shard}/{key}"
