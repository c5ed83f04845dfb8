"""What was found of a claim as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.words import count_of, format_duration, format_effect_size, format_significant
from goodfit.terminal.lesson import sketch_chart
from goodfit.terminal.tables import format_table


def format_effect(effect: Mapping[str, Any]) -> str:
    """An effect: its mean, its interval, and what the lecture says."""
    mean, low, high, said = (format_effect_size(x, effect["scale"]) for x in (effect["mean"], *effect["interval"], effect["said"]))
    return f"{effect['name']}: {mean} [{low}, {high}], said {said}"


def format_result(finding: Mapping[str, Any]) -> str:
    """One line: the verdict and the effect that decides it."""
    deciding = next(effect for effect in finding["effects"] if effect["verdict"] == finding["verdict"])
    return f"{finding['item']}  {finding['verdict']:12}  {format_effect(deciding)}"


def format_finding(finding: Mapping[str, Any], charts: Sequence[Mapping[str, Any]]) -> list[str]:
    """All of a finding: what the slide says, what was measured, the verdict of each effect and the claim's own, and the curves."""
    rows = []
    for effect in finding["effects"]:
        sizes = (effect["mean"], *effect["interval"], effect["none"], effect["said"])
        rows.append([effect["name"], *(format_effect_size(x, effect["scale"]) for x in sizes), effect["verdict"]])
    header = ("effect", "mean", "from", "to", "nothing is", "said is", "verdict")
    numbers = [(name, format_significant(x, 4)) for name, x in finding["numbers"].items()]
    sketches = [text for chart in charts for text in ("", *sketch_chart(chart))]
    cost = f"{count_of(finding['seeds'], 'seed')}, {format_duration(finding['seconds'])} of one core, {finding['machine']}"
    return [
        f"{finding['item']}: {finding['slide']}",
        f"Here: {finding['hypothesis']}",
        f"Measured: {finding['metric']}.",
        f"Limits: {finding['limits']}",
        "",
        *format_table(rows, "<>>>>><", header, indent="  ").split("\n"),
        "",
        *format_table(numbers, "<>", indent="  ").split("\n"),
        *sketches,
        "",
        f"{finding['item']} {finding['verdict']} ({finding['extent']}, {', '.join(finding['data'])}; {cost}).",
    ]
