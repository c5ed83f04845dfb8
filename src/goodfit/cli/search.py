"""goodfit search: which values of a recipe train best."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from goodfit.cli import process_started
from goodfit.cli.options import RECIPE, Options, Shorts, assemble


@Parameter(name="*", group="Search")
@dataclasses.dataclass(kw_only=True)
class SearchOptions:
    """Options of the search that are not part of the recipe."""

    space: Annotated[
        list[str],
        Parameter(
            help='What is drawn, as key=text: "lr=log(1e-4, 1)", "model.width=one_of(16, 32)", "optimizer=sgd(log(0.01, 1))", with'
            " log(a, b), uniform(a, b), integers(a, b) and one_of(...); or a TOML file of them; or a key alone, such as optimizer or"
            " model.width, for the default of that part or setting. Default: architecture, rate, weight decay, dropout and augmentation"
            " around the recipe.",
        ),
    ] = dataclasses.field(default_factory=list)
    trials: Annotated[int | None, Parameter(help="How many trials (default: 20, or as many as --budget allows).")] = None
    budget: Annotated[str, Parameter(help='Time for the whole search, such as "30 min"; the best so far is then named.')] = ""
    each: Annotated[str, Parameter(help="Length of a trial's training (default: that of --full).")] = ""
    full: Annotated[str, Parameter(help="Length of the trainings of the best (default: the budget of --recipe, else chosen).")] = ""
    method: Annotated[
        Literal["fine", "random", "tpe", "grid", "halving"],
        Parameter(help="fine: random, coarse to fine; random; tpe; grid; halving: the best third at three times the length, twice."),
    ] = "fine"
    keep: Annotated[int, Parameter(help="How many of the best are trained again with fresh seeds; 0: none.")] = 3
    seeds: Annotated[int, Parameter(help="With how many seeds each.")] = 2
    workers: Annotated[int, Parameter(help="Processes that work on this machine.")] = 1
    out: Annotated[Path | None, Parameter(help="Folder of the search (default: searches/<time>).")] = None
    resume: Annotated[
        Path | None, Parameter(help="Continue the search in this folder, or help with it from another process or machine.")
    ] = None
    json: Annotated[bool, Parameter(help="Print the results as JSON on stdout.")] = False


def _recipe_options() -> Any:
    """The options of the recipe except the budget, which here is that of the search."""
    fields = [(f.name, f.type, dataclasses.field(default=None, kw_only=True)) for f in dataclasses.fields(Options) if f.name != "budget"]
    return RECIPE(dataclasses.make_dataclass("RecipeOptions", fields, namespace={"__module__": __name__}))


RecipeOptions: Any = _recipe_options()


def search(
    data: str = "", /, *, search: SearchOptions | None = None, shorts: Shorts | None = None, options: RecipeOptions | None = None
) -> None:
    """Search for the values of a recipe that train best: each trial is an ordinary run; the best are trained again before one wins.

    Parameters
    ----------
    data
        The images, as for train.
    """
    from json import dumps

    from goodfit.study.search import run
    from goodfit.terminal.reporter import TerminalReporter

    o = search or SearchOptions()
    wanted = run.SearchOptions(
        tuple(o.space), o.trials, o.budget, o.each, o.full, o.method, o.keep, o.seeds, o.workers, o.out, o.resume
    )  # fmt: skip
    wanted.check(data)
    asked = assemble(data, shorts, options)
    study, results = run.run_search(asked, wanted, TerminalReporter(), process_started())
    if o.json:
        print(dumps({"search": str(study.study), **results.plain()}))
