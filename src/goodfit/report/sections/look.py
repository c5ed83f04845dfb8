"""Pictures of the network: weights, what speaks for its answers, activations, units, and images as points."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from goodfit.core.words import count_of
from goodfit.report.markup import (
    EMPTY,
    Column,
    Html,
    bar,
    details,
    format_percent,
    inline_code,
    join,
    paragraph,
    picture_card,
    section,
    table,
    tag,
)
from goodfit.report.record import Record, as_rows, get_number, get_share

MAX_SHEETS, MAX_ROWS, MAX_CELLS, MAX_UNITS = 12, 60, 60, 300
COLOR = re.compile("#[0-9a-f]{6}")
TITLE = "Pictures of the network"
ALL_SHEETS = {"weights", "evidence", "activations", "plane"}
FOLDED = ("activations",)  # in a report, which has much else


def render_look(record: Record) -> Html:
    """Render the pictures that a run has of its network; where its training had no time for all, how to draw the others."""
    content = record.files.read_json("look.json")
    parts = render_pictures(content, FOLDED)
    is_whole = {str(sheet.get("name")) for sheet in as_rows(content.get("sheets"))} >= ALL_SHEETS
    hint = paragraph(inline_code("The training had no time to draw more; `goodfit look RUN` does.", record.shell_path))
    return section("look", TITLE, *parts, hint if parts and not is_whole else None)


def render_pictures(content: dict[str, Any], folded: Collection[str] = ()) -> Sequence[Html]:
    """Render a heading, a sentence and the pictures of each sheet, those of the `folded` ones folded away, then the table of units."""
    sheets = [(str(sheet.get("name")), render_sheet(sheet)) for sheet in as_rows(content.get("sheets"))[:MAX_SHEETS]]
    parts = [details(f"The {name}", sheet) if name in folded else sheet for name, sheet in sheets]
    return [part for part in (*parts, render_units(content)) if part]


def render_sheet(sheet: dict[str, Any]) -> Html:
    """Render a sheet: its pictures in rows of six, as cards, or large."""
    rows = sheet.get("rows")
    lines = [as_rows(row)[:MAX_CELLS] for row in (rows if isinstance(rows, list) else [])[:MAX_ROWS]]
    layout = sheet.get("layout")
    cells = [[picture for cell in line if (picture := render_picture(cell, layout == "large"))] for line in lines]
    if layout == "rows":
        pictures = join(tag("div.draws", *line) for line in cells if line)
    else:
        kind = "div.planes" if layout == "large" else "div.cards"
        found = [picture for line in cells for picture in line]
        pictures = tag(kind, *found) if found else EMPTY
    return join([tag("h3", str(sheet.get("title") or "")), paragraph(str(sheet.get("text") or "")), pictures, render_legend(sheet)])


def render_picture(cell: dict[str, Any], is_drawing: bool) -> Html:
    """Render one picture with its caption; nothing where it is no picture."""
    uri, caption = str(cell.get("picture") or ""), str(cell.get("caption") or "")
    return picture_card(uri, caption, caption, is_drawing) if uri.startswith("data:image/") else EMPTY


def render_legend(sheet: dict[str, Any]) -> Html:
    """Render what the colors of a plane stand for."""
    legend = sheet.get("legend")
    pairs = [
        (str(pair[0]), str(pair[1])) for pair in (legend if isinstance(legend, list) else []) if isinstance(pair, list) and len(pair) == 2
    ]
    entries = [tag("span", tag("i", attrs={"style": f"background:{color}"}), name) for name, color in pairs if COLOR.fullmatch(color)]
    return tag("p.legend", *entries) if entries else EMPTY


def render_units(content: dict[str, Any]) -> Html:
    """Render the share of dead units and of saturated outputs of each layer."""
    rows = as_rows(content.get("units"))[:MAX_UNITS]
    images = int(get_number(content, "layers", "unit_images") or 0)
    if not rows:
        return EMPTY
    dead = sum((get_share(row, "dead") or 0) > 0 for row in rows)
    verdict = f"{count_of(dead, 'layer')} of {len(rows)} {'has' if dead == 1 else 'have'} dead units." if dead else "No unit is dead."
    text = (
        f"{verdict} A unit (a channel of maps) is dead if it is zero everywhere in all of {count_of(images, 'image')}: it gives and learns"
        " nothing. Outputs at the flat ends of a tanh or sigmoid are saturated: hardly any gradient passes them."
    )
    columns = [Column("Layer"), Column("Activation"), Column("Units", "number"), Column("Dead", "number"), Column("", "wide")]
    saturated = [get_share(row, "saturated") for row in rows]
    has_saturated = any(share is not None for share in saturated)
    body = [
        [
            str(row.get("layer")), str(row.get("activation")), f"{int(get_number(row, 'units') or 0):,}",
            format_percent(get_share(row, "dead"), 0), bar(get_share(row, "dead")),
            *([format_percent(share, 0) if share is not None else ""] if has_saturated else []),
        ]
        for row, share in zip(rows, saturated, strict=True)
    ]  # fmt: skip
    titles = [*columns, Column("Saturated", "number")] if has_saturated else columns
    return join([tag("h3", "Dead and saturated units"), paragraph(text), table(titles, body)])
