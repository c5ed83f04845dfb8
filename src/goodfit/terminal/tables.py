"""Tables of text, with aligned columns, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich.cells import cell_len

from goodfit.core.escapes import escape_controls
from goodfit.terminal.streams import RESULTS
from goodfit.terminal.wrapping import longest_word, wrap_words

GAP = "  "  # between columns


def format_table(rows: Iterable[Sequence[str]], align: str, header: Sequence[str] = (), indent: str = "", columns: int = 0) -> str:
    """Align the cells of `rows` in columns that stand two spaces apart, a line for each row.

    `align` has one character for each column: `<` sets it to the left, `>` to the right. A row's length must be that of `align`. Control
    characters in the cells, line breaks too, are escaped. A table wider than `columns` characters (0: than the terminal of stdout) has its
    cells of text wrapped at words; where that is not enough, the columns that are left stand below, each time beside the first one.
    """
    lines = [[escape_controls(cell) for cell in line] for line in (*([header] if header else []), *rows)]
    if not lines:
        return ""
    room = (columns or RESULTS.columns) - len(indent)
    widths = fit_widths([list(column) for column in zip(*lines, strict=True)], align, room)
    blocks = [_format_block(lines, widths, align, block) for block in split_columns(widths, room)]
    return "\n".join((indent + line).rstrip() for block in blocks for line in block)


def fit_widths(cells: Sequence[Sequence[str]], align: str, room: int) -> list[int]:
    """The widths of columns of cells: that of the widest cell, less where text must wrap to fit, but never less than its longest word."""
    widths = [max(map(cell_len, column)) for column in cells]
    least = [max(map(longest_word, column)) if side == "<" else width for column, side, width in zip(cells, align, widths, strict=True)]
    while (excess := sum(widths) + len(GAP) * (len(widths) - 1) - room) > 0:
        widest = max(range(len(widths)), key=lambda k: widths[k] - least[k])
        if widths[widest] == least[widest]:
            break
        widths[widest] = max(least[widest], widths[widest] - excess)
    return widths


def split_columns(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each block of a table that has so much room: as many as fit, the first in every one."""
    blocks = [[0]]
    for k in range(1, len(widths)):
        if len(blocks[-1]) > 1 and sum(widths[j] + len(GAP) for j in blocks[-1]) + widths[k] > room:
            blocks.append([0])
        blocks[-1].append(k)
    return blocks


def _format_block(lines: Iterable[Sequence[str]], widths: Sequence[int], align: str, block: Sequence[int]) -> list[str]:
    """The lines of some columns of a table."""
    formatted = []
    for line in lines:
        wrapped = zip_longest(*(wrap_words(line[k], widths[k]) for k in block), fillvalue="")
        formatted += [GAP.join(_fill(piece, widths[k], align[k]) for piece, k in zip(row, block, strict=True)) for row in wrapped]
    return formatted


def _fill(cell: str, width: int, side: str) -> str:
    """A cell with the spaces that it lacks on one side."""
    spaces = " " * (width - cell_len(cell))
    return cell + spaces if side == "<" else spaces + cell
