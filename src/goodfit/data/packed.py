"""A finished pack: a folder with the stored bytes of all images, what is known of each, and the checksums of both."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodfit.core.cached import read_cached, read_cached_json, write_cached, write_cached_json
from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.files import measure_folder, write_atomic
from goodfit.core.reporter import WARNING, Reporter
from goodfit.core.words import count_of, format_bytes
from goodfit.data.blob import BLOB
from goodfit.data.duplicates import find_originals
from goodfit.data.headers import check_any_usable
from goodfit.data.index import Index, IntArray
from goodfit.data.pixels import FilePixels, JpegPixels, Pixels, RawPixels, Storage, explain_lost_image, store_images
from goodfit.data.preprocess import Preprocess
from goodfit.data.row_checks import RowChecks

HASH_BYTES = 16  # of SHA-256, kept for each image
ROWS, FACTS = "rows.npy", "pack.json"
LIMIT_VARIABLE, DEFAULT_LIMIT_GB = "GOODFIT_CACHE_GB", 8.0
UNFINISHED, REMOVED = "partial", ".removed"  # end the names of folders that are no packs yet, or no more


def row_type(sums: int) -> np.dtype[Any]:
    """What is known of each image: the hash of its source, the size and CRC-32 of its stored bytes, and so many `sums` of its values."""
    return np.dtype([("hash", f"V{HASH_BYTES}"), ("size", "<i8"), ("checksum", "<u4"), ("sums", "<i8", (sums,))])


def hash_content(source: bytes | NDArray[Any]) -> bytes:
    """The hash that is kept of an image as its store reads it."""
    content = np.ascontiguousarray(source).data if isinstance(source, np.ndarray) else source
    return hashlib.sha256(content).digest()[:HASH_BYTES]


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


@dataclasses.dataclass(frozen=True, eq=False)
class Pack:
    """A folder whose `rows` [N] of `row_type` and `broken` rows, each with its reason, were checked; the stored bytes were not yet."""

    folder: Path
    rows: NDArray[Any]
    broken: dict[int, str]

    @property
    def blob(self) -> Path:
        return self.folder / BLOB

    @property
    def offsets(self) -> IntArray:
        """Where the stored bytes of each row begin [N + 1], and the end of the last."""
        offsets: IntArray = np.concatenate([[0], np.cumsum(self.rows["size"])])
        return offsets

    @property
    def hashes(self) -> NDArray[np.uint8]:
        """The hashes of the sources: uint8 [N, HASH_BYTES]."""
        return np.ascontiguousarray(self.rows["hash"]).view(np.uint8).reshape(-1, HASH_BYTES)


def write_facts(folder: Path, name: str, rows: NDArray[Any], broken: dict[int, str]) -> None:
    """Write what is known of the images to a folder that will be the pack `name`."""
    file = io.BytesIO()
    np.save(file, rows)
    write_atomic(folder / ROWS, file.getvalue())
    facts = {"name": name, "bytes": int(rows["size"].sum()), "rows": zlib.crc32(file.getvalue()), "broken": list(broken.items())}
    write_cached_json(folder / FACTS, facts)


def open_pack(folder: Path, reporter: Reporter) -> Pack | None:
    """Open a pack; None where there is none, or where it is damaged, which is reported.

    The files are checked but for the stored bytes, of which only the number is.
    """
    if not os.path.lexists(folder):
        return None
    facts = read_cached_json(folder / FACTS)
    if facts is not None and facts["name"] == folder.name and (folder / ROWS).is_file() and (folder / BLOB).is_file():
        with contextlib.suppress(OSError):
            content = (folder / ROWS).read_bytes()
            if zlib.crc32(content) == facts["rows"] and (folder / BLOB).stat().st_size == facts["bytes"]:
                _mark_use(folder)
                return Pack(folder, np.load(io.BytesIO(content)), {int(row): reason for row, reason in facts["broken"]})
    if os.path.lexists(folder):  # unless another process has removed it meanwhile
        reporter.say(f'{WARNING}"{folder}" in the cache is damaged: the images are prepared anew.')
    return None


def read_machine_limit() -> float:
    """How many bytes all packs together may take on this machine: $GOODFIT_CACHE_GB gigabytes, which no recipe changes.

    Raises:
        UsageError: it is no number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
    with contextlib.suppress(ValueError):
        if (limit := float(text)) > 0:
            return limit * 1e9
    raise UsageError(f'Expected the gigabytes of the cache in {LIMIT_VARIABLE} as a number above 0, such as 8, received "{text}".')


