"""Geometry: where each output pixel comes from, how such maps compose, and the one sampling that reads the pixels."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment

Border = Literal["reflect", "edge", "zero"]
Frame = tuple[int, int]  # height, width


@dataclasses.dataclass(frozen=True)
class Map:
    """For each image, where the pixels of an output frame lie in the input frame.

    `matrix` [B, 2, 3] float64 on the host takes (x, y, 1) of an output pixel to (x, y) of the input; whole numbers are pixel centers.
    `size` is the output frame. `bend`, when there is one, moves the output points [B, h, w, 2] before the matrix does (a lens,
    a perspective, elastic deformation).
    """

    matrix: Tensor
    size: Frame
    bend: Callable[[Tensor], Tensor] | None = None


class Geometry(Augment):
    """An augment that only moves pixels: it draws a `Map`, and neighbours compose before the pixels are read, once.

    `border` says what lies outside the image; None means that the part never looks there, so it goes with any neighbour.
    `exact` parts only flip and shift by whole pixels, whatever they draw: their images stay uint8.
    """

    exact: ClassVar[bool] = False

    @property
    def border(self) -> Border | None:
        return None

    @abstractmethod
    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        """The random map of each place, from the frame that comes in; a part that crops gives frames of `size`."""

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        frame = (batch.images.shape[2], batch.images.shape[3])
        return batch.but(images=sample(batch.images, [self.draw(chance, t, frame, frame)], self.border, self.exact))


# ---- maps ----------------------------------------------------------------------------------------------------------------------


def along_axes(size: Frame, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Map:
    """A map that keeps the axes: `x` and `y` are (scale [B], offset [B]) of input = scale * output + offset."""
    matrix = torch.zeros(len(x[0]), 2, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 0, 2] = x
    matrix[:, 1, 1], matrix[:, 1, 2] = y
    return Map(matrix, size)


def center(n: int, frame: Frame, size: Frame) -> Map:
    """The middle `size` of a frame, as `images[..., (H - h) // 2 :, (W - w) // 2 :]` cuts it, for n images."""
    one, top, left = (torch.full((n,), float(v)) for v in (1, (frame[0] - size[0]) // 2, (frame[1] - size[1]) // 2))
    return along_axes(size, (one, left), (one, top))


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The matrix [B, 2, 3] of two maps, `first` applied to the images before `then`.

    Written out, because a matrix product may round differently in batches of different size.
    """
    linear = first[:, :, 0:1] * then[:, 0:1, :] + first[:, :, 1:2] * then[:, 1:2, :]
    linear[:, :, 2] += first[:, :, 2]
    return linear


def sample(images: Tensor, maps: Sequence[Map], border: Border | None, exact: bool) -> Tensor:
    """Read the pixels of `images` [B, C, H, W] where the maps, applied in order, say: once, whatever their number.

    `exact` maps (flips and whole-pixel shifts) are gathers, the dtype stays. Else the images become float 0..1: maps along the axes are
    filtered by a triangle as wide as the scale (antialiased), all others are read bilinearly. Which way an image goes depends on its
    own map alone.
    """
    border = border or "edge"
    if any(m.bend for m in maps):
        return _as_float(images, _bilinear(_nhwc(images).float(), _points(maps), border))
    matrix, size = maps[0].matrix, maps[-1].size
    for m in maps[1:]:
        matrix = compose(matrix, m.matrix)
    if exact:
        return _gather(_nhwc(images), matrix, size, border).permute(0, 3, 1, 2)
    aligned = (matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0)
    if aligned.all():
        return _as_float(images, _filtered(_nhwc(images), matrix, size, border))
    out = images.new_empty((len(images), *size, images.shape[1]), dtype=torch.float32)
    ways = ((aligned, _filtered), (~aligned, _affine))
    for rows, way in ((chosen.nonzero()[:, 0], way) for chosen, way in ways):
        if len(rows):
            there = rows.to(images.device)
            out[there] = way(_nhwc(images[there]), matrix[rows], size, border)
    return _as_float(images, out)


def _nhwc(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).contiguous()


def _as_float(source: Tensor, pixels: Tensor) -> Tensor:
    """Float pixels [B, h, w, C] on the source's scale as images [B, C, h, w] in 0..1."""
    return (pixels.div_(255) if source.dtype == torch.uint8 else pixels).permute(0, 3, 1, 2)


def bordered(index: Tensor, n: int, border: Border) -> Tensor:
    """Indices into 0..n-1 for int64 positions on an axis of length n; with "zero" those outside are merely brought inside."""
    if border == "reflect" and n > 1:
        index = index.remainder(2 * n - 2)
        return torch.minimum(index, 2 * n - 2 - index)
    return index.clamp(0, n - 1)


# ---- exact ---------------------------------------------------------------------------------------------------------------------


def _gather(pixels: Tensor, matrix: Tensor, size: Frame, border: Border) -> Tensor:
    """Flips and whole-pixel shifts of pixels [B, H, W, C] -> [B, h, w, C].

    Each output row is a stretch of an input row, so rows are gathered whole, from any pixel on; mirrored images are then turned round.
    """
    n, height, width, channels = pixels.shape
    y, x = (_axis(matrix, axis, size[1 - axis]).round().long() for axis in (1, 0))
    left = x.amin(dim=1)
    before, after = max(0, -int(left.min())), max(0, int(x.max()) + 1 - width)
    if before or after:
        pixels = _widened(pixels, before, after, border)
    full = width + before + after
    starts = (bordered(y, height, border) + torch.arange(n)[:, None] * height) * full + (left + before)[:, None]
    stretches = pixels.as_strided((n * height * full - size[1] + 1, size[1] * channels), (channels, 1))
    out = stretches.index_select(0, starts.flatten().to(pixels.device)).view(n, *size, channels)
    mirrored = (matrix[:, 0, 0] < 0).nonzero()[:, 0]
    if len(mirrored):
        order = torch.arange(n)
        order[mirrored] = torch.arange(n, n + len(mirrored))
        turned = out.index_select(0, mirrored.to(pixels.device)).flip(2)
        out = torch.cat([out, turned]).index_select(0, order.to(pixels.device))
    outside = (y < 0) | (y >= height)
    if border == "zero" and outside.any():
        out.masked_fill_(outside[..., None, None].to(out.device), 0)
    return out


