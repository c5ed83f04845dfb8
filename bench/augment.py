"""How fast the augmentations are beside kornia's, on one thread: each way in turn, round after round, so that drift hits all alike.

Ours starts from the uint8 images that the loader gives, kornia from float images it is handed for free. Kornia is tried in several
ways, and its fastest counts. Everything runs twice: in a process as Python starts it, which the aims are held against, and with the
allocator that goodfit sets up for training (`prepare`), which spares kornia's many copies more page faults than ours.
Run: `python bench/augment.py [--rounds 30]`; exit code 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import kornia
import kornia.augmentation as K
import torch
from torch import Tensor

from goodfit.augment.apply import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog, steps
from goodfit.core.chance import Chance
from goodfit.core.device import cpu_name, prepare
from goodfit.data.preprocess import Preprocess

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CATALOG = Catalog(["goodfit.augment"])
Ways = dict[str, Callable[[Tensor], Tensor]]


def ours(text: str, images: Tensor, size: tuple[int, int], normalized: bool = False) -> Callable[[], Tensor]:
    """Our pipe on stored images, drawing anew at every call."""
    n = len(images)
    pipeline = Pipeline(steps(CATALOG.make(text, "augment")), size)  # type: ignore[arg-type]
    preprocess = Preprocess(size, (images.shape[2], images.shape[3]), mean=MEAN, std=STD)
    targets, ids, epoch = one_hot(torch.arange(n) % 10, 10), torch.arange(n), itertools.count()

    def call() -> Tensor:
        batch = pipeline(Batch(images, targets, ids), Chance.of(0, ids, next(epoch)), 0.5)
        return preprocess.normalize(batch.images) if normalized else batch.images

    return call


def joined(*ways: Iterable[torch.nn.Module]) -> Ways:
    """Every choice of one way for each op, run one after the other."""
    return {" > ".join(map(name_of, chain)): torch.nn.Sequential(*chain) for chain in itertools.product(*ways)}


def name_of(module: torch.nn.Module) -> str:
    flags = getattr(module, "flags", {})
    return " ".join([type(module).__name__, *(str(flags[key]) for key in ("cropping_mode", "padding_mode") if key in flags)])


def kornia_ways(size: tuple[int, int]) -> dict[str, Ways]:
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    flips = [K.RandomHorizontalFlip(p=0.5)]
    crops = [
        K.RandomCrop(size, padding=4, padding_mode=border, cropping_mode=mode)
        for border in ("constant", "reflect")
        for mode in ("slice", "resample")
    ]
    normals = [K.Normalize(mean, std)]
    return {
        "flip": joined(flips),
        "crop": joined(crops),
        "normalize": {**joined(normals), "enhance.normalize": lambda x: kornia.enhance.normalize(x, mean, std)},
        "flip | crop | normalize": {
            **joined(flips, crops[::2], normals),
            "AugmentationSequential": K.AugmentationSequential(flips[0], crops[0], normals[0], data_keys=["input"]),
        },
        "jitter(0.4)": {name.__name__: name(0.4, 0.4, 0.4, 0.0, p=1.0) for name in (K.ColorJitter, K.ColorJiggle)},
        "jitter(0.4, hue=0.1)": {name.__name__: name(0.4, 0.4, 0.4, 0.1, p=1.0) for name in (K.ColorJitter, K.ColorJiggle)},
        "resized_crop": {mode: K.RandomResizedCrop(size, scale=(0.25, 1.0), cropping_mode=mode) for mode in ("slice", "resample")},
    }


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each way, all of them in turn in every round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn >= 2:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


AIMS = {"flip": 1.0, "crop": 1.0, "normalize": 1.0, "flip | crop | normalize": 1.0, "jitter(0.4, hue=0.1)": 5.0}


def compare(n: int, box: tuple[int, int], size: tuple[int, int], rounds: int, aims: dict[str, float]) -> bool:
    """Print one table; whether every aim is reached."""
    boxes = torch.randint(0, 256, (n, *box, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    print(f"{n}x3x{box[0]}x{box[1]} -> {size[0]}x{size[1]}: median of {rounds} rounds, ms a batch")
    print(f"{'op':26}{'ours':>8}{'kornia':>9}{'ratio':>8}{'aim':>6}   kornia's fastest way")
    good = True
    for op, theirs in kornia_ways(size).items():
        pipe = op.removesuffix(" | normalize").replace("normalize", "none")
        stored = boxes if "crop" in op else boxes[..., : size[0], : size[1]].contiguous(memory_format=torch.channels_last)
        floats = (stored.float() / 255).contiguous()
        ways: dict[str, Callable[[], object]] = {name: functools.partial(way, floats) for name, way in theirs.items()}
        found = medians({"ours": ours(pipe, stored, size, "normalize" in op), **ways}, rounds)
        own = found.pop("ours")
        best = min(found, key=found.__getitem__)
        aim = aims.get(op)
        good &= aim is None or found[best] >= aim * own
        print(f"{op:26}{own:8.2f}{found[best]:9.2f}{found[best] / own:7.1f}x{f'{aim:.0f}x' if aim else '':>6}   {best}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--large", action="store_true", help="also 64 images from 256 to 128 pixels")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{cpu_name()}, 1 thread, torch {torch.__version__}, kornia {kornia.__version__}, Python {platform.python_version()}")
    good = True
    with torch.inference_mode():
        for allocator, aims in (("the default allocator", AIMS), ("goodfit's allocator settings", {})):
            if not aims:
                prepare(1)
            print(f"\nWith {allocator}:")
            good &= compare(512, (32, 32), (32, 32), given.rounds, aims)
            if given.large:
                compare(64, (256, 256), (128, 128), max(3, given.rounds // 5), {})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
