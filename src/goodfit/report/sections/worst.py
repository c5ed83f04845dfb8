"""Worst errors: the images with the highest loss, with their pictures, and right answers to compare them with."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.report.markup import EMPTY, Html, details, format_number, format_percent, paragraph, section, tag
from goodfit.report.record import FolderReader, Record, as_rows, get_number

MAX_IMAGES, MAX_RIGHT_IMAGES = 64, 10
OPEN_IMAGES = 10  # that are shown without unfolding
MAX_IMAGES_OF_FOLDS = 24  # as many as each fold keeps, so that no worse one is missing
PIXELATED_BELOW = 65  # pixels on the longer side, below which an enlarged picture keeps its pixels square
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
INTRO = (
    "The images with the highest loss, where the model was most confident in a wrong answer. "
    "Check whether the picture or the label is at fault; wrong labels gather here."
)
OTHER_INTRO = "The images with the highest loss. Check whether the picture or what is given for it is at fault; wrong values gather here."
RIGHT_INTRO = "For comparison, the surest right answer of each class above."


@dataclasses.dataclass(frozen=True)
class EmbeddedPicture:
    """A PNG or JPEG file as a data URI, with its size in pixels as far as it is known."""

    uri: str
    width: int | None = None
    height: int | None = None

    @property
    def is_small(self) -> bool:
        return self.width is not None and self.height is not None and max(self.width, self.height) < PIXELATED_BELOW


def embed_picture(folder: Path, name: object) -> EmbeddedPicture | None:
    """Embed the picture `name` of a run folder; None if it is missing, is neither PNG nor JPEG, or lies outside the folder."""
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    encoded = base64.b64encode(content).decode()
    if content.startswith(JPEG_MAGIC):
        return EmbeddedPicture(f"data:image/jpeg;base64,{encoded}")
    if not content.startswith(PNG_MAGIC) or len(content) < 24:
        return None
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    return EmbeddedPicture(f"data:image/png;base64,{encoded}", width, height)


def render_worst(record: Record) -> Html:
    """Render the worst errors of a run."""
    return render_errors(record.run.path, record.worst, as_rows(record.files.read_json("worst.json").get("right")))


def render_worst_of_folds(files: FolderReader, folds: Sequence[str]) -> Html:
    """Render the worst errors of all folds together: each image was classified by the one model that was not trained on it."""
    errors: list[dict[str, Any]] = []
    surest: dict[str, dict[str, Any]] = {}
    for fold in folds:
        content = files.read_json(f"{fold}/worst.json")
        errors += [row | {"file": f"{fold}/{row.get('file')}"} for row in as_rows(content.get("images"))]
        for row in as_rows(content.get("right")):
            name = str(row.get("truth"))
            if name not in surest or (get_number(row, "probability") or 0) > (get_number(surest[name], "probability") or 0):
                surest[name] = row | {"file": f"{fold}/{row.get('file')}"}
    errors.sort(key=lambda row: -(get_number(row, "loss") or 0))
    errors = errors[:MAX_IMAGES_OF_FOLDS]
    classes = dict.fromkeys(str(row.get(key)) for row in errors for key in ("predicted", "truth"))
    return render_errors(files.folder, errors, [surest[name] for name in classes if name in surest])


def render_errors(folder: Path, errors: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> Html:
    """Render a card for each image: its picture, its label, and the predicted class with its probability."""
    errors, right = errors[:MAX_IMAGES], right[:MAX_RIGHT_IMAGES]
    if not errors:
        return EMPTY
    lost = sum(row.get("original") is False for row in (*errors, *right))
    note = (
        f" {words.count_of(lost, 'original')} could not be read any more: {'its picture is' if lost == 1 else 'their pictures are'}"
        " what the model saw."
    )
    answers = tag(
        "div.answers", tag("h3", "Right answers"), paragraph(RIGHT_INTRO), tag("div.cards", *(render_card(folder, row) for row in right))
    )
    cards = [render_card(folder, row) for row in errors]
    more = details(f"The next {len(errors) - OPEN_IMAGES} of the worst errors", tag("div.cards", *cards[OPEN_IMAGES:]))
    return section(
        "worst",
        "Worst errors",
        paragraph(INTRO if any("probability" in row for row in errors) else OTHER_INTRO, note if lost else None),
        tag("div.cards", *cards[:OPEN_IMAGES]),
        more if len(errors) > OPEN_IMAGES else None,
        answers if right else None,
    )


def render_card(folder: Path, image: dict[str, Any]) -> Html:
    """Render the card of one image."""
    name, truth, predicted = (str(image.get(key) or "unknown") for key in ("name", "truth", "predicted"))
    probability, loss = get_number(image, "probability"), get_number(image, "loss")
    picture, is_right = tag("div.gone", "no picture"), truth == predicted
    if file := embed_picture(folder, image.get("file") or ""):
        alt = truth if is_right else f"{truth}, taken for {predicted}"
        picture = tag(
            "img.pixels" if file.is_small else "img", attrs={"src": file.uri, "alt": alt, "width": file.width, "height": file.height}
        )
    return tag(
        "figure.card",
        tag("div.frame", picture),
        tag(
            "figcaption",
            tag("strong", predicted, tag("span.dim", f" {format_percent(probability, 0)}" if probability is not None else "")),
            None if is_right else tag("span", "labeled ", tag("em", truth)),
            tag(
                "span.dim.name",
                name.rpartition("/")[2],
                attrs={"title": name + (f", loss {format_number(loss)}" if loss is not None else "")},
            ),
        ),
    )
