"""Where the time went."""

from __future__ import annotations

import statistics

from goodfit.core import words
from goodfit.report.markup import NOTHING, Child, Column, Html, bar, paragraph, percent, section, table
from goodfit.report.record import Record, at, finite, number

NAMES = {"startup": "Starting up", "data": "Preparing the data", "training": "Training", "evaluation": "Evaluating"}
WAITING = 0.2  # share of a step spent waiting for data that is worth a word


def timing(record: Record) -> Html:
    """Seconds by purpose, images a second, and whether the data kept up."""
    seconds = at(record.about, "seconds")
    known = {str(key): s for key, value in seconds.items() if (s := finite(value)) is not None} if isinstance(seconds, dict) else {}
    total = sum(known.values())
    body: list[list[Child]] = [
        [NAMES.get(key, key), bar(s / total), words.format_duration(s), percent(s / total, 0)]
        for key, s in sorted(known.items(), key=_place)
        if total > 0
    ]
    if body:
        body.append(["Together", NOTHING, words.format_duration(total), ""])
    columns = [Column("Spent on"), Column("", "wide"), Column("Time", "number"), Column("Share", "number")]
    return section("timing", "Time", table(columns, body) if body else NOTHING, paragraph(said) if (said := speed(record)) else NOTHING)


def _place(item: tuple[str, float]) -> int:
    return [*NAMES, item[0]].index(item[0])


def speed(record: Record) -> str:
    """Images a second, and what limits them."""
    rates = [x for line in record.train if (x := number(line, "images_per_s")) is not None]
    shares = [x for line in record.train if (x := number(line, "data_share")) is not None]
    said = f"Training saw {statistics.median(rates):,.0f} images a second (median). " if rates else ""
    if not shares:
        return said.strip()
    share = statistics.median(shares)
    said += f"Waiting for images took {percent(share, 0)} of a step: "
    if share < WAITING:
        return said + "the model sets the pace, not the data."
    return said + "the data holds the model up; a smaller size, lighter augmentation or more threads may help."
