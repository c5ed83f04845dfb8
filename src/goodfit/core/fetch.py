"""Files fetched from the net once: a download that broke off goes on where it stopped, and what arrived is checked."""

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
SAID: dict[Algorithm, str] = {"md5": "MD5", "sha256": "SHA-256"}
PARTIAL, COMPLETE = 206, 416  # HTTP: here is the rest you asked for; there is nothing behind what you have


def fetch(url: str, path: Path, checksum: str, algorithm: Algorithm, say: Say) -> str:
    """Have the file of `url` at `path`, fetched if it is not there, and return its checksum; `checksum` may be its first digits alone.

    What has arrived waits in `<path>.part` until it is whole.

    Raises:
        DataError: it cannot be fetched, and the sentence says which file to put where; or its checksum is another.
        GoodfitError: no space is left, or the folder cannot be written.
    """
    if not path.is_file():
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():  # nor did another process fetch it meanwhile
                say(f"Fetching {url}")
                _download(url, path)
    found = digest(path, algorithm)
    if not found.startswith(checksum):
        raise DataError(f'"{path}" is damaged ({SAID[algorithm]} {found}, expected {checksum}): remove it and fetch it again from {url}.')
    return found


def digest(path: Path, algorithm: Algorithm = "sha256") -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _download(url: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        _go_on(url, part)
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", None) or error).rstrip(".")
        kept = f"; {part.stat().st_size:,} bytes have arrived and are kept" if part.is_file() and part.stat().st_size else ""
        raise DataError(f'"{url}" cannot be fetched ({reason}{kept}): put that file at "{path}" and run the same command again.') from error
    part.replace(path)
    sync_folder(path.parent)


def _go_on(url: str, part: Path) -> None:
    """Fetch what is missing of a part; all of it where the server does not know of ranges."""
    there = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"}) if there else url
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != COMPLETE or not there:
            raise
        part.unlink()  # no less than the whole file, of which the checksum would not say whether it is that one
        reply = urllib.request.urlopen(url, timeout=60)
    with reply:
        left, mode = getattr(reply, "length", None), "ab" if there and _continues(reply, there) else "wb"
        with explain_write_errors(part), part.open(mode) as file:
            while piece := reply.read(1 << 20):
                file.write(piece)
                left = None if left is None else left - len(piece)
            file.flush()
            os.fsync(file.fileno())
    if left:  # http.client takes a connection that closes early for an end
        raise http.client.HTTPException(f"the connection closed with {left:,} bytes to come")


def _continues(reply: Any, there: int) -> bool:
    """Whether a reply begins where the part ends."""
    return reply.status == PARTIAL and str(reply.headers.get("Content-Range", "")).startswith(f"bytes {there}-")
