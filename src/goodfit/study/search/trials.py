"""The trials of a search, in a journal (Optuna's) on a disk that any number of workers share."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from goodfit.core.chance import fold
from goodfit.core.errors import UsageError
from goodfit.core.files import lock
from goodfit.core.progress import steady_time
from goodfit.study.search.space import Axis, Value
from goodfit.study.search.worker import Worker

try:
    import optuna as optuna  # noqa: PLC0414  imported from here, so that a missing extra is explained in one place
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise UsageError('goodfit search needs the extra: pip install "goodfit[search]".') from error

JOURNAL_FILE, LOCK_FILE = "journal.log", "claim.lock"
MAX_DEATHS = 3  # of the workers of one trial; a trial that kills its workers would otherwise never end
# A trial's stage, its place in that stage and all else that we know of it are attributes of Optuna's trial: a trial that is requeued is a
# new one for Optuna, with the same place.
STATES = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial in its present state: waiting, running, done or failed. `value` is the validation accuracy, or the figure of another task
    (the worst, 0 of an accuracy, if it diverged); `why` says what went wrong. A retraining of one of the best has the place of its `parent`
    in the stage of its `origin`, and a `copy` number.
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

    @property
    def folder(self) -> str:
        """The folder of its run, relative to that of the search."""
        return f"{self.stage}/{self.place:04d}"


class Trials:
    """The journal of a search, as one worker sees it."""

    def __init__(self, folder: Path, worker: Worker, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.worker, self.seed = folder, worker, seed
        path = folder / JOURNAL_FILE
        _repair_journal(path)
        with no_warnings():
            self.storage = JournalStorage(JournalFileBackend(str(path)))
            self.study = optuna.create_study(study_name="search", storage=self.storage, direction="maximize", load_if_exists=True)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other workers out of such blocks while this one is in its own."""
        with lock(self.folder / LOCK_FILE) as held:
            if held is not None:
                yield
                return
            link_target = self.folder / f"{LOCK_FILE}.links"  # a disk without locks, but with links
            link_target.touch()  # Optuna waits for what a link points to
            symlink_lock = JournalFileSymlinkLock(str(link_target))
            symlink_lock.acquire()
            try:
                yield
            finally:
                symlink_lock.release()

    def all(self) -> list[Trial]:
        """All trials, one that was requeued once, in the order of their places."""
        trials = [_to_trial(trial) for trial in self.study.get_trials(deepcopy=False) if "returned" not in trial.user_attrs]
        return sorted(trials, key=lambda trial: trial.place)

    def read_notes(self) -> dict[str, Any]:
        """The decisions so far by name: stages that are closed, their ranges, warnings, the time limit."""
        return dict(self.study.user_attrs)

    def write_note(self, name: str, value: Any) -> None:
        """Write down a decision for all workers."""
        self.study.set_user_attr(name, value)

    # ---- one trial ---------------------------------------------------------------------------------------------------------------

    def enqueue(self, trial: Trial, deaths: int = 0) -> None:
        """Let a trial wait for a worker; if it has no values, TPE draws them when it is taken."""
        attributes = {key: getattr(trial, key) for key in ("stage", "place", "origin", "parent", "copy")}
        self.study.enqueue_trial(trial.values, user_attrs={**attributes, "values": trial.values, "tries": deaths})

    def take(self, axes: Sequence[Axis] = ()) -> Trial:
        """Take the next waiting trial; TPE draws those of `axes` that it has no values for, by the seed and the trial's place."""
        with no_warnings():
            optuna_trial = self.study.ask()
            optuna_trial.set_user_attr("worker", self.worker.name)
            optuna_trial.set_user_attr("began", steady_time())
            trial = _to_trial(self._frozen(optuna_trial.number))
            if trial.origin or not axes:
                return trial
            self.study.sampler = optuna.samplers.TPESampler(seed=fold(self.seed, "tpe", trial.place) >> 33, constant_liar=True)
            values = {axis.name: _suggest(optuna_trial, axis) for axis in axes}
            optuna_trial.set_user_attr("values", values)
        return dataclasses.replace(trial, values=values)

    def finish(self, trial: Trial, value: float | None, why: str = "") -> None:
        """Record how a trial of ours ended; without a value it failed. One that was taken from us meanwhile is left alone."""
        frozen = self._frozen(trial.number)
        if frozen.state != TrialState.RUNNING or frozen.user_attrs.get("worker") != self.worker.name:
            return
        self._set_attribute(frozen, "why", why)
        self._set_attribute(frozen, "seconds", steady_time() - frozen.user_attrs["began"])
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        self.study.tell(trial.number, value, state)

    def requeue(self, trial: Trial, worker_died: bool = False) -> None:
        """Let a running trial wait again, for any worker; one whose workers died too often fails."""
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
        """Remove a waiting trial."""
        frozen = self._frozen(trial.number)
        self._set_attribute(frozen, "returned", True)
        self.storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def requeue_lost(self) -> None:
        """Requeue the trials of dead workers. Call it within `exclusive`: every trial that runs then has the name of its worker."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        lost = [_to_trial(trial) for trial in running if not self.worker.is_alive(trial.user_attrs.get("worker", ""))]
        for trial in lost:
            self.requeue(trial, worker_died=True)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _set_attribute(self, frozen: FrozenTrial, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(frozen._trial_id, key, value)


def _to_trial(trial: FrozenTrial) -> Trial:
    attributes: Mapping[str, Any] = trial.user_attrs
    optional = {key: attributes[key] for key in ("why", "seconds", "origin", "parent", "copy") if key in attributes}
    value = None if trial.state != TrialState.COMPLETE else trial.value
    return Trial(trial.number, attributes["stage"], attributes["place"], dict(attributes["values"]), STATES[trial.state], value, **optional)


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


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Suppress Optuna's warnings, which address those who program with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _repair_journal(path: Path) -> None:
    """Cut a torn last line, left by a crash of the machine, so that the next line does not join it."""
    if not path.is_file() or not (content := path.read_bytes()) or content.endswith(b"\n"):
        return
    symlink_lock = JournalFileSymlinkLock(str(path))
    symlink_lock.acquire()
    try:
        content = path.read_bytes()  # again: it may have been a line that was being written
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        symlink_lock.release()
