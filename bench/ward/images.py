"""The images of the ward: digits, CIFAR-10 and clothing from files, shapes and gratings drawn by seed."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np

SIDE = 32  # pixels of CIFAR-10 and clothing
MAX_STORED = 8000  # images of CIFAR-10 that are kept
SPLITS = {  # images for training, validation, and the honest test that no case shows
    "digits": (1000, 380, 417),
    "cifar10": (3000, 1000, 2500),
    "clothing": (2000, 700, 1000),
    "shapes": (1500, 600, 1500),
    "shapes100": (4000, 1000, 2000),
    "gratings": (1200, 500, 1500),
    "blurred": (1500, 600, 1500),
    "letters": (1600, 600, 1500),
    "grains": (1400, 500, 1500),
}
LETTERS = "ABEFHKLMRSTX"
LOBES = (0, 2, 3, 4, 5)  # how many lobes a shape has


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and their labels int64 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: np.ndarray) -> Split:
        """Those rows, in that order."""
        return Split(self.images[rows], self.labels[rows])

    def join(self, other: Split) -> Split:
        """This split with another behind it."""
        return Split(np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels]))

    def but(self, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> Split:
        """This split with other images or labels."""
        return Split(self.images if images is None else images, self.labels if labels is None else labels)


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three splits of one task; `test` is never shown."""

    train: Split
    validation: Split
    test: Split

    @property
    def classes(self) -> int:
        return int(self.test.labels.max()) + 1


def draw_splits(name: str, seed: int, folder: Path, size: int = 0) -> Splits:
    """Draw the splits of a data set by seed.

    Args:
        name: a key of `SPLITS`.
        seed: of the draw; every seed gives other splits.
        folder: where `store_images` put the data sets that are read from files.
        size: training images per class, 0 for as many as there are.
    """
    counts = SPLITS[name]
    rng = np.random.default_rng([seed, 11])
    everything = _read(folder / f"{name}.npz") if name in ("digits", "cifar10", "clothing") else _draw(name, sum(counts), rng)
    order = rng.permutation(len(everything))[: sum(counts)]
    train, validation, test = (everything.rows(rows) for rows in np.split(order, np.cumsum(counts)[:2]))
    if size:
        rows = np.concatenate([np.flatnonzero(train.labels == k)[:size] for k in range(int(test.labels.max()) + 1)])
        train = train.rows(rng.permutation(rows))
    return Splits(train, validation, test)


def _read(path: Path) -> Split:
    with np.load(path) as arrays:
        return Split(arrays["images"], arrays["labels"])


def _draw(name: str, count: int, rng: np.random.Generator) -> Split:
    if name == "gratings":
        return draw_gratings(count, rng)
    if name == "blurred":
        return draw_gratings(count, rng, contrast=0.17)
    if name == "letters":
        return draw_letters(count, rng)
    if name == "grains":
        return draw_grains(count, rng)
    return draw_shapes(count, rng, hues=10 if name == "shapes100" else 2)


# ---- drawn -------------------------------------------------------------------------------------------------------------------------


def draw_shapes(count: int, rng: np.random.Generator, hues: int = 2, side: int = 20) -> Split:
    """Draw lobed shapes in colors: the class is the number of lobes and the hue, with 10 hues also whether the shape is hollow."""
    fills = 2 if hues > 2 else 1
    labels = rng.integers(0, len(LOBES) * hues * fills, count)
    lobes, hue, hollow = np.array(LOBES)[labels % 5], labels // 5 % hues, labels // (5 * hues) > 0
    grid = np.arange(side) - (side - 1) / 2
    center = rng.uniform(-2.5, 2.5, (2, count, 1, 1))
    y, x = grid[None, :, None] - center[0], grid[None, None, :] - center[1]
    radius = rng.uniform(5.0, 7.5, (count, 1, 1))
    turn = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    edge = radius * (1 + 0.45 * np.where(lobes > 0, 1, 0)[:, None, None] * np.cos(lobes[:, None, None] * np.arctan2(y, x) + turn))
    distance = np.hypot(x, y)
    mask = 1 / (1 + np.exp(np.clip(2.5 * (distance - edge), -30, 30)))
    mask = mask * np.where(hollow[:, None, None], 1 / (1 + np.exp(np.clip(-2.5 * (distance - edge + 3), -30, 30))), 1)
    angle = 2 * np.pi * (hue / hues + rng.uniform(-0.2, 0.2, count) / hues)
    color = 0.5 + 0.4 * np.cos(angle[:, None] - np.array([0, 2.1, 4.2])) * rng.uniform(0.6, 1, (count, 1))
    ground = rng.uniform(0.15, 0.6, (count, 1, 1, 3))
    images = ground + mask[..., None] * (color[:, None, None] - ground) + rng.normal(0, 0.08, (count, side, side, 3))
    return Split((np.clip(images, 0, 1) * 255).astype(np.uint8), labels.astype(np.int64))


