"""Memory of the machine: how much is free, and whether what a file asks for fits into it."""

from __future__ import annotations

from pathlib import Path

import psutil

from goodfit.core.errors import DataError
from goodfit.core.words import format_bytes

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """The bytes of main memory that this process may still use."""
    limit = CGROUP / "memory.max"
    available = int(psutil.virtual_memory().available)
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        used = int((CGROUP / "memory.current").read_text(encoding="utf-8")) - _reclaimable_memory()
        return min(available, max(int(text) - used, 0))
    return available


def _reclaimable_memory() -> int:
    """The bytes of files that were read and are kept only while nothing else needs the memory."""
    try:
        lines = (CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def check_memory(n_bytes: int, place: str) -> None:
    """Refuse to read what does not fit, before its reading starts.

    Raises:
        DataError: `n_bytes` are more than the memory that is free.
    """
    if n_bytes > (available := available_memory()):
        raise DataError(f"{place} needs {format_bytes(n_bytes)} of memory, but {format_bytes(available)} are free: give fewer images.")
