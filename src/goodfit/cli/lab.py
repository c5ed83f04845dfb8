"""goodfit lab: the lecture's worked examples, and the computational graph of an expression or a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from goodfit.cli.claims import claims
from goodfit.core.errors import UsageError

__all__ = ["claims", "lessons", "trace"]


def lessons(name: str = "", /, *, html: Path | None = None, json: bool = False) -> None:
    """Compute a worked example of the slides: its numbers beside the printed ones, its pictures, and where the slide errs.

    Parameters
    ----------
    name
        A lesson, such as backprop; without one, all are listed.
    html
        Also write the lesson, with its pictures, as one HTML file.
    json
        Print the lesson, or the list of all, as JSON on stdout.
    """
    from goodfit.lab.catalog import NAMES, list_lessons, run_lesson
    from goodfit.terminal.streams import SPINNER, print_json, print_lines
    from goodfit.terminal.tables import format_table

    if not name:
        if html:
            raise UsageError('Expected the name of a lesson with --html, received none: "goodfit lab lessons" lists them.')
        titles = list_lessons()
        if json:
            print_json([{"name": lesson, "title": title} for lesson, title in titles.items()])
        else:
            print_lines(*format_table(list(titles.items()), "<<").split("\n"))
        return
    if html is not None and html.is_dir():
        raise UsageError(f'Expected --html to be a file to write, received the folder "{html}".')
    if name in NAMES:
        SPINNER.show(f"computing {name}")
    lesson = run_lesson(name)
    content = lesson.to_dict()
    if html:
        from goodfit.core.files import write_atomic
        from goodfit.report.pages.lesson import render_lesson

        write_atomic(html, render_lesson(content, lesson.charts))
    if json:
        print_json(content)
        return
    from goodfit.terminal.lesson import format_lesson

    print_lines(*format_lesson(content))
    if html:
        print_lines("", f"Lesson: {html}")


def trace(
    expression: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    /,
    *,
    set: Annotated[list[str] | None, Parameter(metavar="NAME=NUMBER")] = None,  # noqa: A002
    model: str = "",
    size: str = "8",
    use: list[str] | None = None,
    json: bool = False,
) -> None:
    """Compute an expression or a network forward and backward: the value of every node, the gradient it gets, and what it passes on.

    An expression has numbers, variables, + - * / **, parentheses and the functions exp, log, sqrt, sin, cos, tanh, sigmoid, relu, abs, max
    and min. A network is traced from two images of random numbers to the softmax loss for three classes, and
    each tensor is shown by its norm.

    Parameters
    ----------
    expression
        Such as "(x + y) * z".
    set
        The value of a variable.
    model
        A model part, such as "convnet(4)", instead of an expression.
    size
        Height and width of the images: "8" or "16x8".
    use
        A Python file with your own parts.
    json
        Print the nodes as JSON on stdout.
    """
    if bool(expression) == bool(model):
        raise UsageError(f'Expected an expression, such as "(x + y) * z", or --model, received {"both" if model else "neither"}.')
    if model and set:
        raise UsageError("Expected --set with an expression only, received it with --model.")
    values = _read_values(set or [])
    from goodfit.core.trust import trust_own_code
    from goodfit.terminal.streams import SPINNER, print_json, print_lines

    SPINNER.show("loading PyTorch")
    from goodfit.lab.tracing import trace as trace_graph
    from goodfit.lab.tracing import trace_network

    trust_own_code([model], use or [])
    graph = trace_network(model, size, use or []) if model else trace_graph(expression, values)
    if json:
        print_json(graph.to_dict())
    else:
        print_lines(*str(graph).split("\n"))


def _read_values(settings: list[str]) -> dict[str, float]:
    """The numbers of the variables."""
    values: dict[str, float] = {}
    for setting in settings:
        name, _, text = (word.strip() for word in setting.partition("="))
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not name.isidentifier() or not math.isfinite(number):
            raise UsageError(f'Expected --set NAME=NUMBER, such as --set x=-2, received "{setting}".')
        if name in values:
            raise UsageError(f"Expected {name} once, received it twice.")
        values[name] = number
    return values
