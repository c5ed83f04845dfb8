"""Prepares every image once and keeps the pixels: as a memory map, as re-encoded JPEGs if that is too large, or not at all."""

from __future__ import annotations

import base64
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
from numpy.typing import NDArray

from goodfit.core.errors import GoodfitError
from goodfit.core.files import cache_folder, explain_write_errors, lock, sync_folder, write_atomic
from goodfit.core.words import format_bytes
from goodfit.data.blob import BLOB, BlobWriter
from goodfit.data.duplicates import find_originals
from goodfit.data.headers import ImageHeaders, check_any_usable
from goodfit.data.index import Index, IntArray
from goodfit.data.opening import DECODER_VERSIONS, BrokenImage, explain_decode_error
from goodfit.data.pixels import FilePixels, JpegPixels, Pixels, RawPixels, Storage, encode_jpeg
from goodfit.data.preprocess import Preprocess
from goodfit.data.statistics import sum_images
from goodfit.data.store import hash_fields

PACK_VERSION = "4"  # raise it when decoding changes, so that packs made before are not used
IMAGES_PER_PIECE, PIXELS_PER_PIECE = (32, 512), 300_000  # prepared by a thread at once: so many pixels, within those images
JPEG_SAMPLE_IMAGES = 64  # re-encoded to estimate the size of all
HASH_BYTES = 16  # of SHA-256, kept for each image
ABANDONED_AFTER_SECONDS = 24 * 3600  # an unfinished pack that nobody has worked on
RESERVED_BYTES = 64_000_000  # left free on the disk

PackProgress = Callable[[int, int], None]  # (images done, images in all)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedImages:
    """The prepared images.

    `digest` hashes the content, name and label of every good one; `broken` gives the reason for each row whose header or pixels cannot be
    decoded; `originals` [N] are the first rows with the same bytes (`duplicates.find_originals`); `sums` are those of each image's values
    and products (`statistics.sum_images`); `notes` say how the images are stored.
    """

    pixels: Pixels
    digest: str
    broken: dict[int, str]
    originals: IntArray
    sums: NDArray[np.int64]
    notes: tuple[str, ...]


def pack_images(
    headers: ImageHeaders, preprocess: Preprocess, cache: int | Storage, workers: int = 0, progress: PackProgress | None = None
) -> PackedImages:
    """Prepare every image, or find them prepared by an earlier run with the same files and settings. A killed run resumes where it stopped.

    At most `cache` bytes are kept: raw pixels if they fit, else JPEG at the same size, else nothing: then all images are decoded once to
    find the broken ones, and again whenever they are needed. If `cache` names a kind of storage, that is used, however large.

    Raises:
        DataError: every image is broken.
        GoodfitError: no space is left.
    """
    workers = workers or os.cpu_count() or 1
    settings = json.dumps([_pixel_settings(preprocess), sorted(headers.broken)])
    key = hash_fields(PACK_VERSION, DECODER_VERSIONS, headers.index.store.fingerprint(), settings)
    home = cache_folder() / "packed"
    with explain_write_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        storage, notes = (cache, ()) if isinstance(cache, str) else _choose_storage(headers, preprocess, cache, home / f"{key}.sample")
        folder = home / f"{key}-{storage}"
        if not (folder / "pack.json").is_file():
            with lock(home / f"{key}.lock") as held:
                if not (folder / "pack.json").is_file():
                    _remove_abandoned(home)
                    _write_pack(headers, preprocess, storage, _Target(folder, bool(held)), workers, progress)
    return _open_pack(headers.index, preprocess, storage, folder, workers, notes)


def _pixel_settings(preprocess: Preprocess) -> list[object]:
    """The settings that the stored pixels depend on: mean and std are applied later, and the size is cropped from the box."""
    return [preprocess.box, preprocess.channels, preprocess.aspect, preprocess.white_level]


# ---- choosing the storage --------------------------------------------------------------------------------------------------------


def _choose_storage(headers: ImageHeaders, preprocess: Preprocess, limit: int, sample: Path) -> tuple[Storage, tuple[str, ...]]:
    """Choose how to store at most `limit` bytes; a note explains anything but raw pixels."""
    n = len(headers.index)
    raw = n * _box_bytes(preprocess)
    if raw <= limit:
        return "raw", ()
    jpeg = n * _measure_jpeg_bytes(headers, preprocess, sample)
    excess = f"The prepared images need {format_bytes(raw)}, more than the cache limit of {format_bytes(limit)}"
    if jpeg <= limit:
        return "jpeg", (f"{excess}: they are kept as JPEG (about {format_bytes(jpeg)}) and decoded while training.",)
    return "files", (f"{excess}, as JPEG about {format_bytes(jpeg)}: they are decoded from the source while training, which is slower.",)


def _box_bytes(preprocess: Preprocess) -> int:
    return preprocess.box[0] * preprocess.box[1] * preprocess.channels


def _measure_jpeg_bytes(headers: ImageHeaders, preprocess: Preprocess, path: Path) -> float:
    """Measure the mean bytes of a re-encoded image on a sample; the result is kept at `path`."""
    if path.is_file():
        return float(path.read_text(encoding="utf-8"))
    usable = np.flatnonzero(headers.usable)
    sizes = []
    for row in usable[np.unique(np.linspace(0, len(usable) - 1, JPEG_SAMPLE_IMAGES).astype(int))]:
        with contextlib.suppress(BrokenImage, OSError):
            sizes.append(len(encode_jpeg(preprocess.decode(headers.index.store.read(int(row))))))
    mean = float(np.mean(sizes)) if sizes else 0.0
    write_atomic(path, str(mean))
    return mean


