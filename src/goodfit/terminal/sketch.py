"""Curves drawn with characters, for a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character: rows of two
BRAILLE = 0x2800


def sketch(
    xs: Sequence[float],
    ys: Sequence[float],
    title: str = "",
    x_label: str = "",
    width: int = 64,
    height: int = 12,
    log_x: bool = False,
) -> str:
    """The curve through (xs, ys) as lines of text: braille dots, or stars where the terminal cannot show them; gaps where y is NaN.

    `log_x` spaces x by its logarithm. A curve of one value is a flat line.
    """
    points = [(math.log10(x) if log_x else x, y) for x, y in zip(xs, ys, strict=True)]
    known = [(x, y) for x, y in points if math.isfinite(y)]
    if not known:
        return f"{title}\n(nothing to draw)" if title else "(nothing to draw)"
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in known), max(y for _, y in known)
    fine = fits("⣿")
    columns, rows = (2 * width, 4 * height) if fine else (width, height)
    lit: set[tuple[int, int]] = set()
    before: tuple[int, int] | None = None
    for x, y in points:
        now = None
        if math.isfinite(y):
            column = round((x - left) / (right - left or 1) * (columns - 1))
            now = (column, round((high - y) / (high - low or 1) * (rows - 1)))
            lit |= line(before or now, now)
        before = now
    edge = max(len(f"{high:.3g}"), len(f"{low:.3g}"))
    text = [f"{'':>{edge}}  {title}"] if title else []
    for row in range(height):
        label = f"{high:.3g}" if row == 0 else f"{low:.3g}" if row == height - 1 else ""
        cells = "".join(cell(lit, column, row, fine) for column in range(width)).rstrip()
        text.append(f"{label:>{edge}} {'┤' if fine else '|'}{cells}")
    first, last = (f"{10**left if log_x else left:.3g}", f"{10**right if log_x else right:.3g}")
    middle = x_label.center(max(0, width - len(first) - len(last)))
    return "\n".join([*text, f"{'':>{edge}}  {first}{middle}{last}"])


def fits(text: str) -> bool:
    """Whether what goes to stderr, where a training speaks, can hold the text."""
    try:
        text.encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def line(start: tuple[int, int], end: tuple[int, int]) -> set[tuple[int, int]]:
    """The dots between two dots."""
    n = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return {(round(start[0] + (end[0] - start[0]) * i / n), round(start[1] + (end[1] - start[1]) * i / n)) for i in range(n + 1)}


def cell(lit: set[tuple[int, int]], column: int, row: int, fine: bool) -> str:
    """The character of one place."""
    if not fine:
        return "*" if (column, row) in lit else " "
    dots = sum(bit for y, bits in enumerate(DOTS) for x, bit in enumerate(bits) if (2 * column + x, 4 * row + y) in lit)
    return chr(BRAILLE + dots) if dots else " "
