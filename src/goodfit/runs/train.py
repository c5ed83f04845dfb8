"""The life of a run: prepare, start or resume, train, finish, report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path

from goodfit.core.errors import Diverged, GoodfitError, UsageError
from goodfit.core.files import remove, sync_file
from goodfit.core.launched import is_launched
from goodfit.core.progress import steady_time
from goodfit.core.ranks import ALONE
from goodfit.core.reporter import Reporter, SilentReporter
from goodfit.core.run import STEERING_FOLDER, Run, require_free_folder
from goodfit.core.steering import clear_letters
from goodfit.core.words import format_duration
from goodfit.inspection.tensorboard import EventWriter, import_summary_writer
from goodfit.models.weights.saved import SavedModel
from goodfit.recipe.parts import load_run_catalog
from goodfit.recipe.prepare import Prepared, prepare, with_absolute_paths
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.run_recipe import check_recipe_file, record_recipe, trained_recipe
from goodfit.recipe.transfer.frozen import cache_frozen
from goodfit.report.page import write_report
from goodfit.runs import augmentation_preview, baselines
from goodfit.runs.adviser import Adviser
from goodfit.runs.finish import describe_result, finish_run
from goodfit.runs.followers import Leader
from goodfit.runs.fork import fork_prepared
from goodfit.runs.plan import check_views, describe_sync, report_plan, sketch_schedule, warn_of_data
from goodfit.runs.resume import (
    asked_recipe,
    describe_changed_parts,
    describe_losses,
    describe_other_ranks,
    find_resumable,
    is_finished,
    last_saved_step,
    lock_run,
    refuse_shorter,
    restore_last,
    resumed_recipe,
    without_past_finish,
)
from goodfit.runs.signals import explain_stopped_run, halt_error, halt_on_signals
from goodfit.runs.start import DataChanged, check_kept_files, describe_other_data, read_start, record_start, require_same_data, timestamp
from goodfit.terminal.log import LoggingReporter
from goodfit.training.checkpoint import Checkpoints, best_weights
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.snapshots import FOLDER, Snapshots
from goodfit.training.state import State
from goodfit.training.steering import Steering, commands_in


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Run options that are not part of the recipe.

    `out` names the run folder (default: runs/<time>-<data>); `resume` is "never" or "auto"; `dry` reports the plan and stops; `plot`
    draws the learning rate; a budget in minutes counts from the steady time `started`; `quiet_plan` suppresses reporting the plan, and
    `quiet_result` what came of it, which `describe_result` has. `verbose` reports the plan with every choice. `recipe_folder` is where the
    recipe was read from. `adviser` says what is wrong with the data and, at the end, with the training. `leader` calls the other processes
    of the training, if there are any.

    Raises:
        UsageError: `resume` is neither auto nor never.
    """

    out: Path | None = None
    resume: str = "never"
    dry: bool = False
    plot: bool = False
    tensorboard: bool = False
    reporter: Reporter = dataclasses.field(default_factory=LoggingReporter)
    started: float = dataclasses.field(default_factory=steady_time)
    quiet_plan: bool = False
    quiet_result: bool = False
    verbose: bool = False
    recipe_folder: Path | None = None
    adviser: Adviser = dataclasses.field(default_factory=Adviser)
    leader: Leader = dataclasses.field(default_factory=lambda: Leader(ALONE))

    def __post_init__(self) -> None:
        if self.resume not in ("auto", "never"):
            raise UsageError(f'Expected --resume to be auto or never, received "{self.resume}".')

    @property
    def plan_reporter(self) -> Reporter:
        return SilentReporter() if self.quiet_plan else self.reporter

    def for_next_run(self) -> RunOptions:
        """The options for another run of the same command: its plan is not reported again, and its time starts now."""
        return dataclasses.replace(self, started=steady_time(), quiet_plan=True)


def train(asked: Recipe, options: RunOptions) -> Run | None:
    """Train what a recipe asks for, in a new run or, with `resume` auto, in the one that it left unfinished; None under `dry`.

    Raises:
        GoodfitError: with one sentence on what is wrong; see goodfit.core.errors for the kinds.
    """
    if is_launched() and options.leader.ranks.size == 1:
        raise UsageError("Expected one process, found several of a launcher: under torchrun, train by the command goodfit train.")
    if options.tensorboard:
        import_summary_writer()  # a missing extra is refused before any work
    trained = _train_or_resume(with_absolute_paths(asked), options)
    if trained is not None and not options.quiet_result:
        options.reporter.say(*describe_result(trained))
    return trained


