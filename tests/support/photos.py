"""Small photos in three classes that can be told apart by their color."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

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
