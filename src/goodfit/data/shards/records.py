"""The records of a tar shard in WebDataset's layout: members of one key stand together, an image beside its label."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from goodfit.core.errors import DataError, first_line
from goodfit.core.words import list_some
from goodfit.data.files import MAX_FILE_BYTES
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.data.parquet import LABEL_COLUMNS

CLASS_SUFFIX, JSON_SUFFIX = "cls", "json"
LAYOUT = "pairs such as 000123.jpg and 000123.cls (a number or a name), or 000123.json with a label"
MAX_LABEL_BYTES = 1 << 20
NO_LABEL = "it has no label"


@dataclasses.dataclass(frozen=True)
class Record:
    """An image with its `key` and `label`, a text; its `content` lies `offset` bytes into the shard. What is broken has a `reason`."""

    key: str
    label: str = ""
    offset: int = 0
    content: bytes = b""
    reason: str = ""


def read_tar(file: BinaryIO, place: str) -> Iterator[Record]:
    """Read the records of a tar that is open; `place` names it in errors. What a torn tar lacks comes as a last record with a reason.

    Raises:
        DataError: it is no tar, is compressed, or is of another layout.
    """
    labeled, members = 0, _list_members(file, place)
    first: list[str] = []
    for key, group in itertools.groupby(members, key=lambda member: split_key(member.name)[0]):
        record = _read_record(file, key, list(group))
        if record is not None:
            labeled += record.reason != NO_LABEL
            first = [*first, record.key] if len(first) < 3 else first
            yield record
    if first and not labeled:
        raise DataError(f'Expected {LAYOUT} in "{place}", found {list_some(first)} without one: unpack a tar of class folders.')


def split_key(name: str) -> tuple[str, str]:
    """The key of a member, its path up to the first dot of the file name, and the suffix behind it in lower case.

    Source: WebDataset, base_plus_ext.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


@dataclasses.dataclass(frozen=True)
class _Member:
    """A file within a tar: its bytes lie from `offset` on; the `size` is -1 where the tar ends within them."""

    name: str
    offset: int
    size: int


def _list_members(file: BinaryIO, place: str) -> Iterator[_Member]:
    """List the files of a tar in their order; one that it ends within comes with a size of -1, whatever is cut off with it."""
    end = file.seek(0, 2)
    file.seek(0)
    last = ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # which keeps them all
                last = member.name
                is_whole = member.offset_data + member.size <= end
                if member.isfile():
                    yield _Member(member.name, member.offset_data, member.size if is_whole else -1)
                if not is_whole:
                    return
            archive_end = archive.offset
    except tarfile.TarError as error:
        if last:
            yield _Member(f"what follows {last}", 0, -1)
            return
        raise DataError(
            f'"{place}" is no tar, or is compressed ({first_line(error)}): shards are plain .tar files, not .tar.gz.'
        ) from error
    file.seek(archive_end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):  # a whole archive ends in zeros
        yield _Member(f"what follows {last}", 0, -1)


def _read_record(file: BinaryIO, key: str, members: Iterable[_Member]) -> Record | None:
    """The record of the members of one key; None where they are of no image, such as a list of files."""
    members = list(members)
    if torn := next((member for member in members if member.size < 0), None):
        return Record(key if torn.offset else torn.name, reason="the shard is torn: it ends here")
    by_suffix = {split_key(member.name)[1]: member for member in members}
    images = [member for suffix, member in by_suffix.items() if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    label, reason = _read_label(file, by_suffix)
    if len(images) != 1 or len(by_suffix) < len(members):
        if not images and not label:
            return None
        found = "no image" if not images else f"{len(images)} images" if len(images) > 1 else "two members of one name"
        return Record(key, label, reason=f"it has {found}")
    image = images[0]
    if image.size > min(MAX_FILE_BYTES, 1 << 31) - 1:
        return Record(key, label, reason="it is too large for an image")
    return Record(key, label, image.offset, _read_bytes(file, image), reason)


def _read_label(file: BinaryIO, members: dict[str, _Member]) -> tuple[str, str]:
    """The label of a record, from its .cls, else its .json; and why there is none."""
    member = members.get(CLASS_SUFFIX) or members.get(JSON_SUFFIX)
    if member is None or member.size > MAX_LABEL_BYTES:
        return "", NO_LABEL
    try:
        text = _read_bytes(file, member).decode()
        value: Any = text.strip() if CLASS_SUFFIX in members else _find_label(json.loads(text))
    except (ValueError, RecursionError) as error:
        return "", f"its label cannot be read ({first_line(error)})"
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not value.is_integer()):
        return "", NO_LABEL if value is None else "its label is not one name or number"
    return str(int(value)) if isinstance(value, bool) else str(value), "" if str(value).strip() else NO_LABEL


def _find_label(content: Any) -> Any:
    """The label in the JSON of a record, which may be the label itself."""
    if not isinstance(content, dict):
        return content
    return next((content[name] for name in (*LABEL_COLUMNS, CLASS_SUFFIX) if name in content), None)


def _read_bytes(file: BinaryIO, member: _Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
