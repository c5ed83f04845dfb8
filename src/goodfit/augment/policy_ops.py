"""The ops of policies, each image with its own: computed on 8 bits, images that draw the same kind of op together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from goodfit.augment import color, tone
from goodfit.augment.affine import rotation_matrix
from goodfit.augment.blur import adjust_sharpness
from goodfit.augment.coordinate_map import Border
from goodfit.augment.gather import apply_border, gather_row_slices, iterate_chunks, to_bytes
from goodfit.augment.pyramid import PADDING_MODES, affine_grid, to_grid_matrix

Op = Literal[
    "identity", "shear_x", "shear_y", "rotate", "translate_x", "translate_y", "brightness", "saturation", "contrast", "sharpness",
    "posterize", "solarize", "autocontrast", "equalize",
]  # fmt: skip
OPS: tuple[Op, ...] = get_args(Op)
OP_CODES = {op: code for code, op in enumerate(OPS)}
HALF = torch.tensor(0.5)
OPS_WITHOUT_LEVEL: tuple[Op, ...] = ("autocontrast", "equalize")


class OpLimits(NamedTuple):
    """How far each op goes at the highest level: slopes, pixels along x and y, degrees, distance of factors from 1, bits removed."""

    shear: float
    x: float
    y: float
    degrees: float
    factor: float
    bits: float


class BorderFill(NamedTuple):
    """What lies outside an image: the border rule, and the color for the rule "mean"."""

    border: Border
    fill: tuple[float, ...]


class SlotDraws(NamedTuple):
    """What a slot of a policy does with each image; in NumPy, which has less overhead per call than torch for so few numbers.

    `op` int64 [B] is the code of an op; `level` float64 [B] in 0..1 is how far it goes; `sign` float64 [B], 1 or -1, is its direction.
    """

    op: NDArray[np.int64]
    level: NDArray[np.float64]
    sign: NDArray[np.float64]

    def select(self, rows: slice | NDArray[np.int64]) -> SlotDraws:
        """Return the draws of some of the images."""
        return SlotDraws(self.op[rows], self.level[rows], self.sign[rows])

    def signed_amount(self, limit: float, op: Op) -> Tensor:
        """Compute how far each image goes with this op, in either direction, up to `limit`: [B] float64, 0 for images with another op."""
        return torch.from_numpy(self.level * self.sign * limit * (self.op == OP_CODES[op]))


def apply_ops(images: Tensor, slots: Sequence[SlotDraws], limits: OpLimits, outside: BorderFill) -> Tensor:
    """Apply to uint8 images [B, C, H, W] the ops drawn for each, slot after slot; results are whole values, as in the papers.

    Images are sorted by the kind of their op while it is applied. They move as whole rows between two buffers, because moving rows is fast
    and new memory is slow.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    buffers, place = [torch.empty_like(pixels) for _ in slots[:2]], np.arange(len(pixels))  # place: where each image lies
    for k, slot in enumerate(slots):
        order = np.argsort(OP_KINDS[slot.op], kind="stable")
        pixels = _take_images(pixels, place[order], buffers[k % 2])
        place, draws = np.argsort(order), slot.select(order)
        ends = np.searchsorted(OP_KINDS[draws.op], np.arange(len(OP_FUNCTIONS) + 1))
        for apply_op, start, end in zip(OP_FUNCTIONS.values(), ends[:-1], ends[1:], strict=True):
            if start < end:
                pixels[start:end] = apply_op(pixels[start:end], draws.select(slice(start, end)), limits, outside)
    return _take_images(pixels, place, buffers[len(slots) % 2] if len(slots) > 1 else torch.empty_like(pixels)).permute(0, 3, 1, 2)


# ---- the kinds of ops: (pixels [K, H, W, C] uint8, what was drawn for them, ...) -> the same, changed ------------------------------


