"""Where the trials of a search are kept, and how its workers know who is alive and who decides: in a folder, or in a database."""

from __future__ import annotations

import abc
import contextlib
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from goodfit.core.errors import UsageError
from goodfit.core.files import lock

try:
    import optuna as optuna  # noqa: PLC0414  imported from here, so that a missing extra is explained in one place
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    from optuna.trial import FrozenTrial as FrozenTrial  # noqa: PLC0414
    from optuna.trial import TrialState as TrialState  # noqa: PLC0414
except ImportError as error:
    raise UsageError('goodfit search needs the extra: pip install "goodfit[search]".') from error

JOURNAL_FILE, LOCK_FILE, WORKERS_FOLDER = "journal.log", "claim.lock", "workers"
HEARTBEAT_SECONDS = 10.0
MAX_SILENT_SECONDS = 120.0  # without a heartbeat a worker on another machine then counts as dead

T = TypeVar("T")


class Storage(abc.ABC):
    """The trials of a search as one of its workers sees them: Optuna's `study`, and who of the workers is alive and decides.

    `folder` is that of the search on this machine, and `worker` the name of this process, which ends in `@` and its machine.
    """

    folder: Path
    study: optuna.Study

    def __init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.report: Callable[[str], None] = lambda text: None  # is told when something is waited for
        self.worker = f"{os.getpid()}-{uuid.uuid4().hex[:8]}@{socket.gethostname()}"

    @abc.abstractmethod
    def exclusive(self, action: Callable[[], T]) -> T:
        """Return what `action` returns, and keep all other workers out of their own meanwhile.

        The action may be begun again, as another worker would after a death of this one in its middle.
        """

    @abc.abstractmethod
    def heartbeat(self) -> AbstractContextManager[None]:
        """Be alive for the others within the block."""

    @abc.abstractmethod
    def is_alive(self, worker: str) -> bool:
        """Whether the worker of that name is alive. Call it within `exclusive`."""

    def retry(self, action: Callable[[], T]) -> T:
        """Return what `action` returns, which may be done twice: it is done again where the storage was away for a while."""
        return action()

    def now(self) -> float:
        """The time of day that all workers share, in seconds."""
        return time.time()

    @abc.abstractmethod
    def publish(self, plan: Mapping[str, Any], base: str) -> None:
        """Keep the plan of the search, and the recipe around which it searches, for workers that do not share the folder."""

    def environment(self) -> dict[str, str]:
        """The variables of the environment that another process needs to open this storage by the folder."""
        return {}


class FolderStorage(Storage):
    """The trials of a search in a journal in its folder, on a disk that all workers share.

    A worker holds the lock of its file while it lives, and touches the file. The system frees the lock when a process dies, however it
    dies, so processes on the same machine know at once. Processes on other machines go by when the file was touched, measured against a
    file they touch themselves, so that their clocks need not agree.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        journal = folder / JOURNAL_FILE
        _repair_journal(journal)
        with no_warnings():
            storage = JournalStorage(JournalFileBackend(str(journal)))
            self.study = optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)

    def publish(self, plan: Mapping[str, Any], base: str) -> None:
        """Nothing is to be kept: all workers share the folder."""

    def exclusive(self, action: Callable[[], T]) -> T:
        """Return what `action` returns, while the lock file of the search is held."""
        with lock(self.folder / LOCK_FILE) as held:
            if held is not None:
                return action()
            link_target = self.folder / f"{LOCK_FILE}.links"  # a disk without locks, but with links
            link_target.touch()  # Optuna waits for what a link points to
            symlink_lock = JournalFileSymlinkLock(str(link_target))
            symlink_lock.acquire()
            try:
                return action()
            finally:
                symlink_lock.release()

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Be alive for the others within the block."""
        done = threading.Event()
        with lock(self._file(self.worker), wait=False):
            beats = threading.Thread(target=self._beat, args=(done,), daemon=True)
            beats.start()
            try:
                yield
            finally:
                done.set()
                beats.join()
                self._file(self.worker).unlink(missing_ok=True)

    def is_alive(self, worker: str) -> bool:
        """Whether the worker of that name is alive."""
        file = self._file(worker)
        if worker == self.worker or not file.is_file():
            return worker == self.worker
        if worker.partition("@")[2] == self.worker.partition("@")[2]:
            with lock(file, wait=False) as held:
                if held is not None:
                    return not held
        self._file(self.worker).touch()
        return self._file(self.worker).stat().st_mtime - file.stat().st_mtime < MAX_SILENT_SECONDS

    def _file(self, worker: str) -> Path:
        return self.folder / WORKERS_FOLDER / f"{worker}.lock"

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a network disk that is away for a while
                self._file(self.worker).touch()


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
