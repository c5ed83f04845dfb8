"""The test split of a run: each opening is logged in its folder, and every one after the first is warned of."""

from __future__ import annotations

import psutil

from goodfit.core.run import Run
from goodfit.core.words import count
from goodfit.runs.start import now
from goodfit.terminal.reporter import Voice


def open_test(run: Run, voice: Voice) -> None:
    """Log that the test split is opened; warn from the second time on."""
    openings = run.read("about.json").get("openings", [])
    if openings:
        voice.say(
            f"Warning: the test split of this run was opened {count(len(openings), 'time')} before,"
            f" first {openings[0]['time']}; choosing by it makes it a second validation split."
        )
    command = " ".join(psutil.Process().cmdline()[1:])
    run.update("about.json", {"openings": [*openings, {"time": now(), "command": command}]})
