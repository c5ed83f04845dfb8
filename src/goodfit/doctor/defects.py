"""Images that show nothing, or next to nothing, or that break off, and images that were enlarged from fewer pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from goodfit.data.index import IntArray
from goodfit.doctor.pixels import BLANK_STD, measure_deviations

PLAIN_SHARE = 0.995  # of the pixels that have one color: less than one in 200 is left to show anything
MAX_PLAIN_STD = 255 * (1 - PLAIN_SHARE) ** 0.5  # of an image whose other pixels are of one color
MIN_VARIATION = 1e-3  # deviation of a channel of an image, in that of all images: images of unknown scale are blank below it
MIN_TAIL = 0.3  # of the rows at the end that all have one color, for an image that breaks off
MAX_PLAIN = 0.1  # share of images with columns of one color at a side, up to which images are no things on a plain ground
STATIC, USUAL = 0.15, 0.6  # largest correlation of neighboring pixels of static, and the least that images must usually have
EXACT, NEARLY_EXACT = 1e-7, 2e-3  # shares of the variance that enlarging from fewer pixels may leave: of floats, of what was rounded since


@dataclasses.dataclass(frozen=True, eq=False)
class BlankImages:
    """Rows of `blank` images, all of one color, and of `plain` ones, nearly so."""

    blank: IntArray
    plain: IntArray


def find_blank_images(images: NDArray[np.uint8]) -> BlankImages:
    """Find images [N, H, W, C] that show nothing."""
    deviations = measure_deviations(images)
    is_plain = np.zeros(len(images), dtype=bool)
    for row in np.flatnonzero((deviations >= BLANK_STD) & (deviations < MAX_PLAIN_STD)).tolist():  # medians take time
        pixels = torch.from_numpy(np.ascontiguousarray(images[row])).flatten(0, 1).float()
        is_near = ((pixels - pixels.median(0).values).abs() <= BLANK_STD).all(1)
        is_plain[row] = float(is_near.float().mean()) > PLAIN_SHARE
    return BlankImages(np.flatnonzero(deviations < BLANK_STD), np.flatnonzero(is_plain))


@dataclasses.dataclass(frozen=True)
class BrokenShares:
    """The shares of images that are blank, that break off into rows of one color, and that are static among images that are not."""

    blank: float
    cut: float
    static: float

    @property
    def total(self) -> float:
        return self.blank + self.cut + self.static

    def describe(self) -> str:
        words = ((self.blank, "are blank"), (self.cut, "break off into rows of one color"), (self.static, "are static"))
        return " and ".join(f"{100 * share:.0f} % {word}" for share, word in words if share > 0.005)


def measure_broken(images: Tensor) -> BrokenShares:
    """Measure images [N, C, H, W]."""
    x = images.float()
    typical = x.std().clamp_min(1e-12)
    is_blank = (x.flatten(2).std(2) < MIN_VARIATION * typical).all(1)
    rows = _count_equal_lines(x.flip(2))
    columns = torch.maximum(_count_equal_lines(x.transpose(2, 3)), _count_equal_lines(x.transpose(2, 3).flip(2)))
    seen = ~is_blank
    is_cut = seen & (rows >= MIN_TAIL * x.shape[2])
    if not bool(seen.any()) or float((columns[seen] >= 2).float().mean()) > MAX_PLAIN:
        is_cut = torch.zeros_like(is_cut)
    centered = x - x.mean((2, 3), keepdim=True)
    beside, below = centered[..., 1:] * centered[..., :-1], centered[:, :, 1:] * centered[:, :, :-1]
    products = torch.stack([beside.mean((1, 2, 3)), below.mean((1, 2, 3))]).abs().amax(0)  # threads and stripes have one of them only
    neighbors = products / centered.square().mean((1, 2, 3)).clamp_min(1e-12)
    is_static = seen & (neighbors < STATIC) & (float(neighbors[seen].median() if bool(seen.any()) else 0) > USUAL)
    return BrokenShares(*(float(found.float().mean()) for found in (is_blank, is_cut, is_static)))


def _count_equal_lines(x: Tensor) -> Tensor:
    """How many rows from the top of images [N, C, H, W] have the one color of the first row: [N]."""
    is_plain = (x == x[:, :, :1, :1]).all(3).all(1)
    return is_plain.int().cumprod(1).sum(1)


def find_effective_side(images: Tensor, tolerance: float = EXACT) -> int:
    """The least number of pixels a side from which images [N, C, H, W] could have been enlarged, by any usual interpolation, but for a
    share `tolerance` of their variance.
    """
    x = images.double()
    x = x - x.mean((2, 3), keepdim=True)
    energy = float(x.square().sum())
    sides = x.shape[2:]
    for side in range(2, min(sides)):
        for mode in ("nearest", "bilinear", "bicubic"):
            spans = [_make_projection(max(2, round(side * length / min(sides))), length, mode) for length in sides]
            if float((x - spans[0] @ x @ spans[1]).square().sum()) < tolerance * energy:
                return side
    return min(sides)


def _make_projection(side: int, length: int, mode: str) -> Tensor:
    """The projection [length, length] of a line of pixels on what can be enlarged from `side` pixels."""
    lines = torch.eye(side, dtype=torch.float64).view(1, side, side, 1)
    grown = F.interpolate(lines, size=(length, 1), mode=mode, **({} if mode == "nearest" else {"align_corners": False}))
    basis = grown[0, :, :, 0].T
    result: Tensor = basis @ torch.linalg.pinv(basis)
    return result


def measure_fine_detail(images: Tensor) -> float:
    """The share of the variance of images [N, C, H, W] that is lost if they are shrunk to half and enlarged again."""
    x = images.float()
    x = x - x.mean((2, 3), keepdim=True)
    half = [max(1, length // 2) for length in x.shape[2:]]
    smooth = F.interpolate(F.interpolate(x, size=half, mode="area"), size=x.shape[2:], mode="bilinear", align_corners=False)
    return float((x - smooth).square().sum() / x.square().sum().clamp_min(1e-12))
