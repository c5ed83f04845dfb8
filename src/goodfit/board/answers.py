"""Answers of trained runs to one image, with what they rest on; and the validation images of a run as pictures."""

from __future__ import annotations

import dataclasses
import io
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.augment.views import Center
from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.core.run_files import get
from goodfit.data.dataset import Dataset
from goodfit.data.opening import BrokenImage, read_header
from goodfit.inspection.attribution import compute_cam
from goodfit.predict.predictor import Classifier, Predictor, load_predictor
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.report.record import as_rows
from goodfit.runs.look import read_rows
from goodfit.runs.net_pictures import choose_layers, normalize, read_features
from goodfit.runs.pictures import encode_as_uri, read_picture
from goodfit.runs.start import require_same_data
from goodfit.terminal.paint import paint_heat

MAX_RUNS, MAX_PICTURES = 6, 60  # of one question
MAX_PIXELS = 50_000_000  # of an image, by its header
TOP = 10  # classes of an answer
SHOWN_SIDE = 224  # pixels of the longer side of a picture
NEAR_IMAGES, COMPARED_IMAGES = 6, 400  # training images that are nearest, among so many

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values that were made last, by path and the time at which a file there was changed."""

    def __init__(self, make: Callable[[Path], Value], file: str, count: int) -> None:
        self.make, self.file, self.count = make, file, count
        self._values: OrderedDict[tuple[Path, int], Value] = OrderedDict()

    def __getitem__(self, path: Path) -> Value:
        file = path / self.file
        key = path, file.stat().st_mtime_ns if file.is_file() else 0
        if key not in self._values:
            while len(self._values) >= self.count:
                self._values.popitem(last=False)
            self._values[key] = self.make(path)
        self._values.move_to_end(key)
        return self._values[key]


def open_data(path: Path) -> Dataset:
    """The images of a run.

    Raises:
        DataError: they are gone, or no longer those that it was trained on.
    """
    data = open_images(Recipe.of_run(path), SilentReporter())
    require_same_data(Run(path), data)
    return data


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """Some training images of a run, by their `rows`, and what the last layer takes in for each: `features` [N, D] of length 1."""

    rows: list[int]
    features: NDArray[np.float32]


def measure_features(path: Path) -> TrainingFeatures:
    """The features of some training images."""
    data, classifier = DATA[path], PREDICTORS[path].members[0]
    rows = data.spread_rows("train", COMPARED_IMAGES).tolist()
    return TrainingFeatures(rows, unit(read_features(classifier, read_rows(data, rows).pixels)))


PREDICTORS = Recent[Predictor](lambda path: load_predictor(path, "cpu", "", SilentReporter()), "model.safetensors", MAX_RUNS)
DATA = Recent[Dataset](open_data, "about.json", 2)
FEATURES = Recent[TrainingFeatures](measure_features, "model.safetensors", MAX_RUNS)


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features [N, D] with length 1."""
    scaled: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return scaled


def ask(runs: Sequence[str], name: str, content: bytes) -> dict[str, Any]:
    """The answers of runs to an image, its bytes, or the image of the first run's data with that name.

    For each run: the prediction as `goodfit predict --json` has it, the class activation map of its answer as a picture, the nearest
    training images, how accurate answers above each probability are ("rejection"), seconds, and the "problem" where it has no answer.

    Raises:
        UsageError: there are no runs, or too many.
        DataError: the image cannot be read.
    """
    if not 1 <= len(runs) <= MAX_RUNS:
        raise UsageError(f"Expected 1 to {MAX_RUNS} runs to ask, received {len(runs)}.")
    image, truth = find_image(Path(runs[0]), name) if name else (content, "")
    try:
        header = read_header(io.BytesIO(image) if isinstance(image, bytes) else image)
    except BrokenImage as error:
        raise DataError(f"The image cannot be read: {error.reason}.") from error
    if header.width * header.height > MAX_PIXELS:
        raise DataError(f"The image has more than {MAX_PIXELS:,} pixels: make it smaller.")
    return {"truth": truth, "answers": [answer(Path(run), image) for run in runs]}


