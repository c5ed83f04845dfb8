"""How much memory a process has in use."""

from __future__ import annotations

import ctypes
from functools import cache

import psutil

MB = 1024 * 1024


class _HeapCounts(ctypes.Structure):
    """What glibc says of its heaps: `struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)  # the names of malloc.h
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def measure_memory() -> float:
    """MB that are allocated and not freed, where glibc counts them (since 2.33); elsewhere the resident memory of the process.

    Unlike resident memory, what is allocated grows with the first byte that is kept, whatever was freed before.
    """
    heap = _heap_counts()
    if heap is None:
        return float(psutil.Process().memory_info().rss) / MB
    counts = heap()
    return float(counts.uordblks + counts.hblkhd) / MB


def is_memory_exact() -> bool:
    """Whether `measure_memory` counts what is allocated, not what is resident."""
    return _heap_counts() is not None


@cache
def _heap_counts() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    function.restype = _HeapCounts
    return function
