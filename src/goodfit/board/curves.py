"""Curves of several runs, made small enough for a screen."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.board.log_columns import SPLITS, X_NAMES, Logs
from goodfit.core.errors import UsageError
from goodfit.report.charts import Points, round_number, smooth, thin

MAX_RUNS = 18  # over one another: report.css has so many styles that can be told apart
MAX_SMOOTHING = 0.5  # share of the points over which a running mean is taken
MIN_POINTS, MAX_POINTS = 50, 2000  # of a curve
CURVE_SPLITS = ("train", *SPLITS)


def read_curves(
    logs: Logs,
    folders: Sequence[Path],
    name: str,
    x: str = "step",
    smoothing: float = 0.0,
    points: int = 800,
    window: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """The curves of a number of some runs: for each run its "curves", each with its "split", "x" and "y", and the "names" of its numbers.

    Of training batches the running mean over a share of the points, `smoothing`, and with it the points as logged ("raw"). `window` is
    the range of x that the screen shows, so that zooming in shows more. x in seconds is "elapsed".

    Raises:
        UsageError: there are too many runs, or x is none.
    """
    if len(folders) > MAX_RUNS or x not in X_NAMES:
        raise UsageError(f"Expected up to {MAX_RUNS} runs by one of {', '.join(X_NAMES)}, received {len(folders)} by another.")
    limit, share = min(max(points, MIN_POINTS), MAX_POINTS), min(max(smoothing, 0.0), MAX_SMOOTHING)
    found = []
    for folder in folders:
        log, curves = logs.read(folder), []
        with log.lock:
            whole = {split: log.points(split, name, x) for split in CURVE_SPLITS}
            names, per_epoch, events = log.names(), log.steps_per_epoch, log.events[-20:]
        for split, line in whole.items():
            if not line:
                continue
            if split == "train" and share and len(line) > 2 / share:
                curves.append(_pack(smooth(line, share), split, limit, window))
                curves.append(_pack(line, "raw", limit, window))
            else:
                curves.append(_pack(line, split, limit, window))
        found.append({"curves": curves, "names": names, "per_epoch": per_epoch, "events": events})
    return found


def _pack(line: Points, split: str, limit: int, window: tuple[float, float] | None) -> dict[str, Any]:
    """A curve within the window, with a point on either side of it so that the line reaches the edges, of as many points as are drawn."""
    if window is not None:
        xs = [x for x, _ in line]
        line = line[max(0, bisect.bisect_left(xs, window[0]) - 1) : bisect.bisect_right(xs, window[1]) + 1]
    shown = thin(line, limit)
    return {"split": split, "x": [round_number(x) for x, _ in shown], "y": [round_number(y) for _, y in shown]}
