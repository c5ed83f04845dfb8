"""Reads records of shards by row: from the shards where they lie on this machine, else from copies in a cache of limited size."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.files import cache_folder
from goodfit.data.index import IntArray
from goodfit.data.packed import hash_content
from goodfit.data.shards.parquet_records import copy_images
from goodfit.data.shards.places import Place, Shard
from goodfit.data.shards.shard_cache import ShardCache
from goodfit.data.shards.shard_index import HASH_BYTES
from goodfit.data.store import Array, Store, hash_fields

COPIED_AT_ONCE = 1 << 20  # bytes
FETCHES_AT_ONCE = 4
MAX_TRIES = 5  # to read a record from a copy that another process removes, or that is damaged


@dataclasses.dataclass(frozen=True)
class ShardFiles:
    """The files of shards on this machine: the shards themselves if they are tars here, else copies in `cache`."""

    place: Place
    cache: ShardCache

    @staticmethod
    def of(place: Place, limit: int) -> ShardFiles:
        return ShardFiles(place, ShardCache(cache_folder() / "shards", limit))

    @property
    def are_copies(self) -> bool:
        return self.place.system is not None or not self.place.is_tar

    def ensure(self, shard: Shard, size: int) -> Path:
        """The file of a shard, of which a copy takes `size` bytes; raises as `Place.open` and `ShardCache.ensure`."""
        return self.cache.ensure(self._name(shard), size, lambda: self._read(shard)) if self.are_copies else Path(shard.path)

    def is_here(self, shard: Shard) -> bool:
        """Whether a shard can be read at once; a copy then counts as used."""
        if self.are_copies and (is_here := self.cache.path(name := self._name(shard)).exists()):
            self.cache.mark_use(name)
            return is_here
        return not self.are_copies

    def remove(self, shard: Shard) -> None:
        """Remove a copy that is damaged."""
        if self.are_copies:
            self.cache.remove(self._name(shard))

    def read_part(self, shard: Shard, offset: int, size: int) -> bytes:
        """Read some bytes of a tar from where it lies; raises as `Place.open`."""
        with self.place.open(shard) as file:
            file.seek(offset)
            return file.read(size)

    def _name(self, shard: Shard) -> str:
        return hash_fields(self.place.root, shard.name, str(shard.size), shard.stamp)

    def _read(self, shard: Shard) -> Iterator[bytes]:
        """The bytes of a copy: those of a tar, or the images of a parquet file."""
        with self.place.open(shard) as file:
            if self.place.is_tar:
                left = shard.size
                while piece := file.read(COPIED_AT_ONCE):
                    left -= len(piece)
                    yield piece if left >= 0 else b""
                if left:
                    raise shard_changed(self.place, shard)
            else:
                yield from copy_images(file, shard.path)


class ShardStore(Store):
    """The encoded images of shards, by row; those of shard k are the rows from `starts[k]` to `starts[k + 1]`.

    What is read is compared with the hash in the index. `follow` says which shards are needed after which: they are copied in time. An
    image of a tar elsewhere that was not prepared, such as one to look at, is read by itself.
    """

    def __init__(self, files: ShardFiles, records: NDArray[np.void], starts: IntArray, digests: Sequence[str]) -> None:
        self.files, self.records, self.starts, self.digests = files, records, starts, digests
        ends = records["offset"] + records["size"]
        shards = files.place.shards
        self.sizes = [s.size if files.place.is_tar else int(ends[a:b].max(initial=0)) for s, a, b in self._spans(shards)]
        self._following: Mapping[int, Sequence[int]] = {}
        self._prepared: Counter[int] = Counter()  # records by shard
        self._in_flight: set[int] = set()
        self._lock, self._slots = threading.Lock(), threading.Semaphore(FETCHES_AT_ONCE)

    def _spans(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, int, int]]:
        return zip(shards, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)

    def shards_of(self, rows: IntArray) -> IntArray:
        """The shard [n] of each row [n]."""
        shards: IntArray = np.searchsorted(self.starts, rows, side="right") - 1
        return shards

    def read(self, row: int) -> bytes:
        """Read the encoded image of a row.

        Raises:
            DataError: its shard has changed since it was indexed, or cannot be read.
        """
        record, number = self.records[row], int(self.shards_of(np.array([row]))[0])
        shard, expected = self.files.place.shards[number], int(record["hash"]).to_bytes(HASH_BYTES, "little")
        if self.files.place.is_tar and number not in self._prepared and not self.files.is_here(shard):
            content = self.files.read_part(shard, int(record["offset"]), int(record["size"]))
            if hash_content(content)[:HASH_BYTES] == expected:
                return content
            raise shard_changed(self.files.place, shard)
        for _ in range(MAX_TRIES):
            path = self.files.ensure(shard, self.sizes[number])
            try:
                with path.open("rb") as file:
                    file.seek(int(record["offset"]))
                    content = file.read(int(record["size"]))
            except FileNotFoundError:  # another process has made room just now
                continue
            if hash_content(content)[:HASH_BYTES] == expected:
                return content
            if not self.files.are_copies:
                break
            self.files.remove(shard)
        raise shard_changed(self.files.place, shard)

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | Array | OSError]:
        self.prepare(np.asarray(rows))
        return super().read_many(rows)

    def follow(self, following: Mapping[int, Sequence[int]]) -> None:
        """Let a new epoch begin: once half of the records of shard k are prepared in it, the shards `following[k]` are copied, too.

        Not before, so that there is room for them: what stood before shard k is then no longer read, not even by threads that lag behind.
        """
        with self._lock:
            self._following, self._prepared = following, Counter()

    def prepare(self, rows: IntArray) -> None:
        """Begin to copy the shards of some rows, and those that follow them; reading the rows waits for their own."""
        if not self.files.are_copies:
            return
        wanted, counts = (x.tolist() for x in np.unique(self.shards_of(rows), return_counts=True))
        with self._lock:
            self._prepared.update(dict(zip(wanted, counts, strict=True)))
            halved = [number for number in wanted if 2 * self._prepared[number] >= self.starts[number + 1] - self.starts[number]]
            following = [after for number in halved for after in self._following.get(number, ())]
        self._fetch([*wanted, *following])

    def _fetch(self, shards: Iterable[int]) -> None:
        for number in shards:
            if self.files.is_here(self.files.place.shards[number]):
                continue
            with self._lock:
                is_new = number not in self._in_flight
                self._in_flight.add(number)
            if is_new:
                threading.Thread(target=self._copy, args=(number,), daemon=True, name="goodfit-fetch").start()

    def _copy(self, number: int) -> None:
        try:
            with self._slots:
                self.files.ensure(self.files.place.shards[number], self.sizes[number])
        except Exception:  # whoever reads a record of it tries again, and says what is wrong
            return
        finally:
            with self._lock:
                self._in_flight.discard(number)

    def fingerprint(self) -> str:
        return hash_fields(self.files.place.root, *self.digests)


def shard_changed(place: Place, shard: Shard) -> DataError:
    """The error that a shard is no longer what its index says."""
    return DataError(f'The shard "{shard.name}" of "{place.root}" has changed since it was indexed: start anew.')
