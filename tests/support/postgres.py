"""A PostgreSQL server of a test's own, on loopback, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

PASSWORD = "p@ss/w{0}rd:%"  # with all that a URL, Optuna's templates and ini files would stumble over
QUOTED = "p%40ss%2Fw%7B0%7Drd%3A%25"
DEBIAN = Path("/usr/lib/postgresql")  # where Debian's package has its programs, apart from the path


class Postgres:
    """A server that is started by `start` and stopped by `stop`; its only user is `gf`, whose password is asked for."""

    def __init__(self) -> None:
        programs = find_programs()
        self._postgres = programs / "postgres"
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))  # not in pytest's folders, which are closed to other users
        self._user = _server_user()
        (self.folder / "password").write_text(PASSWORD)
        if self._user:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, self._user)
        words = ["-D", self.folder / "data", "-U", "gf", "-A", "scram-sha-256", f"--pwfile={self.folder / 'password'}", "--no-sync"]
        subprocess.run([programs / "initdb", *words], check=True, capture_output=True, user=self._user, cwd=self.folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://gf:{QUOTED}@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host="127.0.0.1", port=self.port, user="gf", password=PASSWORD, dbname="postgres", autocommit=True)

    def start(self) -> None:
        settings = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.folder}", "fsync=off"]
        words = [word for setting in settings for word in ("-c", setting)]
        command = [self._postgres, "-D", self.folder / "data", *words]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self.folder)
        end = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end and self._process.poll() is None, (self.folder / "log.txt").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once, with all connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


def find_programs() -> Path:
    """The folder of PostgreSQL's programs; without them the test fails."""
    found = [Path(initdb).resolve().parent] if (initdb := shutil.which("initdb")) else []
    found += sorted(path.parent for path in DEBIAN.glob("*/bin/initdb"))
    if not found:
        pytest.fail('Expected PostgreSQL\'s programs initdb and postgres, found none: install them, as by "apt-get install postgresql".')
    return found[-1]


def _server_user() -> str | None:
    """Who the server runs as: PostgreSQL refuses root."""
    if os.geteuid():
        return None
    users = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"
