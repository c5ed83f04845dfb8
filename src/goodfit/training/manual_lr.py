"""Changing the learning rate of a running training by hand, from another process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from goodfit.core.errors import UsageError
from goodfit.core.files import explain_write_errors
from goodfit.core.reporter import WARNING
from goodfit.core.run import Run, is_busy
from goodfit.core.run_files import DamagedFile, explain_damage, is_number, read_json, write_json

FOLDER = "lever"  # of a run


@dataclasses.dataclass
class ManualLrFactor:
    """The factor by which a person multiplies the learning rate of a running training: files in a folder of the run, one per change.

    A change takes effect at the next step, which is then written into its file. A run that is resumed from an earlier step makes the same
    change at the same step, and ends with the same weights. A file that does not read changes nothing, and `warn` gets a sentence, once.
    """

    folder: Path
    warn: Callable[[str], None] = lambda sentence: None
    _modified_ns: int = -1
    _changes: tuple[tuple[int, float], ...] = ()
    _ignored: set[Path] = dataclasses.field(default_factory=set)

    def request(self, factor: float) -> Path:
        """Ask, from another process, for the rate to be multiplied by `factor`; returns the file that asks for it."""
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        n = sum(1 for _ in self.folder.glob("*.json"))
        path = self.folder / f"{n:04d}.json"
        write_json(path, {"factor": factor})
        return path

    def __call__(self, step: int) -> float:
        """The product of all changes up to a step; reads the disk only when the folder has changed."""
        with contextlib.suppress(FileNotFoundError):
            modified = self.folder.stat().st_mtime_ns
            if modified != self._modified_ns:
                self._read(step)
                self._modified_ns = modified  # taken before reading, so that a change made meanwhile is read at the next step
        return math.prod(factor for at, factor in self._changes if at <= step)

    def made_before(self, step: int) -> float:
        """The product of the changes that took effect before a step; none that is asked for takes effect now."""
        return math.prod(factor for _, at, factor in self._on_disk() if at is not None and at < step)

    def _read(self, step: int) -> None:
        changes = self._on_disk()
        for path, at, factor in changes:
            if at is None:
                write_json(path, {"factor": factor, "step": step})
        self._changes = tuple((step if at is None else at, factor) for _, at, factor in changes)

    def _on_disk(self) -> list[tuple[Path, int | None, float]]:
        """The file of each change, the step at which it took effect, None if it has not yet, and its factor."""
        changes = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                change = read_json(path)
                with explain_damage(path):
                    changes.append((path, int(change["step"]) if "step" in change else None, _check_factor(change["factor"])))
            except DamagedFile as error:
                if path not in self._ignored:
                    self._ignored.add(path)
                    self.warn(f"{WARNING}{error} Until then it is ignored.")
        return changes


def _check_factor(value: object) -> float:
    """The factor that a file asks for.

    Raises:
        ValueError: it is no number above 0.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"expected a factor above 0, found {value!r}")
    return float(value)


def request_lr_factor(run: Run, factor: float) -> Path:
    """Multiply the learning rate of a training that is running, from its next step on; returns the file that asks for it.

    Raises:
        UsageError: the run is not running.
    """
    if (state := run.read("about.json", "state")["state"]) != "running":
        raise UsageError(f'Expected "{run.path}" to be a run that is training now, but it is {state}.')
    if is_busy(run) is False:
        raise UsageError(f'Expected "{run.path}" to be a run that is training now, but its process was killed: --resume auto continues it.')
    return ManualLrFactor(run.path / FOLDER).request(factor)
