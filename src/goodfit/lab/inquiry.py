"""An inquiry into claims: their experiments, on as many processes as there are cores, and what came of each."""

from __future__ import annotations

import concurrent.futures
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
from goodfit.lab.claim import Claim, Judgment, Replicate, Verdict
from goodfit.lab.laboratory import Extent, Laboratory
from goodfit.lab.lesson import line, replace_nonfinite
from goodfit.lab.notebook import Notebook, Page
from goodfit.report.charts import Chart, Series

LOG_SPAN = 1000  # of the largest number of a chart over the smallest, from which on it is logarithmic
_laboratories: dict[tuple[Any, ...], Laboratory] = {}  # of this process


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a claim: the judgments of its effects and its verdict, from the replicates of all seeds."""

    claim: Claim
    pages: tuple[Page, ...]
    judgments: tuple[Judgment, ...]
    verdict: Verdict
    extent: str
    data: tuple[str, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that the effects were computed from, as means over the seeds."""
        rows = [page.replicate.numbers for page in self.pages]
        return {name: statistics.fmean(row[name] for row in rows) for name in rows[0] if all(name in row for row in rows)}

    def charts(self) -> tuple[Chart, ...]:
        """The curves: means over the seeds, where these have the same points, else those of the first seed."""
        charts: dict[tuple[str, str], list[Series]] = {}
        for title, x, name in self.pages[0].replicate.curves:
            lines = [page.replicate.curves.get((title, x, name), []) for page in self.pages]
            xs = [x for x, _ in lines[0]]
            alike = [points for points in lines if [x for x, _ in points] == xs]
            ys = [statistics.fmean(points[k][1] for points in alike) for k in range(len(xs))]
            of_chart = charts.setdefault((title, x), [])
            of_chart.append(line(name, ys, len(of_chart), xs))
        return tuple(Chart(title, tuple(series), x=x, log=_spans_decades(series)) for (title, x), series in charts.items())

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        effects = [
            {**dataclasses.asdict(one.effect), "values": one.values, "mean": one.mean, "interval": one.interval, "verdict": one.verdict}
            for one in self.judgments
        ]
        about = {key: getattr(self.claim, key) for key in ("item", "topic", "slide", "hypothesis", "metric", "limits")}
        cost = {"seeds": len(self.pages), "seconds": sum(page.seconds for page in self.pages)}
        data = [Path(name).name for name in self.data]
        origin = {"machine": self.pages[-1].machine, "date": self.pages[-1].date, "extent": self.extent, "data": data}
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
    """A claim whose experiment these data do not allow, and why."""

    claim: Claim
    reason: str


def inquire(claims: Sequence[Claim], data: Sequence[str], extent: Extent, folder: Path, workers: int) -> Iterator[Finding | Untried]:
    """Do the experiments that the notebook in the folder does not have, one thread each, and yield what came of each claim.

    Raises:
        GoodfitError: the folder cannot be written.
    """
    notebook = Notebook(folder, data, extent.name)
    seeds = {claim.item: range(claim.seeds[extent.column]) for claim in claims}
    missing = [(claim, seed) for claim in claims for seed in seeds[claim.item] if notebook.find(claim, seed) is None]
    left = {claim.item: {seed for one, seed in missing if one is claim} for claim in claims}
    by_item, untried = {claim.item: claim for claim in claims}, set[str]()
    yield from (judge(claim, notebook, extent) for claim in claims if not left[claim.item])
    for item, seed, result in _work(
        [(claim.item, claim.module, claim.function, seed) for claim, seed in missing], data, extent, folder, workers
    ):
        claim = by_item[item]
        left[item].discard(seed)
        if isinstance(result, str):
            if item not in untried:
                untried.add(item)
                yield Untried(claim, result)
            continue
        replicate, seconds = result
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        notebook.add(Page(item, seed, notebook.key(claim), replicate, seconds, cpu_name(), now))
        if not left[item] and item not in untried:
            yield judge(claim, notebook, extent)


def judge(claim: Claim, notebook: Notebook, extent: Extent) -> Finding:
    """The finding of a claim all of whose experiments the notebook has."""
    pages = [page for seed in range(claim.seeds[extent.column]) if (page := notebook.find(claim, seed))]
    judgments, verdict = claim.judge([page.replicate for page in pages])
    return Finding(claim, tuple(pages), judgments, verdict, extent.name, tuple(notebook.data))


Job = tuple[str, str, str, int]  # item, module and function of the experiment, seed
Result = tuple[Replicate, float] | str  # with its seconds; the reason why it cannot be done


def _work(jobs: Sequence[Job], data: Sequence[str], extent: Extent, folder: Path, workers: int) -> Iterator[tuple[str, int, Result]]:
    """Do jobs in processes of their own, and yield (item, seed, result) of each as it ends."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), context, _begin_worker)
    try:
        running = {pool.submit(experiment, job, tuple(data), extent, folder): job for job in jobs}
        for done in concurrent.futures.as_completed(running):
            item, _, _, seed = running[done]
            yield item, seed, done.result()
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


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


def experiment(job: Job, data: tuple[str, ...], extent: Extent, folder: Path) -> Result:
    """Do an experiment in this process."""
    item, module, function, seed = job
    if (key := (data, extent, folder)) not in _laboratories:
        _laboratories[key] = Laboratory(data, extent, folder)
    laboratory = _laboratories[key]
    began = time.perf_counter()
    try:
        replicate = Claim(item, "", "", "", "", "", (1, 1), (), module, function).load_experiment()(laboratory, seed)
    except GoodfitError as error:
        return str(error)
    return replicate, time.perf_counter() - began
