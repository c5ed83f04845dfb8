"""Ways in which a file can be damaged, each by a path and chance: of a run folder, an ensemble, a cache."""

from __future__ import annotations

import json
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


def flip_bit(path: Path, rng: random.Random) -> None:
    """Change one bit, wherever."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _cut_at_a_line_end(path: Path, rng: random.Random) -> None:
    """Leave the first lines, whole; of one line none."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: rng.randrange(len(lines))] if lines else []))


BY_HAND = "another value"  # the one that a checksum does not tell, as it is taken out: what comes of it may differ
OTHER_VALUES = (None, [], {}, 3, -1, 0.5, 1e300, float("nan"), True, "", "text", [1, "a"], {"a": {"b": []}}, [[]], [{}])


def _change_a_value(path: Path, rng: random.Random) -> None:
    """Put something else in the place of a value of a JSON file or of a line of a log, and take its checksum out as a person may."""
    if path.suffix not in (".json", ".jsonl"):
        flip_bit(path, rng)
        return
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    place = rng.randrange(len(lines))
    try:
        tree = json.loads(lines[place])
    except ValueError:  # a result of the cache, whose checksum is in a line of its own
        flip_bit(path, rng)
        return
    tree.pop("sha256", None)
    owner = tree
    while True:
        key = rng.choice(sorted(owner) if isinstance(owner, dict) else range(len(owner)))
        inner = owner[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.4:
            break
        owner = inner
    owner[key] = rng.choice(OTHER_VALUES)
    lines[place] = json.dumps(tree).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


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
    "one bit": flip_bit,
    "null": lambda path, rng: path.write_text("null"),
    "an empty list": lambda path, rng: path.write_text("[]"),
    "cut at a line end": _cut_at_a_line_end,
    "another shape": lambda path, rng: path.write_text(rng.choice(["[1, 2]", "3", "null", '"text"', "{}", '{"a": {"b": []}}'])),
    BY_HAND: _change_a_value,
    "torn": lambda path, rng: path.write_bytes(path.read_bytes()[:-7]),
    "another's content": _swap,
}
