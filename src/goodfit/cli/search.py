"""goodfit search: which values of a recipe train best."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from goodfit.cli import started
from goodfit.cli.options import RECIPE, Options, Shorts, assemble
from goodfit.core.errors import GoodfitError, Interrupted, UsageError

if TYPE_CHECKING:
    from goodfit.recipe.recipe import Recipe
    from goodfit.study.search.results import Results
    from goodfit.study.search.trials import Row
    from goodfit.study.search.work import Search
    from goodfit.terminal.reporter import Voice

TRIALS = 20


@Parameter(name="*", group="Search")
@dataclasses.dataclass(kw_only=True)
class Manners:
    """How the search is carried out."""

    space: Annotated[
        list[str],
        Parameter(
            help='What is drawn, as key=text: "lr=log(1e-4, 1)", "model.width=one_of(16, 32)", "optimizer=sgd(log(0.01, 1))", with'
            " log(a, b), uniform(a, b), integers(a, b) and one_of(...); or a TOML file of them; or a key alone, such as optimizer or"
            " model.width, for the default of that part or setting. Default: architecture, rate, weight decay, dropout and augmentation"
            " around the recipe.",
        ),
    ] = dataclasses.field(default_factory=list)
    trials: Annotated[int | None, Parameter(help=f"How many trials (default: {TRIALS}, or as many as --budget allows).")] = None
    budget: Annotated[str, Parameter(help='Time for all of it, such as "30 min": the best so far is then named.')] = ""
    each: Annotated[str, Parameter(help="Length of a trial's training (default: that of --full).")] = ""
    full: Annotated[str, Parameter(help="Length of the trainings of the best (default: the budget of --recipe, else chosen).")] = ""
    method: Annotated[
        Literal["fine", "random", "tpe", "grid", "halving"],
        Parameter(help="fine: random, coarse to fine; random; tpe; grid; halving: the best third at three times the length, twice."),
    ] = "fine"
    keep: Annotated[int, Parameter(help="How many of the best are trained anew with fresh seeds; 0: none.")] = 3
    seeds: Annotated[int, Parameter(help="With how many seeds each.")] = 2
    workers: Annotated[int, Parameter(help="Processes at work on this machine.")] = 1
    out: Annotated[Path | None, Parameter(help="Folder of the search (default: searches/<time>).")] = None
    resume: Annotated[
        Path | None, Parameter(help="Go on with the search in this folder, or help with it from another process or machine.")
    ] = None
    json: Annotated[bool, Parameter(help="Print what was found as JSON on stdout.")] = False


def _options() -> Any:
    """The recipe's fields but the budget, which here is that of the search."""
    fields = [(f.name, f.type, dataclasses.field(default=None, kw_only=True)) for f in dataclasses.fields(Options) if f.name != "budget"]
    return RECIPE(dataclasses.make_dataclass("SearchOptions", fields, namespace={"__module__": __name__}))


SearchOptions: Any = _options()


def search(
    data: str = "", /, *, manners: Manners | None = None, shorts: Shorts | None = None, options: SearchOptions | None = None
) -> None:
    """Search for the values of a recipe that train best: each trial is an ordinary run; the best are trained anew before one wins.

    Parameters
    ----------
    data
        The images, as for train.
    """
    manners = manners or Manners()
    for name, low in (("trials", 1), ("keep", 0), ("seeds", 1), ("workers", 1)):
        if (value := getattr(manners, name)) is not None and value < low:
            raise UsageError(f"Expected --{name} to be {low} or more, received {value}.")
    if manners.resume is not None and (data or manners.space or manners.out or manners.each or manners.full):
        raise UsageError("Expected --resume without images, --space, --out, --each or --full: the search knows them.")
    from json import dumps

    from goodfit.core.progress import Length
    from goodfit.terminal.reporter import Terminal

    seconds = None
    if manners.budget:
        length = Length.read(manners.budget)
        if length.unit != "second":
            raise UsageError(
                f'Expected --budget of a search as a time such as "30 min", received "{manners.budget}"; --each is a training\'s.'
            )
        seconds = length.amount
    voice = Terminal()
    there = again(manners) if manners.resume is not None else new(assemble(data, shorts, options), manners, voice)
    if manners.resume is None or seconds is not None:
        there.limit(seconds, started())
    elif there.spent() >= 1:
        voice.say("The time of this search is over; --budget gives it more.")
    try:
        together(there, manners.workers, voice)
    except BaseException as error:
        with contextlib.suppress(GoodfitError, OSError):  # that nothing more can be written does not hide why it ended
            concluded(there, voice)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f'Stopped, everything is saved; "goodfit search --resume {there.study}" goes on.') from error
        raise
    found = concluded(there, voice)
    if manners.json:
        print(dumps({"search": str(there.study), **found.plain()}))


