"""Numbers painted as pictures: weights, activations, heat over an image, and points of a plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from goodfit.terminal.sheet import INK, PAPER, to_rgb, truncate

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]

FOR, AGAINST = (214, 40, 40), (33, 102, 172)  # RGB of heat above and below zero
MAX_COVER = 0.75  # share of the heat's color where it is strongest
BRIGHTEST = 0.99  # quantile that is white, so that a single pixel does not make all others dark
MOSAIC_SIDE, TILE_GAP = 320, 2  # pixels of a mosaic of small tiles, and between the tiles
PLANE_SIDE, MARGIN, DOT = 600, 20, 4  # pixels of a plane, its border, and the radius of a point
LEGEND_WIDTH = 200  # pixels
GROUP_COLORS = (  # tab10, of matplotlib
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194), (188, 189, 34),
    (23, 190, 207), (110, 110, 110),
)  # fmt: skip
OTHER_COLOR = (215, 215, 215)  # of groups beyond the colors


def paint_weights(weights: Values) -> list[Pixels]:
    """Paint weights [N, C, h, w] as pictures [h, w, 1 or 3]: zero is gray, and each is stretched to its own largest weight.

    Of an alpha channel nothing is shown; channels of another number than 1, 3 and 4 are averaged.
    """
    channels = weights.shape[1]
    shown = weights if channels in (1, 3) else weights[:, :3] if channels == 4 else weights.mean(1, keepdims=True)
    largest = np.abs(shown).max((1, 2, 3), keepdims=True)
    shown = shown / np.where(largest > 0, largest, 1)
    return list(np.rint(127.5 + 127.5 * shown).astype(np.uint8).transpose(0, 2, 3, 1))


def paint_gray(values: Values) -> Pixels:
    """Paint values [h, w] from black, the least of them or zero, to white; [h, w, 1]."""
    low = min(0.0, float(values.min()))
    high = max(float(np.quantile(values, BRIGHTEST)), low)
    if high <= low:
        high = max(float(values.max()), low + 1e-12)
    pixels: Pixels = np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)[:, :, None]
    return pixels


def paint_heat(pixels: Pixels, values: Values) -> Pixels:
    """Paint values [h, w] over a gray version of pixels [H, W, C], enlarged to their size: red above zero, blue below; [H, W, 3]."""
    image = to_rgb(pixels)
    heat = np.asarray(Image.fromarray(values.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR))
    strength = np.abs(heat)[:, :, None] / max(float(np.abs(heat).max()), 1e-12) * MAX_COVER
    colors = np.where(heat[:, :, None] >= 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    gray = np.asarray(image.convert("L"), np.float32)[:, :, None]
    painted: Pixels = np.rint(gray * (1 - strength) + colors * strength).astype(np.uint8)
    return painted


def paint_mosaic(tiles: Sequence[Pixels]) -> Pixels:
    """Lay tiles of equal size [h, w, 1 or 3] into a grid, each enlarged by the whole factor that goes into MOSAIC_SIDE; [H, W, 3]."""
    columns = max(1, round((len(tiles) * tiles[0].shape[0] / tiles[0].shape[1]) ** 0.5))
    factor = max(1, MOSAIC_SIDE // (columns * tiles[0].shape[1]))
    enlarged = [to_rgb(tile.repeat(factor, 0).repeat(factor, 1)) for tile in tiles]
    width, height = enlarged[0].width + TILE_GAP, enlarged[0].height + TILE_GAP
    paper = Image.new("RGB", (columns * width - TILE_GAP, -(-len(tiles) // columns) * height - TILE_GAP), PAPER)
    for place, tile in enumerate(enlarged):
        paper.paste(tile, (place % columns * width, place // columns * height))
    return np.asarray(paper)


def square_up(vector: Values) -> Values:
    """Lay a vector [D] row by row into a square [s, s], filled up with its least value."""
    side = int(np.ceil(np.sqrt(len(vector))))
    return np.pad(vector, (0, side * side - len(vector)), constant_values=float(vector.min())).reshape(side, side)


def paint_plane(points: NDArray[np.float64], groups: Sequence[int], ringed: Sequence[bool]) -> Pixels:
    """Paint points [N, 2] of a plane in the colors of their groups [N], some of them with a ring around; [PLANE_SIDE, PLANE_SIDE, 3]."""
    low, high = points.min(0), points.max(0)
    places = MARGIN + (points - low) / np.where(high > low, high - low, 1) * (PLANE_SIDE - 2 * MARGIN)
    paper = Image.new("RGB", (PLANE_SIDE, PLANE_SIDE), PAPER)
    draw = ImageDraw.Draw(paper)
    for (x, y), group, is_ringed in sorted(zip(places.tolist(), groups, ringed, strict=True), key=lambda point: point[2]):
        y = PLANE_SIDE - y  # noqa: PLW2901  upward, as in a chart
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=color_of(group))
        if is_ringed:
            draw.ellipse((x - DOT - 3, y - DOT - 3, x + DOT + 3, y + DOT + 3), outline=INK)
    return np.asarray(paper)


def paint_legend(legend: Sequence[tuple[str, str]], height: int) -> Pixels:
    """Paint the names of groups beside their colors, "#rrggbb", as far as they go into a height in pixels; [height, LEGEND_WIDTH, 3]."""
    paper = Image.new("RGB", (LEGEND_WIDTH, height), PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for place, (name, color) in enumerate(legend):
        y = MARGIN + place * 2 * MARGIN
        draw.ellipse((0, y - DOT, 2 * DOT, y + DOT), fill=color)
        draw.text((4 * DOT, y - 8), truncate(name, LEGEND_WIDTH - 4 * DOT, font), INK, font)
    return np.asarray(paper)


def color_of(group: int) -> tuple[int, int, int]:
    """The color of a group of points; those beyond the colors share one."""
    return GROUP_COLORS[group] if 0 <= group < len(GROUP_COLORS) else OTHER_COLOR
