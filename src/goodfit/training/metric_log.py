"""The log of a training: rows of numbers on their way to the log file and the terminal, kept on the device until they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

Row = dict[str, Any]
MAX_ROWS_HELD = 20  # so that a GPU is not asked for numbers at every step


class MetricLog:
    """Collects rows and hands them, as plain numbers, to its readers (log file, progress bar, ...)."""

    def __init__(self, readers: tuple[Callable[[list[Row]], None], ...] = ()) -> None:
        self.readers = readers
        self._rows: list[Row] = []

    def add(self, row: Row) -> int | None:
        """Add a row, whose tensors are scalars that no one will change; flushes every few rows and then returns what `flush` returns."""
        self._rows.append(row)
        return self.flush() if len(self._rows) >= MAX_ROWS_HELD else None

    def add_events(self, step: int, texts: Iterable[str]) -> None:
        """Add a row for each sentence worth keeping."""
        for text in texts:
            self.add({"kind": "event", "step": step, "text": text})

    def flush(self) -> int | None:
        """Hand the rows to the readers; returns the first step whose loss or gradient norm is not finite, if there is one."""
        rows, self._rows = [{key: _to_json(value) for key, value in row.items()} for row in self._rows], []
        for reader in self.readers if rows else ():
            reader(rows)
        return next((row["step"] for row in rows if row["kind"] == "train" and (row["loss"] is None or row["grad_norm"] is None)), None)


def _to_json(value: Any) -> Any:
    """A number rounded to seven digits, as JSON holds it; None where it is not finite."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _to_json(x) for key, x in value.items()}
    return value
