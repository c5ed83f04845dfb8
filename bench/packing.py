"""Packing the photos of a folder against Pillow's sequential decode-and-resize, per core: `python bench/packing.py FOLDER [--size 64]`.

Both read every image from disk, decode it, take the largest centered crop of the box's shape and resize it with antialiasing; packing
also hashes the contents and writes the pixels. Figures are images per CPU-second of the whole process, so they do not depend on the
number of threads; rounds alternate, so a drift of the machine's speed hits both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from goodfit.data.headers import ImageHeaders, read_headers
from goodfit.data.pack import CacheLimit, pack_images
from goodfit.data.preprocess import Preprocess, choose_box_size
from goodfit.data.sources import index_images

TARGET = 1.5


def with_pillow(headers: ImageHeaders, box: tuple[int, int]) -> int:
    """What a user would write: one image after the other."""
    images = np.empty((len(headers.index), *box, 3), dtype=np.uint8)
    for row in np.flatnonzero(headers.usable).tolist():
        source = next(headers.index.store.open_many([row]))
        assert not isinstance(source, (np.ndarray, OSError)), "the folder holds image files"
        with source, Image.open(source) as image:
            width, height = image.size
            scale = max(box[1] / width, box[0] / height)
            left, top = max(0.0, (width - box[1] / scale) / 2), max(0.0, (height - box[0] / scale) / 2)
            region = (left, top, min(width, left + box[1] / scale), min(height, top + box[0] / scale))
            images[row] = np.asarray(image.convert("RGB").resize((box[1], box[0]), Image.Resampling.BILINEAR, region))
    return len(headers.index)


def with_goodfit(headers: ImageHeaders, preprocess: Preprocess) -> int:
    """Our packing, into an empty cache."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["GOODFIT_CACHE"] = home
        pack_images(headers, preprocess, CacheLimit(1 << 40))
    return len(headers.index)


def rate(work: Callable[[], int]) -> tuple[float, float]:
    """Images per CPU-second and per second."""
    wall, cpu = time.perf_counter(), time.process_time()
    n = work()
    return n / (time.process_time() - cpu), n / (time.perf_counter() - wall)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--size", type=int, nargs="*", default=[64, 128, 224])
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["GOODFIT_CACHE"] = home
        headers = read_headers(index_images(str(arguments.folder)))
    print(f"{len(headers.index):,} images of {arguments.folder.name}")
    print(f"Images per CPU-second, median of {arguments.rounds} rounds; target {TARGET}x")
    print(f"{'size':>5} {'box':>5} {'Pillow':>8} {'Goodfit':>8} {'ratio':>6}   wall: {'Pillow':>8} {'Goodfit':>8}")
    for size in arguments.size:
        box = choose_box_size((size, size), "crop", headers.widths[headers.usable], headers.heights[headers.usable])
        preprocess = Preprocess((size, size), box)
        rounds = [
            (*rate(lambda box=box: with_pillow(headers, box)), *rate(lambda preprocess=preprocess: with_goodfit(headers, preprocess)))  # type: ignore[misc]
            for _ in range(arguments.rounds)
        ]
        pillow, pillow_wall, ours, ours_wall = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(row[2] / row[0] for row in rounds)
        print(f"{size:5} {box[0]:5} {pillow:8.0f} {ours:8.0f} {ratio:5.2f}x         {pillow_wall:8.0f} {ours_wall:8.0f}")


if __name__ == "__main__":
    main()
