"""Events for TensorBoard, written from the same rows as the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from goodfit.core.errors import UsageError


class EventWriter:
    """Writes rows as TensorBoard events: train/loss, val/acc1, ..."""

    names: ClassVar = {"validation": "val", "clean_train": "clean_train", "accuracy": "acc1"}

    def __init__(self, folder: Path) -> None:
        self.writer = import_summary_writer()(str(folder))

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for name, value in named_numbers(row, "train" if row["kind"] == "train" else ""):
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()


def import_summary_writer() -> Any:
    """Import TensorBoard's class that writes events.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError('--tensorboard needs the extra: pip install "goodfit[tensorboard]".') from error
    return SummaryWriter


def named_numbers(row: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    """The numbers of a row with their event names; nested ones after a slash."""
    numbers: list[tuple[str, float]] = []
    for key, value in row.items():
        name = f"{prefix}/{EventWriter.names.get(key, key)}".strip("/")
        if isinstance(value, dict):
            numbers += named_numbers(value, name)
        elif isinstance(value, (int, float)) and key != "step":
            numbers.append((name, value))
    return numbers
