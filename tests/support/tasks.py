"""Small pictures with several labels, or with numbers, that can be told from them; as folders with a labels.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LABELS = ("bright", "left", "top")
NUMBERS = ("light", "place")
FAST = {
    "size": "12", "model": "convnet(8)", "augment": "none", "optimizer": "sgd(0.05, momentum=0.9)", "budget": "12 epochs",
    "batch_size": "16", "precision": "fp32", "layout": "contiguous", "threads": "1", "evaluate_every": "3 epochs",
}  # fmt: skip


def draw_squares(n: int = 150, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Gray pictures [n, 12, 12] of a square on noise, their labels [n, 3] (0 or 1) and their numbers [n, 2]: its light, its column."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (n, 12, 12))
    row, column, light = rng.integers(0, 9, n), rng.integers(0, 9, n), rng.integers(80, 250, n)
    for k in range(n):
        images[k, row[k] : row[k] + 4, column[k] : column[k] + 4] = light[k]
    labels = np.stack([light >= 165, column < 4, row < 4], axis=1).astype(float)
    return images.astype(np.uint8), labels, np.stack([light / 10, 100.0 + column], axis=1)


def make_label_folder(root: Path, n: int = 150) -> Path:
    """A folder of pictures with a labels.csv whose column labels has lists such as `left;top`."""
    images, labels, _ = draw_squares(n)
    rows = [(f"{k}.png", ";".join(name for name, has in zip(LABELS, labels[k], strict=True) if has)) for k in range(n)]
    return write_folder(root, images, [("path", "labels"), *rows])


def make_number_folder(root: Path, n: int = 150) -> Path:
    """A folder of pictures with a labels.csv that has a column for each number."""
    images, _, numbers = draw_squares(n)
    return write_folder(root, images, [("path", *NUMBERS), *((f"{k}.png", *numbers[k].tolist()) for k in range(n))])


def write_folder(root: Path, images: NDArray[np.uint8], table: list[tuple[object, ...]]) -> Path:
    """Write pictures as 0.png, 1.png ..., and the table beside them."""
    root.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(root / f"{k}.png")
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    return root


def words_of(changes: dict[str, str]) -> list[str]:
    """The options of a fast training, some changed."""
    return [word for key, value in {**FAST, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
