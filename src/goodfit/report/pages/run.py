"""The page of a run or an ensemble: all sections that have something to show."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.run import Run
from goodfit.core.run_files import get
from goodfit.report.frame import render_page
from goodfit.report.record import read_record
from goodfit.report.sections.augmentation import render_augmentation
from goodfit.report.sections.calibration import render_calibration
from goodfit.report.sections.classes import render_classes
from goodfit.report.sections.confusion import render_confusion
from goodfit.report.sections.curves import render_curves
from goodfit.report.sections.data import render_data
from goodfit.report.sections.doctor import render_doctor
from goodfit.report.sections.ensemble import render_ensemble
from goodfit.report.sections.headline import render_headline
from goodfit.report.sections.look import render_look
from goodfit.report.sections.machine import render_machine, render_openings
from goodfit.report.sections.recipe import render_recipe
from goodfit.report.sections.timing import render_timing
from goodfit.report.sections.worst import render_worst

SECTIONS = (  # in the order of the page: anchor, name in the menu, and function that renders it
    ("curves", "Curves", render_curves),
    ("ensemble", "Models", render_ensemble),
    ("confusion", "Confusion", render_confusion),
    ("classes", "Classes", render_classes),
    ("calibration", "Calibration", render_calibration),
    ("worst", "Worst errors", render_worst),
    ("look", "Network", render_look),
    ("doctor", "Doctor", render_doctor),
    ("augmentation", "Augmentation", render_augmentation),
    ("recipe", "Recipe", render_recipe),
    ("data", "Data", render_data),
    ("openings", "Test split", render_openings),
    ("timing", "Time", render_timing),
    ("machine", "Machine", render_machine),
)
ONLY_OF_RUNS = ("curves", "augmentation", "recipe", "timing")  # the training of one model, which an ensemble does not have


def render_run(folder: Path) -> str:
    """Render the report of a run or an ensemble as one HTML text; what the folder lacks is left out or named as missing."""
    record = read_record(Run(folder))
    left_out = ONLY_OF_RUNS if record.ensemble is not None else ()
    parts = [(anchor, name, render(record)) for anchor, name, render in SECTIONS if anchor not in left_out]
    name = str(get(record.about, "data", "name") or record.recipe.get("data") or "training")
    kind = "run folder" if record.ensemble is None else "folder of the ensemble"
    header = render_headline(record)  # before the source, which names the files that could not be read
    source = record.files.describe_source(kind, get(record.about, "goodfit"))
    return render_page(f"{name} · {record.run.name} · Goodfit report", header, parts, source)
