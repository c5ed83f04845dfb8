"""The page of a lesson: what the slide says, numbers beside those it prints, tables, pictures, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goodfit.core.words import format_beside, format_significant
from goodfit.report.charts import Chart, render_chart
from goodfit.report.frame import render_page
from goodfit.report.markup import Column, paragraph, section, table, tag


def render_lesson(lesson: dict[str, Any], charts: Sequence[Chart]) -> str:
    """Render what `goodfit lab lessons NAME --json` prints as one HTML text; `charts` are its pictures."""
    header = tag(
        "header",
        tag("p.eyebrow", f"Goodfit lesson · {lesson['source']}"),
        tag("h1", lesson["title"].rstrip(".")),
        tag("p.verdict", lesson["slide"]),
    )
    numbers = [[row["name"], format_beside(row["value"], row["printed"]), row["printed"], row["note"]] for row in lesson["numbers"]]
    columns = [Column(""), Column("Computed", "number"), Column("Slide", "number"), Column("")]
    tables = []
    for content in lesson["tables"]:
        kinds = ["text" if all(isinstance(row[k], str) for row in content["rows"]) else "number" for k in range(len(content["header"]))]
        heads = [Column(title, kind) for title, kind in zip(content["header"], kinds, strict=True)]
        body = [[x if isinstance(x, str) else format_significant(x) for x in row] for row in content["rows"]]
        tables += [tag("h3", content["title"]), table(heads, body)]
    erratum = paragraph(lesson["erratum"]) if lesson["erratum"] else None
    parts = (
        ("numbers", "Numbers", section("numbers", "Numbers", table(columns, numbers) if numbers else None, *tables)),
        ("pictures", "Pictures", section("pictures", "Pictures", *(tag("div.charts.large", render_chart(chart)) for chart in charts))),
        ("erratum", "Erratum", section("erratum", "Where the slide errs", erratum)),
    )
    return render_page(f"{lesson['title'].rstrip('.')} · Goodfit lesson", header, parts, f"Made by goodfit lab lessons {lesson['name']}.")
