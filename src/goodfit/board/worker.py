"""What takes torch, in a process of its own that starts when it is first needed: the board itself stays small and always answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.trust import current_trust, known_code_environment

JOB_SECONDS = 180.0  # that a job may take; opening the images of a run can take a while
IDLE_SECONDS = 600.0  # without a job, after which the process ends
MAX_WAITING = 32  # jobs
MODULE = "goodfit.board.work"
BYTES_KEY = "content"  # of the one value of a job that is bytes


class Worker:
    """Sends jobs to the process, one at a time, as lines of JSON."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._end: asyncio.TimerHandle | None = None

    async def call(self, function: str, given: Mapping[str, Any]) -> Any:
        """The result of a function of `goodfit.board.work`.

        Raises:
            UsageError: too many jobs wait, or what was given is wrong.
            GoodfitError: the job failed, or took too long.
        """
        if self._waiting >= MAX_WAITING:
            raise GoodfitError("Too many questions wait for an answer: ask again in a moment.")
        self._waiting += 1
        try:
            async with self._lock:
                return await self._call(function, given)
        finally:
            self._waiting -= 1

    async def _call(self, function: str, given: Mapping[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        if self._end:
            self._end.cancel()
        job = {key: base64.b64encode(value).decode() if key == BYTES_KEY else value for key, value in given.items()}
        line = json.dumps({"function": function, "given": job}).encode() + b"\n"
        try:
            async with asyncio.timeout(JOB_SECONDS):
                reply = await asyncio.to_thread(self._exchange, line)
        except TimeoutError:
            await asyncio.to_thread(self.stop)
            raise GoodfitError(f"The answer took more than {JOB_SECONDS:.0f} seconds, so it was given up.") from None
        except asyncio.CancelledError:
            self._kill()  # whoever asked is gone, and the next must not read this answer
            raise
        self._end = loop.call_later(IDLE_SECONDS, self._kill)
        content = json.loads(reply) if reply else {"error": "The process that computes answers has ended; ask again.", "is_usage": False}
        if "error" in content:
            raise (UsageError if content["is_usage"] else GoodfitError)(content["error"])
        return content["result"]

    def _exchange(self, line: bytes) -> bytes:
        """Send a line and read one; empty where the process has ended."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = start_process()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return b""

    def _kill(self) -> None:
        if self._process:
            self._process.kill()

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream:
                        stream.close()


def start_process() -> subprocess.Popen[bytes]:
    """Start the process, which trusts what this one trusts, with its messages left out."""
    trust = current_trust()
    words = json.dumps({"allows_classes": trust.allows_classes, "packages": sorted(trust.packages)})
    environment = {**os.environ, **known_code_environment()}
    command = [sys.executable, "-m", MODULE, words]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
