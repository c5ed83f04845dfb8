"""The recipe as options of the command line: its fields, of which a new one is a new option, and the short ways to say them."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from goodfit.core.errors import UsageError
from goodfit.core.run import Run, require_free_folder
from goodfit.recipe.cards import refuse_unknown_parts
from goodfit.recipe.recipe import FORMER_KEYS, SEATS, Recipe, with_current_keys
from goodfit.recipe.run_recipe import read_recipe, split_fork
from goodfit.terminal.reporter import TerminalReporter

MOST_USED = Group("Most used", sort_key=1)
MOST_USED_FIELDS = ("task", "model", "optimizer", "augment", "schedule", "budget", "size", "batch_size", "validation", "source", "seed")
METAVARS = {
    "size": "PIXELS|HxW", "validation": "SHARE|FILE", "source": "RUN|FILE|NAME", "budget": '"N epochs"|"N min"', "batch_size": "INT|all",
    "evaluate_every": "LENGTH", "save_every": "LENGTH", "class_weights": "WEIGHTS", "mean": "NUMBERS", "std": "NUMBERS", "device": "DEVICE",
    "targets": "COLUMNS", "fork": "RUN[@STEP]",
}  # fmt: skip
RECIPE_HINTS = typing.get_type_hints(Recipe)
RECIPE = Parameter(name="*", group=Group("Recipe", sort_key=4))
SHOW_ALL = "--all" in sys.argv  # beside --help
FIT_FIELDS = (  # that say how long a training is and what comes of it
    "budget", "schedule", "plateau", "stop", "average", "snapshots", "evaluate_every", "save_every", "probes", "views", "keep",
)  # fmt: skip
DATA_FIELDS = (
    "task", "targets", "limit", "duplicates", "size", "aspect", "channels", "mean", "std", "validation", "split_seed", "cache", "storage",
    "seed", "device", "threads",
)  # fmt: skip
SOURCE_FIELDS = ("source", "source_by", "model", "head_init", "batch_size", "precision", "layout")  # of a net with weights from elsewhere
NAMES = {"source": "--from", "source_by": "--from-by"}  # of fields whose options are not named as they are: from is a keyword of Python


def _names(field: str) -> list[str]:
    """The option of a field, and what it was called in earlier versions."""
    former = [old for old, new in FORMER_KEYS.items() if new == field]
    return [NAMES.get(field, f"--{field.replace('_', '-')}"), *(f"--{name}" for name in former)]


def _parameters(field: dataclasses.Field[Any], is_listed: bool) -> tuple[Parameter, ...]:
    """What an option of a field of the recipe is; of those listed, --help shows the most used ones, and with --all every one."""
    names = _names(field.name)
    text = field.metadata["help"].replace(f" ({names[0]})", "") + (
        "" if field.default in ("", "auto", "none", ()) else f" (default: {field.default})"
    )
    is_most_used = field.name in MOST_USED_FIELDS
    is_shown = is_listed and (is_most_used or SHOW_ALL)
    parameter = Parameter(name=names, help=text, metavar=_metavar(field.name), show=is_shown)
    return (parameter, Parameter(group=MOST_USED)) if is_most_used else (parameter,)


def _metavar(field: str) -> str:
    """What the option of a field takes: one of some words, a part, or a value of some type."""
    hint = RECIPE_HINTS[field]
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kinds = {int: "INT", float: "FLOAT"}
    plain = next((kinds[t] for t in _plain_types(hint) if t in kinds), "TEXT")
    return "|".join(map(str, choices)) or METAVARS.get(field) or ("PART" if field in SEATS else plain)


def _plain_types(hint: Any) -> list[Any]:
    """The plain types within a type."""
    return [hint] if isinstance(hint, type) else [t for inner in typing.get_args(hint) for t in _plain_types(inner)]


def make_options(name: str, listed: Container[str], refused: Sequence[str] = ()) -> Any:
    """A dataclass with an option for each field of the recipe that is not refused; --help has those that are listed."""
    fields = [
        (field.name, Annotated[str | None, *_parameters(field, field.name in listed)], dataclasses.field(default=None, kw_only=True))
        for field in dataclasses.fields(Recipe)
        if field.name not in ("data", "use", "read_keys", *refused)
    ]
    return RECIPE(dataclasses.make_dataclass(name, fields, namespace={"__module__": __name__}))


# The words of a training are good for the commands beside it, too: those that do nothing there are not listed.
FIELDS = {field.name for field in dataclasses.fields(Recipe)}
Options: Any = make_options("Options", FIELDS)
TrialOptions: Any = make_options("TrialOptions", FIELDS, refused=("budget", "workers", "keep"))  # which are those of the search
LrOptions: Any = make_options("LrOptions", FIELDS - {*FIT_FIELDS})
ShowOptions: Any = make_options("ShowOptions", {*DATA_FIELDS, "augment", "budget"})
AdviseOptions: Any = make_options("AdviseOptions", {*DATA_FIELDS, *SOURCE_FIELDS, "budget"})
AuditOptions: Any = make_options("AuditOptions", {*DATA_FIELDS} - {"size", "aspect", "mean", "std", "storage"})
FeaturesOptions: Any = make_options("FeaturesOptions", {*DATA_FIELDS, *SOURCE_FIELDS} - {"source"})  # which has a place of its own


@Parameter(name="*", group=Group("Short for", sort_key=2))
@dataclasses.dataclass(kw_only=True)
class Shorts:
    """Short ways to say parts of the recipe."""

    recipe: Annotated[str, Parameter(metavar="FILE|NAME", help="A recipe file or the name of a preset to start from.")] = ""
    set: Annotated[list[str], Parameter(metavar="KEY=VALUE", help="Any field of the recipe.")] = dataclasses.field(default_factory=list)
    drop_duplicates: Annotated[bool, Parameter(help="Short for --duplicates drop.")] = False
    use: Annotated[list[str], Parameter(metavar="FILE", help="A Python file with your own parts.")] = dataclasses.field(
        default_factory=list
    )


def assemble(data: str, shorts: Shorts | None, options: Any) -> Recipe:
    """The recipe of a command line: the file or preset, with what --set key=value and the options change.

    Raises:
        UsageError: a key, value or form is wrong, or a key is given twice.
        UntrustedCode: the file names code that is not known here, and neither is it named on the command line.
    """
    shorts = shorts or Shorts()
    texts = {key: value for key, value in (vars(options) if options else {}).items() if value is not None} | (
        {"data": data} if data else {}
    )
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
    file = shorts.recipe or (str(Run.open(split_fork(texts["fork"])[0]).path / "recipe.toml") if texts.get("fork") else "")
    recipe = (read_recipe(file) if file else Recipe()).but_text(texts)
    recipe = recipe.but(use=tuple(shorts.use)) if shorts.use else recipe
    recipe.trust_own_code()
    recipe.require_trust(f'The recipe "{file}"', recipe.use)
    return recipe


def refuse_early(recipe: Recipe, out: Path | None = None) -> None:
    """Refuse what can be refused without torch, which takes seconds to import.

    Raises:
        UsageError: a part is unknown, or there is something at `out` already.
        DataError: there is no data of its name.
    """
    from goodfit.data.sources import find_data

    refuse_unknown_parts(recipe)
    if out is not None:
        require_free_folder(out)
    if recipe.data:
        find_data(recipe.data)


def start_reporter(recipe: Recipe) -> TerminalReporter:
    """The reporter of a command, which has said what is read."""
    reporter = TerminalReporter()
    if recipe.data:
        reporter.say(f"Reading {recipe.data}.")
    reporter.show_activity("loading PyTorch")
    return reporter
