"""An inquiry into claims: their experiments, on as many processes as there are cores, and what came of each."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import datetime
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from goodfit.core.device import configure_torch, cpu_name
from goodfit.core.errors import GoodfitError
from goodfit.core.signals import ignore_signals
from goodfit.lab.claim import Claim, Judgment, Verdict
from goodfit.lab.laboratory import Extent, Laboratory
from goodfit.lab.lesson import line, replace_nonfinite
from goodfit.lab.notebook import Entry, Notebook
from goodfit.lab.replicate import Replicate
from goodfit.recipe.prepare import with_absolute_paths
from goodfit.recipe.recipe import Recipe
from goodfit.report.charts import Chart, Series

LOG_SPAN = 1000  # of the largest number of a chart over the smallest, from which on it is logarithmic
_laboratories: dict[Workplace, Laboratory] = {}  # of this process


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a claim: the judgments of its effects and its verdict, from the replicates of all seeds."""

    claim: Claim
    entries: tuple[Entry, ...]
    judgments: tuple[Judgment, ...]
    verdict: Verdict
    extent: str
    data: tuple[str, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that the effects were computed from, as means over the seeds."""
        rows = [entry.replicate.numbers for entry in self.entries]
        return {name: statistics.fmean(row[name] for row in rows) for name in rows[0] if all(name in row for row in rows)}

    def charts(self) -> tuple[Chart, ...]:
        """The curves: means over the seeds, where these have the same points, else those of the first seed."""
        charts: dict[tuple[str, str], list[Series]] = {}
        for title, x, name in self.entries[0].replicate.curves:
            lines = [entry.replicate.curves.get((title, x, name), []) for entry in self.entries]
            xs = [x for x, _ in lines[0]]
            alike = [points for points in lines if [x for x, _ in points] == xs]
            ys = [statistics.fmean(points[k][1] for points in alike) for k in range(len(xs))]
            of_chart = charts.setdefault((title, x), [])
            of_chart.append(line(name, ys, len(of_chart), xs))
        return tuple(Chart(title, tuple(series), x=x, log=_spans_decades(series)) for (title, x), series in charts.items())

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        effects = [
            {**dataclasses.asdict(one.effect), **{key: getattr(one, key) for key in ("values", "mean", "interval", "is_bound", "verdict")}}
            for one in self.judgments
        ]
        about = {key: getattr(self.claim, key) for key in ("item", "topic", "slide", "hypothesis", "metric", "limits")}
        cost = {"seeds": len(self.entries), "seconds": sum(entry.seconds for entry in self.entries)}
        data = [Path(name).name for name in self.claim.select_images(self.data)]
        origin = {"machine": self.entries[-1].machine, "date": self.entries[-1].date, "extent": self.extent, "data": data}
        plain: dict[str, Any] = replace_nonfinite(
            {**about, "verdict": self.verdict, **cost, **origin, "effects": effects, "numbers": self.numbers}
        )
        return plain


def _spans_decades(lines: Sequence[Series]) -> bool:
    """Whether the numbers of a chart are so far apart that their logarithms are to be drawn."""
    ys = [y for line in lines for _, y in line.points if y is not None]
    return min(ys) > 0 and max(ys) > LOG_SPAN * min(ys)


@dataclasses.dataclass(frozen=True)
class Untried:
    """A claim that has no verdict on these images, and why."""

    claim: Claim
    reason: str


def inquire(claims: Sequence[Claim], data: Sequence[str], extent: Extent, folder: Path, workers: int) -> Iterator[Finding | Untried]:
    """Do the experiments that the notebook in the folder does not have, one thread each, and yield what came of each claim.

    Raises:
        UsageError, DataError: the first data cannot be opened.
        GoodfitError: the folder cannot be written, or a process was lost.
    """
    data = [with_absolute_paths(Recipe(data=name)).data for name in data]  # by which the notebook knows them
    notebook = Notebook(folder, data, extent.name)
    missing = [(claim, seed) for claim in claims for seed in range(claim.seeds[extent.column]) if notebook.find(claim, seed) is None]
    left = {claim.item: {seed for one, seed in missing if one is claim} for claim in claims}
    yield from (judge(claim, notebook, extent) for claim in claims if not left[claim.item])
    untried = set[str]()
    for claim, seed, result in _experiment_on(missing, Workplace(tuple(data), extent, folder), workers):
        left[claim.item].discard(seed)
        if isinstance(result, str):
            if claim.item not in untried:
                yield Untried(claim, result)
            untried.add(claim.item)
            continue
        replicate, seconds = result
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        notebook.add(Entry(claim.item, seed, notebook.key(claim), replicate, seconds, cpu_name(), now))
        if not left[claim.item] and claim.item not in untried:
            yield judge(claim, notebook, extent)


def judge(claim: Claim, notebook: Notebook, extent: Extent) -> Finding:
    """The finding of a claim all of whose experiments the notebook has."""
    entries = [entry for seed in range(claim.seeds[extent.column]) if (entry := notebook.find(claim, seed))]
    judgments, verdict = claim.judge([entry.replicate for entry in entries])
    return Finding(claim, tuple(entries), judgments, verdict, extent.name, notebook.data)


@dataclasses.dataclass(frozen=True)
class Workplace:
    """What a laboratory is made of."""

    data: tuple[str, ...]
    extent: Extent
    folder: Path


Result = tuple[Replicate, float] | str  # of an experiment, with its seconds; or the reason why nothing came of it


def _experiment_on(jobs: Sequence[tuple[Claim, int]], place: Workplace, workers: int) -> Iterator[tuple[Claim, int, Result]]:
    """Do experiments in processes of their own, and yield (claim, seed, result) of each as it ends."""
    if not jobs:
        return
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), _begin_worker)
    try:
        if any(claim.images != "none" for claim, _ in jobs):
            pool.submit(_open_laboratory, place).result()  # once, so that images are packed once, and a wrong name is an error
        running = {pool.submit(experiment, claim, seed, place): (claim, seed) for claim, seed in jobs}
        for done in concurrent.futures.as_completed(running):
            yield *running[done], done.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        text = "A process was lost, perhaps for lack of memory: the same command goes on from here; --workers 1 needs the least."
        raise GoodfitError(text) from error
    finally:
        for process in list((pool._processes or {}).values()):  # in the middle of an experiment, where something ended the command
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Set a worker up: one thread, deaf to Ctrl-C, which its parent hears, and ended when that has died."""
    ignore_signals()
    configure_torch(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _open_laboratory(place: Workplace) -> None:
    """Open the first data of a laboratory of this process."""
    _find_laboratory(place).open()


def _find_laboratory(place: Workplace) -> Laboratory:
    """The laboratory of this process for a workplace."""
    if place not in _laboratories:
        _laboratories[place] = Laboratory(place.data, place.extent, place.folder)
    return _laboratories[place]


def experiment(claim: Claim, seed: int, place: Workplace) -> Result:
    """Do an experiment in this process; whatever goes wrong in it is the reason why nothing came of it."""
    began = time.perf_counter()
    try:
        replicate = claim.run_experiment(_find_laboratory(place), seed)
    except GoodfitError as error:
        return str(error)
    except Exception as error:  # on images that nobody thought of: the other claims are still to come
        return f"{type(error).__name__}: {error}"
    return replicate, time.perf_counter() - began
