"""Transfer: a net that has learned half of the classes of a data set, against training from scratch, on few and on many images.

The other half of the classes is the similar target, another data set the different one. For each number of images per class (of which
the usual share is held out) the table has training from scratch, the linear probe at each stage, training of the last stages and of
all, at a tenth, 0.3 and all of the head's rate, and says which of these rows the advisor would take. All are judged on
the same test images, which none has seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import goodfit
from goodfit.core.chance import Chance
from goodfit.core.device import configure_torch, cpu_name
from goodfit.core.reporter import SilentReporter
from goodfit.data.dataset import Dataset
from goodfit.recipe.prepare import open_origin
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.recipe.transfer.advise import advise
from goodfit.recipe.transfer.features import HEAD, compute_features, feature_places
from goodfit.recipe.transfer.origin import Origin
from goodfit.recipe.transfer.probe import fit_probe

GOAL, CELLS = 1.0, 6  # points behind the best row, and in how many of eight cells the advisor may be no further


@dataclasses.dataclass(frozen=True)
class Cell:
    """A target at a number of images per class: by row, the accuracies on the test images and the seconds of each seed."""

    name: str
    rows: dict[str, list[tuple[float, float]]]
    chosen: list[str]

    def mean(self, row: str) -> float:
        return statistics.fmean(accuracy for accuracy, _ in self.rows[row])

    def error(self, row: str) -> float:
        found = [accuracy for accuracy, _ in self.rows[row]]
        return statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan

    @property
    def advised(self) -> float:
        """The mean accuracy of the rows that the advisor took, seed by seed."""
        return statistics.fmean(self.rows[row][seed][0] for seed, row in enumerate(self.chosen))

    @property
    def behind(self) -> float:
        """Points between the best row and the advisor's."""
        return 100 * (max(map(self.mean, self.rows)) - self.advised)

    def table(self) -> str:
        best = max(self.rows, key=self.mean)
        lines = [f"\n{self.name}"]
        for row in self.rows:
            marks = f"{'best' if row == best else '':6}{f'advised {self.chosen.count(row)}x' if row in self.chosen else ''}"
            seconds = statistics.fmean(s for _, s in self.rows[row])
            lines.append(f"  {row:24} {self.mean(row):7.2%} ± {self.error(row):6.2%}  {seconds:7.1f} s  {marks}".rstrip())
        return "\n".join([*lines, f"  the advisor's choice is behind the best row by {self.behind:.2f} points"])


def opened(data: str, size: int, limit: int = 0) -> Dataset:
    """A data set in color at one size."""
    recipe = Recipe(data=data, size=size, channels=3, limit=limit)
    return open_images(recipe)


