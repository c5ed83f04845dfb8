"""Charts: series of numbers made small enough to ship, as data for the script that draws them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from goodfit.report.markup import EMPTY, Html, tag
from goodfit.report.record import as_number

MAX_POINTS = 999  # of one series
RUN_STYLES = 18  # six colors that the color-blind tell apart, each solid, dashed and dotted; report.css has them too
Points = list[tuple[float, float | None]]  # (x, y); None is a gap


@dataclasses.dataclass(frozen=True)
class Series:
    """A line through points in their order, or dots at them.

    The `style` of a line is `accent`, `ink`, `dashed`, `faint`, `guide`, `whisker`, `edge` (two of them bound a band), or that of one of
    several runs (`run_style`). With `radii`, in pixels and one for each point, dots are drawn instead, whose style is `accent`, `ink`,
    `faint`, `ring`, `cross` or that of a run. `notes`, one for each point, are shown to a reader who points at it.
    With a `choice` it is shown only while the chart's slider stands there.
    """

    label: str
    points: Points
    style: str = "ink"
    radii: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    choice: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """Series over a common x axis: the training steps, or the quantity that `x` names. The axes are labeled `x` and `y`.

    `unit` of y and `x_unit` are `percent` or empty; `log` and `log_x` ask for logarithmic axes. `marks` are (x, label) of vertical
    lines, `ranges` are (low, high, label) of shaded stretches of x. `x_range` is what the x axis shows at first. `steps_per_epoch`
    converts x to epochs. `choices` are what a slider beside the chart, named `slider`, lets the reader move through, from the first on.
    `summary` is for readers who cannot see the chart; by default it says where each series begins and ends.
    """

    title: str
    series: tuple[Series, ...]
    caption: str = ""
    x: str = "step"
    y: str = ""
    unit: str = ""
    x_unit: str = ""
    log: bool = False
    log_x: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    ranges: tuple[tuple[float, float, str], ...] = ()
    x_range: tuple[float, float] | None = None
    steps_per_epoch: float | None = None
    height: int = 260
    summary: str = ""
    slider: str = ""
    choices: tuple[str, ...] = ()


def run_style(place: int) -> str:
    """The style of the run at a place among several: no two of the first eighteen have the same color and the same dashes."""
    return f"run{place % RUN_STYLES}"


def thin(points: Points, limit: int = MAX_POINTS) -> Points:
    """Keep at most `limit` points: both ends, the lowest and the highest value of every bucket, and the gaps."""
    if len(points) <= limit:
        return points
    buckets = max(1, (limit - 2) // 3)
    kept = {0, len(points) - 1}
    for n in range(buckets):
        indices = range(n * len(points) // buckets, (n + 1) * len(points) // buckets)
        values = {index: y for index in indices if (y := points[index][1]) is not None}
        kept |= {min(values, key=values.__getitem__), max(values, key=values.__getitem__)} if values else set()
        kept |= {next(index for index in indices if index not in values)} if len(values) < len(indices) else set()
    return [points[index] for index in sorted(kept)]


def smooth(points: Points, share: float = 0.03) -> Points:
    """Return the running mean over the nearest `share` of the points; gaps stay gaps."""
    half = int(len(points) * share / 2)
    sums, counts = [0.0], [0]
    for _, y in points:
        sums.append(sums[-1] + (y or 0.0))
        counts.append(counts[-1] + (y is not None))
    means: Points = []
    for index, (x, y) in enumerate(points):
        low, high = max(0, index - half), min(len(points), index + half + 1)
        means.append((x, None if y is None else (sums[high] - sums[low]) / (counts[high] - counts[low])))
    return means


def render_chart(chart: Chart) -> Html:
    """Render the frame of a chart with its data; empty if no series has a number."""
    series = [s for s in chart.series if any(y is not None for _, y in s.points)]
    if not series:
        return EMPTY
    data = {
        "title": chart.title,
        "x": chart.x,
        "unit": chart.unit,
        "xUnit": chart.x_unit,
        "log": chart.log,
        "logX": chart.log_x,
        "perEpoch": chart.steps_per_epoch,
        "height": chart.height,
        "marks": [{"x": x, "label": label} for x, label in chart.marks],
        "ranges": [{"low": low, "high": high, "label": label} for low, high, label in chart.ranges],
        "xRange": chart.x_range,
        "slider": chart.slider,
        "choices": chart.choices,
        "series": [_series_data(s, chart.log) for s in series],
    }
    return tag(
        "figure.chart",
        tag("h3", chart.title),
        tag("p.axis", chart.y) if chart.y else None,
        tag("div.plot", attrs={"role": "img", "aria-label": chart.summary or describe_chart(chart)}),
        embed_json(data),
        tag("figcaption", chart.caption) if chart.caption else None,
    )


def describe_chart(chart: Chart) -> str:
    """Describe a chart in a sentence, for readers who cannot see it."""
    clauses = []
    for series in chart.series:
        ys = [y for _, y in series.points if y is not None]
        if ys and series.style != "faint" and (not chart.choices or series.choice in ("", chart.choices[0])):
            clauses.append(f"{series.label} from {ys[0]:.3g} to {ys[-1]:.3g} (lowest {min(ys):.3g}, highest {max(ys):.3g})")
    return f"{chart.title}: {'; '.join(clauses)}."


def _series_data(series: Series, log: bool) -> dict[str, Any]:
    # A logarithmic axis cannot show what is not positive. Radii and notes belong to points by position, so these are not thinned.
    points = [(x, y if y is not None and y > 0 else None) for x, y in series.points] if log else series.points
    points = points if series.radii or series.notes else thin(points)
    xs, ys = ([round_number(value) for value in column] for column in zip(*points, strict=True))
    return {
        "label": series.label,
        "style": series.style,
        "x": xs,
        "y": ys,
        "radii": series.radii,
        "notes": series.notes,
        "choice": series.choice,
    }


def round_number(x: float | None) -> float | int | None:
    """Round a finite number to six significant digits, in the type that JSON writes shortest; None stays None."""
    if x is None:
        return None
    rounded = float(f"{x:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def embed_json(data: object) -> Html:
    """Embed data in the page, escaped so that no text in it can end its element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Html(text), attrs={"type": "application/json"})


def read_points(lines: Sequence[dict[str, Any]], *keys: str) -> Points:
    """Return (step, value) for the value under `keys` of each log line that has a step; values that are no finite number are gaps."""
    points: Points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key, ...) if isinstance(value, dict) else ...
        step = as_number(line.get("step"))
        if step is not None and value is not ...:
            points.append((step, as_number(value)))
    return sorted(points, key=lambda point: point[0])
