"""The watchdog of a training in several processes: it names the rank that the others wait for, and where that is, and ends the wait."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from goodfit.core.errors import GoodfitError
from goodfit.core.launched import EXPLAINED, claim_explanation
from goodfit.core.ranks import Ranks
from goodfit.core.words import format_duration

PACKAGE = Path(__file__).parents[1]
MAX_BEAT_SECONDS = 2.0  # between two signs of life
ENDED = "ended by the watchdog"
SILENT_BEATS = 3  # without a sign of life, after which a rank is stopped or gone


class Watchdog(threading.Thread):
    """Leaves where this rank is in the store every few seconds; ends the process where a collective waits for longer than `limit` seconds.

    It also stops the training where our launcher was killed.
    """

    def __init__(self, ranks: Ranks, limit: float) -> None:
        super().__init__(name="goodfit-watchdog", daemon=True)
        store: Any = ranks.store
        self.ranks, self.limit, self.store = ranks, limit, store.clone()  # a connection of its own: one call does not wait for another
        self.beat_seconds = min(MAX_BEAT_SECONDS, limit / 4)
        self.ended, self.main, self.parent, self.beats = threading.Event(), threading.main_thread().ident, os.getppid(), 0

    def run(self) -> None:
        while not self.ended.wait(self.beat_seconds):
            try:
                self._beat()
                if self.store.check([ENDED]):
                    os._exit(GoodfitError.exit_code)
                since = self.ranks.wait.since
                if since is not None and time.monotonic() - since > self.limit:
                    self._end_wait(since)
            except RuntimeError:  # the store is gone, and rank 0 with it: the collectives fail by themselves
                return
            if EXPLAINED in os.environ and os.getppid() != self.parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def stop(self) -> None:
        """End the watch, before the process leaves the others."""
        self.ended.set()
        self.join()

    def _beat(self) -> None:
        self.beats += 1
        place = describe_place(sys._current_frames().get(self.main or 0))
        sign = {"beat": self.beats, "waits": self.ranks.wait.since is not None, "place": place, "process": os.getpid()}
        self.store.set(f"place/{self.ranks.rank}", json.dumps(sign))

    def _read(self) -> list[dict[str, Any]]:
        keys = [f"place/{rank}" for rank in range(self.ranks.size)]
        return [json.loads(self.store.get(key)) if self.store.check([key]) else {"beat": 0, "waits": False, "place": ""} for key in keys]

    def _end_wait(self, since: float) -> None:
        """End the process with a sentence, unless the wait is over meanwhile."""
        before = self._read()
        for _ in range(SILENT_BEATS):
            time.sleep(self.beat_seconds)
            self._beat()
        now = self._read()
        if self.ranks.wait.since != since:
            return
        error = GoodfitError(describe_wait(before, now, self.limit))
        if claim_explanation(error):
            os.write(2, f"goodfit: {error}\n".encode())
        self.store.set(ENDED, "")
        time.sleep(2 * self.beat_seconds)  # until those who hang have read it
        os._exit(error.exit_code)


def describe_wait(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]], limit: float) -> str:
    """The sentence that names the ranks the others wait for, by the signs of life of all ranks, some seconds apart."""
    names = []
    for rank, (earlier, later) in enumerate(zip(before, now, strict=True)):
        place = f" in {later['place']}" if later["place"] else ""
        if earlier["beat"] == later["beat"]:
            names.append(f"rank {rank} (process {later.get('process', 'unknown')}), which gives no sign of life; it was last seen{place}")
        elif not later["waits"]:
            names.append(f"rank {rank} (process {later['process']}), which is{place}")
    if not names:
        names = ["each other: " + ", ".join(f"rank {rank} in {sign['place']}" for rank, sign in enumerate(now))]
    return (
        f"The processes of this training have waited for {format_duration(limit)} for {' and '.join(names)}. What was saved is kept, and"
        " the same command with --resume auto continues; GOODFIT_STEP_TIMEOUT sets the seconds to wait."
    )


def describe_place(frame: FrameType | None) -> str:
    """Where the code of this package or of the user is: the innermost line that is in no installed package, and its function."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE).as_posix()}, line {frame.f_lineno} ({frame.f_code.co_name})"
        if "site-packages" not in path.parts and path.is_file() and not path.is_relative_to(sys.base_prefix):
            return f"{path.name}, line {frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return ""
