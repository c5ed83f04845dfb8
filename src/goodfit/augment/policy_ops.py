"""The ops of the policies, each image its own: done on 8 bits, the images of a kind together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from goodfit.augment import color, tone
from goodfit.augment.affine import rotation, translation
from goodfit.augment.blur import sharpness
from goodfit.augment.chunks import chunks
from goodfit.augment.maps import Border, Map
from goodfit.augment.pyramid import MODES, lattice, to_grid
from goodfit.augment.sampling import sample

Op = Literal[
    "identity", "shear_x", "shear_y", "rotate", "translate_x", "translate_y", "brightness", "saturation", "contrast", "sharpness",
    "posterize", "solarize", "autocontrast", "equalize",
]  # fmt: skip
OPS: tuple[Op, ...] = get_args(Op)
CODE = {op: code for code, op in enumerate(OPS)}
COLORS: tuple[Op, Op, Op] = ("brightness", "saturation", "contrast")
SHEARS: tuple[Op, Op] = ("shear_x", "shear_y")
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

    def signed(self, most: float, op: Op) -> Tensor:
        """How far each image goes with this op, either way, at most `most`: [B] float64, 0 for those with another op."""
        return torch.from_numpy(self.level * self.sign * most * (self.op == CODE[op]))


def done(images: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    """uint8 images [B, C, H, W] after the op that was drawn for each; results are rounded to whole values, as the papers' ops have them."""
    order = np.argsort(drawn.op, kind="stable")
    pixels = images.permute(0, 2, 3, 1).contiguous().index_select(0, torch.from_numpy(order).to(images.device))
    drawn, made, start = Drawn(drawn.op[order], drawn.level[order], drawn.sign[order]), torch.empty_like(pixels), 0
    for ops, act in ACTS.items():  # images of an op are neighbours now: whole rows are read and written in order, far faster
        end = int(np.searchsorted(drawn.op, CODE[ops[-1]], side="right"))
        if end > start:
            rows = slice(start, end)
            out = act(pixels[rows].permute(0, 3, 1, 2), Drawn(drawn.op[rows], drawn.level[rows], drawn.sign[rows]), reach, outside)
            out = torch.add(HALF, out, alpha=255) if out.is_floating_point() else out  # rounded when it becomes uint8
            made[rows] = out.permute(0, 2, 3, 1)
        start = end
    return made.index_select(0, torch.from_numpy(np.argsort(order)).to(images.device)).permute(0, 3, 1, 2)


# ---- the kinds of ops: (images [K, C, H, W] uint8, what was drawn for them, ...) -> uint8, or float 0..1 ---------------------------


def _turn(images: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    """Read bilinearly as `sample` does, but from bytes to bytes and without its antialiasing, which the papers do not have."""
    n, channels, height, width = images.shape
    matrix = rotation(drawn.signed(reach.degrees, "rotate"), (height, width))
    for axis, op in enumerate(SHEARS):
        slope = drawn.signed(reach.shear, op)  # about the top left corner, as in the papers, which is half a pixel before the first center
        matrix[:, axis, 1 - axis] += slope
        matrix[:, axis, 2] += slope / 2
    border = "zero" if outside.border == "mean" else outside.border
    matrix = to_grid(matrix, (height, width), border).to(images.device)
    fill = torch.tensor((outside.fill * channels)[:channels], device=images.device).repeat(width) * (255 * (outside.border == "mean"))
    lines = images.permute(0, 2, 3, 1).reshape(n, height, width * channels)  # what is the same for every row is done to whole rows: faster
    out = torch.empty_like(lines)
    for part in chunks(lines):
        source = lines[part].float().sub_(fill).view(-1, height, width, channels).permute(0, 3, 1, 2)
        grid = lattice(matrix[part], (height, width))
        read = F.grid_sample(source, grid, padding_mode=MODES[border], align_corners=border == "reflect")
        out[part] = read.permute(0, 2, 3, 1).reshape(-1, height, width * channels).add_(fill + 0.5)
    return out.view(n, height, width, channels).permute(0, 3, 1, 2)


def _translate(images: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    x, y = drawn.signed(reach.x, "translate_x").trunc(), drawn.signed(reach.y, "translate_y").trunc()  # whole pixels, as in the papers
    return sample(images, [Map(translation(x, y), (images.shape[2], images.shape[3]))], outside.border, outside.fill, exact=True)


def _recolor(images: Tensor, drawn: Drawn, reach: Reach, outside: Outside) -> Tensor:
    factor = torch.from_numpy(1 + drawn.level * drawn.sign * reach.factor)
    bright, saturated, contrasted = (factor[drawn.op == CODE[op]] for op in COLORS)  # they come in this order
    return color.recolor(images, torch.cat([color.brightness(bright), color.saturation(saturated), color.contrast(contrasted)]))


Act = Callable[[Tensor, Drawn, Reach, Outside], Tensor]
ACTS: dict[tuple[Op, ...], Act] = {  # in the order of OPS
    ("identity",): lambda images, *_: images,
    (*SHEARS, "rotate"): _turn,
    ("translate_x", "translate_y"): _translate,
    COLORS: _recolor,
    ("sharpness",): lambda images, drawn, reach, _: sharpness(images, 1 + drawn.signed(reach.factor, "sharpness")),
    ("posterize",): lambda images, drawn, reach, _: tone.posterize(images, torch.from_numpy(8 - (drawn.level * reach.bits).round())),
    ("solarize",): lambda images, drawn, *_: tone.solarize(images, torch.from_numpy(256 - 256 * drawn.level)),
    ("autocontrast",): lambda images, *_: tone.autocontrast(images),
    ("equalize",): lambda images, *_: tone.equalize(images),
}
