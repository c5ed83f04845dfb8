"""Settings and their types: one checker for parts and recipes, so that a wrong value gets the same sentence in Python, text and TOML."""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import sys
import types
import typing
from typing import Annotated, Any, Literal, Union

from goodfit.core.errors import UsageError
from goodfit.core.words import with_article


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number; `above` and `below` exclude the end, `low` and `high` include it."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, x: float) -> bool:
        return self.low <= x <= self.high and self.above < x < self.below

    def __str__(self) -> str:
        ends = [("from", self.low), ("above", self.above), ("to", self.high), ("below", self.below)]
        return " ".join(f"{word} {x:g}" for word, x in ends if math.isfinite(x))


Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field as a user sets it: its name, type, default, and the kind of part it holds ("" for literals)."""

    name: str
    hint: Any
    default: object
    kind: str


@functools.cache
def settings_of(cls: Any) -> tuple[Setting, ...]:
    """The settings of a dataclass, in order; `dataclasses.MISSING` where there is no default."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [f for f in dataclasses.fields(cls) if f.init and f.compare and not f.name.startswith("_")]
    return tuple(Setting(f.name, hints[f.name], _default(f), _kind(hints[f.name])) for f in fields)


def takes_many(setting: Setting | None) -> bool:
    """Whether a setting is a tuple of any length; the values of such a first setting may be written one by one."""
    return setting is not None and typing.get_origin(setting.hint) is tuple and typing.get_args(setting.hint)[-1] is Ellipsis


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _kind(hint: Any) -> str:
    if isinstance(hint, type):
        return str(getattr(hint, "kind", ""))
    return next((kind for inner in typing.get_args(hint) if (kind := _kind(inner))), "")


def check_settings(owner: object, name: str) -> None:
    """Check each field of a frozen dataclass against its type, converting ints to floats and lists to tuples where the type wants those.

    Raises:
        UsageError: a value is of the wrong type or out of range.
    """

    cls: Any = type(owner)
    for setting in settings_of(cls):
        value = getattr(owner, setting.name)
        converted = convert(value, setting.hint)
        if converted is INVALID:
            raise UsageError(f"{name}: expected {setting.name} to be {type_phrase(setting.hint)}, received {value!r}.")
        if converted is not value:
            object.__setattr__(owner, setting.name, converted)


INVALID = object()


def convert(value: Any, hint: Any) -> Any:
    """Convert a value to the type `hint`; INVALID if it is not of that type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin is Annotated:
        converted = convert(value, inner[0])
        ranges = [x for x in inner[1:] if isinstance(x, Range)]
        return converted if converted is not INVALID and all(r.holds(converted) for r in ranges) else INVALID
    if origin in (Union, types.UnionType):
        return next((x for option in inner if (x := convert(value, option)) is not INVALID), INVALID)
    if origin is Literal:
        return value if value in inner else INVALID
    if origin is tuple:
        return _convert_tuple(value, inner)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= sys.float_info.max else INVALID
    if hint is int and isinstance(value, bool):
        return INVALID
    if hint is None or hint is type(None):
        return value if value is None else INVALID
    kind = getattr(hint, "kind", "")
    if kind and getattr(value, "kind", "") in ("pipe", "external"):
        return value
    return value if isinstance(value, hint) else INVALID


def _convert_tuple(value: Any, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, (tuple, list)):
        return INVALID
    hints = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
    if len(hints) != len(value):
        return INVALID
    converted = tuple(convert(x, hint) for x, hint in zip(value, hints, strict=True))
    return INVALID if any(x is INVALID for x in converted) else converted


def type_phrase(hint: Any) -> str:
    """Describe a type in words: `a number from 0 to 1`, `"reflect" or "edge"`, `an optimizer`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [str(x) for x in inner[1:] if isinstance(x, Range)]
        return " ".join([type_phrase(inner[0]), *ranges])
    if origin in (Union, types.UnionType):
        return " or ".join(type_phrase(option) for option in inner)
    if origin is Literal:
        return " or ".join(f'"{x}"' if isinstance(x, str) else str(x) for x in inner)
    if origin is tuple:
        return "a tuple of " + " and ".join(type_phrase(x) for x in inner if x is not Ellipsis)
    names = {float: "a number", int: "a whole number", bool: "True or False", str: "text", type(None): "None"}
    kind = getattr(hint, "kind", "")
    return with_article(kind) if kind else names.get(hint, str(hint))


def parse_setting(text: str, hint: Any) -> Any:
    """Read the text of a command line as a value of type `hint`: a literal where one fits, else the text; INVALID if neither does."""
    is_bool = bool in (hint, *typing.get_args(hint)) and text.lower() in ("true", "false")
    text = text.capitalize() if is_bool else text  # true and false, as in TOML
    try:
        converted = convert(ast.literal_eval(text), hint)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        converted = INVALID
    if converted is INVALID and typing.get_args(hint) == (str, ...):
        return tuple(word.strip() for word in text.split(","))  # words need no quotation marks
    return convert(text, hint) if converted is INVALID else converted


MAX_SIDE = 8192  # pixels; more is taken for a typing error


def parse_size(text: int | str) -> tuple[int, int]:
    """Read `96` or `128x96` as (height, width).

    Raises:
        UsageError: the text is not a size.
    """
    try:
        sides = [int(x) for x in str(text).lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UsageError(f'Expected a size like "96" or "128x96" (height x width), received "{text}".')
    if max(sides) > MAX_SIDE:
        raise UsageError(f'Expected a size of at most {MAX_SIDE} pixels a side, received "{text}".')
    return sides[0], sides[-1]
