"""The ranks after the first: they wait for what rank 0 prepares, prepare the same, and train along."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goodfit.core.errors import DataError, GoodfitError, RankLost
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import Reporter, SilentReporter
from goodfit.core.run import Run
from goodfit.core.words import format_duration
from goodfit.data.dataset import Dataset
from goodfit.recipe.parts import load_run_catalog
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.frozen import cache_frozen
from goodfit.runs.signals import halt_on_signals
from goodfit.training.loop import fit

MAX_PREPARE_SECONDS = 6 * 3600.0  # packing the images of a machine is the longest part
MAX_GOODBYE_SECONDS, NOTICE_SECONDS = 3.0, 5.0
BEGIN, END = "begin", "end"


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that rank 0 is about to begin: its recipe, run folder, the weights it starts from where they are pretrained, and the
    hashes of its images and their splits.
    """

    recipe: dict[str, Any]
    run: Path
    start: Mapping[str, Tensor]
    digests: tuple[str, str]


class Leader:
    """Rank 0 as it calls the others to each training; at the end of its block it sends them home."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.jobs = ranks, 0

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.ranks.size > 1 and not isinstance(error, RankLost):  # else nobody listens
            with contextlib.suppress(GoodfitError):
                self.ranks.post(f"job{self.jobs + 1}", END)
                self.ranks.wait_for([f"goodbye/{rank}" for rank in range(1, self.ranks.size)], MAX_GOODBYE_SECONDS)

    def begin(self, run: Run, prepared: Prepared, reporter: Reporter) -> None:
        """Tell the other ranks what is to be trained, and wait until they have prepared it.

        Raises:
            RankLost: one of them ended.
            GoodfitError: they have not prepared it in hours.
        """
        if self.ranks.size == 1:
            return
        ranks, data = self.ranks, prepared.data
        self.jobs += 1
        start = {name: x.cpu() for name, x in (prepared.training.plan.start or {}).items()}
        ranks.post(f"job{self.jobs}", BEGIN)
        ranks.broadcast_object(Job(prepared.recipe.plain(), run.path, start, (data.digest, data.splits.digest)))
        ready = [f"ready{self.jobs}/{rank}" for rank in range(1, ranks.size)]
        if ranks.wait_for(ready, NOTICE_SECONDS):
            return
        reporter.say(f"Waiting for the other {ranks.size - 1} of {ranks.size} processes, which prepare the images.")
        if not ranks.wait_for(ready, MAX_PREPARE_SECONDS):
            raise GoodfitError(f"Expected {ranks.size} processes to be ready within {format_duration(MAX_PREPARE_SECONDS)}, found fewer.")


def follow(ranks: Ranks) -> None:
    """Train along with rank 0 until it ends.

    Raises:
        DataError: this machine has other images than rank 0.
        GoodfitError: as `prepare` and `fit` do.
    """
    for number in itertools.count(1):
        if ranks.wait_for([f"job{number}"], math.inf) == [END]:
            break
        job: Any = ranks.broadcast_object(None)
        train_along(ranks, job, f"ready{number}/{ranks.rank}")
    ranks.post(f"goodbye/{ranks.rank}")


def train_along(ranks: Ranks, job: Job, ready: str) -> None:
    """Prepare a job, say under the key `ready` that it is, and run its loop; rank 0 alone decides, reports and writes."""
    recipe = Recipe().but(**job.recipe).as_read()

    def check_data(data: Dataset) -> None:
        if (data.digest, data.splits.digest) != job.digests:
            raise DataError(f'Rank {ranks.rank} finds other images in "{recipe.data}" than rank 0: give every machine the same.')

    catalog = load_run_catalog(Run(job.run), recipe) if job.run.is_dir() else None
    prepared = prepare(recipe, SilentReporter(), catalog=catalog, start=job.start, check_data=check_data)
    training = cache_frozen(prepared.training, prepared.recipe, prepared.data).among(ranks, recipe.sync_norms is True)
    torch.set_num_threads(int(recipe.threads))
    ranks.post(ready)
    with halt_on_signals():  # which rank 0 receives too
        fit(training.state, training.loader, training.plan, training.watch)
