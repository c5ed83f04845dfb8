"""The space that is searched where none is written: of a recipe as a whole, and of each part by the types of its settings."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parts import ExternalPart, Part, Pipe, part_name, pipe_parts, spell
from goodfit.core.settings import Range, Setting, settings_of
from goodfit.recipe.parts import make_parts
from goodfit.recipe.recipe import SEATS, Recipe
from goodfit.study.search.settle import scalable
from goodfit.study.search.space import LAWS, SHORT, STRENGTH

# The default space around what the recipe has: the lecture's "hyper-parameters to play with".
RATES = (1 / 30, 10.0)  # of the learning rate that auto or the preset chose: one and a half decades below, one above
DECAYS = (1e-5, 1e-2)  # weight decay
DROPPED = "dropout(uniform(0, 0.5))"
WIDTHS = (0.5, 1, 2)
DEPTHS = (18, 34, 50)
# The default space of any setting, by its type.
AROUND = (0.1, 10.0)  # of a positive number
NEAR, NEARER = 0.8, (3.0, 1.0, 1 / 3)  # a share from there on, as a momentum, is drawn by its distance to 1, times these
HALF = 0.5  # lower shares are drawn from 0 to twice their value, at least to here
GUARD = 1e-6  # a number below keeps a division from zero: nothing to search
LEFT = ("length", "form", "inverted", "stem", "most", "exact", "products")  # stretches of a pipe, ways to the same, what goes by the images
ANY = (-math.inf, math.inf)


def default_texts(base: Recipe, known: Catalog) -> dict[str, str]:
    """The space around a resolved recipe: architecture, learning rate, weight decay, dropout and strength of augmentation.

    Raises:
        UsageError: the recipe's parts have none of them.
    """
    made: dict[str, Any] = make_parts(base, known)
    model, optimizer = made["model"], made["optimizer"]
    texts: dict[str, str] = {}
    if hasattr(model, "width"):
        texts["model.width"] = drawn_setting(model, "width")
    elif getattr(model, "depth", None) in DEPTHS:
        texts["model.depth"] = drawn_setting(model, "depth")
    seat, inner = "optimizer", optimizer
    if not hasattr(inner, "lr") and hasattr(inner, "around"):
        seat, inner = "optimizer.around", inner.around
    if hasattr(inner, "lr"):
        texts["lr" if seat == "optimizer" else f"{seat}.lr"] = drawn_setting(inner, "lr")
    if hasattr(inner, "weight_decay"):
        texts[f"{seat}.weight_decay"] = drawn_setting(inner, "weight_decay")
    if not getattr(optimizer, "full_batch", False):
        if hasattr(model, "drop"):
            texts["model.drop"] = DROPPED
        if pipe_parts(made["augment"]) and all(map(scalable, pipe_parts(made["augment"]))):
            texts[STRENGTH] = "uniform(0, 1)"
    if not texts:
        raise UsageError(f'"{base.model}" with "{base.optimizer}" has no settings that are searched by default: give --space.')
    return texts


def has_default(key: str) -> bool:
    """Whether a key of a space may stand without a text."""
    return key == STRENGTH or SHORT.get(key, key).partition(".")[0] in SEATS


def filled(texts: Mapping[str, str], base: Recipe, known: Catalog) -> dict[str, str]:
    """The texts, those that are empty replaced by the default draw of what their key names: a seat's whole part, or one setting of it.

    Raises:
        UsageError: there is no such setting, or it has no default draw.
    """
    return {key: text or _default(key, base, known) for key, text in texts.items()}


def _default(key: str, base: Recipe, known: Catalog) -> str:
    if key == STRENGTH:
        return "uniform(0, 1)"
    seat, *path = SHORT.get(key, key).split(".")
    if seat not in SEATS:
        raise UsageError(f'Expected a space for "{key}", as in "{key}=one_of(...)", received none.')
    plain: Any = known.make(getattr(base, seat), seat)
    text = drawn_part(plain)
    for name in path:
        names = [setting.name for setting in _settings(plain)]
        if not names:
            raise UsageError(f'"{spell(plain)}" has no settings of its own: write the whole of "{seat}" with its draws.')
        if name not in names:
            raise UsageError(unknown_name(f"setting of {spell(plain)}", name, names))
        plain, text = getattr(plain, name), drawn_setting(plain, name)
    if not draws(text):
        raise UsageError(f'"{spell(plain)}" has nothing that is searched by default: write the space, as in "{key}=one_of(...)".')
    return text


def draws(text: str) -> bool:
    """Whether anything is drawn in a text."""
    return any(f"{law}(" in text for law in LAWS)


def drawn_part(part: Part) -> str:
    """The text of a part with every setting in it, each drawn that its type says how to draw; of a pipe, all parts'.

    Settings that hold a part stay as they are, but for one of the same kind, as in sam(sgd(0.1)), and for noise; so do those of the names
    in LEFT.
    """
    if isinstance(part, Pipe):
        return " | ".join(drawn_part(step) for step in part.parts) or "none"
    if isinstance(part, ExternalPart):
        return spell(part)
    words = [f"{setting.name}={drawn_setting(part, setting.name)}" for setting in _settings(part)]
    return f"{part_name(part)}({', '.join(words)})" if words else part_name(part)


def drawn_setting(part: Part, name: str) -> str:
    """The default draw of a part's setting, within what the part takes; the setting's own text where its type does not say how to draw."""
    value = getattr(part, name)
    hint = next(setting.hint for setting in _settings(part) if setting.name == name)

    def takes(other: object) -> bool:
        try:
            dataclasses.replace(part, **{name: other})  # type: ignore[type-var]
        except (UsageError, ValueError, TypeError):  # the user's own parts may refuse in their own ways
            return False
        return True

    if isinstance(value, Part):
        if value.kind == "noise":
            return DROPPED if part_name(value) in ("none", "dropout") else drawn_part(value)
        return drawn_part(value) if value.kind == part.kind else spell(value)
    if name in LEFT:
        return spell(value)
    if name == "lr":
        return span("log", value, [value * share for share in RATES], takes)
    if name == "weight_decay":
        return span("log", value, DECAYS, takes)
    if name == "width":
        return choices((width for share in WIDTHS if (width := type(value)(value * share)) > 0), takes)
    if name == "depth":
        return choices(DEPTHS, takes) if value in DEPTHS else spell(value)
    return _drawn(value, hint, takes)


def _drawn(value: Any, hint: Any, takes: Callable[[object], bool], within: tuple[float, float] = ANY) -> str:
    """The default draw of a value by its type, no number outside `within`."""
    inner = typing.get_args(hint)
    match value:
        case bool():
            return choices([True, False], takes)
        case tuple() if len(inner) == len(value) and Ellipsis not in inner:
            rooms = apart(value, takes)
            drawn = [_drawn(x, inner[i], partial(_takes_at, takes, value, i), rooms[i]) for i, x in enumerate(value)]
            return f"({', '.join(drawn)},)" if len(drawn) == 1 else f"({', '.join(drawn)})"
        case _ if typing.get_origin(hint) is Literal:
            return choices(inner, takes)
        case int() if value > 0:
            return choices([n for share in WIDTHS if within[0] <= (n := max(1, round(value * share))) <= within[1]], takes)
        case float() if _share(hint):
            if NEAR <= value < 1 and within == ANY:
                return choices([float(f"{1 - (1 - value) * far:.6g}") for far in NEARER], takes)
            return span("uniform", value, (0.0, min(1.0, max(HALF, 2 * value))), takes, within)
        case float() if value > GUARD:
            return span("log", value, [value * share for share in AROUND], takes, within)
    return spell(value)


def apart(values: tuple[Any, ...], takes: Callable[[object], bool]) -> list[tuple[float, float]]:
    """Where each of some values may be drawn so that two ends of a range, which may not change places, do not cross: on its own side of
    their middle.
    """
    match values:
        case (int() | float() as low, int() | float() as high) if low < high and not takes((high, low)):
            middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
            return [(-math.inf, middle), (middle, math.inf)]
    return [ANY] * len(values)


def _takes_at(takes: Callable[[object], bool], values: tuple[object, ...], place: int, other: object) -> bool:
    """Whether a setting takes its values with another at one place."""
    return takes((*values[:place], other, *values[place + 1 :]))


def _settings(part: Any) -> tuple[Setting, ...]:
    """The settings of a part; a pipe, a function of the user's, or a number, has none of its own."""
    cls: Any = type(part)
    return settings_of(cls) if isinstance(part, Part) and not isinstance(part, (Pipe, ExternalPart)) else ()


def _share(hint: Any) -> bool:
    """Whether a type is that of numbers from 0 to 1."""
    ranges = [x for x in typing.get_args(hint) if isinstance(x, Range)] if typing.get_origin(hint) is Annotated else []
    return any(max(x.low, x.above) == 0 and min(x.high, x.below) == 1 for x in ranges)


def span(law: str, value: float, ends: Iterable[float], takes: Callable[[object], bool], within: tuple[float, float] = ANY) -> str:
    """A draw between two ends that lie `within` others, `value` in the place of one that is not taken."""
    rounded = (float(f"{min(max(end, within[0]), within[1]):.2g}") for end in ends)
    low, high = (end if takes(end) else value for end in rounded)
    return f"{law}({low:g}, {high:g})" if low < high else f"{value!r}"


def choices(values: Iterable[Any], takes: Callable[[object], bool] = lambda value: True) -> str:
    """A draw of one of the different values that are taken; the value itself where it is the only one."""
    words = [str(value) for value in dict.fromkeys(values) if takes(value)]
    return f"one_of({', '.join(words)})" if len(words) > 1 else words[0]
