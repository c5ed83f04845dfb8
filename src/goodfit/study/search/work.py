"""The search: what is to be tried next, and the work of one of any number of equal workers on it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from goodfit.core.catalog import Catalog
from goodfit.core.errors import DataError, Diverged, GoodfitError, Interrupted, Terminated, UsageError
from goodfit.core.files import write_atomic
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.plan import BASE, EXPLORED, FINAL, UNTIL, Plan, Stage, scaled, stages
from goodfit.study.search.refine import best_of, drawn, grid, refined
from goodfit.study.search.settle import settled
from goodfit.study.search.space import Axis, Space, Value
from goodfit.study.search.trials import Row, Trials
from goodfit.study.search.worker import Worker, ending

Train = Callable[[Recipe, Path], float]  # trains a recipe to its end in a folder, going on with what is there; its validation accuracy

STARTUP = 10  # random trials that TPE begins with
POLL = 0.5  # seconds between two looks at what other workers are doing
FAILURES = 3  # trials that fail before any succeeds, after which the search does


class Search:
    """A study's folder as one worker sees it. Every worker decides what is to be done next by the same rules, alone for that moment."""

    def __init__(self, study: Path, worker: Worker | None = None) -> None:
        self.study = study
        self.plan = Plan.read(study)
        self.base = Recipe.from_toml(study / BASE)
        self.known: Catalog = load_catalog(self.base.use)
        self.space = Space.read(self.plan.space, self.known)
        self.worker = worker or Worker(study)
        self.trials = Trials(study, self.worker, self.plan.seed)

    # ---- time --------------------------------------------------------------------------------------------------------------------

    def limit(self, seconds: float | None, began: float) -> None:
        """Let the search end so many seconds after the clock time `began`; None: never."""
        self.trials.note("time", [began, began + seconds] if seconds else None)

    @property
    def deadline(self) -> float | None:
        span = self.trials.notes().get("time")
        return float(span[1]) if span else None

    def spent(self) -> float:
        """The share of the time that is over; 0 where it has no end."""
        span = self.trials.notes().get("time")
        return (time.time() - span[0]) / max(span[1] - span[0], 1e-9) if span else 0.0

    # ---- what is next ------------------------------------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        return stages(self.plan, self.trials.notes().get("closed", {}))

    def reopen(self, trials: int) -> None:
        """Let the last stage that looks for the best go on, to so many trials in all (0: as many as the time allows).

        Raises:
            UsageError: the method has laid out all its trials beforehand.
        """
        if self.plan.method in ("grid", "halving") and trials != self.plan.trials:
            raise UsageError(f"A search with --method {self.plan.method} cannot be made longer: begin another with more --trials.")
        with self.trials.claiming():
            self.plan = dataclasses.replace(self.plan, trials=trials)
            self.plan.write(self.study)
            closed = self.trials.notes().get("closed", {})
            self.trials.note("closed", {name: n for name, n in closed.items() if name not in (self.stages()[-1].name, FINAL)})

    def claim(self) -> Row | None:
        """The next trial, now ours; None when all that can be done now is being done by others, or there is nothing left (`over`)."""
        with self.trials.claiming():
            self.trials.recover()
            for stage in [*self.stages(), Stage(FINAL, 0)]:
                if stage.name in self.trials.notes().get("closed", {}):
                    continue
                if self.spent() < 1:
                    self._supply(stage)
                rows = [row for row in self.trials.rows() if row.stage == stage.name]
                if any(row.state == "waiting" for row in rows) and self.spent() < 1:
                    return self.trials.take(self.space.axes if stage.name == "tpe" else ())
                if any(row.state == "running" for row in rows) or self.spent() >= 1:
                    return None
                self._close(stage, rows)
        return None

    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.spent() >= 1 or FINAL in self.trials.notes().get("closed", {})

    def _supply(self, stage: Stage) -> None:
        """Let the stage's trials wait, those that are not there yet; in a stage without a number, one more whenever none waits."""
        there = {row.place: row.state for row in self.trials.rows() if row.stage == stage.name}
        if stage.name != FINAL and self.spent() >= UNTIL.get(stage.name, EXPLORED) and there:
            for row in self.trials.rows():
                if row.stage == stage.name and row.state == "waiting":
                    self.trials.drop(row)
            return
        wanted = self._wanted(stage, len(there) + ("waiting" not in there.values()))
        for place, row in enumerate(wanted):
            if place not in there:
                self.trials.put(row)

    def _wanted(self, stage: Stage, most: int) -> list[Row]:
        """The rows of a stage; of one without a number, the first `most`."""
        if stage.name == FINAL:
            return self._finals()
        if stage.name.startswith("rung") and stage.name != "rung1":
            before = [row for row in self.ranking() if row.stage == f"rung{int(stage.name[4:]) - 1}"]
            return [Row(0, stage.name, i, row.values, "", origin=row.stage, parent=row.place) for i, row in enumerate(before[: stage.n])]
        n = most if not self.plan.trials else min(stage.n, most) if stage.name == "tpe" else stage.n  # TPE learns from each
        if stage.name == "grid":
            values = grid(self.space.axes, n)
        else:
            axes, blank = self.axes(stage.name), stage.name == "tpe"
            values = [{} if blank and i >= STARTUP else drawn(axes, self.plan.seed, stage.name, i) for i in range(n)]
        return [Row(0, stage.name, place, one, "") for place, one in enumerate(values)]

    def _finals(self) -> list[Row]:
        """The best, each with every fresh seed: all with the first before any has the second, so that a cut in time is fair.

        Those of an earlier choice stay in their places.
        """
        there = [row for row in self.trials.rows() if row.stage == FINAL]
        best = self.ranking()[: self.plan.keep]
        fresh = [(row, copy) for copy in range(1, self.plan.copies + 1) for row in best]
        done = {(row.origin, row.parent, row.copy) for row in there}
        new = [(row, copy) for row, copy in fresh if (row.stage, row.place, copy) not in done]
        made = [Row(0, FINAL, 0, row.values, "", origin=row.stage, parent=row.place, copy=copy) for row, copy in new]
        return [*there, *(dataclasses.replace(row, place=len(there) + i) for i, row in enumerate(made))]

    def _close(self, stage: Stage, rows: list[Row]) -> None:
        """End a stage; the coarse one leaves the ranges of the fine one."""
        scored = [(row.values, row.value) for row in rows if row.value is not None]
        if stage.name == "coarse" and scored:
            best = best_of(scored)
            axes, warnings = refined(self.space.axes, best, lambda axis, end: self._takes({**best[0], axis.name: end}))
            self.trials.note("ranges", {"fine": [dataclasses.asdict(axis) for axis in axes]})
            self.trials.note("warnings", warnings)
        self.trials.note("closed", {**self.trials.notes().get("closed", {}), stage.name: len(rows)})

    def _takes(self, values: dict[str, Value]) -> bool:
        try:
            settled(self.base, self.space, values, self.known)
        except UsageError:
            return False
        return True

    def axes(self, stage: str) -> tuple[Axis, ...]:
        """The axes that a stage draws from."""
        found = self.trials.notes().get("ranges", {}).get(stage)
        return tuple(Axis(**{**axis, "choices": tuple(axis["choices"])}) for axis in found) if found else self.space.axes

    # ---- what was found ------------------------------------------------------------------------------------------------------------

    def ranking(self) -> list[Row]:
        """The trials that are done, retrainings aside: those of longer rungs first, then the best, then the earliest."""
        shares = {stage.name: (i if self.plan.method == "halving" else 0) for i, stage in enumerate(self.stages())}
        order = {stage.name: i for i, stage in enumerate(self.stages())}
        done = [row for row in self.trials.rows() if row.value is not None and row.stage in shares]
        return sorted(done, key=lambda row: (-shares[row.stage], -(row.value or 0.0), order[row.stage], row.place))

    def recipe(self, row: Row) -> Recipe:
        """What a trial trains: the search's own seed for all, so that they differ in their values alone; fresh ones at the end."""
        recipe = settled(self.base, self.space, row.values, self.known)
        if row.stage == FINAL:
            return recipe.but(seed=self.base.seed + row.copy, budget=self.plan.full)
        share = next(stage.share for stage in self.stages() if stage.name == row.stage)
        return recipe.but(budget=scaled(self.plan.each, share))


