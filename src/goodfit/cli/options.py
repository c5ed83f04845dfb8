"""The recipe as options of the command line: its fields, of which a new one is a new option, and the short ways to say them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from cyclopts import Parameter

from goodfit.core.errors import UsageError
from goodfit.data.sources import find_data
from goodfit.recipe.recipe import FORMER_KEYS, Recipe, with_current_keys

RECIPE = Parameter(name="*", group="Recipe")
NAMES = {"source": "--from", "source_by": "--from-by"}  # of fields whose options are not named as they are: from is a keyword of Python


def _names(field: str) -> list[str]:
    """The option of a field, and what it was called in earlier versions."""
    former = [old for old, new in FORMER_KEYS.items() if new == field]
    return [NAMES.get(field, f"--{field.replace('_', '-')}"), *(f"--{name}" for name in former)]


def _options() -> type:
    fields = []
    for field in dataclasses.fields(Recipe):
        if field.name not in ("data", "use"):
            default = "" if field.default in ("", ()) else f" (default: {field.default})"
            fields.append(
                (
                    field.name,
                    Annotated[str | None, Parameter(name=_names(field.name), help=field.metadata["help"] + default)],
                    dataclasses.field(default=None, kw_only=True),
                )
            )
    return RECIPE(dataclasses.make_dataclass("Options", fields, namespace={"__module__": __name__}))


Options: Any = _options()


@Parameter(name="*", group="Short for")
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
        DataError: there is no such data.
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
    if recipe.data:
        find_data(recipe.data)  # before torch is imported, which takes seconds
    return recipe.but(use=tuple(shorts.use)) if shorts.use else recipe
