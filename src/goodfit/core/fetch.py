"""Fetches files from the internet once: an interrupted download resumes where it stopped, and the file's checksum is verified."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from goodfit.core.errors import DataError
from goodfit.core.files import explain_write_errors, lock, sync_folder

Say = Callable[[str], None]
Algorithm = Literal["md5", "sha256"]
ALGORITHM_NAMES: dict[Algorithm, str] = {"md5": "MD5", "sha256": "SHA-256"}
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416  # HTTP status codes


def fetch(url: str, path: Path, checksum: str, algorithm: Algorithm, say: Say) -> str:
    """Fetch the file of `url` to `path` unless it is there, and return its checksum; `checksum` may be only its first digits.

    An incomplete file stays in `<path>.part`.

    Raises:
        DataError: it cannot be fetched, and the message tells which file to put where; or its checksum is wrong.
        GoodfitError: no space is left, or the folder cannot be written.
    """
    if not path.is_file():
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():  # another process may have fetched it meanwhile
                say(f"Fetching {url}")
                _download(url, path)
    actual = hash_file(path, algorithm)
    if not actual.startswith(checksum):
        raise DataError(
            f'"{path}" is damaged ({ALGORITHM_NAMES[algorithm]} {actual}, expected {checksum}): remove it and fetch it again from {url}.'
        )
    return actual


def hash_file(path: Path, algorithm: Algorithm = "sha256") -> str:
    """Compute the checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _download(url: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        _resume_download(url, part)
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", None) or error).rstrip(".")
        kept = f"; {part.stat().st_size:,} bytes have arrived and are kept" if part.is_file() and part.stat().st_size else ""
        raise DataError(f'"{url}" cannot be fetched ({reason}{kept}): put that file at "{path}" and run the same command again.') from error
    part.replace(path)
    sync_folder(path.parent)


def _resume_download(url: str, part: Path) -> None:
    """Fetch what a partial file lacks, or all of it if the server does not support ranges."""
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"}) if start else url
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # it has the size of the whole file or more, and may be another file
        reply = urllib.request.urlopen(url, timeout=60)
    with reply:
        missing, mode = getattr(reply, "length", None), "ab" if start and _continues(reply, start) else "wb"
        with explain_write_errors(part), part.open(mode) as file:
            while piece := reply.read(1 << 20):
                file.write(piece)
                missing = None if missing is None else missing - len(piece)
            file.flush()
            os.fsync(file.fileno())
    if missing:  # http.client does not notice a connection that closes early
        raise http.client.HTTPException(f"the connection closed with {missing:,} bytes missing")


def _continues(reply: Any, start: int) -> bool:
    """Whether a reply begins at byte `start`."""
    return reply.status == PARTIAL_CONTENT and str(reply.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
