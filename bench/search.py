"""Search: random against grid, coarse to fine against plain random, each at equal compute; trials an hour with two workers against one.

Every repeat is four searches by `goodfit search`'s own methods, over log learning rate and log weight decay, whose small trainings run in
this process; the random one of 9 trials is the first 9 of the longer. The four of a repeat share their seed, and so first weights and
batches; the box moves from repeat to repeat, so that it is not one lucky or unlucky place of the grid's few values that decides. The best
trial is chosen by validation; its accuracy on the test images, which chose nothing, is shown too. Intervals are Student's over repeats.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scipy.stats
import torch

from goodfit.core.catalog import Catalog
from goodfit.core.device import cpu_name, physical_cores
from goodfit.data.dataset import Dataset
from goodfit.recipe.build import build
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.begin import begin_search
from goodfit.study.search.plan import Method, SearchPlan
from goodfit.study.search.search import Search, work_on
from goodfit.training.loop import fit

GOAL = 1.6  # times the trials an hour, with two workers on two cores
RATES, DECAYS = (1e-4, 10.0), (1e-6, 1.0)
BASE = {
    "optimizer": "sgd(0.05, momentum=0.9, nesterov=True)", "schedule": "warmup(0.1) | cosine", "augment": "flip | crop(2, border=reflect)",
    "validation": "0.5", "batch_size": "64", "precision": "fp32", "pieces": "1", "probes": "none", "workers": "0", "threads": "1",
    "evaluate_every": "1.0", "save_every": "1 h",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Best:
    """The best of some trials: its accuracy on the validation images, which chose it, and on the test images."""

    validation: float
    test: float


@dataclasses.dataclass
class Trainer:
    """Trains in this process, on data that is opened once; remembers test accuracy by the folder that a trial would have had."""

    data: Dataset
    catalog: Catalog
    tests: dict[Path, float] = dataclasses.field(default_factory=dict)

    def __call__(self, recipe: Recipe, out: Path) -> float:
        """The validation accuracy at the end of a training; raises Diverged as any does, which the search takes for 0."""
        self.tests[out] = 0.0
        built = build(recipe, make_parts(recipe, self.catalog), self.data)
        state = fit(built.state, built.loader, built.plan)
        self.tests[out] = built.evaluator(state.eval_model, self.data.rows("test")).accuracy
        return state.history[-1]

    def best(self, search: Search, first: int = 0) -> Best:
        """The best trial of a search, or of its first few."""
        row = next(row for row in search.rank() if row.place < first or not first)
        return Best(float(row.value or 0.0), self.tests[search.folder / row.folder])


# ---- (a) and (b) -----------------------------------------------------------------------------------------------------------------


def repeat(place: int, base: Recipe, trainer: Trainer, arguments: argparse.Namespace, folder: Path) -> dict[str, Best]:
    """The best of each method with the seed and the box of a repeat."""
    rng = random.Random(place)
    space = {}
    for key, (low, high) in (("lr", arguments.rates), ("optimizer.weight_decay", arguments.decays)):
        factor = (high / low) ** (arguments.shift * rng.uniform(-0.5, 0.5) / math.sqrt(arguments.few))  # a grid's cell is 1 / sqrt(few)
        space[key] = f"log({low * factor:.6g}, {high * factor:.6g})"
    length, recipe = f"{arguments.steps} steps", base.but(seed=place)

    def searched(method: Method, trials: int) -> Search:
        plan = SearchPlan(space, method, trials, length, length, keep=0, seed=place)
        search = begin_search(folder / f"{method}-{place}", plan, recipe)
        work_on(search, trainer)
        return search

    plain = searched("random", max(arguments.few, arguments.many))
    return {
        "grid": trainer.best(searched("grid", arguments.few)),
        "random": trainer.best(plain, arguments.few),
        "longer": trainer.best(plain, arguments.many),
        "fine": trainer.best(searched("fine", arguments.many)),
    }


def interval(values: list[float]) -> float:
    """Half the width of the 95 % interval of the mean."""
    n = len(values)
    return float(scipy.stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan


def table(found: list[dict[str, Best]], one: str, other: str, names: dict[str, str]) -> str:
    """Two methods and the difference between them, repeat by repeat."""
    lines = [f"  {'':34} {'validation':>17} {'test of that trial':>21}"]
    for key in (one, other):
        columns = [[getattr(row[key], field) for row in found] for field in ("validation", "test")]
        cells = [f"{statistics.fmean(x):8.2%} ± {interval(x):6.2%}" for x in columns]
        lines.append(f"  {names[key]:34} {cells[0]:>17} {cells[1]:>21}")
    gains = [[100 * (getattr(row[one], field) - getattr(row[other], field)) for row in found] for field in ("validation", "test")]
    cells = [f"{statistics.fmean(x):+8.2f} ± {interval(x):6.2f}" for x in gains]
    wins, losses = (sum(sign * x > 0 for x in gains[0]) for sign in (1, -1))
    return "\n".join([*lines, f"  {'difference, points, paired':34} {cells[0]:>17} {cells[1]:>21}   better {wins}, worse {losses}"])


# ---- (c) -------------------------------------------------------------------------------------------------------------------------


def rates(workers: int, arguments: argparse.Namespace, out: Path) -> tuple[float, float]:
    """Trials an hour of one `goodfit search`: by the whole command, and from the first trial's beginning to the last one's end."""
    length = f"{arguments.long} steps"
    options = {
        "space": "lr=log(0.003, 0.1)", "method": "random", "trials": arguments.trials, "each": length, "full": length, "keep": 0,
        "workers": workers, "out": out, "model": arguments.model, "size": arguments.size, "limit": arguments.limit, "threads": 1,
        "batch-size": BASE["batch_size"], "optimizer": BASE["optimizer"], "validation": BASE["validation"],
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "goodfit", "search", arguments.data, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    search = Search(out) if done.returncode == 0 else None
    if search is None or len(search.rank()) < arguments.trials:
        raise SystemExit(f"the search did not do its {arguments.trials} trials:\n{done.stderr}")
    spans = [(x["began"], x["began"] + x["seconds"]) for x in (trial.user_attrs for trial in search.trials.study.get_trials())]
    busy = max(end for _, end in spans) - min(start for start, _ in spans)
    return 3600 * arguments.trials / seconds, 3600 * arguments.trials / busy


def throughput(arguments: argparse.Namespace, folder: Path) -> str:
    """One worker and two in turns, so that a drift of the machine touches both."""
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(arguments.turns):
        for workers, rows in found.items():
            rows.append(rates(workers, arguments, folder / f"{workers}-{turn}"))
    lines = [f"  {'workers':24} {'whole command':>16} {'while at work':>16}   trials an hour, mean of {arguments.turns}"]
    for workers, rows in found.items():
        lines.append(f"  {workers:<24}" + "".join(f" {statistics.fmean(column):16,.0f}" for column in zip(*rows, strict=True)))
    ratios = [[two[i] / one[i] for one, two in zip(found[1], found[2], strict=True)] for i in range(2)]
    cells = "".join(f" {f'{statistics.fmean(x):.2f} ({min(x):.2f}-{max(x):.2f})':>16}" for x in ratios)
    return "\n".join([*lines, f"  {'ratio (goal at least ' + str(GOAL) + ')':24}{cells}"])


# ---- all -------------------------------------------------------------------------------------------------------------------------


def read() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as for goodfit train; with test images")
    parser.add_argument("--repeats", type=int, default=20, help="0 leaves the searches at equal compute out")
    parser.add_argument("--few", type=int, default=9, help="trials of random against grid")
    parser.add_argument("--many", type=int, default=24, help="trials of coarse to fine, half of them each, against random")
    parser.add_argument("--steps", type=int, default=100, help="length of those trainings")
    parser.add_argument("--rates", type=float, nargs=2, default=RATES, metavar=("LOW", "HIGH"), help="the box: learning rates")
    parser.add_argument("--decays", type=float, nargs=2, default=DECAYS, metavar=("LOW", "HIGH"), help="and weight decays")
    parser.add_argument("--shift", type=float, default=1.0, help="how far the box moves between repeats, in cells of the grid; 0: not")
    parser.add_argument("--model", default="convnet(8, act=gelu)")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--limit", type=int, default=300, help="images per class and split; half of those to train on validate")
    parser.add_argument("--turns", type=int, default=2, help="of one worker and of two; 0 leaves throughput out")
    parser.add_argument("--trials", type=int, default=20, help="of each such search")
    parser.add_argument("--long", type=int, default=600, help="steps of each such trial")
    parser.add_argument("--json", type=Path, help="also write the best of every repeat to this file")
    parser.add_argument("--quick", action="store_true", help="only a check that all of it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.many, arguments.steps, arguments.limit = 2, 12, 4, 40
        arguments.turns, arguments.trials, arguments.long = min(1, arguments.turns), 2, 10
    return arguments


def main() -> None:
    """Search again and again, and print the tables."""
    arguments = read()
    asked = Recipe(
        data=arguments.data, limit=arguments.limit, size=arguments.size, model=arguments.model, budget=f"{arguments.steps} steps"
    )
    prepared = prepare(asked.but_text(BASE))
    base, data = prepared.recipe, prepared.data
    base, data = prepared.recipe, prepared.data
    counts = ", ".join(f"{len(data.rows(split)):,} {split}" for split in ("train", "validation", "test"))
    print(f"{data.name}: {counts} images, {arguments.model} at {arguments.size} pixels, {arguments.steps} steps of {base.batch_size}")
    print(f"1 thread, torch {torch.__version__}, {physical_cores()} of {os.cpu_count()} cores of {cpu_name()}", flush=True)
    trainer, found, began = Trainer(data, load_catalog()), [], time.perf_counter()
    few, many = arguments.few, arguments.many
    coarse = math.ceil(many / 2)
    names = {
        "grid": f"grid, {few} trials",
        "random": f"random, {few} trials",
        "longer": f"random, {many} trials",
        "fine": f"coarse to fine, {coarse} + {many - coarse} trials",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place in range(arguments.repeats):
            found.append(repeat(place, base, trainer, arguments, folder))
            said = "  ".join(f"{names[key]} {best.validation:.2%}" for key, best in found[-1].items())
            print(f"  repeat {place:2d}: {said}", file=sys.stderr, flush=True)
        if found:
            seconds = time.perf_counter() - began
            title = f"best of a search, mean of {arguments.repeats} repeats with 95 % intervals"
            print(f"\nrandom against grid: {title}\n{table(found, 'random', 'grid', names)}")
            print(f"\ncoarse to fine against random: {title}\n{table(found, 'fine', 'longer', names)}")
            print(f"\n{len(trainer.tests):,} trainings in {seconds:.0f} s: {seconds / len(trainer.tests):.2f} s each", flush=True)
        if arguments.json:
            rows = [{names[key]: dataclasses.asdict(best) for key, best in row.items()} for row in found]
            arguments.json.write_text(json.dumps(rows, indent=1))
        if arguments.turns:
            print(f"\ngoodfit search, {arguments.trials} trials of {arguments.long} steps, 1 thread each, {physical_cores()} cores")
            print(throughput(arguments, folder))


if __name__ == "__main__":
    main()
