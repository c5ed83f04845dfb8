"""The plan of a search: what it is to try, in which stages, and how long each training is."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Literal

from goodfit.core.errors import UsageError
from goodfit.core.files import write_atomic
from goodfit.core.progress import Length

Method = Literal["fine", "random", "tpe", "grid", "halving"]

PLAN, BASE = "search.json", "base.toml"
FINAL = "final"  # the stage in which the best are trained anew
RUNGS = 3  # stages of halving, each a third of the trials at three times the length
FACTOR = 3
UNTIL = {"coarse": 0.4, FINAL: 1.0}  # shares of a budget in minutes at which stages end; 0.75 for the others
EXPLORED = 0.75


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search is to do: the texts of its space, a method, how many `trials` (0: as many as the time allows) of the length `each`,
    and that the `keep` best are then trained to the length `full` with `copies` fresh seeds. Draws come from `seed`.
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
    def read(study: Path) -> Plan:
        """The plan in a study's folder.

        Raises:
            UsageError: the folder is no study.
        """
        if not (study / PLAN).is_file() or not (study / BASE).is_file():
            raise UsageError(f'Expected the folder of a search at "{study}", found none.')
        return Plan(**json.loads((study / PLAN).read_text()))

    def write(self, study: Path) -> None:
        write_atomic(study / PLAN, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a search: `n` trials (0: as many as the time allows), each of a `share` of the length of one."""

    name: str
    n: int
    share: float = 1.0


def stages(plan: Plan, closed: dict[str, int]) -> list[Stage]:
    """The stages that look for the best, in order; `closed` are those that are over, with their trials.

    Halving never cuts a training short: the trials of a rung are whole trainings, each with its own schedule to the end, and compete at
    equal progress. Cut at a tenth of one long training, a high rate that anneals late would lose to a low one that it beats in the end.
    """
    match plan.method:
        case "fine":
            coarse = closed.get("coarse", math.ceil(plan.trials / 2))
            return [Stage("coarse", coarse), Stage("fine", max(0, plan.trials - coarse) if plan.trials else 0)]
        case "halving":
            return [Stage(f"rung{i + 1}", math.ceil(plan.trials / FACTOR**i), FACTOR ** (i + 1.0 - RUNGS)) for i in range(RUNGS)]
    return [Stage(plan.method, plan.trials)]


def scaled(length: str, share: float) -> str:
    """A length of training times a share.

    >>> scaled("9 epochs", 1 / 3)
    '3 epochs'
    """
    read = Length.read(length)
    amount = read.amount * share
    if read.unit in ("step", "example"):
        amount = max(1, round(amount))
    return length if share == 1 else f"{amount:.6g} {read.unit}{'' if amount == 1 else 's'}"
