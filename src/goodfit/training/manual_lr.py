"""Changing the learning rate of a running training by hand, from another process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from goodfit.core.files import write_atomic

FOLDER = "lever"  # of a run


@dataclasses.dataclass
class ManualLrFactor:
    """The factor by which a person multiplies the learning rate of a running training: files in a folder of the run, one per change.

    A change takes effect at the next step, which is then written into its file. A run that is resumed from an earlier step makes the same
    change at the same step, and ends with the same weights.
    """

    folder: Path
    _modified_ns: int = -1
    _changes: tuple[tuple[int, float], ...] = ()

    def request(self, factor: float) -> Path:
        """Ask, from another process, for the rate to be multiplied by `factor`; returns the file that asks for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        n = sum(1 for _ in self.folder.glob("*.json"))
        path = self.folder / f"{n:04d}.json"
        write_atomic(path, json.dumps({"factor": factor}))
        return path

    def __call__(self, step: int) -> float:
        """The product of all changes up to a step; reads the disk only when the folder has changed."""
        with contextlib.suppress(FileNotFoundError):
            modified = self.folder.stat().st_mtime_ns
            if modified != self._modified_ns:
                self._read(step)
                self._modified_ns = modified  # taken before reading, so that a change made meanwhile is read at the next step
        product = 1.0
        for at, factor in self._changes:
            product *= factor if at <= step else 1.0
        return product

    def _read(self, step: int) -> None:
        changes = []
        for path in sorted(self.folder.glob("*.json")):
            change = json.loads(path.read_text(encoding="utf-8"))
            if "step" not in change:
                change["step"] = step
                write_atomic(path, json.dumps(change))
            changes.append((int(change["step"]), float(change["factor"])))
        self._changes = tuple(changes)
