"""The process that computes with torch for the board: python -m goodfit.board.work TRUST. It reads jobs from stdin, a line of JSON each."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goodfit.board import answers, lectures
from goodfit.core.errors import GoodfitError, UsageError, first_line
from goodfit.core.run import Run
from goodfit.core.run_files import is_number
from goodfit.core.steering import send
from goodfit.core.trust import Trust, use_trust

NICENESS = 10  # so that trainings on the same machine go first


def steer(run: str, command: str, factor: Any) -> str:
    """Steer a training that is running, as `goodfit steer` does; returns what will happen, in a sentence.

    Raises:
        UsageError: it is not running, or the command or its factor make no sense.
    """
    if factor is not None and not is_number(factor):
        raise UsageError("Expected the factor of the learning rate to be a number, received something else.")
    return send(Run(Path(run)), command, factor)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ask": answers.ask,
    "read_pictures": answers.read_pictures,
    "steer": steer,
    **{f"lecture_{name}": function for name, function in lectures.LECTURES.items()},
}


def run_job(line: bytes) -> dict[str, Any]:
    """Do a job: its "result", or the "error" as a sentence and whether what was asked was wrong."""
    job = json.loads(line)
    given = {key: base64.b64decode(value) if key == "content" else value for key, value in job["given"].items()}
    try:
        function = FUNCTIONS.get(job["function"])
        if function is None:
            raise UsageError("There is no such computation.")
        return {"result": function(**given)}
    except GoodfitError as error:
        return {"error": str(error), "is_usage": isinstance(error, UsageError)}
    except TypeError as error:
        return {"error": f"Expected other values ({first_line(error)}).", "is_usage": True}
    except Exception as error:  # of a model or of parts of the user's own: this job fails, the next goes on
        return {"error": f"The computation failed ({type(error).__name__}: {first_line(error)}).", "is_usage": False}


def main() -> None:
    """Do jobs until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    words = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    with use_trust(Trust(bool(words.get("allows_classes")), frozenset(words.get("packages", ())))):
        for line in sys.stdin.buffer:
            out.write(json.dumps(run_job(line)).encode() + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
