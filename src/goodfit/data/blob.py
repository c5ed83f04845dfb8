"""A blob written piece by piece with a journal beside it, so that a killed process can resume where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from goodfit.core.files import remove

BLOB, JOURNAL = "blob.bin", "journal.jsonl"


class BlobWriter:
    """Appends pieces (bytes and a JSON object) to a folder; `pieces` has the objects of all so far, those of earlier processes first.

    A piece counts once its line in the journal is complete, and its bytes and its object match the line's checksum.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._blob_path, self._journal_path = folder / BLOB, folder / JOURNAL
        self.pieces = self._resume()
        self._blob, self._journal = self._blob_path.open("ab"), self._journal_path.open("ab")

    def _resume(self) -> list[dict[str, Any]]:
        """Read the pieces written so far, and cut off what follows the last complete one."""
        for path in (self._blob_path, self._journal_path):
            if path.exists() and not path.is_file():
                remove(path)
            path.touch()
        pieces: list[dict[str, Any]] = []
        blob_end = journal_end = 0
        with self._blob_path.open("r+b") as blob, self._journal_path.open("r+b") as journal:
            for line in journal:
                piece = _parse_line(line)
                if piece is None or _checksum(blob.read(piece["bytes"]), piece["facts"]) != piece["crc"]:
                    break
                pieces.append(piece["facts"])
                blob_end += piece["bytes"]
                journal_end += len(line)
            blob.truncate(blob_end)
            journal.truncate(journal_end)
        return pieces

    def add(self, content: bytes, facts: dict[str, Any]) -> None:
        """Append a piece."""
        self._blob.write(content)
        self._blob.flush()
        line = {"bytes": len(content), "crc": _checksum(content, facts), "facts": facts}
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        self.pieces.append(facts)

    def finish(self) -> None:
        """Flush the blob to the disk, so that it survives a power cut; the journal is for its owner to remove, once nothing can be lost."""
        os.fsync(self._blob.fileno())
        self.close()

    def close(self) -> None:
        """Close the files; a piece that did not fit on the disk is cut off at the next start."""
        for file in (self._blob, self._journal):
            with contextlib.suppress(OSError):
                file.close()


def _checksum(content: bytes, facts: dict[str, Any]) -> int:
    """The CRC-32 of a piece: its bytes, their number and its object."""
    return zlib.crc32(json.dumps([len(content), facts]).encode(), zlib.crc32(content))


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        piece = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_piece = line.endswith(b"\n") and isinstance(piece, dict) and isinstance(piece.get("facts"), dict)
    return piece if is_piece and isinstance(piece.get("bytes"), int) and piece["bytes"] >= 0 and "crc" in piece else None
