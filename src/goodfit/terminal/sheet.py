"""A contact sheet: rows of pictures with a line of text under each, as one image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SHOWN = 112  # pixels along the longer side that small pictures are enlarged to, each pixel by a whole number
GAP, LINE, CAPTION = 8, 14, 140
PAPER, INK, DIM = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclasses.dataclass(frozen=True)
class Picture:
    """uint8 pixels [H, W, C] with 1, 3 or 4 channels, and what stands under them."""

    pixels: NDArray[np.uint8]
    caption: str


def sheet(rows: Sequence[Sequence[Picture]], titles: Sequence[str] = ()) -> Image.Image:
    """The rows as one RGB image; `titles` stand above the columns."""
    high, wide = (max(p.pixels.shape[axis] for row in rows for p in row) for axis in (0, 1))
    times = max(1, SHOWN // max(high, wide))
    high, wide = high * times + LINE + GAP, max(wide * times, CAPTION) + GAP
    top = GAP + (LINE if titles else 0)
    paper = Image.new("RGB", (GAP + wide * max(map(len, rows)), top + high * len(rows)), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
    for column, title in enumerate(titles):
        draw.text((GAP + column * wide, GAP // 2), fitted(title, wide - GAP, font), DIM, font)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            left, upper = GAP + x * wide, top + y * high
            shown = plain(picture.pixels)
            paper.paste(shown.resize((shown.width * times, shown.height * times), Image.Resampling.NEAREST), (left, upper))
            draw.text((left, upper + high - LINE - GAP), fitted(picture.caption, wide - GAP, font), INK, font)
    return paper


def plain(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels [H, W, C] as RGB, alpha laid over the paper."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image)
    return image.convert("RGB")


def fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut where it would be wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
