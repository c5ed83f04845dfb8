"""How fast the augmentations are beside kornia's and Albumentations', in images per CPU-second on one thread, all taking turns in one run.

Ours starts from the uint8 images that the loader gives, kornia from float images and Albumentations from uint8 arrays that they are handed
for free. Kornia is tried in several ways, and its fastest counts. Each op is also held against the least it must cost: its bytes in and
out at the speed of a copy. Exit code 1 when an aim is missed. Albumentations and torchvision-v2 join with --with, where they are installed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import kornia
import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.device import cpu_name
from goodfit.core.parts import pipe_parts
from goodfit.data.preprocess import Preprocess

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CATALOG = Catalog(["goodfit.augment"])
Way = Callable[[], Any]
Ways = dict[str, dict[str, Way]]  # library -> name of the way -> the way

FULL = "rotate(15, border=reflect) | translate(0.1, border=reflect) | stretch(border=reflect) | shear(10, border=reflect)"
FULL_ZERO = "rotate(15) | translate(0.1) | stretch | shear(10)"
NAMES = {FULL: "rotate | translate | stretch | shear", FULL_ZERO: "rotate | translate | stretch | shear, zero beyond"}
PHOTO = "flip | resized_crop | jitter(0.4, hue=0.1) | normalize"
SMALL = (  # our spelling, and the aims beside kornia
    ("flip", 1.5),
    ("crop", 2.0),
    ("normalize", 1.0),
    ("flip | crop | normalize", 1.0),
    ("jitter(0.4)", 1.0),
    ("jitter(0.4, hue=0.1)", 10.0),
    (FULL, 1.0),
    (FULL_ZERO, 1.0),
    ("rand_augment", 3.0),
    ("resized_crop", None),
    ("perspective", None),
    ("elastic", None),
    ("blur", None),
    ("posterize", None),
    ("solarize", None),
    ("grayscale(0.5)", None),
    ("erase(1.0)", None),
)


# ---- ours ------------------------------------------------------------------------------------------------------------------------


def ours(text: str, images: Tensor, size: tuple[int, int]) -> Way:
    """Our pipe on stored images, drawing anew at every call."""
    n = len(images)
    words = text.split(" | ")
    pipe = " | ".join(word for word in words if word != "normalize") or "none"
    pipeline = Pipeline(pipe_parts(CATALOG.make(pipe, "augment")), size)  # type: ignore[arg-type]
    preprocess = Preprocess(size, (images.shape[2], images.shape[3]), mean=MEAN, std=STD)
    targets, ids, epoch = one_hot(torch.arange(n) % 10, 10), torch.arange(n), itertools.count()

    def call() -> Tensor:
        batch = pipeline(Batch(images, targets, ids), Chance.of(0, ids, "augment", next(epoch)), 0.5)
        return preprocess.normalize(batch.images) if "normalize" in words else batch.images

    return call


# ---- kornia's ----------------------------------------------------------------------------------------------------------------------


def kornias(op: str, size: tuple[int, int]) -> list[torch.nn.Module | Callable[[Tensor], Tensor]]:
    """Kornia's ways for one op; several where it is not known which is quickest."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    mixed = {mode: K.RandomResizedCrop(size, scale=(0.08, 1.0), cropping_mode=mode) for mode in ("slice", "resample")}
    found: dict[str, list[Any]] = {
        "flip": [K.RandomHorizontalFlip(p=0.5)],
        "crop": [K.RandomCrop(size, padding=4, padding_mode=b, cropping_mode=m) for b in ("constant", "reflect") for m in mixed],
        "normalize": [K.Normalize(mean, std), lambda x: kornia.enhance.normalize(x, mean, std)],
        "jitter(0.4)": [way(0.4, 0.4, 0.4, 0.0, p=1.0) for way in (K.ColorJitter, K.ColorJiggle)],
        "jitter(0.4, hue=0.1)": [way(0.4, 0.4, 0.4, 0.1, p=1.0) for way in (K.ColorJitter, K.ColorJiggle)],
        FULL: [K.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10, p=1.0, padding_mode="reflection")],
        FULL_ZERO: [K.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10, p=1.0, padding_mode="zeros")],
        "rand_augment": [K.auto.RandAugment(n=2, m=9)],
        "resized_crop": list(mixed.values()),
        "perspective": [K.RandomPerspective(0.5, p=1.0)],
        "elastic": [K.RandomElasticTransform(p=1.0)],
        "blur": [K.RandomGaussianBlur((5, 5), (0.1, 2.0), p=1.0)],
        "posterize": [K.RandomPosterize((4, 4), p=1.0)],
        "solarize": [K.RandomSolarize(p=1.0)],
        "grayscale(0.5)": [K.RandomGrayscale(p=0.5)],
        "erase(1.0)": [K.RandomErasing((0.02, 0.4), (0.3, 3.3), p=1.0)],
    }
    return found[op]


