"""The ops of the policies, each image its own: done on 8 bits, the images of a kind together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from goodfit.augment import color, tone
from goodfit.augment.affine import rotation
from goodfit.augment.blur import sharpness
from goodfit.augment.chunks import chunks
from goodfit.augment.gather import bordered, stretches, to_bytes
from goodfit.augment.maps import Border
from goodfit.augment.pyramid import MODES, lattice, to_grid

Op = Literal[
    "identity", "shear_x", "shear_y", "rotate", "translate_x", "translate_y", "brightness", "saturation", "contrast", "sharpness",
    "posterize", "solarize", "autocontrast", "equalize",
]  # fmt: skip
OPS: tuple[Op, ...] = get_args(Op)
CODE = {op: code for code, op in enumerate(OPS)}
HALF = torch.tensor(0.5)
UNGRADED: tuple[Op, ...] = ("autocontrast", "equalize")  # those without a magnitude


class Reach(NamedTuple):
    """How far each op goes at the highest level: slopes, pixels along x and y, degrees, distance of factors from 1, bits lost."""

    shear: float
    x: float
    y: float
    degrees: float
    factor: float
    bits: float


class Outside(NamedTuple):
    """What lies outside an image: the border rule, and the color for the rule "mean"."""

    border: Border
    fill: tuple[float, ...]


class Drawn(NamedTuple):
    """What a slot of a policy does with each image; of a slot's few numbers NumPy makes less work than torch, whose cost is per call.

    `op` int64 [B] is the code of an op; `level` float64 [B] in 0..1 is how far it goes; `sign` float64 [B], 1 or -1, is its way.
    """

    op: NDArray[np.int64]
    level: NDArray[np.float64]
    sign: NDArray[np.float64]

    def of(self, rows: slice | NDArray[np.int64]) -> Drawn:
        """For some of the images."""
        return Drawn(self.op[rows], self.level[rows], self.sign[rows])

    def signed(self, most: float, op: Op) -> Tensor:
        """How far each image goes with this op, either way, at most `most`: [B] float64, 0 for those with another op."""
        return torch.from_numpy(self.level * self.sign * most * (self.op == CODE[op]))


def done(images: Tensor, slots: Sequence[Drawn], reach: Reach, outside: Outside) -> Tensor:
    """uint8 images [B, C, H, W] after the ops drawn for each, slot after slot; results are whole values, as the papers' ops have them.

    Images of a kind are neighbors while it is done to them: whole rows are moved fast, between two rooms, as new memory is slow.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    rooms, place = [torch.empty_like(pixels) for _ in slots[:2]], np.arange(len(pixels))  # place: where each image lies
    for turn, slot in enumerate(slots):
        order = np.argsort(KIND[slot.op], kind="stable")
        pixels = _taken(pixels, place[order], rooms[turn % 2])
        place, drawn = np.argsort(order), slot.of(order)
        ends = np.searchsorted(KIND[drawn.op], np.arange(len(ACTS) + 1))
        for act, start, end in zip(ACTS.values(), ends[:-1], ends[1:], strict=True):
            if start < end:
                pixels[start:end] = act(pixels[start:end], drawn.of(slice(start, end)), reach, outside)
    return _taken(pixels, place, rooms[len(slots) % 2] if len(slots) > 1 else torch.empty_like(pixels)).permute(0, 3, 1, 2)


# ---- the kinds of ops: (pixels [K, H, W, C] uint8, what was drawn for them, ...) -> the same, changed ------------------------------


