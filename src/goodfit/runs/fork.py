"""Forks: a new run that goes on from a checkpoint of another one, by another recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from goodfit.core.errors import UsageError, first_line
from goodfit.core.parts import Part, Pipe, spell
from goodfit.core.run import Run
from goodfit.core.words import list_some
from goodfit.recipe.parts import load_catalog, load_run_catalog
from goodfit.recipe.prepare import Prepared
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.run_recipe import split_fork, trained_recipe
from goodfit.runs.resume import asked_recipe, refuse_shorter
from goodfit.training.checkpoint import DAMAGE_ERRORS, Checkpoints
from goodfit.training.rules.steering import Command, Lr
from goodfit.training.snapshots import snapshots_due
from goodfit.training.steering import commands_in

# What a state keeps of its run, as the weights do; what belongs to that run's own course (scores, best, snapshots, reactions) begins anew.
KEPT_FIELDS = (
    "step",
    "elapsed",
    "startup",
    "evaluation_seconds",
    "start_loss",
    "recent_losses",
    "rescue_factor",
    "pieces",
    "averaged_at",
    "average_updates",
)
OWN_FIELDS = ("fork", "steering", "use", "workers")  # that may differ without a word


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a run goes on from: a checkpoint of another run."""

    run: Run
    step: int

    @staticmethod
    def read(text: str) -> Origin:
        """Read RUN or RUN@STEP; without a step it is the last that was saved.

        Raises:
            UsageError: there is no such run or checkpoint; the sentence lists those there are.
        """
        place, step = split_fork(text)
        run = Run.open(place)
        steps = Checkpoints(run.checkpoints).steps()
        if not steps:
            raise UsageError(f'Expected a checkpoint in "{run.path}" to fork from, found none.')
        if step and (not step.isdecimal() or int(step) not in steps):
            raise UsageError(f'Expected --fork "{place}@STEP" with one of the steps {list_some(list(map(str, steps)))}, received "{step}".')
        return Origin(run, int(step) if step else steps[-1])

    @property
    def text(self) -> str:
        """As a recipe holds it."""
        return f"{self.run.path.resolve()}@{self.step}"


@dataclasses.dataclass(frozen=True)
class Fork:
    """What a forked run begins its log with: the rows that led to it, and what is said of it."""

    step: int
    rows: list[dict[str, Any]]
    events: list[str]

    def log_to(self, run: Run) -> None:
        """Begin the log of a run."""
        if self.events:
            run.append([*self.rows, *({"kind": "event", "step": self.step, "text": text} for text in self.events)])


def fork_prepared(prepared: Prepared) -> tuple[Prepared, Fork]:
    """Set what is prepared to the checkpoint that its recipe forks from; most recipes fork from none.

    Commands by hand that the other run got later, and has in its recipe, are left out. What a plateau rule has multiplied the rate by stays
    as a command, for the rule counts its scores anew.

    Raises:
        UsageError: there is no such checkpoint, it is of another network, or the budget ends before it.
    """
    if not prepared.recipe.fork:
        return prepared, Fork(0, [], [])
    origin = Origin.read(prepared.recipe.fork)
    training, about = prepared.training, origin.run.read("about.json")
    before = trained_recipe(origin.run.path)
    values, notes = adopt_state(prepared, origin, before)
    refuse_shorter(origin.run, prepared.recipe.budget, origin.step, training.plan.lengths)
    commands, later = split_commands(commands_in(prepared.parts["steering"]), origin, before)
    if later:
        notes.append(f"Left out: {spell(Pipe(later), full=True)}, which the other run got later, by hand.")
    factor = values["plateau_factor"]
    if factor != 1 and prepared.recipe.plateau == before.plateau:
        commands = (*commands, Lr(factor, origin.step))
        notes.append(f"The plateau rule has multiplied the learning rate by {factor:g}, which stays; it counts its scores anew.")
    theirs = about.get("data", {})
    if (theirs.get("digest"), theirs.get("split_digest")) != (prepared.data.digest, prepared.data.splits.digest):
        notes.append("Its images or their splits are others: it may have been trained on some that now validate.")
    prepared = prepared.steered_by(commands)
    recipe = dataclasses.replace(prepared.recipe, fork=origin.text)
    former = before.plain()
    changed = [key for key, value in recipe.plain().items() if value != former[key] and key not in OWN_FIELDS]
    change = f"with another {list_some(changed)}" if changed else "with the same recipe"
    event = f"Forked from {origin.run.path} at step {origin.step:,}, {change}."
    rows = [row for row in origin.run.log() if row["step"] <= origin.step]
    return dataclasses.replace(prepared, recipe=recipe), Fork(origin.step, rows, [event, *notes])


