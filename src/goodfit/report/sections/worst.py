"""Worst errors: the images with the highest loss, with their pictures."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

from goodfit.report.markup import EMPTY, Html, format_number, format_percent, paragraph, section, tag
from goodfit.report.record import Record, get_number

MAX_IMAGES = 64
PIXELATED_BELOW = 40  # pixels on the longer side, below which an enlarged picture keeps its pixels square
INTRO = (
    "The images with the highest loss, where the model was most confident in a wrong answer. "
    "Check whether the picture or the label is at fault; wrong labels gather here."
)


@dataclasses.dataclass(frozen=True)
class EmbeddedPng:
    """A PNG file as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def embed_png(folder: Path, name: object) -> EmbeddedPng | None:
    """Embed the PNG `name` of a run folder; None if it is missing, is no PNG, or lies outside the folder."""
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        return None
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    return EmbeddedPng(f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height)


def render_worst(record: Record) -> Html:
    """Render a card for each image: its picture, its label, and the predicted class with its probability."""
    cards = [render_card(record, image) for image in record.worst[:MAX_IMAGES]]
    return section("worst", "Worst errors", paragraph(INTRO), tag("div.cards", *cards)) if cards else EMPTY


def render_card(record: Record, image: dict[str, object]) -> Html:
    """Render the card of one image."""
    name, truth, predicted = (str(image.get(key) or "unknown") for key in ("name", "truth", "predicted"))
    probability, loss = get_number(image, "probability"), get_number(image, "loss")
    picture = tag("div.gone", "no picture")
    if png := embed_png(record.run.path, image.get("file") or ""):
        kind = "img.pixels" if max(png.width, png.height) < PIXELATED_BELOW else "img"
        size = {"width": png.width, "height": png.height}
        picture = tag(kind, attrs={"src": png.uri, "alt": f"{truth}, taken for {predicted}", **size})
    return tag(
        "figure.card",
        tag("div.frame", picture),
        tag(
            "figcaption",
            tag("strong", predicted, tag("span.dim", f" {format_percent(probability, 0)}" if probability is not None else "")),
            tag("span", "labeled ", tag("em", truth)),
            tag(
                "span.dim.name",
                name.rpartition("/")[2],
                attrs={"title": name + (f", loss {format_number(loss)}" if loss is not None else "")},
            ),
        ),
    )