def draw_gratings(count: int, rng: np.random.Generator, contrast: float = 0.35, side: int = 16) -> Split:
    """Draw gray gratings of eight orientations, with random frequency, phase and noise."""
    labels = rng.integers(0, 8, count)
    angle = np.pi * (labels + rng.uniform(-0.3, 0.3, count)) / 8
    grid = np.arange(side)
    across = grid[None, None, :] * np.cos(angle)[:, None, None] + grid[None, :, None] * np.sin(angle)[:, None, None]
    phase, frequency = rng.uniform(0, 2 * np.pi, (count, 1, 1)), rng.uniform(0.7, 1.3, (count, 1, 1))
    images = 0.5 + contrast * np.sin(across * frequency + phase) + rng.normal(0, 0.2, (count, side, side))
    return Split((np.clip(images, 0, 1) * 255).astype(np.uint8)[..., None], labels.astype(np.int64))


def draw_letters(count: int, rng: np.random.Generator, side: int = 24) -> Split:
    """Draw one of twelve capitals, slanted, in a color on a ground of another, with clutter."""
    from PIL import Image, ImageDraw, ImageFont

    labels = rng.integers(0, len(LETTERS), count)
    images = np.empty((count, side, side, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        dark, light = rng.integers(0, 110, 3), rng.integers(140, 256, 3)
        ground, ink = (dark, light) if rng.random() < 0.5 else (light, dark)
        picture = Image.new("RGB", (side, side), tuple(map(int, ground)))
        pen = ImageDraw.Draw(picture)
        for _ in range(3):
            pen.line(list(map(float, rng.uniform(0, side, 4))), fill=tuple(map(int, (ground.astype(int) + ink) // 2)))
        font = ImageFont.load_default(float(rng.uniform(14, 19)))
        pen.text(tuple(map(float, rng.uniform(3, 8, 2))), LETTERS[label], fill=tuple(map(int, ink)), font=font)
        image[...] = np.asarray(picture.rotate(float(rng.uniform(-12, 12)), fillcolor=tuple(map(int, ground))))
    noisy = images + rng.normal(0, 12, images.shape)
    return Split(np.clip(noisy, 0, 255).astype(np.uint8), labels.astype(np.int64))


def draw_grains(count: int, rng: np.random.Generator, side: int = 20) -> Split:
    """Draw gray noise of three sizes of grain, each round, long or tall: nine classes."""
    from scipy.ndimage import gaussian_filter

    labels = rng.integers(0, 9, count)
    images = np.empty((count, side, side), np.float64)
    for image, label in zip(images, labels, strict=True):
        size, stretch = (0.6, 1.1, 2.0)[label % 3] * rng.uniform(0.9, 1.1), (1.0, 2.2, 1 / 2.2)[label // 3]
        grain = gaussian_filter(rng.normal(size=(side, side)), (size * stretch**0.5, size / stretch**0.5))
        image[...] = 0.5 + 0.2 * grain / grain.std() + rng.normal(0, 0.05, grain.shape)
    return Split((np.clip(images, 0, 1) * 255).astype(np.uint8)[..., None], labels.astype(np.int64))


# ---- from files --------------------------------------------------------------------------------------------------------------------


def store_images(folder: Path, cifar10: Path | None, clothing: Path | None) -> list[str]:
    """Store the data sets that are read from files as NPZ in `folder`, and return the names of all data sets there are."""
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    makers = {"digits": lambda: Split((digits.images[..., None] * 15).astype(np.uint8), digits.target.astype(np.int64))}
    if cifar10:
        makers["cifar10"] = lambda: _read_parquet(cifar10)
    if clothing:
        makers["clothing"] = lambda: _read_photos(clothing)
    for name, make in makers.items():
        if not (folder / f"{name}.npz").exists():
            split = make()
            np.savez(folder / f"{name}.npz", images=split.images, labels=split.labels)
    return [name for name in SPLITS if name in makers or name not in ("digits", "cifar10", "clothing")]


def _read_parquet(folder: Path) -> Split:
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(min(folder.glob("train*.parquet"))).slice(0, MAX_STORED)
    pictures, labels = (table.column(k).to_pylist() for k in range(2))
    images = [np.asarray(Image.open(io.BytesIO(picture["bytes"])).convert("RGB")) for picture in pictures]
    return Split(np.stack(images), np.array(labels, np.int64))


def _read_photos(folder: Path) -> Split:
    from PIL import Image, ImageOps

    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    files = sorted(path for path in folder.glob("*/*/*") if path.parent.name in names)
    images = [np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (SIDE, SIDE))) for path in files]
    return Split(np.stack(images), np.array([names.index(path.parent.name) for path in files], np.int64))
