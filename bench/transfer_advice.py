"""What to train of pretrained weights: the default's choice against every other row, by data set and images per class.

A row is what is trained: the head alone (the linear probe), the last third or two thirds of the stages, all of them, and all with moving
batch statistics, each for the same number of epochs; the rest of the recipe is the default. All rows of a cell are judged on the same
test images, which none has seen.
The default is right in a cell where it is within a point, or a standard error of the test accuracy, of the best row.

Data sets are folders, files and names as `goodfit train` takes them, or drawn here: `gratings` (stripes of ten directions in noise) and
`glyphs` (ten letters, turned and colored, on noise).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import goodfit
from goodfit.core.chance import Chance
from goodfit.core.device import cpu_name
from goodfit.data.dataset import Dataset
from goodfit.models.weights.stages import find_stages
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.recipe.transfer.defaults import MAX_EPOCHS

MAX_BEHIND = 1.0  # points
MIN_EPOCHS = 4  # fewer than a default takes, so that the largest cells end in a minute a row
SIDE, LETTERS = 96, "ABEFGKPRSZ"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A data set at a number of images per class: test accuracy and seconds by row, and the row that the default takes."""

    name: str
    test_images: int
    rows: dict[str, tuple[float, float]]
    default: str

    @property
    def behind(self) -> float:
        """Points between the best row and the default's."""
        return 100 * (max(accuracy for accuracy, _ in self.rows.values()) - self.rows[self.default][0])

    @property
    def error(self) -> float:
        """The standard error of the best accuracy, in points."""
        best = max(accuracy for accuracy, _ in self.rows.values())
        return 100 * math.sqrt(best * (1 - best) / self.test_images)

    @property
    def is_right(self) -> bool:
        return self.behind <= max(MAX_BEHIND, self.error)

    def line(self) -> str:
        rows = ", ".join(f"{row} {accuracy:.1%} ({seconds:.0f} s)" for row, (accuracy, seconds) in self.rows.items())
        verdict = f"{self.behind:.1f} points behind, of an error of {self.error:.1f}{'' if self.is_right else '  WRONG'}"
        return f"{self.name:28} {rows}; default {self.default}: {verdict}"


