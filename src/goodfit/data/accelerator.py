"""Where the training pixels of an accelerator are read from: its own memory if they fit, else pinned memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from goodfit.core.device import free_memory
from goodfit.data.loader import TrainingPixels
from goodfit.data.pixels import RawPixels

MEMORY_SHARE = 0.25  # of the accelerator's free memory that the pixels may take
COPIED_AT_ONCE = 4096  # images


class ResidentPixels(TrainingPixels):
    """Pixels held in an accelerator's memory: batches are gathered there, and none has to travel."""

    def __init__(self, pixels: RawPixels, device: torch.device) -> None:
        self.shape = pixels.shape
        self._images = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for rows in torch.split(torch.arange(self.shape[0]), COPIED_AT_ONCE):
            self._images[rows[0] : rows[-1] + 1] = pixels.read(rows).to(device)

    def read_for_training(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        return self._images[rows.to(self._images.device)]


class PinnedPixels(TrainingPixels):
    """Pixels read into pinned memory, from which they travel while the accelerator computes."""

    def __init__(self, pixels: TrainingPixels) -> None:
        self.shape, self._pixels = pixels.shape, pixels

    def read_for_training(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        return self._pixels.read_for_training(rows, places, epoch).pin_memory()


def place_pixels(pixels: Any, device: torch.device) -> TrainingPixels:
    """The pixels as training on a device reads them fastest: on CUDA from its memory where they fit into a quarter of what is free."""
    if device.type != "cuda":
        return pixels  # type: ignore[no-any-return]
    n, height, width, channels = pixels.shape
    fits = n * height * width * channels <= MEMORY_SHARE * free_memory(device)
    return ResidentPixels(pixels, device) if isinstance(pixels, RawPixels) and fits else PinnedPixels(pixels)
