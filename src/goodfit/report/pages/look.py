"""The page of `goodfit look`: pictures of a network at work on some images."""

from __future__ import annotations

from typing import Any

from goodfit.report.frame import render_page
from goodfit.report.markup import section, tag
from goodfit.report.sections.look import TITLE, render_pictures


def render_look_page(name: str, content: dict[str, Any], source: str) -> str:
    """Render the pictures of the network of a run called `name` as one HTML text; `source` is the sentence that says what of."""
    header = tag("header", tag("p.eyebrow", "Goodfit look"), tag("h1", name))
    return render_page(f"{name} · Goodfit look", header, [("look", TITLE, section("look", TITLE, *render_pictures(content)))], source)
