"""A search: which trial comes next, and the work of one of any number of equal workers on it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

from goodfit.core.catalog import Catalog
from goodfit.core.dotted_names import dotted_names
from goodfit.core.errors import DataError, Diverged, GoodfitError, Interrupted, Terminated, UsageError
from goodfit.core.figures import FIGURES
from goodfit.core.progress import steady_time
from goodfit.core.trust import is_known_content, require_trust
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.database import open_storage
from goodfit.study.search.deadline import terminate_at
from goodfit.study.search.plan import (
    BASE_FILE,
    DEFAULT_STAGE_END,
    FINAL_STAGE,
    STAGE_ENDS,
    SearchPlan,
    SearchStage,
    plan_stages,
    scale_length,
)
from goodfit.study.search.refine import draw_values, grid_values, refine_axes, select_best
from goodfit.study.search.space import Axis, Space, Value
from goodfit.study.search.storage import Storage
from goodfit.study.search.trial_recipe import recipe_of_trial
from goodfit.study.search.trials import Trial, Trials

TrainTrial = Callable[[Recipe, Path], float]  # trains or resumes a recipe in a folder, to its end; returns its figure on validation

TPE_STARTUP_TRIALS = 10  # random ones, before TPE draws
POLL_SECONDS = 0.5  # between two looks at what other workers are doing
MAX_FAILURES = 3  # of trials before any succeeds; then the search fails


class Search:
    """A search in its folder on this machine, as one worker sees it.

    Every worker decides by the same rules what comes next, while it keeps the others from deciding.
    """

    def __init__(self, folder: Path, storage: Storage | None = None) -> None:
        self.folder = folder
        self.plan = SearchPlan.read(folder)
        self.base = Recipe.from_toml(folder / BASE_FILE)
        self.base.require_trust(f'"{folder}"', self.base.use)
        require_trust(f'"{folder}"', [name for text in self.plan.space.values() for name in dotted_names(text)])
        self.is_own = is_known_content(code_of(self.plan, self.base))  # begun here, by a user who named the code in its space
        self.catalog: Catalog = load_catalog(self.base.use)
        self.space = Space.read(self.plan.space, self.catalog)
        self.storage = storage or open_storage(folder)
        self.trials = Trials(self.storage, self.plan.seed)
        # Every process has a steady time of its own; the storage has the time of day, which all share.
        self._clock_shift = self.storage.now() - steady_time()

    # ---- time --------------------------------------------------------------------------------------------------------------------

    def set_time_limit(self, seconds: float | None, started: float) -> None:
        """Let the search end so many seconds after the steady time `started` of this process; None: never."""
        start = started + self._clock_shift
        self.trials.write_note("time", [start, start + seconds] if seconds else None)

    @property
    def deadline(self) -> float | None:
        """The steady time of this process at which the search ends; None where it has no limit."""
        span = self._span()
        return span[1] if span else None

    def time_share(self) -> float:
        """The share of the time that is over; 0 where it has no limit."""
        span = self._span()
        return (steady_time() - span[0]) / max(span[1] - span[0], 1e-9) if span else 0.0

    def _span(self) -> tuple[float, float] | None:
        """The steady times of this process at which the search began and ends; None where it has no limit."""
        span = self.trials.read_notes().get("time")
        return (span[0] - self._clock_shift, span[1] - self._clock_shift) if span else None

    # ---- what comes next -----------------------------------------------------------------------------------------------------------

    def stages(self) -> list[SearchStage]:
        """The stages that look for the best, in order."""
        return plan_stages(self.plan, self._closed())

    def extend(self, trials: int) -> None:
        """Reopen the last stage that looks for the best, for so many trials in all (0: as many as the time allows).

        Raises:
            UsageError: the method lays out all its trials at the start.
        """
        if self.plan.method in ("grid", "halving") and trials != self.plan.trials:
            raise UsageError(f"A search with --method {self.plan.method} cannot be made longer: begin another with more --trials.")
        self.plan = dataclasses.replace(self.plan, trials=trials)
        self.storage.exclusive(self._reopen)

    def _reopen(self) -> None:
        self.plan.write(self.folder)
        self.storage.publish(dataclasses.asdict(self.plan), self.base.to_toml())
        reopened = (self.stages()[-1].name, FINAL_STAGE)
        self.trials.write_note("closed", {name: n for name, n in self._closed().items() if name not in reopened})

    def claim(self) -> Trial | None:
        """Take the next trial, when this worker has none; None when others do all that can be done now, or nothing is left (`is_over`)."""
        return self.storage.exclusive(self._claim)

    def _claim(self) -> Trial | None:
        self.trials.requeue_lost()
        for stage in [*self.stages(), SearchStage(FINAL_STAGE, 0)]:
            if stage.name in self._closed():
                continue
            if self.time_share() < 1:
                self._enqueue_missing(stage)
            trials = [trial for trial in self.trials.all() if trial.stage == stage.name]
            if any(trial.state == "waiting" for trial in trials) and self.time_share() < 1:
                return self.trials.take(self.space.axes if stage.name == "tpe" else ())
            if any(trial.state == "running" for trial in trials) or self.time_share() >= 1:
                return None
            self._close(stage, trials)
        return None

    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.time_share() >= 1 or FINAL_STAGE in self._closed()

    def _closed(self) -> dict[str, int]:
        """The number of trials of each stage that is over."""
        closed: dict[str, int] = self.trials.read_notes().get("closed", {})
        return closed

    def _enqueue_missing(self, stage: SearchStage) -> None:
        """Enqueue the stage's trials that are not there yet; in a stage without a number, one more whenever none waits."""
        states = {trial.place: trial.state for trial in self.trials.all() if trial.stage == stage.name}
        if stage.name != FINAL_STAGE and self.time_share() >= STAGE_ENDS.get(stage.name, DEFAULT_STAGE_END) and states:
            for trial in self.trials.all():
                if trial.stage == stage.name and trial.state == "waiting":
                    self.trials.remove(trial)
            return
        for place, trial in enumerate(self._plan_trials(stage, len(states) + ("waiting" not in states.values()))):
            if place not in states:
                self.trials.enqueue(trial)

    def _plan_trials(self, stage: SearchStage, max_trials: int) -> list[Trial]:
        """The trials of a stage by place; of one without a number, the first `max_trials`."""
        if stage.name == FINAL_STAGE:
            return self._plan_retrainings()
        if stage.name.startswith("rung") and stage.name != "rung1":
            before = [trial for trial in self.rank() if trial.stage == f"rung{int(stage.name[4:]) - 1}"][: stage.trials]
            return [Trial(0, stage.name, i, trial.values, "", origin=trial.stage, parent=trial.place) for i, trial in enumerate(before)]
        n = max_trials if not self.plan.trials else min(stage.trials, max_trials) if stage.name == "tpe" else stage.trials
        if stage.name == "grid":
            values = grid_values(self.space.axes, n)
        else:
            axes, drawn_later = self.axes_of(stage.name), stage.name == "tpe"  # TPE learns from each trial before it draws the next
            values = [{} if drawn_later and i >= TPE_STARTUP_TRIALS else draw_values(axes, self.plan.seed, stage.name, i) for i in range(n)]
        return [Trial(0, stage.name, place, x, "") for place, x in enumerate(values)]

    def _plan_retrainings(self) -> list[Trial]:
        """The best, each with every fresh seed: all with the first before any has the second, so that a cut in time is fair.

        Retrainings that were planned earlier keep their places.
        """
        existing = [trial for trial in self.trials.all() if trial.stage == FINAL_STAGE]
        planned = {(trial.origin, trial.parent, trial.copy) for trial in existing}
        retrainings = [
            Trial(0, FINAL_STAGE, 0, trial.values, "", origin=trial.stage, parent=trial.place, copy=copy)
            for copy in range(1, self.plan.copies + 1)
            for trial in self.rank()[: self.plan.keep]
            if (trial.stage, trial.place, copy) not in planned
        ]
        return [*existing, *(dataclasses.replace(trial, place=len(existing) + i) for i, trial in enumerate(retrainings))]

    def _close(self, stage: SearchStage, trials: list[Trial]) -> None:
        """End a stage; the coarse one decides the ranges of the fine one."""
        scored = [(trial.values, trial.value) for trial in trials if trial.value is not None]
        if stage.name == "coarse" and scored:
            best = select_best(scored)
            axes, warnings = refine_axes(self.space.axes, best, lambda axis, end: self._is_valid({**best[0], axis.name: end}))
            self.trials.write_note("ranges", {"fine": [dataclasses.asdict(axis) for axis in axes]})
            self.trials.write_note("warnings", warnings)
        self.trials.write_note("closed", {**self._closed(), stage.name: len(trials)})

    def _is_valid(self, values: dict[str, Value]) -> bool:
        """Whether a recipe takes some values."""
        try:
            recipe_of_trial(self.base, self.space, values, self.catalog, self.is_own)
        except UsageError:
            return False
        return True

    def axes_of(self, stage: str) -> tuple[Axis, ...]:
        """The axes that a stage draws from."""
        axes = self.trials.read_notes().get("ranges", {}).get(stage)
        return tuple(Axis(**{**axis, "choices": tuple(axis["choices"])}) for axis in axes) if axes else self.space.axes

    # ---- results -------------------------------------------------------------------------------------------------------------------

    def rank(self) -> list[Trial]:
        """Trials that are done, retrainings aside: those of longer rungs first, those that went wrong last, then the best and earliest."""
        order = {stage.name: i for i, stage in enumerate(self.stages())}
        rungs = order if self.plan.method == "halving" else dict.fromkeys(order, 0)
        done = [trial for trial in self.trials.all() if trial.value is not None and trial.stage in order]
        return sorted(done, key=lambda t: (-rungs[t.stage], bool(t.why), -(t.value or 0.0), order[t.stage], t.place))

    def recipe_of(self, trial: Trial) -> Recipe:
        """The recipe of a trial. All have the search's seed, so that they differ in their values alone; retrainings have fresh seeds."""
        recipe = recipe_of_trial(self.base, self.space, trial.values, self.catalog, self.is_own)
        if trial.stage == FINAL_STAGE:
            return recipe.but(seed=self.base.seed + trial.copy, budget=self.plan.full)
        share = next(stage.share for stage in self.stages() if stage.name == trial.stage)
        return recipe.but(budget=scale_length(self.plan.each, share))


