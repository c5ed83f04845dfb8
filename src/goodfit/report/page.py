"""The page of a folder: which kind it is, by what the folder holds, and the file it is written to."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.files import write
from goodfit.core.run import Run, none_there
from goodfit.report.frame import FILE
from goodfit.report.pages import folds, run, search

KINDS = {"recipe.toml": run.render, "search.json": search.render, "folds.json": folds.render}  # what a folder holds, and its page


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, an ensemble, a search or folds, whole or not at all.

    Returns:
        The file's path.

    Raises:
        UsageError: the folder is none of these.
        GoodfitError: the folder cannot be written.
    """
    render = next((render for file, render in KINDS.items() if (folder / file).is_file()), None)
    if render is None:
        raise none_there("the folder of a run, an ensemble, a search or folds", folder)
    write(folder / FILE, render(Run(folder)))
    return folder / FILE
