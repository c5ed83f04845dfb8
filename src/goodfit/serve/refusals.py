"""What a request is answered when it cannot be served: a status, a kind for the metrics, and one sentence."""

from __future__ import annotations

from starlette.responses import JSONResponse

from goodfit.serve.metrics import Metrics

RETRY_SECONDS = 1


class Refusal(Exception):
    """The answer to a request that is not served, as an HTTP `status`, the `kind` of error, and a sentence."""

    def __init__(self, status: int, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.kind, self.sentence = status, kind, sentence

    def to_response(self, metrics: Metrics) -> JSONResponse:
        """The answer, which is counted: with 503 when to come back, with 401 how to say who one is."""
        metrics.errors[self.kind] += 1
        headers = {503: {"Retry-After": str(RETRY_SECONDS)}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status)
        return JSONResponse({"error": self.sentence, "kind": self.kind}, self.status, headers)
