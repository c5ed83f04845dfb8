"""Tables of text, with aligned columns, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from goodfit.core.escapes import escape_controls


def format_table(rows: Iterable[Sequence[str]], align: str, header: Sequence[str] = (), indent: str = "") -> str:
    """Align the cells of `rows` in columns that stand two spaces apart, one line for each row.

    `align` has one character for each column: `<` sets it to the left, `>` to the right. A row's length must be that of `align`. Control
    characters in the cells, line breaks too, are escaped.
    """
    lines = [[escape_controls(cell) for cell in line] for line in (*([header] if header else []), *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        (indent + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, align, widths, strict=True))).rstrip()
        for line in lines
    )
