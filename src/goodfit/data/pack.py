"""Prepares every image once and keeps the pixels: a memory map, re-encoded JPEGs when that is too large, or nothing but the check."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from goodfit.core.errors import DataError, GoodfitError
from goodfit.core.files import cache_folder, explain_write_errors, lock, sync_folder, write_atomic
from goodfit.core.words import format_bytes as said_size
from goodfit.data.decode import DECODERS, BrokenImage, said
from goodfit.data.journal import BLOB, Journal
from goodfit.data.pixels import FilePixels, JpegPixels, Kind, Pixels, RawPixels, encode
from goodfit.data.preprocess import Preprocess
from goodfit.data.scan import Survey
from goodfit.data.store import Index, hashed

VERSION = "2"  # raise it when decoding changes: old packs are then not used
PIECE = 32  # images a journal line
SAMPLE = 64  # images that tell how large re-encoded ones are
HASH = 16  # bytes of SHA-256 kept for an image
STALE = 24 * 3600  # seconds after which an unfinished pack is taken for abandoned
SPARE = 64_000_000  # bytes left free on the disk

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """The prepared images: `digest` hashes the content, name and label of every good one; `broken` has the survey's and those that failed
    to decode; `folder` is where they lie; `notes` say how they are stored.
    """

    pixels: Pixels
    digest: str
    broken: dict[int, str]
    folder: Path
    notes: tuple[str, ...]


def pack(survey: Survey, preprocess: Preprocess, cache: int | Kind, workers: int = 0, progress: Progress | None = None) -> Packed:
    """Prepare every image of a survey, or find them prepared by an earlier run with the same files and settings.

    At most `cache` bytes are kept: raw pixels if they fit, else JPEG at the same size, else only the check that all images decode,
    and they are decoded again whenever they are needed. Or `cache` is the kind of storage, whatever it takes. A killed run goes on where
    it stopped.

    Raises:
        DataError: every image is broken.
        GoodfitError: no space is left.
    """
    workers = workers or os.cpu_count() or 1
    key = hashed(VERSION, DECODERS, survey.index.store.stamp(), json.dumps([_settings(preprocess), sorted(survey.broken)]))
    home = cache_folder() / "packed"
    with explain_write_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        kind, notes = (cache, ()) if isinstance(cache, str) else _storage(survey, preprocess, cache, home / f"{key}.sample")
        folder = home / f"{key}-{kind}"
        if not (folder / "pack.json").is_file():
            with lock(home / f"{key}.lock") as held:
                if not (folder / "pack.json").is_file():
                    _clear(home)
                    _fill(survey, preprocess, kind, _Place(folder, bool(held)), workers, progress)
    return _open(survey.index, preprocess, kind, folder, workers, notes)


def _settings(preprocess: Preprocess) -> list[object]:
    """What decides the pixels; mean and std come later, and the size is cut out of the box."""
    return [preprocess.box, preprocess.channels, preprocess.aspect, preprocess.white]


# ---- where to --------------------------------------------------------------------------------------------------------------------


def _storage(survey: Survey, preprocess: Preprocess, limit: int, sample: Path) -> tuple[Kind, tuple[str, ...]]:
    """How to store, and a note when it is not raw pixels."""
    n = len(survey.index)
    raw = n * preprocess.box[0] * preprocess.box[1] * preprocess.channels
    if raw <= limit:
        return "raw", ()
    jpeg = n * _jpeg_bytes(survey, preprocess, sample)
    over = f"The prepared images need {said_size(raw)}, more than the cache limit of {said_size(limit)}"
    if jpeg <= limit:
        return "jpeg", (f"{over}: they are kept as JPEG (about {said_size(jpeg)}) and decoded while training.",)
    return "files", (f"{over}, as JPEG about {said_size(jpeg)}: they are decoded from the source while training, which is slower.",)


def _jpeg_bytes(survey: Survey, preprocess: Preprocess, path: Path) -> float:
    """Mean bytes of a re-encoded image, from a sample; kept at `path`."""
    if path.is_file():
        return float(path.read_text())
    good = np.flatnonzero(survey.good)
    sizes = []
    for row in good[np.unique(np.linspace(0, len(good) - 1, SAMPLE).astype(int))]:
        try:
            sizes.append(len(encode(preprocess.decode(survey.index.store.read(int(row))))))
        except (BrokenImage, OSError):
            continue
    mean = float(np.mean(sizes)) if sizes else 0.0
    write_atomic(path, str(mean))
    return mean


def _clear(home: Path) -> None:
    """Remove the unfinished packs that nobody has worked on for a day: left by killed runs of other data or settings."""
    for folder in home.glob("*partial"):
        with contextlib.suppress(OSError):  # it was finished, or removed by another process, just now
            touched = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - touched > STALE:
                with lock(home / f"{folder.name.partition('-')[0]}.lock", wait=False) as held:
                    if held is not False:  # False: another process has it
                        shutil.rmtree(folder)


# ---- filling -----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Place:
    """The finished folder, and the one it is made in: kept for the next try when this process alone has it, else private."""

    folder: Path
    is_owned: bool

    @property
    def partial(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{'' if self.is_owned else os.getpid()}partial")


def _fill(survey: Survey, preprocess: Preprocess, kind: Kind, place: _Place, workers: int, progress: Progress | None) -> None:
    n = len(survey.index)
    journal = Journal(place.partial)
    try:
        first = sum(piece["n"] for piece in journal.pieces)
        if kind == "raw":
            _check_space(place.partial, (n - first) * preprocess.box[0] * preprocess.box[1] * preprocess.channels)
        for start, content, facts in _made(survey, preprocess, kind, first, workers):
            journal.add(content, facts)
            if progress is not None:
                progress(start + facts["n"], n)
        broken = {row: reason for piece in journal.pieces for row, reason in piece["broken"]}
        hashes = np.frombuffer(bytes.fromhex("".join(piece["hashes"] for piece in journal.pieces)), dtype=np.uint8).reshape(-1, HASH)
        sizes = np.array([size for piece in journal.pieces for size in piece["sizes"]], dtype=np.int64)
        np.save(place.partial / "hashes.npy", hashes)
        np.save(place.partial / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))
        facts = {"version": VERSION, "kind": kind, "n": n, "broken": list(broken.items())}
        write_atomic(place.partial / "pack.json", json.dumps(facts))
        journal.finish()
    finally:
        journal.close()
    if place.folder.exists():
        shutil.rmtree(place.folder)  # a folder without its pack.json: left by an interrupted removal
    place.partial.rename(place.folder)
    sync_folder(place.folder.parent)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise GoodfitError(
            f'No space is left for the prepared images: they need {said_size(needed)} in "{folder.parent}", {said_size(free)} are free; '
            f"free some, or set GOODFIT_CACHE to a folder on another disk."
        )


def _made(survey: Survey, preprocess: Preprocess, kind: Kind, first: int, workers: int) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Pieces in order, a few being made ahead in threads."""
    n = len(survey.index)
    starts = iter(range(first, n, PIECE))
    waiting: deque[tuple[int, Future[tuple[bytes, dict[str, Any]]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="goodfit-pack") as pool:

        def submit() -> None:
            if (start := next(starts, None)) is not None:
                waiting.append((start, pool.submit(_piece, survey, preprocess, kind, range(start, min(start + PIECE, n)))))

        try:
            for _ in range(3 * workers):
                submit()
            while waiting:
                start, future = waiting.popleft()
                content, facts = future.result()
                submit()
                yield start, content, facts
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _piece(survey: Survey, preprocess: Preprocess, kind: Kind, rows: range) -> tuple[bytes, dict[str, Any]]:
    """The stored bytes of some rows, and for each its content's hash and, if it is broken, why."""
    blank = bytes(preprocess.box[0] * preprocess.box[1] * preprocess.channels) if kind == "raw" else b""
    contents, hashes, broken = [], [], []
    for row in rows:
        content, digest = blank, bytes(HASH)
        reason = survey.broken.get(row)
        if reason is None:
            try:
                source = survey.index.store.read(row)
                pixels = preprocess.decode(source)
                digest = _content_hash(source)
                content = pixels.tobytes() if kind == "raw" else encode(pixels) if kind == "jpeg" else b""
            except BrokenImage as error:
                reason = error.reason
            except OSError as error:
                reason = said(error)
        if reason is not None:
            broken.append((row, reason))
        contents.append(content)
        hashes.append(digest)
    facts = {"n": len(rows), "sizes": [len(content) for content in contents], "hashes": b"".join(hashes).hex(), "broken": broken}
    return b"".join(contents), facts


def _content_hash(source: Any) -> bytes:
    content = np.ascontiguousarray(source).data if isinstance(source, np.ndarray) else source
    return hashlib.sha256(content).digest()[:HASH]


def _digest(index: Index, folder: Path, broken: dict[int, str]) -> str:
    """The data's digest: the pack knows the content, the index the names and labels; kept for the next time."""
    path = folder / f"digest-{index.stamp()}.txt"
    if path.is_file():
        return path.read_text()
    hashes = np.load(folder / "hashes.npy")
    total = hashlib.sha256("\0".join(index.classes).encode())
    for row, name in enumerate(index.names):
        if row not in broken:
            total.update(f"\0{name}\0{index.labels[row]}\0".encode("utf-8", "surrogateescape"))
            total.update(hashes[row].tobytes())
    write_atomic(path, total.hexdigest())
    return total.hexdigest()


# ---- opening -----------------------------------------------------------------------------------------------------------------------


def _open(index: Index, preprocess: Preprocess, kind: Kind, folder: Path, workers: int, notes: tuple[str, ...]) -> Packed:
    facts = json.loads((folder / "pack.json").read_text())
    broken = {int(row): reason for row, reason in facts["broken"]}
    n = len(index)
    if len(broken) == n:
        row = min(broken)
        raise DataError(f"All {n} images are broken; the first, {index.names[row]}: {broken[row]}.")
    pixels: Pixels
    if kind == "raw":
        pixels = RawPixels(folder / BLOB, (n, *preprocess.box, preprocess.channels))
    elif kind == "jpeg":
        pixels = JpegPixels(folder / BLOB, np.load(folder / "offsets.npy"), (index.store, preprocess), workers)
    else:
        pixels = FilePixels(index.store, preprocess, n, workers)
    return Packed(pixels, _digest(index, folder, broken), broken, folder, notes)
