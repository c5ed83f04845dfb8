"""The board as a process: it says where it is, ends when it is told to, and is stopped by nobody else."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.command import goodfit, refused
from tests.support.fake_run import make_run
from tests.support.process import Forked, start_command, wait_until


@contextlib.contextmanager
def start_board(root: Path, folder: Path, *words: str) -> Iterator[tuple[str, Forked]]:
    process = start_command(folder, "board", root, "--port", "0", *words)
    try:
        wait_until(lambda: process.out.endswith("\n") or process.poll() is not None)
        assert process.poll() is None, process.err
        yield process.out.strip(), process
    finally:
        process.kill()


def hash_files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def read(url: str) -> int:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return int(answer.status)


def test_it_ends_when_it_is_told_to_while_pages_are_open(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", steps=60)
    with start_board(tmp_path / "runs", tmp_path / "out") as (url, process):
        page = urllib.request.urlopen(url + "api/events", timeout=20)
        assert page.readline().startswith(b"retry")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        assert process.err.splitlines()[-1] == "goodfit: Stopped; trainings go on without the board."
        page.close()


def test_killed_at_any_time_it_leaves_a_run_as_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", steps=60)
    before = hash_files(tmp_path / "runs")
    with start_board(tmp_path / "runs", tmp_path / "out") as (url, process):
        assert read(url + "api/curves?run=a&name=loss") == read(url + "api/sections?run=a&names=headline") == 200
        process.kill()
    assert hash_files(tmp_path / "runs") == before


@pytest.mark.thorough
def test_many_slow_clients_do_not_stop_it(tmp_path: Path) -> None:
    """Some hundred connections that send half a request, and others that open the events and never read."""
    make_run(tmp_path / "runs" / "a", steps=60)
    with start_board(tmp_path / "runs", tmp_path / "out") as (url, _), contextlib.ExitStack() as stack:
        address = urlsplit(url)
        for k in range(300):
            client = stack.enter_context(socket.create_connection((address.hostname, address.port or 0), timeout=20))
            whole = f"GET /api/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
            client.sendall(whole if k % 3 == 0 else whole[: 10 + k % 20])
        began = time.monotonic()
        for path in ("", "api/runs", "api/curves?run=a&name=loss"):
            assert read(url + path) == 200
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["nothing"], 3, ["Expected a folder of runs", "nothing"]),
        ([".", "--port", "70000"], 2, ["Expected --port", "70000"]),
        ([".", "--host", "no such host"], 2, ["Expected --host", "no such host"]),
        ([".", "--host", "0.0.0.0", "--port", "0"], 2, ["Expected a token", "GOODFIT_TOKEN"]),
        ([".", "--webhook", "ftp://x"], 2, ["Expected --webhook"]),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, parts: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GOODFIT_TOKEN", raising=False)
    refused(goodfit("board", *words), code, *parts)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(goodfit("board", tmp_path, "--port", str(port)), 2, f"127.0.0.1:{port} cannot be listened at")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for module in ("goodfit.board.server", "goodfit.serve.listening"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    refused(goodfit("board", tmp_path), 2, 'pip install "goodfit[board]"')
