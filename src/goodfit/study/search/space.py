"""The space of a search: recipe text in which some values are drawn, such as `sgd(log(0.01, 1), momentum=one_of(0.9, 0.95))`."""

from __future__ import annotations

import ast
import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from goodfit.core.catalog import Catalog
from goodfit.core.chance import MASK64, fold
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.settings import settings_of
from goodfit.recipe.recipe import SEATS, Recipe

Law = Literal["log", "uniform", "integers", "one_of"]
Value = float | int | str
LAWS = ("log", "uniform", "integers", "one_of")
SHORT = {"lr": "optimizer.lr"}  # as the option --lr
STRENGTH = "strength"  # of the whole augmentation: 0 is none, 1 as the recipe has it
KINDS = SEATS
FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
DIGITS = 6  # significant digits of a drawn number


@dataclasses.dataclass(frozen=True)
class Axis:
    """One drawn value: a number from `low` to `high` by a `law`, or one of `choices` (texts)."""

    name: str
    law: Law
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def at(self, u: float) -> Value:
        """The value at `u` in 0..1 of the axis; a number with a `u` beyond them lies outside its ends."""
        if self.law == "one_of":
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        if self.law == "integers":
            n = self.high - self.low + 1
            return int(self.low + (min(math.floor(u * n), n - 1) if u <= 1 else math.floor(u * n)))
        low, high = (math.log(x) if self.law == "log" else x for x in (self.low, self.high))
        x = low + u * (high - low)
        x = float(f"{math.exp(x) if self.law == 'log' else x:.{DIGITS}g}")
        return min(max(x, self.low), self.high) if 0 <= u <= 1 else x

    def place(self, value: Value) -> float:
        """Where a value lies on the axis, 0..1 from low to high; for a choice, the middle of its share."""
        if self.law == "one_of":
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        x = float(value)
        if self.law == "integers":
            return (x - self.low + 0.5) / (self.high - self.low + 1)
        low, high, x = (math.log(y) if self.law == "log" else y for y in (self.low, self.high, x))
        return (x - low) / (high - low) if high > low else 0.5

    def drawn(self, seed: int, *words: int | str) -> Value:
        """The value of a trial that `words` name: a pure function of the seed, the words and the axis."""
        return self.at(((fold(seed & MASK64, "search", *words, self.name) >> 11) + 0.5) * 2.0**-53)

    def __str__(self) -> str:
        inner = self.choices if self.law == "one_of" else (f"{self.low:.4g}", f"{self.high:.4g}")
        return f"{self.law}({', '.join(inner)})"


@dataclasses.dataclass(frozen=True)
class Space:
    """The texts of a space by recipe key, and the axes in them.

    A key is a recipe's field, a setting of its part such as `model.width` or `optimizer.lr`, `lr` for short, or `strength`: that of the
    augmentation as a whole.
    """

    texts: tuple[tuple[str, str], ...]
    axes: tuple[Axis, ...]

    @staticmethod
    def read(texts: Mapping[str, str], known: Catalog) -> Space:
        """The space of such texts.

        Raises:
            UsageError: a key is unknown, a text does not read, or nothing is drawn.
        """
        axes: list[Axis] = []
        for key, text in texts.items():
            field = SHORT.get(key, key).partition(".")[0]
            if field not in FIELDS and key != STRENGTH:
                raise UsageError(unknown_name("key of the space", key, [*FIELDS, *SHORT, STRENGTH]))
            if "." in key and field not in KINDS:
                raise UsageError(f'Expected "{key}" to be a setting of a part; "{field}" holds none.')

            def take(call: ast.Call, name: str) -> ast.expr:
                axes.append(axis(call, name))
                return call

            _walk(_parsed(text), key, take, _Names(known, kind_of(key, known)))
        names = [axis.name for axis in axes]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise UsageError(f'The space draws "{twice}" twice.')
        if not axes:
            raise UsageError('Expected a space that draws something, such as --space "lr=log(1e-4, 1)".')
        return Space(tuple(texts.items()), tuple(axes))

    def filled(self, values: Mapping[str, Value], known: Catalog) -> dict[str, str]:
        """The texts with a value in the place of each draw."""
        made = {}
        for key, text in self.texts:

            def put(call: ast.Call, name: str) -> ast.expr:
                return _node(values[name])

            tree = _parsed(text)
            choice = values.get(key) if isinstance(tree, ast.Call) and _law(tree) else None
            filled = _walk(tree, key, put, _Names(known, kind_of(key, known)))
            made[key] = choice if isinstance(choice, str) else ast.unparse(filled)
        return made


