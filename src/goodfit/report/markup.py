"""Building blocks of HTML, and numbers in words: text is always escaped unless it is `Html` already."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence

from goodfit.core import words
from goodfit.core.escapes import escape_controls

VOID_ELEMENTS = ("img", "meta", "link", "br")
NBSP = "\u00a0"  # the no-break space keeps a number and its unit on one line


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


Child = str | int | None
EMPTY = Html("")


def join(children: Iterable[Child]) -> Html:
    """Concatenate children, escaping those that are not `Html`; None is left out."""
    return Html("".join(child if isinstance(child, Html) else _escape(str(child)) for child in children if child is not None))


def _escape(text: str) -> str:
    return html.escape("\n".join(map(escape_controls, text.split("\n"))))


def tag(spec: str, *children: Child, attrs: Mapping[str, str | int | None] | None = None) -> Html:
    """Build an element: `tag("td.number", "98 %")` is `<td class="number">98 %</td>`. Attributes that are None are left out."""
    name, *classes = spec.split(".")
    attributes = {"class": " ".join(classes) or None, **(attrs or {})}
    inside = "".join(f' {key}="{_escape(str(value))}"' for key, value in attributes.items() if value is not None)
    return Html(f"<{name}{inside}>") if name in VOID_ELEMENTS else Html(f"<{name}{inside}>{join(children)}</{name}>")


def section(anchor: str, title: str, *children: Child) -> Html:
    """Build a section with a heading; it is empty if all its children are."""
    return tag("section", tag("h2", title), *children, attrs={"id": anchor}) if any(children) else EMPTY


def paragraph(*children: Child) -> Html:
    """Build a paragraph."""
    return tag("p", *children)


def inline_code(text: str, run: str = "RUN") -> Html:
    """Convert a sentence with commands between backticks, setting the commands as code; in these, the word RUN stands for `run`."""
    return join(tag("code", part.replace("RUN", run)) if index % 2 else part for index, part in enumerate(text.split("`")))


def plain_text(text: str, run: str = "RUN") -> str:
    """Convert a sentence with commands between backticks to a line for a terminal; in these, the word RUN stands for `run`."""
    parts = (part.replace("RUN", run) if index % 2 else part for index, part in enumerate(text.split("`")))
    return "".join(parts).replace(NBSP, " ")


def details(summary: str, *children: Child) -> Html:
    """Build a block that is folded away under its summary until the reader opens it."""
    return tag("details", tag("summary", summary), *children)


def bullet_list(items: Sequence[Child]) -> Html:
    """Build a bullet list; it is empty if there are no items."""
    return tag("ul", *(tag("li", item) for item in items)) if items else EMPTY


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and the style of its cells, one of `text`, `number` and `wide`."""

    title: str
    kind: str = "text"


def table(columns: Sequence[Column], body: Iterable[Sequence[Child]], caption: str = "", stacks: bool = False) -> Html:
    """Build a table; the first cell of each row is the heading of that row. On a phone it scrolls sideways, or `stacks` its cells."""
    head = tag("thead", tag("tr", *(tag(f"th.{c.kind}", c.title, attrs={"scope": "col"}) for c in columns)))
    lines = []
    for first, *rest in body:
        cells = [tag(f"td.{c.kind}", cell) for c, cell in zip(columns[1:], rest, strict=True)]
        lines.append(tag("tr", tag("th", first, attrs={"scope": "row"}), *cells))
    inner = tag("table.stacks" if stacks else "table", tag("caption", caption) if caption else None, head, tag("tbody", *lines))
    return scroll_box(inner, caption or ", ".join(c.title for c in columns if c.title))


def scroll_box(inner: Html, label: str) -> Html:
    """Put wide content into a box that scrolls on its own, also by keyboard."""
    return tag("div.scroll", inner, attrs={"tabindex": 0, "role": "region", "aria-label": label})


def picture_card(uri: str, alt: str, caption: str = "", is_drawing: bool = False) -> Html:
    """Build a picture in a square frame from its data URI, with a caption below it if there is one.

    A PNG is of few pixels, which are shown as squares, unless it is a drawing.
    """
    kind = "img.pixels" if uri.startswith("data:image/png") and not is_drawing else "img"
    image = tag(kind, attrs={"src": uri, "alt": alt})
    return tag("figure.card", tag("div.frame", image), tag("figcaption", caption) if caption else None)


def definition_list(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Build a list of names with their values, leaving out names without a value."""
    entries = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value not in (None, "")]
    return tag("dl", *entries) if entries else EMPTY


def bar(share: float | None, low: float | None = None, high: float | None = None) -> Html:
    """Build a bar that fills `share` of its cell, with a whisker from `low` to `high`. It is hidden from screen readers, which read the
    number beside it.
    """
    if share is None:
        return EMPTY
    whisker = (
        tag("i", attrs={"style": f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"})
        if low is not None and high is not None
        else None
    )
    return tag("div.bar", tag("b", attrs={"style": f"width:{100 * min(max(share, 0), 1):.2f}%"}), whisker, attrs={"aria-hidden": "true"})


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def format_percent(share: float | None, digits: int = 1) -> str:
    """Format 0.985 as `98.5 %`, and None as `not measured`."""
    return "not measured" if share is None else words.format_percent(share, digits).replace(" ", NBSP)


def format_interval(low: float | None, high: float | None) -> str:
    """Format an interval of shares as `80.5 % to 84.5 %`; empty without one."""
    return f"{format_percent(low)} to {format_percent(high)}" if low is not None else ""


def format_points(share: float) -> str:
    """Format the size of a difference of two shares: `12 points`, `0.8 points`."""
    value = 100 * abs(share)
    return f"{value:.0f}{NBSP}points" if value >= 9.95 else f"{value:.1f}{NBSP}points"


def format_number(x: float | None, digits: int = 3) -> str:
    """Format a number with a few significant digits: `0.0123`, `1,230`, `1.2e-05`; None is `not measured`."""
    if x is None:
        return "not measured"
    if x == 0 or 1e-4 <= abs(x) < 1e6:
        decimals = digits - 1 - (math.floor(math.log10(abs(x))) if x else 0)
        return f"{x:,.{max(0, decimals)}f}"
    return f"{x:.{digits - 1}e}"


def format_large_count(n: float) -> str:
    """Format a large count in words: `11.2 million`, `340 thousand`, `650`."""
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if n >= size:
            return f"{n / size:.3g}{NBSP}{unit}"
    return f"{n:.0f}"