def part_of(data: Dataset, classes: range, each: int, test: int, seed: int, file: Path) -> Path:
    """An .npz file with `each` training images (0: all) and at most `test` test images of each of some classes."""
    made = {}
    for split, rows, most in (
        ("train", torch.cat([data.rows("train"), data.rows("validation")]), each),
        ("test", data.rows("test"), test),
    ):
        shuffled = rows[Chance.of(seed if split == "train" else 0, rows, "transfer").permutation()]
        taken = torch.cat([shuffled[data.labels[shuffled] == k][: most or None] for k in classes])
        made[f"x_{split}"] = data.preprocess.center_crop(data.pixels.read_exact(taken).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        made[f"y_{split}"] = data.labels[taken].numpy() - classes.start
    np.savez(file, classes=np.array([data.classes[k] for k in classes]), **made)
    return file


def trained(file: Path, recipe: Recipe, out: Path) -> tuple[float, float]:
    """Test accuracy and seconds of a training."""
    began = time.perf_counter()
    run = goodfit.train(file, recipe, out=out, quiet=True)
    seconds = time.perf_counter() - began
    return goodfit.evaluate(run, test=True)["accuracy"], seconds


def compare(name: str, files: list[Path], recipe: Recipe, source: Path, folder: Path) -> Cell:
    """All rows of a cell: one file for each seed."""
    cell = Cell(name, {}, [])
    for seed, file in enumerate(files):
        fine = recipe.but(seed=seed, source=str(source), data=str(file))
        there = open_origin(fine, SilentReporter())
        names = feature_places(there.pretrained.model)
        few, many = max(1, (len(names) - 1) // 2), range(1, len(names) - 1)
        trainings = [(row, "backbone(0.1)") for row in (*(f"last({k})" for k in many), "all")]
        trainings += [(row, rates) for row in (f"last({few})", "all") for rates in ("backbone(0.3)", "none")]
        began = time.perf_counter()
        found = advise(there)
        chosen = f"probe {HEAD}" if found.trainable == HEAD else label(found.trainable, found.rates)
        print(f"    {name}, seed {seed}: advice in {time.perf_counter() - began:.1f} s: {chosen}. {' '.join(found.reasons)}", flush=True)
        cell.chosen.append(chosen)
        results = {"scratch": trained(file, recipe.but(seed=seed), folder / f"{file.stem}-scratch")}
        results |= {f"probe {place}": probed(there, place) for place in names}
        for place, (trainable, rates) in enumerate(trainings):
            made = fine.but(trainable=trainable, rates=rates)
            results[label(trainable, rates)] = trained(file, made, folder / f"{file.stem}-{place}")
        for row, result in results.items():
            cell.rows.setdefault(row, []).append(result)
    return cell


def label(trainable: str, rates: str) -> str:
    """The name of a row."""
    return f"{trainable}, {'full rate' if rates == 'none' else rates}"


def probed(there: Origin, place: str) -> tuple[float, float]:
    """Test accuracy and seconds of the linear probe of a place."""
    began = time.perf_counter()
    data, train, test = there.data, there.data.rows("train"), there.data.rows("test")
    fitted = fit_probe(compute_features(there.pretrained, data, train, [place])[place], data.labels[train], len(data.classes))
    seconds = time.perf_counter() - began
    scores = fitted(compute_features(there.pretrained, data, test, [place])[place])
    return float((scores.argmax(1) == data.labels[test]).double().mean()), seconds


def main() -> None:
    """Pretrain, transfer, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", required=True, help="data whose first half of the classes is learned first; the others are the similar target"
    )
    parser.add_argument("--different", required=True, help="data of another kind")
    parser.add_argument("--images", type=int, nargs="+", default=[10, 50, 200, 0], help="images per class; 0 takes all")
    parser.add_argument("--kinds", nargs="+", choices=["similar", "different"], default=["similar", "different"], help="half of the table")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--limit", type=int, default=0, help="at most this many images per class of every data set")
    parser.add_argument("--test", type=int, default=400, help="test images per class, at most")
    parser.add_argument("--model", default="convnet(16)")
    parser.add_argument("--pretraining", default="8 epochs", help="budget of the pretraining")
    parser.add_argument("--run", type=Path, help="a run that is pretrained already, in place of the pretraining; or where to keep it")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("settings", nargs="*", help="key=value of all trainings, such as budget='20 epochs'")
    arguments = parser.parse_intermixed_args()
    recipe = Recipe().but_text(
        {"model": arguments.model, "size": str(arguments.size), "threads": "1", **dict(word.split("=", 1) for word in arguments.settings)}
    )
    configure_torch(int(recipe.threads))
    began = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        similar, different = (opened(data, arguments.size, arguments.limit) for data in (arguments.source, arguments.different))
        half = len(similar.classes) // 2
        source = arguments.run or folder / "source"
        if not (source / "config.json").is_file():
            file = part_of(similar, range(half), 0, arguments.test, 0, folder / "source.npz")
            accuracy, seconds = trained(file, recipe.but(budget=arguments.pretraining), source)
            print(f"{arguments.model} learned {', '.join(similar.classes[:half])}: test {accuracy:.2%}, {seconds:.0f} s", flush=True)
        cells = []
        for kind, data, classes in (
            ("similar", similar, range(half, len(similar.classes))),
            ("different", different, range(len(different.classes))),
        ):
            for each in arguments.images if kind in arguments.kinds else ():
                files = [
                    part_of(data, classes, each, arguments.test, seed, folder / f"{kind}-{each}-{seed}.npz")
                    for seed in range(arguments.seeds)
                ]
                title = f"{kind}: {data.name}, {f'{each} images per class' if each else 'all images'}"
                cells.append(compare(title, files, recipe, source, folder))
                print(cells[-1].table(), flush=True)
    near = sum(cell.behind <= GOAL for cell in cells)
    print(f"\n{arguments.model}, {arguments.seeds} seeds, {time.time() - began:.0f} s on {cpu_name()}")
    print(f"advised rows within {GOAL:g} point of the best: {near} of {len(cells)} cells (goal {CELLS} of 8)")
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1))


if __name__ == "__main__":
    main()