def _rotate(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    """Rotate and read bilinearly as `sample` does, but from bytes to bytes and without antialiasing, which the papers do not use."""
    frame, channels = (pixels.shape[1], pixels.shape[2]), pixels.shape[3]
    border, fill = "zero" if outside.border == "mean" else outside.border, _border_color(pixels, outside).float()
    matrix = to_grid_matrix(rotation_matrix(draws.signed_amount(limits.degrees, "rotate"), frame), frame, border).to(pixels.device)
    out, fill = torch.empty_like(pixels), fill.repeat(frame[1])  # whole rows are faster to add than single pixels
    for chunk in iterate_chunks(pixels):
        source = pixels[chunk].flatten(2).float().sub_(fill).view(-1, *frame, channels).permute(0, 3, 1, 2)
        read = F.grid_sample(
            source, affine_grid(matrix[chunk], frame), padding_mode=PADDING_MODES[border], align_corners=border == "reflect"
        )
        lines = read.permute(0, 2, 3, 1).reshape(-1, frame[0], frame[1] * channels)
        out[chunk] = to_bytes(lines.add_(fill + HALF)).view(-1, *frame, channels)
    return out


def _shear_x(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    n, height, width, channels = pixels.shape
    whole, share = _shear_shifts(draws, height, limits)
    y = torch.arange(height).expand(n, -1)
    read = gather_row_slices(pixels, y, whole, width + 1, outside.border, _border_color(pixels, outside)).flatten(2)
    return _interpolate_lines(read[..., :-channels], read[..., channels:], share.to(pixels.device)[..., None]).view(pixels.shape)


def _shear_y(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    n, height, width, channels = pixels.shape
    whole, share = _shear_shifts(draws, width, limits)
    before, after = max(0, -int(whole.min())), max(0, int(whole.max()) + 1)
    rows = apply_border(torch.arange(-before, height + after), height, outside.border)
    lines = pixels.flatten(2).index_select(1, rows.to(pixels.device))
    if outside.border in ("zero", "mean"):
        lines[:, :before] = lines[:, before + height :] = _border_color(pixels, outside).repeat(width)
    row, share = width * channels, share.repeat_interleave(channels, dim=1).to(pixels.device)
    first = ((whole + before).repeat_interleave(channels, dim=1) * row + torch.arange(row)).to(pixels.device)[:, None]
    down = (torch.arange(height + 1) * row).to(pixels.device)[:, None]
    read = torch.empty((n, (height + 1) * row), dtype=torch.uint8, device=pixels.device)
    for chunk in iterate_chunks(pixels):
        torch.gather(lines[chunk].flatten(1), 1, (first[chunk] + down).flatten(1), out=read[chunk])
    read = read.view(n, height + 1, row)
    return _interpolate_lines(read[:, :-1], read[:, 1:], share[:, None]).view(pixels.shape)


def _shear_shifts(draws: SlotDraws, n: int, limits: OpLimits) -> tuple[Tensor, Tensor]:
    """Compute how far each of n lines is shifted: whole pixels [K, n] int64 and the remainder in 0..1 [K, n] float32.

    The shear is about the top left corner, as in the papers: half a pixel before the first center.
    """
    shift = (draws.level * draws.sign * limits.shear)[:, None] * (np.arange(n) + 0.5)
    whole = np.floor(shift)
    return torch.from_numpy(whole.astype(np.int64)), torch.from_numpy((shift - whole).astype(np.float32))


def _interpolate_lines(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Interpolate lines [K, H, W * C] uint8, a `share` (per row or per column) of the way from `first` to `second`."""
    out = torch.empty(first.shape, dtype=torch.uint8, device=first.device)
    for chunk in iterate_chunks(out):
        out[chunk] = to_bytes(torch.lerp(first[chunk].float(), second[chunk].float(), share[chunk]).add_(HALF))
    return out


def _translate(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    frame = (pixels.shape[1], pixels.shape[2])
    x, y = (
        draws.signed_amount(limits.x, "translate_x").trunc(),
        draws.signed_amount(limits.y, "translate_y").trunc(),
    )  # whole pixels, as in the papers
    rows, columns = torch.arange(frame[0]) - y.long()[:, None], -x.long()[:, None].expand(-1, frame[0])
    return gather_row_slices(pixels, rows, columns, frame[1], outside.border, _border_color(pixels, outside))


def _scale_colors(pixels: Tensor, fit_line: Callable[[Tensor, slice], tuple[Tensor, Tensor]]) -> Tensor:
    """Apply a scale and an offset to colors, not alpha: `fit_line` computes both, [K, C] float64 or [K, 1], from rows [K, H, W * C]."""
    n, height, width, channels = pixels.shape
    out = torch.empty((n, height, width * channels), dtype=torch.uint8, device=pixels.device)
    for chunk in iterate_chunks(out):
        lines = pixels[chunk].flatten(2).float()
        scale, offset = (
            torch.stack(fit_line(lines, chunk)).float().expand(2, -1, channels).repeat(1, 1, width)[:, :, None].to(pixels.device)
        )
        out[chunk] = to_bytes(torch.addcmul(offset + HALF, lines, scale).clamp_(0, 255))
    scaled = out.view(pixels.shape)
    if channels == 4:
        scaled[..., 3] = pixels[..., 3]
    return scaled


def _brightness_or_contrast(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    height, width, channels = pixels.shape[1:]
    gray = color.LUMA_WEIGHTS if channels > 1 else torch.ones(1, dtype=torch.float64)
    factor, has_contrast = _color_factor(draws, limits), torch.from_numpy(draws.op == OP_CODES["contrast"])

    def fit_line(lines: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        mean = lines.sum(1).cpu().double().view(-1, width, channels).sum(1)[:, :3] / (height * width)
        fixed_gray = (mean * gray).sum(1) * has_contrast[chunk]  # the gray that does not change; for brightness it is black
        return factor[chunk, None], (fixed_gray * (1 - factor[chunk]))[:, None]

    return _scale_colors(pixels, fit_line)


def _saturation(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    return _to_pixels(color.apply_color_matrix(pixels.permute(0, 3, 1, 2), color.saturation_matrix(_color_factor(draws, limits))))


def _sharpness(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    return _to_pixels(adjust_sharpness(pixels.permute(0, 3, 1, 2), _color_factor(draws, limits)))


def _autocontrast(pixels: Tensor, draws: SlotDraws, limits: OpLimits, outside: BorderFill) -> Tensor:
    def fit_line(lines: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        low, high = (f(f(lines, 1).view(len(lines), -1, pixels.shape[3]), 1).cpu().double() for f in (torch.amin, torch.amax))
        scale = torch.where(high > low, 255 / (high - low), 1.0)
        return scale, torch.where(high > low, -low * scale, 0.0)

    return _scale_colors(pixels, fit_line)


def _tone_op(change: Callable[[Tensor, SlotDraws, OpLimits], Tensor]) -> OpFunction:
    """Make an op of a change [K, C, H, W] of the 256 levels."""
    return lambda pixels, draws, limits, _: change(pixels.permute(0, 3, 1, 2), draws, limits).permute(0, 2, 3, 1)


def _color_factor(draws: SlotDraws, limits: OpLimits) -> Tensor:
    """Compute color factors [K] float64, 1 where nothing changes."""
    return torch.from_numpy(1 + draws.level * draws.sign * limits.factor)


def _take_images(pixels: Tensor, rows: NDArray[np.int64], buffer: Tensor) -> Tensor:
    """Copy some of the images into `buffer`."""
    return torch.index_select(pixels, 0, torch.from_numpy(rows).to(pixels.device), out=buffer)


def _border_color(pixels: Tensor, outside: BorderFill) -> Tensor:
    """Return the color [C] uint8 that lies outside the images."""
    fill = (outside.fill * pixels.shape[3])[: pixels.shape[3]] if outside.border == "mean" else (0.0,) * pixels.shape[3]
    return torch.tensor([round(255 * value) for value in fill], dtype=torch.uint8, device=pixels.device)


def _to_pixels(images: Tensor) -> Tensor:
    """Convert floats 0..1 [K, C, H, W] to pixels."""
    return to_bytes(torch.add(HALF, images, alpha=255)).permute(0, 2, 3, 1)


OpFunction = Callable[[Tensor, SlotDraws, OpLimits, BorderFill], Tensor]
OP_FUNCTIONS: dict[tuple[Op, ...], OpFunction] = {
    ("identity",): lambda pixels, *_: pixels,
    ("shear_x",): _shear_x,
    ("shear_y",): _shear_y,
    ("rotate",): _rotate,
    ("translate_x", "translate_y"): _translate,
    ("brightness", "contrast"): _brightness_or_contrast,
    ("saturation",): _saturation,
    ("sharpness",): _sharpness,
    ("posterize",): _tone_op(
        lambda images, draws, limits: tone.posterize(images, torch.from_numpy(8 - (draws.level * limits.bits).round()))
    ),
    ("solarize",): _tone_op(lambda images, draws, _: tone.solarize(images, torch.from_numpy(256 - 256 * draws.level))),
    ("autocontrast",): _autocontrast,
    ("equalize",): _tone_op(lambda images, *_: tone.equalize(images)),
}
OP_KINDS = np.array([next(kind for kind, ops in enumerate(OP_FUNCTIONS) if op in ops) for op in OPS])  # by code
