"""The trials of a search, in a journal on a disk that any number of workers share (Optuna's)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from goodfit.core.chance import fold
from goodfit.core.errors import UsageError
from goodfit.core.files import lock
from goodfit.study.search.space import Axis, Value
from goodfit.study.search.worker import Worker

try:
    import optuna as optuna  # noqa: PLC0414  handed on, so that what is missing is said in one place
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise UsageError('goodfit search needs the extra: pip install "goodfit[search]".') from error

JOURNAL, CLAIM = "journal.log", "claim.lock"
TRIES = 3  # times a trial is taken up after its worker died; a trial that kills its workers would otherwise stop the search
# A trial's stage, its place in that stage, and what a task needs besides, are attributes of Optuna's trial: a trial that is taken up again
# is a new one for Optuna, with the same place.
STATES = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial as it stands: `state` is waiting, running, done or failed; `value` the validation accuracy, 0 when it diverged; `why` says
    what went wrong. A retraining of the best has the place of its `parent` in the stage of its `origin`, and a `copy` number.
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
        """Where its run is, within the study."""
        return f"{self.stage}/{self.place:04d}"


class Trials:
    """The journal of a study, as one worker sees it."""

    def __init__(self, study: Path, worker: Worker, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study_folder, self.worker, self.seed = study, worker, seed
        self.path = study / JOURNAL
        _mend(self.path)
        with quiet():
            self.storage = JournalStorage(JournalFileBackend(str(self.path)))
            self.study = optuna.create_study(study_name="search", storage=self.storage, direction="maximize", load_if_exists=True)

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Decide alone: what happens in the block, no other worker does meanwhile."""
        with lock(self.study_folder / CLAIM) as held:
            if held is not None:
                yield
                return
            held_by = self.study_folder / f"{CLAIM}.links"  # a disk without locks, but with links
            held_by.touch()  # Optuna waits for what a link points to
            symlink_lock = JournalFileSymlinkLock(str(held_by))
            symlink_lock.acquire()
            try:
                yield
            finally:
                symlink_lock.release()

    # ---- what there is -----------------------------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """All trials, those that were taken up again once, in the order of their stage's places."""
        found = [_row(trial) for trial in self.study.get_trials(deepcopy=False) if "returned" not in trial.user_attrs]
        return sorted(found, key=lambda row: row.place)

    def notes(self) -> dict[str, Any]:
        """What was decided on the way: stages that are closed, their ranges, warnings."""
        return dict(self.study.user_attrs)

    def note(self, key: str, value: Any) -> None:
        self.study.set_user_attr(key, value)

    # ---- one trial ---------------------------------------------------------------------------------------------------------------

    def put(self, row: Row, tries: int = 0) -> None:
        """Let a trial wait for a worker; with no values, they are drawn by TPE when it is taken."""
        attrs = {key: getattr(row, key) for key in ("stage", "place", "origin", "parent", "copy")}
        self.study.enqueue_trial(row.values, user_attrs={**attrs, "values": row.values, "tries": tries})

    def take(self, axes: Sequence[Axis] = ()) -> Row:
        """The next waiting trial, now ours; TPE draws, by the seed and the trial's place, those of `axes` that it has no values of."""
        with quiet():
            trial = self.study.ask()
            trial.set_user_attr("worker", self.worker.name)
            trial.set_user_attr("began", time.time())
            row = _row(self._frozen(trial.number))
            if row.origin or not axes:
                return row
            self.study.sampler = optuna.samplers.TPESampler(seed=fold(self.seed, "tpe", row.place) >> 33, constant_liar=True)
            values = {axis.name: _suggested(trial, axis) for axis in axes}
            trial.set_user_attr("values", values)
        return dataclasses.replace(row, values=values)

    def finish(self, row: Row, value: float | None, why: str = "") -> None:
        """Write down how a trial of ours ended; without a value it failed. One that was taken from us meanwhile is left alone."""
        frozen = self._frozen(row.number)
        if frozen.state != TrialState.RUNNING or frozen.user_attrs.get("worker") != self.worker.name:
            return
        self._attr(frozen, "why", why)
        self._attr(frozen, "seconds", time.time() - frozen.user_attrs["began"])
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        self.study.tell(row.number, value, state)

    def give_back(self, row: Row, died: bool = False) -> None:
        """Let a running trial wait again, for any worker; one whose worker died several times fails."""
        frozen = self._frozen(row.number)
        if frozen.state != TrialState.RUNNING:
            return
        tries = int(frozen.user_attrs.get("tries", 0)) + died
        if tries >= TRIES:
            self._attr(frozen, "why", f"its worker died {tries} times")
            self.study.tell(row.number, state=TrialState.FAIL)
            return
        if sum(other.folder == row.folder for other in self.rows()) == 1:
            self.put(row, tries)  # first, so that a death between the two loses nothing
        self._attr(frozen, "returned", True)
        self.study.tell(row.number, state=TrialState.FAIL)

    def drop(self, row: Row) -> None:
        """Take a waiting trial away."""
        frozen = self._frozen(row.number)
        self._attr(frozen, "returned", True)
        self.storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def recover(self) -> list[Row]:
        """Take up again the trials of workers that are dead; call it while claiming, for then every live one has said whose it is."""
        frozen = {trial.number: trial for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
        dead = [n for n, trial in frozen.items() if not self.worker.alive(trial.user_attrs.get("worker", ""))]
        rows = [_row(frozen[n]) for n in dead]
        for row in rows:
            self.give_back(row, died=True)
        return rows

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _attr(self, frozen: FrozenTrial, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(frozen._trial_id, key, value)


def _row(trial: FrozenTrial) -> Row:
    attrs: Mapping[str, Any] = trial.user_attrs
    more = {key: attrs[key] for key in ("why", "seconds", "origin", "parent", "copy") if key in attrs}
    value = None if trial.state != TrialState.COMPLETE else trial.value
    return Row(trial.number, attrs["stage"], attrs["place"], dict(attrs["values"]), STATES[trial.state], value, **more)


def distribution(axis: Axis) -> Any:
    """An axis as Optuna has it."""
    if axis.law == "one_of":
        return optuna.distributions.CategoricalDistribution(axis.choices)
    if axis.law == "integers":
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high))
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.law == "log")


def _suggested(trial: Any, axis: Axis) -> Value:
    value: Value
    if axis.law == "one_of":
        value = trial.suggest_categorical(axis.name, axis.choices)
    elif axis.law == "integers":
        value = trial.suggest_int(axis.name, int(axis.low), int(axis.high))
    else:
        value = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.law == "log")
    return value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's warnings, which speak to those who program with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _mend(path: Path) -> None:
    """Cut a torn last line, left by a crash of the machine, so that the next one does not join it."""
    if not path.is_file() or not (content := path.read_bytes()) or content.endswith(b"\n"):
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        content = path.read_bytes()  # again: it may have been a line that was being written
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()
