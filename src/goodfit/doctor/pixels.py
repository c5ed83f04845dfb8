"""Images as arrays: in blocks, spread evenly, as numbers or bytes, shrunk, hashed, and how much each varies."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from goodfit.data.index import IntArray

IMAGES_PER_BLOCK = 1024
BLANK_STD = 2.0  # levels of the channel that varies most: noise of a camera alone has more; no photo, digit or drawing has less


def blocks(n: int) -> list[slice]:
    """The rows of n images in blocks that fit into memory; one empty block where there are none."""
    return [slice(start, min(start + IMAGES_PER_BLOCK, n)) for start in range(0, max(n, 1), IMAGES_PER_BLOCK)]


def spread(n: int, most: int) -> IntArray:
    """At most so many of n rows, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


def hash_images(images: NDArray[np.generic]) -> list[bytes]:
    """A hash of the bytes of each image [N, ...]."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in np.ascontiguousarray(images)]


def measure_deviations(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The standard deviation of the pixels of images [N, H, W, C], in levels, of the channel that varies most: [N]."""
    deviations = np.zeros(len(images), dtype=np.float32)
    for rows in blocks(len(images)) if len(images) else []:
        pixels = torch.from_numpy(np.ascontiguousarray(images[rows])).flatten(1, 2).float()
        deviations[rows] = pixels.std(1, correction=0).amax(1).numpy()
    return deviations


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels [N, H, W, C] or [N, H, W] as images [N, C, H, W] from 0 to 1."""
    x = torch.from_numpy(np.ascontiguousarray(pixels))
    return (x[..., None] if x.ndim == 3 else x).permute(0, 3, 1, 2).float() / 255


def to_bytes(images: Tensor, low: float = 0.0, high: float = 1.0) -> NDArray[np.uint8]:
    """Images [N, C, H, W] between two numbers, or uint8 ones as they are, as bytes [N, H, W, C]."""
    if images.dtype != torch.uint8:
        images = ((images - low) / max(high - low, 1e-12) * 255).round().clamp(0, 255).to(torch.uint8)
    result: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return result


def to_tensor(images: NDArray[np.uint8], side: int) -> Tensor:
    """Images [N, H, W, C] averaged to at most `side` pixels a side, without alpha: uint8 [N, 1 or 3, h, w]."""
    channels = 3 if images.shape[3] >= 3 else 1
    return shrink(torch.from_numpy(np.ascontiguousarray(images[..., :channels])).permute(0, 3, 1, 2), side)


def shrink(images: Tensor, side: int) -> Tensor:
    """Average images [N, C, H, W] to at most `side` pixels a side: uint8 [N, C, h, w]."""
    size = [min(side, length) for length in images.shape[2:]]
    if size == list(images.shape[2:]):
        return images
    parts = [F.interpolate(images[rows].float(), size=size, mode="area").round_().to(torch.uint8) for rows in blocks(len(images))]
    return torch.cat(parts)
