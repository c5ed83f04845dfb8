"""goodfit search: which values of a recipe train best."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from goodfit.cli import process_started
from goodfit.cli.options import Shorts, TrialOptions, assemble, refuse_early, start_reporter
from goodfit.core.errors import UsageError
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.plan import SearchOptions

SEARCH = Parameter(name="*", group="Search")


def search(
    data: str = "",
    /,
    *,
    search: Annotated[SearchOptions | None, SEARCH] = None,
    json: Annotated[bool, Parameter(group="Search")] = False,
    shorts: Shorts | None = None,
    options: TrialOptions | None = None,
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
    from goodfit.terminal.streams import print_json, print_lines

    asked = assemble(data, shorts, options)
    refuse_early(asked)
    reporter = start_reporter(asked)
    if search.resume is not None and asked != Recipe():
        raise UsageError("Expected --resume without options of the recipe: the search has them already.")
    results = run_search(asked, search, reporter, process_started())
    if json:
        print_json({"path": str(results.path), **results.plain()})
        return
    print_lines(*describe_search(results))