def work_on(search: Search, train: TrainTrial, report: Callable[[Trial], None] = lambda trial: None) -> None:
    """Train trials until nothing is left to do or the time is over; `report` is called with each that ended.

    A trial that is stopped on the way waits again, and is resumed by whoever takes it.

    Raises:
        GoodfitError: a signal stopped it, the data is wrong, or every trial failed.
    """
    with search.storage.heartbeat(), terminate_at(search.deadline):
        while not search.is_over():
            trial = search.claim()
            if trial is not None:
                report(_train_trial(search, train, trial))
            elif not search.is_over():
                time.sleep(POLL_SECONDS)


def _train_trial(search: Search, train: TrainTrial, trial: Trial) -> Trial:
    """Train one trial and record how it ended."""
    value, why = None, ""
    started = steady_time()
    try:
        value = train(search.recipe_of(trial), search.folder / trial.folder)
    except Diverged as error:
        value, why = FIGURES[search.base.task].worst, f"diverged: {error}"
    except (Interrupted, Terminated) as error:
        search.trials.requeue(trial)
        if isinstance(error, Terminated) and search.is_over():
            return dataclasses.replace(trial, state="waiting")
        raise type(error)(f'Stopped, everything is saved; "goodfit search --resume {search.folder}" continues it.') from error
    except (DataError, KeyboardInterrupt):
        search.trials.requeue(trial)
        raise
    except (GoodfitError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        why = str(error) or type(error).__name__
        failures = 1 + sum(other.state == "failed" for other in search.trials.all())
        if failures >= MAX_FAILURES and not search.rank():
            search.trials.finish(trial, None, why)
            raise GoodfitError(f"Every trial so far has failed ({failures}), the last with: {why}") from error
    search.trials.finish(trial, value, why)
    state = "done" if value is not None else "failed"
    return dataclasses.replace(trial, state=state, value=value, why=why, seconds=steady_time() - started)


def code_of(plan: SearchPlan, base: Recipe) -> bytes:
    """What decides which code the trials of a search run: its space, and the recipe around which it searches."""
    return json.dumps([dict(plan.space), base.plain()]).encode()
