"""Text as it is printed and stored: characters that would do something to a terminal, or that UTF-8 does not have, become escapes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

MAX_PLAIN_BYTES = 160  # of the 255 that the name of a file may have
# Control characters (with C1, some of which terminals obey), marks that turn the direction of text, separators of lines, and surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSTORABLE = re.compile(r"[\ud800-\udfff]|\\(?=u(?:005c|d[89a-f][0-9a-f]{2}))")
_STORED = re.compile(r"\\u(005c|d[89a-f][0-9a-f]{2})")


def escape_controls(line: str) -> str:
    r"""Escape what a terminal would obey in a line of text, line breaks too: `\x1b`, `\n`, `\u202e`; and what is no Unicode: `\udce9`."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), line)


def escape_name(name: str) -> str:
    r"""Write a name, which may have bytes that are no UTF-8, as text that can be stored: `caf\udce9.png`; `restore_name` undoes it."""
    if name.isascii() and "\\" not in name:  # a tenth of the time, for a million names
        return name
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", name)


def restore_name(text: str) -> str:
    """Restore a name from the text that `escape_name` has made of it."""
    return _STORED.sub(lambda found: chr(int(found[1], 16)), text) if "\\u" in text else text


def plain_name(name: str) -> str:
    """Make a name that a new file can have in its own, whatever is put before and after: short, and without control characters."""
    return _CONTROLS.sub("_", name).encode()[:MAX_PLAIN_BYTES].decode(errors="ignore")


def format_csv(rows: Iterable[Sequence[object]]) -> str:
    """Format rows as lines of CSV, without a line break at the end; a cell with a line break of any kind is quoted."""
    lines: list[str] = []
    csv.writer(SimpleNamespace(write=lines.append)).writerows(rows)  # quotes what is in its own line end, CR LF
    return "\n".join(line.removesuffix("\r\n") for line in lines)
