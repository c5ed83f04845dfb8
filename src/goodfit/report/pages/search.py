"""The page of a search: what was looked for, what was found, and how much of it was luck."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.report.frame import framed
from goodfit.report.markup import NOTHING, THIN, Column, Html, facts, folded, paragraph, points, section, table, tag
from goodfit.report.record import Files, at, items, number, rows, share, texts
from goodfit.report.sections.baselines import FILE, baselines
from goodfit.report.sections.headline import large, result, titled
from goodfit.report.sections.trials import Trials, diverged, finalists, ranking, value_said
from goodfit.report.sections.values import importance, scatters

WAYS = {
    "fine": "drawn at random, the later ones more finely around the best of the earlier",
    "random": "drawn at random",
    "tpe": "drawn by TPE, each by what those before it came to",
    "grid": "on a grid",
    "halving": "drawn at random, the best third then trained three times as long, twice",
}
ALIKE = "On the same validation images, as the trial {name} reads them."


def render(folder: Path) -> str:
    """The page of a search's folder, of one that is still going too."""
    files = Files(folder)
    plan, results = files.json("search.json"), files.json("results.json")
    _, base = files.toml("base.toml")
    recipe, _ = files.toml("winner.toml")
    trials = Trials.read(folder, results)
    name = titled(base.get("data") or files.name)
    trained = sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob(f"*/*/{FILE}"))
    header = tag(
        "header",
        tag("p.eyebrow", "Goodfit search report"),
        tag("h1", name),
        tag("p.subtitle", asked(plan)),
        result(figure(trials, results), findings(trials, results, folder)),
    )
    parts = (
        ("winner", "Winner", winner(results, recipe, f"goodfit train --recipe {shlex.quote(str(folder / 'winner.toml'))}")),
        ("finalists", "Fresh seeds", finalists(trials, results)),
        ("baselines", "Baselines", baselines(files, trained, ALIKE)),
        ("importance", "Importance", importance(results)),
        ("values", "Values", scatters(trials, results)),
        ("ranking", "Ranking", ranking(trials)),
        ("space", "Space", space(plan, trials)),
    )
    return framed(f"{name} · {files.name} · Goodfit search report", header, parts, files.source("folder of the search"))


def asked(plan: dict[str, Any]) -> str:
    """What the search was to do: one sentence of what is known."""
    n, keep, copies = (number(plan, key) for key in ("trials", "keep", "copies"))
    many = words.count_of(int(n), "trial") if n else "As many trials as the time allowed"
    way = WAYS.get(str(plan.get("method")), "")
    anew = f"; the best {keep:.0f} trained anew with {words.count_of(int(copies), 'fresh seed')}" if keep and copies else ""
    return f"{many} of {plan.get('each')}{', ' if way else ''}{way}{anew}." if plan else ""


def figure(trials: Trials, results: dict[str, Any]) -> Html:
    """The winner's accuracy in large type: with fresh seeds, else that of the search."""
    for one in rows(at(results, "finalists"))[:1]:
        mean, error, fresh = number(one, "mean"), number(one, "error"), one.get("fresh")
        if mean is not None:
            seeds = words.count_of(len(fresh), "fresh seed") if isinstance(fresh, list) else "fresh seeds"
            more = tag("p.dim", f"± {100 * error:.2f}{THIN}points standard error") if error is not None else None
            return tag("div.figure", large(mean), tag("p", tag("strong", "validation accuracy"), f", mean of {seeds}"), more)
    best = next((y for row in trials.ranked if (y := share(row, "value")) is not None), None)
    if best is None:
        return tag("div.figure", tag("p.big", "–"), tag("p", "no trial has ended yet" if results else "no results"))
    return tag("div.figure", large(best), tag("p", tag("strong", "validation accuracy"), " of the best trial, not retrained"))


