"""The page of the claims: a table of verdicts, then each claim with its effects, numbers and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.effects import EFFECT_HEADER, effect_cells
from goodfit.core.words import count_of, format_duration, format_significant
from goodfit.report.charts import Chart, render_chart
from goodfit.report.frame import render_page
from goodfit.report.markup import Column, Html, details, join, paragraph, section, table, tag


def render_claims(findings: Sequence[tuple[Mapping[str, Any], Sequence[Chart]]], untried: Sequence[tuple[str, str, str]], rule: str) -> str:
    """Render what `goodfit lab claims --json` prints, with the curves of each finding, as one HTML text.

    `untried` are the claims without a verdict: item, what the lecture says, and why; `rule` says how verdicts come about.
    """
    seconds = sum(finding["seconds"] for finding, _ in findings)
    header = tag(
        "header",
        tag("p.eyebrow", "Goodfit lab"),
        tag("h1", "What the lectures claim"),
        tag("p.verdict", f"{count_of(len(findings), 'claim')}, {format_duration(seconds)} of one core."),
        paragraph(rule),
    )
    columns = [Column("Claim"), Column("The lecture says"), Column("Verdict")]
    rows = [[tag("a", f["item"], attrs={"href": f"#{f['item']}"}), f["slide"], f["verdict"]] for f, _ in findings]
    rows += [[item, slide, f"not tried: {reason}"] for item, slide, reason in untried]
    parts = [("verdicts", "Verdicts", section("verdicts", "Verdicts", table(columns, rows)))]
    parts += [(finding["item"], finding["item"], render_finding(finding, curves)) for finding, curves in findings]
    return render_page("Claims · Goodfit lab", header, parts, "Made by goodfit lab claims.")


def render_finding(finding: Mapping[str, Any], charts: Sequence[Chart]) -> Html:
    """Render the section of a claim."""
    columns = [Column(title, "number" if 0 < k < len(EFFECT_HEADER) - 1 else "text") for k, title in enumerate(EFFECT_HEADER)]
    numbers = [[name, format_significant(x, 4)] for name, x in finding["numbers"].items()]
    cost = f"{count_of(finding['seeds'], 'seed')}, {format_duration(finding['seconds'])} of one core"
    origin = f"{', '.join([finding['extent'], *finding['data']])}; {cost}, {finding['machine']}, {finding['date'][:10]}."
    return section(
        finding["item"],
        f"{finding['item']} {finding['verdict']}",
        paragraph(tag("strong", finding["slide"])),
        paragraph(finding["hypothesis"]),
        paragraph(f"Measured: {finding['metric']}. {finding['limits']}"),
        table(columns, [effect_cells(effect) for effect in finding["effects"]]),
        join(tag("div.charts", render_chart(chart)) for chart in charts),
        details("What the effects were computed from", table([Column(""), Column("Mean", "number")], numbers)),
        paragraph(origin),
    )
