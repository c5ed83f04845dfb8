"""The space that is searched where none is written: that of a recipe as a whole, and that of each part by the types of its settings."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parts import ExternalPart, Part, Pipe, part_name, pipe_parts, spell
from goodfit.core.settings import Range, Setting, settings_of
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import SEATS, Recipe
from goodfit.study.search.space import SHORT_KEYS, STRENGTH_KEY, has_draws
from goodfit.study.search.trial_recipe import can_scale

# The default space around what the recipe has: the lecture's "hyper-parameters to play with".
LR_FACTORS = (1 / 30, 10.0)  # of the learning rate that auto or the preset chose: one and a half decades below, one above
WEIGHT_DECAYS = (1e-5, 1e-2)
MOMENTA = (0.5, 0.9, 0.95, 0.99)  # for an optimizer without momentum: what the lecture tries
DROPOUT_DRAW = "dropout(uniform(0, 0.5))"
SIZE_FACTORS = (0.5, 1, 2)  # of widths, and of whole numbers
DEPTHS = (18, 34, 50)
ADAPTIVE = ("adamw", "adam", "rmsprop")  # update types whose learning rates are of one size, as are those of sgd with any momentum
USUAL_MOMENTUM = 0.9
DECAYS = ("constant", "step", "exponential", "inverse", "cosine")  # of the learning rate, after a warm-up where the recipe has one
# The default space of any setting, by its type.
POSITIVE_FACTORS = (0.1, 10.0)
NEAR_ONE, NEAR_ONE_FACTORS = 0.8, (3.0, 1.0, 1 / 3)  # a share above, such as a momentum, has these times its distance to 1
MIN_SHARE_RANGE = 0.5  # a lower share is drawn from 0 to twice its value, at least to here
MAX_EPSILON = 1e-6  # a number below keeps a division from zero: nothing to search
# Lengths in a pipe, ways to the same result, and what depends on the images are not drawn.
FIXED_SETTINGS = ("length", "form", "inverted", "stem", "most", "exact", "products")
UNBOUNDED = (-math.inf, math.inf)

IsValid = Callable[[object], bool]  # whether a part takes another value of one of its settings


def default_space(base: Recipe, catalog: Catalog) -> dict[str, str]:
    """The texts of the space around a resolved recipe: architecture; learning rate, its decay and the update type; weight decay, dropout
    and strength of augmentation.

    Raises:
        UsageError: the recipe's parts have none of them.
    """
    parts: dict[str, Any] = make_parts(base, catalog)
    model, optimizer = parts["model"], parts["optimizer"]
    texts: dict[str, str] = {}
    if hasattr(model, "width"):
        texts["model.width"] = draw_setting(model, "width")
    elif getattr(model, "depth", None) in DEPTHS:
        texts["model.depth"] = draw_setting(model, "depth")
    seat, inner = "optimizer", optimizer
    if not hasattr(inner, "lr") and hasattr(inner, "around"):
        seat, inner = "optimizer.around", inner.around
    if hasattr(inner, "lr"):
        if update := draw_update_type(inner, catalog):
            texts[seat] = update
        texts["lr" if seat == "optimizer" else f"{seat}.lr"] = draw_setting(inner, "lr")
    if hasattr(inner, "weight_decay"):
        texts[f"{seat}.weight_decay"] = draw_setting(inner, "weight_decay")
    if not getattr(optimizer, "full_batch", False):
        if hasattr(inner, "lr") and not base.snapshots:  # which want the cycles of their schedule
            texts["schedule"] = draw_decay(parts["schedule"], catalog)
        if hasattr(model, "drop"):
            texts["model.drop"] = DROPOUT_DRAW
        if pipe_parts(parts["augment"]) and all(map(can_scale, pipe_parts(parts["augment"]))):
            texts[STRENGTH_KEY] = "uniform(0, 1)"
    if not texts:
        raise UsageError(f'"{base.model}" with "{base.optimizer}" has no settings that are searched by default: give --space.')
    return texts


def draw_update_type(optimizer: Part, catalog: Catalog) -> str:
    """The draw of an optimizer among those that take its learning rates: sgd with and without (Nesterov) momentum, or adaptive ones.

    They share its settings, but for the rate and the weight decay, which are drawn apart. Empty for an optimizer that is neither.
    """
    name = part_name(optimizer)
    own = {setting.name: getattr(optimizer, setting.name) for setting in _own_settings(optimizer)}
    changes: list[dict[str, Any]] = [{}]
    if name == "sgd":
        momentum = own["momentum"] or USUAL_MOMENTUM
        changes = [{"momentum": x, "nesterov": nesterov} for x, nesterov in ((0.0, False), (momentum, False), (momentum, True))]
    variants = []
    for other in (name,) if name == "sgd" else ADAPTIVE if name in ADAPTIVE else ():
        plain: Any = catalog.make(other, "optimizer")
        shared = {s.name: own[s.name] for s in _own_settings(plain) if s.name in own and s.name not in ("lr", "weight_decay")}
        variants += [spell(dataclasses.replace(plain, **shared | change)) for change in changes]
    return draw_choice(variants) if variants else ""


def draw_decay(schedule: Part, catalog: Catalog) -> str:
    """The draw of a schedule among itself and the decays of the lecture, each after this one's warm-up."""
    warmup = [part for part in pipe_parts(schedule) if part_name(part) == "warmup"]
    decays = [" | ".join(map(spell, (*warmup, catalog.make(name, "schedule")))) for name in DECAYS]
    return draw_choice([spell(schedule), *decays])