def joined(text: str, size: tuple[int, int], images: Tensor) -> dict[str, Way]:
    """Kornia's ways for a pipe: every choice of one way for each op, run one after the other."""
    words = [text] if text in (FULL, FULL_ZERO) else text.split(" | ")
    chains = itertools.product(*(kornias(word, size) for word in words))

    def run(chain: tuple[Any, ...]) -> Tensor:
        return functools.reduce(lambda x, op: op(x), chain, images)

    return {str(place): functools.partial(run, chain) for place, chain in enumerate(chains)}


# ---- one image at a time -----------------------------------------------------------------------------------------------------------


def albumentations(text: str, size: tuple[int, int], images: np.ndarray) -> dict[str, Way]:
    """Albumentations on uint8 arrays [N, H, W, C], image by image."""
    import albumentations as A

    height, width = size
    jitter = functools.partial(A.ColorJitter, (0.6, 1.4), (0.6, 1.4), (0.6, 1.4), p=1.0)
    affine = functools.partial(A.Affine, p=1.0)
    found: dict[str, Any] = {
        "flip": [A.HorizontalFlip(p=0.5)],
        "crop": [A.PadIfNeeded(height + 8, width + 8), A.RandomCrop(height, width)],
        "normalize": [A.Normalize(MEAN, STD)],
        "jitter(0.4)": [jitter((0.0, 0.0))],
        "jitter(0.4, hue=0.1)": [jitter((-0.1, 0.1))],
        FULL: [affine(rotate=(-15, 15), translate_percent=0.1, scale=(0.8, 1.2), shear=(-10, 10), border_mode=4)],
        FULL_ZERO: [affine(rotate=(-15, 15), translate_percent=0.1, scale=(0.8, 1.2), shear=(-10, 10))],
        "resized_crop": [A.RandomResizedCrop(size, (0.08, 1.0))],
        "perspective": [A.Perspective(p=1.0)],
        "elastic": [A.ElasticTransform(p=1.0)],
        "blur": [A.GaussianBlur((5, 5), (0.1, 2.0), p=1.0)],
        "posterize": [A.Posterize(4, p=1.0)],
        "solarize": [A.Solarize((0.5, 0.5), p=1.0)],
        "grayscale(0.5)": [A.ToGray(p=0.5)],
        "erase(1.0)": [A.Erasing((0.02, 0.4), (0.3, 3.3), p=1.0)],
        "rand_augment": [  # it has none; two of the paper's ops with their magnitudes at 9 of 30
            A.SomeOf(
                [
                    *(affine(shear={axis: (-17, 17)}) for axis in "xy"),
                    *(affine(translate_percent={axis: (-0.135, 0.135)}) for axis in "xy"),
                    affine(rotate=(-9, 9)),
                    A.RandomBrightnessContrast(0.27, 0, p=1.0),
                    A.RandomBrightnessContrast(0, 0.27, p=1.0),
                    A.ColorJitter((1, 1), (1, 1), (0.73, 1.27), (0, 0), p=1.0),
                    A.Sharpen(p=1.0),
                    A.Posterize(7, p=1.0),
                    A.Solarize((0.7, 0.7), p=1.0),
                    A.AutoContrast(p=1.0),
                    A.Equalize(p=1.0),
                    A.NoOp(),
                ],
                n=2,
                p=1.0,
            )
        ],
    }
    words = [text] if text in (FULL, FULL_ZERO) else text.split(" | ")
    transform = A.Compose([op for word in words for op in found[word]])
    return {"Compose": lambda: [transform(image=image)["image"] for image in images]}


