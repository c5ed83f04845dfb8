"""goodfit predict: what a run's classifier says of images."""

from __future__ import annotations

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from goodfit.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from goodfit.recipe.classifier import Prediction


def predict(
    run: str,
    /,
    *images: str,
    top: int = 5,
    json: Annotated[bool, Parameter(negative="")] = False,
    csv: Annotated[bool, Parameter(negative="")] = False,
    views: str = "",
    device: str = "auto",
) -> None:
    """Predict the classes of images: files, folders (searched for images), or patterns such as "photos/*.jpg".

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    images
        Files, folders or patterns.
    top
        How many classes to say for each image.
    json
        Print one JSON list: name, classes, probabilities, or the problem with the image.
    csv
        Print CSV: name, class, probability, problem; a line for each class said.
    views
        Views of each image whose answers are averaged, in place of the run's own, such as flip_pair or "ten_crop((224, 256))".
    device
        auto, cpu, cuda, ...
    """
    if top < 1:
        raise UsageError(f"Expected --top to be 1 or more, received {top}.")
    if json and csv:
        raise UsageError("Expected one of --json and --csv, received both.")
    from goodfit.recipe.classifier import load_run

    files = find(images)
    classifier = load_run(run, device, views)
    predictions = list(classifier.stream(files, top))
    show(predictions, "json" if json else "csv" if csv else "text")
    broken = [p for p in predictions if p.problem]
    if broken and len(broken) == len(predictions):
        raise DataError(f"Not one image can be read; {broken[0].name}: {broken[0].problem}.")
    if broken:
        first = f"{broken[0].name}: {broken[0].problem}"
        print(f"goodfit: {len(broken)} of {len(predictions)} images cannot be read; {first}.", file=sys.stderr)


def show(predictions: list[Prediction], form: str) -> None:
    """Print predictions as text, json or csv."""
    from goodfit.core.words import percent

    if form == "json":
        from json import dumps

        rows = [
            {"name": p.name, **({"problem": p.problem} if p.problem else {"classes": p.classes, "probabilities": p.probabilities})}
            for p in predictions
        ]
        print(dumps(rows))
    elif form == "csv":
        from csv import writer

        table = writer(sys.stdout, lineterminator="\n")
        table.writerow(["name", "class", "probability", "problem"])
        for p in predictions:
            table.writerows([[p.name, c, x, ""] for c, x in zip(p.classes, p.probabilities, strict=True)] or [[p.name, "", "", p.problem]])
    else:
        for p in predictions:
            print(f"{p.name}: " + (p.problem or ", ".join(f"{c} {percent(x)}" for c, x in zip(p.classes, p.probabilities, strict=True))))


def find(images: tuple[str, ...]) -> list[Path]:
    """The files that words on the command line mean.

    Raises:
        UsageError: there are no words.
        DataError: a word means no image.
    """
    from goodfit.data.folder import SUFFIXES

    found: list[Path] = []
    for word in images:
        path = Path(word)
        if path.is_dir():
            some = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.exists():
            some = [path]
        else:
            some = [Path(file) for file in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207  Path.glob takes no absolute pattern
        if not some:
            raise DataError(f'Expected an image, a folder of images or a pattern, found no image at "{word}".')
        found += some
    if not found:
        raise UsageError("Expected images to predict: files, folders or patterns, received none.")
    return found
