"""goodfit search: which values of a recipe train best."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from cyclopts import Parameter

from goodfit.cli import process_started
from goodfit.cli.options import RECIPE, Options, Shorts, assemble, require_data
from goodfit.core.errors import UsageError
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.plan import SearchOptions

SEARCH = Parameter(name="*", group="Search")


def _recipe_options() -> Any:
    """The options of the recipe except the budget, which here is that of the search."""
    fields = [(f.name, f.type, dataclasses.field(default=None, kw_only=True)) for f in dataclasses.fields(Options) if f.name != "budget"]
    return RECIPE(dataclasses.make_dataclass("RecipeOptions", fields, namespace={"__module__": __name__}))


RecipeOptions: Any = _recipe_options()


def search(
    data: str = "",
    /,
    *,
    search: Annotated[SearchOptions | None, SEARCH] = None,
    json: Annotated[bool, Parameter(group="Search")] = False,
    shorts: Shorts | None = None,
    options: RecipeOptions | None = None,
) -> None:
    """Search for the values of a recipe that train best: each trial is an ordinary run; the best are trained again before one wins.

    Parameters
    ----------
    data
        The images, as for train.
    json
        Print the results as JSON on stdout.
    """
    search = search or SearchOptions()
    search.check(data)
    from goodfit.study.search.run import describe_search, run_search
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_json, print_lines

    asked = assemble(data, shorts, options)
    require_data(asked)
    if search.resume is not None and asked != Recipe():
        raise UsageError("Expected --resume without options of the recipe: the search has them already.")
    results = run_search(asked, search, TerminalReporter(), process_started())
    if json:
        print_json({"path": str(results.path), **results.plain()})
        return
    print_lines(*describe_search(results))
