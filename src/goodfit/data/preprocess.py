"""The one way from an image to the model's input: decoded to a stored box, cropped, normalized."""

from __future__ import annotations

import base64
import dataclasses
import functools
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.errors import DataError, UsageError
from goodfit.core.settings import INVALID, Count, Positive, convert
from goodfit.data.decode import ExactSize, convert_channels, convert_image, decode_jpeg, decode_with_pillow, to_8_bit, to_pillow
from goodfit.data.levels import MAX_16_BIT, infer_scale, to_channels_last, to_pixels
from goodfit.data.opening import BrokenImage, ImageSource, quote_path, read_contents, read_header, read_jpeg_layout
from goodfit.data.orientation import apply_orientation, orient_size

Aspect = Literal["crop", "pad", "stretch"]
TIMM_CROP_MODES: dict[Aspect, str] = {"crop": "center", "pad": "border", "stretch": "squash"}
INTERPOLATION = "hamming"  # of Pillow's filters, the one that shrinks images
BOX_RATIO = 8 / 7  # the box's side over the model's: 256 for 224, as is usual
CHANNELS = (1, 3, 4)  # that an image may have: gray, RGB, and with alpha
DICT_HINTS: dict[str, Any] = {  # of the values of `to_dict`
    "input_size": tuple[Count, Count, Count], "box_size": tuple[Count, Count], "white": Count, "mean": tuple[float, ...],
    "std": tuple[Positive, ...],
}  # fmt: skip
PAD_VALUE = 0  # black: a constant, so that packing need not wait for the mean


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How images are prepared; it is stored with the model, so that training, evaluation and prediction see the same pixels.

    `size` (height, width) is the model's input. `box` (height, width) is what is stored: for "crop" the largest centered part in the
    box's proportions, for "pad" the whole image on black, for "stretch" the whole image in the box's proportions. Shrinking uses Pillow's
    antialiased Hamming filter (sharper than bilinear at the same cost), enlarging its bicubic one. `white_level` is the value of 16-bit
    images that becomes 255; `mean` and `std` are per channel, on a scale of 0 to 1. `mean_image` holds, if any, how far the mean of
    the center crops is from `mean`: little-endian float32 [height, width, channels] as bytes.
    """

    size: tuple[int, int]
    box: tuple[int, int]
    channels: int = 3
    aspect: Aspect = "crop"
    white_level: int = MAX_16_BIT
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    mean_image: bytes = dataclasses.field(default=b"", repr=False)

    # ---- pixels ------------------------------------------------------------------------------------------------------------------

    def decode(self, source: ImageSource) -> NDArray[np.uint8]:
        """Decode a file (its path, or open), its bytes, an array ([H, W], [H, W, C] or [C, H, W]) or a Pillow image, with its
        orientation applied, to uint8 [box height, box width, channels].

        The numbers of an array are understood as in training (`levels.infer_scale`): floats are 0..1, or 0..255 if one is above 1;
        integers are 8-bit ones, or 16-bit ones if one is above 255.

        Raises:
            BrokenImage: it cannot be decoded; a DataError whose `reason` says why.
        """
        content = read_contents(source)
        if isinstance(content, np.ndarray):
            return self._decode_array(content)
        if isinstance(content, Image.Image):
            return self._fit_box(*convert_image(content, self.channels, self.white_level))
        try:
            return self._decode_bytes(content)
        except BrokenImage as error:
            raise BrokenImage(error.reason, quote_path(source)) from error

    def _decode_bytes(self, data: bytes) -> NDArray[np.uint8]:
        if (layout := read_jpeg_layout(data)) is not None:
            orientation = layout.orientation
            decoded = decode_jpeg(data, layout, self.channels, functools.partial(self._needed_size, orient_size(self.box, orientation)))
            if decoded is not None:
                pixels, exact_size = decoded
                if pixels.shape[:2] == self.box and exact_size == self.box[::-1] and orientation == 1:
                    return pixels.copy()
                return self._fit_box(to_pillow(pixels), orientation, exact_size)
        return self._fit_box(*decode_with_pillow(data, self.channels, self.white_level))

    def _decode_array(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if pixels.dtype == np.uint8 and pixels.shape == (*self.box, self.channels) and (self.channels < 4 or pixels[..., 3].any()):
            return pixels
        return self._fit_box(self.convert_array(pixels), 1)

    def convert_array(self, pixels: NDArray[Any]) -> Image.Image:
        """Convert an array that `decode` accepts to a Pillow image in the mode for `channels`.

        Raises:
            BrokenImage: its shape or numbers are not those of an image.
        """
        try:
            pixels = to_pixels(to_channels_last(pixels) if pixels.ndim == 3 else pixels, infer_scale(pixels, self.white_level))
        except DataError as error:
            text = str(error).rstrip(".")
            raise BrokenImage(text[:1].lower() + text[1:]) from error
        pixels = to_8_bit(pixels, self.white_level) if pixels.dtype == np.uint16 else pixels
        read_header(pixels)  # refuses what has not the shape of an image
        return convert_channels(to_pillow(np.ascontiguousarray(pixels)), self.channels, self.white_level)

    # ---- geometry ----------------------------------------------------------------------------------------------------------------

    def _needed_size(self, box: tuple[int, int], width: int, height: int) -> tuple[float, float]:
        """The (width, height) at which the whole image has enough pixels for the box."""
        scales = (box[1] / width, box[0] / height)
        if self.aspect == "stretch":
            return box[1], box[0]
        scale = max(scales) if self.aspect == "crop" else min(scales)
        return width * scale, height * scale

    def _fit_box(self, image: Image.Image, orientation: int, exact_size: ExactSize | None = None) -> NDArray[np.uint8]:
        """Resize an image as stored to the box, and turn it upright."""
        box_height, box_width = orient_size(self.box, orientation)
        width, height = exact_size or image.size
        if self.aspect == "pad":
            scale = min(box_width / width, box_height / height)
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            resized = np.asarray(_resize(image, size, (0, 0, width, height))).reshape(size[1], size[0], self.channels)
            pixels = np.full((box_height, box_width, self.channels), PAD_VALUE, dtype=np.uint8)
            top, left = (box_height - size[1]) // 2, (box_width - size[0]) // 2
            pixels[top : top + size[1], left : left + size[0]] = resized
        else:
            scale = max(box_width / width, box_height / height)
            w, h = (box_width / scale, box_height / scale) if self.aspect == "crop" else (width, height)
            x, y = max(0.0, (width - w) / 2), max(0.0, (height - h) / 2)
            region = (x, y, min(width, x + w), min(height, y + h))
            pixels = np.asarray(_resize(image, (box_width, box_height), region)).reshape(box_height, box_width, self.channels)
        return np.ascontiguousarray(apply_orientation(pixels, orientation))

    def center_crop(self, images: Tensor) -> Tensor:
        """Crop boxes [B, C, H, W] to the model's size at their center; the result is a view."""
        (box_height, box_width), (height, width) = images.shape[-2:], self.size
        top, left = (box_height - height) // 2, (box_width - width) // 2
        return images[..., top : top + height, left : left + width]

    def center_windows(self, extents: Tensor) -> Tensor:
        """Compute the windows [B, 4] float64 (top, left, height, width) that `center_crop` shows of upright images, in their own pixels.

        `extents` [B, 2] float64 are the images' (height, width); the aspect must be "crop".
        """
        box, size = (torch.tensor(x, dtype=torch.float64) for x in (self.box, self.size))
        scale = (box / extents).amax(dim=1, keepdim=True)  # of the box to the image
        start = (extents - box / scale) / 2 + torch.floor((box - size) / 2) / scale
        return torch.cat([start, size / scale], dim=1)

    # ---- numbers -----------------------------------------------------------------------------------------------------------------

    def normalize(self, images: Tensor) -> Tensor:
        """Compute (x - mean) / std per channel, as float32 [B, C, h, w] with channels last in memory; uint8 is 0..255, floats are 0..1.

        A mean image is taken off, too, resized to the images where they are of another size than the model's.
        """
        is_uint8, (_, channels, height, width) = images.dtype == torch.uint8, images.shape
        # x * factor + shift, an image row at a time: over the channels alone the inner loop would be three long, five times as slow.
        mean, std = (torch.tensor(x, dtype=torch.float64).expand(channels).repeat(width) for x in (self.mean, self.std))
        factor, shift = (x.float().to(images.device) for x in (1 / (std * (255 if is_uint8 else 1)), -mean / std))
        rows = images.permute(0, 2, 3, 1).float().reshape(-1, width * channels)
        rows = torch.addcmul(shift, rows, factor, out=rows) if is_uint8 else torch.addcmul(shift, rows, factor)
        normalized = rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return normalized.sub_(self._shift(height, width).to(images.device)) if self.mean_image else normalized

    def with_mean_image(self, image: Tensor) -> Self:
        """Return a copy that takes off a mean image, [C, H, W] of 0 to 1."""
        difference = image.double() - torch.tensor(self.mean, dtype=torch.float64)[:, None, None]
        return self.but(mean_image=difference.permute(1, 2, 0).float().contiguous().numpy().astype("<f4").tobytes())

    @functools.cached_property
    def _mean_image(self) -> Tensor:
        """How far the mean image is from the mean, over std: float32 [1, C, H, W]."""
        image = np.frombuffer(self.mean_image, "<f4").reshape(1, *self.size, self.channels) / np.array(self.std)
        return torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2)

    def _shift(self, height: int, width: int) -> Tensor:
        """The mean image for images of a size, [1, C, height, width]."""
        if (height, width) == self.size:
            return self._mean_image
        return F.interpolate(self._mean_image, (height, width), mode="bilinear", antialias=True)

    def but(self, **changes: Any) -> Self:
        """Return a copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def geometry(self) -> Self:
        """The same without the normalization: all that the pixels depend on."""
        return self.but(mean=(), std=(), mean_image=b"")

    # ---- files -------------------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for JSON, under timm's names where it has them."""
        return {
            "input_size": [self.channels, *self.size],
            "box_size": list(self.box),
            "crop_pct": min(self.size[0] / self.box[0], self.size[1] / self.box[1]),
            "crop_mode": TIMM_CROP_MODES[self.aspect],
            "interpolation": INTERPOLATION,
            "white": self.white_level,
            "mean": list(self.mean),
            "std": list(self.std),
            **({"mean_image": base64.b64encode(self.mean_image).decode()} if self.mean_image else {}),
        }

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Preprocess:
        """Restore what `to_dict` returned.

        Raises:
            UsageError: a key is missing, or its value is not what is written there.
        """
        try:
            aspect = next(aspect for aspect, word in TIMM_CROP_MODES.items() if word == content["crop_mode"])
            values = {key: convert(content[key], hint) for key, hint in DICT_HINTS.items()}
            if wrong := [key for key, value in values.items() if value is INVALID]:
                raise ValueError(", ".join(wrong))
            channels, *size = values["input_size"]
            if channels not in CHANNELS or not len(values["mean"]) == len(values["std"]) == channels:
                raise ValueError("the number of channels")
            mean_image = base64.b64decode(content.get("mean_image", ""), validate=True)
            if len(mean_image) not in (0, 4 * channels * size[0] * size[1]) or not np.isfinite(np.frombuffer(mean_image, "<f4")).all():
                raise ValueError("mean_image")
            return Preprocess(
                (size[0], size[1]), values["box_size"], channels, aspect, values["white"], values["mean"], values["std"], mean_image
            )
        except (KeyError, StopIteration, TypeError, ValueError) as error:
            raise UsageError(
                f"Expected the preprocessing of a model (input_size, box_size, mean, std ...), but it is wrong at: {error}."
            ) from error


def _resize(image: Image.Image, size: tuple[int, int], region: tuple[float, float, float, float]) -> Image.Image:
    """Resize a region (left, top, right, bottom) to (width, height) with Pillow's antialiased filters."""
    if image.size == size and region == (0, 0, *size):
        return image
    shrinks = size[0] <= region[2] - region[0] and size[1] <= region[3] - region[1]
    return image.resize(size, Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC, region)


def choose_box_size(size: tuple[int, int], aspect: Aspect, widths: NDArray[Any], heights: NDArray[Any]) -> tuple[int, int]:
    """Choose the (height, width) to store for a model's `size`.

    With "crop" it is BOX_RATIO times the size, as room for crops, if at least half of the images have enough pixels for it, so that the
    room is not merely enlarged; else it is the size itself.
    """
    if aspect != "crop" or not len(widths):
        return size
    box = (round(size[0] * BOX_RATIO), round(size[1] * BOX_RATIO))
    return box if np.median(np.minimum(widths / box[1], heights / box[0])) >= 1 else size
