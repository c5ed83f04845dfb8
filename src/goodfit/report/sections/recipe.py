"""The recipe: every setting of the run, which of them were chosen by auto, and why."""

from __future__ import annotations

from goodfit.report.markup import Child, Column, Html, folded, joined, paragraph, section, table, tag
from goodfit.report.record import Record, at, rows


def recipe(record: Record) -> Html:
    """The settings as a table, the file itself folded below it, and the command."""
    if not record.recipe:
        return section("recipe", "Recipe", paragraph("The run's recipe.toml is missing, empty or damaged."))
    choices = {str(row.get("field")): row for row in rows(at(record.about, "choices"))}
    columns = [Column("Setting"), Column("Value"), *([Column("Chosen by auto, because")] if choices else [])]
    body: list[list[Child]] = [
        [key, tag("code", said(value)), *([_reason(choices.get(key))] if choices else [])] for key, value in record.recipe.items()
    ]
    command = at(record.about, "command")
    intro = f"{len(choices)} of these settings were chosen from the data and the machine; the others were given or are the defaults."
    return section(
        "recipe",
        "Recipe",
        paragraph(intro) if choices else None,
        tag("pre", tag("code", str(command))) if command else None,
        table(columns, body),
        folded("recipe.toml, to train this again with --recipe", tag("pre", tag("code", record.recipe_text))),
    )


def said(value: object) -> str:
    """A value as a person writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(said(item) for item in value)
    return str(value) if value != "" else "none"


def _reason(choice: dict[str, object] | None) -> Child:
    if choice is None:
        return ""
    rule, evidence = str(choice.get("rule") or ""), str(choice.get("evidence") or "")
    return joined([tag("span.tag", "auto"), " ", rule, tag("span.dim", f" ({evidence})") if evidence else None])
