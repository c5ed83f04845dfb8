"""Views: the crops and mirror images of an image that a trained model sees at test time, before its answers are averaged."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from goodfit.augment.coordinate_map import Frame
from goodfit.core.contracts import Views
from goodfit.core.errors import UsageError
from goodfit.core.parts import part_name
from goodfit.core.settings import Count

AverageSpace = Literal["probability", "logit"]
Window = tuple[int, int, int, int]  # top, left, height, width
CENTER_PLACE = (0.5, 0.5)
CROP_PLACES = (CENTER_PLACE, (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
RELATIVE_SCALES = (7 / 8, 1.0, 9 / 8)  # VGG's S - 32, S and S + 32 for S = 256


class ImageView(NamedTuple):
    """One view of an image: a window of the model's size, or the whole picture, mirrored left to right or not.

    `scale` 0 is the stored box; any other is the whole image, decoded anew with that many pixels along its short side. `place` (y, x) says
    how much of the remaining room lies above and left of the window, from 0 to 1; without a place the view is the whole picture.
    """

    scale: int = 0
    place: tuple[float, float] | None = CENTER_PLACE
    mirrored: bool = False

    def window(self, frame: Frame, size: Frame) -> Window:
        """Locate the view in a picture of (height, width) `frame`, for a model of `size`."""
        if self.place is None:
            return (0, 0, *frame)
        top, left = (int(share * (outer - inner)) for share, outer, inner in zip(self.place, frame, size, strict=True))
        return (top, left, *size)

    def crop(self, pictures: Tensor, size: Frame) -> Tensor:
        """Crop the view from pictures [B, H, W, C] -> [B, h, w, C]."""
        top, left, height, width = self.window((pictures.shape[1], pictures.shape[2]), size)
        window = pictures[:, top : top + height, left : left + width]
        return window.flip(2) if self.mirrored else window


@dataclasses.dataclass(frozen=True)
class Center(Views):
    """The middle of the stored box: one view.

    Helps: the cheapest prediction, and the one that evaluations during training use.
    Hurts: misses objects at the image's border.
    Cost: none.
    Source: Krizhevsky et al. 2012; He et al. 2016 (the single 224 center crop of a 256 image).
    """

    average: ClassVar[str] = "probability"  # type: ignore[misc]  # one view has no choice

    def __call__(self, size: Frame, box: Frame) -> tuple[ImageView, ...]:
        return (ImageView(),)


@dataclasses.dataclass(frozen=True)
class FlipPair(Views):
    """The middle of the stored box and its mirror image.

    Helps: photos, above all after training with flips; most of the gain of ten crops, for a fifth of their cost.
    Hurts: digits, text, and whatever has a handedness.
    Cost: two forward passes.
    Source: CS231n, training neural networks II (data augmentation at test time); Jordan 2024 (94 % on CIFAR-10).
    """

    average: AverageSpace = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[ImageView, ...]:
        return (ImageView(), ImageView(mirrored=True))


@dataclasses.dataclass(frozen=True)
class FiveCrop(Views):
    """At each scale the center and the four corners, at the model's size.

    The order is scale after scale, and within each: center, top left, top right, bottom left, bottom right.
    `scales` are pixels along the short side of the whole image, decoded anew for each; if there are none, the stored box is used.

    Helps: when objects lie off the center, or are smaller or larger than in training.
    Hurts: where the stored box is no larger than the model's size, all five are the same: give scales.
    Cost: five forward passes for each scale, and decoding the image at it.
    Source: Krizhevsky et al. 2012 (four corners and center of 256, without their mirror images).
    """

    scales: tuple[Count, ...] = ()
    average: AverageSpace = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[ImageView, ...]:
        return _crop_views(self, self.scales, size, (False,))


@dataclasses.dataclass(frozen=True)
class TenCrop(Views):
    """At each scale the center and the four corners, at the model's size, each followed by its mirror image; in the order of five_crop.

    `scales` are pixels along the short side of the whole image, decoded anew for each; if there are none, the stored box is used. ResNet's
    test is (224, 256, 384, 480, 640) for a model of 224: 50 views. Windows that coincide are computed once and counted each time.

    Helps: the last percent on photos; several scales help when objects come in many sizes.
    Hurts: digits and text, as flips do; scales far from those of training show the model what it has never seen.
    Cost: ten forward passes for each scale, and decoding the image at it.
    Source: CS231n, training neural networks II (ResNet: 5 scales, 10 crops each); Krizhevsky et al. 2012; He et al. 2016.
    """

    scales: tuple[Count, ...] = ()
    average: AverageSpace = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[ImageView, ...]:
        return _crop_views(self, self.scales, size, (False, True))


@dataclasses.dataclass(frozen=True)
class MultiScale(Views):
    """The whole image at each scale, and its mirror image with `flips`: the model slides over it and pools what it finds.

    `scales` are pixels along the short side; if there are none, 7/8, 1 and 9/8 of the stored box's. Only for models that take any size.

    Helps: photos that are not square, whose ends no single crop shows; one pass instead of ten overlapping ones.
    Hurts: models trained at a single scale: far from it they do not recognize what they see.
    Cost: at each scale a forward pass on all its pixels, twice with flips, and decoding the image at it.
    Source: Simonyan & Zisserman 2015 (multi-scale dense evaluation); He et al. 2016 (fully convolutional, averaged over scales).
    """

    scales: tuple[Count, ...] = ()
    flips: bool = True
    average: AverageSpace = "probability"

    def __call__(self, size: Frame, box: Frame) -> tuple[ImageView, ...]:
        scales = self.scales or tuple(round(min(box) * share) for share in RELATIVE_SCALES)
        return tuple(ImageView(scale, None, mirrored) for scale in scales for mirrored in (False, True)[: 1 + self.flips])


def _crop_views(part: Views, scales: tuple[int, ...], size: Frame, orientations: tuple[bool, ...]) -> tuple[ImageView, ...]:
    """List center and corners at each scale, in each of the `orientations` (mirrored or not).

    Raises:
        UsageError: the model's size does not fit into a scale.
    """
    too_small = [scale for scale in scales if scale < min(size)]
    if too_small:
        raise UsageError(
            f"{part_name(part)}: expected scales of {min(size)} pixels or more, as the model's size needs, received {too_small[0]}."
        )
    return tuple(ImageView(scale, place, mirrored) for scale in scales or (0,) for place in CROP_PLACES for mirrored in orientations)
