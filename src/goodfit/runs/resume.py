"""Resuming a run: which run goes on, what may change then, and what it has lost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from goodfit.core.commit import finish_commit, remove_staged
from goodfit.core.errors import UsageError
from goodfit.core.files import lock, remove_partials
from goodfit.core.progress import Lengths
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import Reporter
from goodfit.core.run import (
    FINISHED_STATES,
    FORK_FOLDER,
    LOCK_FILE,
    STOPPED_STATES,
    UNFINISHED_STATES,
    Run,
    is_busy,
    is_run,
    list_runs,
    require_free_folder,
)
from goodfit.core.run_files import DamagedFile
from goodfit.core.words import count_of, list_some
from goodfit.models.weights.saved import WEIGHTS_FILE
from goodfit.recipe.prepare import Prepared
from goodfit.recipe.recipe import Recipe, with_current_keys
from goodfit.recipe.run_recipe import has_parts_of
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.rules.steering import Finish
from goodfit.training.state import Plan, State
from goodfit.training.steering import commands_in

CHANGEABLE_ON_RESUME = ("budget", "evaluate_every", "save_every", "stop", "keep", "probes", "workers", "cache")
# A run that lacks the first field is of a version in which the default of the second was not yet "auto", but one of these.
FORMER_DEFAULTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "task": {"loss": ("softmax", "softmax()")},
    "head_init": {"trainable": ("all", "all(1.0)")},
    "resolution": {"views": ("center",)},
    "white_level": {"aspect": ("crop",)},
    "sync": {"sync_norms": (True,)},
}


def find_resumable(asked: Recipe, out: Path | None, resume: str, reporter: Reporter) -> Run | None:
    """Find the run that `--resume auto` continues: the one at `out`, else the newest unfinished one of the same recipe.

    Where there is none, it reports why.

    Raises:
        UsageError: the run at `out` has another recipe.
        DamagedFile: the run at `out` has files that are needed and do not read.
    """
    if resume == "never":
        return None
    if out is not None:
        if is_run(out):
            run = Run(out)
            refuse_changes(run, asked)
            return run
        require_free_folder(out)
        reporter.say(f'Starting anew: there is no run at "{out}" yet.')
        return None
    reasons = []
    for run in reversed(list_runs(Path("runs"))):
        reason = why_not_resumed(run, asked)
        if reason == "":
            return run
        reasons += [reason] if reason else []
    reporter.say(f"Starting anew: {reasons[0]}." if reasons else 'Starting anew: there is no unfinished run in "runs".')
    return None


def why_not_resumed(run: Run, asked: Recipe) -> str | None:
    """Why an unfinished run is not the one to resume; empty if it is, None for a run that has ended."""
    try:
        about = run.read("about.json", "state", "asked")
    except DamagedFile as error:
        return str(error).rstrip(".")
    if about["state"] not in UNFINISHED_STATES:
        return None
    if changed := changed_fields(about, asked):
        return f'the newest unfinished run, "{run.path}", has another {list_some(changed)}'
    return f'the unfinished run "{run.path}" is being trained by another process' if is_busy(run) else ""


@contextlib.contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Hold the lock of a run while it is trained: two processes must not write one log.

    Raises:
        UsageError: another process holds it.
    """
    with lock(run.path / LOCK_FILE, wait=False) as held:
        if held is False:
            raise UsageError(f'The run "{run.path}" is being trained by another process: wait for it, or choose another --out.')
        finish_commit(run.path)
        remove_staged(run.path)
        remove_partials(run.path)
        yield


def refuse_changes(run: Run, asked: Recipe) -> None:
    """Refuse a resume that would train something else.

    Raises:
        UsageError: a field has changed that may not change.
    """
    about = run.read("about.json", "asked")
    changeable = changeable_fields(about)
    changed = [key for key in changed_fields(about, asked) if key not in changeable]
    if changed:
        raise UsageError(
            f'The run "{run.path}" was started with another {list_some(changed)}; on a resume only'
            f" {', '.join(changeable)} may change. Give another --out to start anew."
        )


