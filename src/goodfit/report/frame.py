"""The frame of a page: one HTML file that opens offline and asks nothing of any network."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from goodfit.report.markup import Html, paragraph, tag

FILE = "report.html"
Part = tuple[str, str, Html]  # a section: its anchor, its name in the menu, and what it holds; left out when that is empty


def framed(title: str, header: Html, parts: Iterable[Part], source: str) -> str:
    """A page as one HTML text: `title` is that of the browser's tab, `source` the sentences that say what it was made from."""
    there = [part for part in parts if part[2]]
    menu = [tag("a", name, attrs={"href": f"#{anchor}"}) for anchor, name, _ in there]
    body = tag(
        "body",
        tag("main", header, tag("nav", *menu, attrs={"aria-label": "Sections"}), *(content for *_, content in there)),
        footer(source),
        *(tag("script", Html(script)) for script in scripts()),
    )
    return f'<!doctype html>\n<html lang="en">{head(title)}{body}</html>\n'


def link(folder: Path, name: str) -> Html:
    """A run within a folder, by its name there, that leads to its page where it has one."""
    shown, page = tag("code", name), f"{name}/{FILE}"
    return tag("a", shown, attrs={"href": quote(page)}) if (folder / page).is_file() else shown


def head(title: str) -> Html:
    """The page's head: nothing may be loaded from elsewhere, and no script may run but ours."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts())
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", attrs={"charset": "utf-8"}),
        tag("meta", attrs={"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", attrs={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", attrs={"name": "color-scheme", "content": "light dark"}),
        tag("title", title),
        tag("link", attrs={"rel": "icon", "href": "data:,"}),
        tag("style", Html(static("uPlot.min.css")), Html(static("report.css"))),
    )


def footer(source: str) -> Html:
    """Where the page came from, and the license of the script it carries."""
    license_text = Html(f"<!--\nCharts by uPlot.\n\n{static('uPlot.LICENSE')}-->")
    return tag("footer", paragraph(f"{source} This file is complete; it loads nothing from elsewhere."), license_text)


def scripts() -> tuple[str, ...]:
    """The scripts of the page, in the order they run."""
    return static("uPlot.iife.min.js"), static("report.js")


@functools.cache
def static(name: str) -> str:
    """A file that the package carries."""
    return (resources.files("goodfit.report") / "static" / name).read_text(encoding="utf-8")
