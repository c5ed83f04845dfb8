"""The trials of a search in a PostgreSQL database, for workers on machines that share no disk."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from goodfit.core.errors import GoodfitError, UsageError, first_line, unknown_name
from goodfit.core.progress import steady_time
from goodfit.core.run_files import explain_damage, read_json
from goodfit.core.words import format_duration
from goodfit.study.search.database_url import DatabaseUrl
from goodfit.study.search.storage import FolderStorage, Storage, T, no_warnings, optuna

try:
    import psycopg
except ImportError:  # the extra search-db
    psycopg = None  # type: ignore[assignment]

STORAGE_FILE = "storage.json"  # in the folder of a search whose trials are in a database: which search of which database
MAX_OUTAGE_SECONDS = 300.0  # for which a worker waits for a database that is away
MAX_MISSING_SECONDS = 20.0  # without its lock a worker then counts as dead; one whose connection broke has a new one before
PING_SECONDS, RETRY_SECONDS = 5.0, 1.0
POOL_SECONDS = 120.0  # for the one connection, which waits for a minute where the network is gone
# Client and server both give a connection up after a minute without a sign of the other, unless the URL says otherwise.
CLIENT_SETTINGS = {
    "connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 4, "tcp_user_timeout": 60_000,
    "application_name": "goodfit search",
}  # fmt: skip
SERVER_SETTINGS = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 4, "tcp_user_timeout": 60_000}


class DatabaseStorage(Storage):
    """The trials of a search in a PostgreSQL database, by Optuna's RDB storage.

    All goes through one connection: what is read and written, and PostgreSQL's advisory locks, one of each worker while it lives, and one
    of that which decides. The server frees them when the connection ends, so a worker that dies frees them however it dies, and one whose
    connection breaks while it decides writes no more: no other connection is made before its decision is given up and begun again.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = DatabaseUrl.read(url)
        self._patience = MAX_OUTAGE_SECONDS
        self._is_deciding = self._is_present = False
        self._mutex = threading.RLock()  # the thread that keeps the connection alive waits for a decision
        self._missing: dict[str, float] = {}  # since when workers have no lock, in steady time
        if psycopg is None:
            raise UsageError('goodfit search --storage needs the extra: pip install "goodfit[search-db]".')
        with self._explain(), no_warnings():
            with self._connect(autocommit=True) as connection:  # two that make the tables at once would fail
                connection.execute("SELECT pg_advisory_lock(%s)", [_hash_key("tables")])
                self._open_optuna({"poolclass": sqlalchemy.pool.NullPool}, skip_compatibility_check=False)
            pool = {"pool_size": 1, "max_overflow": 0, "pool_timeout": POOL_SECONDS}
            self._optuna = self._open_optuna(pool, skip_compatibility_check=True)

    def create_study(self, folder: Path) -> None:
        """Create the study of a new search, by the name of its folder.

        Raises:
            UsageError: the database has one of that name.
        """
        self.folder = folder
        try:
            with self._explain(), no_warnings():
                self.study = optuna.create_study(study_name=folder.name, storage=self._optuna, direction="maximize")
                self.study.set_user_attr("id", uuid.uuid4().hex)
        except DuplicatedStudyError as error:
            raise UsageError(
                f'Expected a new name, found the search "{folder.name}" in {self.url} already: choose another --out, or continue it'
                f" by --resume {folder.name}."
            ) from error

    def load_study(self, folder: Path, name: str) -> None:
        """Load the study of a search, whose folder on this machine is `folder`.

        Raises:
            UsageError: the database has none of that name.
        """
        self.folder = folder
        with self._explain(), no_warnings():
            names = optuna.get_all_study_names(self._optuna)
            if name not in names:
                raise UsageError(f"{self.url}: {unknown_name('search', name, names)}")
            self.study = optuna.load_study(study_name=name, storage=self._optuna)

    def publish(self, plan: Mapping[str, Any], base: str) -> None:
        """Keep the plan of the search, and the recipe around which it searches, for workers that do not share the folder."""
        self.retry(lambda: self.study.set_user_attr("base", base))
        self.retry(lambda: self.study.set_user_attr("plan", dict(plan)))

    def fetch(self) -> tuple[dict[str, Any], str]:
        """The plan of the search, and the recipe around which it searches.

        Raises:
            UsageError: the study is none of ours.
        """
        notes = self.retry(lambda: self.study.user_attrs)
        if not isinstance(notes.get("plan"), dict) or not isinstance(notes.get("base"), str):
            raise UsageError(f'Expected a search of Goodfit at "{self.study.study_name}" in {self.url}, found another study.')
        return notes["plan"], notes["base"]

    def record(self) -> dict[str, Any]:
        """What the folder of the search records of its database; the password is not in it."""
        identity = self.retry(lambda: self.study.user_attrs.get("id"))
        return {"url": str(self.url), "study": self.study.study_name, "id": identity}

    # ---- the contract of a storage -----------------------------------------------------------------------------------------------------

    def exclusive(self, action: Callable[[], T]) -> T:
        """Return what `action` returns, while the lock of the search is held."""
        return self.retry(lambda: self._decide(action))

    def _decide(self, action: Callable[[], T]) -> T:
        with self._mutex:
            self._call("pg_advisory_lock", self._key("decide"))
            self._is_deciding = True
            try:
                return action()
            finally:
                self._is_deciding = False
                with contextlib.suppress(SQLAlchemyError):  # a connection that is lost has freed it
                    self._call("pg_advisory_unlock", self._key("decide"))

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Be alive for the others within the block."""
        done = threading.Event()
        self._is_present = True  # from now on every new connection takes the lock of the worker
        self.retry(lambda: self._call("pg_advisory_lock_shared", self._key(self.worker)))
        pings = threading.Thread(target=self._keep_alive, args=(done,), daemon=True)
        pings.start()
        try:
            yield
        finally:
            done.set()
            pings.join()
            self._is_present = False
            with contextlib.suppress(SQLAlchemyError):
                self._call("pg_advisory_unlock_all")

    def is_alive(self, worker: str) -> bool:
        """Whether the worker of that name is alive, or may come back: its connection broke a moment ago."""
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND (classid::int8 << 32 | objid::int8) = {self._key(worker)}"
        )
        if worker == self.worker or self._query(query):
            self._missing.pop(worker, None)
            return True
        return steady_time() - self._missing.setdefault(worker, steady_time()) < MAX_MISSING_SECONDS

    def retry(self, action: Callable[[], T]) -> T:
        """Return what `action` returns; while the database is away, wait for it, and begin the action again.

        Raises:
            GoodfitError: it was away for too long, or refuses.
        """
        if self._is_deciding:
            return action()  # the whole decision is begun again
        deadline = None
        while True:
            try:
                return action()
            except (SQLAlchemyError, StorageInternalError) as error:
                if not _is_outage(error):
                    raise self._explained(error) from error
                if deadline is None:
                    deadline = steady_time() + self._patience
                    self.report(f"Waiting for {self.url}, up to {format_duration(self._patience)}: {_reason(error)}.")
                if steady_time() >= deadline:
                    self._patience = 0.0  # what is written at the end does not wait again
                    raise self._explained(error) from error
            time.sleep(RETRY_SECONDS)

    def now(self) -> float:
        """The time of day of the server, in seconds."""
        return float(self.retry(lambda: self._query("SELECT extract(epoch FROM clock_timestamp())")))

    def environment(self) -> dict[str, str]:
        """The variables of the environment that another process needs to open this storage by the folder."""
        return self.url.environment

    # ---- the connection ----------------------------------------------------------------------------------------------------------------

    def _open_optuna(self, pool: dict[str, Any], skip_compatibility_check: bool) -> Any:
        arguments = {"creator": self._connect, **pool}
        return optuna.storages.RDBStorage("postgresql+psycopg://", arguments, skip_compatibility_check=skip_compatibility_check)

    def _connect(self, autocommit: bool = False) -> Any:
        """Make a connection, which has the lock of this worker while it lives."""
        if self._is_deciding:
            raise psycopg.OperationalError("the connection was lost in the middle of a decision")
        arguments = {**CLIENT_SETTINGS, **self.url.arguments}
        connection = psycopg.connect(**arguments, autocommit=True)
        for name, value in SERVER_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, str(value)])
        if self._is_present:
            connection.execute("SELECT pg_advisory_lock_shared(%s)", [self._key(self.worker)])
        connection.autocommit = autocommit
        return connection

    def _keep_alive(self, done: threading.Event) -> None:
        """Use the connection now and then, so that one that broke is made anew, with its lock, while a training goes on."""
        while not done.wait(PING_SECONDS):
            with self._mutex, contextlib.suppress(SQLAlchemyError):
                self._query("SELECT 1")

    def _call(self, function: str, *arguments: int) -> Any:
        """Call a function of PostgreSQL."""
        return self._query(f"SELECT {function}({', '.join(map(str, arguments))})")

    def _query(self, sql: str) -> Any:
        with self._optuna.engine.connect() as connection:
            return connection.execute(sqlalchemy.text(sql)).scalar()

    def _key(self, name: str) -> int:
        return _hash_key(f"{self.study._study_id}/{name}")

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        """Turn what the database refuses within the block into a `GoodfitError`."""
        try:
            yield
        except DuplicatedStudyError:
            raise
        except (SQLAlchemyError, StorageInternalError, psycopg.Error, RuntimeError) as error:  # RuntimeError: tables of another Optuna
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> GoodfitError:
        saved = f' Everything is saved; "goodfit search --resume {self.folder}" continues it.' if hasattr(self, "study") else ""
        return GoodfitError(f"Expected {self.url} to serve a search, received: {_reason(error)}.{saved}")


def open_storage(folder: Path) -> Storage:
    """Open the trials of the search in a folder: its journal, or the database that it names.

    Raises:
        UsageError: the database has no such search.
        GoodfitError: the database does not answer.
    """
    if not (record := read_record(folder)):
        return FolderStorage(folder)
    storage = DatabaseStorage(str(record["url"]))
    storage.load_study(folder, str(record["study"]))
    return storage


def read_record(folder: Path) -> dict[str, Any]:
    """What the folder of a search records of its database; empty where its trials are in the folder."""
    record = read_json(folder / STORAGE_FILE)
    with explain_damage(folder / STORAGE_FILE):
        return {key: str(record[key]) for key in ("url", "study", "id")} if record else {}


def _is_outage(error: BaseException) -> bool:
    """Whether a database could not be reached, or not do its work now."""
    outages = (OperationalError, InterfaceError, sqlalchemy.exc.TimeoutError)
    return any(isinstance(cause, outages) for cause in _causes(error))


def _reason(error: BaseException) -> str:
    """What the database or its driver says, in a line."""
    causes = _causes(error)
    return first_line(next((cause for cause in causes if isinstance(cause, psycopg.Error)), causes[-1]))


def _causes(error: BaseException) -> list[BaseException]:
    """An error, what it was raised from or while that was handled, and so on: Optuna asks in another way where a query fails."""
    cause = error.__cause__ or error.__context__
    return [error, *(_causes(cause) if cause else ())]


def _hash_key(name: str) -> int:
    """The key of an advisory lock, 64 bits with a sign."""
    return int.from_bytes(hashlib.blake2b(f"goodfit/{name}".encode(), digest_size=8).digest(), "big", signed=True)
