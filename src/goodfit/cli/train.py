"""goodfit train: from images to a run folder with a classifier and its report."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from goodfit.cli import process_started
from goodfit.cli.options import MOST_USED, SHOW_ALL, Options, Shorts, assemble, refuse_early, start_reporter
from goodfit.core.errors import UsageError, refuse_more
from goodfit.core.launched import is_first, is_launched, is_restarted, launch_id, processes_here
from goodfit.core.run import Run, is_run, list_runs
from goodfit.recipe.recipe import Recipe
from goodfit.terminal.reporter import TerminalReporter

if TYPE_CHECKING:
    from goodfit.runs.followers import Leader

MAX_RUNS = 1000  # of one command
MAX_PROCESSES = 1024  # of one machine


@Parameter(name="*", group=Group("Run", sort_key=3))
@dataclasses.dataclass(kw_only=True)
class TrainOptions:
    """Run options that are not part of the recipe."""

    out: Annotated[Path | None, Parameter(help="Folder of the run (default: runs/<time>-<data>).")] = None
    resume: Annotated[
        str,
        Parameter(
            metavar="auto|never", help="auto: continue the run in --out, or the newest unfinished run of the same recipe and data; never."
        ),
    ] = "never"
    seeds: Annotated[int, Parameter(help="Train this many runs that differ in their seed; report the mean and its standard error.")] = 1
    folds: Annotated[
        int, Parameter(help="Cross-validate: train once for each of so many folds of the training and validation images; 0 does not.")
    ] = 0
    groups: Annotated[
        Path | None, Parameter(help="With --folds: a CSV with the columns path and group (default: a column group of the data's own CSV).")
    ] = None
    dry: Annotated[bool, Parameter(help="Report what would be done, and stop.")] = False
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"), help="Report every choice with its rule and evidence.")] = False
    plot_schedule: Annotated[bool, Parameter(help="Draw the learning rate over the budget; with --dry, nothing is trained.")] = False
    tensorboard: Annotated[bool, Parameter(help="Also write events for TensorBoard into the run.")] = False
    doctor: Annotated[
        bool, Parameter(help="Examine the data, the network and its first 50 steps before training, and stop if something is wrong.")
    ] = False
    processes: Annotated[int, Parameter(help="Processes here that train together.")] = 1
    restarts: Annotated[
        int,
        Parameter(help="With --processes: how often all start again from the last checkpoint when one is killed.", show=SHOW_ALL),
    ] = 3
    json: Annotated[bool, Parameter(help="Print the run's path and its scores as JSON on stdout.")] = False

    @property
    def is_single(self) -> bool:
        """Whether it is one run."""
        return self.seeds == 1 and not self.folds

    def check(self) -> None:
        """Refuse options that do not go together."""
        if self.seeds < 1:
            raise UsageError(f"Expected --seeds to be 1 or more, received {self.seeds}.")
        refuse_more("--seeds", self.seeds, MAX_RUNS)
        refuse_more("--folds", self.folds, MAX_RUNS)
        if self.folds and self.seeds > 1:
            raise UsageError("Expected one of --seeds and --folds, received both.")
        if self.groups and not self.folds:
            raise UsageError("Expected --folds beside --groups, received none.")
        check_processes(self.processes)
        if self.restarts < 0:
            raise UsageError(f"Expected --restarts to be 0 or more, received {self.restarts}.")

    def after_restart(self) -> TrainOptions:
        """The same options; after a restart of the processes, the ones that go on with the run that they had begun."""
        if not is_restarted() or not self.is_single or self.resume != "never":
            return self
        runs = [Run(self.out)] if self.out else list_runs(Path("runs"))[::-1]
        begun = (run for run in runs if is_run(run.path) and run.read("about.json").get("launch") == launch_id())
        run = next(begun, None)
        return dataclasses.replace(self, resume="auto", out=run.path) if run else self


def check_processes(asked: int) -> None:
    """Refuse a number of processes that is none, or another than torchrun has started.

    Raises:
        UsageError: it is.
    """
    if asked < 1:
        raise UsageError(f"Expected --processes to be 1 or more, received {asked}.")
    refuse_more("--processes", asked, MAX_PROCESSES)
    if is_launched() and asked not in (1, processes_here()):
        raise UsageError(f"Expected no --processes under torchrun, which started {processes_here()} on this machine, received {asked}.")


@dataclasses.dataclass(kw_only=True)
class TrainShorts(Shorts):
    """Shorthand options of `train`."""

    epochs: Annotated[float | None, Parameter(group=MOST_USED, help='Short for --budget "N epochs".')] = None
    lr: Annotated[float | None, Parameter(group=MOST_USED, help="The peak learning rate: short for the optimizer's lr.")] = None


def train(data: str = "", /, *, run: TrainOptions | None = None, shorts: TrainShorts | None = None, options: Options | None = None) -> None:
    """Train a classifier on images.

    Parameters
    ----------
    data
        A folder of images (train/<class>/... or <class>/...), tar, parquet, CSV, npz, IDX, CIFAR file, or digits, cifar10, cifar100, mnist,
        fashion_mnist.
    """
    run, shorts = run or TrainOptions(), shorts or TrainShorts()
    if shorts.epochs is not None:
        if options is not None and options.budget is not None:
            raise UsageError("Expected one of --epochs and --budget, received both.")
        options = dataclasses.replace(options or Options(), budget=f"{shorts.epochs:g} epoch{'' if shorts.epochs == 1 else 's'}")
    if options is not None and options.fork and not shorts.recipe and run.resume == "auto" and run.out and is_run(run.out):
        shorts = dataclasses.replace(shorts, recipe=str(run.out / "recipe.toml"))  # what is not given is as in the fork, which goes on
    asked = assemble(data, shorts, options)
    run.check()
    if run.folds and asked.fork:
        raise UsageError("Expected no --fork beside --folds, whose models must not have been trained on what they validate.")
    run = run.after_restart()
    refuse_early(asked, run.out if run.is_single and run.resume == "never" and not run.dry else None)
    if run.processes > 1 and not is_launched() and not run.dry:
        from goodfit.runs.launch import launch

        sys.exit(launch(run.processes, run.restarts if run.is_single else 0, TerminalReporter()))
    from goodfit.recipe.parts import refuse_second_lr, with_lr
    from goodfit.runs.followers import Leader, follow
    from goodfit.runs.launch import joined_ranks

    asked = with_lr(asked, shorts.lr)
    if shorts.lr is not None and options is not None and options.optimizer is not None:
        refuse_second_lr(options.optimizer, shorts.lr, asked.use)
    recipe_folder = Path(shorts.recipe).parent if shorts.recipe and Path(shorts.recipe).is_file() else None
    reporter = start_reporter(asked) if is_first() else None
    with joined_ranks() as ranks:
        if reporter is None:
            follow(ranks)
        else:
            with Leader(ranks) as leader:
                _train(asked, run, recipe_folder, reporter, leader)


def _train(asked: Recipe, run: TrainOptions, recipe_folder: Path | None, reporter: TerminalReporter, leader: Leader) -> None:
    """Train what the options say, once or more often, and print what came of it."""
    from goodfit.doctor.doctor_adviser import DoctorAdviser
    from goodfit.runs import train as runs
    from goodfit.runs.finish import describe_result
    from goodfit.study.cross_validation import train_folds
    from goodfit.study.seeds import train_seeds
    from goodfit.terminal.scores import format_folds, format_seeds
    from goodfit.terminal.streams import print_json, print_lines

    switches = (run.dry, run.plot_schedule, run.tensorboard)
    wanted = runs.RunOptions(run.out, run.resume, *switches, reporter, process_started(), quiet_result=run.is_single)
    wanted = dataclasses.replace(wanted, verbose=run.verbose, recipe_folder=recipe_folder, adviser=DoctorAdviser(), leader=leader)
    if run.doctor:
        from goodfit.doctor.run_examination import check_training

        wanted = dataclasses.replace(wanted, adviser=DoctorAdviser(lambda prepared: check_training(prepared, reporter)))
    if run.seeds > 1:
        result = train_seeds(asked, wanted, run.seeds)
        summary = format_seeds(result)
    elif run.folds:
        result = train_folds(asked, wanted, run.folds, run.groups)
        summary = format_folds(result) if result else ""
    else:
        trained = runs.train(asked, wanted)
        result = {"path": str(trained.path), "scores": trained.scores} if trained else {}
        summary = "\n".join(describe_result(trained)) if trained else ""
    if run.json:
        print_json(result)
    elif summary and not run.dry:
        print_lines(*summary.split("\n"))