def split_commands(commands: tuple[Command, ...], origin: Origin, before: Recipe) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """The commands that a fork keeps, and those that are left out: given later to the other run, by hand, and not asked for here."""
    known = load_catalog()
    theirs, planned = (commands_in(known.make(r.steering, "steering")) for r in (before, asked_recipe(origin.run)))
    if commands != theirs:  # they are asked for here
        return commands, ()
    later = tuple(command for command in commands if command.step >= origin.step and command not in planned)
    return tuple(command for command in commands if command not in later), later


def adopt_state(prepared: Prepared, origin: Origin, before: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Set the state of what is prepared to what another run, of the recipe `before`, has saved: its weights, its place in the budget and,
    if both remember alike, its optimizer's memory; the settings of the optimizer stay its own.

    Returns the values of the other state, and what begins anew, in sentences.

    Raises:
        UsageError: the checkpoint does not read, or is of another network.
    """
    state, plan = prepared.training.state, prepared.training.plan
    try:
        values, tree = Checkpoints(origin.run.checkpoints).read(origin.step)
    except DAMAGE_ERRORS as error:
        raise UsageError(f'The checkpoint of step {origin.step:,} in "{origin.run.path}" does not read ({first_line(error)}).') from error
    try:
        state.model.load_state_dict(tree["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")
        raise UsageError(f'"{origin.run.path}" has another network than the recipe ({reason}): leave model, size and data.') from error
    notes = []
    own, saved = state.optimizer.state_dict(), tree["optimizer"]
    if has_like_memory(prepared.parts, origin.run, before):
        state.optimizer.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})
    else:
        notes.append("Its optimizer is another one, whose memory begins anew.")
    for name, value in values.items():
        if name in KEPT_FIELDS:
            setattr(state, name, value)
    if tree.get("ranks"):
        if (prepared.recipe.sync, prepared.recipe.optimizer) == (before.sync, before.optimizer):
            state.rank_trees = tree["ranks"]
        else:
            notes.append("Its processes go on from the weights that they had in common.")
    if state.average is not None and tree["average"] is not None:
        state.average.load_state_dict(tree["average"])
    elif state.average is not None:
        state.average.load_state_dict(tree["model"])
        state.average_updates, state.averaged_at = 0, plan.t(state)
        notes.append("Its running average begins with the weights of this step.")
    state.snapshots_taken = snapshots_due(plan, plan.t(state))
    if plan.evaluate_every is not None:
        state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, plan.t(state))
    return values, notes


def has_like_memory(parts: Mapping[str, Part], origin: Run, before: Recipe) -> bool:
    """Whether an optimizer remembers what that of another run does: it differs in numbers such as the rate alone."""
    theirs = load_run_catalog(origin, before).make(before.optimizer, "optimizer")
    return outline(parts["optimizer"]) == outline(theirs) and spell(parts["rates"], full=True) == str(before.rates)


def outline(part: Any) -> Any:
    """A part without its numbers."""
    if not isinstance(part, Part):
        return None if isinstance(part, (int, float)) and not isinstance(part, bool) else part
    return type(part).__name__, [(name, outline(value)) for name, value in vars(part).items()]