def torchvision(text: str, size: tuple[int, int], images: Tensor) -> dict[str, Way]:
    """torchvision's transforms v2 on uint8 tensors [N, C, H, W], image by image."""
    from torchvision.transforms import v2

    found: dict[str, Any] = {
        "flip": [v2.RandomHorizontalFlip()],
        "crop": [v2.RandomCrop(size, padding=4)],
        "normalize": [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)],
        "jitter(0.4)": [v2.ColorJitter(0.4, 0.4, 0.4)],
        "jitter(0.4, hue=0.1)": [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        FULL: [v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10)],  # it has no border but a color
        FULL_ZERO: [v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10)],
        "rand_augment": [v2.RandAugment()],
        "resized_crop": [v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True)],
        "perspective": [v2.RandomPerspective(p=1.0)],
        "elastic": [v2.ElasticTransform()],
        "blur": [v2.GaussianBlur(5)],
        "posterize": [v2.RandomPosterize(4, p=1.0)],
        "solarize": [v2.RandomSolarize(128, p=1.0)],
        "grayscale(0.5)": [v2.RandomGrayscale(0.5)],
        "erase(1.0)": [v2.RandomErasing(1.0, (0.02, 0.4))],
    }
    words = [text] if text in (FULL, FULL_ZERO) else text.split(" | ")
    transform = v2.Compose([op for word in words for op in found[word]])
    return {"Compose": lambda: [transform(image) for image in images]}


# ---- timing ------------------------------------------------------------------------------------------------------------------------


