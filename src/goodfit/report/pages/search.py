"""The page of a search: what it searched, what it found, and how much of that was luck."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.core.figures import ACCURACY, Figure, figure_of
from goodfit.core.interval import wilson_interval
from goodfit.core.run import SEARCH_FILE
from goodfit.core.run_files import get
from goodfit.report.failures import compare_with_baselines
from goodfit.report.frame import render_page
from goodfit.report.markup import EMPTY, NBSP, Column, Html, definition_list, details, format_distance, paragraph, section, table, tag
from goodfit.report.record import FolderReader, as_items, as_rows, as_texts, get_number
from goodfit.report.sections.baselines import BASELINES_FILE, find_baselines, render_baselines
from goodfit.report.sections.headline import format_title, render_large, result_box
from goodfit.report.sections.trials import Trials, format_drawn_value, has_diverged, render_finalists, render_ranking
from goodfit.report.sections.values import render_importance, render_values

METHODS = {
    "fine": "drawn at random, the later ones from narrower ranges around the best earlier ones",
    "random": "drawn at random",
    "tpe": "drawn by TPE, which learns from the trials before",
    "grid": "on a grid",
    "halving": "drawn at random; twice, the best third is trained three times as long",
}
BASELINES_INTRO = "On the same validation images, as trial {name} reads them."


def render_search(folder: Path) -> str:
    """Render the page of the folder of a search, finished or not, as one HTML text."""
    files = FolderReader(folder)
    plan, results = files.read_json(SEARCH_FILE), files.read_json("results.json")
    _, base = files.read_toml("base.toml")
    recipe, _ = files.read_toml("winner.toml")
    trials = Trials.read(folder, results)
    name = format_title(base.get("data") or files.name)
    trained = sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob(f"*/*/{BASELINES_FILE}"))
    header = tag(
        "header",
        tag("p.eyebrow", "Goodfit search report"),
        tag("h1", name),
        tag("p.subtitle", describe_plan(plan)),
        result_box(
            render_figure(trials, results),
            [*describe_low_result(trials, results, files, trained), *interpret_search(trials, results, folder)],
        ),
    )
    parts = (
        ("winner", "Winner", render_winner(trials, results, recipe, f"goodfit train --recipe {shlex.quote(str(folder / 'winner.toml'))}")),
        ("finalists", "Fresh seeds", render_finalists(trials, results)),
        ("baselines", "Baselines", render_baselines(files, trained, BASELINES_INTRO)),
        ("importance", "Importance", render_importance(results)),
        ("values", "Values", render_values(trials, results)),
        ("ranking", "Ranking", render_ranking(trials)),
        ("space", "Space", render_space(plan, trials)),
    )
    return render_page(f"{name} · {files.name} · Goodfit search report", header, parts, files.describe_source("folder of the search"))


def describe_plan(plan: dict[str, Any]) -> str:
    """Describe in one sentence what the search was to do, leaving out what is not known."""
    n, keep, copies = (get_number(plan, key) for key in ("trials", "keep", "copies"))
    number = words.count_of(int(n), "trial") if n else "As many trials as the time allowed"
    method = METHODS.get(str(plan.get("method")), "")
    retraining = f"; the best {keep:.0f} retrained with {words.count_of(int(copies), 'fresh seed')}" if keep and copies else ""
    return f"{number} of {plan.get('each')}{', ' if method else ''}{method}{retraining}." if plan else ""


def render_figure(trials: Trials, results: dict[str, Any]) -> Html:
    """Render the winner's accuracy in large type: with fresh seeds, or else in the search."""
    figure = figure_of(results)
    for row in as_rows(get(results, "finalists"))[:1]:
        mean, error, fresh = get_number(row, "mean"), get_number(row, "error"), row.get("fresh")
        if mean is not None:
            seeds = words.count_of(len(fresh), "fresh seed") if isinstance(fresh, list) else "fresh seeds"
            uncertainty = tag("p.dim", f"± {format_error(figure, error)} standard error") if error is not None else None
            return tag(
                "div.figure",
                render_large(figure, mean),
                tag("p", tag("strong", f"validation {figure.name}"), f", mean of {seeds}"),
                uncertainty,
            )
    best = next((y for row in trials.ranked if (y := get_number(row, "value")) is not None), None)
    if best is None:
        return tag("div.figure", tag("p.big", "–"), tag("p", "no trial has ended yet" if results else "no results"))
    return tag(
        "div.figure", render_large(figure, best), tag("p", tag("strong", f"validation {figure.name}"), " of the best trial, not retrained")
    )


def format_error(figure: Figure, error: float) -> str:
    """Format a standard error: `0.42 points`, `0.004`."""
    return f"{100 * error:.2f}{NBSP}points" if figure.is_share else f"{error:.3f}"


def describe_low_result(trials: Trials, results: dict[str, Any], files: FolderReader, trained: list[str]) -> list[str]:
    """Say that the best of the search is below a baseline."""
    figure = figure_of(results)
    finalists = [mean for row in as_rows(get(results, "finalists"))[:1] if (mean := get_number(row, "mean")) is not None]
    best = next((y for y in (*finalists, *(get_number(row, "value") for row in trials.ranked)) if y is not None), None)
    _, baselines, images = find_baselines(files, trained)
    is_known = best is not None and 0 <= best <= 1 and figure.is_share
    interval = wilson_interval(round(best * images), int(images)) if is_known and best is not None and images else (None, None)
    low = compare_with_baselines(best, interval, baselines, figure)
    return [f"{low} Search wider ranges or other models, or give each trial a longer budget (`--each`)."] if low else []


