"""Curves drawn with characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from goodfit.terminal.streams import MESSAGES

BRAILLE = 0x2800  # the empty braille character
BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of its dots: four rows of two


def sketch_curve(
    xs: Sequence[float],
    ys: Sequence[float],
    title: str = "",
    x_label: str = "",
    width: int = 64,
    height: int = 12,
    log_x: bool = False,
    within: Sequence[tuple[float, float]] = (),
) -> str:
    """Draw the curve through (xs, ys) as lines of text, with gaps where y is NaN.

    It consists of braille dots, or of stars where stderr cannot encode them. `width` and `height` are in characters; `log_x` makes the x
    axis logarithmic. The axes cover the points `within` too, so that several sketches can share them. A curve of equal values is a flat
    line.
    """
    points = [(math.log10(x) if log_x else x, y) for x, y in zip(xs, ys, strict=True)]
    finite = [y for _, y in points if math.isfinite(y)]
    if not finite:
        return f"{title}\n(nothing to draw)" if title else "(nothing to draw)"
    covered = [*(x for x, _ in points), *(math.log10(x) if log_x else x for x, _ in within)]
    finite += [y for _, y in within]
    left, right, low, high = min(covered), max(covered), min(finite), max(finite)
    braille = MESSAGES.can_encode(chr(BRAILLE + 0xFF))
    columns, rows = (2 * width, 4 * height) if braille else (width, height)
    dots: set[tuple[int, int]] = set()
    previous: tuple[int, int] | None = None
    for x, y in points:
        dot = None
        if math.isfinite(y):
            dot = round((x - left) / (right - left or 1) * (columns - 1)), round((high - y) / (high - low or 1) * (rows - 1))
            dots |= _connect(previous or dot, dot)
        previous = dot
    margin = max(len(f"{high:.3g}"), len(f"{low:.3g}"))
    lines = [f"{'':>{margin}}  {title}"] if title else []
    for row in range(height):
        label = f"{high:.3g}" if row == 0 else f"{low:.3g}" if row == height - 1 else ""
        cells = "".join(_draw_cell(dots, column, row, braille) for column in range(width)).rstrip()
        lines.append(f"{label:>{margin}} {'┤' if braille else '|'}{cells}")
    first, last = (f"{10**left if log_x else left:.3g}", f"{10**right if log_x else right:.3g}")
    middle = x_label.center(max(0, width - len(first) - len(last)))
    return "\n".join([*lines, f"{'':>{margin}}  {first}{middle}{last}"])


def _connect(start: tuple[int, int], end: tuple[int, int]) -> set[tuple[int, int]]:
    """Return the dots on the line from `start` to `end`."""
    n = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return {(round(start[0] + (end[0] - start[0]) * i / n), round(start[1] + (end[1] - start[1]) * i / n)) for i in range(n + 1)}


def _draw_cell(dots: set[tuple[int, int]], column: int, row: int, braille: bool) -> str:
    """Return the character that shows the dots of a cell."""
    if not braille:
        return "*" if (column, row) in dots else " "
    bits = sum(bit for y, pair in enumerate(BRAILLE_BITS) for x, bit in enumerate(pair) if (2 * column + x, 4 * row + y) in dots)
    return chr(BRAILLE + bits) if bits else " "
