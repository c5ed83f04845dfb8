"""Serving a run: the server's life from the first request to the last, and its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.run import ENSEMBLE_FILE, Run
from goodfit.core.run_files import get
from goodfit.core.signals import stop_error
from goodfit.core.words import count_of
from goodfit.predict.predictor import Predictor
from goodfit.serve.options import ServeOptions

try:
    from goodfit.serve.app import make_app
    from goodfit.serve.listening import Address, Server, open_address
except ImportError as error:
    raise UsageError('goodfit serve needs the extra: pip install "goodfit[serve]".') from error

__all__ = ["Address", "Server", "make_server", "open_address", "read_facts", "serve_until_stopped"]

STOP_SECONDS = 20  # that requests under way have to end, once the server is to stop


def make_server(
    predictor: Predictor, facts: dict[str, Any], options: ServeOptions, address: Address, announce: Callable[[str], None]
) -> Server:
    """The server of a predictor, which `run([address.listener])` runs; `announce` gets the URL once requests are answered.

    `facts` are those of the predictor's run for /model.
    """
    app = make_app(predictor, options, facts, address.hosts, address.token)
    return Server(app, app.metrics, lambda: announce(address.url), STOP_SECONDS)


def serve_until_stopped(server: Server, address: Address) -> None:
    """Run a server until SIGINT or SIGTERM; requests that have come by then are answered first.

    Raises:
        Interrupted, Terminated: it was stopped.
    """
    try:
        server.run([address.listener])
    except KeyboardInterrupt as stop:
        raise stop_error(stop, f"Stopped; {count_of(server.metrics.requests.total(), 'request')} answered, those under way too.") from None


def read_facts(run: Run) -> dict[str, Any]:
    """What a run says of itself: its name, when it was finished, its validation figure, and what withholding unsure answers gains."""
    about, scores = run.read("about.json"), run.scores.get("validation", {})
    facts = {
        "name": run.name,
        "kind": "ensemble" if (run.path / ENSEMBLE_FILE).exists() else "run",
        "finished": about.get("finished"),
        "data": get(about, "data", "name"),
        "validation": {key: scores[key] for key in ("accuracy", "map", "r2", "interval", "images") if key in scores},
        "rejection": get(scores, "calibration", "rejection"),
    }
    return {key: value for key, value in facts.items() if value not in (None, {}, [])}
