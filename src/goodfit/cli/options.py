"""The recipe as options of the command line: its fields, of which a new one is a new option, and the short ways to say them."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

from cyclopts import Group, Parameter

from goodfit.core.errors import UsageError
from goodfit.recipe.recipe import FORMER_KEYS, SEATS, Recipe, with_current_keys

MOST_USED = Group("Most used", sort_key=1)
MOST_USED_FIELDS = ("model", "optimizer", "augment", "schedule", "budget", "size", "batch_size", "validation", "source", "seed")
RECIPE = Parameter(name="*", group=Group("Recipe", sort_key=4))
SHOW_ALL = "--all" in sys.argv  # beside --help
NAMES = {"source": "--from", "source_by": "--from-by"}  # of fields whose options are not named as they are: from is a keyword of Python


def _names(field: str) -> list[str]:
    """The option of a field, and what it was called in earlier versions."""
    former = [old for old, new in FORMER_KEYS.items() if new == field]
    return [NAMES.get(field, f"--{field.replace('_', '-')}"), *(f"--{name}" for name in former)]


def _parameter(field: dataclasses.Field[Any]) -> Parameter:
    """The option of a field of the recipe; --help shows the most used ones, and with --all every one."""
    text = field.metadata["help"] + ("" if field.default in ("", "auto", "none", ()) else f" (default: {field.default})")
    metavar = "PART" if field.name in SEATS else field.name.split("_")[-1].upper()
    if field.name in MOST_USED_FIELDS:
        return Parameter(name=_names(field.name), help=text, metavar=metavar, group=MOST_USED)
    return Parameter(name=_names(field.name), help=text, metavar=metavar, show=SHOW_ALL)


def _options() -> type:
    fields = [
        (field.name, Annotated[str | None, _parameter(field)], dataclasses.field(default=None, kw_only=True))
        for field in dataclasses.fields(Recipe)
        if field.name not in ("data", "use")
    ]
    return RECIPE(dataclasses.make_dataclass("Options", fields, namespace={"__module__": __name__}))


Options: Any = _options()


@Parameter(name="*", group=Group("Short for", sort_key=2))
@dataclasses.dataclass(kw_only=True)
class Shorts:
    """Short ways to say parts of the recipe."""

    recipe: Annotated[str, Parameter(help="A recipe file or the name of a preset to start from.")] = ""
    set: Annotated[list[str], Parameter(help="key=value: any field of the recipe.")] = dataclasses.field(default_factory=list)
    drop_duplicates: Annotated[bool, Parameter(help="Short for --duplicates drop.")] = False
    use: Annotated[list[str], Parameter(help="A Python file with your own parts.")] = dataclasses.field(default_factory=list)


def assemble(data: str, shorts: Shorts | None, options: Any) -> Recipe:
    """The recipe of a command line: the file or preset, with what --set key=value and the options change.

    Raises:
        UsageError: a key, value or form is wrong, or a key is given twice.
    """
    shorts = shorts or Shorts()
    recipe = Recipe.from_toml(shorts.recipe) if shorts.recipe else Recipe()
    texts = {key: value for key, value in vars(options or Options()).items() if value is not None} | ({"data": data} if data else {})
    if shorts.drop_duplicates:
        if "duplicates" in texts:
            raise UsageError("Expected one of --duplicates and --drop-duplicates, received both.")
        texts["duplicates"] = "drop"
    for setting in shorts.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f'Expected --set key=value, received "{setting}".')
        key = next(iter(with_current_keys({key.strip().replace("-", "_"): value})))
        if key in texts:
            raise UsageError(f'Expected {key} once, received it twice, once by "--set {setting}".')
        texts[key] = value.strip()
    recipe = recipe.but_text(texts)
    return recipe.but(use=tuple(shorts.use)) if shorts.use else recipe


def require_data(recipe: Recipe) -> None:
    """Refuse data that is not there, before torch is imported, which takes seconds.

    Raises:
        DataError: there is nothing of its name.
    """
    from goodfit.data.sources import find_data

    if recipe.data:
        find_data(recipe.data)
