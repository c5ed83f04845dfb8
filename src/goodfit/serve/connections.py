"""Connections with deadlines: a client that sends its headers or body too slowly, or does not read its answer, is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from goodfit.serve.metrics import Metrics

STAGE_SECONDS = {"headers": 10.0, "body": 30.0, "idle": 15.0}  # that a client has for each
ANSWER_SECONDS = 120.0  # in which a request is answered and its answer read
NEVER = float("inf")
MAX_HEADER_BYTES = 32_768
MAX_CONNECTIONS = 8192  # at a time; fewer where the system gives fewer files
RESERVED_FILES = 128  # of the files the system gives a process, what connections leave free
TIMEOUT_STATUS, HEADERS_STATUS = "408 Request Timeout", "431 Request Header Fields Too Large"


class TimedConnection(HttpToolsProtocol):
    """A connection with a deadline for each stage of a request that comes (headers, body, idle between two), and for the answers due.

    Where there are too many connections, the one that has kept the server waiting for its request the longest is ended for the new one.
    """

    metrics: Metrics
    max_connections = MAX_CONNECTIONS
    stage = "headers"
    stage_ends = answer_ends = NEVER  # by the clock of the event loop
    header_bytes = 0

    def _enter(self, stage: str) -> None:
        self.stage, self.stage_ends = stage, self.loop.time() + STAGE_SECONDS[stage]

    def _expect_answer(self, is_due: bool) -> None:
        self.answer_ends = self.loop.time() + ANSWER_SECONDS if is_due else NEVER

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("headers")
        if len(self.connections) > self.max_connections:
            connections: Iterable[Any] = self.connections
            slowest = min((x for x in connections if x.answer_ends == NEVER), key=lambda x: x.stage_ends)
            slowest.metrics.errors["too_many_connections"] += 1
            slowest.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.stage != "body":
            self.header_bytes += len(data)
        super().data_received(data)
        if self.stage == "headers" and self.header_bytes > MAX_HEADER_BYTES:
            self._refuse("headers_too_large", HEADERS_STATUS, f"Expected at most {MAX_HEADER_BYTES:,} bytes of headers.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.stage == "idle":
            self._enter("headers")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage == "headers":  # what follows a chunked body is not kept
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._enter("body")
        self.header_bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._enter("idle")
        self._expect_answer(not self.cycle.response_complete)  # else it was refused before all of it had come

    def on_response_complete(self) -> None:
        self._expect_answer(bool(self.pipeline))
        if self.stage == "idle":
            self._enter("idle")
        super().on_response_complete()

    def end_if_overdue(self, now: float) -> None:
        """End the connection if a deadline has passed; a client whose request is not whole is told why."""
        if now > self.answer_ends:
            self.metrics.errors["slow_client"] += 1
            self.transport.abort()
        elif now > self.stage_ends and self.stage != "idle":
            self._refuse("slow_client", TIMEOUT_STATUS, "The request did not come in time.")
        elif now > self.stage_ends and self.answer_ends == NEVER:
            self.transport.close()

    def _refuse(self, kind: str, status: str, sentence: str) -> None:
        self.metrics.errors[kind] += 1
        self.stage_ends = NEVER
        has_begun = self.answer_ends != NEVER or (self.stage == "body" and self.cycle.response_started)
        if has_begun:
            self.transport.abort()
            return
        body = json.dumps({"error": sentence, "kind": kind})
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.transport.write((head + body).encode())
        self.transport.close()


def connection_class(count: Metrics) -> type[TimedConnection]:
    """The class of a server's connections, which counts into its metrics and fits the number of files that the system gives."""

    class Connection(TimedConnection):
        metrics = count
        max_connections = max(1, min(MAX_CONNECTIONS, raise_file_limit() - RESERVED_FILES))

    return Connection


def raise_file_limit() -> int:
    """Raise the number of files that this process may have open to what the connections need, as far as the system lets it; returns it."""
    try:
        import resource  # not on Windows
    except ImportError:
        return MAX_CONNECTIONS + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS + RESERVED_FILES if soft == resource.RLIM_INFINITY else soft
