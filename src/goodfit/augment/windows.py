"""Windows: crops whose rectangle in the original image is known before the image is read, so that no more than it need be decoded."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from goodfit.augment.flip import Flip
from goodfit.augment.geometry import Geometry
from goodfit.augment.maps import Border, Frame, Map, along_axes, center
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment

LARGE = 64  # pixels a side from which on windows are of whole pixels, which are resized the faster


@dataclasses.dataclass(frozen=True)
class Windowed(Geometry):
    """A window anywhere in the image, resized to the model's size, for a share `p` of the images; the middle for the others.

    Where images are read from their originals it is cut from those while they are decoded, so it must not follow progress.
    """

    @property
    def border(self) -> Border:
        return "edge"  # windows lie inside the image; only the filter's taps can reach beyond

    @abstractmethod
    def sides(self, chance: Chance, extents: Tensor, size: Frame) -> Tensor:
        """The windows' own (height, width), [B, 2] float64 in pixels of images of (height, width) `extents` [B, 2] float64."""

    def window(self, chance: Chance, extents: Tensor, middle: Tensor, size: Frame) -> Tensor:
        """The windows [B, 4] float64 (top, left, height, width) in pixels of images of (height, width) `extents` [B, 2] float64;
        `middle` [B, 4] are those of the images that are not cropped at random. Large ones are of whole pixels.
        """
        own = torch.minimum(self.sides(chance, extents, size), extents)  # rounding may have made one longer
        at = torch.stack([chance.at(axis).double() for axis in ("y", "x")], dim=1)
        start, whole = at * (extents - own), own.round()
        large = (own >= LARGE).all(dim=1, keepdim=True)
        own, start = torch.where(large, whole, own), torch.where(large, (at * (extents - whole + 1)).floor(), start)
        chosen = chance.at("p").chosen(getattr(self, "p", 1.0))
        return torch.where(chosen[:, None], torch.cat([start, own], dim=1), middle)

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        n = len(chance.places)
        (h, w), middle = size, center(n, frame, size).matrix
        inside = torch.stack([middle[:, 1, 2], middle[:, 0, 2], *torch.tensor(size, dtype=torch.float64).expand(n, 2).unbind(1)], dim=1)
        top, left, height, width = self.window(chance, torch.tensor(frame, dtype=torch.float64).expand(n, 2), inside, size).unbind(1)
        x, y = ((own / side, start + own / side / 2 - 0.5) for own, start, side in ((width, left, w), (height, top, h)))
        return along_axes(size, x, y)


def windowed(parts: Sequence[Augment]) -> tuple[Windowed, int] | None:
    """The part of a pipe whose windows may be cut before the images are read, with its position: a crop behind nothing but flips.

    A window is as likely as its mirror image, so the flips may as well come after it.
    """
    for position, part in enumerate(parts):
        if isinstance(part, Windowed):
            return part, position
        if not isinstance(part, Flip):
            return None
    return None
