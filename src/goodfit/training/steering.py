"""What reacts while training runs: the brake on a plateau, and the lever that a person pulls."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from goodfit.core.contracts import Brake
from goodfit.core.files import write
from goodfit.core.settings import Count, Natural, NonNegative, Range, Share

Factor = Annotated[float, Range(above=0, below=1)]


@dataclasses.dataclass(frozen=True)
class None_(Brake):  # noqa: N801  spelled `none`
    """Leaves the learning rate to the schedule.

    Helps: schedules that anneal over the whole budget.
    Hurts: constant rates, which never settle.
    Cost: nothing.
    Source: -
    """

    def __call__(self, scores: list[float]) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class Plateau(Brake):
    """Multiplies the rate by `factor` when the validation accuracy has not risen by more than `least` for `patience` evaluations.

    After each time it waits `cooldown` evaluations before it counts again; in all it never goes below `lowest`. It follows from the
    scores alone, so a resumed run brakes where the unbroken one does; each braking is logged.

    Helps: constant schedules: the rate falls when it has done what it can, without knowing when that is.
    Hurts: a noisy or small validation set brakes too early; together with cosine it anneals twice.
    Cost: nothing.
    Source: Krizhevsky et al. 2012 (AlexNet: divided by ten by hand when validation stopped improving); CS231n, learning rate.
    """

    factor: Factor = 0.1
    patience: Count = 5
    least: NonNegative = 0.0
    cooldown: Natural = 0
    lowest: Share = 0.0

    def __call__(self, scores: list[float]) -> float:
        brake, best, bad, rest = 1.0, -float("inf"), 0, 0
        for score in scores:
            better = score > best + self.least
            best = score if better else best
            bad = 0 if better or rest else bad + 1
            rest = max(0, rest - 1)
            if bad >= self.patience:
                brake, bad, rest = max(self.lowest, brake * self.factor), 0, self.cooldown
        return brake


def said(brake: float, before: float, why: Literal["plateau", "by hand"]) -> str:
    """The event of a change of the rate."""
    reason = "validation stopped improving" if why == "plateau" else "by hand"
    return f"The learning rate is multiplied by {brake / before:g}: {reason}; by {brake:g} in all."


@dataclasses.dataclass
class Lever:
    """A person's hand on the learning rate of a running training: files in a folder of the run, one a pull.

    A pull takes effect at the next step, which is written into its file; so a run that is resumed from before it pulls again at that
    step, and ends with the same weights.
    """

    folder: Path
    _seen: int = -1
    _pulls: tuple[tuple[int, float], ...] = ()

    def pull(self, factor: float) -> Path:
        """Ask for the rate to be multiplied by `factor`, from another process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        n = sum(1 for _ in self.folder.glob("*.json"))
        path = self.folder / f"{n:04d}.json"
        write(path, json.dumps({"factor": factor}))
        return path

    def __call__(self, step: int) -> float:
        """The factor of all pulls up to a step; asks the disk only when the folder has changed."""
        with contextlib.suppress(FileNotFoundError):
            stamp = self.folder.stat().st_mtime_ns
            if stamp != self._seen:
                self._read(step)
                self._seen = stamp  # of before the reading, so that a pull made meanwhile is read at the next step
        factor = 1.0
        for at, by in self._pulls:
            factor *= by if at <= step else 1.0
        return factor

    def _read(self, step: int) -> None:
        pulls = []
        for path in sorted(self.folder.glob("*.json")):
            pull = json.loads(path.read_text())
            if "step" not in pull:
                pull["step"] = step
                write(path, json.dumps(pull))
            pulls.append((int(pull["step"]), float(pull["factor"])))
        self._pulls = tuple(pulls)