def has_default(key: str) -> bool:
    """Whether a key of a space may stand without a text."""
    return key == STRENGTH_KEY or SHORT_KEYS.get(key, key).partition(".")[0] in SEATS


def fill_defaults(texts: Mapping[str, str], base: Recipe, catalog: Catalog) -> dict[str, str]:
    """The texts, each empty one replaced by the default of its key: the draws of a whole part, or of one setting.

    Raises:
        UsageError: there is no such setting, or it has no default.
    """
    return {key: text or _default_text(key, base, catalog) for key, text in texts.items()}


def _default_text(key: str, base: Recipe, catalog: Catalog) -> str:
    if key == STRENGTH_KEY:
        return "uniform(0, 1)"
    seat, *path = SHORT_KEYS.get(key, key).split(".")
    if seat not in SEATS:
        raise UsageError(f'Expected a space for "{key}", as in "{key}=one_of(...)", received none.')
    value: Any = catalog.make(getattr(base, seat), seat)
    text = draw_part(value)
    for name in path:
        names = [setting.name for setting in _own_settings(value)]
        if not names:
            raise UsageError(f'"{spell(value)}" has no settings of its own: write the whole of "{seat}" with its draws.')
        if name not in names:
            raise UsageError(unknown_name(f"setting of {spell(value)}", name, names))
        value, text = getattr(value, name), draw_setting(value, name)
    if not has_draws(text):
        raise UsageError(f'"{spell(value)}" has nothing that is searched by default: write the space, as in "{key}=one_of(...)".')
    return text


def draw_part(part: Part) -> str:
    """The text of a part, or of the parts of a pipe, with a draw for every setting whose type says how to draw it.

    A setting that holds a part is left as it is, except one of the same kind, as in sam(sgd(0.1)), and noise; so are FIXED_SETTINGS.
    """
    if isinstance(part, Pipe):
        return " | ".join(draw_part(step) for step in part.parts) or "none"
    if isinstance(part, ExternalPart):
        return spell(part)
    words = [f"{setting.name}={draw_setting(part, setting.name)}" for setting in _own_settings(part)]
    return f"{part_name(part)}({', '.join(words)})" if words else part_name(part)


def draw_setting(part: Part, name: str) -> str:
    """The default draw of a part's setting, within what the part takes; the setting's own text where its type does not say how to draw."""
    value = getattr(part, name)
    hint = next(setting.hint for setting in _own_settings(part) if setting.name == name)

    def is_valid(other: object) -> bool:
        try:
            dataclasses.replace(part, **{name: other})  # type: ignore[type-var]
        except (UsageError, ValueError, TypeError):  # the user's own parts may refuse in their own ways
            return False
        return True

    if isinstance(value, Part):
        if value.kind == "noise":
            return DROPOUT_DRAW if part_name(value) in ("none", "dropout") else draw_part(value)
        return draw_part(value) if value.kind == part.kind else spell(value)
    if name in FIXED_SETTINGS:
        return spell(value)
    if name == "lr":
        return draw_range("log", value, [value * factor for factor in LR_FACTORS], is_valid)
    if name == "weight_decay":
        return draw_range("log", value, WEIGHT_DECAYS, is_valid)
    if name == "momentum" and not value:
        return draw_choice(MOMENTA, is_valid)
    if name == "width":
        return draw_choice((width for factor in SIZE_FACTORS if (width := type(value)(value * factor)) > 0), is_valid)
    if name == "depth":
        return draw_choice(DEPTHS, is_valid) if value in DEPTHS else spell(value)
    return _draw_value(value, hint, is_valid)


