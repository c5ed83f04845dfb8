"""The cards of parts, with what a search draws of each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from goodfit.core.catalog import Catalog
from goodfit.recipe.parts import load_catalog
from goodfit.study.search.defaults import draw_part, has_default
from goodfit.study.search.space import has_draws


def make_cards(use: Iterable[str | Path] = ()) -> list[dict[str, Any]]:
    """The card of each part of ours and of the user's files, as `Catalog.cards` has it, with "searched": what a search draws by default."""
    catalog = load_catalog(use)
    return [{**card, "searched": _describe_search(catalog, card["kind"], card["name"])} for card in catalog.cards()]


def _describe_search(catalog: Catalog, kind: str, name: str) -> str:
    """The option that spells the space which a search draws such a part from by default; empty where it draws none."""
    if not has_default(kind):
        return ""
    draws = draw_part(catalog.make(name, kind))
    return f'--space "{kind}={draws}"' if has_draws(draws) else ""
