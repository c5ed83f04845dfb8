"""The one way an image becomes what the model sees: decoded to a stored box, cropped, normalized."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goodfit.core.errors import DataError, UsageError
from goodfit.data.decode import (
    JPEG_START,
    BrokenImage,
    Extent,
    check_size,
    eight_bits,
    from_array,
    header,
    jpeg,
    jpeg_orientation,
    orientation_of,
    plain,
    said,
    upright,
    whole,
)
from goodfit.data.levels import channels_last, scale_of, to_pixels

Aspect = Literal["crop", "pad", "stretch"]
CROP_MODES: dict[Aspect, str] = {"crop": "center", "pad": "border", "stretch": "squash"}  # timm's words
ROOM = 8 / 7  # the box's side over the model's: a 256 box for 224, as the field has it
PADDING = 0  # black: a constant that needs no statistics, so packing does not wait for them


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How images are prepared, stored with the model so that training, evaluation and prediction see the same pixels.

    `size` (height, width) is the model's input, `box` what is stored: for "crop" the largest centered part of the box's shape, for "pad"
    the whole image on black, for "stretch" the whole image out of shape. Shrinking uses Pillow's antialiased Hamming filter (sharper
    than bilinear at the same cost), enlarging its bicubic one. `white` is the value of 16-bit images that becomes 255; `mean` and `std`
    are per channel, on a scale of 0 to 1.
    """

    size: tuple[int, int]
    box: tuple[int, int]
    channels: int = 3
    aspect: Aspect = "crop"
    white: int = 65535
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    # ---- pixels ------------------------------------------------------------------------------------------------------------------

    def decode(self, source: bytes | str | Path | NDArray[Any] | Image.Image) -> NDArray[np.uint8]:
        """uint8 [box height, box width, channels] of an encoded image, a file, an array ([H, W], [H, W, C] or [C, H, W]) or a Pillow
        image; EXIF orientation applied. The numbers of an array mean what they mean in training (`levels.scale_of`): floats are 0..1, or
        0..255 if one is above 1; whole numbers are 8-bit ones, or 16-bit ones if one is above 255.

        Raises:
            BrokenImage: it cannot be decoded; a DataError whose `reason` says why.
        """
        if isinstance(source, np.ndarray):
            return self._from_array(source)
        if isinstance(source, Image.Image):
            return self._from_pillow(source)
        if isinstance(source, bytes):
            return self._from_bytes(source)
        try:
            return self._from_bytes(Path(source).read_bytes())
        except BrokenImage as error:
            raise BrokenImage(error.reason, f'"{source}"') from error
        except OSError as error:
            raise BrokenImage(said(error), f'"{source}"') from error

    def _from_bytes(self, data: bytes) -> NDArray[np.uint8]:
        if data[:3] == JPEG_START:
            orientation = jpeg_orientation(data)
            found = jpeg(data, self.channels, functools.partial(self._least, self._box(orientation)))
            if found is not None:
                pixels, extent = found
                if pixels.shape[:2] == self.box and extent == self.box[::-1] and orientation == 1:
                    return pixels.copy()
                return self._boxed(from_array(pixels), orientation, extent)
        image, orientation = whole(data, self.channels, self.white)
        return self._boxed(image, orientation)

    def _from_array(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if pixels.dtype == np.uint8 and pixels.shape == (*self.box, self.channels):
            return pixels
        return self._boxed(self.image(pixels), 1)

    def image(self, pixels: NDArray[Any]) -> Image.Image:
        """The Pillow image, in the mode for `channels`, of an array as `decode` takes it.

        Raises:
            BrokenImage: its shape or numbers are not those of an image.
        """
        try:
            pixels = to_pixels(channels_last(pixels) if pixels.ndim == 3 else pixels, scale_of([pixels], self.white))
        except DataError as error:
            text = str(error).rstrip(".")
            raise BrokenImage(text[:1].lower() + text[1:]) from error
        pixels = eight_bits(pixels, self.white) if pixels.dtype == np.uint16 else pixels
        facts = header(pixels)
        check_size(facts.width, facts.height)
        return plain(from_array(np.ascontiguousarray(pixels)), self.channels, self.white)

    def _from_pillow(self, image: Image.Image) -> NDArray[np.uint8]:
        check_size(*image.size)
        try:
            return self._boxed(plain(image, self.channels, self.white), orientation_of(image))
        except (OSError, SyntaxError, ValueError) as error:
            raise BrokenImage(said(error)) from error

    # ---- geometry ----------------------------------------------------------------------------------------------------------------

    def _box(self, orientation: int) -> tuple[int, int]:
        """(height, width) of the box before the image is turned upright."""
        return self.box if orientation < 5 else (self.box[1], self.box[0])

    def _least(self, box: tuple[int, int], width: int, height: int) -> tuple[float, float]:
        """(width, height) the whole image needs so that the box is not short of pixels."""
        scales = (box[1] / width, box[0] / height)
        if self.aspect == "stretch":
            return box[1], box[0]
        scale = max(scales) if self.aspect == "crop" else min(scales)
        return width * scale, height * scale

    def _boxed(self, image: Image.Image, orientation: int, extent: Extent | None = None) -> NDArray[np.uint8]:
        high, wide = self._box(orientation)
        width, height = extent or image.size
        if self.aspect == "pad":
            scale = min(wide / width, high / height)
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            fitted = np.asarray(_resized(image, size, (0, 0, width, height))).reshape(size[1], size[0], self.channels)
            pixels = np.full((high, wide, self.channels), PADDING, dtype=np.uint8)
            top, left = (high - size[1]) // 2, (wide - size[0]) // 2
            pixels[top : top + size[1], left : left + size[0]] = fitted
        else:
            scale = max(wide / width, high / height)
            across, down = (wide / scale, high / scale) if self.aspect == "crop" else (width, height)
            x, y = max(0.0, (width - across) / 2), max(0.0, (height - down) / 2)
            region = (x, y, min(width, x + across), min(height, y + down))
            pixels = np.asarray(_resized(image, (wide, high), region)).reshape(high, wide, self.channels)
        return np.ascontiguousarray(upright(pixels, orientation))

    def center(self, images: Tensor) -> Tensor:
        """The middle of boxes [B, C, H, W] at the model's size, a view."""
        (high, wide), (height, width) = images.shape[-2:], self.size
        top, left = (high - height) // 2, (wide - width) // 2
        return images[..., top : top + height, left : left + width]

    def middle(self, extents: Tensor) -> Tensor:
        """What `center` shows of upright images of (height, width) `extents` [B, 2] float64, for "crop": windows [B, 4] float64
        (top, left, height, width) in their own pixels.
        """
        box, size = (torch.tensor(x, dtype=torch.float64) for x in (self.box, self.size))
        scale = (box / extents).amax(dim=1, keepdim=True)  # of the box to the image
        start = (extents - box / scale) / 2 + torch.floor((box - size) / 2) / scale
        return torch.cat([start, size / scale], dim=1)

    # ---- numbers -----------------------------------------------------------------------------------------------------------------

    def normalize(self, images: Tensor) -> Tensor:
        """(x - mean) / std per channel, as float32 [B, C, h, w] with channels last in memory; uint8 counts as 0..255, floats as 0..1."""
        whole, (_, channels, height, width) = images.dtype == torch.uint8, images.shape
        # x * factor + shift, an image row at a time: channels side by side would leave the inner loop three long, five times as slow.
        mean, std = (torch.tensor(x, dtype=torch.float64).expand(channels).repeat(width) for x in (self.mean, self.std))
        factor, shift = (x.float().to(images.device) for x in (1 / (std * (255 if whole else 1)), -mean / std))
        rows = images.permute(0, 2, 3, 1).float().reshape(-1, width * channels)
        rows = torch.addcmul(shift, rows, factor, out=rows) if whole else torch.addcmul(shift, rows, factor)
        return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def but(self, **changes: Any) -> Self:
        """The same with some of its fields replaced."""
        return dataclasses.replace(self, **changes)

    # ---- files -------------------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with timm's names where it has them."""
        return {
            "input_size": [self.channels, *self.size],
            "box_size": list(self.box),
            "crop_pct": min(self.size[0] / self.box[0], self.size[1] / self.box[1]),
            "crop_mode": CROP_MODES[self.aspect],
            "interpolation": "hamming",
            "white": self.white,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Preprocess:
        """What `to_dict` wrote.

        Raises:
            UsageError: a key is missing.
        """
        try:
            channels, height, width = content["input_size"]
            aspect = next(aspect for aspect, word in CROP_MODES.items() if word == content["crop_mode"])
            box = cast(tuple[int, int], tuple(content["box_size"]))
            mean, std = tuple(content["mean"]), tuple(content["std"])
            return Preprocess((height, width), box, channels, aspect, content["white"], mean, std)
        except (KeyError, StopIteration, TypeError, ValueError) as error:
            raise UsageError(
                f"Expected the preprocessing of a model (input_size, box_size, mean, std ...), but it is wrong at: {error}."
            ) from error


def _resized(image: Image.Image, size: tuple[int, int], region: tuple[float, float, float, float]) -> Image.Image:
    """Pillow's antialiased resize of a region (left, top, right, bottom) to (width, height)."""
    if image.size == size and region == (0, 0, *size):
        return image
    shrinks = size[0] <= region[2] - region[0] and size[1] <= region[3] - region[1]
    return image.resize(size, Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC, region)


def box_size(size: tuple[int, int], aspect: Aspect, widths: NDArray[Any], heights: NDArray[Any]) -> tuple[int, int]:
    """(height, width) to store for a model's `size`: with "crop", 8/7 of it as room for crops if at least half of the images have the
    pixels for it, so that no enlarged room is stored; else the size itself.
    """
    if aspect != "crop" or not len(widths):
        return size
    room = (round(size[0] * ROOM), round(size[1] * ROOM))
    return room if np.median(np.minimum(widths / room[1], heights / room[0])) >= 1 else size