def read_texts(words: list[str], alone: Callable[[str], bool] = lambda key: False) -> dict[str, str]:
    """The texts of `key=text` words, or of a TOML file of them; empty ones of words that may stand `alone`, as a key.

    Raises:
        UsageError: a word is neither.
    """
    texts: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if equals:
            texts[key] = text.strip()
        elif alone(key) and not word.endswith(".toml"):
            texts[key] = ""
        elif Path(word).is_file():
            try:
                texts |= {key: str(value) for key, value in tomllib.loads(Path(word).read_text(encoding="utf-8")).items()}
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UsageError(f'The space "{word}" is no TOML: {error}.') from error
        else:
            raise UsageError(
                f'Expected --space as key=text, such as "lr=log(1e-4, 1)", a part\'s kind such as optimizer, or a TOML file of them,'
                f' received "{word}".'
            )
    return texts


def kind_of(key: str, known: Catalog) -> str:
    """The kind of part that a key of a space holds; "" for numbers and text. Which part has the setting is not known yet."""
    field, *path = SHORT.get(key, key).split(".")
    kind = KINDS.get(field, "")
    for name in path:
        kind = next((s.kind for cls in known.kinds.get(kind, {}).values() for s in settings_of(cls) if s.name == name), "")
    return kind


def axis(call: ast.Call, name: str) -> Axis:
    """The axis that a draw spells.

    Raises:
        UsageError: its numbers or choices are wrong.
    """
    law = _law(call)
    text = ast.unparse(call)
    if call.keywords:
        raise UsageError(f'Expected {law} without names of settings, received "{text}".')
    if law == "one_of":
        if any(isinstance(node, ast.Call) and _law(node) for choice in call.args for node in ast.walk(choice)):
            raise UsageError(f'A choice cannot draw again: write its draws beside it, not inside "{text}".')
        choices = tuple(x.value if isinstance(x, ast.Constant) and isinstance(x.value, str) else ast.unparse(x) for x in call.args)
        if not choices or len(set(choices)) < len(choices):
            raise UsageError(f'Expected one_of with different choices, received "{text}".')
        return Axis(name, "one_of", choices=choices)
    try:
        low, high = (ast.literal_eval(x) for x in call.args)
        fine = low < high and math.isfinite(low) and math.isfinite(high) and (law != "log" or low > 0)
        fine = fine and (law != "integers" or {type(low), type(high)} == {int})
    except (ValueError, TypeError):
        fine = False
    if not fine:
        wanted = {"log": "two numbers above 0, the lower first", "integers": "two whole numbers, the lower first"}
        raise UsageError(f'Expected {law} with {wanted.get(law, "two numbers, the lower first")}, received "{text}".')
    return Axis(name, cast(Law, law), float(low), float(high))


@dataclasses.dataclass(frozen=True)
class _Names:
    """What the arguments of a call are called: by the settings of the part of a kind, where it is known."""

    known: Catalog
    kind: str

    def of(self, call: ast.Call, place: int) -> str:
        return self._settings(call)[place].name if place < len(self._settings(call)) else str(place)

    def within(self, call: ast.Call, name: str) -> _Names:
        return _Names(self.known, next((s.kind for s in self._settings(call) if s.name == name), ""))

    def _settings(self, call: ast.Call) -> Any:
        cls = self.known.kinds.get(self.kind, {}).get(ast.unparse(call.func))
        return settings_of(cls) if cls else ()


def _walk(node: ast.expr, name: str, found: Callable[[ast.Call, str], ast.expr], names: _Names) -> ast.expr:
    """The expression with each draw replaced by what `found` gives for it and its name."""
    match node:
        case ast.Call() if _law(node):
            return found(node, name)
        case ast.Call(function, arguments, keywords):
            inner = f"{name}.{ast.unparse(function)}" if names.known.is_piped(names.kind) else name
            values = []
            for place, argument in enumerate(arguments):
                word = names.of(node, place)
                values.append(_walk(argument, f"{inner}.{word}", found, names.within(node, word)))
            named = [ast.keyword(k.arg, _walk(k.value, f"{inner}.{k.arg}", found, names.within(node, str(k.arg)))) for k in keywords]
            return ast.Call(function, values, named)
        case ast.BinOp(left, operator, right):
            return ast.BinOp(_walk(left, name, found, names), operator, _walk(right, name, found, names))
        case ast.Tuple(elements):
            return ast.Tuple([_walk(x, f"{name}.{place}", found, names) for place, x in enumerate(elements)], ast.Load())
    return node


def _law(call: ast.Call) -> str:
    """The word of a draw; "" for other calls."""
    return call.func.id if isinstance(call.func, ast.Name) and call.func.id in LAWS else ""


def _parsed(text: str) -> ast.expr:
    """The expression of a text; one that is none, such as `5 epochs`, is itself."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if any(f"{law}(" in text for law in LAWS):
            raise UsageError(f'The space does not read: "{text}".') from error
        return ast.Name(text, ast.Load())


def _node(value: Value) -> ast.expr:
    """A value as an expression: a choice is the text of one, where it reads as such."""
    if not isinstance(value, str):
        return ast.Constant(value)
    try:
        return ast.parse(value, mode="eval").body
    except SyntaxError:
        return ast.Constant(value)
