"""Pixels for an accelerator: the same batches from its own memory, from pinned memory, and from the pack."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from goodfit.data import accelerator
from goodfit.data.accelerator import PinnedPixels, ResidentPixels, place_pixels
from goodfit.data.loader import Loader
from goodfit.data.pixels import RawPixels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (37, 4, 5, 3)


@pytest.fixture
def packed(tmp_path: Path) -> RawPixels:
    np.random.Generator(np.random.PCG64(0)).integers(0, 256, SHAPE, dtype=np.uint8).tofile(tmp_path / "pixels")
    return RawPixels(tmp_path / "pixels", SHAPE)


def test_batches_are_the_same_wherever_the_pixels_lie(packed: RawPixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "COPIED_AT_ONCE", 10)  # several pieces, the last one short
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (pinned.append(len(self)), self)[1])
    labels = torch.arange(SHAPE[0]) % 2
    made = [Loader(pixels, labels, torch.arange(3, 37), 2, 8, 0) for pixels in (packed, ResidentPixels(packed, CPU), PinnedPixels(packed))]
    for step in range(6):
        plain, *others = (loader.batch(step) for loader in made)
        assert all(torch.equal(plain.images, other.images) and torch.equal(plain.ids, other.ids) for other in others)
    assert pinned == [8, 8, 8, 8, 2, 8]


def test_pixels_move_to_an_accelerator_where_they_fit(packed: RawPixels, monkeypatch: pytest.MonkeyPatch) -> None:
    size = int(np.prod(SHAPE))
    monkeypatch.setattr(accelerator, "free_memory", lambda device: 4 * size)
    monkeypatch.setattr(accelerator, "ResidentPixels", lambda pixels, device: SimpleNamespace(pixels=pixels, device=device))
    assert place_pixels(packed, CPU) is packed
    resident = place_pixels(packed, CUDA)
    assert (resident.pixels, resident.device) == (packed, CUDA)  # type: ignore[attr-defined]
    monkeypatch.setattr(accelerator, "free_memory", lambda device: 4 * size - 1)
    assert isinstance(place_pixels(packed, CUDA), PinnedPixels)
