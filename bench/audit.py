"""Near duplicates that the audit finds among the photos of a folder: `python bench/audit.py FOLDER [--copies 600]`.

A quarter of the copies each are crops (60 to 95 % of the area, any place), re-encodings (JPEG quality 15 to 60 at 40 to 100 % of the size),
turns by 1 to 5 degrees and mirror images, made from the original files. Of each kind the recall is the share of the copies that are paired
with their photo. Pairs of two different photos are taken for wrong, even if the folder itself holds copies, so that precision is a lower
bound; they are listed. Speed is that of a whole audit of the folder into an empty cache, decoding included.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodfit.core.reporter import SilentReporter
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.doctor.audit.audit import audit_table
from goodfit.doctor.audit.image_table import SIDE, open_table
from goodfit.doctor.audit.near_duplicates import find_near_duplicates
from goodfit.recipe.recipe import Recipe

KINDS = ("crop", "re-encoding", "turn", "mirror")
MIN_PRECISION, MIN_RECALL, MIN_SPEED = 0.99, 0.6, 300


def make_copy(photo: Image.Image, kind: str, chance: random.Random) -> Image.Image:
    """A near duplicate of a photo."""
    width, height = photo.size
    if kind == "crop":
        side, stretch = chance.uniform(0.6, 0.95) ** 0.5, chance.uniform(0.9, 1.1) ** 0.5
        w, h = min(width, int(width * side * stretch)), min(height, int(height * side / stretch))
        x, y = chance.randint(0, width - w), chance.randint(0, height - h)
        return photo.crop((x, y, x + w, y + h))
    if kind == "re-encoding":
        scale, file = chance.uniform(0.4, 1), io.BytesIO()
        small = photo.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BILINEAR)
        small.save(file, "JPEG", quality=chance.randint(15, 60))
        return Image.open(file).convert("RGB")
    if kind == "turn":
        angle = chance.choice((-1, 1)) * chance.uniform(1, 5)
        return photo.rotate(angle, Image.Resampling.BICUBIC, fillcolor=chance.choice(((0, 0, 0), (255, 255, 255))))
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def shrink(photo: Image.Image) -> NDArray[np.uint8]:
    """The photo in the size that the audit looks at."""
    return np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=2))


def measure_pairs(files: list[Path], copies: int, seed: int) -> bool:
    """Print precision and recall of each kind; returns whether both reach their goals."""
    chance = random.Random(seed)
    images = [shrink(Image.open(file).convert("RGB")) for file in files]
    sources = list(range(len(files)))
    chosen = chance.sample(range(len(files)), min(copies, len(files)))
    kinds = [KINDS[place % len(KINDS)] for place in range(len(chosen))]
    for source, kind in zip(chosen, kinds, strict=True):
        images.append(shrink(make_copy(Image.open(files[source]).convert("RGB"), kind, chance)))
        sources.append(source)
    found = find_near_duplicates(np.stack(images)).pairs.tolist()
    right = [(a, b) for a, b in found if sources[a] == sources[b]]
    hit = {b for _, b in right}
    made, met = Counter(kinds), Counter(kind for place, kind in enumerate(kinds, len(files)) if place in hit)
    for kind in KINDS:
        print(f"{kind:12} recall {met[kind] / max(made[kind], 1):.3f}  ({met[kind]} of {made[kind]})")
    precision, recall = len(right) / max(len(found), 1), len(hit) / max(len(chosen), 1)
    print(f"all          recall {recall:.3f}, precision {precision:.3f}  ({len(found)} pairs; goals {MIN_RECALL} and {MIN_PRECISION})")
    for a, b in found:
        if sources[a] != sources[b]:
            print(f"  not made here: {files[sources[a]]} and {files[sources[b]]}")
    return precision >= MIN_PRECISION and recall > MIN_RECALL


def measure_speed(folder: Path) -> None:
    """Print the photos a second of a whole audit, by the clock and by the time of all cores."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GOODFIT_CACHE"] = cache
        began, used = time.perf_counter(), time.process_time()
        table = open_table(Recipe(data=str(folder)), SilentReporter())
        audit_table(table, SilentReporter())
        seconds, core_seconds = time.perf_counter() - began, time.process_time() - used
    print(f"{len(table):,} photos: {len(table) / seconds:.0f} a second, {len(table) / core_seconds:.0f} a core-second (goal {MIN_SPEED})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = sorted(file for file in options.folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    is_good = measure_pairs(files, options.copies, options.seed)
    measure_speed(options.folder)
    raise SystemExit(0 if is_good else 1)


if __name__ == "__main__":
    main()
