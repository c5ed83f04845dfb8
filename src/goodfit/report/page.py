"""The page of a folder: which kind it is, by what the folder holds, and the file it is written to."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.files import write_atomic
from goodfit.core.run import not_found
from goodfit.report.frame import FILE
from goodfit.report.pages import folds, run, search

PAGES = {"recipe.toml": run.render, "search.json": search.render, "folds.json": folds.render}  # by a file that the folder holds


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, an ensemble, a search or folds, whole or not at all; returns the file's path.

    Raises:
        UsageError: the folder is none of these.
        GoodfitError: the folder cannot be written.
    """
    write_atomic(folder / FILE, render(folder))
    return folder / FILE


def render(folder: Path) -> str:
    """The page of a folder as one HTML text.

    Raises:
        UsageError: the folder is none of a run, an ensemble, a search or folds.
    """
    for file, page in PAGES.items():
        if (folder / file).is_file():
            return page(folder)
    raise not_found("the folder of a run, an ensemble, a search or folds", folder)
