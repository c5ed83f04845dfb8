"""The site: `make docs` builds README.md and every page of docs/ into site/, to be read offline; a link that leads nowhere is an error."""

from __future__ import annotations

import shutil
from pathlib import Path

from pygments.lexers.shell import BashLexer
from sphinx.application import Sphinx

project = "Goodfit"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "bench/**/README.md", "bench/README.md"]
exclude_patterns = [".venv", "runs", "site"]  # not looked through
myst_heading_anchors = 3  # as GitHub writes them
html_theme = "alabaster"
html_theme_options = {"fixed_sidebar": True, "page_width": "1400px", "body_max_width": "auto", "font_family": "sans-serif"}
html_show_sphinx = html_copy_source = False

MENU = """

```{toctree}
:hidden:
:glob:

docs/tutorial
README.ko
docs/*
bench/README
bench/ward/README
CONTRIBUTING
CHANGELOG
```
"""


def add_menu(_app: Sphinx, page: str, source: list[str]) -> None:
    """The first page gets the menu, which has whatever lies in docs/."""
    if page == root_doc:
        source[0] += MENU


def copy_index(app: Sphinx, fault: Exception | None) -> None:
    """The first page is also index.html."""
    if fault is None:
        shutil.copyfile(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    app.add_lexer("console", BashLexer)  # a command need not begin with a prompt
    app.connect("source-read", add_menu)
    app.connect("build-finished", copy_index)
