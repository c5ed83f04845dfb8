"""Recipe: every setting of the run, which of them auto chose, and why."""

from __future__ import annotations

from goodfit.core.run_files import get
from goodfit.report.markup import Child, Column, Html, details, join, paragraph, section, table, tag
from goodfit.report.record import Record, as_rows


def render_recipe(record: Record) -> Html:
    """Render the command, the settings as a table, and the recipe's file."""
    if not record.recipe:
        return section("recipe", "Recipe", paragraph("The run's recipe.toml is missing, empty or damaged."))
    choices = {str(row.get("field")): row for row in as_rows(get(record.about, "choices"))}
    columns = [Column("Setting"), Column("Value"), *([Column("Chosen by auto, because")] if choices else [])]
    body: list[list[Child]] = [
        [key, tag("code", format_value(value)), *([_render_reason(choices.get(key))] if choices else [])]
        for key, value in record.recipe.items()
    ]
    command = get(record.about, "command")
    intro = f"{len(choices)} of these settings were chosen from the data and the machine; the others are given or defaults."
    return section(
        "recipe",
        "Recipe",
        paragraph(intro) if choices else None,
        tag("pre", tag("code", str(command))) if command else None,
        table(columns, body),
        details("recipe.toml, to train the same again with --recipe", tag("pre", tag("code", record.recipe_text))),
    )


def format_value(value: object) -> str:
    """Format a value as a person writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(format_value(item) for item in value)
    return str(value) if value != "" else "none"


def _render_reason(choice: dict[str, object] | None) -> Child:
    if choice is None:
        return ""
    rule, evidence = str(choice.get("rule") or ""), str(choice.get("evidence") or "")
    return join([tag("span.tag", "auto"), " ", rule, tag("span.dim", f" ({evidence})") if evidence else None])
