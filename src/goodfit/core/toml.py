"""TOML that anyone may have written: whatever is wrong with it is a ValueError, and it takes no longer than a file of its size should."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

from goodfit.core.escapes import escape_name

# A key of as many parts takes the parser the square of them; ours have one.
MAX_KEY_PARTS = 32
# Strings of several lines and of one, and comments, each up to its end or that of the file or line, so that none is looked for again.
_TEXT = re.compile(r"""\"{3}(?:\\.|.)*?(?:\"{3,5}|\Z)|'{3}.*?(?:'{3,5}|\Z)|"(?:\\[^\n]|[^"\\\n])*"?|'[^'\n]*'?|#[^\n]*""", re.DOTALL)
_KEY = re.compile(r"[\w. \t-]+")  # a number, too, which has one dot


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is none, is nested too deeply, or has a number of too many digits.
    """
    if any(key.group().count(".") >= MAX_KEY_PARTS for key in _KEY.finditer(_TEXT.sub("k", text))):
        raise ValueError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_toml(value: Any) -> str:
    """Write a value as TOML, its texts escaped as `escape_name` does."""
    text = json.dumps(change_texts(escape_name, value), ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON has as it is, and TOML does not


def change_texts(change: Callable[[str], str], value: Any) -> Any:
    """Change each text of a value, in lists too."""
    if isinstance(value, list):
        return [change_texts(change, inner) for inner in value]
    return change(value) if isinstance(value, str) else value
