"""Ways in which a file of a run folder can be damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from goodfit.core.files import remove


def _flip(path: Path, rng: random.Random) -> None:
    """Change some bytes, at least one."""
    content = bytearray(path.read_bytes())
    for _ in range(1 + len(content) // 4096):
        place = rng.randrange(len(content)) if content else 0
        content[place : place + 1] = bytes([(content[place] if content else 0) ^ (1 << rng.randrange(8))])
    path.write_bytes(content)


def _become_a_folder(path: Path) -> None:
    remove(path)
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def _swap(path: Path, rng: random.Random) -> None:
    """Give it the content of another file, of the same kind if there is one."""
    files = sorted(file for file in path.parent.rglob("*") if file.is_file() and file != path)
    alike = [file for file in files if file.suffix == path.suffix and file.read_bytes() != path.read_bytes()]
    path.write_bytes(rng.choice(alike or files).read_bytes() if files else b"other")


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "half": lambda path, rng: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path, rng: path.write_bytes(b""),
    "deleted": lambda path, rng: path.unlink(),
    "a folder": lambda path, rng: _become_a_folder(path),
    "garbage": lambda path, rng: path.write_bytes(rng.randbytes(max(16, path.stat().st_size))),
    "flipped": _flip,
    "another shape": lambda path, rng: path.write_text(rng.choice(["[1, 2]", "3", "null", '"text"', "{}", '{"a": {"b": []}}'])),
    "torn": lambda path, rng: path.write_bytes(path.read_bytes()[:-7]),
    "another's content": _swap,
}