def find_image(path: Path, name: str) -> tuple[Any, str]:
    """An image of a run's data by its name, as its store has it, and its class.

    Raises:
        DataError: there is none.
    """
    data = DATA[path]
    row = rows_by_name(data).get(name)
    if row is None:
        raise DataError("There is no such image in the data of this run.")
    truth = data.classes[int(data.labels[row])] if data.task.name == "classes" else ""
    return data.store.read(row), truth


def rows_by_name(data: Dataset) -> dict[str, int]:
    """The row of each image by its name."""
    return {name: row for row, name in enumerate(data.names)}


def answer(path: Path, image: Any) -> dict[str, Any]:
    """The answer of one run."""
    began, row = time.perf_counter(), {"run": path.name}
    try:
        predictor = PREDICTORS[path]
        prediction = predictor.predict([image], TOP)[0]
    except (GoodfitError, OSError) as error:
        return {**row, "problem": str(error)}
    seconds = time.perf_counter() - began
    if prediction.problem:
        return {**row, "problem": f"The image cannot be read: {prediction.problem}."}
    scores = Run(path).read("scores.json")
    found = {
        **row, "problem": "", "task": predictor.task.name, "prediction": prediction.plain(), "seconds": seconds,
        "rejection": [x for x in as_rows(get(scores, "validation", "calibration", "rejection")) if x],
        "cam": None, "near": [], "near_problem": "",
    }  # fmt: skip
    if len(predictor.members) == 1 and predictor.task.name == "classes":
        found |= explain(path, predictor.members[0], image, prediction.label)
    return found


def explain(path: Path, classifier: Classifier, image: Any, label: str) -> dict[str, Any]:
    """The class activation map for a label, and the nearest training images; what a network or its data does not give is left out."""
    center = dataclasses.replace(classifier, views=Center())
    decoded = center.decode(image)
    if isinstance(decoded, BrokenImage):
        return {}
    pixels = torch.from_numpy(decoded[center.scales[0]])[None].permute(0, 3, 1, 2)
    pixels = classifier.preprocess.center_crop(pixels).contiguous()
    shown = pixels[0].permute(1, 2, 0).numpy()
    x, found = normalize(classifier, pixels), dict[str, Any](seen=encode_as_uri(shown, SHOWN_SIDE))
    try:
        layer, _ = choose_layers(classifier, x)
        if layer:
            chosen = torch.tensor([classifier.classes.index(label)])
            heat = compute_cam(classifier.model, x, chosen, layer)[0].float().cpu().numpy()
            found["cam"] = encode_as_uri(paint_heat(shown, heat), SHOWN_SIDE)
    except UsageError:
        pass  # no map: the network has no convolutions, or no derivative
    try:
        found["near"] = find_near(path, unit(read_features(classifier, pixels))[0])
    except (GoodfitError, OSError) as error:
        found["near_problem"] = str(error)
    return found


def find_near(path: Path, features: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The training images whose features [D] point most nearly the same way, with the cosine of the angle between."""
    known, data = FEATURES[path], DATA[path]
    likeness = known.features @ features
    rows = [(known.rows[place], float(likeness[place])) for place in np.argsort(-likeness)[:NEAR_IMAGES]]
    return [
        {"name": data.names[row], "truth": data.classes[int(data.labels[row])], "likeness": x, "picture": picture_of(data, row)}
        for row, x in rows
    ]


def read_pictures(run: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Images of a run's data as data URIs, by their names; None for those that cannot be read.

    Raises:
        UsageError: they are too many.
        DataError: the data is gone, or no longer that of the run.
    """
    if len(names) > MAX_PICTURES:
        raise UsageError(f"Expected up to {MAX_PICTURES} names, received {len(names)}.")
    data = DATA[Path(run)]
    rows = rows_by_name(data)
    return [{"name": name, "picture": picture_of(data, rows[name]) if name in rows else None} for name in names]


def picture_of(data: Dataset, row: int) -> str | None:
    """An image as a data URI; None where it cannot be read."""
    pixels, _ = read_picture(data, row)
    return None if pixels is None else encode_as_uri(pixels, SHOWN_SIDE)
