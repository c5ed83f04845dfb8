"""Views: what a trained model is shown of an image at test time, before its answers are averaged."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from goodfit.core.contracts import Views
from goodfit.core.errors import UsageError
from goodfit.core.parts import part_name
from goodfit.core.settings import Count

Average = Literal["probability", "logit"]
Frame = tuple[int, int]  # height, width
Window = tuple[int, int, int, int]  # top, left, height, width
MIDDLE = (0.5, 0.5)
PLACES = (MIDDLE, (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
AROUND = (7 / 8, 1.0, 9 / 8)  # VGG's S - 32, S and S + 32 for S = 256


class View(NamedTuple):
    """One view of an image: a window of the model's size, or all there is, mirrored left to right or not.

    `scale` 0 is the stored box, any other the whole image with so many pixels along its short side, decoded anew. `place` (y, x) says how
    much of the room left lies above and left of the window, from 0 to 1; without a place the view is the whole picture.
    """

    scale: int = 0
    place: tuple[float, float] | None = MIDDLE
    mirrored: bool = False

    def window(self, frame: Frame, size: Frame) -> Window:
        """Where the view lies in a picture of (height, width) `frame`, for a model of `size`."""
        if self.place is None:
            return (0, 0, *frame)
        top, left = (int(share * (inside - own)) for share, inside, own in zip(self.place, frame, size, strict=True))
        return (top, left, *size)

    def cut(self, pictures: Tensor, size: Frame) -> Tensor:
        """The view of pictures [B, H, W, C]: [B, h, w, C]."""
        top, left, height, width = self.window((pictures.shape[1], pictures.shape[2]), size)
        window = pictures[:, top : top + height, left : left + width]
        return window.flip(2) if self.mirrored else window


@dataclasses.dataclass(frozen=True)
class Center(Views):
    """The middle of the stored box: one view.

    Helps: the cheapest answer there is, and what training is watched by.
    Hurts: sees nothing of an object at the image's border.
    Cost: none.
    Source: Krizhevsky et al. 2012; He et al. 2016 (the single 224 center crop of a 256 image).
    """

    average: ClassVar[str] = "probability"  # type: ignore[misc]  # of one view either way

    def __call__(self, size: Frame, box: Frame) -> tuple[View, ...]:
        return (View(),)


@dataclasses.dataclass(frozen=True)
class FlipPair(Views):
    """The middle of the stored box and its mirror image.

    Helps: photos, above all after training with flips; most of what ten crops gain, for a fifth of their cost.
    Hurts: digits, text, and whatever has a handedness.
    Cost: two forward passes.
    Source: CS231n, training neural networks II (data augmentation at test time); Jordan 2024 (94 % on CIFAR-10).
    """

    average: Average = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[View, ...]:
        return (View(), View(mirrored=True))


@dataclasses.dataclass(frozen=True)
class FiveCrop(Views):
    """At each scale the center and the four corners, at the model's size.

    The order is scale after scale, in each: center, top left, top right, bottom left, bottom right.
    `scales` are pixels along the short side of the whole image, decoded anew for each; none: the stored box.

    Helps: when objects lie off the center, or are smaller or larger than in training.
    Hurts: where the stored box is no larger than the model's size all five are the same: give scales.
    Cost: five forward passes for each scale, and decoding the image at it.
    Source: Krizhevsky et al. 2012 (four corners and center of 256, without their mirror images).
    """

    scales: tuple[Count, ...] = ()
    average: Average = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[View, ...]:
        return _crops(self, self.scales, size, (False,))


@dataclasses.dataclass(frozen=True)
class TenCrop(Views):
    """At each scale the center and the four corners, at the model's size, each followed by its mirror image; in the order of five_crop.

    `scales` are pixels along the short side of the whole image, decoded anew for each; none: the stored box. ResNet's test is
    (224, 256, 384, 480, 640) for a model of 224: 50 views. Windows that coincide are computed once and weigh as often as they occur.

    Helps: the last percent on photos; several scales help when objects come in many sizes.
    Hurts: digits and text, as flips do; scales far from those of training show the model what it does not know.
    Cost: ten forward passes for each scale, and decoding the image at it.
    Source: CS231n, training neural networks II (ResNet: 5 scales, 10 crops each); Krizhevsky et al. 2012; He et al. 2016.
    """

    scales: tuple[Count, ...] = ()
    average: Average = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[View, ...]:
        return _crops(self, self.scales, size, (False, True))


@dataclasses.dataclass(frozen=True)
class MultiScale(Views):
    """The whole image at each scale, and its mirror image with `flips`: the model slides over it and pools what it found.

    `scales` are pixels along the short side; none: 7/8, 1 and 9/8 of the stored box's. Only for models that take images of any size.

    Helps: photos that are not square, whose sides no crop shows together; one pass instead of ten overlapping ones.
    Hurts: models trained at one scale alone: far from it they do not know what they see.
    Cost: at each scale a forward pass on all its pixels, twice with flips, and decoding the image at it.
    Source: Simonyan & Zisserman 2015 (multi-scale dense evaluation); He et al. 2016 (fully convolutional, averaged over scales).
    """

    scales: tuple[Count, ...] = ()
    flips: bool = True
    average: Average = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[View, ...]:
        scales = self.scales or tuple(round(min(box) * share) for share in AROUND)
        return tuple(View(scale, None, mirrored) for scale in scales for mirrored in (False, True)[: 1 + self.flips])


def _crops(part: Views, scales: tuple[int, ...], size: Frame, sides: tuple[bool, ...]) -> tuple[View, ...]:
    """Center and corners at each scale, in all of the `sides` (mirrored or not).

    Raises:
        UsageError: the model's size does not fit into a scale.
    """
    small = [scale for scale in scales if scale < min(size)]
    if small:
        raise UsageError(
            f"{part_name(part)}: expected scales of {min(size)} pixels or more, as the model's size needs, received {small[0]}."
        )
    return tuple(View(scale, place, mirrored) for scale in scales or (0,) for place in PLACES for mirrored in sides)
