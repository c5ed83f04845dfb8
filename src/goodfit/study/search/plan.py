"""The plan of a search: its options, what it tries, in which stages, and how long each training is."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from goodfit.core.errors import UsageError, refuse_more
from goodfit.core.progress import Length
from goodfit.core.run import SEARCH_FILE
from goodfit.core.run_files import explain_damage, read_json, write_json

Method = Literal["fine", "random", "tpe", "grid", "halving"]

BASE_FILE = "base.toml"
FINAL_STAGE = "final"  # the stage that retrains the best
HALVING_RUNGS = 3
HALVING_FACTOR = 3  # each rung has a third of the trials, at three times the length
STAGES = {"coarse", "fine", "random", "tpe", "grid", *(f"rung{i + 1}" for i in range(HALVING_RUNGS)), FINAL_STAGE}
STAGE_ENDS = {"coarse": 0.4, FINAL_STAGE: 1.0}  # as shares of a budget in minutes
DEFAULT_STAGE_END = 0.75
MAX_TRIALS, MAX_WORKERS = 1_000_000, 256  # a row in the journal for each, and a process


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search that are not part of the recipe; each is an option of `goodfit search`.

    Attributes
    ----------
    space
        What is drawn, as key=text: "lr=log(1e-4, 1)", "model.width=one_of(16, 32)", "optimizer=sgd(log(0.01, 1))".
        The draws are log(a, b), uniform(a, b), integers(a, b) and one_of(...).
        Or a TOML file of such keys; or a key alone, such as optimizer or model.width, for the default draws of that part or setting.
        Default: architecture, rate, weight decay, dropout and augmentation around the recipe.
    trials
        How many trials (default: 20, or as many as --budget allows).
    budget
        Time for the whole search, such as "30 min"; the best so far is then named.
    each
        Length of a trial's training (default: that of --full).
    full
        Length of the trainings of the best (default: the budget of --recipe, else chosen).
    method
        fine: random, coarse to fine; random; tpe; grid; halving: the best third at three times the length, twice.
    keep
        How many of the best are trained again with fresh seeds; 0: none.
    seeds
        With how many seeds each.
    workers
        Processes that work on this machine.
    out
        Folder of the search (default: searches/<time>).
    resume
        Continue the search in this folder, or help with it from another process or machine; with --storage, the search of this name.
    storage
        A PostgreSQL database for the trials, as postgresql://USER@HOST/DATABASE, where machines share no disk (extra search-db).
        Default: a journal in the folder.
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
    storage: str = ""

    @property
    def seconds(self) -> float | None:
        """The time for the whole search; None without a budget.

        Raises:
            UsageError: the budget is not a time.
        """
        if not self.budget:
            return None
        length = Length.read(self.budget)
        if length.unit != "second":
            raise UsageError(
                f'Expected the --budget of a search to be a time such as "30 min", received "{self.budget}";'
                " the length of each training is --each."
            )
        return length.amount

    def check(self, data: str) -> None:
        """Refuse numbers that are too small or far too large, and a resumed search with options that are fixed when it begins.

        Raises:
            UsageError: there are such.
        """
        for name, low in (("trials", 1), ("keep", 0), ("seeds", 1), ("workers", 1)):
            if (value := getattr(self, name)) is not None and value < low:
                raise UsageError(f"Expected --{name} to be {low} or more, received {value}.")
        refuse_more("--trials", self.trials or 0, MAX_TRIALS)
        refuse_more("--workers", self.workers, MAX_WORKERS)
        resumed = SearchOptions(resume=self.resume, trials=self.trials, budget=self.budget, workers=self.workers, storage=self.storage)
        if self.resume is not None and (data or self != resumed):
            raise UsageError("Expected --resume with --trials, --budget, --workers or --storage alone: the search has all else already.")


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """What a search is to do: the texts of its space, its method, and how many `trials` (0: as many as the time allows) of the length
    `each`; the `keep` best are then trained to the length `full` with `copies` fresh seeds. All draws follow from `seed`.
    """

    space: dict[str, str]
    method: Method
    trials: int
    each: str
    full: str
    keep: int = 3
    copies: int = 2
    seed: int = 0

    @staticmethod
    def read(folder: Path) -> SearchPlan:
        """Read the plan in the folder of a search.

        Raises:
            UsageError: the folder is not that of a search.
            DamagedFile: the plan does not read.
        """
        if not (folder / SEARCH_FILE).is_file() or not (folder / BASE_FILE).is_file():
            raise UsageError(f'Expected the folder of a search at "{folder}", found none.')
        content = read_json(folder / SEARCH_FILE)
        with explain_damage(folder / SEARCH_FILE):
            return SearchPlan(**content)

    def write(self, folder: Path) -> None:
        """Write the plan into the folder of a search."""
        write_json(folder / SEARCH_FILE, dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class SearchStage:
    """A stage of a search: so many `trials` (0: as many as the time allows), each trained for a `share` of a trial's length."""

    name: str
    trials: int
    share: float = 1.0


def plan_stages(plan: SearchPlan, closed: dict[str, int]) -> list[SearchStage]:
    """Plan the stages that look for the best, in order; `closed` has the number of trials of each stage that is over.

    Halving never cuts a training short: the trials of a rung are whole trainings, each with its own schedule to the end, and compete at
    equal progress. Cut at a tenth of one long training, a high rate that anneals late would lose to a low one that it beats in the end.
    """
    match plan.method:
        case "fine":
            coarse = closed.get("coarse", math.ceil(plan.trials / 2))
            return [SearchStage("coarse", coarse), SearchStage("fine", max(0, plan.trials - coarse) if plan.trials else 0)]
        case "halving":
            return [
                SearchStage(f"rung{i + 1}", math.ceil(plan.trials / HALVING_FACTOR**i), HALVING_FACTOR ** (i + 1.0 - HALVING_RUNGS))
                for i in range(HALVING_RUNGS)
            ]
    return [SearchStage(plan.method, plan.trials)]


def scale_length(length: str, share: float) -> str:
    """Multiply a length of training by a share.

    >>> scale_length("9 epochs", 1 / 3)
    '3 epochs'
    """
    parsed = Length.read(length)
    amount = parsed.amount * share
    if parsed.unit in ("step", "example"):
        amount = max(1, round(amount))
    return length if share == 1 else f"{amount:.6g} {parsed.unit}{'' if amount == 1 else 's'}"
