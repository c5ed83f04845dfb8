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
        self._bad_step: int | None = None

    def add(self, row: Row) -> int | None:
        """Add a row, whose tensors are scalars that no one will change; returns what `flush` would, as far as it is known."""
        self._rows.append(row)
        if len(self._rows) >= MAX_ROWS_HELD:
            self._hand_over()
        return self._bad_step

    def add_events(self, step: int, texts: Iterable[str]) -> None:
        """Add a row for each sentence worth keeping."""
        for text in texts:
            self.add({"kind": "event", "step": step, "text": text})

    def flush(self) -> int | None:
        """Hand the rows to the readers; returns the first step since the last flush whose loss or gradient norm is not finite, or None."""
        self._hand_over()
        bad_step, self._bad_step = self._bad_step, None
        return bad_step

    def _hand_over(self) -> None:
        rows, self._rows = [{key: _to_json(value) for key, value in row.items()} for row in self._rows], []
        for reader in self.readers if rows else ():
            reader(rows)
        bad = (row["step"] for row in rows if row["kind"] == "train" and (row["loss"] is None or row["grad_norm"] is None))
        self._bad_step = next(bad, None) if self._bad_step is None else self._bad_step


def _to_json(value: Any) -> Any:
    """A number rounded to seven digits, as JSON holds it; None where it is not finite."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _to_json(x) for key, x in value.items()}
    return value
