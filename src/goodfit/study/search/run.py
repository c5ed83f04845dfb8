"""Running a search: a new one or an earlier one, with any number of worker processes, and writing what it found."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

from goodfit.core.device import physical_cores
from goodfit.core.errors import GoodfitError, Interrupted, UsageError
from goodfit.core.progress import Length
from goodfit.core.reporter import Reporter
from goodfit.core.words import format_duration, format_percent
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import prepare, with_absolute_paths
from goodfit.recipe.recipe import Recipe
from goodfit.report.page import write_report
from goodfit.runs.train import RunOptions, train
from goodfit.study.search.defaults import default_texts, filled, has_default
from goodfit.study.search.plan import Method, Plan
from goodfit.study.search.results import Results, keep, results, shown, table
from goodfit.study.search.space import read_texts
from goodfit.study.search.trials import Row
from goodfit.study.search.work import Search, begin, work

DEFAULT_TRIALS = 20


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What to search and for how long.

    `space` are texts as `key=text`, TOML files of them, or keys alone. `trials` is their number (None: the default, or as many as the
    `budget`, a time, allows), `each` the length of a trial's training, `full` that of the retrainings of the `keep` best with so many
    `seeds`. `resume` names the folder of an earlier search.
    """

    space: tuple[str, ...] = ()
    trials: int | None = None
    budget: str = ""
    each: str = ""
    full: str = ""
    method: Method = "fine"
    keep: int = 3
    seeds: int = 2
    workers: int = 1
    out: Path | None = None
    resume: Path | None = None

    @property
    def seconds(self) -> float | None:
        """The time for all of it; None without a budget.

        Raises:
            UsageError: the budget is not a time.
        """
        if not self.budget:
            return None
        length = Length.read(self.budget)
        if length.unit != "second":
            raise UsageError(
                f'Expected --budget of a search as a time such as "30 min", received "{self.budget}"; --each is a training\'s.'
            )
        return length.amount

    def check(self, data: str) -> None:
        """Refuse numbers that are too small, and a resumed search with options that it knows already.

        Raises:
            UsageError: there are such.
        """
        for name, low in (("trials", 1), ("keep", 0), ("seeds", 1), ("workers", 1)):
            if (value := getattr(self, name)) is not None and value < low:
                raise UsageError(f"Expected --{name} to be {low} or more, received {value}.")
        if self.resume is not None and (data or self.space or self.out or self.each or self.full):
            raise UsageError("Expected --resume without images, --space, --out, --each or --full: the search knows them.")


def run_search(asked: Recipe, options: SearchOptions, reporter: Reporter, started: float) -> tuple[Search, Results]:
    """Search around a recipe, or resume an earlier search; the time of its budget counts from the clock time `started`.

    Raises:
        UsageError: an option, the space or the method does not go with the recipe.
        Interrupted: Ctrl-C stopped it; everything is saved.
    """
    seconds = options.seconds
    search = _resume_search(options) if options.resume is not None else _new_search(asked, options, reporter)
    if options.resume is None or seconds is not None:
        search.limit(seconds, started)
    elif search.spent() >= 1:
        reporter.say("The time of this search is over; --budget gives it more.")
    try:
        _work_together(search, options.workers, reporter)
    except BaseException as error:
        with contextlib.suppress(GoodfitError, OSError):  # that nothing more can be written must not hide why it ended
            _report_results(search, reporter)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f'Stopped, everything is saved; "goodfit search --resume {search.study}" continues it.') from error
        raise
    return search, _report_results(search, reporter)


def _new_search(asked: Recipe, options: SearchOptions, reporter: Reporter) -> Search:
    """Begin a search; what the recipe leaves open is chosen once, for all trials."""
    asked = with_absolute_paths(asked.but(budget=options.full) if options.full else asked)
    threads = max(1, physical_cores() // options.workers) if options.workers > 1 and asked.threads == "auto" else asked.threads
    texts = read_texts(list(options.space), has_default)
    base = prepare(asked.but(threads=threads), reporter).recipe.but(pieces=asked.pieces)  # the pieces depend on the model
    catalog = load_catalog(base.use)
    texts = filled(texts, base, catalog) or default_texts(base, catalog)
    reporter.say("Space: " + "; ".join(f"{key}={text}" for key, text in texts.items()))
    trials = options.trials or (0 if options.budget else DEFAULT_TRIALS)
    each = options.each or base.budget
    plan = Plan(texts, options.method, trials, each, base.budget, options.keep, options.seeds, base.seed)
    return begin(options.out or Path("searches") / time.strftime("%Y%m%d-%H%M%S"), plan, base)


def _resume_search(options: SearchOptions) -> Search:
    """Open an earlier search, to continue it or to help with it; trials or a budget make it longer."""
    assert options.resume is not None
    search = Search(options.resume)
    if options.trials is not None or options.budget:
        search.reopen(options.trials or search.plan.trials)
    return search


def _work_together(search: Search, workers: int, reporter: Reporter) -> None:
    """Work on a search in this process and in `workers` - 1 others."""

    def train_trial(recipe: Recipe, out: Path) -> float:
        run = train(recipe, RunOptions(out, "auto"))
        assert run is not None
        return float(run.read("scores.json")["validation"]["accuracy"])

    def report_trial(row: Row) -> None:
        result = format_percent(row.value, 2) if row.value is not None else row.state
        why = f"  ({row.why})" if row.why else ""
        reporter.say(f"{row.folder:13} {result:>8}  {format_duration(row.seconds or 0.0):>12}  {shown(row.values)}{why}")
        keep(search, results(search, brief=True))  # so that a search that is running, or was killed, can be read

    logs = [search.study / "workers" / f"{index}.log" for index in range(1, workers)]
    command = [sys.executable, "-m", "goodfit", "search", "--resume", str(search.study.resolve())]
    others = []
    try:
        for log in logs:
            log.parent.mkdir(exist_ok=True)
            with log.open("w") as file:
                others.append(subprocess.Popen(command, stdout=file, stderr=file))
        work(search, train_trial, report_trial)
    except BaseException:
        for other in others:
            other.terminate()  # its training then saves and ends
        raise
    finally:
        for other, log in zip(others, logs, strict=False):
            match other.wait():
                case 0 | 130 | 143 | -15:
                    continue
                case int() as code if code < 0:
                    reporter.say(f"Warning: a worker was killed by signal {-code}; its trial waits for another.")
                case _:
                    reporter.say(f"Warning: a worker ended with an error; see {log}.")


def _report_results(search: Search, reporter: Reporter) -> Results:
    """Write and report what a search has found so far."""
    found = results(search)
    keep(search, found)
    reporter.say(table(found))
    reporter.say(f"Search: {search.study}\nReport: {write_report(search.study)}")
    return found
