"""The command line run inside the test's own process: what it prints, and the exit code it leaves with."""

from __future__ import annotations

import dataclasses
import io
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from goodfit.cli import main

# A training that takes a few milliseconds, with nothing left to measure or choose.
FAST = {
    "size": "16",
    "model": "linear",
    "augment": "none",
    "optimizer": "sgd(0.01)",
    "budget": "2 epochs",
    "batch_size": "8",
    "precision": "fp32",
    "layout": "contiguous",
    "threads": "1",
    "evaluate_every": "1 epoch",
}


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on stderr, which says what went wrong."""
        return self.err.splitlines()[-1] if self.err.strip() else ""


def goodfit(*words: str | Path) -> Said:
    """Run `goodfit WORDS`; anything but a clean exit is raised as it is."""
    out = io.StringIO()
    return dataclasses.replace(goodfit_to(out, *words), out=out.getvalue())


def goodfit_to(out: Any, *words: str | Path) -> Said:
    """Run `goodfit WORDS` with the stream `out` as its stdout."""
    err, code = io.StringIO(), 0
    before, path, hook = sys.argv, list(sys.path), sys.unraisablehook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = ["goodfit", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv, sys.path[:], sys.unraisablehook = before, path, hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Said(code, "", err.getvalue())


def train(data: str | Path, out: str | Path, *more: str | Path, **changes: str) -> Said:
    """Run `goodfit train` with the fast recipe, some of its fields changed."""
    options = [word for key, value in {**FAST, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
    return goodfit("train", data, "--out", out, *options, *more)


def refused(said: Said, code: int, *parts: str) -> None:
    """Check the exit code and that one sentence on stderr has all of `parts`, with no traceback and nothing on stdout."""
    assert (said.code, said.out) == (code, ""), said
    assert "Traceback" not in said.err
    assert said.sentence.startswith("goodfit: ")
    for part in parts:
        assert part in said.sentence, said.sentence


def copied(run: Path, place: Path) -> Path:
    """A copy of a run folder to break."""
    return Path(shutil.copytree(run, place))
