"""The images the model is most wrong about, with their pictures."""

from __future__ import annotations

from goodfit.report.figures import picture
from goodfit.report.markup import NOTHING, Html, paragraph, percent, section, significant, tag
from goodfit.report.record import Record, number

MOST = 64
SMALL = 40  # pixels; below, a picture is enlarged with its pixels kept square
INTRO = (
    "The images with the highest loss: where the model was surest of a wrong answer. "
    "Look whether the picture or the label is at fault; wrong labels gather here."
)


def worst(record: Record) -> Html:
    """A card for each image: its picture, what it is labeled, what the model said and how surely."""
    cards = [card(record, image) for image in record.worst[:MOST]]
    return section("worst", "Worst errors", paragraph(INTRO), tag("div.cards", *cards)) if cards else NOTHING


def card(record: Record, image: dict[str, object]) -> Html:
    """One image."""
    name, truth, predicted = (str(image.get(key) or "unknown") for key in ("name", "truth", "predicted"))
    sure, loss = number(image, "probability"), number(image, "loss")
    found = picture(record.run.path, image.get("file") or "")
    shown = tag("div.gone", "no picture")
    if found:
        kind = "img.pixels" if max(found.width, found.height) < SMALL else "img"
        size = {"width": found.width, "height": found.height}
        shown = tag(kind, attrs={"src": found.uri, "alt": f"{truth}, taken for {predicted}", **size})
    return tag(
        "figure.card",
        tag("div.frame", shown),
        tag(
            "figcaption",
            tag("strong", predicted, tag("span.dim", f" {percent(sure, 0)}" if sure is not None else "")),
            tag("span", "labeled ", tag("em", truth)),
            tag(
                "span.dim.name",
                name.rpartition("/")[2],
                attrs={"title": name + (f", loss {significant(loss)}" if loss is not None else "")},
            ),
        ),
    )
