"""Listening at an address: which one, who may ask there, and a server whose connections have deadlines; without torch."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from goodfit.core.errors import UsageError
from goodfit.serve.access import LOOPBACK_NAMES
from goodfit.serve.connections import STAGE_SECONDS, connection_class
from goodfit.serve.metrics import Metrics
from goodfit.serve.options import TOKEN_VARIABLE, read_token

BACKLOG = 2048  # connections that wait to be accepted
MAX_PORT = 65_535


class Server(uvicorn.Server):
    """A uvicorn server of an app that says when it is ready, and ends connections that are overdue each second.

    Once it is to stop, requests under way have `stop_seconds` to end.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, announce: Callable[[], None], stop_seconds: int) -> None:
        super().__init__(uvicorn.Config(
            app, http=connection_class(metrics), loop="asyncio", ws="none", lifespan="on", log_config=None, log_level="critical",
            access_log=False, proxy_headers=False, server_header=False, backlog=BACKLOG, timeout_keep_alive=round(STAGE_SECONDS["idle"]),
            timeout_graceful_shutdown=stop_seconds,
        ))  # fmt: skip
        self.metrics, self.announce = metrics, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.announce()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        if counter % 10 == 0:
            now, connections = asyncio.get_running_loop().time(), list[Any](self.server_state.connections)
            for connection in connections:
                connection.end_if_overdue(now)
        return await super().on_tick(counter)


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a server listens, its `url`, and who may ask: requests for one of `hosts` (None: for any), with the `token` (empty: none)."""

    listener: socket.socket
    url: str
    hosts: tuple[str, ...] | None
    token: str


class AddressOptions(Protocol):
    """The options of a command that say where it listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def token_file(self) -> Path | None: ...


def open_address(options: AddressOptions) -> Address:
    """Take the address that was asked for; nothing is answered there yet.

    Raises:
        UsageError: it is taken or none, or others reach it and there is no token.
    """
    if not 0 <= options.port <= MAX_PORT:
        raise UsageError(f"Expected --port to be from 0 to {MAX_PORT}, received {options.port}.")
    token, listener = read_token(options.token_file), bind(options.host, options.port)
    place, port = listener.getsockname()[:2]
    is_loopback = ipaddress.ip_address(place).is_loopback
    if not is_loopback and not token:
        listener.close()
        raise UsageError(
            f'Expected a token, since others reach "{options.host}": put one into a file and name it by --token-file, or set'
            f" {TOKEN_VARIABLE}; or leave --host out."
        )
    hosts = tuple(dict.fromkeys((*LOOPBACK_NAMES, options.host.lower()))) if is_loopback else None
    return Address(listener, f"http://{f'[{place}]' if ':' in place else place}:{port}", hosts, token)


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to an address that is not listened at yet.

    Raises:
        UsageError: there is no such address, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host or "127.0.0.1", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no name"
        raise UsageError(f'Expected --host to be an address of this machine, such as 127.0.0.1, received "{host}" ({why}).') from error
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # without a protocol asyncio sets no TCP_NODELAY: 40 ms
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(f"{host}:{port} cannot be listened at ({error.strerror}): choose another --port; 0 takes a free one.") from error
    return listener
