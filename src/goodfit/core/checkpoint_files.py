"""The files of a run's checkpoints: which steps have one, and whether it is what was written; without torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

# What reading a damaged checkpoint raises; of OSErrors also a disk that fails for now.
DAMAGE_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError)
# The OSErrors among them by which the file is gone for good; after any other it may read again.
GONE_ERRORS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def saved_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in a folder, oldest first: STEP.safetensors with its tensors and STEP.json with the rest."""
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())


def values_file(folder: Path, step: int) -> Path:
    """The file of a step's plain values, with the checksum of both files."""
    return folder / f"{step:08d}.json"


def tensors_file(folder: Path, step: int) -> Path:
    """The file of a step's tensors."""
    return folder / f"{step:08d}.safetensors"


def read_checkpoint(folder: Path, step: int) -> tuple[dict[str, Any], bytes]:
    """The plain values of a checkpoint, under "state" and "tree", and the content of its file of tensors.

    Raises:
        DAMAGE_ERRORS: it is gone, or is not what was written.
    """
    about = json.loads(values_file(folder, step).read_text(encoding="utf-8"))
    content = tensors_file(folder, step).read_bytes()
    if checksum(about, content) != about["sha256"]:
        raise ValueError("its checksum differs")
    return about, content


def last_good_step(folder: Path) -> int | None:
    """The last step whose checkpoint reads; None where there is none.

    Raises:
        OSError: a checkpoint, or the folder, cannot be read now, though it may be good.
    """
    with contextlib.suppress(*GONE_ERRORS):
        next(folder.iterdir(), None)  # which raises where `saved_steps` finds nothing
    for step in reversed(saved_steps(folder)):
        try:
            read_checkpoint(folder, step)
        except DAMAGE_ERRORS as error:
            if isinstance(error, OSError) and not isinstance(error, GONE_ERRORS):
                raise
        else:
            return step
    return None


def checksum(about: dict[str, Any], content: bytes) -> str:
    """SHA-256 of a checkpoint's plain values and tensors."""
    plain = json.dumps([about["state"], about["tree"]])
    return hashlib.sha256(plain.encode() + content).hexdigest()
