"""The card of every part: its spelling with all settings, what it does, when it helps and hurts, its cost and source."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from goodfit.core.catalog import Catalog, name_of, spell
from goodfit.core.settings import said, settings_of


def cards(known: Catalog) -> list[dict[str, Any]]:
    """One dictionary a part: kind, name, spelling, summary (its first sentence), card (its docstring) and settings."""
    found = []
    for kind in sorted(known.kinds):
        for name, cls in sorted(known.kinds[kind].items()):
            card = inspect.getdoc(cls) or ""
            settings = [{"name": s.name, "type": said(s.hint), "default": _default(s.default)} for s in settings_of(cls)]
            words = ", ".join("{name}={default}".format(**s) for s in settings)
            spelling = f"{name_of(cls)}({words})" if settings else name_of(cls)
            found.append(
                {"kind": kind, "name": name, "spelling": spelling, "summary": card.split("\n")[0], "card": card, "settings": settings}
            )
    return found


def _default(value: object) -> str:
    return "required" if value is dataclasses.MISSING else spell(value)
