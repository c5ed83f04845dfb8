"""The frame of a page: one HTML file that opens offline and loads nothing from a network."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from goodfit.report.markup import Html, paragraph, tag

REPORT_FILE = "report.html"
PagePart = tuple[str, str, Html]  # a section: its anchor, its name in the menu, and its content; left out if that is empty
NO_SCRIPTS = tag("noscript", paragraph("The charts need JavaScript, which is switched off; the tables hold their main numbers."))


def render_page(title: str, header: Html, parts: Iterable[PagePart], source: str) -> str:
    """Render a page as one HTML text: `title` is that of the browser's tab, `source` the sentences that say what it was made from."""
    sections = [part for part in parts if part[2]]
    menu = [tag("a", name, attrs={"href": f"#{anchor}"}) for anchor, name, _ in sections]
    body = tag(
        "body",
        tag("main", header, tag("nav", *menu, attrs={"aria-label": "Sections"}), NO_SCRIPTS, *(content for *_, content in sections)),
        render_footer(source),
        *(tag("script", Html(script)) for script in read_scripts()),
    )
    return f'<!doctype html>\n<html lang="en">{render_head(title)}{body}</html>\n'


def link_to_run(folder: Path, name: str) -> Html:
    """Name a run within a folder, as a link to its page if it has one."""
    label, page = tag("code", name), f"{name}/{REPORT_FILE}"
    return tag("a", label, attrs={"href": quote(page, errors="surrogateescape")}) if (folder / page).is_file() else label


def render_head(title: str) -> Html:
    """Render the head, whose policy forbids to load anything and to run any script but ours."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in read_scripts())
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", attrs={"charset": "utf-8"}),
        tag("meta", attrs={"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", attrs={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", attrs={"name": "color-scheme", "content": "light dark"}),
        tag("title", title),
        tag("link", attrs={"rel": "icon", "href": "data:,"}),
        tag("style", Html(read_static("uPlot.min.css")), Html(read_static("report.css"))),
    )


def render_footer(source: str) -> Html:
    """Render the footer: what the page was made from, and the license of the script it carries."""
    license_text = Html(f"<!--\nCharts by uPlot.\n\n{read_static('uPlot.LICENSE')}-->")
    return tag("footer", paragraph(f"{source} This file is complete and loads nothing from elsewhere."), license_text)


def read_scripts() -> tuple[str, ...]:
    """Read the scripts of the page, in the order in which they run."""
    return read_static("uPlot.iife.min.js"), read_static("report.js")


@functools.cache
def read_static(name: str) -> str:
    """Read a file that ships with the package."""
    return (resources.files("goodfit.report") / "static" / name).read_text(encoding="utf-8")
