"""How good a classifier is after so many seconds: `goodfit train DATA --budget "T s"` against the plain loop of `plain_loop.py`.

Both are cold processes with nothing cached, and take turns. Ours has all of a training within its seconds (packing, measuring,
evaluation, report), the plain loop none of the evaluation. Both are judged on the test images, which neither has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from goodfit.core.device import cpu_name


def run(cache: Path, *words: str | Path) -> tuple[dict[str, Any], float, float]:
    """What a Python command prints last as JSON, its seconds, and the largest memory that it had, in MB."""
    began = time.perf_counter()
    command = [sys.executable, *map(str, words)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command, env={**os.environ, "GOODFIT_CACHE": str(cache)}, stdout=out, stderr=messages)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        messages.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: {(messages.read().strip() or 'no message').splitlines()[-1]}")
        return json.loads(out.read().strip().splitlines()[-1]), seconds, used.ru_maxrss / 1024


def ours(folder: Path, data: str, seconds: float, seed: int, options: list[str]) -> dict[str, Any]:
    """Train with an empty cache, then open the test images."""
    for path in (folder / "cache", folder / "run"):
        shutil.rmtree(path, ignore_errors=True)
    words = ("-m", "goodfit", "train", data, "--budget", f"{seconds:g} s", "--seed", str(seed), "--out", folder / "run", "--json", *options)
    _, wall, memory = run(folder / "cache", *words)
    tested, _, _ = run(folder / "cache", "-m", "goodfit", "evaluate", folder / "run", "--test", "--json")
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    steps = [row for row in log if row["kind"] == "train"]
    about = json.loads((folder / "run" / "about.json").read_text())
    speed = statistics.median(row["images_per_s"] for row in steps)
    waits = statistics.fmean(row["data_share"] for row in steps)
    startup = about["seconds"]["data"] + about["seconds"]["startup"]
    choices = {choice["field"]: choice["value"] for choice in about["choices"]}
    return {
        "test": tested["accuracy"], "seconds": wall, "images_per_s": speed, "data_share": waits, "startup": startup, "memory_mb": memory,
        "model": choices.get("model", ""), "batch_size": choices.get("batch_size", ""),
    }  # fmt: skip


def plain(folder: Path, data: str, seconds: float, seed: int, side: int) -> dict[str, Any]:
    """Run the plain loop."""
    words = (Path(__file__).with_name("plain_loop.py"), data, f"{seconds:g}", "--seed", str(seed), "--side", str(side))
    found, wall, _ = run(folder / "cache", *words)
    return {"test": found["accuracy"], "seconds": wall, "images_per_s": found["seen"] / found["seconds"]}


def mean_of(rows: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """The mean of a figure and its standard error, which is 0 for a single one."""
    values = [row[key] for row in rows]
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a folder with parquet files or folders of classes, with train and test in it")
    parser.add_argument("--seconds", type=float, nargs="*", default=[60, 180])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--options", default="", help='more of ours, such as "--recipe fast"')
    parser.add_argument("--json", type=Path, help="where to write the figures")
    asked = parser.parse_args()
    options = [*asked.options.split(), *(["--size", str(asked.side)] if asked.side != 32 else [])]
    print(f"{cpu_name()}, {os.cpu_count()} cores", flush=True)
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seconds in asked.seconds:
            rivals: list[dict[str, Any]] = []
            own: list[dict[str, Any]] = []
            for seed in range(asked.seeds):
                rivals.append(plain(folder, asked.data, seconds, seed, asked.side))
                own.append(ours(folder, asked.data, seconds, seed, options))
            (a, a_error), (b, b_error) = mean_of(rivals, "test"), mean_of(own, "test")
            ratio = (1 - b) / (1 - a)
            print(
                f"{seconds:4.0f} s  plain loop {a:6.1%} ± {100 * a_error:.1f} ({mean_of(rivals, 'images_per_s')[0]:,.0f} images/s)"
                f"  goodfit {b:6.1%} ± {100 * b_error:.1f} ({mean_of(own, 'images_per_s')[0]:,.0f} images/s, {own[0]['model']},"
                f" first step after {mean_of(own, 'startup')[0]:.1f} s, {mean_of(own, 'seconds')[0]:.1f} s in all,"
                f" {max(row['memory_mb'] for row in own):,.0f} MB)  error ratio {ratio:.2f}",
                flush=True,
            )
            table.append({"seconds": seconds, "plain": rivals, "goodfit": own, "error_ratio": ratio})
    if asked.json:
        facts = {"machine": cpu_name(), "cores": os.cpu_count(), "data": asked.data, "side": asked.side, "options": asked.options}
        asked.json.write_text(json.dumps({**facts, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
