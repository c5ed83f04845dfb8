"""Prepares every image once and keeps the pixels: as a memory map, as re-encoded JPEGs if that is too large, or not at all."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import json
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from goodfit.core.cached import read_cached, write_cached
from goodfit.core.errors import GoodfitError
from goodfit.core.files import cache_folder, explain_write_errors, lock, machine_name, remove, sync_folder
from goodfit.core.reporter import Reporter, SilentReporter
from goodfit.core.words import format_bytes
from goodfit.data.blob import JOURNAL, BlobWriter
from goodfit.data.headers import ImageHeaders
from goodfit.data.opening import DECODER_VERSIONS, BrokenImage, explain_decode_error
from goodfit.data.packed import (
    HASH_BYTES,
    UNFINISHED,
    Pack,
    PackedImages,
    hash_content,
    load_pack,
    make_room,
    open_pack,
    read_machine_limit,
    row_type,
    write_facts,
)
from goodfit.data.pixels import Storage, encode_jpeg, store_images
from goodfit.data.preprocess import Preprocess
from goodfit.data.relinked import keep_pack, remember_pack
from goodfit.data.statistics import sum_images
from goodfit.data.store import hash_fields

PACK_VERSION = "5"  # raise it when decoding or the files of a pack change, so that packs made before are not used
IMAGES_PER_PIECE, PIXELS_PER_PIECE = (32, 512), 300_000  # prepared by a thread at once: so many pixels, within those images
JPEG_SAMPLE_IMAGES = 64  # re-encoded to estimate the size of all
ABANDONED_AFTER_SECONDS = 24 * 3600  # an unfinished pack that nobody has worked on
RESERVED_BYTES = 64_000_000  # left free on the disk


@dataclasses.dataclass(frozen=True)
class CacheLimit:
    """How many bytes the prepared images of a data set may take, and how they are stored.

    "auto" is raw pixels if they fit, else JPEG at the same size, else nothing.
    """

    n_bytes: int
    storage: Storage | Literal["auto"] = "auto"


def pack_images(
    headers: ImageHeaders, preprocess: Preprocess, cache: CacheLimit, workers: int = 0, reporter: Reporter | None = None
) -> PackedImages:
    """Prepare every image, or find them prepared by an earlier run with the same files and settings. A killed run resumes where it stopped.

    If nothing is stored, all images are decoded once to find the broken ones, and again whenever they are needed. A storage that is named
    is used however large it is. What is packed anew takes the place of the packs that were not used for the longest time, where all
    together would take more than this machine's limit (`packed.read_machine_limit`). What is damaged is packed anew. Both are reported.

    Raises:
        DataError: every image is broken.
        GoodfitError: no space is left.
        UsageError: the machine's limit is no number.
    """
    workers, reporter = workers or os.cpu_count() or 1, reporter or SilentReporter()

    def load() -> PackedImages:
        pack, storage, notes = _find_pack(headers, preprocess, cache, workers, reporter)
        return load_pack(pack, headers.index, preprocess, storage, workers, reporter, notes)

    try:
        return load()
    except FileNotFoundError:  # another process has made room in the cache just now
        return load()


def _find_pack(
    headers: ImageHeaders, preprocess: Preprocess, cache: CacheLimit, workers: int, reporter: Reporter
) -> tuple[Pack, Storage, tuple[str, ...]]:
    """Find the pack of the images, or make it; how it is stored, and notes on that. Raises as `pack_images`."""
    store = headers.index.store
    key, location = (_hash_pack(headers, preprocess, files) for files in (store.fingerprint(), store.location()))
    home = cache_folder() / "packed"
    with explain_write_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        storage, needed, notes = choose_storage(headers, preprocess, cache, reporter)
        folder, note = home / f"{key}-{storage}", home / f"{location}.pack"
        pack = open_pack(folder, reporter)
        if pack is None:
            with lock(home / f"{key}.lock") as held:
                pack = open_pack(folder, SilentReporter())  # another process may have packed them meanwhile
                pack = pack or keep_pack(note, folder, headers, preprocess, reporter)
                if pack is None:
                    if open_pack(folder, SilentReporter()) is None:  # another machine, which no lock reaches, may have finished it just now
                        remove(folder)
                    _remove_abandoned(home)
                    make_room(home, needed, read_machine_limit(), reporter)
                    pack = _write_pack(headers, preprocess, storage, _Target(folder, bool(held)), workers, reporter)
        remember_pack(note, folder, reporter)
    return pack, storage, notes


def _hash_pack(headers: ImageHeaders, preprocess: Preprocess, files: str) -> str:
    """Hash what the stored pixels depend on; `files` is that of the files of the images."""
    return hash_fields(PACK_VERSION, DECODER_VERSIONS, files, json.dumps([_pixel_settings(preprocess), sorted(headers.broken)]))


def _pixel_settings(preprocess: Preprocess) -> list[object]:
    """The settings that the stored pixels depend on: mean and std are applied later, and the size is cropped from the box."""
    return [preprocess.box, preprocess.channels, preprocess.aspect, preprocess.white_level]


# ---- choosing the storage --------------------------------------------------------------------------------------------------------


def choose_storage(
    headers: ImageHeaders, preprocess: Preprocess, cache: CacheLimit, reporter: Reporter
) -> tuple[Storage, int, tuple[str, ...]]:
    """Choose how to store the images, and say how many bytes that takes; a note explains anything but raw pixels that was not asked for."""
    n = len(headers.index)
    raw = n * _box_bytes(preprocess)
    if cache.storage == "raw" or (cache.storage == "auto" and raw <= cache.n_bytes):
        return "raw", raw, ()
    if cache.storage == "files":
        return "files", 0, ()
    sample = cache_folder() / "packed" / f"{_hash_pack(headers, preprocess, headers.index.store.fingerprint())}.sample"
    jpeg = int(n * _measure_jpeg_bytes(headers, preprocess, sample, reporter))
    if cache.storage == "jpeg":
        return "jpeg", jpeg, ()
    excess = f"The prepared images need {format_bytes(raw)}, more than the cache limit of {format_bytes(cache.n_bytes)}"
    if jpeg <= cache.n_bytes:
        return "jpeg", jpeg, (f"{excess}: they are kept as JPEG (about {format_bytes(jpeg)}) and decoded while training.",)
    note = f"{excess}, as JPEG about {format_bytes(jpeg)}: they are decoded from the source while training, which is slower."
    return "files", 0, (note,)


def _box_bytes(preprocess: Preprocess) -> int:
    return preprocess.box[0] * preprocess.box[1] * preprocess.channels


def _measure_jpeg_bytes(headers: ImageHeaders, preprocess: Preprocess, path: Path, reporter: Reporter) -> float:
    """Measure the mean bytes of a re-encoded image on a sample; the result is kept at `path`."""
    if (known := read_cached(path, reporter)) is not None:
        return float(known)
    usable = np.flatnonzero(headers.usable)
    sizes = []
    for row in usable[np.unique(np.linspace(0, len(usable) - 1, JPEG_SAMPLE_IMAGES).astype(int))]:
        with contextlib.suppress(BrokenImage, OSError):
            sizes.append(len(encode_jpeg(preprocess.decode(headers.index.store.read(int(row))))))
    mean = float(np.mean(sizes)) if sizes else 0.0
    write_cached(path, str(mean).encode())
    return mean


def _remove_abandoned(home: Path) -> None:
    """Remove unfinished packs that killed runs of other data or settings have left behind."""
    for folder in home.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):  # it was finished, or removed by another process, just now
            changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - changed > ABANDONED_AFTER_SECONDS:
                with lock(home / f"{folder.name.partition('-')[0]}.lock", wait=False) as held:
                    if held is not False:  # False: another process has it
                        shutil.rmtree(folder)


# ---- writing ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Target:
    """The finished folder, and the partial one it is written in, which a later try can resume if this process has its lock."""

    folder: Path
    is_locked: bool

    @property
    def partial(self) -> Path:
        owner = machine_name() + ("" if self.is_locked else f".{os.getpid()}")  # a lock may not reach another machine
        return self.folder.with_name(f"{self.folder.name}.{owner}.{UNFINISHED}")


def _write_pack(headers: ImageHeaders, preprocess: Preprocess, storage: Storage, target: _Target, workers: int, reporter: Reporter) -> Pack:
    n = len(headers.index)
    blob = BlobWriter(target.partial)
    try:
        first = sum(piece["n"] for piece in blob.pieces)
        if storage == "raw":
            _check_space(target.partial, (n - first) * _box_bytes(preprocess))
        for start, content, facts in _prepare_pieces(headers, preprocess, storage, first, workers):
            blob.add(content, facts)
            reporter.show_packing(start + facts["n"], n)
        broken = {row: reason for piece in blob.pieces for row, reason in piece["broken"]}
        rows = np.frombuffer(b"".join(base64.b64decode(piece["rows"]) for piece in blob.pieces), dtype=_row_type(preprocess))
        blob.finish()
        write_facts(target.partial, target.folder.name, rows, broken)
    finally:
        blob.close()
    try:
        target.partial.rename(target.folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(target.partial)  # another machine has packed the same
    sync_folder(target.folder.parent)
    (target.folder / JOURNAL).unlink(missing_ok=True)
    return Pack(target.folder, rows, broken)


def _row_type(preprocess: Preprocess) -> np.dtype[Any]:
    return row_type(sum_images(np.zeros((1, 1, 1, preprocess.channels), dtype=np.uint8)).shape[1])


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + RESERVED_BYTES > free:
        raise GoodfitError(
            f'No space is left for the prepared images: they need {format_bytes(needed)} in "{folder.parent}", '
            f"{format_bytes(free)} are free; free some, or set GOODFIT_CACHE to a folder on another disk."
        )


def _prepare_pieces(
    headers: ImageHeaders, preprocess: Preprocess, storage: Storage, first: int, workers: int
) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yield pieces in order from row `first` on: their first row, stored bytes and facts; threads prepare a few ahead."""
    n, step = len(headers.index), images_per_piece(headers, preprocess.box)
    starts = iter(range(first, n, step))
    pending: deque[tuple[int, Future[tuple[bytes, dict[str, Any]]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="goodfit-pack") as pool:

        def submit() -> None:
            if (start := next(starts, None)) is not None:
                rows = range(start, min(start + step, n))
                pending.append((start, pool.submit(_prepare_piece, headers, preprocess, storage, rows)))

        try:
            for _ in range(3 * workers):
                submit()
            while pending:
                start, future = pending.popleft()
                content, facts = future.result()
                submit()
                yield start, content, facts
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def images_per_piece(headers: ImageHeaders, box: tuple[int, int]) -> int:
    """How many images a thread prepares at once: fewer large ones, so that they fit into memory and a killed packing loses little."""
    median = np.median((headers.widths * headers.heights)[headers.usable])
    return int(np.clip(PIXELS_PER_PIECE // max(median, box[0] * box[1]), *IMAGES_PER_PIECE))


def _prepare_piece(headers: ImageHeaders, preprocess: Preprocess, storage: Storage, rows: range) -> tuple[bytes, dict[str, Any]]:
    """Return the stored bytes of rows, and for each row its size, the hash of its source, its sums and, if it is broken, the reason."""
    images = np.zeros((len(rows), *preprocess.box, preprocess.channels), dtype=np.uint8)
    hashes, broken = [bytes(HASH_BYTES)] * len(rows), []
    for place, (row, source) in enumerate(zip(rows, headers.index.store.read_many(rows), strict=True)):
        reason = headers.broken.get(row)
        if reason is None:
            try:
                if isinstance(source, OSError):
                    raise source
                images[place] = preprocess.decode(source)
                hashes[place] = hash_content(source)
            except BrokenImage as error:
                reason = error.reason
            except OSError as error:
                reason = explain_decode_error(error)
        if reason is not None:
            broken.append((row, reason))
    contents, sums = store_images(images, storage, {row - rows.start for row, _ in broken}), sum_images(images)
    known = np.empty(len(rows), dtype=row_type(sums.shape[1]))
    known["hash"], known["sums"] = np.frombuffer(b"".join(hashes), dtype=f"V{HASH_BYTES}"), sums
    known["size"], known["checksum"] = [*map(len, contents)], [*map(zlib.crc32, contents)]
    return b"".join(contents), {"n": len(rows), "rows": base64.b64encode(known.tobytes()).decode(), "broken": broken}
