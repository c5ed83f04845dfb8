"""The trials of a search, in a storage (Optuna's) that any number of workers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.chance import fold
from goodfit.core.errors import UsageError
from goodfit.core.progress import steady_time
from goodfit.study.search.plan import STAGES
from goodfit.study.search.space import Axis, Value
from goodfit.study.search.storage import FrozenTrial, Storage, TrialState, no_warnings, optuna

MAX_DEATHS = 3  # of the workers of one trial; a trial that kills its workers would otherwise never end
# A trial's stage, its place in that stage and all else that we know of it are attributes of Optuna's trial: a trial that is requeued is a
# new one for Optuna, with the same place.
STATES = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial in its present state: waiting, running, done or failed. `value` is the validation accuracy, or the figure of another task
    (the worst, 0 of an accuracy, if it diverged); `why` says what went wrong. A retraining of one of the best has the place of its `parent`
    in the stage of its `origin`, and a `copy` number. `machine` is where it was trained, and `search_folder` that of the search there; both
    are empty before a worker took it.
    """

    number: int
    stage: str
    place: int
    values: dict[str, Value]
    state: str
    value: float | None = None
    why: str = ""
    seconds: float | None = None
    origin: str = ""
    parent: int = -1
    copy: int = 0
    machine: str = ""
    search_folder: str = ""

    @property
    def folder(self) -> str:
        """The folder of its run, relative to that of the search."""
        return f"{self.stage}/{self.place:04d}"

    @property
    def location(self) -> str:
        """The machine of its run, and the folder there; empty before a worker took it."""
        return f"{self.machine}:{self.search_folder}/{self.folder}" if self.search_folder else ""


class Trials:
    """The trials of a search, as one worker sees them; `seed` is that of TPE's draws."""

    def __init__(self, storage: Storage, seed: int) -> None:
        self.storage, self.study, self.seed = storage, storage.study, seed
        self.study.sampler = tpe_sampler(seed)  # it draws nothing before `take` replaces it: Optuna's own has another seed in each process

    def all(self) -> list[Trial]:
        """All trials, one that was requeued once, in the order of their places."""
        trials = [_to_trial(trial) for trial in self._all_frozen() if "returned" not in trial.user_attrs]
        return sorted(trials, key=lambda trial: trial.place)

    def read_notes(self) -> dict[str, Any]:
        """The decisions so far by name: stages that are closed, their ranges, warnings, the time limit."""
        return self.storage.retry(lambda: dict(self.study.user_attrs))

    def write_note(self, name: str, value: Any) -> None:
        """Write down a decision for all workers."""
        self.storage.retry(lambda: self.study.set_user_attr(name, value))

    # ---- one trial ---------------------------------------------------------------------------------------------------------------

    def enqueue(self, trial: Trial, deaths: int = 0) -> None:
        """Let a trial wait for a worker; if it has no values, TPE draws them when it is taken."""
        attributes = {key: getattr(trial, key) for key in ("stage", "place", "origin", "parent", "copy")}
        self.study.enqueue_trial(trial.values, user_attrs={**attributes, "values": trial.values, "tries": deaths})

    def take(self, axes: Sequence[Axis] = ()) -> Trial:
        """Take the next waiting trial; TPE draws those of `axes` that it has no values for, by the seed and the trial's place.

        Call it within the storage's `exclusive`.
        """
        with no_warnings():
            optuna_trial = self.study.ask()
            optuna_trial.set_user_attr("worker", self.storage.worker)
            optuna_trial.set_user_attr("began", steady_time())
            optuna_trial.set_user_attr("search_folder", str(self.storage.folder.resolve()))
            trial = _to_trial(self._frozen(optuna_trial.number))
            if trial.origin or not axes:
                return trial
            self.study.sampler = tpe_sampler(fold(self.seed, "tpe", trial.place) >> 33)
            values = {axis.name: _suggest(optuna_trial, axis) for axis in axes}
            optuna_trial.set_user_attr("values", values)
        return dataclasses.replace(trial, values=values)

    def finish(self, trial: Trial, value: float | None, why: str = "") -> None:
        """Record how a trial of ours ended; without a value it failed. One that was taken from us meanwhile is left alone."""

        def record() -> None:
            frozen = self._frozen(trial.number)
            if frozen.state != TrialState.RUNNING or frozen.user_attrs.get("worker") != self.storage.worker:
                return
            self._set_attribute(frozen, "why", why)
            self._set_attribute(frozen, "seconds", steady_time() - frozen.user_attrs["began"])
            self.study.tell(trial.number, value, TrialState.COMPLETE if value is not None else TrialState.FAIL)

        self.storage.exclusive(record)

    def requeue(self, trial: Trial) -> None:
        """Let a running trial wait again, for any worker."""
        self.storage.exclusive(lambda: self._requeue(trial, worker_died=False))

    def _requeue(self, trial: Trial, worker_died: bool) -> None:
        """Let a running trial wait again; one whose workers died too often fails."""
        frozen = self._frozen(trial.number)
        if frozen.state != TrialState.RUNNING:
            return
        deaths = int(frozen.user_attrs.get("tries", 0)) + worker_died
        if deaths >= MAX_DEATHS:
            self._set_attribute(frozen, "why", f"its worker died {deaths} times")
            self.study.tell(trial.number, state=TrialState.FAIL)
            return
        if sum(other.folder == trial.folder for other in self.all()) == 1:
            self.enqueue(trial, deaths)  # first, so that a death between the two loses nothing
        self._set_attribute(frozen, "returned", True)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def remove(self, trial: Trial) -> None:
        """Remove a waiting trial. Call it within the storage's `exclusive`."""
        frozen = self._frozen(trial.number)
        self._set_attribute(frozen, "returned", True)
        self.study._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def requeue_lost(self) -> None:
        """Requeue the trials of dead workers, and what this one took without knowing, as its connection was lost.

        Call it within the storage's `exclusive`, where every trial that runs has the name of its worker, and when this worker has no trial.
        """
        for frozen in self._all_frozen():
            worker = frozen.user_attrs.get("worker", "")
            if frozen.state == TrialState.RUNNING and (worker == self.storage.worker or not self.storage.is_alive(worker)):
                self._requeue(_to_trial(frozen), worker_died=worker != self.storage.worker)

    def _all_frozen(self) -> list[FrozenTrial]:
        return self.storage.retry(lambda: self.study.get_trials(deepcopy=False))

    def _frozen(self, number: int) -> FrozenTrial:
        storage, study_id = self.study._storage, self.study._study_id
        return self.storage.retry(lambda: storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number)))

    def _set_attribute(self, frozen: FrozenTrial, key: str, value: Any) -> None:
        self.study._storage.set_trial_user_attr(frozen._trial_id, key, value)


