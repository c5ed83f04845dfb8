"""What tells runs apart: the fields in which their recipes differ, and short names."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MADE_NAME = re.compile(r"\d{8}-\d{6}-")  # begins the name of a folder that nobody chose
MAX_NAME_LENGTH = 28  # characters
# What auto fits to the machine, which changes speed rather than results: no name is made of it.
MACHINE_FIELDS = ("precision", "layout", "device", "threads", "workers", "cache", "pieces", "storage")


def find_differences(recipes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields whose values are not all the same: "field", and "values" as text, of parts only the settings that differ."""
    fields = dict.fromkeys(field for recipe in recipes for field in recipe)
    differences = []
    for field in fields:
        values = [format_field(recipe.get(field)) for recipe in recipes]
        if len(set(values)) > 1:
            differences.append({"field": field, "values": abbreviate_parts(values)})
    return differences


def format_field(value: Any) -> str:
    """Format a field's value as a person writes it; "-" where a run of another version does not have the field."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(format_field, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value) or "none"


def abbreviate_parts(values: Sequence[str]) -> list[str]:
    """Replace the settings that are the same in all texts of one part by `...`; other texts are left as they are."""
    try:
        calls = [ast.parse(value, mode="eval").body for value in values]
    except SyntaxError:
        return list(values)
    parts = [call for call in calls if isinstance(call, ast.Call)]
    if len(parts) < len(calls) or len({ast.unparse(part.func) for part in parts}) > 1:
        return list(values)
    settings = [
        {**{str(place): ast.unparse(x) for place, x in enumerate(part.args)}, **{str(k.arg): ast.unparse(k.value) for k in part.keywords}}
        for part in parts
    ]
    same = {key for key, value in settings[0].items() if all(other.get(key) == value for other in settings)}
    texts = []
    for part, values_by_key in zip(parts, settings, strict=True):
        words = [value if key.isdecimal() else f"{key}={value}" for key, value in values_by_key.items() if key not in same]
        texts.append(f"{ast.unparse(part.func)}({', '.join([*words, *(['...'] if same else [])])})")
    return texts


# ---- names -----------------------------------------------------------------------------------------------------------------------


def name_runs(paths: Sequence[Path], differences: Sequence[dict[str, Any]]) -> list[str]:
    """A short name for each run, no two the same.

    It is the name of the run's folder; where nobody chose that, and the recipes differ in one field alone, its value.
    """
    folders = [path.resolve() for path in paths]
    if any(MADE_NAME.match(folder.name) for folder in folders) and (values := _name_by_field(differences)):
        return values
    most = max((len(folder.parts) for folder in folders), default=1)
    several = (["/".join(folder.parts[-n:]) for folder in folders] for n in range(1, most + 1))
    names = next((names for names in several if len(set(names)) == len(names)), [str(path) for path in paths])
    short = [_shorten(name) for name in names]
    count = Counter(short)
    return [name if count[name] == 1 else f"{name} ({place + 1})" for place, name in enumerate(short)]


def _name_by_field(differences: Sequence[dict[str, Any]]) -> list[str]:
    """The values of the one field that differs, where they are short and all different; else nothing."""
    rows = [row for row in differences if row["field"] not in MACHINE_FIELDS]
    if len(rows) != 1:
        return []
    values = [value.replace("(...)", "").replace(", ...", "") for value in rows[0]["values"]]
    names = [value if value[:1].isalpha() and value not in ("true", "false", "none", "auto") else f"{rows[0]['field']} {value}"
             for value in values]  # fmt: skip
    return names if len(set(names)) == len(names) and max(map(len, names)) <= MAX_NAME_LENGTH else []


def _shorten(name: str) -> str:
    """Cut the middle out of a name that is too long."""
    half = (MAX_NAME_LENGTH - 3) // 2
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:half]}...{name[-half:]}"
