"""TOML that anyone may have written: whatever is wrong with it is a ValueError, and it takes no longer than a file of its size should."""

from __future__ import annotations

import re
import tomllib
from typing import Any

# A key of as many parts takes the parser the square of them; ours have one.
MAX_KEY_PARTS = 32
_QUOTED = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_LONG_KEY = re.compile(rf"^[ \t]*\[{{0,2}}[ \t]*(?:[\w-]+[ \t]*\.[ \t]*){{{MAX_KEY_PARTS}}}", re.MULTILINE)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is none, is nested too deeply, or has a number of too many digits.
    """
    if _LONG_KEY.search(_QUOTED.sub("k", text)):
        raise ValueError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
