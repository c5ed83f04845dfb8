"""A blob written piece by piece with a journal beside it, so that a killed process can resume where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

BLOB, JOURNAL = "blob.bin", "journal.jsonl"


class BlobWriter:
    """Appends pieces (bytes and a JSON object) to a folder; `pieces` has the objects of all so far, those of earlier processes first.

    A piece counts once its line in the journal is complete and its bytes match the line's checksum.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._blob_path, self._journal_path = folder / BLOB, folder / JOURNAL
        self.pieces = self._resume()
        self._blob, self._journal = self._blob_path.open("ab"), self._journal_path.open("ab")

    def _resume(self) -> list[dict[str, Any]]:
        """Read the pieces written so far, and cut off what follows the last complete one."""
        self._blob_path.touch()
        self._journal_path.touch()
        pieces: list[dict[str, Any]] = []
        blob_end = journal_end = 0
        with self._blob_path.open("r+b") as blob, self._journal_path.open("r+b") as journal:
            for line in journal:
                piece = _parse_line(line)
                if piece is None or zlib.crc32(content := blob.read(piece["bytes"])) != piece["crc"] or len(content) != piece["bytes"]:
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
        line = {"bytes": len(content), "crc": zlib.crc32(content), "facts": facts}
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        self.pieces.append(facts)

    def finish(self) -> None:
        """Flush the blob to the disk, so that it survives a power cut, and remove the journal."""
        os.fsync(self._blob.fileno())
        self.close()
        self._journal_path.unlink()

    def close(self) -> None:
        """Close the files; a piece that did not fit on the disk is cut off at the next start."""
        for file in (self._blob, self._journal):
            with contextlib.suppress(OSError):
                file.close()


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        piece = json.loads(line)
    except ValueError:
        return None
    is_piece = line.endswith(b"\n") and isinstance(piece, dict) and isinstance(piece.get("facts"), dict)
    return piece if is_piece and isinstance(piece.get("bytes"), int) and piece["bytes"] >= 0 and "crc" in piece else None