def _widened(pixels: Tensor, before: int, after: int, border: Border) -> Tensor:
    """Pixels [B, H, W, C] with columns added on both sides."""
    n, height, width, channels = pixels.shape
    if border == "zero":
        beyond = pixels.new_zeros(n, height, before + after, channels)
    else:
        columns = bordered(torch.cat([torch.arange(-before, 0), torch.arange(width, width + after)]), width, border)
        index = (torch.arange(n * height)[:, None] * width + columns).flatten().to(pixels.device)
        beyond = pixels.view(-1, channels).index_select(0, index).view(n, height, before + after, channels)
    return torch.cat([beyond[:, :, :before], pixels, beyond[:, :, before:]], dim=2)


def _axis(matrix: Tensor, axis: int, n: int) -> Tensor:
    """Input positions [B, n] of n output pixels along an axis (0 is x, 1 is y)."""
    return matrix[:, axis, axis, None] * torch.arange(n, dtype=torch.float64) + matrix[:, axis, 2, None]


# ---- along the axes ------------------------------------------------------------------------------------------------------------


def _filtered(pixels: Tensor, matrix: Tensor, size: Frame, border: Border) -> Tensor:
    """Separable antialiased resampling of pixels [B, H, W, C] -> float32 [B, h, w, C]: rows first, then columns, of
    the window that is read.

    Each output row is a weighted sum of a few input rows, which is what an embedding bag computes; summed in the order of the taps, so
    an image gets the same bits in any batch.
    """
    n, channels = len(pixels), pixels.shape[3]
    (y, down), (x, across) = (_taps(matrix, axis, size[1 - axis], pixels.shape[2 - axis], border) for axis in (1, 0))
    out = torch.empty((n, *size, channels), device=pixels.device)
    for part in chunks(pixels):
        top, left = int(y[part].min()), int(x[part].min())
        window = pixels[part, top : int(y[part].max()) + 1, left : int(x[part].max()) + 1].float()
        rows = _weighted(window, y[part] - top, down[part]).view(-1, size[0], window.shape[2], channels)
        columns = _weighted(rows.transpose(1, 2), x[part] - left, across[part]).view(-1, size[1], size[0], channels)
        out[part] = columns.transpose(1, 2)
    return out


def _weighted(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of each table: table [B, N, ...], index and weights [B, n, T] -> [B * n, row]."""
    n, rows = table.shape[:2]
    flat = (index + torch.arange(n)[:, None, None] * rows).flatten(0, 1).to(table.device)
    return F.embedding_bag(flat, table.reshape(n * rows, -1), per_sample_weights=weights.flatten(0, 1).to(table.device), mode="sum")


def _taps(matrix: Tensor, axis: int, n: int, length: int, border: Border) -> tuple[Tensor, Tensor]:
    """Which input positions make each of n output pixels: indices [B, n, T] int64 and weights [B, n, T] float32 summing to 1.

    The triangle reaches one input pixel, or one output pixel where that is wider (as Pillow and torch's antialias do).
    """
    middle = _axis(matrix, axis, n)
    reach = matrix[:, axis, axis].abs().clamp(min=1.0)[:, None]
    first = (middle - reach).ceil()
    position = first[..., None] + torch.arange(int(2 * reach.max()) + 1, dtype=torch.float64)
    weights = (1 - (position - middle[..., None]).abs() / reach[..., None]).clamp(min=0.0)
    total = weights[..., 0].clone()
    for tap in weights.unbind(-1)[1:]:  # one by one: the number of taps, which is the batch's, must not change the rounding
        total += tap
    weights /= total[..., None]
    if border == "zero":
        weights[(position < 0) | (position >= length)] = 0
    return bordered(position.long(), length, border), weights.float()


# ---- any other map -------------------------------------------------------------------------------------------------------------


def _affine(pixels: Tensor, matrix: Tensor, size: Frame, border: Border) -> Tensor:
    return _bilinear(pixels.float(), _points([Map(matrix, size)]), border)


def _points(maps: Sequence[Map]) -> Tensor:
    """Input points [B, h, w, 2] float64 (x, y) of every output pixel of the last map."""
    height, width = maps[-1].size
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    points = torch.stack([x, y], dim=-1).expand(len(maps[-1].matrix), -1, -1, -1)
    for m in reversed(maps):
        points = m.bend(points) if m.bend else points
        a = m.matrix[:, None, None]
        points = a[..., 0] * points[..., 0:1] + a[..., 1] * points[..., 1:2] + a[..., 2]
    return points


def _bilinear(pixels: Tensor, points: Tensor, border: Border) -> Tensor:
    """Float pixels [B, H, W, C] read at points [B, h, w, 2] -> [B, h, w, C]; shrinking is not antialiased here."""
    modes = {"reflect": "reflection", "edge": "border", "zero": "zeros"}
    last = torch.tensor([max(n - 1, 1) for n in (pixels.shape[2], pixels.shape[1])])
    grid = (points * 2 / last - 1).float().to(pixels.device)
    out = F.grid_sample(pixels.permute(0, 3, 1, 2), grid, padding_mode=modes[border], align_corners=True)
    return out.permute(0, 2, 3, 1).contiguous()
