"""The page of a run, and of an ensemble: all sections that have something to say of it."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.run import Run
from goodfit.report.frame import framed
from goodfit.report.record import at, read_record
from goodfit.report.sections.calibration import calibration
from goodfit.report.sections.classes import classes
from goodfit.report.sections.confusion import confusion
from goodfit.report.sections.curves import curves
from goodfit.report.sections.data import data
from goodfit.report.sections.ensemble import ensemble
from goodfit.report.sections.headline import headline
from goodfit.report.sections.machine import machine, openings
from goodfit.report.sections.recipe import recipe
from goodfit.report.sections.timing import timing
from goodfit.report.sections.worst import worst

SECTIONS = (  # in the order of the page: anchor, name in the menu, and what makes it
    ("curves", "Curves", curves),
    ("ensemble", "Models", ensemble),
    ("confusion", "Confusion", confusion),
    ("classes", "Classes", classes),
    ("calibration", "Calibration", calibration),
    ("worst", "Worst errors", worst),
    ("recipe", "Recipe", recipe),
    ("data", "Data", data),
    ("openings", "Test split", openings),
    ("timing", "Time", timing),
    ("machine", "Machine", machine),
)
OF_ONE = ("curves", "recipe", "timing")  # sections on the training of one model, which an ensemble has none of


def render(folder: Path) -> str:
    """The report as one HTML text; what the folder lacks is left out or said to be missing."""
    record = read_record(Run(folder))
    left_out = OF_ONE if record.ensemble is not None else ()
    parts = [(anchor, name, make(record)) for anchor, name, make in SECTIONS if anchor not in left_out]
    name = str(at(record.about, "data", "name") or record.recipe.get("data") or "training")
    what = "run folder" if record.ensemble is None else "folder of the ensemble"
    header = headline(record)  # before the source, which names the files that did not read
    source = record.files.source(what, at(record.about, "goodfit"))
    return framed(f"{name} · {record.run.name} · Goodfit report", header, parts, source)