def make_room(home: Path, needed: int, limit: float, reporter: Reporter) -> None:
    """Remove the packs of a folder that were not used for the longest time, until they and `needed` bytes more take at most `limit`.

    Where nothing is needed, or more than the limit, which no room helps, none is removed. A process that uses one of them keeps what it
    has mapped into memory, or the system does not let it go. What is not finished stays.
    """
    for path in home.glob(f".*{REMOVED}"):  # by a process that was killed meanwhile
        shutil.rmtree(path, ignore_errors=True)
    if not 0 < needed <= limit:
        return
    packs = sorted((path for path in home.glob("*-*") if path.is_dir() and not path.name.endswith(UNFINISHED)), key=_last_use)
    sizes = [measure_folder(path) for path in packs]
    removed: list[int] = []
    for path, size in zip(packs, sizes, strict=True):
        if sum(sizes) - sum(removed) + needed <= limit:
            break
        with contextlib.suppress(OSError):  # another process has removed it, or uses it
            shutil.rmtree(path.rename(path.with_name(f".{path.name}{REMOVED}")))
            removed.append(size)
    if removed:
        reporter.say(
            f"Removed {count_of(len(removed), 'packed data set')} not used for the longest time ({format_bytes(sum(removed))}):"
            f" all together may take {format_bytes(limit)} ({LIMIT_VARIABLE})."
        )


def _mark_use(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not ours to write
        os.utime(folder / FACTS)


def _last_use(folder: Path) -> float:
    """When a pack was used last; 0 for one that is damaged."""
    try:
        return (folder / FACTS).stat().st_mtime
    except OSError:
        return 0.0


# ---- its images ----------------------------------------------------------------------------------------------------------------


def load_pack(
    pack: Pack, index: Index, preprocess: Preprocess, storage: Storage, workers: int, reporter: Reporter, notes: tuple[str, ...]
) -> PackedImages:
    """Give the images of a pack for the index whose images it was made of, and the preprocessing and storage it was made with.

    Raises:
        DataError: every image is broken.
    """
    check_any_usable(index, pack.broken)
    offsets, usable = pack.offsets, np.ones(len(index), dtype=bool)
    usable[list(pack.broken)] = False
    restore = functools.partial(_restore_row, index, preprocess, storage, pack)
    checks = RowChecks(pack.blob, offsets[:-1], pack.rows["checksum"].copy(), restore, reporter)
    pixels: Pixels
    if storage == "raw":
        pixels = RawPixels(pack.blob, (len(index), *preprocess.box, preprocess.channels), checks)
    elif storage == "jpeg":
        pixels = JpegPixels(pack.blob, offsets, checks, index, preprocess, workers)
    else:
        pixels = FilePixels(index, preprocess, workers)
    digest, originals = _hash_dataset(index, pack, usable, reporter), find_originals(pack.hashes, usable)
    return PackedImages(pixels, digest, pack.broken, originals, pack.rows["sums"], notes)


def _restore_row(index: Index, preprocess: Preprocess, storage: Storage, pack: Pack, row: int) -> bytes:
    """Prepare the stored bytes of a row anew.

    Raises:
        DataError: the source is no longer what was packed.
    """
    if row in pack.broken:
        image = np.zeros((*preprocess.box, preprocess.channels), dtype=np.uint8)
    else:
        with explain_lost_image(index.names[row]):
            image = preprocess.decode(index.store.read(row))
    content = store_images(image[None], storage, {0} if row in pack.broken else set())[0]
    if zlib.crc32(content) != pack.rows["checksum"][row]:
        raise DataError(
            f'The prepared pixels of "{index.names[row]}" in "{pack.folder}" are damaged, and the image itself has changed since they were'
            " made: start anew."
        )
    return content


def _hash_dataset(index: Index, pack: Pack, usable: NDArray[np.bool_], reporter: Reporter) -> str:
    """Hash the content, from the pack, with the names and labels, from the index; the result is kept for the next time."""
    path = pack.folder / f"digest-{index.fingerprint()}.txt"
    if (known := read_cached(path, reporter)) is not None:
        return known.decode()
    total = hashlib.sha256("\0".join(index.classes).encode(errors="surrogatepass"))
    contents = pack.hashes.view(f"V{HASH_BYTES}")[:, 0]
    answers = (index.labels if index.targets is None else index.targets).tolist()
    for row, (name, label, content) in enumerate(zip(index.names, answers, contents, strict=True)):
        if usable[row]:
            total.update(f"\0{name}\0{label}\0".encode(errors="surrogatepass") + content.tobytes())
    if pack.folder.is_dir():  # unless another process has removed it, where writing would make a folder that is no pack
        with contextlib.suppress(GoodfitError):  # a cache that cannot be written: computed again next time
            write_cached(path, total.hexdigest().encode())
    return total.hexdigest()
