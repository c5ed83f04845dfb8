"""Opens a written case: what its file calls."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from bench.ward.cases import Spec


def open_case(token: str, seed: int, folder: Path) -> dict[str, Any]:
    """Make the dictionary of the case that a token stands for.

    Args:
        token: as `write_cases` wrote it.
        seed: of the case.
        folder: where the images lie.
    """
    return Spec(*json.loads(zlib.decompress(base64.urlsafe_b64decode(token)))).make(seed, folder).dictionary()