def _train_or_resume(asked: Recipe, options: RunOptions) -> Run | None:
    run = find_resumable(asked, options.out, options.resume, options.reporter)
    if run is None:
        return _train_new(asked, options)
    try:
        with lock_run(run):
            return _resume(run, asked, options)
    except DataChanged:
        if options.out is not None:
            raise
        options.reporter.say(f'Starting anew: the images or their splits have changed since "{run.path}" started.')
        return _train_new(asked, options)


def _train_new(asked: Recipe, options: RunOptions) -> Run | None:
    if options.out is not None and not options.dry:
        require_free_folder(options.out)  # before any work
    prepared = prepare(asked, options.plan_reporter, options.started)
    _report_and_check(prepared, options)
    prepared = warn_of_data(prepared, options.adviser, options.plan_reporter)
    if note := describe_other_data(options.recipe_folder, prepared.data):
        options.plan_reporter.say(f"  {note}")
    prepared, fork = fork_prepared(prepared)
    options.plan_reporter.say(*fork.events)
    if options.dry:
        return None
    options.adviser.check(prepared)
    prepared = with_cached_features(prepared, options.reporter)
    lengths = prepared.training.plan.lengths
    # Under a budget in minutes they are computed before the first step: after the last they would be over the budget.
    early_baselines = baselines.compute_baselines(prepared.data, baselines.SHARE * lengths.budget.amount) if lengths.timed else {}
    if lengths.timed and steady_time() - options.started >= lengths.budget.amount:
        raise GoodfitError(
            f"The budget of {prepared.recipe.budget} was over before the first step: starting up took"
            f" {format_duration(steady_time() - options.started)}, of which {format_duration(prepared.packed - options.started)} went into"
            " reading and packing the images. They are packed now, but give a longer budget."
        )
    run = Run.new(options.out, prepared.data.name)
    with lock_run(run):
        record_start(run, asked, prepared)
        fork.log_to(run)
        if lengths.timed:
            run.write(baselines.FILE, early_baselines)
        run.point_latest()
        _train_and_finish(run, prepared, options)
    return run


def _resume(run: Run, asked: Recipe, options: RunOptions) -> Run | None:
    """Continue a run from its last good checkpoint, with the changes that a resume may make."""
    damages = check_recipe_file(run)
    clear_letters(run)
    options.reporter.say(*damages, *describe_changed_parts(run, asked))
    asked.trust_own_code()
    before, checkpoints = trained_recipe(run.path), Checkpoints(run.checkpoints)
    check_kept_files(run, bool(checkpoints.steps()))
    prepared = prepare(
        resumed_recipe(before, run, asked),
        options.plan_reporter,
        options.started,
        catalog=load_run_catalog(run, before),
        start=read_start(run) or ({} if checkpoints.steps() else None),
        check_data=lambda data: require_same_data(run, data),
    )
    _report_and_check(prepared, options)
    if options.dry:
        return None
    prepared = with_cached_features(prepared, options.reporter)
    recipe, state, plan = prepared.recipe, prepared.training.state, prepared.training.plan
    is_extended = (before.budget, before.evaluate_every, before.stop) != (recipe.budget, recipe.evaluate_every, recipe.stop)
    last = last_saved_step(run, checkpoints)
    try:
        warnings = restore_last(run, checkpoints, state)
    except GoodfitError as error:
        if is_extended or not is_finished(run):
            raise
        SavedModel.read(run)  # which is damaged, or stays as it is
        options.reporter.say(f'"{run.path}" is finished and its model stays as it is, but it cannot be extended: {error}')
        write_report(run.path)  # which a full disk may have prevented
        return run
    if is_extended and state.step < last and is_finished(run):
        again = f"Steps {state.step + 1:,} to {last:,} are trained again by the budget they had, before the run is extended."
        options.reporter.say(*warnings, again)
        _resume(run, asked_recipe(run), dataclasses.replace(options, quiet_plan=True))
        return _resume(run, asked, options.for_next_run())
    if (before.budget, before.evaluate_every) != (recipe.budget, recipe.evaluate_every) and plan.evaluate_every:
        state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, plan.t(state))
    if (before.budget, before.stop) != (recipe.budget, recipe.stop):
        state.stopped = ""
        prepared = without_past_finish(prepared, state.step)
    refuse_shorter(run, recipe.budget, state.step, plan.lengths)
    losses = [*warnings, *describe_losses(run, state, last, is_extended), *describe_other_ranks(state, plan, options.leader.ranks)]
    run.cut_log(state.step)
    run.append([{"kind": "event", "step": state.step, "text": text} for text in losses])
    run.point_latest()
    record_recipe(run, prepared.recipe, {"state": "running", "asked": asked.plain()})
    rewritten = [f'"{run.path / "recipe.toml"}" is written anew from about.json.'] * len(damages)
    options.reporter.say(*rewritten, *losses, f"Continuing {run.path} at step {state.step:,}.")
    _train_and_finish(run, prepared, options)
    options.reporter.say(*losses)  # again, where it is not overlooked
    return run


