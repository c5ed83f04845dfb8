"""goodfit zoo: trained weights to give to others, each with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from goodfit.core.errors import UsageError
from goodfit.core.figures import find_figure
from goodfit.core.run import Run
from goodfit.core.words import format_bytes
from goodfit.runs.zoo import add_to_zoo, list_zoo
from goodfit.terminal.streams import print_json, print_lines
from goodfit.terminal.tables import format_table

HEADER = ("weights", "model", "trained on", "classes", "score", "license", "state", "size")


def zoo(
    folder: Path = Path("zoo"),
    /,
    *,
    add: str = "",
    terms: Annotated[str, Parameter(name="--license")] = "",
    name: str = "",
    json: bool = False,
) -> None:
    """List the weights in a model zoo of your own, each checked against the SHA-256 on its card; or add those of a run.

    An entry starts a training by --from zoo/NAME, or predicts, wherever the folder is copied to.

    Parameters
    ----------
    folder
        The folder of the zoo.
    add
        A finished run whose model is copied into the zoo.
    terms
        With --add: the license under which others may use the weights.
    name
        With --add: the name of the weights in the zoo (default: that of the run).
    json
        Print the list as JSON on stdout.
    """
    if not add and (terms or name):
        raise UsageError("Expected --license and --name beside --add alone, received no --add.")
    if add:
        add_to_zoo(Run.open(add), folder, terms, name)
    rows = list_zoo(folder)
    if json:
        print_json(rows)
    elif rows:
        print_lines(*format_table([format_row(row) for row in rows], "<<<><<<>", HEADER).split("\n"))


def format_row(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of an entry; of a card that does not read there are few."""
    if "model" not in row:
        return (row["path"], "", "", "", "", "", row["state"], format_bytes(row["bytes"]))
    figure = find_figure(row)
    score = f"{figure.name} {figure.format(row.get(figure.key))}"
    classes = str(len(row["classes"]))
    return (
        row["path"],
        row["model"].partition("(")[0],
        row["data"],
        classes,
        score,
        row["license"],
        row["state"],
        format_bytes(row["bytes"]),
    )