def findings(trials: Trials, results: dict[str, Any], folder: Path) -> list[str]:
    """What the search says, in sentences."""
    failed = sum(row.get("state") == "failed" for row in trials.all.values())
    lost = sum(map(diverged, trials.ranked))
    astray = [f"{words.count_of(n, 'trial')} {what}" for n, what in ((failed, "failed"), (lost, "diverged")) if n]
    honest = "All figures are of validation images, which chose the winner; the test images were not looked at."
    sentences = [
        ended(trials, results, folder),
        luck(results),
        close(results),
        *texts(at(results, "warnings")),
        f"{' and '.join(astray)}." if astray else "",
        honest if trials.ranked else "",
    ]
    return [sentence for sentence in sentences if sentence]


def ended(trials: Trials, results: dict[str, Any], folder: Path) -> str:
    """How the search ended, when it did not simply do all it was to do; results of earlier versions tell it by the states of the trials."""
    again, done = f"goodfit search --resume {shlex.quote(str(folder))}", words.count_of(len(trials.ranked), "trial")
    if not (folder / "results.json").is_file():
        return f"No results were written yet: they are after each trial. If the search was killed, `{again}` goes on."
    over = at(results, "over")
    if not isinstance(over, bool):
        over = not any(row.get("state") in ("waiting", "running") for row in trials.all.values())
    if not over:
        return f"The search had not ended, with {done} done; `{again}` goes on."
    if at(results, "timed_out") is True:
        return f"Time ended the search, with {done} done; `{again} --budget TIME` gives it more."
    return ""


def luck(results: dict[str, Any]) -> str:
    """How much of the winner's lead came again with fresh seeds."""
    lead, gone = number(results, "lead"), number(results, "luck")
    if not rows(at(results, "finalists")):
        return "The best trial was not retrained with fresh seeds, so some of its lead is luck." if at(results, "winner") else ""
    if lead is None or gone is None:
        return "How much of the winner's lead was luck is not known: the retrainings were of another length than the trials."
    again = f"{points(gone)} did not come again" if gone >= 0 else f"all came again, and {points(gone)} more,"
    return f"Of the {points(lead)} that the winner was ahead of the median trial in the search, {again} with fresh seeds."


def close(results: dict[str, Any]) -> str:
    """Whether the fresh seeds tell the first two apart."""
    found = rows(at(results, "finalists"))[:2]
    means, errors = ([x for one in found if (x := number(one, key)) is not None] for key in ("mean", "error"))
    if len(means) < 2 or len(errors) < 2 or means[0] - means[1] > 2 * math.hypot(*errors):
        return ""
    return f"The first two are {points(means[0] - means[1])} apart with fresh seeds, which so few seeds cannot tell from none."


def winner(results: dict[str, Any], recipe: str, command: str) -> Html:
    """The winner's values, and its recipe with the command that trains it."""
    values = items(at(results, "winner", "values"))
    if not values:
        return NOTHING
    return section(
        "winner",
        "Winner",
        paragraph("Trial ", tag("code", str(at(results, "winner", "trial"))), ", with these values in the recipe:"),
        facts((name, tag("code", value_said(value))) for name, value in values),
        tag("pre", tag("code", command)) if recipe else None,
        folded("winner.toml, the whole recipe at full length", tag("pre", tag("code", recipe))) if recipe else None,
    )


def space(plan: dict[str, Any], trials: Trials) -> Html:
    """What was searched, and how."""
    body = [[key, tag("code", str(text))] for key, text in items(plan.get("space"))]
    seconds = sum(x for row in trials.all.values() if (x := number(row, "seconds")) is not None)
    names = (("method", "Method"), ("trials", "Trials asked for"), ("each", "Length of a trial"), ("full", "Length of the retrainings"))
    counted = (("keep", "Best that are retrained"), ("copies", "With so many seeds each"), ("seed", "Seed of the draws"))
    told = {**plan, "trials": plan.get("trials") or "as many as the time allows"} if plan else {}
    known = [(name, str(told[key])) for key, name in (*names, *counted) if told.get(key) not in (None, "")]
    time = [("Time of all trainings", words.format_duration(seconds))] if seconds else []
    return section("space", "What was searched", facts([*known, *time]), table([Column("Key"), Column("Drawn")], body) if body else NOTHING)
