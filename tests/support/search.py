"""A search over a hill in place of trainings, and its workers, for processes of their own."""

from __future__ import annotations

import math
import random
import socket
import time
from pathlib import Path
from typing import Any

from goodfit.core.errors import Terminated
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import Recipe
from goodfit.runs.signals import halt_on_signals
from goodfit.study.search import database
from goodfit.study.search.begin import resume_search
from goodfit.study.search.search import Search, work_on

CATALOG = load_catalog()
BASE = Recipe(model="convnet(8)", optimizer="sgd(0.1)", augment="flip | crop(2)", schedule="cosine", budget="9 epochs", batch_size=8)
PEAK = (0.03, 0.5)  # where the hill is


def hill(recipe: Recipe, out: Path) -> float:
    """A training that is none: its accuracy has one peak over rate and momentum, and a little luck by the seed."""
    part: Any = make_parts(recipe, CATALOG)["optimizer"]
    height = math.exp(-(math.log10(part.lr / PEAK[0]) ** 2) - (part.momentum - PEAK[1]) ** 2)
    return 0.9 * height + 0.01 * math.sin(1000 * part.lr + recipe.seed)


def note(study: Path, out: Path) -> str:
    """Write down which trial is at work, and return its name."""
    out.mkdir(parents=True, exist_ok=True)
    name = f"{out.parent.name}/{out.name}"
    with (study / "said.txt").open("a") as file:
        file.write(f"{name}\n")
    return name


def work_slowly(study: Path, stuck: str = "none", host: str = "") -> None:
    """A worker whose trainings take a moment, that of the trial `stuck` for ever; with a `host`, one of another machine by all signs."""
    if host:
        socket.gethostname = lambda: host

    def train(recipe: Recipe, out: Path) -> float:
        time.sleep(1000 if note(study, out) == stuck else 0.02)
        return hill(recipe, out)

    work_on(Search(study), train)


def work_until_stopped(study: Path, seconds: float) -> None:
    """A worker whose search may take so long; its final trainings, of ten seconds, are stopped on the way. Prints when it ended."""

    def train(recipe: Recipe, out: Path) -> float:
        note(study, out)
        with halt_on_signals() as halt:
            for _ in range(1000 if out.parent.name == "final" else 10):
                time.sleep(0.01)
                if halt():
                    raise Terminated("stopped")
        return hill(recipe, out)

    search = Search(study)
    search.set_time_limit(seconds, time.time())
    work_on(search, train)
    print(time.time())


def work_in_database(folder: Path, url: str, seconds: float, host: str, patience: tuple[float, float] = (300.0, 2.0)) -> None:
    """A worker of a machine of its own that works on the search of that name in a database. Its trainings take up to so many seconds; it
    notes when each begins and ends. Its `patience` is with the database, and with other workers that are missing.
    """
    socket.gethostname = lambda: host
    database.PING_SECONDS, database.RETRY_SECONDS = 0.2, 0.1
    database.MAX_OUTAGE_SECONDS, database.MAX_MISSING_SECONDS = patience
    draws = random.Random(host)

    def train(recipe: Recipe, out: Path) -> float:
        note(folder, out)
        time.sleep(seconds * draws.random())
        return hill(recipe, out)

    work_on(resume_search(folder, url), train)
