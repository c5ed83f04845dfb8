"""Pictures that a run keeps for its report: its worst errors and some right answers, drawn from the original images."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from goodfit.core.device import physical_cores
from goodfit.core.errors import GoodfitError
from goodfit.core.files import write_atomic
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.predict.scoring import ViewScores
from goodfit.terminal.sheet import to_rgb

FILE = "worst.json"
MAX_WORST_IMAGES, MAX_RIGHT_IMAGES = 24, 10
PICTURE_SIDE = 224  # pixels of the longer side, of larger originals
EMBEDDED_SIDE = 160  # the same, of those of the augmentation
MAX_PNG_SIDE = 64  # pixels of the longer side up to which a picture is kept without loss, for the report enlarges it
JPEG_QUALITY = 80


def write_pictures(run: Run, scored: ViewScores, data: Dataset) -> None:
    """Write the misclassified validation images of the highest loss, and right answers of the classes among them, with their pictures."""
    labels, predicted = scored.center.labels, scored.probabilities.argmax(1)
    worst = worst_errors(scored.probabilities, labels, scored.losses)[:MAX_WORST_IMAGES]
    right = surest_answers(scored.probabilities, labels, classes_among(worst, predicted, labels))[:MAX_RIGHT_IMAGES]
    with ThreadPoolExecutor(physical_cores()) as pool:
        pictures = list(pool.map(lambda row: read_picture(data, int(scored.center.ids[row])), [*worst, *right]))
    rows = []
    for place, (row, (pixels, is_original)) in enumerate(zip([*worst, *right], pictures, strict=True)):
        name = f"{place:02d}" if place < len(worst) else f"right-{place - len(worst):02d}"
        rows.append(
            {
                "file": write_picture(run, f"worst/{name}", pixels) if pixels is not None else "",
                "original": is_original,
                "name": data.names[int(scored.center.ids[row])],
                "truth": data.classes[int(labels[row])],
                "predicted": data.classes[int(predicted[row])],
                "probability": float(scored.probabilities[row].max()),
                "loss": float(scored.losses[row]),
            }
        )
    run.write(FILE, {"images": rows[: len(worst)], "right": rows[len(worst) :]})


def worst_errors(probabilities: Tensor, labels: Tensor, losses: Tensor) -> list[int]:
    """The rows of `probabilities` [N, K] with a wrong answer, those of the highest loss [N] first."""
    wrong = (probabilities.argmax(1) != labels).nonzero().flatten()
    rows: list[int] = wrong[losses[wrong].argsort(descending=True)].tolist()
    return rows


def classes_among(rows: Sequence[int], predicted: Tensor, labels: Tensor) -> list[int]:
    """The classes that are predicted for some rows or are their labels, the most frequent first."""
    return [k for k, _ in Counter(k for row in rows for k in (int(predicted[row]), int(labels[row]))).most_common()]


def surest_answers(probabilities: Tensor, labels: Tensor, classes: Sequence[int]) -> list[int]:
    """The right answer of the highest probability for each class that has one, as a row of `probabilities` [N, K]."""
    rows = []
    for k in classes:
        of_class = ((labels == k) & (probabilities.argmax(1) == k)).nonzero().flatten()
        if len(of_class):
            rows.append(int(of_class[probabilities[of_class, k].argmax()]))
    return rows


def read_picture(data: Dataset, row: int) -> tuple[NDArray[np.uint8] | None, bool]:
    """An image to look at, uint8 [h, w, C], and whether it is the original.

    That is the whole of it, upright and in its own proportions, of at most PICTURE_SIDE pixels. Where it cannot be read any more, it is
    what the model saw; where that cannot be read either, None.
    """
    height, width = data.extents[row].tolist()
    factor = min(1.0, PICTURE_SIDE / max(height, width, 1))
    box = max(1, round(height * factor)), max(1, round(width * factor))
    try:
        return Preprocess(box, box, 3, "stretch", data.preprocess.white_level).decode(data.store.read(row)), True
    except (GoodfitError, OSError):
        pass
    try:
        return data.pixels.read(torch.tensor([row]))[0].numpy(), False
    except (GoodfitError, OSError):
        return None, False


def write_picture(run: Run, name: str, pixels: NDArray[np.uint8]) -> str:
    """Write pixels [H, W, C] as a JPEG, or as a PNG if they are few; returns the name of the file within the run."""
    content, kind = encode_picture(to_rgb(pixels))
    write_atomic(run.path / f"{name}.{kind}", content)
    return f"{name}.{kind}"


def encode_as_uri(pixels: NDArray[np.uint8], side: int = EMBEDDED_SIDE, is_drawing: bool = False) -> str:
    """Encode pixels [H, W, C] as a data URI, made smaller where the longer side has more pixels than `side`; a drawing without loss."""
    image = to_rgb(pixels)
    image.thumbnail((side, side))
    content, kind = encode_picture(image, is_drawing)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def encode_picture(image: Image.Image, is_drawing: bool = False) -> tuple[bytes, str]:
    """Encode an image as "jpeg", or as "png" if its pixels are few or it is a drawing; returns the bytes and which of the two they are."""
    out, kind = io.BytesIO(), "png" if is_drawing or max(image.size) <= MAX_PNG_SIDE else "jpeg"
    image.save(out, kind, **({"quality": JPEG_QUALITY} if kind == "jpeg" else {}))
    return out.getvalue(), kind
