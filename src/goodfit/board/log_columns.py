"""Logs of runs as columns of numbers that grow with the file, read from where the last reading ended; without torch."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import statistics
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodfit.core.run_files import is_row
from goodfit.report.record import as_number

CHUNK_BYTES = 1 << 20  # that are read at a time
MAX_LINE_BYTES = 1 << 24  # of a row; a longer one is passed over
MAX_COLUMNS, MAX_EVENTS = 64, 200  # of a log; further ones are left out
MAX_LOGS = 40  # whose columns are kept in memory
NOT_PLOTTED = ("kind", "step", "t", "epoch", "elapsed")
SPLITS = ("validation", "clean_train")  # of an evaluation
X_NAMES = ("step", "epoch", "elapsed")


class Columns:
    """Numbers of rows of one kind: for each row its step, epoch and seconds since the start, and the `values` by name; NaN where absent."""

    def __init__(self) -> None:
        self.x: dict[str, array[float]] = {name: array("d") for name in X_NAMES}
        self.values: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self.x["step"])

    def add(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Add a row."""
        count = len(self)
        for name, column in self.x.items():
            number = as_number(row.get(name))
            column.append(math.nan if number is None else number)
        for name in numbers:
            if name not in self.values and len(self.values) < MAX_COLUMNS:
                self.values[name] = array("d", itertools.repeat(math.nan, count))
        for name, column in self.values.items():
            column.append(numbers.get(name, math.nan))


class LogColumns:
    """The log of a run, whose file may grow, be cut back by a run that is resumed, or be replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.train, self.evaluations = Columns(), {split: Columns() for split in SPLITS}
        self.events: list[tuple[float, str]] = []
        self._inode, self._offset, self._rest = 0, 0, b""
        self._per_epoch = (math.inf, 0.0)  # bounds of the steps per epoch, see `steps_per_epoch`

    def update(self) -> None:
        """Read what was added to the file since; all of it if it was cut or replaced."""
        with self.lock, contextlib.suppress(OSError), self.path.open("rb") as file:
            size, inode = (found := self.path.stat()).st_size, found.st_ino
            if inode != self._inode or size < self._offset:
                self._forget()
                self._inode = inode
            file.seek(self._offset)
            while chunk := file.read(CHUNK_BYTES):
                self._offset += len(chunk)
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self._rest = self._rest if len(self._rest) <= MAX_LINE_BYTES else b""
                for line in lines:
                    self._add(line)

    def _add(self, line: bytes) -> None:
        """Add a line; what is no row is passed over."""
        row: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
        if not is_row(row):
            return
        if row["kind"] == "train":
            self._count_epochs(row)
            self.train.add(row, read_numbers(row))
        elif row["kind"] == "event":
            self.events = [*self.events[1 - MAX_EVENTS :], (as_number(row["step"]) or 0.0, str(row.get("text", "")))]
        elif row["kind"] == "evaluate":
            for split in SPLITS:
                if isinstance(scores := row.get(split), dict):
                    self.evaluations[split].add(row, read_numbers(scores))

    def _count_epochs(self, row: Mapping[str, Any]) -> None:
        step, epoch = as_number(row["step"]), as_number(row.get("epoch"))
        if step is not None and epoch is not None and epoch >= 0:
            most, least = self._per_epoch
            before = step - 1
            self._per_epoch = min(most, before // epoch) if epoch else most, max(least, before // (epoch + 1) + 1)

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps per epoch, if the log's steps and whole epochs determine it within one percent, as in `Record.steps_per_epoch`."""
        most, least = self._per_epoch
        return most if math.isfinite(most) and 0 <= most - least <= 0.01 * most else None

    def names(self) -> list[str]:
        """The names of the numbers that can be drawn."""
        return list(dict.fromkeys(name for columns in (self.train, *self.evaluations.values()) for name in columns.values))

    def points(self, split: str, name: str, x_name: str) -> list[tuple[float, float | None]]:
        """The points (x, y) of a number of "train", "validation" or "clean_train" by step, epoch or seconds; None where y is not finite.

        Evaluations, which have no epoch in the log, get theirs by the steps per epoch.
        """
        columns = self.train if split == "train" else self.evaluations[split]
        ys, xs, per_epoch = columns.values.get(name), columns.x[x_name], self.steps_per_epoch
        if ys is None:
            return []
        if x_name == "epoch" and per_epoch:
            xs = array("d", (step / per_epoch for step in columns.x["step"]))
        return [(x, y if math.isfinite(y) else None) for x, y in zip(xs, ys, strict=True) if math.isfinite(x)]


def read_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that can be drawn; of one for each layer, the median. None, a loss that was not finite, is NaN."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if name in NOT_PLOTTED or isinstance(value, (str, list, bool)):
            continue
        if isinstance(value, dict):
            layers = [number for x in value.values() if (number := as_number(x)) is not None]
            if layers:
                numbers[name] = statistics.median(layers)
        else:
            number = as_number(value)
            numbers[name] = math.nan if number is None else number
    return numbers


class Logs:
    """The logs that were asked for last, so that watching many runs takes a bounded memory."""

    def __init__(self) -> None:
        self._logs: OrderedDict[Path, LogColumns] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, folder: Path) -> LogColumns:
        """The log of a run folder, up to date."""
        with self._lock:
            log = self._logs.pop(folder, None) or LogColumns(folder / "log.jsonl")
            self._logs[folder] = log
            while len(self._logs) > MAX_LOGS:
                self._logs.popitem(last=False)
        log.update()
        return log
