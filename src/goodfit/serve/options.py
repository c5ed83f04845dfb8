"""How `goodfit serve` serves: address, batches and limits; and the token that lets requests in."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Literal

from goodfit.core.errors import UsageError

Engine = Literal["torch", "onnx"]
TOKEN_VARIABLE = "GOODFIT_TOKEN"  # of the environment
MIN_TOKEN_CHARACTERS = 16
MAX_LATENCY = 10.0  # seconds
RECEIVED_REQUESTS = 16  # of the largest size that may be in memory at a time


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """Options of `goodfit serve`.

    Attributes
    ----------
    host
        The address to listen at. Any but this machine's own (127.0.0.1, ::1, localhost) needs a token.
    port
        The port; 0 takes a free one.
    token_file
        A file with the token that requests must send as "Authorization: Bearer TOKEN". Without it, it is $GOODFIT_TOKEN if that is set.
    engine
        What computes: torch, or onnx for ONNX Runtime (on the CPU; extra export).
    batch
        The most images that are computed together: 8 suits a CPU, where more take as long each; 32 or more a GPU.
    latency
        The longest that an image waits for others that are still being decoded, such as 10ms; it never waits for requests to come.
    queue
        The most images under way; requests beyond are told to come back (503).
    max_bytes
        The most bytes of one request; larger ones are refused (413).
    max_pixels
        The most pixels of one image, by its header; larger ones are not decoded.
    views
        Views of each image whose answers are averaged, in place of the run's own, such as flip_pair or "ten_crop((224, 256))".
    reject_below
        Mark answers whose likeliest class has a lower probability as rejected, as for predict.
    device
        auto, cpu, cuda, ...
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    engine: Engine = "torch"
    batch: int = 8
    latency: str = "10ms"
    queue: int = 256
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    views: str = ""
    reject_below: float = 0.0
    device: str = "auto"

    def check(self) -> None:
        """Refuse numbers that are none.

        Raises:
            UsageError: one is.
        """
        for name in ("batch", "queue", "max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise UsageError(f"Expected --{name.replace('_', '-')} to be 1 or more, received {getattr(self, name)}.")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"Expected --port to be from 0 to 65535, received {self.port}.")
        if self.engine == "onnx" and self.device not in ("auto", "cpu"):
            raise UsageError(f'--engine onnx computes on the CPU, received --device "{self.device}": leave it out.')
        _ = self.latency_seconds

    @property
    def latency_seconds(self) -> float:
        """The latency bound.

        Raises:
            UsageError: it is no duration.
        """
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(ms|s)", self.latency.strip())
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else math.inf
        if seconds > MAX_LATENCY:
            raise UsageError(f'Expected --latency to be a duration up to {MAX_LATENCY:g}s, such as 10ms, received "{self.latency}".')
        return seconds

    @property
    def max_received_bytes(self) -> int:
        """The most bytes of all requests under way."""
        return RECEIVED_REQUESTS * self.max_bytes


def read_token(file: Path | None) -> str:
    """Read the token from a file, else from the environment; empty where there is none. No message ever contains it.

    Raises:
        UsageError: the file does not read, or the token is too short or not of letters, digits and punctuation.
    """
    where = f'"{file}"' if file else f"${TOKEN_VARIABLE}"
    try:
        token = file.read_text(encoding="utf-8").strip() if file else os.environ.get(TOKEN_VARIABLE, "").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"The token in {where} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}.") from error
    if (file or token) and not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},}}", token):
        raise UsageError(
            f"Expected a token of {MIN_TOKEN_CHARACTERS} or more letters, digits and punctuation marks in {where}, found another:"
            f' "openssl rand -hex 32" makes one.'
        )
    return token
