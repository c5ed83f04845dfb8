"""goodfit predict: what a run's classifier says of images."""

from __future__ import annotations

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from goodfit.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from goodfit.predict.predictor import Prediction


def predict(
    run: str,
    /,
    *images: str,
    top: int = 5,
    json: bool = False,
    csv: bool = False,
    views: str = "",
    reject_below: float = 0.0,
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
        Print one JSON list: name, classes, probabilities, with --reject-below whether rejected, or the problem with the image.
    csv
        Print CSV: name, class, probability, problem, with --reject-below whether rejected (true, false); a line for each class said.
    views
        Views of each image whose answers are averaged, in place of the run's own, such as flip_pair or "ten_crop((224, 256))".
    reject_below
        Mark answers whose likeliest class has a lower probability as rejected: the model is not sure enough. `goodfit evaluate` shows what
        accuracy which probability buys; calibrate the run first by `goodfit evaluate RUN --calibrate`.
    device
        auto, cpu, cuda, ...
    """
    if top < 1:
        raise UsageError(f"Expected --top to be 1 or more, received {top}.")
    if json and csv:
        raise UsageError("Expected one of --json and --csv, received both.")
    if not 0 <= reject_below <= 1:
        raise UsageError(f"Expected --reject-below to be a probability from 0 to 1, received {reject_below:g}.")
    from goodfit.predict.predictor import load_predictor

    files = find(images)
    classifier = load_predictor(run, device, views)
    predictions = list(classifier.stream(files, top))
    show(predictions, "json" if json else "csv" if csv else "text", reject_below)
    broken = [p for p in predictions if p.problem]
    if broken and len(broken) == len(predictions):
        raise DataError(f"Not one image can be read; {broken[0].name}: {broken[0].problem}.")
    if broken:
        first = f"{broken[0].name}: {broken[0].problem}"
        print(f"goodfit: {len(broken)} of {len(predictions)} images cannot be read; {first}.", file=sys.stderr)


def show(predictions: list[Prediction], form: str, reject_below: float = 0.0) -> None:
    """Print predictions as text, json or csv; with a probability to reject below, each says whether it is rejected."""
    from goodfit.core.words import format_percent

    def rejected(p: Prediction) -> bool:
        return p.probabilities[0] < reject_below

    if form == "json":
        from json import dumps

        rows = [
            {"name": p.name, "problem": p.problem}
            if p.problem
            else {
                "name": p.name,
                "classes": p.classes,
                "probabilities": p.probabilities,
                **({"rejected": rejected(p)} if reject_below else {}),
            }
            for p in predictions
        ]
        print(dumps(rows))
    elif form == "csv":
        from csv import writer

        table = writer(sys.stdout, lineterminator="\n")
        table.writerow(["name", "class", "probability", "problem", *(["rejected"] if reject_below else [])])
        for p in predictions:
            more = [str(rejected(p)).lower()] if reject_below and not p.problem else [""] if reject_below else []
            lines: list[list[object]] = [[p.name, c, x, "", *more] for c, x in zip(p.classes, p.probabilities, strict=True)]
            table.writerows(lines or [[p.name, "", "", p.problem, *more]])
    else:
        for p in predictions:
            said = p.problem or ", ".join(f"{c} {format_percent(x)}" for c, x in zip(p.classes, p.probabilities, strict=True))
            print(f"{p.name}: " + ("rejected, " if reject_below and not p.problem and rejected(p) else "") + said)


def find(images: tuple[str, ...]) -> list[Path]:
    """The files that words on the command line mean.

    Raises:
        UsageError: there are no words.
        DataError: a word means no image.
    """
    from goodfit.data.folder import IMAGE_SUFFIXES

    found: list[Path] = []
    for word in images:
        path = Path(word)
        if path.is_dir():
            some = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
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