def with_cached_features(prepared: Prepared, reporter: Reporter) -> Prepared:
    """What is prepared, with the features of its frozen stages computed, if the recipe caches any."""
    training = cache_frozen(prepared.training, prepared.recipe, prepared.data)
    for note in training.notes[len(prepared.training.notes) :]:
        reporter.say(f"  {note}")
    return dataclasses.replace(prepared, training=training)


def _report_and_check(prepared: Prepared, options: RunOptions) -> None:
    """Report the plan, refuse views that the model does not take, before it is trained, and draw the learning rate if asked."""
    report_plan(prepared, options.plan_reporter, options.dry or options.verbose)
    check_views(prepared)
    if not options.dry:
        options.plan_reporter.say(*describe_sync(prepared, options.leader.ranks.size))
    if options.plot:
        options.plan_reporter.say(*sketch_schedule(prepared).split("\n"))


def _train_and_finish(run: Run, prepared: Prepared, options: RunOptions) -> None:
    """Train a run that is recorded to its end, then score it, keep its model and write its report."""
    with explain_stopped_run(run):
        if not (run.path / augmentation_preview.FILE).exists():
            with contextlib.suppress(Exception):  # what fails here fails in the first step too, which says it
                augmentation_preview.write_sheet(run, prepared)
        options.leader.begin(run, prepared, options.reporter)
        startup = {"data": prepared.packed - options.started, "startup": steady_time() - prepared.packed}
        seconds = steady_time() - options.started
        prepared.training.state.elapsed += seconds
        prepared.training.state.startup += seconds
        _fit_run(run, prepared, options, startup)
        finish_run(run, prepared, options.reporter, options.adviser)
        remove(run.path / STEERING_FOLDER)


def _fit_run(run: Run, prepared: Prepared, options: RunOptions, startup: dict[str, float]) -> None:
    """Run the training loop, and leave the run so that it can be resumed whatever happens.

    Raises:
        Interrupted, Terminated: a signal asked to stop before the end of the budget.
    """
    ranks = options.leader.ranks
    training = prepared.training.among(ranks, prepared.recipe.sync_norms is True)
    state, saver = training.state, Snapshots(Checkpoints(run.checkpoints), run.path / FOLDER)
    events = (EventWriter(run.path / "tensorboard"),) if options.tensorboard else ()
    log = MetricLog((run.append, options.reporter.show_rows, *events))
    plan = dataclasses.replace(training.plan, last_good=functools.partial(best_weights, training.plan, saver.checkpoints))
    began, evaluated = steady_time(), state.evaluation_seconds
    before = run.read("about.json").get("seconds", {})

    def save(state: State) -> None:
        sync_file(run.path / "log.jsonl")  # a checkpoint stands on the rows before it
        saver.save(state)

    def mark(state_name: str) -> None:
        options.reporter.clear_progress()
        evaluation = state.evaluation_seconds - evaluated
        spent = {**startup, "training": steady_time() - began - evaluation, "evaluation": evaluation}
        seconds = {name: before.get(name, 0.0) + x for name, x in spent.items()}
        about = {"state": state_name, "finished": timestamp(), "seconds": {**before, **seconds}}
        if ranks.size > 1:
            about["communication"] = {"processes": ranks.size, "bytes_sent": state.bytes_sent, "messages": state.messages}
        run.update("about.json", about)

    steering = Steering(run.path / STEERING_FOLDER, commands_in(prepared.parts["steering"]), warn=options.reporter.say)
    steering.record = lambda commands: record_recipe(run, prepared.steered_by(commands).recipe)
    with halt_on_signals() as halt:
        try:
            fit(state, training.loader, plan, training.watch, log, save, halt, steering)
        except BaseException as error:
            log.flush()
            mark("diverged" if isinstance(error, Diverged) else "failed")
            if isinstance(error, Diverged):
                conclusions = options.adviser.conclude(run, prepared)
                options.reporter.say(f"Run: {run.path}", f"Report: {write_report(run.path)}", *conclusions)
            raise
    if (halt.signal or steering.is_stopped) and training.plan.t(state) < 1:
        mark("terminated" if halt.signal == "SIGTERM" else "interrupted")
        raise halt_error(halt, run, state.step)
    options.reporter.say(*steering.close())
    mark("running")  # finished only once its model is written
