"""Where shards lie: a folder, a file or a pattern, on this machine or at a URL of any system that fsspec knows."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from goodfit.core.errors import DataError, GoodfitError, first_line
from goodfit.core.words import hide_passwords, list_some, natural_order
from goodfit.data.files import open_data_file
from goodfit.data.names import is_data
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.data.store import FileStat

TAR, PARQUET = ".tar", ".parquet"
SHARD_SUFFIXES = (TAR, PARQUET)
STAMPS = ("ETag", "etag", "LastModified", "last_modified", "updated", "generation", "md5Hash", "content_md5", "mtime", "created")
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # of two letters or more: "c:" is a disk
LEVELS = ("*", "*/*", "*/*/*")  # of folders in which shards are looked for


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records: its `name` below the root of the data, its `path`, size in bytes, and `stamp`, which changes with its content."""

    name: str
    path: str
    size: int
    stamp: str

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix


@dataclasses.dataclass(frozen=True)
class Place:
    """The shards of one data set, in natural order, below the path or URL `root`; `system` is that of fsspec where they are not here."""

    root: str
    shards: tuple[Shard, ...]
    system: Any = None

    @property
    def name(self) -> str:
        """A short name, for those of runs."""
        path = PurePosixPath(self.root.rstrip("/"))
        path = path.parent if glob.has_magic(path.name) else path
        return path.stem if path.suffix in SHARD_SUFFIXES else path.name or "shards"

    @property
    def is_tar(self) -> bool:
        return self.shards[0].suffix == TAR

    @contextlib.contextmanager
    def open(self, shard: Shard) -> Iterator[BinaryIO]:
        """Open a shard to be read within the block.

        Raises:
            DataError: it cannot be opened, or read to its end.
        """
        if self.system is None:
            with open_data_file(Path(shard.path)) as file:
                yield file
        else:
            with explain_remote_errors(self.root, shard.name), self.system.open(shard.path, "rb") as file:
                yield file


def is_url(data: str) -> bool:
    """Whether data is named by a URL, such as s3://bucket/shards."""
    return _URL.match(data) is not None


def is_shard_pattern(data: str) -> bool:
    """Whether data is named by a pattern of shards, such as shards/train-*.tar."""
    return glob.has_magic(data) and data.endswith(SHARD_SUFFIXES)


def is_always_streamed(data: str) -> bool:
    """Whether data can only be streamed: at a URL, named by a pattern, or tar shards."""
    path = Path(data).expanduser()
    with contextlib.suppress(OSError):  # such as a name that is too long
        return is_url(data) or is_shard_pattern(data) or (path.suffix == TAR and path.is_file()) or (path.is_dir() and _holds_tar(path))
    return False


def _holds_tar(folder: Path) -> bool:
    """Look for tar files in the folder and up to two folders down; where there are images, too, those are the data."""
    files = itertools.chain.from_iterable(map(folder.glob, LEVELS))
    has_tar = False
    for file in files:
        if file.suffix.lower() in IMAGE_SUFFIXES or file.suffix == PARQUET:
            return False
        has_tar = has_tar or (file.suffix == TAR and is_data(file.name))
    return has_tar


def find_shards(data: str) -> Place:
    """Find the shards at a path or URL, a folder, a file or a pattern.

    Raises:
        DataError: there are none, or of several kinds; the place cannot be read, or fsspec is not installed.
    """
    url = _URL.match(data)
    place = _find_local(data[url.end() :] if url else data) if url is None or url[1].lower() == "file" else _find_remote(data)
    suffixes = {shard.suffix for shard in place.shards}
    if not suffixes:
        raise DataError(f'Expected tar or parquet shards at "{hide_passwords(data)}", found none: give their folder, or a pattern of them.')
    if len(suffixes) > 1:
        names = [next(shard.name for shard in place.shards if shard.suffix == suffix) for suffix in sorted(suffixes)]
        raise DataError(
            f'Expected shards of one kind at "{hide_passwords(data)}", found {list_some(names)}: name those to read by a pattern.'
        )
    return place


def _find_local(data: str) -> Place:
    path = Path(data).expanduser()
    if glob.has_magic(data) and not path.exists():
        root, files = path.parent, [Path(file) for file in glob.glob(str(path))]  # noqa: PTH207  Path.glob takes no absolute pattern
    else:
        root, files = (path, list(path.rglob("*"))) if path.is_dir() else (path.parent, [path])
    names = _sort_names(file.relative_to(root).as_posix() for file in files if file.is_file())
    found = [FileStat.of(name, root) for name in names]
    shards = (Shard(file.name, str(root / file.name), file.size, repr(file.stamp)) for file in found)
    return Place(str(path.resolve()), tuple(shards))


def _find_remote(data: str) -> Place:
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f'Reading "{hide_passwords(data)}" needs fsspec: pip install "goodfit[stream]".') from error
    with explain_remote_errors(data):
        system, path = fsspec.core.url_to_fs(data)
        system.invalidate_cache()
        if glob.has_magic(path):
            root, found = path.rpartition("/")[0], system.glob(path, detail=True)
        elif system.isfile(path):
            root, found = path.rpartition("/")[0], {path: system.info(path)}
        else:
            root, found = path, system.find(path, detail=True)
        facts = {name.removeprefix(root).lstrip("/"): (name, info) for name, info in found.items() if info["type"] == "file"}
        shards = (Shard(name, facts[name][0], int(facts[name][1]["size"]), _stamp(facts[name][1])) for name in _sort_names(facts))
        return Place(data, tuple(shards), system)


def _sort_names(names: Iterator[str] | Mapping[str, Any]) -> list[str]:
    kept = [name for name in names if name.endswith(SHARD_SUFFIXES) and all(map(is_data, PurePosixPath(name).parts))]
    return sorted(kept, key=natural_order)


def _stamp(info: Mapping[str, Any]) -> str:
    """What a system says of a file that changes with its content."""
    return repr([(key, str(info[key])) for key in STAMPS if key in info])


@contextlib.contextmanager
def explain_remote_errors(data: str, name: str = "") -> Iterator[None]:
    """Turn whatever a remote system raises within the block into one sentence.

    Raises:
        DataError: something was raised; errors with a sentence of their own, and want of memory or space, stay.
    """
    try:
        yield
    except (GoodfitError, MemoryError):
        raise
    except Exception as error:  # each system raises errors of its own
        what = f'"{name}" at ' if name else ""
        raise DataError(
            f'{what}"{hide_passwords(data)}" cannot be read ({type(error).__name__}: {first_line(error)}): see whether it is there, and'
            " whether this machine may read it."
        ) from error
