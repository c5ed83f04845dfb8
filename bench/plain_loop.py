"""The loop a person writes: ResNet-18 in fp32, a DataLoader with Pillow's transforms, SGD under one cycle, for so many seconds.

Prints one line of JSON: the accuracy on the test images, the training images seen and the seconds. The rival in `race.py`; it uses
nothing of Goodfit but the net, which is torchvision's, layer by layer.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from goodfit.models.resnet import Resnet

BATCH, PEAK_RATE, WARMUP = 128, 0.1, 0.3
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Images(Dataset[tuple[Tensor, int]]):
    """The images of a split: of a parquet file as on the Hugging Face Hub, or of the folders of classes below split/."""

    def __init__(self, root: Path, split: str, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform
        if files := sorted(root.rglob(f"{split}*.parquet")):
            from pyarrow import parquet

            tables = [parquet.read_table(file).to_pydict() for file in files]
            self.files: list[Any] = [image["bytes"] for table in tables for image in next(iter(table.values()))]
            self.labels = [label for table in tables for label in table["label"]]
        else:
            kinds = sorted(path for path in (root / split).iterdir() if path.is_dir())
            pairs = [(file, k) for k, kind in enumerate(kinds) for file in sorted(kind.iterdir()) if file.suffix.lower() in SUFFIXES]
            self.files, self.labels = [file for file, _ in pairs], [k for _, k in pairs]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        source = self.files[i]
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return self.transform(image.convert("RGB")), self.labels[i]


def to_tensor(image: Image.Image) -> Tensor:
    """float32 [3, H, W], about normalized."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float().div(255).sub(0.45).div(0.25)


def augmenting(side: int) -> Callable[[Image.Image], Tensor]:
    """Mirrored at random; small images padded by an eighth and cropped, photos cropped at random and resized."""

    def transform(image: Image.Image) -> Tensor:
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if image.size == (side, side):
            pad = side // 8
            left, top = (int(x) for x in torch.randint(0, 2 * pad + 1, (2,)))
            framed = Image.new("RGB", (side + 2 * pad, side + 2 * pad))
            framed.paste(image, (pad, pad))
            return to_tensor(framed.crop((left, top, left + side, top + side)))
        width, height = image.size
        area, ratio = float(torch.empty(()).uniform_(0.25, 1)) * width * height, float(torch.empty(()).uniform_(0.75, 1.33))
        w, h = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
        left, top = float(torch.rand(())) * (width - w), float(torch.rand(())) * (height - h)
        return to_tensor(image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + w, top + h)))

    return transform


def centered(side: int) -> Callable[[Image.Image], Tensor]:
    """The largest square in the middle, resized."""

    def transform(image: Image.Image) -> Tensor:
        short = min(image.size)
        left, top = (image.size[0] - short) / 2, (image.size[1] - short) / 2
        return to_tensor(image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + short, top + short)))

    return transform


def rate(t: float) -> float:
    """One cycle: up linearly, then down as a cosine."""
    return PEAK_RATE * (t / WARMUP if t < WARMUP else 0.5 + 0.5 * np.cos(np.pi * (t - WARMUP) / (1 - WARMUP)))


def main() -> None:
    started = time.time()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("seconds", type=float, help="from the start of the process; the test comes after them")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes of the DataLoader; on two cores they only take turns with training"
    )
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    train, test = Images(asked.data, "train", augmenting(asked.side)), Images(asked.data, "test", centered(asked.side))
    model = Resnet(18, stem="imagenet")(max(train.labels) + 1, 3, (asked.side, asked.side))
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batches = DataLoader(train, BATCH, shuffle=True, drop_last=True, num_workers=asked.workers)
    seen, t = 0, 0.0
    while t < 1:
        for images, labels in batches:
            if (t := (time.time() - started) / asked.seconds) >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate(t)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen += len(images)
    seconds = time.time() - started
    model.eval()
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, 500))
    print(json.dumps({"accuracy": right / len(test), "seen": seen, "seconds": seconds}))


if __name__ == "__main__":
    main()