def _rotate(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    """Read bilinearly as `sample` does, but from bytes to bytes and without its antialiasing, which the papers do not have."""
    frame, channels = (pixels.shape[1], pixels.shape[2]), pixels.shape[3]
    border, fill = "zero" if outside.border == "mean" else outside.border, _beyond(pixels, outside).float()
    matrix = to_grid(rotation(drawn.signed(reach.degrees, "rotate"), frame), frame, border).to(pixels.device)
    out, fill = torch.empty_like(pixels), fill.repeat(frame[1])  # what is the same for every row is done to whole rows: faster
    for part in chunks(pixels):
        source = pixels[part].flatten(2).float().sub_(fill).view(-1, *frame, channels).permute(0, 3, 1, 2)
        read = F.grid_sample(source, lattice(matrix[part], frame), padding_mode=MODES[border], align_corners=border == "reflect")
        lines = read.permute(0, 2, 3, 1).reshape(-1, frame[0], frame[1] * channels)
        out[part] = to_bytes(lines.add_(fill + HALF)).view(-1, *frame, channels)
    return out


def _shear_x(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    n, height, width, channels = pixels.shape
    whole, share = _shifts(drawn, height, reach)
    y = torch.arange(height).expand(n, -1)
    read = stretches(pixels, y, whole, width + 1, outside.border, _beyond(pixels, outside)).flatten(2)
    return _between(read[..., :-channels], read[..., channels:], share.to(pixels.device)[..., None]).view(pixels.shape)


def _shear_y(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    n, height, width, channels = pixels.shape
    whole, share = _shifts(drawn, width, reach)
    before, after = max(0, -int(whole.min())), max(0, int(whole.max()) + 1)
    rows = bordered(torch.arange(-before, height + after), height, outside.border)
    lines = pixels.flatten(2).index_select(1, rows.to(pixels.device))
    if outside.border in ("zero", "mean"):
        lines[:, :before] = lines[:, before + height :] = _beyond(pixels, outside).repeat(width)
    row, share = width * channels, share.repeat_interleave(channels, dim=1).to(pixels.device)
    first = ((whole + before).repeat_interleave(channels, dim=1) * row + torch.arange(row)).to(pixels.device)[:, None]
    down = (torch.arange(height + 1) * row).to(pixels.device)[:, None]
    read = torch.empty((n, (height + 1) * row), dtype=torch.uint8, device=pixels.device)
    for part in chunks(pixels):
        torch.gather(lines[part].flatten(1), 1, (first[part] + down).flatten(1), out=read[part])
    read = read.view(n, height + 1, row)
    return _between(read[:, :-1], read[:, 1:], share[:, None]).view(pixels.shape)


def _shifts(drawn: Drawn, n: int, reach: Reach) -> tuple[Tensor, Tensor]:
    """How far on each of n lines is read, whole pixels [K, n] int64 and the rest in 0..1 [K, n] float32.

    About the top left corner, as in the papers: half a pixel before the first center.
    """
    shift = (drawn.level * drawn.sign * reach.shear)[:, None] * (np.arange(n) + 0.5)
    whole = np.floor(shift)
    return torch.from_numpy(whole.astype(np.int64)), torch.from_numpy((shift - whole).astype(np.float32))


def _between(here: Tensor, there: Tensor, share: Tensor) -> Tensor:
    """Lines [K, H, W * C] uint8, a `share` (each row's or each column's) of the way from here to there."""
    out = torch.empty(here.shape, dtype=torch.uint8, device=here.device)
    for part in chunks(out):
        out[part] = to_bytes(torch.lerp(here[part].float(), there[part].float(), share[part]).add_(HALF))
    return out


def _translate(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    frame = (pixels.shape[1], pixels.shape[2])
    x, y = drawn.signed(reach.x, "translate_x").trunc(), drawn.signed(reach.y, "translate_y").trunc()  # whole pixels, as in the papers
    rows, columns = torch.arange(frame[0]) - y.long()[:, None], -x.long()[:, None].expand(-1, frame[0])
    return stretches(pixels, rows, columns, frame[1], outside.border, _beyond(pixels, outside))


def _stretch(pixels: Tensor, line: Callable[[Tensor, slice], tuple[Tensor, Tensor]]) -> Tensor:
    """Colors, not alpha, times a scale plus an offset: both [K, C] float64 or [K, 1], which `line` gives for rows [K, H, W * C]."""
    n, height, width, channels = pixels.shape
    out = torch.empty((n, height, width * channels), dtype=torch.uint8, device=pixels.device)
    for part in chunks(out):
        lines = pixels[part].flatten(2).float()
        both = torch.stack(line(lines, part)).float().expand(2, -1, channels).repeat(1, 1, width)[:, :, None].to(pixels.device)
        out[part] = to_bytes(torch.addcmul(both[1] + HALF, lines, both[0]).clamp_(0, 255))
    made = out.view(pixels.shape)
    if channels == 4:
        made[..., 3] = pixels[..., 3]
    return made


def _brightness_or_contrast(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    height, width, channels = pixels.shape[1:]
    gray = color.GRAY if channels > 1 else torch.ones(1, dtype=torch.float64)
    factor, contrasted = _factor(drawn, reach), torch.from_numpy(drawn.op == CODE["contrast"])

    def line(lines: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        mean = lines.sum(1).cpu().double().view(-1, width, channels).sum(1)[:, :3] / (height * width)
        still = (mean * gray).sum(1) * contrasted[part]  # the gray that stays, for brightness black
        return factor[part, None], (still * (1 - factor[part]))[:, None]

    return _stretch(pixels, line)


def _saturation(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    return _from_unit(color.recolor(pixels.permute(0, 3, 1, 2), color.saturation(_factor(drawn, reach))))


def _sharpness(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    return _from_unit(sharpness(pixels.permute(0, 3, 1, 2), _factor(drawn, reach)))


def _autocontrast(pixels: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    def line(lines: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        low, high = (f(f(lines, 1).view(len(lines), -1, pixels.shape[3]), 1).cpu().double() for f in (torch.amin, torch.amax))
        scale = torch.where(high > low, 255 / (high - low), 1.0)
        return scale, torch.where(high > low, -low * scale, 0.0)

    return _stretch(pixels, line)


def _levels(change: Callable[[Tensor, Drawn, Reach], Tensor]) -> Act:
    """An op that maps levels, of images [K, C, H, W]."""
    return lambda pixels, drawn, reach, _: change(pixels.permute(0, 3, 1, 2), drawn, reach).permute(0, 2, 3, 1)


def _factor(drawn: Drawn, reach: Reach) -> Tensor:
    """[K] float64, 1 where nothing is to change."""
    return torch.from_numpy(1 + drawn.level * drawn.sign * reach.factor)


def _taken(pixels: Tensor, rows: NDArray[np.int64], room: Tensor) -> Tensor:
    """Some of the images, written into `room`."""
    return torch.index_select(pixels, 0, torch.from_numpy(rows).to(pixels.device), out=room)


def _beyond(pixels: Tensor, outside: Outside) -> Tensor:
    """The color [C] uint8 outside of the images."""
    fill = (outside.fill * pixels.shape[3])[: pixels.shape[3]] if outside.border == "mean" else (0.0,) * pixels.shape[3]
    return torch.tensor([round(255 * value) for value in fill], dtype=torch.uint8, device=pixels.device)


def _from_unit(images: Tensor) -> Tensor:
    """Floats 0..1 [K, C, H, W] as pixels."""
    return to_bytes(torch.add(HALF, images, alpha=255)).permute(0, 2, 3, 1)


Act = Callable[[Tensor, Drawn, Reach, Outside], Tensor]
ACTS: dict[tuple[Op, ...], Act] = {
    ("identity",): lambda pixels, *_: pixels,
    ("shear_x",): _shear_x,
    ("shear_y",): _shear_y,
    ("rotate",): _rotate,
    ("translate_x", "translate_y"): _translate,
    ("brightness", "contrast"): _brightness_or_contrast,
    ("saturation",): _saturation,
    ("sharpness",): _sharpness,
    ("posterize",): _levels(lambda images, drawn, reach: tone.posterize(images, torch.from_numpy(8 - (drawn.level * reach.bits).round()))),
    ("solarize",): _levels(lambda images, drawn, _: tone.solarize(images, torch.from_numpy(256 - 256 * drawn.level))),
    ("autocontrast",): _autocontrast,
    ("equalize",): _levels(lambda images, *_: tone.equalize(images)),
}
KIND = np.array([next(kind for kind, ops in enumerate(ACTS) if op in ops) for op in OPS])  # of each code
