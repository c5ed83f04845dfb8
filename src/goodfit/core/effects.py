"""Effects as text: the numbers by which a claim is judged, by their scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goodfit.core.words import format_percent, format_significant

EFFECT_HEADER = ("Effect", "Mean", "95 % from", "to", "Null", "Claimed", "Verdict")


def format_size(x: float | None, scale: str) -> str:
    """Format the size of an effect by its scale: `+1.5` "points", a "share" as `1.5 %`, a "ratio" as `2.05x`, else the number."""
    if x is None:
        return "-"
    forms = {"points": f"{100 * x:+.1f}", "share": format_percent(x), "ratio": f"{format_significant(x, 3)}x"}
    return forms.get(scale, format_significant(x, 3))


def effect_cells(effect: Mapping[str, Any]) -> list[str]:
    """The cells of an effect's row, in the order of EFFECT_HEADER."""
    mean, low, high, null, claimed = (
        format_size(x, effect["scale"]) for x in (effect["mean"], *effect["interval"], effect["null"], effect["claimed"])
    )
    return [effect["name"], f"{'at least ' if effect['is_bound'] else ''}{mean}", low, high, null, claimed, effect["verdict"]]
