"""The page of the claims: a table of verdicts, then each claim with its effects, numbers and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.words import count_of, format_duration, format_effect_size, format_significant
from goodfit.report.charts import Chart, render_chart
from goodfit.report.frame import render_page
from goodfit.report.markup import Column, Html, details, join, paragraph, section, table, tag

RULE = (
    "An effect holds if the 95 % interval of its mean over the seeds lies above what nothing would be and the mean reaches what was said,"
    " holds weaker if only the interval does. Otherwise it fails here if the interval ends below what was said, and is undecided if it"
    " reaches from nothing to there. A claim gets the least verdict of its effects. Small nets, small images and short trainings: no"
    " verdict is one about ImageNet."
)


def render_claims(findings: Sequence[Mapping[str, Any]], charts: Sequence[Sequence[Chart]]) -> str:
    """Render what `goodfit lab claims --json` prints as one HTML text; `charts` are the curves of each finding."""
    seconds = sum(finding["seconds"] for finding in findings)
    header = tag(
        "header",
        tag("p.eyebrow", "Goodfit lab"),
        tag("h1", "What the lectures claim"),
        tag("p.verdict", f"{count_of(len(findings), 'claim')}, {format_duration(seconds)} of one core. {RULE}"),
    )
    columns = [Column("Claim"), Column("The lecture says"), Column("Verdict")]
    rows = [[tag("a", f["item"], attrs={"href": f"#{f['item']}"}), f["slide"], f["verdict"]] for f in findings]
    parts = [("verdicts", "Verdicts", section("verdicts", "Verdicts", table(columns, rows)))]
    for finding, curves in zip(findings, charts, strict=True):
        parts.append((finding["item"], finding["item"], render_finding(finding, curves)))
    return render_page("Claims · Goodfit lab", header, parts, "Made by goodfit lab claims.")


def render_finding(finding: Mapping[str, Any], charts: Sequence[Chart]) -> Html:
    """Render the section of a claim."""
    columns = [Column("Effect"), *(Column(name, "number") for name in ("Mean", "From", "To", "Nothing is", "Said is")), Column("Verdict")]
    effects = [
        [e["name"], *(format_effect_size(x, e["scale"]) for x in (e["mean"], *e["interval"], e["none"], e["said"])), e["verdict"]]
        for e in finding["effects"]
    ]
    numbers = [[name, format_significant(x, 4)] for name, x in finding["numbers"].items()]
    cost = f"{count_of(finding['seeds'], 'seed')}, {format_duration(finding['seconds'])} of one core"
    origin = f"{finding['extent']}, {', '.join(finding['data'])}; {cost}, {finding['machine']}, {finding['date'][:10]}."
    return section(
        finding["item"],
        f"{finding['item']} {finding['verdict']}",
        paragraph(tag("strong", finding["slide"])),
        paragraph(finding["hypothesis"]),
        paragraph(f"Measured: {finding['metric']}. {finding['limits']}"),
        table(columns, effects),
        join(tag("div.charts", render_chart(chart)) for chart in charts),
        details("What the effects were computed from", table([Column(""), Column("Mean", "number")], numbers)),
        paragraph(origin),
    )
