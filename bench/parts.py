"""One small net trained with each activation, initialization, norm, noise, loss, optimizer, schedule, average, ... of the catalog in turn.

A part that does not train is shown as such, and the exit code is then 1. Optimizers that need a full batch get a net they can hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
import traceback
from typing import Any

import torch

from goodfit.core.catalog import Catalog
from goodfit.core.device import configure_torch, cpu_name
from goodfit.core.errors import UsageError
from goodfit.core.parts import Part, Pipe, spell
from goodfit.core.reporter import SilentReporter
from goodfit.core.settings import INVALID, convert, settings_of
from goodfit.data.dataset import Dataset
from goodfit.recipe.build import build
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.prepare import open_recipe
from goodfit.recipe.recipe import Recipe
from goodfit.training import loop
from goodfit.training.metric_log import MetricLog

KINDS = ("activation", "init", "norm", "noise", "pool", "loss", "penalty", "optimizer", "schedule", "average", "plateau")
NET = "convnet(8, act=gelu)"
SMOOTH_NET = "convnet(2, act=gelu, norm=layer)"  # few enough weights for a Hessian, and no batch statistics
FEWER = 10  # a full-batch step passes over all images several times, so there are that many times fewer
LAST = 10  # steps whose mean loss is shown


@dataclasses.dataclass(frozen=True)
class Result:
    """What a training came to; `crash` is the error of one that did not end."""

    loss: float = float("nan")
    accuracy: float = float("nan")
    milliseconds: float = float("nan")
    steps: int = 0
    note: str = ""
    crash: str = ""


def with_part(recipe: Recipe, part: Part, catalog: Catalog, steps: int) -> Recipe:
    """The recipe with a part in its seat, or in the setting of the net that takes its kind."""
    if any(s.name == part.kind and convert(part, s.hint) is not INVALID for s in settings_of(Recipe)):
        recipe = recipe.but(**{part.kind: part})
        if getattr(part, "full_batch", False):
            fewer = f"{max(2, steps // FEWER)} steps"
            recipe = recipe.but(model=SMOOTH_NET, augment="none", batch_size="all", schedule="constant", budget=fewer)
        return recipe
    net: Any = catalog.make(recipe.model, "model")
    slot = next((s.name for s in settings_of(type(net)) if s.kind == part.kind), "")
    if not slot:
        raise UsageError(f"Nothing in the recipe or in {NET} takes a part of the kind {part.kind}.")
    return recipe.but(model=dataclasses.replace(net, **{slot: part}))


def train(recipe: Recipe, part: Part, data: Dataset, catalog: Catalog, steps: int) -> Result:
    """Build and fit; any error becomes a row, for the other parts are still to come."""
    rows: list[dict[str, Any]] = []
    try:
        recipe = with_part(recipe, part, catalog, steps)
        parts = make_parts(recipe, catalog)
        plain = {**parts, "penalty": Pipe(), "average": catalog.make("none", "average")}
        # Some penalties and averages need pretrained weights: those of the seed take their place.
        pretrained = build(recipe, plain, data).state.model if part.kind in ("penalty", "average") else None
        built = build(recipe, parts, data, pretrained)
        state = loop.fit(built.state, built.loader, built.plan, built.watch, MetricLog((rows.extend,)))
    except Exception as error:
        traceback.print_exc()
        return Result(crash=f"{type(error).__name__}: {error}")
    trained = [row for row in rows if row["kind"] == "train"]
    return Result(
        statistics.fmean(row["loss"] for row in trained[-LAST:]),
        state.history[-1],
        1000 * statistics.median(len(built.loader.places(0)[1]) / row["images_per_s"] for row in trained),
        state.step,
        f"{state.step} full-batch steps of {SMOOTH_NET}" if recipe.batch_size == "all" else "",
    )


def open_data(arguments: argparse.Namespace) -> tuple[Recipe, Dataset]:
    """The recipe that all trainings share, and its data."""
    recipe = Recipe(
        data=arguments.data, limit=arguments.limit, validation=0.3, model=NET, seed=arguments.seed,
        augment="flip | crop(4, border=reflect)",
        optimizer="sgd(0.05, momentum=0.9, nesterov=True, weight_decay=0.0005)",
        schedule="warmup(0.1) | cosine", budget=f"{arguments.steps} steps", probes="none",
        batch_size=arguments.batch, evaluate_every="1.0", precision="fp32", layout="channels_last", device="cpu", threads=arguments.threads,
    )  # fmt: skip
    configure_torch(arguments.threads)
    opened = open_recipe(recipe, SilentReporter())
    return opened.chooser.recipe, opened.data


def main() -> int:
    """Train with each part and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="digits", help="images as for goodfit train (default: digits)")
    parser.add_argument("--limit", type=int, default=50, help="images per class and split; 0 takes all")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, help=f"some of {' '.join(KINDS)}")
    arguments = parser.parse_args()
    recipe, data = open_data(arguments)
    catalog = load_catalog()
    print(f"{data.name}: {len(data.rows('train')):,} images, {len(data.rows('validation')):,} to validate; {NET} at {recipe.size} pixels,")
    print(f"{arguments.steps} steps of {arguments.batch}, {arguments.threads} thread(s), torch {torch.__version__}, {cpu_name()}")
    crashes, started = 0, time.perf_counter()
    for kind in arguments.kinds:
        print(f"\n{kind:26} {'train loss':>10} {'accuracy':>9} {'ms/step':>8}")
        for _, cls in sorted(catalog.kinds[kind].items()):
            found = train(recipe, part := cls(), data, catalog, arguments.steps)
            crashes += bool(found.crash)
            row = f"{found.loss:10.3f} {found.accuracy:9.1%} {found.milliseconds:8.1f}  {found.note}"
            print(f"  {spell(part):24} {f'CRASHED {found.crash}' if found.crash else row.rstrip()}", flush=True)
    print(f"\n{crashes} crashed; {time.perf_counter() - started:.0f} s")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
