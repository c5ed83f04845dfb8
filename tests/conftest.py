"""What all tests share: one thread, a cache of their own, and a folder of small photos that can be told apart."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["GOODFIT_CACHE"] = tempfile.mkdtemp(prefix="goodfit-tests-")
os.environ["NO_COLOR"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def picture(color: tuple[int, int, int], seed: int, side: int = 20) -> np.ndarray:
    """A noisy picture [side, side, 3] uint8 whose stripes have a color."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 120, (side, side, 3))
    image[:: rng.integers(2, 5)] = np.array(color) + rng.integers(-30, 30, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_photos(root: Path, each: int = 30, side: int = 20) -> Path:
    """A flat folder root/<class>/ of PNG pictures in three classes."""
    for k, (name, color) in enumerate(COLORS.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(picture(color, 1000 * k + i, side)).save(root / name / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")
