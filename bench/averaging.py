"""What several processes must send each other: validation accuracy against bytes and messages, by what they average and how often.

For each number of workers and each seed it trains the same network on the same images for as many steps of as many images, with each part
of the kind `sync`; the workers share the images of a step. Accuracy does not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from goodfit.core.device import cpu_name
from goodfit.core.reporter import SilentReporter
from goodfit.core.words import format_bytes
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.runs.launch import joined_ranks
from goodfit.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "averaging.json"
PARTS = ("gradients", "average(4)", "average(16)", "average(64)", "post_local(16)", "elastic(16)")
WORKERS = (2, 4)
RECIPE = {
    "size": "32", "validation": "0.5", "augment": "flip | crop(4)", "optimizer": "sgd(0.1, momentum=0.9, weight_decay=0.0005)",
    "schedule": "warmup(0.1) | cosine", "precision": "fp32", "layout": "channels_last", "threads": "1", "pieces": "1",
    "evaluate_every": "1",
}  # fmt: skip


def measure(asked: argparse.Namespace, out: Path) -> None:
    """Train with each part and seed as one of the ranks of the environment; rank 0 writes the rows after each."""
    rows: list[dict[str, Any]] = []
    with joined_ranks() as ranks:
        for seed in range(asked.seeds):
            for part in PARTS:
                settings = {"data": asked.data, "limit": str(asked.limit), "model": asked.model, "budget": f"{asked.epochs:g} epochs"}
                settings |= {"batch_size": str(asked.batch), "seed": str(seed), "sync": part}
                prepared = prepare(Recipe().but_text({**RECIPE, **settings}), SilentReporter())
                training = prepared.training.among(ranks, prepared.recipe.sync_norms is True)
                state = fit(training.state, training.loader, training.plan)
                if ranks.is_first:
                    rows.append({
                        "sync": part, "seed": seed, "workers": ranks.size, "accuracy": state.history[-1], "bytes": state.bytes_sent,
                        "messages": state.messages, "steps": state.step, "train": len(prepared.data.splits.train),
                        "validation": len(prepared.data.splits.validation), "parameters": sum(p.numel() for p in state.model.parameters()),
                    })  # fmt: skip
                    out.write_text(json.dumps(rows))
                    print(f"  {ranks.size} workers  seed {seed}  {part:16} {100 * state.history[-1]:.1f} %", flush=True)


def run(workers: int, words: list[str], folder: Path) -> list[dict[str, Any]]:
    """The rows that `measure` writes, in so many processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    out, processes = folder / f"{workers}.json", []
    for rank in range(workers):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers, "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}
        environment["OMP_NUM_THREADS"] = "1"
        processes.append(subprocess.Popen([sys.executable, __file__, *words, "--measure", str(out)], env=environment))
    assert all(process.wait() == 0 for process in processes)
    return list(json.loads(out.read_text()))


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each number of workers and each part: the mean accuracy of its seeds with its standard error, and what was sent."""
    table = []
    for workers in WORKERS:
        for part in PARTS:
            found = [row for row in rows if (row["workers"], row["sync"]) == (workers, part)]
            accuracies = [row["accuracy"] for row in found]
            error = statistics.stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else None
            of_first = {key: found[0][key] for key in ("workers", "sync", "bytes", "messages", "steps")}
            table.append({**of_first, "accuracy": statistics.fmean(accuracies), "error": error})
    return table


def print_table(rows: list[dict[str, Any]], images: int) -> None:
    """Print the rows as a Markdown table; `images` is how many the workers see in all."""
    print("| workers | sync | validation accuracy | sent by each | messages | bytes an image, in all |\n|---|---|---|---|---|---|")
    for row in rows:
        error = f" ± {100 * row['error']:.1f}" if row["error"] is not None else ""
        per_image = row["bytes"] * row["workers"] / images
        cells = [row["workers"], f"`{row['sync']}`", f"{100 * row['accuracy']:.1f} %{error}", format_bytes(row["bytes"])]
        print("| " + " | ".join(map(str, [*cells, f"{row['messages']:,}", f"{per_image:,.0f}"])) + " |")


def main() -> None:
    """Run all, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as goodfit train takes it")
    parser.add_argument("--model", default="convnet(8)")
    parser.add_argument("--limit", type=int, default=1000, help="images a class, of which half are for validation")
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked, asked.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for workers in WORKERS for row in run(workers, sys.argv[1:], Path(folder))]
    of_all = {key: rows[0][key] for key in ("train", "validation", "parameters")}
    print(f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}; {asked.model}, {of_all['parameters']:,} parameters;", end=" ")
    print(f"{of_all['train']:,} images, {asked.epochs:g} epochs, {asked.batch} images a step; {of_all['validation']:,} for validation\n")
    table = summarize(rows)
    print_table(table, round(asked.epochs * of_all["train"]))
    about = {"machine": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__, "model": asked.model, "epochs": asked.epochs}
    about |= {**of_all, "batch": asked.batch, "seeds": asked.seeds, "rows": table}
    asked.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
