"""The findings of a data audit as lines of text."""

from __future__ import annotations

from typing import Any

from goodfit.core.words import count_of, format_duration
from goodfit.terminal.tables import format_table

NOTHING = "Nothing was found that speaks against training on this data."


def format_audit(audit: dict[str, Any]) -> list[str]:
    """Format what `Audit.plain` returns: a line for each finding, the worst first, and how many there are."""
    findings = audit["findings"]
    kinds = [(kind, sum(finding["severity"] == kind for finding in findings)) for kind in ("error", "warning", "note")]
    counted = ", ".join(count_of(n, kind) for kind, n in kinds if n) or NOTHING.rstrip(".")
    scope = f"{count_of(audit['images'], 'image')} of {audit['data']}{', quickly' if audit['is_quick'] else ''}"
    rows = [(finding["severity"], finding["sentence"]) for finding in findings]
    return [*(format_table(rows, "<<").split("\n") if rows else []), f"{scope}: {counted} ({format_duration(audit['seconds'])})."]
