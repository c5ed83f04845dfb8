"""From a recipe and the values of a trial to the trial's recipe."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parts import ExternalPart, Pipe, part_name, pipe_parts, spell
from goodfit.core.settings import settings_of
from goodfit.recipe.parts import make_parts
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.space import FIELDS, KINDS, SHORT, STRENGTH, Space, Value


def settled(base: Recipe, space: Space, values: Mapping[str, Value], known: Catalog) -> Recipe:
    """The recipe of a trial: whole fields first, then settings of their parts.

    Raises:
        UsageError: a part or setting is unknown or takes no such value.
    """
    texts = space.filled(values, known)
    recipe = base.but_text({key: text for key, text in texts.items() if key in FIELDS})
    for key, text in texts.items():
        if key in FIELDS:
            continue
        if key == STRENGTH:
            recipe = recipe.but(augment=milder(recipe, float(text), known))
            continue
        seat, *path = SHORT.get(key, key).split(".")
        recipe = recipe.but(**{seat: with_setting(getattr(recipe, seat), KINDS[seat], path, text, known)})
    make_parts(recipe, known)
    return recipe


def milder(recipe: Recipe, strength: float, known: Catalog) -> str:
    """The recipe's augmentation at a share of its strength, 0 to 1.

    Raises:
        UsageError: the share is outside, or a part is not made to be scaled.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"Expected the strength of an augmentation to be a number from 0 to 1, received {strength:g}.")
    made: list[Any] = list(pipe_parts(known.make(recipe.augment, "augment")))
    if stubborn := next((part for part in made if not scalable(part)), None):
        raise UsageError(f'The strength of "{stubborn}" cannot be scaled.')
    return spell(Pipe(tuple(part.scaled(strength) for part in made)))


def scalable(part: Any) -> bool:
    """Whether an augment can be made milder: it says how, or has the setting that is its strength field."""
    return not isinstance(part, ExternalPart) and (type(part).scaled is not Augment.scaled or hasattr(part, part.strength_field))


def with_setting(text: Any, kind: str, path: list[str], value: str, known: Catalog) -> str:
    """The part of a text with one of its settings, or a setting of its part and so on, replaced.

    Raises:
        UsageError: there is no such setting.
    """
    if text == "auto":
        raise UsageError(f'Expected a {kind} to set "{path[0]}" of, found auto: name one.')
    part = known.make(text, kind)
    if isinstance(part, Pipe):
        raise UsageError(f'Expected one {kind} to set "{path[0]}" of, found "{part}".')
    settings = {s.name: s for s in settings_of(type(part))} if not isinstance(part, ExternalPart) else {}
    if settings and path[0] not in settings:
        raise UsageError(unknown_name(f"setting of {part_name(part)}", path[0], settings))
    if len(path) > 1:
        inner = spell(getattr(part, path[0])) if settings else ""
        value = with_setting(inner, settings[path[0]].kind if settings else "", path[1:], value, known)
    call = ast.parse(spell(part), mode="eval").body
    arguments, keywords = (call.args, call.keywords) if isinstance(call, ast.Call) else ([], [])
    function = call.func if isinstance(call, ast.Call) else call
    named = dict(zip(settings, arguments, strict=False)) if settings else {}
    named |= {str(k.arg): k.value for k in keywords}
    named[path[0]] = ast.parse(value, mode="eval").body
    left = [] if settings else arguments
    return ast.unparse(ast.Call(function, left, [ast.keyword(name, node) for name, node in named.items()]))
