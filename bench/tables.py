"""docs/benchmarks.md from the figures that the benches wrote: `python bench/tables.py` reads every JSON file in bench/results."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "benchmarks.md"
START = """# Benchmarks

Written by `python bench/tables.py` from the JSON files in `bench/results`, which the scripts of `bench/` wrote on the machines named.
Rows for a GPU are missing: none was at hand.
"""


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows])


def mean(rows: list[dict[str, Any]], key: str) -> str:
    """The mean of some percentages, with its standard error where there are several."""
    values = [100 * row[key] for row in rows]
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f} %{error}"


def race(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['seconds']:.0f} s", str(len(row["goodfit"])), mean(row["goodfit"], "test"), mean(row["plain"], "test"),
            f"{row['error_ratio']:.2f}", f"{statistics.fmean(r['startup'] for r in row['goodfit']):.1f} s",
            f"{statistics.fmean(r['seconds'] for r in row['goodfit']):.0f} s", f"{max(r['memory_mb'] for r in row['goodfit']):,.0f} MB",
            f"{statistics.fmean(r['data_share'] for r in row['goodfit']):.1%}".replace("%", " %"), f"`{row['goodfit'][0]['model']}`",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    columns = [
        "budget",
        "seeds",
        "goodfit, test",
        "plain loop, test",
        "error ratio",
        "first step after",
        "in all",
        "memory",
        "waiting for data",
    ]
    return table([*columns, "net"], rows)


def peak(found: dict[str, Any]) -> str:
    rows = [
        [
            f"`{r['model']}`", str(r["batch"]), r["precision"], f"{r['images_per_s']:,.0f}", f"{r['gflops']:,.0f}",
            f"{r['peak_gflops']:,.0f}", f"{r['share']:.0%}".replace("%", " %"),
        ]
        for r in found["rows"]
    ]  # fmt: skip
    return table(["net", "batch", "precision", "images/s", "GFLOP/s", "of its convs alone", "time in convs"], rows)


def ablation(found: dict[str, Any]) -> str:
    rows = [
        [r["name"], f"{r['accuracy']:.1f} %", f"{r['points']:+.1f} ± {r['error']:.1f}" if r["error"] else "", f"{r['time']:.2f}"]
        for r in found["rows"]
    ]
    text = f"{found['epochs']:g} epochs, {found['seeds']} seeds, validation accuracy.\n\n"
    return text + table(["preset fast, but", "accuracy", "points", "time"], rows)


def stream(found: dict[str, Any]) -> str:
    rows = [
        [
            name, f"{row['images']:,}", f"{row['seconds']:,.0f} s", f"{row['images_per_second']:,.0f}", f"{row['peak_rss'] / 1e6:,.0f} MB",
            f"{row['peak_anonymous'] / 1e6:,.0f} MB", f"{row['peak_shards'] / 1e6:,.0f} MB",
        ]
        for name, row in found["phases"].items()
    ]  # fmt: skip
    text = (
        f"{found['images']:,} JPEG images of {found['pixels']} pixels, {found['bytes'] / 1e9:.1f} GB in tar shards, through a cache of"
        f" {found['cache_gb']:g} GB; `{found['model']}` is trained for an epoch. The load of the machine was {found['load']:.0f}.\n\n"
    )
    return text + table(["phase", "images", "time", "images/s", "peak memory", "of it its own", "copies of shards"], rows)


def serve(found: dict[str, Any]) -> str:
    rows = [
        [
            r["server"], str(r["connections"]), f"{r['requests_per_s']:.0f}", f"{r['p50']:.0f} ms", f"{r['p95']:.0f} ms",
            f"{r['p99']:.0f} ms", f"{r['cpu_ms']:.1f} ms",
        ]
        for r in sorted(found["rows"], key=lambda r: r["connections"])
    ]  # fmt: skip
    height, width = found["size"]
    shown = f"`{found['model'].partition(',')[0]})` at {height}x{width} pixels, JPEG photos; medians of turns"
    text = f"{shown}; the load average of the machine, this bench included, was {found['load']:.1f}.\n\n"
    return text + table(["server", "connections", "requests/s", "p50", "p95", "p99", "CPU time a request"], rows)


SECTIONS = {
    "race": ("After so many seconds, cold, against a plain PyTorch loop with ResNet-18", race),
    "peak": ("A training step against the peak of its convs", peak),
    "stream": ("A million images, streamed", stream),
    "serve": ("Predictions over HTTP, against a plain server of ONNX Runtime and Starlette", serve),
    "ablation": ("What each idea is worth on CIFAR-10", ablation),
}


def benchmarks_page() -> str:
    """The page, by the files as they are."""
    text = [START]
    for kind, (title, render) in SECTIONS.items():
        for file in sorted(RESULTS.glob(f"{kind}*.json")):
            found = json.loads(file.read_text())
            about = ", ".join(str(x) for x in (found["machine"], found.get("cores") and f"{found['cores']} cores", found.get("torch")) if x)
            data = f" · {Path(found['data']).name} at {found['side']} pixels" if "side" in found else ""
            text.append(f"## {title}{data}\n\n`bench/{kind}.py`, {about}\n\n{render(found)}\n")
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(benchmarks_page())
