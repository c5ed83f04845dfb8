"""From a recipe and the values of a trial to the trial's recipe, and the space that is searched where none is given."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from goodfit.core.catalog import Catalog, Foreign, Pipe, name_of, spell, steps
from goodfit.core.errors import UsageError, one_of
from goodfit.core.settings import settings_of
from goodfit.recipe.build import parts
from goodfit.recipe.recipe import Recipe
from goodfit.study.space import FIELDS, KINDS, SHORT, STRENGTH, Space, Value

# The default space around what the recipe has: the lecture's "hyper-parameters to play with".
RATES = (1 / 30, 10.0)  # of the learning rate that auto or the preset chose: one and a half decades below, one above
DECAYS = (1e-5, 1e-2)
DROPPED = (0.0, 0.5)
WIDTHS = (0.5, 1, 2)
DEPTHS = (18, 34, 50)


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
    parts(recipe, known)
    return recipe


def milder(recipe: Recipe, strength: float, known: Catalog) -> str:
    """The recipe's augmentation at a share of its strength, 0 to 1.

    Raises:
        UsageError: the share is outside, or a part is not made to be scaled.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"Expected the strength of an augmentation to be a number from 0 to 1, received {strength:g}.")
    made: list[Any] = list(steps(known.make(recipe.augment, "augment")))
    if stubborn := next((part for part in made if isinstance(part, Foreign)), None):
        raise UsageError(f'The strength of "{stubborn}" cannot be scaled.')
    return spell(Pipe(tuple(part.scaled(strength) for part in made)))


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
    settings = {s.name: s for s in settings_of(type(part))} if not isinstance(part, Foreign) else {}
    if settings and path[0] not in settings:
        raise UsageError(one_of(f"setting of {name_of(part)}", path[0], settings))
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


def default_texts(base: Recipe, known: Catalog) -> dict[str, str]:
    """The space around a resolved recipe: architecture, learning rate, weight decay, dropout and strength of augmentation.

    Raises:
        UsageError: the recipe's parts have none of them.
    """
    made: dict[str, Any] = parts(base, known)
    model, optimizer = made["model"], made["optimizer"]
    texts: dict[str, str] = {}
    if width := getattr(model, "width", None):
        widths = [type(width)(width * share) for share in WIDTHS]
        texts["model.width"] = f"one_of({', '.join(str(w) for w in dict.fromkeys(widths) if w > 0)})"
    elif getattr(model, "depth", None) in DEPTHS:
        texts["model.depth"] = f"one_of({', '.join(map(str, DEPTHS))})"
    seat, inner = "optimizer", optimizer
    if not hasattr(inner, "lr") and hasattr(inner, "around"):
        seat, inner = "optimizer.around", inner.around
    if rate := getattr(inner, "lr", None):
        texts["lr" if seat == "optimizer" else f"{seat}.lr"] = f"log({rate * RATES[0]:.2g}, {rate * RATES[1]:.2g})"
    if hasattr(inner, "weight_decay"):
        texts[f"{seat}.weight_decay"] = f"log({DECAYS[0]:g}, {DECAYS[1]:g})"
    if not getattr(optimizer, "full_batch", False):
        if hasattr(model, "drop"):
            texts["model.drop"] = f"dropout(uniform({DROPPED[0]:g}, {DROPPED[1]:g}))"
        if steps(made["augment"]):
            texts[STRENGTH] = "uniform(0, 1)"
    if not texts:
        raise UsageError(f'"{base.model}" with "{base.optimizer}" has no settings that are searched by default: give --space.')
    return texts
