"""Time from opening the board of many long runs in a browser to its first paint, and the memory of its server: python bench/board.py"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from goodfit.core.device import cpu_name
from goodfit.core.run import Run

GOAL_SECONDS, GOAL_MB = 1.5, 300  # first paint with the list of runs, and the server's memory, whatever was looked at
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SLOW_FRAME_MS = 34  # two frames of a screen at 60 Hz
# Scrolls down the list of runs, 60 pixels a frame, and tells the milliseconds from each frame to the next.
SCROLL = """() => new Promise((done) => {
  const gaps = []; let last = 0;
  const step = (now) => {
    if (last) gaps.push(now - last);
    last = now; scrollBy(0, 60);
    gaps.length < 120 ? requestAnimationFrame(step) : done(gaps);
  };
  requestAnimationFrame(step);
})"""
CLASSES = [f"class {k}" for k in range(10)]
RECIPE = 'data = "photos"\nmodel = "resnet(18)"\noptimizer = "sgd(0.1, momentum=0.9)"\nbatch_size = 128\nseed = {seed}\n'


def log_rows(points: int, seed: int) -> list[dict[str, Any]]:
    """A training of so many logged steps, with an evaluation every hundredth."""
    draw, rows = random.Random(seed), []
    for step in range(1, points + 1):
        t = step / points
        layers = {f"stage{k}.conv.weight": round(1e-3 * math.exp(draw.gauss(0, 0.3)), 9) for k in range(6)}
        row = {"kind": "train", "step": step, "t": t, "epoch": (step - 1) // 100, "lr": 0.1 * (1 - t), "elapsed": 0.05 * step}
        row |= {"loss": 0.3 + 2 * math.exp(-5 * t) + draw.gauss(0, 0.05), "accuracy": 0.9 - 0.8 * math.exp(-5 * t)}
        row |= {"grad_norm": math.exp(draw.gauss(0, 0.4)), "images_per_s": draw.gauss(3000, 90), "data_share": 0.04}
        rows.append(row | ({} if step % 10 else {"update_ratio": layers}))
        if not step % 100:
            scores = {"loss": 0.4 + 2 * math.exp(-5 * t), "accuracy": 0.85 - 0.7 * math.exp(-5 * t)}
            rows.append({"kind": "evaluate", "step": step, "t": t, "elapsed": 0.05 * step, "validation": scores, "clean_train": scores})
    return rows


def make_run(folder: Path, seed: int, points: int) -> None:
    """A finished run with the files that the board reads."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(seed=seed))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log_rows(points, seed)))
    run, accuracy = Run(folder), 0.8 + seed % 10 / 100
    started = f"2026-{1 + seed // 28 % 12:02}-{1 + seed % 28:02}T10:00:00"
    seconds = {"startup": 2.0, "training": 400.0, "evaluation": 30.0}
    about = {"state": "finished", "started": started, "seconds": seconds, "parameters": 11_000_000}
    run.write("about.json", {**about, "data": {"name": "photos", "classes": CLASSES}})
    classes = [{"name": name, "images": 100, "accuracy": accuracy} for name in CLASSES]
    confusion = [[80 if i == k else 2 for i in range(10)] for k in range(10)]
    validation = {
        "accuracy": accuracy,
        "interval": [accuracy - 0.02, accuracy + 0.02],
        "images": 1000,
        "classes": classes,
        "confusion": confusion,
    }
    run.write("scores.json", {"validation": validation})


def measure(page: Page, url: str, memory: psutil.Process) -> dict[str, float]:
    """Milliseconds from the start of the navigation, by the browser's clock, and the server's megabytes after each view."""
    page.goto(url)
    marks = "['first-contentful-paint', 'board-shown'].map((name) => performance.getEntriesByName(name)[0]?.startTime)"
    page.wait_for_function(f"() => {marks}.every((time) => time > 0)")
    paint, shown = page.evaluate(f"() => {marks}")
    page.wait_for_function("() => document.querySelectorAll('.plot canvas').length >= 2")
    curves = page.evaluate("() => performance.now()")
    frames = page.evaluate(SCROLL)
    boxes = page.get_by_role("checkbox", name=re.compile("Show the curves of"))
    for k in range(18):
        boxes.nth(k).set_checked(True)
    page.wait_for_timeout(4000)
    after_curves = memory.memory_info().rss / 1e6
    page.evaluate("() => { location.hash = '#/run/run-007'; }")
    page.wait_for_selector(".piece")
    return {
        "paint_ms": paint, "list_ms": shown, "curves_ms": curves, "memory_mb": max(after_curves, memory.memory_info().rss / 1e6),
        "frame_ms": statistics.median(frames), "slow_frames_percent": 100 * sum(frame > SLOW_FRAME_MS for frame in frames) / len(frames),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=10_000, help="logged steps of each run")
    parser.add_argument("--repeats", type=int, default=5, help="times the page is opened, each by a new browser")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"Expected one of {', '.join(BROWSERS)} on the PATH, found none.")
    with tempfile.TemporaryDirectory() as home:
        root = Path(home) / "runs"
        for seed in range(given.runs):
            make_run(root / f"run-{seed:03}", seed, given.points)
        size = sum(file.stat().st_size for file in root.rglob("log.jsonl"))
        about = {
            "machine": cpu_name(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "runs": given.runs,
            "points": given.points, "log_gb": round(size / 1e9, 2),
        }  # fmt: skip
        print(json.dumps(about))
        began = time.perf_counter()
        server = subprocess.Popen([sys.executable, "-m", "goodfit", "board", str(root), "--port", "0"], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        rows, process = [], psutil.Process(server.pid)
        about |= {"start_s": round(time.perf_counter() - began, 2), "memory_at_start_mb": round(process.memory_info().rss / 1e6)}
        try:
            for _ in range(given.repeats):
                with sync_playwright() as api:
                    opened = api.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                    rows.append(measure(opened.new_page(viewport={"width": 1440, "height": 900}), found[0], process))
                    opened.close()
                print(json.dumps(rows[-1]))
        finally:
            server.terminate()
            server.wait()
    middle = {key: round(statistics.median(row[key] for row in rows)) for key in rows[0]}
    worst = {key: round(max(row[key] for row in rows)) for key in rows[0]}
    print(f"first paint {middle['paint_ms']} ms, list {middle['list_ms']} ms (goal {1000 * GOAL_SECONDS:.0f} ms),", end=" ")
    print(f"memory {worst['memory_mb']} MB (goal {GOAL_MB} MB),", end=" ")
    print(f"scrolling {middle['frame_ms']} ms a frame, {middle['slow_frames_percent']} % of them over {SLOW_FRAME_MS} ms")
    if given.json:
        given.json.write_text(json.dumps({**about, "median": middle, "worst": worst, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
