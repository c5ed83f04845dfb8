"""Looking into a trained network: pictures of it for a run's report, or for any images by `goodfit look`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.files import atomic_writer, remove, write_atomic
from goodfit.core.progress import steady_time
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.task import to_probabilities
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.data.opening import BrokenImage
from goodfit.inspection.attribution import CamRule
from goodfit.inspection.feature_maps import require_layer
from goodfit.inspection.layer_spread import UnitActivity, measure_units
from goodfit.models.weights.saved import explain_misfit
from goodfit.predict.images import ImagesFor
from goodfit.predict.predictor import Classifier, load_classifier
from goodfit.recipe.parts import refuse_other_tasks
from goodfit.recipe.recipe import Recipe
from goodfit.report.page import write_report
from goodfit.report.pages.look import render_look_page
from goodfit.runs.net_pictures import (
    WINDOWS_A_SIDE,
    LabeledImages,
    Sheet,
    answer,
    choose_layers,
    draw_activations,
    draw_evidence,
    draw_plane,
    draw_weights,
    normalize,
)
from goodfit.runs.pictures import EMBEDDED_SIDE, encode_as_uri, find_right_answers, sort_by_loss
from goodfit.runs.start import require_same_data
from goodfit.training.evaluate import Outputs, RowEvaluator

FILE, PAGE = "look.json", "look.html"  # the pictures of a run, for its report, and the page of `goodfit look`
MAX_WRONG, MAX_RIGHT = 4, 4  # answers that are explained
MAX_GIVEN = 24  # images that are explained if they are given
MAX_ACTIVATION_IMAGES, MAX_UNIT_IMAGES, MAX_POINTS = 3, 128, 500
MAX_SCORED = 2000  # validation images among which `goodfit look` finds the worst errors
EMBEDDED_LARGE_SIDE = 640  # pixels of the longer side of a large picture on a page
MAX_SHARE = 0.03  # of the seconds of a training that its pictures may take at its end
SECONDS_PER_POINT, IMPORT_SECONDS = 0.006, 1.0  # of t-SNE, on a slow core, and to load scikit-learn
EVIDENCE_PASSES = 2 * (WINDOWS_A_SIDE**2 + 5)  # of an image, at most: occlusion, saliency and class activation map, of two classes


@dataclasses.dataclass(frozen=True)
class LookOptions:
    """What to draw: the `layer` of the activations ("": the first and the last with maps), the rule of the class activation maps, and
    where the pictures go.
    """

    layer: str = ""
    cam: CamRule = "grad_cam"
    out: Path = Path("look")
    device: str = "auto"


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSample:
    """Images for what takes many of them, read when they are needed: how many, the function that reads them, and its `seconds` for one."""

    count: int
    read: Callable[[], LabeledImages]
    seconds: float = 0.0

    @functools.cached_property
    def images(self) -> LabeledImages:
        return self.read()


@dataclasses.dataclass(frozen=True)
class Look:
    """Pictures of a network: the `images` whose answers are explained, its `layers` by what they are used for, the activity of its
    `units`, and the `sheets`.
    """

    images: tuple[dict[str, Any], ...]
    layers: dict[str, Any]
    units: tuple[dict[str, Any], ...]
    sheets: tuple[Sheet, ...]

    def to_json(self) -> dict[str, Any]:
        """What a page shows of it, with the pictures as data URIs."""
        return {"sheets": [_sheet_to_json(sheet) for sheet in self.sheets], "units": list(self.units), "layers": self.layers}


def _sheet_to_json(sheet: Sheet) -> dict[str, Any]:
    is_drawing = sheet.layout == "large"
    side = EMBEDDED_LARGE_SIDE if is_drawing else EMBEDDED_SIDE
    rows = [[{"picture": encode_as_uri(cell.pixels, side, is_drawing), "caption": cell.caption} for cell in row] for row in sheet.rows]
    return {
        "name": sheet.name, "title": sheet.title, "text": sheet.text, "layout": sheet.layout, "rows": rows,
        "legend": [list(pair) for pair in sheet.legend],
    }  # fmt: skip


# ---- drawing -------------------------------------------------------------------------------------------------------------------------


def draw_look(classifier: Classifier, shown: LabeledImages, sample: ImageSample, options: LookOptions, limit: float = math.inf) -> Look:
    """Draw what a classifier does: the answers to the images that are `shown`, its units and a map of images of a `sample`.

    What would probably end after `limit` seconds is left out, but for the weights.

    Raises:
        UsageError: the network has no such layer.
    """
    began = steady_time()
    if options.layer:
        require_layer(classifier.model, options.layer)
    x, probabilities = normalize(classifier, shown.pixels), answer(classifier, shown.pixels)
    seconds = (steady_time() - began) / len(shown.names)  # of a pass, an image

    def has_time(passes: float, more: float = 0.0) -> bool:
        return steady_time() - began + passes * seconds + more <= limit

    cam_layer, layers = choose_layers(classifier, x[:1])
    layers = [options.layer] if options.layer else layers
    some = LabeledImages(shown.pixels[:MAX_ACTIVATION_IMAGES], shown.names[:MAX_ACTIVATION_IMAGES], shown.labels)
    reading = sample.count * sample.seconds
    draws: list[tuple[str, str, float, Callable[[], Sheet]]] = [  # with the passes of an image that it takes
        ("weights", "Weights of the first layer", 1, lambda: draw_weights(classifier, x[:1])),
        ("evidence", "Where the answers come from", EVIDENCE_PASSES * len(shown.names),
         lambda: draw_evidence(classifier, shown, probabilities, cam_layer, options.cam)),
        ("activations", "Activations", 2 * len(some.names), lambda: draw_activations(classifier, some, layers)),
        ("plane", "Images as points", 2 * sample.count,
         lambda: draw_plane(classifier, sample.images, has_time(0, SECONDS_PER_POINT * sample.count))),
    ]  # fmt: skip
    sheets: list[Sheet] = []
    for name, title, passes, draw in draws:
        if not sheets or has_time(passes, IMPORT_SECONDS + reading if name == "plane" else 0.0):
            try:
                sheets.append(draw())
            except UsageError as error:  # what this network has not: a derivative, a linear head, maps
                if options.layer and name == "activations":
                    raise
                sheets.append(Sheet(name, title, str(error)))
    units, n = list[UnitActivity](), min(sample.count, MAX_UNIT_IMAGES)
    if has_time(3 * n, reading):
        units = measure_units(classifier.model, normalize(classifier, sample.images.pixels[:n]))
    images = [
        {
            "name": name,
            "truth": classifier.classes[shown.labels[place]] if shown.labels is not None else None,
            "predicted": classifier.classes[int(probabilities[place].argmax())],
            "probability": float(probabilities[place].max()),
        }
        for place, name in enumerate(shown.names)
    ]
    names = {"cam": cam_layer, "activations": layers, "unit_images": n}
    return Look(tuple(images), names, tuple(dataclasses.asdict(unit) for unit in units), tuple(sheets))


def read_rows(data: Dataset, rows: Sequence[int]) -> LabeledImages:
    """Some rows of the data as a network sees them."""
    batch = next(iterate_batches(data.pixels, data.labels, torch.tensor(rows), len(data.classes), len(rows)))
    pixels = data.preprocess.center_crop(batch.images).contiguous()
    return LabeledImages(pixels, tuple(data.names[row] for row in rows), tuple(data.labels[torch.tensor(rows)].tolist()))


def choose_answers(classifier: Classifier, data: Dataset, outputs: Outputs) -> LabeledImages:
    """The worst errors, and the surest right answers of the classes among them, where those are too few of the others."""
    probabilities, labels = to_probabilities(classifier.loss, outputs.logits), outputs.labels
    worst = sort_by_loss(probabilities.argmax(1) != labels, outputs.losses)[:MAX_WRONG]
    right = find_right_answers(probabilities, labels, worst, range(len(data.classes)))[: MAX_WRONG + MAX_RIGHT - len(worst)]
    return read_rows(data, [int(outputs.ids[row]) for row in (*worst, *right)])


def sample_validation(data: Dataset, seconds: float = 0.0) -> ImageSample:
    """Some validation images, one of which takes so many seconds to read."""
    rows = data.spread_rows("validation", MAX_POINTS).tolist()
    return ImageSample(len(rows), lambda: read_rows(data, rows), seconds)


def write_look(run: Run, classifier: Classifier, data: Dataset, outputs: Outputs, seconds: float) -> None:
    """Write the pictures of a run that was trained for so many `seconds` into its folder, of which they take no more than a small share."""
    began = steady_time()
    shown = choose_answers(classifier, data, outputs)
    sample = sample_validation(data, (steady_time() - began) / len(shown.names))
    look = draw_look(classifier, shown, sample, LookOptions(), MAX_SHARE * seconds)
    run.write(FILE, look.to_json())


# ---- the verb ------------------------------------------------------------------------------------------------------------------------


def look_at_run(run: Run, files: Sequence[Path], options: LookOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw the network of a run at work on image files, or without any on validation images: the worst errors and some right answers.

    Writes a page and the sheets, and for validation images also the pictures of the run's report. Returns the answers under "images",
    "layers", "units", "sheets" with the file of each, "notes" on images that are left out, and all "files".

    Raises:
        UsageError: there is no finished model, it is an ensemble, or it has no such layer.
        DataError: not one image can be read, or the data of the run is gone.
    """
    classifier = load_classifier(run, options.device, "center", reporter)
    refuse_other_tasks(classifier.task.name, "goodfit look")
    notes: list[str] = []
    if files:
        shown = _decode(classifier, files, notes)
        sample = ImageSample(len(shown.names), lambda: shown)
    else:
        data = _open_validation(run, classifier, reporter)
        evaluator = RowEvaluator(data, classifier.loss, classifier.device)
        shown = choose_answers(classifier, data, evaluator(classifier.model, data.spread_rows("validation", MAX_SCORED)))
        sample = sample_validation(data)
    reporter.show_activity("drawing")
    with explain_misfit(run):
        look = draw_look(classifier, shown, sample, options)
    page = options.out / PAGE
    drawn = {sheet.name: save_sheet(sheet, options.out) for sheet in look.sheets}
    source = f"Made by goodfit look from the run folder {run.name} and {count_of(sample.count, 'image')}."
    write_atomic(page, render_look_page(run.name, look.to_json(), source))
    if not files:
        _show_in_report(run, look, reporter)
    sheets = [{"name": sheet.name, "text": sheet.text, "file": drawn[sheet.name]} for sheet in look.sheets]
    names = [*(file for file in drawn.values() if file), str(page)]
    return {
        "images": list(look.images), "layers": look.layers, "units": list(look.units), "sheets": sheets, "notes": notes, "files": names,
    }  # fmt: skip


