"""From the command to its first sign, to a refusal, to the first step, and what the commands that need no torch take."""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from goodfit.core.device import cpu_name
from goodfit.core.run import Run

INSTANT = (("--help",), ("train", "--help"), ("parts",), ("runs", "."))  # commands that need no torch
REFUSED = (("train", "none-of-this"), ("train", "digits", "--model", "resnt(18)"), ("train", "digits", "--modl", "mlp"))


def first_step(data: str, options: list[str], out: Path, cache: Path) -> float:
    """Seconds from the start of the process to the end of its first training step, import included."""
    words = [sys.executable, "-m", "goodfit", "train", data, "--out", str(out), "--budget", "3 steps", *options]
    environment = {**os.environ, "GOODFIT_CACHE": str(cache)}
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return float(Run(out).log("train")[0]["elapsed"])


def first_sign(*words: str) -> float:
    """Seconds until a command writes something on a terminal; it is ended there."""
    head, tail = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "goodfit", *words], stdout=subprocess.DEVNULL, stderr=tail)
    os.read(head, 1)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    os.close(head)
    os.close(tail)
    return seconds


def whole(*words: str) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "goodfit", *words], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Start several times, in a cache of its own; the first start packs the images, the others find them packed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="digits", help="as for goodfit train")
    parser.add_argument("--size", default="64")
    parser.add_argument("--again", type=int, default=3)
    arguments = parser.parse_args()
    print(f"on {cpu_name()}, the fastest of {arguments.again}")
    print(f"first sign:   {min(first_sign('train', arguments.data, '--dry') for _ in range(arguments.again)):.2f} s (goal within 0.3 s)")
    for what, commands in (("refused", REFUSED), ("answered", INSTANT)):
        for words in commands:
            print(f"{what + ':':13} {min(whole(*words) for _ in range(arguments.again)):.2f} s  goodfit {' '.join(words)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--size", arguments.size]
        seconds = [first_step(arguments.data, options, folder / str(i), folder / "cache") for i in range(arguments.again + 1)]
    print(f"first step of {Path(arguments.data).name} at {arguments.size} pixels: {seconds[0]:.1f} s,")
    print(f"once it is packed: {', '.join(f'{s:.1f}' for s in seconds[1:])} s (goal within 4 s)")


if __name__ == "__main__":
    main()
