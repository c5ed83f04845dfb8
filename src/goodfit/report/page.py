"""Write the report of a folder, with the page that suits the kind of folder."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.files import write_atomic
from goodfit.core.run import SEARCH_FILE, not_found
from goodfit.report.frame import REPORT_FILE
from goodfit.report.pages.folds import render_folds
from goodfit.report.pages.run import render_run
from goodfit.report.pages.search import render_search

RENDERERS = {"recipe.toml": render_run, SEARCH_FILE: render_search, "folds.json": render_folds}  # by a file that identifies the folder


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, an ensemble, a search or folds, whole or not at all, and return its path.

    Raises:
        UsageError: the folder is none of these.
        GoodfitError: the folder cannot be written.
    """
    write_atomic(folder / REPORT_FILE, render_report(folder))
    return folder / REPORT_FILE


def render_report(folder: Path) -> str:
    """Render the report of a folder as one HTML text.

    Raises:
        UsageError: the folder is none of a run, an ensemble, a search or folds.
    """
    for file, page in RENDERERS.items():
        if (folder / file).is_file():
            return page(folder)
    raise not_found("the folder of a run, an ensemble, a search or folds", folder)
