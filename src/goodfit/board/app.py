"""The paths of the board: its page, what it reads of runs, what it changes, and the events by which a page stays up to date."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from goodfit.board.access import COOKIE, HEADERS, Access, is_equal
from goodfit.board.alerts import collect
from goodfit.board.curves import read_curves
from goodfit.board.details import compare, render_comparison_page, render_sections
from goodfit.board.forks import describe_forking
from goodfit.board.images import find_images
from goodfit.board.log_columns import Logs
from goodfit.board.page import read_asset, render_board
from goodfit.board.watcher import Watcher, to_json
from goodfit.board.worker import Worker
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.escapes import escape_name
from goodfit.report.page import render_report

MAX_BODY_BYTES = 24_000_000  # of a request, which may be a photo
MAX_JSON_BYTES = 1_000_000
MAX_READS = 4  # that are computed at a time, in threads; others wait
REPORT_POLICY = (  # a report cannot reach the board
    "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation; frame-ancestors 'none'"
)

Result = TypeVar("Result")


class Board:
    """What answers each path of the board of a folder of runs."""

    def __init__(self, watcher: Watcher, worker: Worker) -> None:
        self.watcher, self.worker = watcher, worker
        self.index, self.notes, self.logs = watcher.index, watcher.notes, Logs()
        self.access: Access | None = None
        self._reads = asyncio.Semaphore(MAX_READS)

    @contextlib.asynccontextmanager
    async def run(self, _app: Starlette) -> AsyncIterator[None]:
        """Watch the folder as long as the app runs."""
        await self.watcher.refresh()
        watching = asyncio.create_task(self.watcher.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.to_thread(self.worker.stop)

    async def read(self, function: Callable[..., Result], *given: Any) -> Result:
        """Call a function that reads files in a thread, a few at a time."""
        async with self._reads:
            return await asyncio.to_thread(function, *given)

    # ---- the page ------------------------------------------------------------------------------------------------------------------

    async def page(self, _request: Request) -> Response:
        """The page itself."""
        assert self.access is not None
        return HTMLResponse(render_board(self.access.page_token, bool(self.access.token)), headers=HEADERS)

    async def asset(self, request: Request) -> Response:
        """A script, a style sheet or the words of a language."""
        content, kind = read_asset(request.path_params["name"])
        return Response(content, media_type=kind, headers={**HEADERS, "Cache-Control": "no-cache"})

    async def login(self, request: Request) -> Response:
        """Give the cookie for the token of the board."""
        assert self.access is not None
        given = str((await read_json_body(request)).get("token", ""))
        if not (self.access.token and is_equal(given.strip(), self.access.token)):
            return JSONResponse({"error": "This is not the token of the board."}, 401, HEADERS)
        response = JSONResponse({}, headers=HEADERS)
        response.set_cookie(COOKIE, self.access.session, httponly=True, samesite="strict", path="/")
        return response

    # ---- reading -------------------------------------------------------------------------------------------------------------------

    async def runs(self, _request: Request) -> Response:
        """All rows and alerts."""
        found = self.watcher.snapshot
        alerts = [alert.plain() for alert in found.alerts]
        content = {
            "root": escape_name(str(self.index.root)),
            "rows": list(found.rows.values()),
            "alerts": alerts,
            "problem": self.watcher.problem or self.notes.problem,
        }
        return answer(content)

    async def events(self, _request: Request) -> Response:
        """What changes, as server-sent events."""
        if self.watcher.is_full:
            return JSONResponse({"error": "Too many pages are open: close some."}, 503, {**HEADERS, "Retry-After": "10"})
        return StreamingResponse(self.watcher.follow(), media_type="text/event-stream", headers=HEADERS)

    async def curves(self, request: Request) -> Response:
        """Curves of runs."""
        folders, query = self._folders(request), request.query_params
        low, high = (read_number(query, name, None) for name in ("from", "to"))
        window = (low, high) if low is not None and high is not None else None
        points, smoothing = read_number(query, "points", 800), read_number(query, "smoothing", 0)
        assert points is not None and smoothing is not None
        x = query.get("x", "step")
        found = await self.read(read_curves, self.logs, folders, query.get("name", "loss"), x, smoothing, int(points), window)
        return answer([{"run": key, **curves} for key, curves in zip(query.getlist("run"), found, strict=True)])

    async def sections(self, request: Request) -> Response:
        """Sections of the report of a run."""
        return answer(await self.read(render_sections, self._folder(request), request.query_params.get("names", "").split(",")))

    async def alerts(self, request: Request) -> Response:
        """The alerts of a run, looked for now."""
        key = request.query_params.get("run", "")
        row = self.watcher.snapshot.rows.get(key)
        if row is None:
            raise UsageError("Expected the name of a run on this board, received another.")
        return answer([alert.plain() for alert in await self.read(collect, row, self._folder(request))])

    async def differences(self, request: Request) -> Response:
        """What tells runs apart."""
        return answer(await self.read(compare, self._folders(request)))

    async def images(self, request: Request) -> Response:
        """Validation images of a run."""
        query = request.query_params
        start, count = read_number(query, "start", 0), read_number(query, "count", 24)
        assert start is not None and count is not None
        texts = [query.get(name, default) for name, default in (("order", "worst"), ("truth", ""), ("predicted", ""), ("text", ""))]
        return answer(await self.read(find_images, self._folder(request), *texts, int(start), int(count)))

    async def forking(self, request: Request) -> Response:
        """What a run can be forked by."""
        return answer(await self.read(describe_forking, self._folder(request)))

    async def report(self, request: Request) -> Response:
        """The report of a run or study, made anew from its files: a page that lies in the folder may be anyone's."""
        key = request.path_params["key"].removesuffix("report.html").rstrip("/")
        page = await self.read(render_report, self.index.find(key or "."))
        return HTMLResponse(page, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    async def comparison(self, request: Request) -> Response:
        """The page of `goodfit compare --html`."""
        page = await self.read(render_comparison_page, self._folders(request))
        return HTMLResponse(page, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    # ---- what takes torch, in a process of its own -----------------------------------------------------------------------------------

    async def pictures(self, request: Request) -> Response:
        """Validation images of a run as data URIs, by their names."""
        names = request.query_params.getlist("name")
        return answer(await self.worker.call("read_pictures", {"run": str(self._folder(request)), "names": names}))

    async def ask(self, request: Request) -> Response:
        """The answers of runs to an image: the body, or the validation image of the first run with this name."""
        runs, name = [str(folder) for folder in self._folders(request)], request.query_params.get("name", "")
        content = await read_body(request, MAX_BODY_BYTES)
        return answer(await self.worker.call("ask", {"runs": runs, "name": name, "content": content}))

    async def lecture(self, request: Request) -> Response:
        """A computation of the lecture's, with the reader's numbers."""
        what = request.path_params["what"]
        return answer(await self.worker.call(f"lecture_{what}", await read_json_body(request)))

    # ---- changing --------------------------------------------------------------------------------------------------------------------

    async def tags(self, request: Request) -> Response:
        """Set the tags of a run."""
        body, key = await read_json_body(request), request.query_params.get("run", "")
        self.index.find(key)
        tags = body.get("tags")
        if not isinstance(tags, list):
            raise UsageError("Expected a list of tags, received something else.")
        kept = await self.read(self.notes.set_tags, key, [str(tag) for tag in tags])
        await self.watcher.refresh()
        return answer({"tags": kept})

    async def steer(self, request: Request) -> Response:
        """Steer a training that is running, as `goodfit steer` does."""
        body = await read_json_body(request)
        given = {"run": str(self._folder(request)), "command": str(body.get("command", "")), "factor": body.get("factor")}
        said = await self.worker.call("steer", given)
        await self.watcher.refresh()
        return answer({"said": said})

    async def fork(self, request: Request) -> Response:
        """Start a fork of a run in a process of its own."""
        body, folder = await read_json_body(request), self._folder(request)
        values = body.get("values", {})
        if not isinstance(values, dict):
            raise UsageError("Expected the values by field, received something else.")
        key, step, name = request.query_params.get("run", ""), body.get("step"), body.get("name")
        command = await self.read(self.watcher.forks.start, key, folder, step, values, name)
        await self.watcher.refresh()
        return answer({"name": name, "command": shlex.join(["goodfit", *command[command.index("train") :]])})

    def _folder(self, request: Request) -> Path:
        return self.index.find(request.query_params.get("run", ""))

    def _folders(self, request: Request) -> list[Path]:
        return [self.index.find(key) for key in request.query_params.getlist("run")]


def answer(content: Any) -> Response:
    """An answer as JSON."""
    return Response(to_json(content), media_type="application/json", headers=HEADERS)


def read_number(query: Mapping[str, str], name: str, default: float | None) -> float | None:
    """A finite number of a query.

    Raises:
        UsageError: it is none.
    """
    if name not in query:
        return default
    with contextlib.suppress(ValueError):
        if abs(number := float(query[name])) < 1e15:
            return number
    raise UsageError(f"Expected {name} to be a number, received another.")


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        UsageError: it has more bytes than the limit.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise UsageError(f"Expected a request of up to {limit:,} bytes, received more.")
    return bytes(content)


async def read_json_body(request: Request) -> dict[str, Any]:
    """The object that is the body of a request.

    Raises:
        UsageError: it is none.
    """
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(await read_body(request, MAX_JSON_BYTES) or b"{}")
        if isinstance(content, dict):
            return content
    raise UsageError("Expected a JSON object, received something else.")


def explain(_request: Request, error: Exception) -> Response:
    """The answer where a path raises: one sentence."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": "There is nothing at this address."}, error.status_code, HEADERS)
    return JSONResponse({"error": escape_name(str(error))}, 422 if isinstance(error, UsageError) else 500, HEADERS)


def make_app(board: Board, hosts: tuple[str, ...] | None, token: str = "") -> Access:
    """The app of a board; `hosts` and `token` are as for `Access`."""
    get: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": board.page, "/static/{name}": board.asset, "/api/runs": board.runs, "/api/events": board.events, "/api/curves": board.curves,
        "/api/sections": board.sections, "/api/alerts": board.alerts, "/api/differences": board.differences, "/api/images": board.images,
        "/api/pictures": board.pictures, "/api/fork": board.forking, "/report/{key:path}": board.report, "/comparison": board.comparison,
    }  # fmt: skip
    post = {
        "/login": board.login, "/api/tags": board.tags, "/api/steer": board.steer, "/api/fork": board.fork, "/api/ask": board.ask,
        "/api/lecture/{what}": board.lecture,
    }  # fmt: skip
    routes = [Route(path, function) for path, function in get.items()]
    routes += [Route(path, function, methods=["POST"]) for path, function in post.items()]
    app = Starlette(routes=routes, lifespan=board.run, exception_handlers={HTTPException: explain, GoodfitError: explain})
    board.access = Access(app, hosts, token)
    return board.access