def changeable_fields(about: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that a resume of the run with this about.json may change: of streamed data not the cache, on which the order depends."""
    is_streamed = about.get("recipe", {}).get("storage") == "stream"
    return tuple(key for key in CHANGEABLE_ON_RESUME if not (is_streamed and key == "cache"))


def changed_fields(about: Mapping[str, Any], asked: Recipe) -> list[str]:
    """The fields that are asked for otherwise than of the run with this about.json; a former default may be spelled out or left open, and
    what the run was trained by, as its recipe.toml has it, may be asked for.
    """
    written, trained, current = with_current_keys(about.get("asked", {})), with_current_keys(about.get("recipe", {})), asked_values(about)
    known = {key: (value, written.get(key, value), trained.get(key, value)) for key, value in current.items()}
    changed = [key for key, value in asked.plain().items() if value not in known[key]]
    return [key for key in changed if key != "use" or not has_parts_of(about, asked)]


def refuse_shorter(run: Run, budget: str, step: int, lengths: Lengths) -> None:
    """Refuse a budget that ends before the step a run has reached: its rate would never anneal.

    Raises:
        UsageError: it does.
    """
    if not lengths.timed and lengths.total_steps < step:
        raise UsageError(
            f'The run "{run.path}" is at step {step:,} already, past the budget of {budget} ({lengths.total_steps:,} steps):'
            " give a longer one, or another --out to start anew."
        )


def describe_changed_parts(run: Run, asked: Recipe) -> list[str]:
    """Say in a sentence that files of parts have changed since a run began, which goes on with its own copies; none if they have not."""
    if not asked.use or has_parts_of(run.read("about.json"), asked):
        return []
    return [f'Note: {list_some(list(asked.use))} changed since the run began: it goes on with its own copy in "{run.path / "use"}".']


def resumed_recipe(own: Recipe, run: Run, asked: Recipe) -> Recipe:
    """The run's `own` recipe with the changes that a resume may make."""
    about = run.read("about.json")
    before = asked_values(about)
    changed = [key for key in changeable_fields(about) if asked.plain()[key] != before[key] and getattr(asked, key) != "auto"]
    return dataclasses.replace(own, **{key: getattr(asked, key) for key in changed})


def without_past_finish(prepared: Prepared, step: int) -> Prepared:
    """What is prepared, without commands that ended the training by hand at a `step` beyond which it now goes on, or before."""
    commands = commands_in(prepared.parts["steering"])
    kept = [command for command in commands if not (isinstance(command, Finish) and command.step <= step)]
    return prepared if len(kept) == len(commands) else prepared.steered_by(kept)


def asked_recipe(run: Run) -> Recipe:
    """The recipe that a run was asked for."""
    return Recipe().but(**asked_values(run.read("about.json", "asked"))).as_read()


def is_finished(run: Run) -> bool:
    """Whether a run was trained to its end."""
    return run.read("about.json").get("state") in FINISHED_STATES


def asked_values(about: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that a run was asked for, as its about.json has them; those that it does not have are at their default."""
    before = with_current_keys(about.get("asked", {}))
    former = {key: values for field, defaults in FORMER_DEFAULTS.items() if field not in before for key, values in defaults.items()}
    return {**Recipe().plain(), **{key: "auto" if value in former.get(key, ()) else value for key, value in before.items()}}


# ---- what is lost ----------------------------------------------------------------------------------------------------------------


def last_saved_step(run: Run, checkpoints: Checkpoints) -> int:
    """The step whose state a run saved last, whether or not it still reads; 0 if it saved none."""
    saved = checkpoints.steps()
    if run.read("about.json").get("state") in (*FINISHED_STATES, *STOPPED_STATES):  # which saved their last step
        saved += [row["step"] for row in run.log("train")]
    return max(saved, default=0)


def restore_last(run: Run, checkpoints: Checkpoints, state: State) -> list[str]:
    """Set the state to the last good checkpoint, if the run has saved any; returns a warning for each that is damaged.

    Raises:
        GoodfitError: none of its checkpoints is good, or they are gone though it has a model.
    """
    if checkpoints.steps():
        return [f"Warning: {text}" for text in checkpoints.restore(state)]
    if (run.path / FORK_FOLDER).is_dir() and not (run.path / WEIGHTS_FILE).exists():
        return Checkpoints(run.path / FORK_FOLDER).restore(state)
    if (run.path / WEIGHTS_FILE).exists():
        raise UsageError(f'The checkpoints of "{run.path}" are gone, so it cannot continue: start anew with another --out.')
    return []


def describe_losses(run: Run, state: State, last: int, is_extended: bool) -> list[str]:
    """Warnings of steps that are lost, as the state after step `last` was saved once, and of gaps in the log.

    `is_extended` says that they are trained again otherwise than they were.
    """
    warnings = []
    if state.step < last:
        result = "by the changed budget, so the result is NOT that of the undamaged run" if is_extended else "as they were"
        lost = f"the state after step {last:,} is lost; the steps from {state.step:,} on are trained again, {result}."
        warnings.append(f"Warning: {lost}")
    if gaps := describe_gaps(run.log(), state):
        warnings.append(
            f'Warning: "{run.path / "log.jsonl"}" is damaged, it lacks {gaps}: the curves have gaps, the weights do not change.'
        )
    return warnings


def describe_other_ranks(state: State, plan: Plan, ranks: Ranks) -> list[str]:
    """Warn that a run whose weights are averaged once in a while goes on in another number of processes; none where it is the same."""
    before = len(state.rank_trees) or 1
    if plan.parts["sync"].every == 0 or state.step == 0 or before == ranks.size:
        return []
    return [
        f"Warning: the run was trained in {count_of(before, 'process', 'processes')} up to step {state.step:,} and goes on in {ranks.size}:"
        " from the weights that they have in common, but the result is NOT that of the same number throughout."
    ]


def describe_gaps(rows: Sequence[Mapping[str, Any]], state: State) -> str:
    """The steps and the number of evaluations that the rows of a log lack; empty if it has all up to the step of the state."""
    logged = {row["step"] for row in rows if row["kind"] == "train"}
    if state.rescue_factor < 1:  # the step that diverged has its event alone
        logged |= {row["step"] + 1 for row in rows if row["kind"] == "event"}
    missing = [step for step in range(1, state.step + 1) if step not in logged]
    runs = [[step for _, step in group] for _, group in groupby(enumerate(missing), lambda pair: pair[1] - pair[0])]
    spans = [f"{run[0]:,}" if len(run) == 1 else f"{run[0]:,} to {run[-1]:,}" for run in runs]
    evaluations = len(state.history) - sum(row["kind"] == "evaluate" and row["step"] <= state.step for row in rows)
    parts = [f"step{'s' * (len(missing) > 1)} {list_some(spans)}"] if missing else []
    return " and ".join(parts + ([count_of(evaluations, "evaluation")] if evaluations > 0 else []))