def _remove_abandoned(home: Path) -> None:
    """Remove unfinished packs that killed runs of other data or settings have left behind."""
    for folder in home.glob("*partial"):
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
        return self.folder.with_name(f"{self.folder.name}.{'' if self.is_locked else os.getpid()}partial")


def _write_pack(
    headers: ImageHeaders, preprocess: Preprocess, storage: Storage, target: _Target, workers: int, progress: PackProgress | None
) -> None:
    n = len(headers.index)
    blob = BlobWriter(target.partial)
    try:
        first = sum(piece["n"] for piece in blob.pieces)
        if storage == "raw":
            _check_space(target.partial, (n - first) * _box_bytes(preprocess))
        for start, content, facts in _prepare_pieces(headers, preprocess, storage, first, workers):
            blob.add(content, facts)
            if progress is not None:
                progress(start + facts["n"], n)
        broken = {row: reason for piece in blob.pieces for row, reason in piece["broken"]}
        hashes = np.frombuffer(b"".join(base64.b64decode(piece["hashes"]) for piece in blob.pieces), dtype=np.uint8)
        sums = np.frombuffer(b"".join(base64.b64decode(piece["sums"]) for piece in blob.pieces), dtype=np.int64)
        sizes = np.array([size for piece in blob.pieces for size in piece["sizes"]], dtype=np.int64)
        np.save(target.partial / "hashes.npy", hashes.reshape(n, HASH_BYTES))
        np.save(target.partial / "sums.npy", sums.reshape(n, -1))
        np.save(target.partial / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))
        facts = {"version": PACK_VERSION, "kind": storage, "n": n, "broken": list(broken.items())}
        write_atomic(target.partial / "pack.json", json.dumps(facts))
        blob.finish()
    finally:
        blob.close()
    if target.folder.exists():
        shutil.rmtree(target.folder)  # a folder without its pack.json, left by an interrupted removal
    target.partial.rename(target.folder)
    sync_folder(target.folder.parent)


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
                hashes[place] = _hash_content(source)
            except BrokenImage as error:
                reason = error.reason
            except OSError as error:
                reason = explain_decode_error(error)
        if reason is not None:
            broken.append((row, reason))
    contents = _store_images(images, storage, {row - rows.start for row, _ in broken})
    sizes = [len(content) for content in contents]
    facts = {"n": len(rows), "sizes": sizes, "hashes": _encode(b"".join(hashes)), "sums": _encode(sum_images(images)), "broken": broken}
    return b"".join(contents), facts


def _store_images(images: NDArray[np.uint8], storage: Storage, broken: set[int]) -> list[bytes]:
    """The stored bytes of images [N, H, W, C]; broken ones are black if pixels are kept, and nothing elsewhere."""
    if storage == "jpeg":
        return [b"" if place in broken else encode_jpeg(image) for place, image in enumerate(images)]
    return [image.tobytes() if storage == "raw" else b"" for image in images]


def _encode(content: Any) -> str:
    return base64.b64encode(content).decode()


def _hash_content(source: Any) -> bytes:
    content = np.ascontiguousarray(source).data if isinstance(source, np.ndarray) else source
    return hashlib.sha256(content).digest()[:HASH_BYTES]


# ---- opening -----------------------------------------------------------------------------------------------------------------------


def _open_pack(index: Index, preprocess: Preprocess, storage: Storage, folder: Path, workers: int, notes: tuple[str, ...]) -> PackedImages:
    facts = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    broken = {int(row): reason for row, reason in facts["broken"]}
    check_any_usable(index, broken)
    n = len(index)
    pixels: Pixels
    if storage == "raw":
        pixels = RawPixels(folder / BLOB, (n, *preprocess.box, preprocess.channels))
    elif storage == "jpeg":
        pixels = JpegPixels(folder / BLOB, np.load(folder / "offsets.npy"), (index.store, preprocess), workers)
    else:
        pixels = FilePixels(index.store, preprocess, n, workers)
    hashes, usable = np.load(folder / "hashes.npy"), np.ones(n, dtype=bool)
    usable[list(broken)] = False
    digest, originals = _hash_dataset(index, folder, hashes, usable), find_originals(hashes, usable)
    return PackedImages(pixels, digest, broken, originals, np.load(folder / "sums.npy"), notes)


def _hash_dataset(index: Index, folder: Path, hashes: NDArray[np.uint8], usable: NDArray[np.bool_]) -> str:
    """Hash the content, from the pack, with the names and labels, from the index; the result is kept for the next time."""
    path = folder / f"digest-{index.fingerprint()}.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    total = hashlib.sha256("\0".join(index.classes).encode(errors="surrogatepass"))
    for row, (name, label, content) in enumerate(zip(index.names, index.labels.tolist(), hashes.view(f"V{HASH_BYTES}"), strict=True)):
        if usable[row]:
            total.update(f"\0{name}\0{label}\0".encode(errors="surrogatepass") + content.tobytes())
    write_atomic(path, total.hexdigest())
    return total.hexdigest()
