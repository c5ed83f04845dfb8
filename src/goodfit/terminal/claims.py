"""What was found of a claim as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.effects import EFFECT_HEADER, effect_cells
from goodfit.core.words import count_of, format_duration, format_significant
from goodfit.terminal.lesson import sketch_chart
from goodfit.terminal.tables import format_table


def format_result(finding: Mapping[str, Any]) -> str:
    """One line: the verdict and the effect that decides it."""
    deciding = next(effect for effect in finding["effects"] if effect["verdict"] == finding["verdict"])
    name, mean, low, high, _, claimed, _ = effect_cells(deciding)
    return f"{finding['item']}  {finding['verdict']:12}  {name}: {mean} [{low}, {high}], claimed {claimed}"


def format_finding(finding: Mapping[str, Any], charts: Sequence[Mapping[str, Any]]) -> list[str]:
    """All of a finding: what the slide says, what was measured, the verdict of each effect and the claim's own, and the curves."""
    rows = [effect_cells(effect) for effect in finding["effects"]]
    header = [title.lower() for title in EFFECT_HEADER]
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
        f"{finding['item']} {finding['verdict']} ({', '.join([finding['extent'], *finding['data']])}; {cost}).",
    ]