def spent(ways: dict[str, Way], seconds: float) -> dict[str, float]:
    """Mean CPU-seconds of each way, all of them in turn, round after round until every one had about `seconds`."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    while any(sum(times) < seconds for times in taken.values()):
        for name, way in ways.items():
            if sum(taken[name]) < seconds or len(taken[name]) < 3:
                start = time.process_time()
                way()
                taken[name].append(time.process_time() - start)
    return {name: statistics.fmean(times) for name, times in taken.items()}


def copy_speed() -> float:
    """Bytes read and written in a CPU-second by a copy that no cache holds."""
    source = torch.zeros(1 << 28, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return 2 * len(source) / spent({"copy": lambda: target.copy_(source)}, 0.5)["copy"]


def row(text: str, stored: Tensor, size: tuple[int, int], others: list[str], seconds: float) -> tuple[dict[str, float], float]:
    """CPU-seconds a batch of the quickest way of each library, and the bytes that must move."""
    floats = (stored.float() / 255).contiguous()
    mine = ours(text, stored, size)
    ways: dict[tuple[str, str], Way] = {("ours", ""): mine}
    ways |= {("kornia", name): way for name, way in joined(text, size, floats).items()}
    if "albumentations" in others:
        arrays = stored.permute(0, 2, 3, 1).contiguous().numpy()
        ways |= {("albumentations", name): way for name, way in albumentations(text, size, arrays).items()}
    if "torchvision" in others:
        ways |= {("torchvision", name): way for name, way in torchvision(text, size, stored.contiguous()).items()}
    found = spent({"\t".join(key): way for key, way in ways.items()}, seconds)
    best: dict[str, float] = {}
    for key, time_ in found.items():
        library = key.partition("\t")[0]
        best[library] = min(best.get(library, time_), time_)
    made = mine()
    window = stored[..., : size[0], : size[1]] if "crop" in text and "resized" not in text else stored
    return best, window.numel() + made.numel() * made.element_size()


def compare(
    title: str, rows: list[tuple[str, Tensor, tuple[int, int], dict[str, float | None]]], others: list[str], seconds: float
) -> bool:
    """Print one table; whether every aim is reached."""
    speed, good, columns = copy_speed(), True, ["kornia", *others]
    print(f"\n{title}; a copy moves {speed / 1e9:.1f} GB a CPU-second")
    print(f"{'op':50}{'images/s':>10}" + "".join(f"{name:>22}" for name in columns) + f"{'x the copy':>12}")
    for text, stored, size, aims in rows:
        found, moved = row(text, stored, size, others, seconds)
        cells = ""
        for name in columns:
            ratio, aim = found[name] / found["ours"], aims.get(name, 1.0)
            good &= aim is None or ratio >= aim
            cells += f"{f'{ratio:.1f}x' + (f' (aim {aim:g}x)' if aim else ''):>22}"
        rate, floor = len(stored) / found["ours"], moved / speed
        print(f"{NAMES.get(text, text):50}{rate:10,.0f}{cells}{found['ours'] / floor:11.1f}x", flush=True)
    return good


def photos(folder: Path, others: list[str], seconds: float, n: int = 96) -> bool:
    """Decode photos, take a resized crop of 128 pixels, flip, jitter, normalize: end to end."""
    from goodfit.augment.crop import ResizedCrop
    from goodfit.data.crops import decode_window
    from goodfit.data.opening import read_header

    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:: max(1, len(list(folder.rglob("*.jpg"))) // n)]][:n]
    size, epoch, places = (128, 128), itertools.count(), torch.arange(len(files))
    preprocess = Preprocess(size, size, mean=MEAN, std=STD)
    headers = [read_header(BytesIO(file)) for file in files]
    sides = torch.tensor([(h.height, h.width) for h in headers], dtype=torch.float64)
    middle = torch.zeros(len(files), 4, dtype=torch.float64)
    rest = Pipeline(pipe_parts(CATALOG.make("flip | jitter(0.4, hue=0.1)", "augment")), size)  # type: ignore[arg-type]

    def own() -> Tensor:
        chance = Chance.of(0, places, "augment", next(epoch))
        windows = (ResizedCrop().draw_windows(chance, sides, middle, size) / sides.repeat(1, 2)).tolist()
        pixels = np.stack([decode_window(file, window, preprocess) for file, window in zip(files, windows, strict=True)])
        batch = Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), one_hot(places % 10, 10), places)
        return preprocess.normalize(rest(batch, chance, 0.5).images)

    ways: dict[str, Way] = {"ours": own}
    if "albumentations" in others:
        import albumentations as A
        import cv2

        crop = A.RandomResizedCrop(size, (0.08, 1.0))
        jitter = A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1.0)
        transform = A.Compose([crop, A.HorizontalFlip(), jitter, A.Normalize(MEAN, STD)])

        def decoded(file: bytes) -> np.ndarray:
            return cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

        ways["albumentations"] = lambda: np.stack([transform(image=decoded(file))["image"] for file in files])
    if "torchvision" in others:
        from PIL import Image
        from torchvision.transforms import v2

        crop2 = v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True)
        rest2 = [v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ToImage(), v2.ToDtype(torch.float32, True)]
        transform2 = v2.Compose([crop2, *rest2, v2.Normalize(MEAN, STD)])
        ways["torchvision"] = lambda: torch.stack([transform2(Image.open(BytesIO(file)).convert("RGB")) for file in files])
    found = spent(ways, max(seconds, 3.0))
    print(f"\n{len(files)} photos of {folder}, decoded > resized_crop to 128 > flip > jitter with hue > normalize: images a CPU-second")
    aims, good = {"albumentations": 1.3, "torchvision": 3.0}, True
    for name, time_ in found.items():
        ratio, aim = time_ / found["ours"], aims.get(name, 1.0)
        good &= ratio >= aim
        print(f"{name:16}{len(files) / time_:8,.0f}" + ("" if name == "ours" else f"{f'ours {ratio:.1f}x (aim {aim:g}x)':>24}"))
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU-seconds for each way of each op")
    parser.add_argument("--with", nargs="*", default=[], choices=["albumentations", "torchvision"], dest="others", help="further columns")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG photos for the end-to-end table")
    given = parser.parse_args()
    missing = [name for name in given.others if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} is not installed: pip install {' '.join(missing)}")
    torch.set_num_threads(1)
    if "albumentations" in given.others:
        import cv2

        cv2.setNumThreads(0)
    print(f"{cpu_name()}, 1 thread, torch {torch.__version__}, kornia {kornia.__version__}, Python {platform.python_version()}")
    boxes = torch.randint(0, 256, (512, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    large = torch.randint(0, 256, (64, 256, 256, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with torch.inference_mode():
        rows = [(text, boxes, (32, 32), {"kornia": aim}) for text, aim in SMALL]
        good = compare("512x3x32x32", rows, given.others, given.seconds)
        aims: dict[str, float | None] = {"kornia": 3.0, "torchvision": 4.0}
        good &= compare("64x3x256x256 to 128x128", [(PHOTO, large, (128, 128), aims)], given.others, given.seconds)
        if given.photos:
            good &= photos(given.photos, given.others, given.seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
