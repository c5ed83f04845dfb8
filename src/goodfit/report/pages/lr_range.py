"""The page of a learning-rate range test: the loss over the rate, and which rates are good."""

from __future__ import annotations

from typing import Any

from goodfit.report.charts import Chart, Series, render_chart
from goodfit.report.frame import render_page
from goodfit.report.markup import Column, bullet_list, details, format_number, section, table, tag
from goodfit.report.sections.headline import format_title

ADVICE = "Try --low and --high further apart, more --steps, a larger --batch-size, or another --model."
CAPTION = "Every step is made at a larger rate than the one before, and all are undone. The box holds the good rates."


def describe_range(found: dict[str, Any]) -> tuple[str, list[str]]:
    """Say which rates are good, and why; or that none is, and what to try."""
    reasons = [f"{reason[:1].upper()}{reason[1:]}." for reason in found["reasons"]]
    if found["low"] is None or found["high"] is None:
        return reasons[0], [ADVICE]
    return f"Good peak learning rates: {found['low']:.2g} to {found['high']:.2g}.", reasons


def render_lr_range(data: str, found: dict[str, Any]) -> str:
    """Render what `goodfit lr --json` prints as one HTML text; `data` names the images."""
    name = format_title(data)
    result, reasons = describe_range(found)
    header = tag("header", tag("p.eyebrow", "Goodfit learning-rate range"), tag("h1", name), tag("p.verdict", result), bullet_list(reasons))
    tested = list(zip(found["tested"]["rates"], found["tested"]["losses"], strict=True))
    series = (
        Series("loss of a step", tested, "faint"),
        Series("smoothed", list(zip(found["rates"], found["smoothed"], strict=True)), "accent"),
    )
    finite = [loss for loss in found["tested"]["losses"] if loss is not None]
    chart = Chart(
        "Loss over the learning rate",
        series,
        CAPTION if found["low"] is not None else CAPTION.partition(" The")[0],
        x="learning rate",
        log=bool(finite) and min(finite) > 0,  # an explosion would flatten the rest
        log_x=True,
        marks=((found["blowup"], "too large"),) if found["blowup"] is not None else (),
        ranges=((found["low"], found["high"], "good"),) if found["low"] is not None else (),
        height=360,
    )
    body = [[format_number(rate), format_number(loss) if loss is not None else "not finite"] for rate, loss in tested]
    numbers = details("The steps as a table", table([Column("Learning rate"), Column("Loss", "number")], body))
    parts = [("curve", "Curve", section("curve", "Curve", tag("div.charts.large", render_chart(chart)), numbers))]
    return render_page(f"{name} · Goodfit learning-rate range", header, parts, "Made by goodfit lr.")
