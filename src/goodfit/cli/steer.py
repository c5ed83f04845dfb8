"""goodfit steer: a hand on the learning rate of a running training."""

from __future__ import annotations

from goodfit.core.errors import UsageError


def steer(run: str, /, *, rate: float) -> None:
    """Multiply the learning rate of a training that is running, from its next step on. It is logged, and a resumed run does it again.

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    rate
        The factor: 0.1 divides by ten, as AlexNet's authors did by hand when validation stopped improving.
    """
    if not 0 < rate < float("inf"):
        raise UsageError(f"Expected --rate to be a factor above 0, received {rate:g}.")
    from goodfit.core.run import Run
    from goodfit.terminal.streams import print_lines
    from goodfit.training.manual_lr import request_lr_factor

    request_lr_factor(Run.open(run), rate)
    print_lines(f"The learning rate of {run} will be multiplied by {rate:g} at its next step.")