def work(search: Search, train: Train, tell: Callable[[Row], None] = lambda row: None) -> None:
    """Train trials until there is nothing left to do or the time is over; `tell` hears of each that ended.

    A trial that is stopped on the way waits again, and goes on where it was.

    Raises:
        GoodfitError: a signal stopped it, the data is wrong, or nothing but failures came of it.
    """
    with search.worker.at_work(), ending(search.deadline):
        while not search.over():
            row = search.claim()
            if row is not None:
                tell(_train(search, train, row))
            elif not search.over():
                time.sleep(POLL)


def _train(search: Search, train: Train, row: Row) -> Row:
    """Train one trial and write down how it ended."""
    value, why = None, ""
    began = time.time()
    try:
        value = train(search.recipe(row), search.study / row.folder)
    except Diverged as error:
        value, why = 0.0, f"diverged: {error}"
    except (Interrupted, Terminated) as error:
        search.trials.give_back(row)
        if isinstance(error, Terminated) and search.over():
            return dataclasses.replace(row, state="waiting")
        raise type(error)(f'Stopped, everything is saved; "goodfit search --resume {search.study}" goes on.') from error
    except (DataError, KeyboardInterrupt, SystemExit):
        search.trials.give_back(row)
        raise
    except (GoodfitError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        why = str(error) or type(error).__name__
        failed = [other for other in search.trials.rows() if other.state == "failed"]
        if len(failed) + 1 >= FAILURES and not search.ranking():
            search.trials.finish(row, None, why)
            raise GoodfitError(f"Every trial so far has failed ({len(failed) + 1}), the last with: {why}") from error
    search.trials.finish(row, value, why)
    return dataclasses.replace(row, state="done" if value is not None else "failed", value=value, why=why, seconds=time.time() - began)


def begin(study: Path, plan: Plan, base: Recipe) -> Search:
    """A new search in a folder.

    Raises:
        UsageError: the folder is taken, or the space or method does not go with the recipe.
    """
    if study.exists() and (not study.is_dir() or any(study.iterdir())):
        raise UsageError(f'"{study}" is not empty: choose another --out, or go on with that search by --resume.')
    known = load_catalog(base.use)
    space = Space.read(plan.space, known)
    if plan.method in ("grid", "halving") and not plan.trials:
        raise UsageError(f"Expected --trials with --method {plan.method}: it has to know how many there will be.")
    settled(base, space, {axis.name: axis.at(0.5) for axis in space.axes}, known)
    study.mkdir(parents=True, exist_ok=True)
    plan.write(study)
    write_atomic(study / BASE, base.to_toml())
    return Search(study)
