"""Charts: series of numbers made small enough to ship, as data for the script that draws them."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.report.markup import NOTHING, Html, tag
from goodfit.report.record import finite

MOST = 999  # points of one series
Points = list[tuple[float, float | None]]  # (x, y) in order of x; None is a gap


@dataclasses.dataclass(frozen=True)
class Series:
    """A line: its name, its points, and how it is drawn: `accent`, `dashed`, `ink`, `faint` or `edge` (of a band)."""

    label: str
    points: Points
    style: str = "ink"


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over training, or over what `x` says. `unit` is `percent` or empty; `marks` are (x, label) of vertical lines; `per_epoch` are
    steps an epoch.
    """

    title: str
    series: tuple[Series, ...]
    caption: str = ""
    x: str = "step"
    unit: str = ""
    log: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    per_epoch: float | None = None
    height: int = 260


def thin(points: Points, most: int = MOST) -> Points:
    """At most `most` points that keep the ends, every bucket's lowest and highest value, and the gaps."""
    if len(points) <= most:
        return points
    buckets = max(1, (most - 2) // 3)
    kept = {0, len(points) - 1}
    for n in range(buckets):
        places = range(n * len(points) // buckets, (n + 1) * len(points) // buckets)
        values = {place: y for place in places if (y := points[place][1]) is not None}
        kept |= {min(values, key=values.__getitem__), max(values, key=values.__getitem__)} if values else set()
        kept |= {next(place for place in places if place not in values)} if len(values) < len(places) else set()
    return [points[place] for place in sorted(kept)]


def smoothed(points: Points, share: float = 0.03) -> Points:
    """The running mean over `share` of the points around each; gaps stay gaps."""
    half = int(len(points) * share / 2)
    sums, counts = [0.0], [0]
    for _, y in points:
        sums.append(sums[-1] + (y or 0.0))
        counts.append(counts[-1] + (y is not None))
    result: Points = []
    for place, (x, y) in enumerate(points):
        low, high = max(0, place - half), min(len(points), place + half + 1)
        result.append((x, None if y is None else (sums[high] - sums[low]) / (counts[high] - counts[low])))
    return result


def positive(points: Points) -> Points:
    """The points a logarithmic axis can show."""
    return [(x, y if y is not None and y > 0 else None) for x, y in points]


def draw(chart: Chart) -> Html:
    """The chart's frame and its data; empty when no series has a number."""
    series = [s for s in chart.series if any(y is not None for _, y in s.points)]
    if not series:
        return NOTHING
    data = {
        "title": chart.title,
        "x": chart.x,
        "unit": chart.unit,
        "log": chart.log,
        "perEpoch": chart.per_epoch,
        "height": chart.height,
        "marks": [{"x": x, "label": label} for x, label in chart.marks],
        "series": [_series(positive(s.points) if chart.log else s.points, s) for s in series],
    }
    return tag(
        "figure.chart",
        tag("h3", chart.title),
        tag("div.plot", attrs={"role": "img", "aria-label": summary(chart)}),
        script_data(data),
        tag("figcaption", chart.caption) if chart.caption else None,
    )


def summary(chart: Chart) -> str:
    """The chart in a sentence, for those who cannot see it."""
    said = []
    for series in chart.series:
        known = [y for _, y in series.points if y is not None]
        if known and series.style != "faint":
            said.append(f"{series.label} from {known[0]:.3g} to {known[-1]:.3g} (lowest {min(known):.3g}, highest {max(known):.3g})")
    return f"{chart.title}: {'; '.join(said)}."


def _series(points: Points, series: Series) -> dict[str, Any]:
    few = thin(points)
    return {"label": series.label, "style": series.style, "x": [short(x) for x, _ in few], "y": [short(y) for _, y in few]}


def short(x: float | None) -> float | int | None:
    """A finite number with six significant digits, as JSON writes it shortest; None stays None."""
    if x is None:
        return None
    rounded = float(f"{x:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def script_data(data: object) -> Html:
    """Data beside the markup; no text in it can end the element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Html(text), attrs={"type": "application/json"})


def points_of(lines: Sequence[dict[str, Any]], *keys: str) -> Points:
    """(step, value) for the value under `keys` in each log line that has a step; other lines are left out, bad values are gaps."""
    found: Points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key, ...) if isinstance(value, dict) else ...
        step = finite(line.get("step"))
        if step is not None and value is not ...:
            found.append((step, finite(value)))
    return sorted(found, key=lambda point: point[0])


# ---- pictures ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file as text that an image element can hold, with its size in pixels."""

    uri: str
    width: int
    height: int


def picture(folder: Path, name: object) -> Picture | None:
    """The PNG `name` of a run folder; None when it is missing, is no PNG, or lies outside the folder."""
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        return None
    width, height = (int.from_bytes(content[place : place + 4]) for place in (16, 20))
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height)
