"""The paths of a server: predictions, what the model answers, health, metrics, and the description of it all."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from goodfit.core.errors import first_line
from goodfit.core.words import format_bytes
from goodfit.predict.predictor import Predictor
from goodfit.serve.access import PREDICT_PATH, Access, Recorder
from goodfit.serve.description import describe_model, openapi
from goodfit.serve.docs_page import CONTENT_SECURITY_POLICY, docs_page
from goodfit.serve.metrics import Metrics
from goodfit.serve.options import ServeOptions
from goodfit.serve.refusals import Refusal
from goodfit.serve.service import PredictionService, Upload
from goodfit.terminal.predictions import plain_predictions
from goodfit.terminal.streams import print_message

DEFAULT_TOP = 5  # classes of an answer, as of predict
MAX_FORM_FIELDS = 16  # of a form, that are no files
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MemoryFormParser(MultiPartParser):
    """Keeps the files of a form in memory, where the limit on bytes bounds them."""

    spool_max_size = 2**40


@dataclasses.dataclass
class Paths:
    """What answers each path, for one predictor."""

    predictor: Predictor
    options: ServeOptions
    model: dict[str, Any]
    metrics: Metrics = dataclasses.field(default_factory=Metrics)
    received_bytes: int = 0  # of all requests under way

    @contextlib.asynccontextmanager
    async def run_service(self, _app: Starlette) -> AsyncIterator[None]:
        """Run the service as long as the app runs."""
        async with PredictionService(self.predictor, self.options, self.metrics) as self.service:
            yield

    async def predict(self, request: Request) -> Response:
        """Answer the images of a request."""
        top = request.query_params.get("top", str(DEFAULT_TOP))
        if not (top.isascii() and top.isdecimal() and 1 <= len(top) <= 9 and int(top)):
            raise Refusal(422, "wrong_top", "Expected the number of classes, ?top=5, to be 1 or more, received another.")
        received = _Received(self, request)
        try:
            uploads = await _read_uploads(request, received)
            predictions = await self.service.predict(uploads, int(top))
        finally:
            received.release()
        if predictions and all(x.problem for x in predictions):
            first = predictions[0]
            raise Refusal(422, "no_image", f"Not one image can be read; {first.name}: {first.problem}.")
        return JSONResponse(plain_predictions(predictions, self.options.reject_below))

    async def describe(self, _request: Request) -> Response:
        """What the model answers."""
        return JSONResponse(self.model)

    async def health(self, _request: Request) -> Response:
        """That the server answers."""
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, _request: Request) -> Response:
        """What was counted."""
        return PlainTextResponse(self.metrics.to_text(), media_type=METRICS_TYPE)


class _Received:
    """The body of a request as it comes, within the limits on its own bytes and on those of all requests under way."""

    def __init__(self, paths: Paths, request: Request) -> None:
        self.paths, self.request, self.bytes = paths, request, 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the body.

        Raises:
            Refusal: it is too large, or the server has no memory for it now.
        """
        options = self.paths.options
        declared = self.request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > options.max_bytes:
            raise self.too_large()
        try:
            async for chunk in self.request.stream():
                self.bytes += len(chunk)
                self.paths.received_bytes += len(chunk)
                if self.bytes > options.max_bytes:
                    raise self.too_large()
                if self.paths.received_bytes > options.max_received_bytes:
                    raise Refusal(503, "memory_full", "Other requests take all memory for images: try again in a second.")
                yield chunk
        except ClientDisconnect as error:
            raise Refusal(400, "disconnected", "The connection ended before the request was whole.") from error

    def too_large(self) -> Refusal:
        """The refusal of a body with too many bytes."""
        return Refusal(413, "too_large", f"Expected a request of {format_bytes(self.paths.options.max_bytes)} or less, received more.")

    def release(self) -> None:
        """Count its bytes as gone."""
        self.paths.received_bytes -= self.bytes
        self.bytes = 0


async def _read_uploads(request: Request, received: _Received) -> list[Upload]:
    """Read the images of a request: the files of a form, else its whole body as one image.

    Raises:
        Refusal: there is none, or the form is none.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        parser = MemoryFormParser(request.headers, received.chunks(), max_files=received.paths.options.queue, max_fields=MAX_FORM_FIELDS)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Refusal(422, "wrong_form", f"The form does not read: {first_line(error)}.") from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [Upload(file.filename or "image", await file.read()) for file in files]
        await form.close()
    else:
        body = b"".join([chunk async for chunk in received.chunks()])
        uploads = [Upload("image", body)] if body else []
    if not uploads:
        raise Refusal(422, "no_image", "Expected an image as the body, or the files of a form (multipart/form-data), received none.")
    return uploads


def make_app(predictor: Predictor, options: ServeOptions, facts: dict[str, Any], hosts: Collection[str] | None, token: str) -> Recorder:
    """The app of a predictor; `facts` are those of its run for /model. `hosts` and `token` are as for `Access`."""
    paths = Paths(predictor, options, describe_model(predictor, options, facts))
    described = openapi(predictor.task.name, options, has_token=bool(token))
    page = docs_page(described)

    async def show_openapi(_request: Request) -> Response:
        return JSONResponse(described)

    async def show_docs(_request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def explain(_request: Request, error: Exception) -> Response:
        if isinstance(error, Refusal):
            return error.to_response(paths.metrics)
        assert isinstance(error, HTTPException)
        places = ", ".join(described["paths"])
        refusal = Refusal(error.status_code, "wrong_path", f"Expected one of {places}, with its own method; see /docs.")
        response = refusal.to_response(paths.metrics)
        response.headers.update(error.headers or {})
        return response

    async def explain_bug(_request: Request, error: Exception) -> Response:
        print_message(f"goodfit: A request failed ({type(error).__name__}: {first_line(error)}).")
        return Refusal(500, "failed", "The model failed on this request; the server's messages say how.").to_response(paths.metrics)

    routes = [
        Route(PREDICT_PATH, paths.predict, methods=["POST"]), Route("/model", paths.describe), Route("/health", paths.health),
        Route("/metrics", paths.show_metrics), Route("/openapi.json", show_openapi), Route("/docs", show_docs),
    ]  # fmt: skip
    handlers = {HTTPException: explain, Refusal: explain, Exception: explain_bug}
    app: ASGIApp = Starlette(routes=routes, lifespan=paths.run_service, exception_handlers=handlers)
    return Recorder(Access(app, hosts, token, paths.metrics), paths.metrics, [route.path for route in routes])