def _draw_value(value: Any, hint: Any, is_valid: IsValid, bounds: tuple[float, float] = UNBOUNDED) -> str:
    """The default draw of a value by its type, no number outside `bounds`."""
    inner = typing.get_args(hint)
    match value:
        case bool():
            return draw_choice([True, False], is_valid)
        case tuple() if len(inner) == len(value) and Ellipsis not in inner:
            bounds_of = separate_bounds(value, is_valid)
            texts = [_draw_value(x, inner[i], partial(_is_valid_at, is_valid, value, i), bounds_of[i]) for i, x in enumerate(value)]
            return f"({', '.join(texts)},)" if len(texts) == 1 else f"({', '.join(texts)})"
        case _ if typing.get_origin(hint) is Literal:
            return draw_choice(inner, is_valid)
        case int() if value > 0:
            numbers = [max(1, round(value * factor)) for factor in SIZE_FACTORS]
            return draw_choice([n for n in numbers if bounds[0] <= n <= bounds[1]], is_valid)
        case float() if _is_share(hint):
            if NEAR_ONE <= value < 1 and bounds == UNBOUNDED:
                return draw_choice([float(f"{1 - (1 - value) * factor:.6g}") for factor in NEAR_ONE_FACTORS], is_valid)
            return draw_range("uniform", value, (0.0, min(1.0, max(MIN_SHARE_RANGE, 2 * value))), is_valid, bounds)
        case float() if value > MAX_EPSILON:
            return draw_range("log", value, [value * factor for factor in POSITIVE_FACTORS], is_valid, bounds)
    return spell(value)


def separate_bounds(values: tuple[Any, ...], is_valid: IsValid) -> list[tuple[float, float]]:
    """The bounds within which each of some values may be drawn: the two ends of a range, which may not change places, are drawn on their
    own side of their middle.
    """
    match values:
        case (int() | float() as low, int() | float() as high) if low < high and not is_valid((high, low)):
            middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
            return [(-math.inf, middle), (middle, math.inf)]
    return [UNBOUNDED] * len(values)


def _is_valid_at(is_valid: IsValid, values: tuple[object, ...], place: int, other: object) -> bool:
    """Whether a setting takes its values with another at one place."""
    return is_valid((*values[:place], other, *values[place + 1 :]))


def _own_settings(part: Any) -> tuple[Setting, ...]:
    """The settings of a part; a pipe, a function of the user's, or a number has none of its own."""
    cls: Any = type(part)
    return settings_of(cls) if isinstance(part, Part) and not isinstance(part, (Pipe, ExternalPart)) else ()


def _is_share(hint: Any) -> bool:
    """Whether a type is that of numbers from 0 to 1."""
    ranges = [x for x in typing.get_args(hint) if isinstance(x, Range)] if typing.get_origin(hint) is Annotated else []
    return any(max(x.low, x.above) == 0 and min(x.high, x.below) == 1 for x in ranges)


def draw_range(law: str, value: float, ends: Iterable[float], is_valid: IsValid, bounds: tuple[float, float] = UNBOUNDED) -> str:
    """The text of a draw between two ends, cut to `bounds`; `value` takes the place of an end that is not valid."""
    rounded = (float(f"{min(max(end, bounds[0]), bounds[1]):.2g}") for end in ends)
    low, high = (end if is_valid(end) else value for end in rounded)
    return f"{law}({low:g}, {high:g})" if low < high else f"{value!r}"


def draw_choice(values: Iterable[Any], is_valid: IsValid = lambda value: True) -> str:
    """The text of a draw of one of the valid values; where only one is valid, that value."""
    words = [str(value) for value in dict.fromkeys(values) if is_valid(value)]
    return f"one_of({', '.join(words)})" if len(words) > 1 else words[0]


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
