"""goodfit steer: a hand on a running training."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from goodfit.core.errors import UsageError


def steer(
    run: str,
    /,
    *,
    rate: float | None = None,
    snapshot: bool = False,
    finish: bool = False,
    pause: bool = False,
    go_on: Annotated[bool, Parameter(name="--continue")] = False,
    stop: bool = False,
) -> None:
    """Steer a training that is running, from its next step on. What changes its result stands in its log and in its recipe, so that a
    resumed run and a rerun by recipe.toml do it again, at the same step.

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    rate
        Multiply the learning rate by this factor: 0.1 divides by ten, as AlexNet's authors did by hand when validation stopped improving.
    snapshot
        Keep the weights as they are then, beside those at the end: goodfit ensemble takes them.
    finish
        End the training as a stop rule would: the model is evaluated, kept and reported.
    pause
        Save and wait; the time of a pause is not taken from the budget.
    go_on
        Go on after a pause.
    stop
        Save and stop, as Ctrl-C does: --resume auto continues.
    """
    asked = {"lr": rate is not None, "snapshot": snapshot, "finish": finish, "pause": pause, "continue": go_on, "stop": stop}
    commands = [command for command, is_asked in asked.items() if is_asked]
    if len(commands) != 1:
        raise UsageError(
            f"Expected one of --rate, --snapshot, --finish, --pause, --continue and --stop, received {len(commands) or 'none'}."
        )
    from goodfit.core.run import Run
    from goodfit.core.steering import send
    from goodfit.terminal.streams import print_lines

    print_lines(send(Run.open(run), commands[0], rate))
