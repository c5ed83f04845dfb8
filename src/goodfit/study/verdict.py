"""Which of some runs is best: the one that leads each of the others by an interval without 0, if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.figures import ACCURACY, Figure
from goodfit.core.words import count_of, list_some

MAX_NAMES = 3  # of the runs of a group, in a sentence


def name_group(names: Sequence[str]) -> str:
    """A run, or several that differ in their seed, in words."""
    return names[0] if len(names) == 1 else f"the mean of {list_some(list(names), MAX_NAMES)}"


def judge(best: Mapping[str, Any], leads: Sequence[Mapping[str, Any]], figure: Figure = ACCURACY) -> dict[str, Any]:
    """Judge the group of the highest accuracy, or the figure of another task, by the pairs of it and each of the others.

    Returns "best", the names of its runs where it is clearly best, else None; and "sentence", which says so.
    """
    name, value = name_group(best["runs"]), figure.format(best[figure.key])
    highest = f"No run is clearly best: {name} has the highest {figure.name}, {value}, but"
    if problem := next((pair for pair in leads if "problem" in pair), None):
        reason = f"it cannot be compared with {name_group(problem['other'])} image by image: {problem['problem']}"
        return {"best": None, "sentence": f"{highest} {reason}."}
    if not leads:
        return {"best": None, "sentence": ""}
    closest = min(leads, key=lambda pair: pair["interval"][0])
    other, interval = name_group(closest["other"]), format_points_interval(closest, figure)
    lead = f"{format_points(closest, figure)} over {other} ({interval})"
    if closest["interval"][0] > 0:
        others = "" if len(leads) == 1 else f", and better than each of the {len(leads)} others by an interval without 0"
        subject = name if len(best["runs"]) == 1 else f"{name[0].upper()}{name[1:]}"
        return {"best": list(best["runs"]), "sentence": f"{subject} is best: {lead}{others}."}
    if closest["difference"] <= 0:
        return {"best": None, "sentence": f"{highest} it is not ahead of {other} on the images that both have seen ({interval})."}
    unclear = sum(pair["interval"][0] <= 0 for pair in leads) - 1
    more = f", and so could its lead over {count_of(unclear, 'other')}" if unclear else ""
    return {"best": None, "sentence": f"{highest} its lead of {lead} could be luck{more}."}


def format_points(pair: Mapping[str, Any], figure: Figure = ACCURACY) -> str:
    """The difference of a pair in points: `+1.8 points`."""
    return figure.format_difference(pair["difference"], _count_digits(pair))


def format_points_interval(pair: Mapping[str, Any], figure: Figure = ACCURACY) -> str:
    """The interval of a pair in words."""
    low, high = (figure.format_signed(x, _count_digits(pair)) for x in pair["interval"])
    return f"95 % interval {low} to {high}, {count_of(pair['images'], 'image')}"


def _count_digits(pair: Mapping[str, Any]) -> int:
    """One decimal, or two where a bound would be rounded to 0, which decides."""
    return 1 if all(abs(x) >= 0.0005 for x in pair["interval"]) else 2
