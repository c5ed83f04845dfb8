"""goodfit predict: what a run's classifier says of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from goodfit.core.errors import DataError, UsageError
from goodfit.core.trust import trust_own_code

if TYPE_CHECKING:
    from goodfit.predict.prediction import Prediction


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
    """Predict the classes, labels or numbers of images: files, folders (searched for images), or patterns such as "photos/*.jpg".

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    images
        Files, folders or patterns.
    top
        How many classes to print for each image.
    json
        Print one JSON list: name, label, probability, classes, probabilities, problem, with --reject-below whether rejected.
    csv
        Print CSV: name, class, probability, problem, with --reject-below whether rejected (true, false); a line for each class.
    views
        Views of each image whose answers are averaged, in place of the run's own, such as flip_pair or "ten_crop((224, 256))".
    reject_below
        Mark answers whose likeliest class has a lower probability as rejected: the model is not sure enough. `goodfit evaluate` shows which
        accuracy each probability gives; calibrate the run first by `goodfit evaluate RUN --calibrate`.
    device
        auto, cpu, cuda, ...
    """
    if not images and not Path(run).is_dir():
        raise UsageError(f'Expected a run and images, such as "goodfit predict runs/latest {run}", received "{run}" alone.')
    if json and csv:
        raise UsageError("Expected one of --json and --csv, received both.")
    check_numbers(top, reject_below)
    from goodfit.core.run import Run
    from goodfit.data.folder import find_images

    trust_own_code([views])
    Run.open(run)  # refused before torch is imported, as images that are not there
    files = find_images(images)
    from goodfit.predict.prediction import refuse_rejection
    from goodfit.predict.predictor import load_predictor
    from goodfit.terminal.predictions import format_predictions, format_predictions_csv, plain_predictions
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_exact, print_json, print_lines

    predictor = load_predictor(run, device, views, TerminalReporter())
    refuse_rejection(run, predictor.task.name, reject_below)
    predictions = list(predictor.stream(files, top))
    if json:
        print_json(plain_predictions(predictions, reject_below))
    elif csv:
        print_exact(format_predictions_csv(predictions, reject_below))
    else:
        print_lines(*format_predictions(predictions, reject_below))
    explain_problems(predictions)


def check_numbers(top: int, reject_below: float) -> None:
    """Refuse numbers of classes and probabilities that are none.

    Raises:
        UsageError: one is.
    """
    if top < 1:
        raise UsageError(f"Expected --top to be 1 or more, received {top}.")
    if not 0 <= reject_below <= 1:
        raise UsageError(f"Expected --reject-below to be a probability from 0 to 1, received {reject_below:g}.")


def explain_problems(predictions: Sequence[Prediction]) -> None:
    """Say how many images cannot be read.

    Raises:
        DataError: that is all of them.
    """
    broken = [p for p in predictions if p.problem]
    if broken and len(broken) == len(predictions):
        raise DataError(f"Not one image can be read; {broken[0].name}: {broken[0].problem}.")
    if broken:
        first = f"{broken[0].name}: {broken[0].problem}"
        from goodfit.terminal.streams import print_message

        print_message(f"goodfit: {len(broken)} of {len(predictions)} images cannot be read; {first}.")
