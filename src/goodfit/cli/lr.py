"""goodfit lr: the range of learning rates that a recipe trains well at."""

from __future__ import annotations

from pathlib import Path

from goodfit.cli.options import LrOptions, Shorts, assemble, refuse_early, start_reporter
from goodfit.core.errors import UsageError, refuse_more

MAX_STEPS = 100_000  # of a test


def lr(
    data: str = "",
    /,
    *,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 150,
    html: Path | None = None,
    json: bool = False,
    shorts: Shorts | None = None,
    options: LrOptions | None = None,
) -> None:
    """Train for some steps at an ever larger learning rate, and say which rates are good. No run is made.

    Parameters
    ----------
    data
        The images, as for train.
    low
        The rate of the first step.
    high
        The rate of the last step; the test ends early when the loss explodes.
    steps
        How many steps to make, at least 20.
    html
        Also draw the curve, in one HTML file.
    json
        Print the range, its reasons, and the rates and losses that were tested as JSON on stdout.
    """
    if not 0 < low < high or steps < 20:
        raise UsageError(f"Expected 0 < --low < --high and --steps of 20 or more, received {low:g}, {high:g} and {steps}.")
    refuse_more("--steps", steps, MAX_STEPS)
    asked = assemble(data, shorts, options)
    refuse_early(asked)
    reporter = start_reporter(asked)
    from goodfit import api
    from goodfit.report.pages.lr_range import describe_range, render_lr_range
    from goodfit.terminal.sketch import sketch_curve
    from goodfit.terminal.streams import print_json, print_lines

    found = api.lr_range(asked, reporter, low, high, steps)
    result = found.plain()
    if html:
        from goodfit.core.files import write_atomic

        write_atomic(html, render_lr_range(asked.data, result))
    if json:
        print_json(result)
        return
    sentence, reasons = describe_range(result)
    print_lines(*sketch_curve(found.rates, found.smoothed, "loss, smoothed", "learning rate", log_x=True).split("\n"))
    print_lines(sentence, *(f"  {reason}" for reason in reasons))
    if html:
        print_lines(f"Learning-rate range: {html}")
