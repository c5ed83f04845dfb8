"""The run of a search: a new one or an earlier one, by any number of worker processes, and its results."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from goodfit.core.device import physical_cores
from goodfit.core.errors import GoodfitError
from goodfit.core.figures import FIGURES
from goodfit.core.reporter import Reporter
from goodfit.core.signals import stop_error
from goodfit.core.trust import current_trust, known_code_environment, trust_own_code
from goodfit.core.words import format_duration
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import prepare, with_absolute_paths
from goodfit.recipe.recipe import Recipe
from goodfit.report.frame import REPORT_FILE
from goodfit.report.page import write_report
from goodfit.runs.train import RunOptions, train
from goodfit.study.search.begin import begin_search, resume_search
from goodfit.study.search.defaults import default_space, fill_defaults, has_default
from goodfit.study.search.plan import SearchOptions, SearchPlan
from goodfit.study.search.results import Results, collect_results, format_results, format_values, write_results
from goodfit.study.search.search import Search, work_on
from goodfit.study.search.space import read_texts
from goodfit.study.search.trials import Trial

DEFAULT_TRIALS = 20


def run_search(asked: Recipe, options: SearchOptions, reporter: Reporter, started: float) -> Results:
    """Search around a recipe, or resume an earlier search; the time of its budget counts from the steady time `started`.

    Raises:
        UsageError: an option, the space or the method does not go with the recipe.
        Interrupted, Terminated: a signal stopped it; everything is saved.
    """
    seconds = options.seconds
    search = _resume_search(options) if options.resume is not None else _new_search(asked, options, reporter)
    search.storage.report = reporter.say
    if options.resume is None or seconds is not None:
        search.set_time_limit(seconds, started)
    elif search.time_share() >= 1:
        reporter.say("The time of this search is over; --budget gives it more.")
    try:
        _work_together(search, options.workers, reporter)
    except BaseException as error:
        with contextlib.suppress(GoodfitError, OSError):  # that nothing more can be written must not hide why it ended
            reporter.say(*describe_search(_write_results(search)))
        if isinstance(error, KeyboardInterrupt):
            raise stop_error(error, f'Stopped, everything is saved; "goodfit search --resume {search.folder}" continues it.') from error
        raise
    return _write_results(search)


def _new_search(asked: Recipe, options: SearchOptions, reporter: Reporter) -> Search:
    """Begin a search; what the recipe leaves open is chosen once, for all trials."""
    asked = with_absolute_paths(asked.but(budget=options.full) if options.full else asked)
    threads = max(1, physical_cores() // options.workers) if options.workers > 1 and asked.threads == "auto" else asked.threads
    trust_own_code(text.partition("=")[2] for text in options.space)
    texts = read_texts(list(options.space), has_default)
    base = prepare(asked.but(threads=threads), reporter).recipe.but(pieces=asked.pieces)  # the pieces depend on the model
    catalog = load_catalog(base.use)
    texts = fill_defaults(texts, base, catalog) or default_space(base, catalog)
    reporter.say("Space: " + "; ".join(f"{key}={text}" for key, text in texts.items()))
    trials = options.trials or (0 if options.budget else DEFAULT_TRIALS)
    each = options.each or base.budget
    plan = SearchPlan(texts, options.method, trials, each, base.budget, options.keep, options.seeds, base.seed)
    return begin_search(options.out, plan, base, options.storage)


def _resume_search(options: SearchOptions) -> Search:
    """Open an earlier search, to continue it or to help with it; trials or a budget make it longer."""
    assert options.resume is not None
    search = resume_search(options.resume, options.storage)
    if options.trials is not None or options.budget:
        search.extend(options.trials or search.plan.trials)
    return search


def _work_together(search: Search, workers: int, reporter: Reporter) -> None:
    """Work on a search in this process and in `workers` - 1 others."""

    figure = FIGURES[search.base.task]

    def train_trial(recipe: Recipe, out: Path) -> float:
        run = train(recipe, RunOptions(out, "auto"))
        assert run is not None
        return float(run.read("scores.json")["validation"][figure.key])

    def report_trial(trial: Trial) -> None:
        result = figure.format(trial.value, 2) if trial.value is not None else trial.state
        why = f"  ({trial.why})" if trial.why else ""
        reporter.say(f"{trial.folder:13} {result:>8}  {format_duration(trial.seconds or 0.0):>12}  {format_values(trial.values)}{why}")
        write_results(
            search, collect_results(search, with_importance=False)
        )  # so that a search that is running, or was killed, can be read

    logs = [search.folder / "workers" / f"{index}.log" for index in range(1, workers)]
    command = [sys.executable, "-m", "goodfit", "search", "--resume", str(search.folder.resolve()), *current_trust().to_options()]
    environment = {**os.environ, **known_code_environment(), **search.storage.environment()}
    others = []
    try:
        for log in logs:
            log.parent.mkdir(exist_ok=True)
            with log.open("wb") as file:
                others.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
        work_on(search, train_trial, report_trial)
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


def _write_results(search: Search) -> Results:
    """Write what a search has found so far, and its page."""
    results = collect_results(search)
    write_results(search, results)
    write_report(search.folder)
    return results


def describe_search(results: Results) -> list[str]:
    """Describe what a search has found, in lines of text."""
    return [*format_results(results).split("\n"), f"Search: {results.path}", f"Report: {results.path / REPORT_FILE}"]
