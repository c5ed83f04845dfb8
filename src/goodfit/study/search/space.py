"""The space of a search: recipe text in which some values are drawn, such as `sgd(log(0.01, 1), momentum=one_of(0.9, 0.95))`."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

from goodfit.core.catalog import Catalog
from goodfit.core.chance import MASK64, fold
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.settings import settings_of
from goodfit.core.toml import parse_toml
from goodfit.recipe.recipe import SEATS, Recipe

Law = Literal["log", "uniform", "integers", "one_of"]
Value = float | int | str
LAWS = ("log", "uniform", "integers", "one_of")
SHORT_KEYS = {"lr": "optimizer.lr"}  # as the option --lr
STRENGTH_KEY = "strength"  # of the whole augmentation: 0 is none, 1 as the recipe has it
RECIPE_FIELDS = tuple(setting.name for setting in settings_of(Recipe))
SIGNIFICANT_DIGITS = 6  # of a drawn number


@dataclasses.dataclass(frozen=True)
class Axis:
    """One drawn value: a number from `low` to `high` by a `law`, or one of `choices` (texts)."""

    name: str
    law: Law
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def value_at(self, u: float) -> Value:
        """The value at position `u`, 0..1 from low to high; the value of a number at another position lies beyond its ends."""
        if self.law == "one_of":
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        if self.law == "integers":
            n = self.high - self.low + 1
            return int(self.low + (min(math.floor(u * n), n - 1) if u <= 1 else math.floor(u * n)))
        low, high = (math.log(x) if self.law == "log" else x for x in (self.low, self.high))
        x = low + u * (high - low)
        x = float(f"{math.exp(x) if self.law == 'log' else x:.{SIGNIFICANT_DIGITS}g}")
        return min(max(x, self.low), self.high) if 0 <= u <= 1 else x

    def position_of(self, value: Value) -> float:
        """The position of a value on the axis, 0..1 from low to high; of a choice, the middle of its share."""
        if self.law == "one_of":
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        x = float(value)
        if self.law == "integers":
            return (x - self.low + 0.5) / (self.high - self.low + 1)
        low, high, x = (math.log(y) if self.law == "log" else y for y in (self.low, self.high, x))
        return (x - low) / (high - low) if high > low else 0.5

    def draw(self, seed: int, *words: int | str) -> Value:
        """Draw the value of the trial that `words` identify: a pure function of the seed, the words and the axis."""
        return self.value_at(((fold(seed & MASK64, "search", *words, self.name) >> 11) + 0.5) * 2.0**-53)

    def __str__(self) -> str:
        inner = self.choices if self.law == "one_of" else (f"{self.low:.4g}", f"{self.high:.4g}")
        return f"{self.law}({', '.join(inner)})"


@dataclasses.dataclass(frozen=True)
class Space:
    """The texts of a space by recipe key, and the axes in them.

    A key is a field of the recipe, a setting of its part such as `model.width` or `optimizer.lr`, `lr` for short, or `strength`: that of
    the augmentation as a whole.
    """

    texts: tuple[tuple[str, str], ...]
    axes: tuple[Axis, ...]

    @staticmethod
    def read(texts: Mapping[str, str], catalog: Catalog) -> Space:
        """Read the texts of a space.

        Raises:
            UsageError: a key is unknown, a text cannot be parsed, or nothing is drawn.
        """
        axes: list[Axis] = []

        def add_axis(call: ast.Call, name: str) -> ast.expr:
            axes.append(read_axis(call, name))
            return call

        for key, text in texts.items():
            field = SHORT_KEYS.get(key, key).partition(".")[0]
            if field not in RECIPE_FIELDS and key != STRENGTH_KEY:
                raise UsageError(unknown_name("key of the space", key, [*RECIPE_FIELDS, *SHORT_KEYS, STRENGTH_KEY]))
            if "." in key and field not in SEATS:
                raise UsageError(f'Expected "{key}" to be a setting of a part, but "{field}" holds no part.')
            _replace_draws(_parse(text), key, kind_of(key, catalog), catalog, add_axis)
        names = [axis.name for axis in axes]
        if duplicate := next((name for name in names if names.count(name) > 1), ""):
            raise UsageError(f'The space draws "{duplicate}" twice.')
        if not axes:
            raise UsageError('Expected a space that draws something, such as --space "lr=log(1e-4, 1)".')
        return Space(tuple(texts.items()), tuple(axes))

    def substitute(self, values: Mapping[str, Value], catalog: Catalog) -> dict[str, str]:
        """The texts by key, each draw replaced by its value.

        Raises:
            UsageError: a choice is none of the space; it may come from elsewhere, and name code.
        """
        for axis in self.axes:
            value = values.get(axis.name)
            if value not in axis.choices if axis.law == "one_of" else not isinstance(value, (int, float)):
                raise UsageError(f'Expected a value of {axis} for "{axis.name}", received {value!r}.')
        result = {}
        for key, text in self.texts:
            tree = _parse(text)
            choice = values.get(key) if _law_of(tree) else None  # the choice of a whole field may be any text, such as `5 epochs`
            filled = _replace_draws(tree, key, kind_of(key, catalog), catalog, lambda call, name: to_node(values[name]))
            result[key] = choice if isinstance(choice, str) else ast.unparse(filled)
        return result


def read_texts(words: list[str], may_stand_alone: Callable[[str], bool] = lambda key: False) -> dict[str, str]:
    """Read the texts of a space by key from words `key=text`, or TOML files of them; a key that may stand alone has an empty text.

    Raises:
        UsageError: a word is none of them.
    """
    texts: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if equals:
            texts[key] = text.strip()
        elif may_stand_alone(key) and not word.endswith(".toml"):
            texts[key] = ""
        elif Path(word).is_file():
            try:
                texts |= {key: str(value) for key, value in parse_toml(Path(word).read_text(encoding="utf-8")).items()}
            except (ValueError, OSError) as error:
                raise UsageError(f'The space "{word}" is not valid TOML: {error}.') from error
        else:
            raise UsageError(
                f'Expected --space as key=text, such as "lr=log(1e-4, 1)", a part\'s kind such as optimizer, or a TOML file of them,'
                f' received "{word}".'
            )
    return texts


def kind_of(key: str, catalog: Catalog) -> str:
    """The kind of part that a key of a space holds; "" for numbers and text. Any part that has the setting decides."""
    field, *path = SHORT_KEYS.get(key, key).split(".")
    kind = SEATS.get(field, "")
    for name in path:
        kind = next((s.kind for cls in catalog.kinds.get(kind, {}).values() for s in settings_of(cls) if s.name == name), "")
    return kind


def read_axis(call: ast.Call, name: str) -> Axis:
    """Read the axis that a draw spells.

    Raises:
        UsageError: its numbers or choices are wrong.
    """
    law = _law_of(call)
    text = ast.unparse(call)
    if call.keywords:
        raise UsageError(f'Expected {law} without names of settings, received "{text}".')
    if law == "one_of":
        if any(_law_of(node) for choice in call.args for node in ast.walk(choice)):
            raise UsageError(f'A choice cannot draw again: write its draws beside it, not inside "{text}".')
        choices = tuple(x.value if isinstance(x, ast.Constant) and isinstance(x.value, str) else ast.unparse(x) for x in call.args)
        if not choices or len(set(choices)) < len(choices):
            raise UsageError(f'Expected one_of with different choices, received "{text}".')
        return Axis(name, "one_of", choices=choices)
    try:
        low, high = (ast.literal_eval(x) for x in call.args)
        valid = low < high and math.isfinite(low) and math.isfinite(high) and (law != "log" or low > 0)
        valid = valid and (law != "integers" or {type(low), type(high)} == {int})
    except (ValueError, TypeError):
        valid = False
    if not valid:
        expected = {"log": "two numbers above 0, the lower first", "integers": "two whole numbers, the lower first"}
        raise UsageError(f'Expected {law} with {expected.get(law, "two numbers, the lower first")}, received "{text}".')
    return Axis(name, cast(Law, law), float(low), float(high))


def has_draws(text: str) -> bool:
    """Whether anything is drawn in a text."""
    return any(f"{law}(" in text for law in LAWS)


def _replace_draws(node: ast.expr, name: str, kind: str, catalog: Catalog, replace: Callable[[ast.Call, str], ast.expr]) -> ast.expr:
    """The expression with each draw replaced by `replace(draw, name)`.

    A draw's name is the path to it from `name`, as in optimizer.around.lr or augment.crop.distance; `kind` is the kind of part that the
    expression spells. This works on the text, before parts are made of it: a part checks its settings, and would refuse draws.
    """
    match node:
        case ast.Call() if _law_of(node):
            return replace(node, name)
        case ast.Call(function, arguments, keywords):
            cls = catalog.kinds.get(kind, {}).get(ast.unparse(function))
            settings = settings_of(cls) if cls else ()
            kinds = {setting.name: setting.kind for setting in settings}
            path = f"{name}.{ast.unparse(function)}" if catalog.is_piped(kind) else name

            def inside(setting: str, value: ast.expr) -> ast.expr:
                return _replace_draws(value, f"{path}.{setting}", kinds.get(setting, ""), catalog, replace)

            names = [*kinds, *map(str, range(len(kinds), len(arguments)))]
            positional = [inside(setting, value) for setting, value in zip(names, arguments, strict=False)]
            return ast.Call(function, positional, [ast.keyword(k.arg, inside(str(k.arg), k.value)) for k in keywords])
        case ast.BinOp(left, operator, right):
            left, right = (_replace_draws(side, name, kind, catalog, replace) for side in (left, right))
            return ast.BinOp(left, operator, right)
        case ast.Tuple(elements):
            values = [_replace_draws(x, f"{name}.{place}", kind, catalog, replace) for place, x in enumerate(elements)]
            return ast.Tuple(values, ast.Load())
    return node


def _law_of(node: ast.AST) -> str:
    """The law of a draw; "" for other expressions."""
    match node:
        case ast.Call(ast.Name(law)) if law in LAWS:
            return law
    return ""


def _parse(text: str) -> ast.expr:
    """Parse a text; one that is no expression, such as `5 epochs`, becomes a name."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if has_draws(text):
            raise UsageError(f'The text "{text}" of the space cannot be parsed.') from error
        return ast.Name(text, ast.Load())


def to_node(value: Value) -> ast.expr:
    """A value as an expression; a choice is parsed where it can be."""
    if not isinstance(value, str):
        return ast.Constant(value)
    try:
        return ast.parse(value, mode="eval").body
    except SyntaxError:
        return ast.Constant(value)
