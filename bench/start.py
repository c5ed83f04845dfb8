"""From the command to the first step: the first start packs the images, the second finds them packed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from goodfit.core.device import cpu_name
from goodfit.core.run import Run


def first_step(data: str, options: list[str], out: Path, cache: Path) -> float:
    """Seconds from the start of the process to the end of its first training step, import included."""
    words = [sys.executable, "-m", "goodfit", "train", data, "--out", str(out), "--budget", "3 steps", *options]
    subprocess.run(words, check=True, env={**os.environ, "GOODFIT_CACHE": str(cache)}, stderr=subprocess.DEVNULL)
    return float(Run(out).log("train")[0]["elapsed"])


def main() -> None:
    """Start several times in a cache of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="as for goodfit train")
    parser.add_argument("--size", default="64")
    parser.add_argument("--again", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = [
            first_step(arguments.data, ["--size", arguments.size], folder / str(i), folder / "cache") for i in range(arguments.again + 1)
        ]
    print(f"{Path(arguments.data).name} at {arguments.size} pixels, on {cpu_name()}")
    print(f"first start:  first step done after {seconds[0]:.1f} s")
    print(f"later starts: {', '.join(f'{s:.1f}' for s in seconds[1:])} s (goal within 4 s)")


if __name__ == "__main__":
    main()
