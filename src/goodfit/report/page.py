"""The page: all sections in one HTML file that opens offline and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path

from goodfit.core.files import write
from goodfit.core.run import Run
from goodfit.report.markup import Html, paragraph, tag
from goodfit.report.record import Record, at, read_record
from goodfit.report.sections.classes import classes
from goodfit.report.sections.confusion import confusion
from goodfit.report.sections.curves import curves
from goodfit.report.sections.data import data
from goodfit.report.sections.headline import headline
from goodfit.report.sections.machine import machine, openings
from goodfit.report.sections.recipe import recipe
from goodfit.report.sections.timing import timing
from goodfit.report.sections.worst import worst

SECTIONS = (  # in the order of the page: anchor, name in the menu, and what makes it
    ("curves", "Curves", curves),
    ("confusion", "Confusion", confusion),
    ("classes", "Classes", classes),
    ("worst", "Worst errors", worst),
    ("recipe", "Recipe", recipe),
    ("data", "Data", data),
    ("openings", "Test split", openings),
    ("timing", "Time", timing),
    ("machine", "Machine", machine),
)


def write_report(run: Run) -> Path:
    """Write `report.html` into the run folder, whole or not at all.

    Returns:
        The file's path.

    Raises:
        GoodfitError: the folder cannot be written.
    """
    path = run.path / "report.html"
    write(path, render(run))
    return path


def render(run: Run) -> str:
    """The report as one HTML text; what the run folder lacks is left out or said to be missing."""
    record = read_record(run)
    sections = [(anchor, name, make(record)) for anchor, name, make in SECTIONS]
    menu = [tag("a", name, attrs={"href": f"#{anchor}"}) for anchor, name, content in sections if content]
    body = tag(
        "body",
        tag("main", headline(record), tag("nav", *menu, attrs={"aria-label": "Sections"}), *(content for *_, content in sections)),
        footer(record),
        *(tag("script", Html(script)) for script in scripts()),
    )
    return f'<!doctype html>\n<html lang="en">{head(record)}{body}</html>\n'


def head(record: Record) -> Html:
    """The page's head: nothing may be loaded from elsewhere, and no script may run but ours."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts())
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    name = str(at(record.about, "data", "name") or record.recipe.get("data") or "training")
    return tag(
        "head",
        tag("meta", attrs={"charset": "utf-8"}),
        tag("meta", attrs={"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", attrs={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", attrs={"name": "color-scheme", "content": "light dark"}),
        tag("title", f"{name} · {record.run.name} · Goodfit report"),
        tag("link", attrs={"rel": "icon", "href": "data:,"}),
        tag("style", Html(static("uPlot.min.css")), Html(static("report.css"))),
    )


def footer(record: Record) -> Html:
    """Where the page came from, and the license of the script it carries."""
    damaged = f" Not readable there: {', '.join(record.damaged)}." if record.damaged else ""
    version = f" by Goodfit {at(record.about, 'goodfit')}" if at(record.about, "goodfit") else ""
    said = f"Made from the run folder {record.run.name}{version}.{damaged} This file is complete; it loads nothing from elsewhere."
    license_text = Html(f"<!--\nCharts by uPlot.\n\n{static('uPlot.LICENSE')}-->")
    return tag("footer", paragraph(said), license_text)


def scripts() -> tuple[str, ...]:
    """The scripts of the page, in the order they run."""
    return static("uPlot.iife.min.js"), static("report.js")


def static(name: str) -> str:
    """A file that the package carries."""
    return (resources.files("goodfit.report") / "static" / name).read_text(encoding="utf-8")
