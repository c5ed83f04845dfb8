"""What runs have to show, as pieces of HTML that the report makes too, and what tells several runs apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.run import Run
from goodfit.core.run_files import get
from goodfit.core.words import format_duration
from goodfit.report.markup import format_large_count
from goodfit.report.pages.comparison import render_comparison
from goodfit.report.pages.run import ONLY_OF_RUNS
from goodfit.report.pages.run import SECTIONS as REPORT_SECTIONS
from goodfit.report.record import FolderReader, as_items, as_number, get_number, read_record
from goodfit.report.sections.headline import render_headline
from goodfit.study.compare import compare_runs, read_entries
from goodfit.study.differences import find_differences

WITH_CHARTS = ("curves", "calibration", "outputs")  # which the board draws itself, or leaves to the report
SECTIONS = {"headline": render_headline} | {anchor: render for anchor, _, render in REPORT_SECTIONS if anchor not in WITH_CHARTS}
MAX_COMPARED = 18


def render_sections(folder: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Render sections of the report of a run as HTML; those that have nothing to show are left out.

    Raises:
        UsageError: there is no such section.
    """
    if any(name not in SECTIONS for name in names):
        raise UsageError(f"Expected sections among {', '.join(SECTIONS)}, received another.")
    record = read_record(Run(folder))
    left_out = ONLY_OF_RUNS if record.ensemble is not None else ()
    return [{"name": name, "html": html} for name in names if name not in left_out and (html := str(SECTIONS[name](record)))]


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """What tells runs apart: the "differences" of their recipes, each with a value for each run, and for each run its "costs" by name.

    Raises:
        UsageError: there are none, or too many.
    """
    check_count(folders)
    readers = [FolderReader(folder) for folder in folders]
    recipes = [reader.read_toml("recipe.toml")[1] for reader in readers]
    return {"differences": find_differences(recipes), "costs": [describe_costs(reader.read_json("about.json")) for reader in readers]}


def describe_costs(about: dict[str, Any]) -> dict[str, str]:
    """The machine, the size of the network, and the time of a run with the share of each stage, as far as they are known."""
    seconds = {name: number for name, value in as_items(get(about, "seconds")) if (number := as_number(value)) is not None}
    total, parameters = sum(seconds.values()), get_number(about, "parameters")
    return {
        **({"parameters": format_large_count(parameters)} if parameters else {}),
        **({"time": format_duration(total)} if total else {}),
        **{f"time, {name}": f"{100 * x / total:.0f} %" for name, x in seconds.items() if total},
        **({"machine": str(device)} if (device := get(about, "machine", "gpu") or get(about, "machine", "cpu")) else {}),
    }


def render_comparison_page(folders: Sequence[Path]) -> str:
    """Render the page of `goodfit compare --html`.

    Raises:
        UsageError: there are none or too many, one has no scores yet, or they are of several tasks.
    """
    check_count(folders)
    return render_comparison(compare_runs(read_entries(folders)))


def check_count(folders: Sequence[Path]) -> None:
    """Refuse to compare none, or more than can be told apart.

    Raises:
        UsageError: they are.
    """
    if not 1 <= len(folders) <= MAX_COMPARED:
        raise UsageError(f"Expected 1 to {MAX_COMPARED} runs to compare, received {len(folders)}.")