def interpret_search(trials: Trials, results: dict[str, Any], folder: Path) -> list[str]:
    """Interpret the search in sentences."""
    failed = sum(row.get("state") == "failed" for row in trials.all.values())
    lost = sum(map(has_diverged, trials.ranked))
    failures = [f"{words.count_of(n, 'trial')} {verb}" for n, verb in ((failed, "failed"), (lost, "diverged")) if n]
    scores = "accuracies" if figure_of(results) is ACCURACY else "scores"
    caveat = f"All {scores} are on validation images, which also chose the winner; the test images were not used."
    sentences = [
        describe_end(trials, results, folder),
        describe_luck(results),
        describe_lead(results),
        *as_texts(get(results, "warnings")),
        f"{' and '.join(failures)}." if failures else "",
        caveat if trials.ranked else "",
    ]
    return [sentence for sentence in sentences if sentence]


def describe_end(trials: Trials, results: dict[str, Any], folder: Path) -> str:
    """Describe how the search ended; empty if it did all it was to do. Results of earlier versions show it in the trials' states."""
    resume, done = f"goodfit search --resume {shlex.quote(str(folder))}", words.count_of(len(trials.ranked), "trial")
    if not (folder / "results.json").is_file():
        return f"No results were written yet; they are written after each trial. If the search was killed, `{resume}` continues it."
    over = get(results, "over")
    if not isinstance(over, bool):
        over = not any(row.get("state") in ("waiting", "running") for row in trials.all.values())
    if not over:
        return f"The search had not ended, with {done} done; `{resume}` continues it."
    if get(results, "timed_out") is True:
        return f"The search ran out of time, with {done} done; `{resume} --budget TIME` gives it more."
    return ""


def describe_luck(results: dict[str, Any]) -> str:
    """Describe how much of the winner's lead fresh seeds confirmed."""
    lead, luck = get_number(results, "lead"), get_number(results, "luck")
    if not as_rows(get(results, "finalists")):
        return "The best trial was not retrained with fresh seeds, so some of its lead is luck." if get(results, "winner") else ""
    if lead is None or luck is None:
        return "How much of the winner's lead was luck is not known, because the retrainings were not as long as the trials."
    ahead, change = (format_distance(figure_of(results), x) for x in (lead, luck))
    confirmed = f"{change} vanished" if luck >= 0 else f"all remained, and {change} more came,"
    return f"Of the {ahead} by which the winner led the median trial in the search, {confirmed} with fresh seeds."


def describe_lead(results: dict[str, Any]) -> str:
    """Say if the fresh seeds cannot tell the first two apart."""
    first_two = as_rows(get(results, "finalists"))[:2]
    means, errors = ([x for row in first_two if (x := get_number(row, key)) is not None] for key in ("mean", "error"))
    if len(means) < 2 or len(errors) < 2 or means[0] - means[1] > 2 * math.hypot(*errors):
        return ""
    apart = format_distance(figure_of(results), means[0] - means[1])
    return f"The first two are {apart} apart with fresh seeds, which so few seeds cannot tell from no difference."


def render_winner(trials: Trials, results: dict[str, Any], recipe: str, command: str) -> Html:
    """Render the winner's values, where its run is if not in the folder, the command that trains it, and its recipe."""
    values = as_items(get(results, "winner", "values"))
    if not values:
        return EMPTY
    trial = trials.winner
    machine, search_folder = (trials.all.get(trial, {}).get(key) for key in ("machine", "search_folder"))
    is_elsewhere = search_folder and not (trials.folder / trial).is_dir()
    return section(
        "winner",
        "Winner",
        paragraph("Trial ", tag("code", trial), ", with these values in the recipe:"),
        definition_list((name, tag("code", format_drawn_value(value))) for name, value in values),
        paragraph("Its run is elsewhere: ", tag("code", f"{machine}:{search_folder}/{trial}")) if is_elsewhere else None,
        tag("pre", tag("code", command)) if recipe else None,
        details("winner.toml, the complete recipe at full length", tag("pre", tag("code", recipe))) if recipe else None,
    )


def render_space(plan: dict[str, Any], trials: Trials) -> Html:
    """Render what was searched, and how."""
    body = [[key, tag("code", str(text))] for key, text in as_items(plan.get("space"))]
    seconds = sum(x for row in trials.all.values() if (x := get_number(row, "seconds")) is not None)
    names = (("method", "Method"), ("trials", "Number of trials"), ("each", "Length of a trial"), ("full", "Length of the retrainings"))
    counts = (("keep", "Best trials retrained"), ("copies", "Seeds of each"), ("seed", "Seed of the draws"))
    settings = {**plan, "trials": plan.get("trials") or "as many as the time allows"} if plan else {}
    entries = [(name, str(settings[key])) for key, name in (*names, *counts) if settings.get(key) not in (None, "")]
    time = [("Total training time", words.format_duration(seconds))] if seconds else []
    return section(
        "space",
        "What was searched",
        definition_list([*entries, *time]),
        table([Column("Setting"), Column("Range")], body) if body else EMPTY,
    )