def concluded(there: Search, voice: Voice) -> Results:
    """Write and say what a search has found so far."""
    from goodfit.report.page import write_report
    from goodfit.study.search.results import keep, results, table

    found = results(there)
    keep(there, found)
    voice.say(table(found))
    voice.say(f"Search: {there.study}\nReport: {write_report(there.study)}")
    return found


def new(asked: Recipe, manners: Manners, voice: Voice) -> Search:
    """A new search: what the recipe leaves open is chosen once, for all trials."""
    import time

    from goodfit.core.device import cores
    from goodfit.recipe.build import catalog
    from goodfit.recipe.plan import plain_paths, plan_of
    from goodfit.study.search.defaults import default_texts, filled, has_default
    from goodfit.study.search.plan import Plan
    from goodfit.study.search.space import read_texts
    from goodfit.study.search.work import begin

    asked = plain_paths(asked.but(budget=manners.full) if manners.full else asked)
    shared = asked.but(threads=max(1, cores() // manners.workers)) if manners.workers > 1 and asked.threads == "auto" else asked
    texts = read_texts(manners.space, has_default)
    base = plan_of(shared, voice)[0].but(pieces=asked.pieces)  # pieces go by the model
    known = catalog(base.use)
    texts = filled(texts, base, known) or default_texts(base, known)
    voice.say("Space: " + "; ".join(f"{key}={text}" for key, text in texts.items()))
    trials = manners.trials or (0 if manners.budget else TRIALS)
    each = manners.each or base.budget
    plan = Plan(texts, manners.method, trials, each, base.budget, manners.keep, manners.seeds, base.seed)
    return begin(manners.out or Path("searches") / time.strftime("%Y%m%d-%H%M%S"), plan, base)


def again(manners: Manners) -> Search:
    """An earlier search, to go on with or to help with; --trials or --budget make it longer."""
    from goodfit.study.search.work import Search

    assert manners.resume is not None
    there = Search(manners.resume)
    if manners.trials is not None or manners.budget:
        there.reopen(manners.trials or there.plan.trials)
    return there


def together(there: Search, workers: int, voice: Voice) -> None:
    """Work on a search, with more processes beside this one."""
    import subprocess
    import sys

    from goodfit import api
    from goodfit.core.words import duration, percent
    from goodfit.study.search.results import keep, results, shown
    from goodfit.study.search.work import work

    def train(recipe: Recipe, out: Path) -> float:
        run = api.run_recipe(recipe, api.Manner(out, "auto"))
        assert run is not None
        return float(run.read("scores.json")["validation"]["accuracy"])

    def tell(row: Row) -> None:
        result = percent(row.value, 2) if row.value is not None else row.state
        why = f"  ({row.why})" if row.why else ""
        voice.say(f"{row.folder:13} {result:>8}  {duration(row.seconds or 0.0):>12}  {shown(row.values)}{why}")
        keep(there, results(there, brief=True))  # so that a search that is going, or is killed, can be read

    logs = [there.study / "workers" / f"{place}.log" for place in range(1, workers)]
    command = [sys.executable, "-m", "goodfit", "search", "--resume", str(there.study.resolve())]
    others = []
    try:
        for log in logs:
            log.parent.mkdir(exist_ok=True)
            with log.open("w") as file:
                others.append(subprocess.Popen(command, stdout=file, stderr=file))
        work(there, train, tell)
    except BaseException:
        for other in others:
            other.terminate()  # as by SIGTERM: its training saves and leaves
        raise
    finally:
        for other, log in zip(others, logs, strict=False):
            match other.wait():
                case 0 | 130 | 143 | -15:
                    continue
                case int() as code if code < 0:
                    voice.say(f"Warning: a worker was killed by signal {-code}; its trial waits for another.")
                case _:
                    voice.say(f"Warning: a worker ended with an error; {log} says which.")
