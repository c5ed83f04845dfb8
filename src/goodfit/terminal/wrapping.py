"""Text that fits a width: lines are broken at words, by the columns that their characters take."""

from __future__ import annotations

import re

from rich.cells import cell_len

_WORDS = re.compile(r" (?=[^ %])")  # a number keeps its unit


def wrap_line(line: str, columns: int) -> str:
    """Break a line where it is longer, and indent what follows; a word that is longer stays whole, as a path must to be copied."""
    indent = " " * (len(line) - len(line.lstrip(" ")))
    return f"\n{indent}  ".join(wrap_words(line, columns, len(indent) + 2))


def longest_word(text: str) -> int:
    """The columns that its longest word takes."""
    return max(map(cell_len, _WORDS.split(text.strip(" "))))


def wrap_words(text: str, columns: int, hanging: int = 0) -> list[str]:
    """Break a text at words into lines of at most so many columns, those after the first of `hanging` less."""
    if cell_len(text) <= columns:
        return [text]
    lead = text[: len(text) - len(text.lstrip(" "))]
    lines: list[str] = []
    line = lead
    for word in _WORDS.split(text.strip(" ")):
        room = columns - (hanging if lines else 0)
        if line.strip() and cell_len(f"{line} {word}") > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line.strip() else f"{line}{word}"
    return [*lines, line]