def _open_validation(run: Run, classifier: Classifier, reporter: Reporter) -> Dataset:
    """Open the images of a run, and check that they are the run's."""
    reporter.show_activity("scoring validation images")
    images = ImagesFor(Recipe.of_run(run.path), reporter)
    require_same_data(run, images.data)
    return images.prepare(classifier.preprocess)


def _show_in_report(run: Run, look: Look, reporter: Reporter) -> None:
    """Put the pictures into the report of a run; what cannot be written is reported."""
    try:
        run.write(FILE, look.to_json())
        write_report(run.path)
    except (GoodfitError, OSError) as error:
        reporter.say(f"Warning: the report could not be written: {error}")


def _decode(classifier: Classifier, files: Sequence[Path], notes: list[str]) -> LabeledImages:
    """Decode image files, of which those that cannot be read are noted."""
    decoded = {str(file): classifier.decode(file) for file in files[:MAX_GIVEN]}
    if len(files) > MAX_GIVEN:
        notes.append(f"Of {len(files)} images the first {MAX_GIVEN} are drawn.")
    broken = {name: found for name, found in decoded.items() if isinstance(found, BrokenImage)}
    if len(broken) == len(decoded):
        name, first = next(iter(broken.items()))
        raise DataError(f"Not one image can be read; {name}: {first.reason}.")
    notes += [f"{name} cannot be read: {found.reason}." for name, found in broken.items()]
    good = {name: found for name, found in decoded.items() if not isinstance(found, BrokenImage)}
    pixels = torch.from_numpy(np.stack([found[0] for found in good.values()])).permute(0, 3, 1, 2)
    return LabeledImages(classifier.preprocess.center_crop(pixels).contiguous(), tuple(good), None)


def save_sheet(sheet: Sheet, folder: Path) -> str | None:
    """Write a sheet of pictures as a PNG into a folder and return its path; None, and no file, where it has none."""
    path = folder / f"{sheet.name}.png"
    if not sheet.rows:
        remove(path)
        return None
    with atomic_writer(path) as file:
        sheet.render().save(file, "PNG")
    return str(path)