def draw_gratings(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Stripes of one of ten directions, with a random width, phase and color, in noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    angle = np.pi * (kind + rng.uniform(-0.3, 0.3)) / 10
    wave = np.sin(2 * np.pi * rng.uniform(4, 10) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    return np.clip(128 + 60 * wave[..., None] * rng.uniform(0.2, 1, 3) + 50 * rng.normal(size=(SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def draw_glyph(rng: np.random.Generator, kind: int) -> np.ndarray:
    """One of ten letters, turned, moved and colored, on a noisy ground."""
    ground = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).text((SIDE // 2, SIDE // 2), LETTERS[kind], 255, ImageFont.load_default(int(rng.integers(30, 70))), anchor="mm")
    mask = mask.rotate(rng.uniform(-60, 60), translate=(int(rng.integers(-15, 15)), int(rng.integers(-15, 15))))
    ground.paste(Image.new("RGB", (SIDE, SIDE), tuple(int(x) for x in rng.integers(0, 255, 3))), mask=mask)
    return np.asarray(ground)


def drawn(name: str, folder: Path, train: int = 200, test: int = 60) -> Path:
    """The file of a data set that is drawn here, with so many images of each class."""
    draw = {"gratings": draw_gratings, "glyphs": draw_glyph}[name]
    made = {}
    for seed, (split, each) in enumerate((("train", train), ("test", test))):
        rng, labels = np.random.Generator(np.random.PCG64(seed)), np.repeat(np.arange(10), each)
        made |= {f"x_{split}": np.stack([draw(rng, int(k)) for k in labels]), f"y_{split}": labels}
    np.savez(folder / f"{name}.npz", **made)
    return folder / f"{name}.npz"


def subset(data: Dataset, each: int, most: int, test: int, file: Path) -> int:
    """Write an .npz file with `each` training images of a class (0: at most `most` in all) and `test` test images; returns how many."""
    made = {}
    for split, rows, per_class, total in (
        ("train", torch.cat([data.rows("train"), data.rows("validation")]), each, most),
        ("test", data.rows("test"), 0, test),
    ):
        shuffled = rows[Chance.of(0, rows, "transfer").permutation()]
        if per_class:
            shuffled = torch.cat([shuffled[data.labels[shuffled] == k][:per_class] for k in range(len(data.classes))])
        taken = shuffled[:total]
        pixels = data.preprocess.center_crop(data.pixels.read_exact(taken).permute(0, 3, 1, 2))
        made |= {f"x_{split}": pixels.permute(0, 2, 3, 1).numpy(), f"y_{split}": data.labels[taken].numpy()}
    np.savez(file, classes=np.array(data.classes), **made)
    return len(made["y_test"])


def compare(name: str, file: Path, test_images: int, recipe: Recipe, folder: Path, seen: int, known: dict[str, Cell]) -> Cell:
    """Train every row of a cell for about `seen` images, unless it is known, and ask which of them the default is."""
    with np.load(file) as arrays:
        epochs = min(max(round(seen / len(arrays["y_train"])), MIN_EPOCHS), MAX_EPOCHS)
    recipe = recipe.but(budget=f"{epochs} epochs")
    default = str(prepare(recipe.but(data=str(file))).recipe.trainable)
    catalog = load_catalog()
    with torch.device("meta"):
        stages = len(find_stages(make_model(catalog.make(str(recipe.model), "model"), 2, 3, (SIDE, SIDE))))
    fixed = 'statistics="all_fixed"'
    texts = {"head": "head", "all": f"all({fixed})", "moving": "all"}
    texts |= {f"last({k})": f"last({k}, {fixed})" for k in (max(1, stages // 3), max(1, 2 * stages // 3))}
    rows: dict[str, tuple[float, float]] = {}
    for row, text in texts.items():
        if name in known:
            rows[row] = known[name].rows[row]
            continue
        began = time.perf_counter()
        run = goodfit.train(file, recipe.but(trainable=text), out=folder / f"{file.stem}-{row}", quiet=True)
        rows[row] = goodfit.evaluate(run, test=True)["accuracy"], time.perf_counter() - began
    parts = {str(catalog.make(text, "trainable")): row for row, text in texts.items()}
    return Cell(name, test_images, rows, parts[str(catalog.make(default, "trainable"))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="as --from takes them")
    parser.add_argument("data", nargs="+", help="folders, files, names, or gratings and glyphs")
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20, 80, 0], help="images per class; 0 takes all")
    parser.add_argument("--most", type=int, default=2000, help="training images at most")
    parser.add_argument("--test", type=int, default=600, help="test images at most")
    parser.add_argument("--seen", type=int, default=8000, help=f"images that a training sees, within {MIN_EPOCHS} to {MAX_EPOCHS} epochs")
    parser.add_argument("--rows", type=Path, help="JSON of an earlier run: its trainings are not repeated, only the default is asked for")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    asked = parser.parse_args()
    recipe = Recipe(source=asked.weights, model=asked.model, size=SIDE)
    began, cells = time.time(), []
    known = {cell["name"]: Cell(**cell) for cell in json.loads(asked.rows.read_text())} if asked.rows else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for data in asked.data:
            place = drawn(data, folder) if data in ("gratings", "glyphs") else data
            images = open_images(Recipe(data=str(place), size=SIDE, channels=3))
            for each in asked.images:
                file = folder / f"{images.name}-{each}-images.npz"
                test_images = subset(images, each, asked.most, asked.test, file)
                title = f"{images.name}, {each or 'all'} a class"
                cells.append(compare(title, file, test_images, recipe, folder, asked.seen, known))
                print(cells[-1].line(), flush=True)
                if asked.json:
                    asked.json.write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1) + "\n")
    print(f"{sum(cell.is_right for cell in cells)} of {len(cells)} cells right; {time.time() - began:.0f} s on {cpu_name()}")


if __name__ == "__main__":
    main()
