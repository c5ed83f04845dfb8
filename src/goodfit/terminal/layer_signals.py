"""What flows through the layers of a network as text: a table for one, side by side for several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.words import format_percent
from goodfit.terminal.tables import format_table

HEADER = ("layer", "enters", "leaves", "passes", "differs", "dead", "flat", "gradient")
LEGEND = (
    "enters, leaves, passes: root mean square before the weight, after it, and after its activation. differs: what leaves, between images,"
    " in units of that. dead, flat: share of units that are zero for every image, of outputs that are saturated. gradient: over the weight."
)
COMPARISON_LEGEND = "Under each name: root mean square after the layer's activation. gradient: over the weight."


def format_signals(layers: Sequence[Mapping[str, Any]]) -> str:
    """Format the layers of one network, with a line on what the columns are."""
    rows = []
    for layer in layers:
        numbers, shares = [_number(layer[key]) for key in HEADER[1:5]], [_share(layer[key]) for key in HEADER[5:7]]
        rows.append((_name(layer), *numbers, *shares, _number(layer["gradient"])))
    return "\n".join([format_table(rows, "<>>>>>>>", HEADER), LEGEND])


def format_signals_comparison(accounts: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Format networks of the same layers side by side, by name: what each layer passes on, and its gradient over the weight."""
    lines = []
    for i, layer in enumerate(accounts[0][1]):
        cells = [(_number(layers[i]["passes"]), _number(layers[i]["gradient"])) for _, layers in accounts]
        lines.append((_name(layer), *(cell for pair in cells for cell in pair)))
    header = ("layer", *(text for name, _ in accounts for text in (name, "gradient")))
    return "\n".join([format_table(lines, "<" + ">>" * len(accounts), header), COMPARISON_LEGEND])


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer["name"]).removesuffix(".weight")


def _number(x: float | None) -> str:
    return "-" if x is None or not math.isfinite(x) else f"{x:.3g}"


def _share(x: float | None) -> str:
    return "-" if x is None or not math.isfinite(x) else format_percent(x, 0)
