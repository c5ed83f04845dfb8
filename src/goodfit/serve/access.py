"""Who may ask: the Host header, the origin of pages in a browser, and the token; and the count of what is answered."""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goodfit.serve.metrics import Metrics
from goodfit.serve.refusals import Refusal

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health", "/docs", "/openapi.json")  # that need no token: they say nothing of the model
PREDICT_PATH = "/predict"


class Access:
    """Lets requests through to an app.

    Those for a Host that is not among `hosts` are refused, as a page elsewhere sends them whose name was made to lead here (DNS rebinding),
    and so are those that pages of other origins send; None lets all hosts in. With a `token`, requests must send it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str, metrics: Metrics) -> None:
        self.app, self.hosts, self.token, self.metrics = app, hosts, token.encode(), metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and (refusal := self.check(Headers(scope=scope), scope["path"])):
            app = refusal.to_response(self.metrics)
        await app(scope, receive, send)

    def check(self, headers: Headers, path: str) -> Refusal | None:
        """The refusal of a request with these headers; None where it may pass."""
        if self.hosts is not None:
            if host_name(headers.get("host", "")) not in self.hosts:
                return Refusal(403, "wrong_host", f"Expected the Host header to be one of {', '.join(self.hosts)}, received another.")
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                return Refusal(403, "wrong_origin", "Expected a request of this server's own pages, received one of another origin.")
        if self.token and path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.token):
                return Refusal(401, "wrong_token", 'Expected the header "Authorization: Bearer TOKEN" with the token of this server.')
        return None


def host_name(host: str) -> str:
    """The name or address in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


class Recorder:
    """Counts what an app answers, by path and status, and how long predictions take."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"] if scope["path"] in self.paths else "other"

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests[path, message["status"]] += 1
                if path == PREDICT_PATH:
                    self.metrics.request_seconds.observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, count)
