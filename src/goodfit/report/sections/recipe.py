"""Recipe: the settings that were given, those that auto chose and why, and the defaults."""

from __future__ import annotations

from collections.abc import Mapping

from goodfit.core.run_files import get
from goodfit.recipe.recipe import Recipe
from goodfit.report.markup import EMPTY, Child, Column, Html, details, join, paragraph, section, table, tag
from goodfit.report.record import Record, as_items, as_rows

MAX_OPEN_DEFAULTS = 5  # settings at their defaults up to which all are shown without unfolding


def render_recipe(record: Record) -> Html:
    """Render the command, the settings as tables, and the recipe's file."""
    if not record.recipe:
        return section("recipe", "Recipe", paragraph("The run's recipe.toml is missing, empty or damaged."))
    choices = {str(row.get("field")): row for row in as_rows(get(record.about, "choices"))}
    command = get(record.about, "command")
    intro = f"{len(choices)} of these settings were chosen from the data and the machine; the others are given or defaults."
    return section(
        "recipe",
        "Recipe",
        paragraph(intro) if choices else None,
        tag("pre", tag("code", str(command))) if command else None,
        *render_settings(record.recipe, choices),
        details("recipe.toml, to train the same again with --recipe", tag("pre", tag("code", record.recipe_text))),
    )


def render_asked(asked: object, intro: str) -> Html:
    """Render a recipe as it was given, with nothing chosen yet."""
    settings = dict(as_items(asked))
    return section("recipe", "Recipe", paragraph(intro), *render_settings(settings, {})) if settings else EMPTY


def render_settings(settings: Mapping[str, object], choices: Mapping[str, dict[str, object]]) -> list[Html]:
    """Render the settings that were given or chosen, each choice with its reason, and the defaults folded away."""
    defaults = Recipe().plain()
    other = [key for key, value in settings.items() if key not in choices and key in defaults and value == defaults[key]]
    if len(other) <= MAX_OPEN_DEFAULTS:
        other = []
    columns = [Column("Setting"), Column("Value"), *([Column("Chosen by auto, because")] if choices else [])]
    body: list[list[Child]] = [
        [key, tag("code", format_value(value)), *([_render_reason(choices.get(key))] if choices else [])]
        for key, value in settings.items()
        if key not in other
    ]
    rest = [[key, tag("code", format_value(settings[key]))] for key in other]
    folded = details(f"The other {len(other)} settings, which are at their defaults", table(columns[:2], rest)) if other else EMPTY
    return [table(columns, body, stacks=bool(choices)) if body else EMPTY, folded]


def format_value(value: object) -> str:
    """Format a value as a person writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(format_value(item) for item in value) or "none"
    return str(value) if value != "" else "none"


def _render_reason(choice: dict[str, object] | None) -> Child:
    if choice is None:
        return ""
    rule, evidence = str(choice.get("rule") or ""), str(choice.get("evidence") or "")
    return join([tag("span.tag", "auto"), " ", rule, tag("span.dim", f" ({evidence})") if evidence else None])
