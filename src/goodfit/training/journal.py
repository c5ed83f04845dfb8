"""The journal: rows of numbers on their way from the loop to whoever reads them, kept on the device until they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

Row = dict[str, Any]
KEEP = 20  # rows held back, so that a GPU is not asked for numbers at every step


class Journal:
    """Collects rows and hands them, as plain numbers, to its readers (log file, progress bar, ...)."""

    def __init__(self, readers: tuple[Callable[[list[Row]], None], ...] = ()) -> None:
        self.readers = readers
        self._rows: list[Row] = []

    def add(self, row: Row) -> int | None:
        """Take a row, its tensors scalars that nobody will change; returns what `flush` does, when it is time for that."""
        self._rows.append(row)
        return self.flush() if len(self._rows) >= KEEP else None

    def events(self, step: int, texts: Iterable[str]) -> None:
        """Take sentences worth keeping."""
        for text in texts:
            self.add({"kind": "event", "step": step, "text": text})

    def flush(self) -> int | None:
        """Hand on what is held; returns the first step whose loss or gradient norm is not finite, if there is one."""
        rows, self._rows = [{key: _plain(value) for key, value in row.items()} for row in self._rows], []
        for reader in self.readers if rows else ():
            reader(rows)
        return next((row["step"] for row in rows if row["kind"] == "train" and (row["loss"] is None or row["grad_norm"] is None)), None)


def _plain(value: Any) -> Any:
    """A number, rounded to seven figures, as JSON has it: None where it is not finite."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    return value