def tpe_sampler(seed: int) -> Any:
    """Make the sampler of TPE, with all that Optuna 4 and 5 have other defaults for: both draw the same."""
    with no_warnings():
        return optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)


def _to_trial(trial: FrozenTrial) -> Trial:
    attributes: Mapping[str, Any] = trial.user_attrs
    if attributes["stage"] not in STAGES or not isinstance(attributes["place"], int):  # they name a folder
        raise UsageError(f'Expected a trial of a stage of a search, found "{attributes["stage"]}/{attributes["place"]}".')
    keys = ("why", "seconds", "origin", "parent", "copy", "search_folder")
    optional = {key: attributes[key] for key in keys if key in attributes}
    machine = attributes.get("worker", "").partition("@")[2]
    value = None if trial.state != TrialState.COMPLETE else trial.value
    return Trial(
        trial.number,
        attributes["stage"],
        attributes["place"],
        dict(attributes["values"]),
        STATES[trial.state],
        value,
        machine=machine,
        **optional,
    )


def to_distribution(axis: Axis) -> Any:
    """Convert an axis to Optuna's distribution."""
    if axis.law == "one_of":
        return optuna.distributions.CategoricalDistribution(axis.choices)
    if axis.law == "integers":
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high))
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.law == "log")


def _suggest(trial: Any, axis: Axis) -> Value:
    """Let TPE draw the value of an axis."""
    value: Value
    if axis.law == "one_of":
        value = trial.suggest_categorical(axis.name, axis.choices)
    elif axis.law == "integers":
        value = trial.suggest_int(axis.name, int(axis.low), int(axis.high))
    else:
        value = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.law == "log")
    return value
