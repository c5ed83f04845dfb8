"""The recipe of a trial, from the recipe of the search and the trial's values."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parts import ExternalPart, Part, Pipe, part_name, pipe_parts, spell
from goodfit.core.settings import settings_of
from goodfit.core.words import with_article
from goodfit.recipe.parts import make_parts
from goodfit.recipe.recipe import SEATS, Recipe
from goodfit.study.search.space import RECIPE_FIELDS, SHORT_KEYS, STRENGTH_KEY, Space, Value, to_node


def recipe_of_trial(base: Recipe, space: Space, values: Mapping[str, Value], catalog: Catalog, is_own: bool = False) -> Recipe:
    """The recipe of a trial: whole fields are replaced first, then settings of their parts.

    `is_own` says that the user himself named the code in the space.

    Raises:
        UsageError: a part or setting is unknown or takes no such value.
    """
    texts = space.substitute(values, catalog)
    recipe = base.but_text({key: text for key, text in texts.items() if key in RECIPE_FIELDS})
    for key, text in texts.items():
        if key in RECIPE_FIELDS:
            continue
        if key == STRENGTH_KEY:
            recipe = recipe.but(augment=scale_augment(recipe, float(text), catalog))
            continue
        if is_own:
            recipe.trust_own_code()
        seat, *path = SHORT_KEYS.get(key, key).split(".")
        recipe = recipe.but(**{seat: with_setting(getattr(recipe, seat), SEATS[seat], path, text, catalog)})
    if is_own:
        recipe.trust_own_code()
    make_parts(recipe, catalog)
    return recipe if is_own else recipe.as_read()


def scale_augment(recipe: Recipe, strength: float, catalog: Catalog) -> str:
    """The text of the recipe's augmentation at a share of its strength, 0 to 1.

    Raises:
        UsageError: the share is outside, or a part cannot be scaled.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"Expected the strength of an augmentation to be a number from 0 to 1, received {strength:g}.")
    parts: list[Any] = list(pipe_parts(catalog.make(recipe.augment, "augment")))
    if fixed := next((part for part in parts if not can_scale(part)), None):
        raise UsageError(f'The strength of "{fixed}" cannot be scaled.')
    return spell(Pipe(tuple(part.scaled(strength) for part in parts)))


def can_scale(part: Any) -> bool:
    """Whether an augment can be scaled: it says how, or has the setting that is its strength field."""
    return not isinstance(part, ExternalPart) and (type(part).scaled is not Augment.scaled or hasattr(part, part.strength_field))


def with_setting(text: str | Part, kind: str, path: list[str], value: str, catalog: Catalog) -> str:
    """The text of a part with the setting at `path` (a setting, one of the part in it, and so on) replaced by the text of a value.

    Raises:
        UsageError: there is no such setting.
    """
    if text == "auto":
        raise UsageError(f'Expected {with_article(kind)} by name, whose "{path[0]}" can be set, received auto.')
    part = catalog.make(text, kind)
    if isinstance(part, Pipe):
        raise UsageError(f'Expected one {kind}, whose "{path[0]}" can be set, received "{part}".')
    if isinstance(part, ExternalPart):
        name, positional, texts, inner_kind = part.path, list(map(spell, part.arguments)), {k: spell(x) for k, x in part.settings}, ""
    else:
        settings = {setting.name: setting for setting in settings_of(type(part))}
        if path[0] not in settings:
            raise UsageError(unknown_name(f"setting of {part_name(part)}", path[0], settings))
        changed = [name for name, setting in settings.items() if getattr(part, name) != setting.default]
        name, positional, texts = part_name(part), [], {name: spell(getattr(part, name)) for name in changed}
        inner_kind = settings[path[0]].kind
    if len(path) > 1:
        value = with_setting(spell(getattr(part, path[0], "")), inner_kind, path[1:], value, catalog)
    texts[path[0]] = ast.unparse(to_node(value))
    return f"{name}({', '.join([*positional, *(f'{key}={text}' for key, text in texts.items())])})"
