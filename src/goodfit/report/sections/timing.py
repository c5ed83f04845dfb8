"""Time: how long each stage of a run took, and whether the data kept up."""

from __future__ import annotations

import statistics

from goodfit.core import words
from goodfit.core.progress import Cost
from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Child, Column, Html, bar, format_percent, paragraph, section, table
from goodfit.report.record import Record, as_items, as_number, get_number

LABELS = {"startup": "Starting up", "data": "Preparing the data", "training": "Training", "evaluation": "Evaluating"}
SLOW_DATA_SHARE = 0.2  # share of a step spent waiting for images from which on the data counts as the bottleneck


def render_timing(record: Record) -> Html:
    """Render the time by stage, and the speed of training."""
    seconds = get(record.about, "seconds")
    stages = {key: s for key, value in as_items(seconds) if (s := as_number(value)) is not None}
    total = sum(stages.values())
    body: list[list[Child]] = [
        [LABELS.get(key, key), bar(s / total), words.format_duration(s), format_percent(s / total, 0)]
        for key, s in sorted(stages.items(), key=_order)
        if total > 0
    ]
    if body:
        body.append(["Total", EMPTY, words.format_duration(total), ""])
        if cost := Cost.read(str(get(record.recipe, "budget"))):
            body.append(["Cost", EMPTY, cost.describe(total), ""])
    columns = [Column("Spent on"), Column("", "wide"), Column("Time", "number"), Column("Share", "number")]
    return section(
        "timing",
        "Time",
        table(columns, body) if body else EMPTY,
        paragraph(speed) if (speed := describe_speed(record)) else EMPTY,
        paragraph(sent) if (sent := describe_sent(record)) else EMPTY,
    )


def describe_sent(record: Record) -> str:
    """Describe what each of several processes sent; empty for one process."""
    processes, bytes_sent, messages = (get_number(record.about, "communication", key) for key in ("processes", "bytes_sent", "messages"))
    if processes is None or bytes_sent is None or messages is None:
        return ""
    return words.describe_communication(processes, bytes_sent, messages)


def _order(item: tuple[str, float]) -> int:
    return [*LABELS, item[0]].index(item[0])


def describe_speed(record: Record) -> str:
    """Describe how many images per second training processed, and what limited it."""
    rates = [x for line in record.train if (x := get_number(line, "images_per_s")) is not None]
    shares = [x for line in record.train if (x := get_number(line, "data_share")) is not None]
    speed = f"Training processed {statistics.median(rates):,.0f} images per second (median). " if rates else ""
    if not shares:
        return speed.strip()
    share = statistics.median(shares)
    speed += f"Waiting for images took {format_percent(share, 0)} of a step: "
    if share < SLOW_DATA_SHARE:
        return speed + "the model is the bottleneck, not the data."
    return speed + "the data is the bottleneck; a smaller size, lighter augmentation or more threads may help."
