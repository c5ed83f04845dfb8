"""Markup in which text is always escaped: only what `tag` and `joined` made counts as HTML."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence

from goodfit.core import words

VOID = ("img", "meta", "link", "br")
THIN = "\u00a0"  # keeps a number and its unit on one line


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | int | None
NOTHING = Html("")


def joined(children: Iterable[Child]) -> Html:
    """Children one after the other, escaped unless they are markup already."""
    return Html("".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children if child is not None))


def tag(spec: str, *children: Child, attrs: Mapping[str, str | int | None] | None = None) -> Html:
    """An element: `tag("td.number", "98 %")` is `<td class="number">98 %</td>`; attributes that are None are left out."""
    name, *classes = spec.split(".")
    given = {"class": " ".join(classes) or None, **(attrs or {})}
    inside = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items() if value is not None)
    return Html(f"<{name}{inside}>") if name in VOID else Html(f"<{name}{inside}>{joined(children)}</{name}>")


def section(anchor: str, title: str, *children: Child) -> Html:
    """A section with its heading; empty when all its children are."""
    return tag("section", tag("h2", title), *children, attrs={"id": anchor}) if any(children) else NOTHING


def paragraph(*children: Child) -> Html:
    return tag("p", *children)


def with_code(text: str) -> Html:
    """A sentence whose `commands` stand between backticks."""
    return joined(tag("code", part) if place % 2 else part for place, part in enumerate(text.split("`")))


def folded(summary: str, *children: Child) -> Html:
    """What is there for those who look for it."""
    return tag("details", tag("summary", summary), *children)


def listed(items: Sequence[Child], spec: str = "ul") -> Html:
    return tag(spec, *(tag("li", item) for item in items)) if items else NOTHING


@dataclasses.dataclass(frozen=True)
class Column:
    """A table's column: its heading, and `number`, `wide` or `text` for how its cells are set."""

    title: str
    kind: str = "text"


def table(columns: Sequence[Column], body: Iterable[Sequence[Child]], caption: str = "") -> Html:
    """A table whose first cell in each row is that row's heading."""
    head = tag("thead", tag("tr", *(tag(f"th.{c.kind}", c.title, attrs={"scope": "col"}) for c in columns)))
    lines = []
    for first, *rest in body:
        cells = [tag(f"td.{c.kind}", cell) for c, cell in zip(columns[1:], rest, strict=True)]
        lines.append(tag("tr", tag("th", first, attrs={"scope": "row"}), *cells))
    inner = tag("table", tag("caption", caption) if caption else None, head, tag("tbody", *lines))
    return scrolling(inner, caption or ", ".join(c.title for c in columns if c.title))


def scrolling(inner: Html, label: str) -> Html:
    """Something wide, in a frame that scrolls by itself, by keyboard too."""
    return tag("div.scroll", inner, attrs={"tabindex": 0, "role": "region", "aria-label": label})


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Names and values, those without a value left out."""
    known = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value not in (None, "")]
    return tag("dl", *known) if known else NOTHING


def bar(share: float | None, low: float | None = None, high: float | None = None) -> Html:
    """A bar from 0 to `share` of its cell, with a whisker from `low` to `high`; for the eye only, the number stands beside it."""
    if share is None:
        return NOTHING
    whisker = (
        tag("i", attrs={"style": f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"})
        if low is not None and high is not None
        else None
    )
    return tag("div.bar", tag("b", attrs={"style": f"width:{100 * min(max(share, 0), 1):.2f}%"}), whisker, attrs={"aria-hidden": "true"})


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def percent(share: float | None, digits: int = 1) -> str:
    """`98.5 %` from 0.985, `not measured` from None."""
    return "not measured" if share is None else words.format_percent(share, digits).replace(" ", THIN)


def points(share: float) -> str:
    """A difference of two shares: `12 points`, `0.8 points`."""
    value = 100 * abs(share)
    return f"{value:.0f}{THIN}points" if value >= 9.95 else f"{value:.1f}{THIN}points"


def significant(x: float | None, digits: int = 3) -> str:
    """A number with a few significant digits: `0.0123`, `1,230`, `1.2e-05`."""
    if x is None:
        return "not measured"
    if x == 0 or 1e-4 <= abs(x) < 1e6:
        decimals = digits - 1 - (math.floor(math.log10(abs(x))) if x else 0)
        return f"{x:,.{max(0, decimals)}f}"
    return f"{x:.{digits - 1}e}"


def millions(n: float) -> str:
    """`11.2 million`, `340 thousand`, `650`."""
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if n >= size:
            return f"{n / size:.3g}{THIN}{unit}"
    return f"{n:.0f}"
