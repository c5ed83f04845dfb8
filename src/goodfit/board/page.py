"""The page of the board: a frame that its scripts fill, in the style of the report."""

from __future__ import annotations

import functools
from importlib import resources

from goodfit.core.errors import UsageError
from goodfit.report.frame import read_static
from goodfit.report.markup import paragraph, tag

KINDS = {".js": "text/javascript", ".css": "text/css", ".json": "application/json"}  # of the files that a browser gets
OF_REPORT = ("uPlot.iife.min.js", "uPlot.min.css", "report.css")
ICON = (  # a rising curve
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Cpath d='M4 26C10 24 10 8 28 6' fill='none'"
    " stroke='%230b6e69' stroke-width='4' stroke-linecap='round'/%3E%3C/svg%3E"
)


def render_board(page_token: str, needs_token: bool) -> str:
    """Render the page; `needs_token` says whether the reader has to enter the token of the board first."""
    styles = [tag("link", attrs={"rel": "stylesheet", "href": f"/static/{name}"}) for name in ("uPlot.min.css", "report.css", "board.css")]
    head = tag(
        "head",
        tag("meta", attrs={"charset": "utf-8"}),
        tag("meta", attrs={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", attrs={"name": "color-scheme", "content": "light dark"}),
        tag("meta", attrs={"name": "board-token", "content": page_token}),
        tag("meta", attrs={"name": "board-needs-token", "content": "yes" if needs_token else "no"}),
        tag("meta", attrs={"name": "board-languages", "content": " ".join(list_languages())}),
        tag("title", "Goodfit board"),
        tag("link", attrs={"rel": "icon", "href": ICON}),
        *styles,
    )
    scripts = [
        tag("script", attrs={"src": "/static/uPlot.iife.min.js", "defer": ""}),
        tag("script", attrs={"src": "/static/board.js", "type": "module"}),
    ]
    noscript = tag("noscript", paragraph("The board needs JavaScript, which is switched off; goodfit runs lists the runs in a terminal."))
    body = tag("body", tag("div", attrs={"id": "board"}), noscript, *scripts)
    return f"<!doctype html>\n{tag('html', head, body, attrs={'lang': 'en'})}\n"


def list_languages() -> list[str]:
    """The languages of the page: English, in which its scripts are written, and one for each file of words, such as lang-ko.json."""
    names = (file.name for file in (resources.files("goodfit.board") / "static").iterdir())
    return ["en", *sorted(name[len("lang-") : -len(".json")] for name in names if name.startswith("lang-") and name.endswith(".json"))]


@functools.cache
def read_asset(name: str) -> tuple[bytes, str]:
    """Read a file that the page loads, and its media type.

    Raises:
        UsageError: there is no such file.
    """
    kind = KINDS.get(name[name.rfind(".") :])
    if kind and name in OF_REPORT:
        return read_static(name).encode(), kind
    names = {file.name: file for file in (resources.files("goodfit.board") / "static").iterdir()}
    if kind is None or name not in names:
        raise UsageError("There is no such file.")
    return names[name].read_bytes(), kind
