"""A contact sheet: rows of pictures, each with a caption below it, as one image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ENLARGED_SIDE = 112  # pixels along the longer side, up to which small pictures are enlarged by a whole factor
GAP, LINE_HEIGHT, MIN_CAPTION_WIDTH = 8, 14, 140  # pixels
PAPER, INK, DIM_INK = (255, 255, 255), (20, 20, 20), (110, 110, 110)  # RGB


@dataclasses.dataclass(frozen=True)
class Picture:
    """uint8 pixels [H, W, C] with 1, 3 or 4 channels, and their caption."""

    pixels: NDArray[np.uint8]
    caption: str


def render_sheet(rows: Sequence[Sequence[Picture]], titles: Sequence[str] = (), caption_width: int = MIN_CAPTION_WIDTH) -> Image.Image:
    """Render the rows as one RGB image, with `titles` above the columns, in which captions have at least `caption_width` pixels."""
    height, width = (max(p.pixels.shape[axis] for row in rows for p in row) for axis in (0, 1))
    factor = max(1, ENLARGED_SIDE // max(height, width))
    row_height, column_width = height * factor + LINE_HEIGHT + GAP, max(width * factor, caption_width) + GAP
    top = GAP + (LINE_HEIGHT if titles else 0)
    paper = Image.new("RGB", (GAP + column_width * max(map(len, rows)), top + row_height * len(rows)), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
    for column, title in enumerate(titles):
        draw.text((GAP + column * column_width, GAP // 2), truncate(title, column_width - GAP, font), DIM_INK, font)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            left, upper = GAP + x * column_width, top + y * row_height
            image = to_rgb(picture.pixels)
            paper.paste(image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), (left, upper))
            caption = truncate(picture.caption, column_width - GAP, font)
            draw.text((left, upper + row_height - LINE_HEIGHT - GAP), caption, INK, font)
    return paper


def to_rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    """Convert pixels [H, W, C] to RGB, with alpha composited over the paper."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image)
    return image.convert("RGB")


def truncate(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a text that would be wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
