"""goodfit train: from images to a run folder with a classifier and its report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from goodfit.cli import started
from goodfit.cli.options import Options, Shorts, assemble
from goodfit.core.errors import UsageError


@Parameter(name="*", group="Run")
@dataclasses.dataclass(kw_only=True)
class Manners:
    """How the training is carried out."""

    out: Annotated[Path | None, Parameter(help="Folder of the run (default: runs/<time>-<data>).")] = None
    resume: Annotated[
        str, Parameter(help="auto: go on with --out, or with the newest unfinished run of the same recipe and data; never.")
    ] = "never"
    seeds: Annotated[int, Parameter(help="Train this many copies that differ in their seed; say the mean and its standard error.")] = 1
    folds: Annotated[
        int, Parameter(help="Cross-validate: train once for each of so many folds of the training and validation images; 0 does not.")
    ] = 0
    groups: Annotated[
        Path | None, Parameter(help="With --folds: a CSV with the columns path and group (default: a column group of the data's own CSV).")
    ] = None
    dry: Annotated[bool, Parameter(help="Say what would be done, and stop.")] = False
    plot_schedule: Annotated[bool, Parameter(help="Draw the learning rate over the budget; with --dry, nothing is trained.")] = False
    tensorboard: Annotated[bool, Parameter(help="Also write events for TensorBoard into the run.")] = False
    json: Annotated[bool, Parameter(help="Print the run and its scores as JSON on stdout.")] = False


@dataclasses.dataclass(kw_only=True)
class TrainShorts(Shorts):
    """Those, and the ones that only a training has."""

    epochs: Annotated[float | None, Parameter(help='Short for --budget "N epochs".')] = None
    lr: Annotated[float | None, Parameter(help="Short for the optimizer's lr.")] = None


def train(data: str = "", /, *, manners: Manners | None = None, shorts: TrainShorts | None = None, options: Options | None = None) -> None:
    """Train a classifier on images.

    Parameters
    ----------
    data
        A folder of images (train/<class>/... or <class>/...), parquet, CSV, npz, IDX or CIFAR file, or digits, cifar10, cifar100, mnist,
        fashion_mnist.
    """
    manners, shorts = manners or Manners(), shorts or TrainShorts()
    if shorts.epochs is not None:
        if options is not None and options.budget is not None:
            raise UsageError("Expected one of --epochs and --budget, received both.")
        options = dataclasses.replace(options or Options(), budget=f"{shorts.epochs:g} epoch{'' if shorts.epochs == 1 else 's'}")
    asked = assemble(data, shorts, options)
    if manners.seeds < 1:
        raise UsageError(f"Expected --seeds to be 1 or more, received {manners.seeds}.")
    if manners.folds and manners.seeds > 1:
        raise UsageError("Expected one of --seeds and --folds, received both.")
    if manners.groups and not manners.folds:
        raise UsageError("Expected --folds beside --groups, received none.")
    from goodfit import api
    from goodfit.core.words import percent
    from goodfit.recipe.build import with_rate
    from goodfit.report.frame import REPORT_FILE
    from goodfit.terminal.reporter import Terminal

    asked = with_rate(asked, shorts.lr)
    manner = api.Manner(manners.out, manners.resume, manners.dry, manners.plot_schedule, manners.tensorboard, Terminal(), started())
    if manners.seeds > 1:
        result = api.train_seeds(asked, manner, manners.seeds)
        if not manners.dry:
            manner.voice.say(
                f"Validation accuracy {percent(result['accuracy'], 2)} ± {percent(result['standard_error'], 2)}"
                f" (mean and standard error of {manners.seeds} seeds)."
            )
    elif manners.folds:
        result = api.train_folds(asked, manner, manners.folds, manners.groups)
        if not manners.dry:
            whole = result["out_of_fold"]
            low, high = whole["interval"]
            manner.voice.say(
                f"Validation accuracy {percent(result['accuracy'], 2)} ± {percent(result['deviation'], 2)}"
                f" (mean and standard deviation of {manners.folds} folds); of all {whole['images']:,} images, each by the model that did"
                f" not train on it, {percent(whole['accuracy'], 2)} (95 % interval {percent(low)} to {percent(high)}).\n"
                f"Folds: {result['folder']}\nReport: {Path(result['folder']) / REPORT_FILE}"
            )
    else:
        run = api.run_recipe(asked, manner)
        result = {"run": str(run.path), **run.read("scores.json")} if run else {}
    if manners.json:
        print(json.dumps(result))
