"""Servers for tests, on free ports of loopback, and a client of the standard library for them."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from goodfit.serve.listening import Server, open_address
from goodfit.serve.options import ServeOptions
from goodfit.serve.server import make_server
from tests.support.process import Forked, start_command, wait_until

TIMEOUT = 30.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal."""
        return str(self.json["error"])


def ask(url: str, path: str = "/predict", body: Any = None, headers: Mapping[str, str] | None = None, method: str = "") -> Answer:
    """Send a request: POST where it has a body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def ask_form(url: str, files: Sequence[tuple[str, bytes]], path: str = "/predict", **headers: str) -> Answer:
    """Send files as a form."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    ]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return ask(url, path, body, {"Content-Type": f"multipart/form-data; boundary={boundary}", **headers})


def connect(url: str, text: str = "") -> socket.socket:
    """A connection on which so much of a request was sent."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), TIMEOUT)
    connection.sendall(text.encode())
    return connection


@contextlib.contextmanager
def serving(predictor: Any, facts: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[str, Server]]:
    """A server at work in a thread of this process, and its URL."""
    chosen = ServeOptions(port=0, **options)
    address, ready = open_address(chosen), threading.Event()
    server = make_server(predictor, facts or {}, chosen, address, lambda _: ready.set())
    thread = threading.Thread(target=server.run, args=([address.listener],))
    thread.start()
    try:
        assert ready.wait(TIMEOUT)
        yield address.url, server
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def start_server(folder: Path, run: Path, *options: str) -> tuple[Forked, str]:
    """A process of `goodfit serve`, and its URL once it answers."""
    process = start_command(folder, "serve", run, "--port", "0", *options)
    wait_until(lambda: process.out.startswith("http") or process.poll() is not None)
    assert process.poll() is None, process.err
    return process, process.out.strip()
