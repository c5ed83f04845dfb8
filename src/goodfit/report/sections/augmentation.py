"""Augmentation: some training images, and what it makes of them."""

from __future__ import annotations

from goodfit.report.markup import EMPTY, Html, paragraph, picture_card, section, tag
from goodfit.report.record import Record, as_rows

MAX_ROWS, MAX_CELLS = 8, 12
INTRO = (
    "Training images, each beside what augmentation makes of it in five epochs, at its full strength; below it stand the"
    " classes of its target where two are mixed. What you can no longer recognize, the model cannot learn from."
)


def render_augmentation(record: Record) -> Html:
    """Render a row of pictures for each image."""
    rows = record.files.read_json("augment.json").get("rows")
    lines = [render_line(as_rows(row)[:MAX_CELLS]) for row in (rows if isinstance(rows, list) else [])[:MAX_ROWS]]
    lines = [line for line in lines if line]
    return section("augmentation", "Augmentation", paragraph(INTRO), *lines) if lines else EMPTY


def render_line(cells: list[dict[str, object]]) -> Html:
    """Render one image: the original, then its draws."""
    original = str(cells[0].get("caption") or "") if cells else ""
    figures = []
    for place, cell in enumerate(cells):
        picture, caption = str(cell.get("picture") or ""), str(cell.get("caption") or "")
        if not picture.startswith("data:image/"):
            return EMPTY
        label = f"{caption}, original" if place == 0 else caption if caption.count(", ") > original.count(", ") else ""
        figures.append(picture_card(picture, f"{caption}, {f'draw {place}' if place else 'original'}", label))
    return tag("div.draws", *figures) if figures else EMPTY
