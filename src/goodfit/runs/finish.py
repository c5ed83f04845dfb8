"""The end of a run: final scores in fp32 by the recipe's views, the worst errors with their pictures, the kept model."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from goodfit.core.catalog import Catalog
from goodfit.core.errors import GoodfitError
from goodfit.core.files import write, writing
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.models.anatomy.account import account
from goodfit.recipe.build import Built, parts
from goodfit.predict.predictor import keep
from goodfit.predict.scoring import Scored, scored
from goodfit.recipe.recipe import Recipe
from goodfit.training.calibration import calibration
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.snapshots import FOLDER, Snapshots

WORST = 24
THUMBNAIL = 64


def finish(run: Run, built: Built, data: Dataset, recipe: Recipe, known: Catalog) -> dict[str, Any]:
    """Score the kept model on the validation images and write everything about it; returns the validation scores.

    The last weights are kept, or the best where a stop rule watches.
    """
    state = built.state
    kept = state.step
    if built.plan.stop is not None and state.best:
        last = state.step, state.stopped, state.snapshots
        with contextlib.suppress(GoodfitError):  # a damaged best leaves the last
            Checkpoints(run.checkpoints).restore(state, state.best["step"])
            kept = state.step
        state.step, state.stopped, state.snapshots = last
    made = parts(recipe, known)
    found = scored(built.judge, state.judged, data.rows("validation"), made["views"])
    found.scores["calibration"] = calibration(found.probabilities, found.center.labels)
    run.write("scores.json", {"validation": found.scores, "best": state.best, "kept": kept})  # a test score was of other weights
    if state.snapshots:
        run.update("scores.json", {"snapshots": snapshots(run, built, data, made["views"])})
    worst(run, found, data)
    predictions_of(found, data).save(run.path / PREDICTIONS_FILE)
    keep(run, state.judged, made, data.classes, data.preprocess)
    return found.scores


def snapshots(run: Run, built: Built, data: Dataset, views: Any) -> list[dict[str, Any]]:
    """Ask each snapshot of the training about the validation images, and keep its answers beside its weights; returns its scores."""
    kept = Snapshots(Checkpoints(run.checkpoints), run.path / FOLDER)
    kept.prune(built.state)
    model, rows = copy.deepcopy(built.state.model), []
    for step in built.state.snapshots:
        model.load_state_dict(load_file(kept.path(step)))
        found = scored(built.judge, model, data.rows("validation"), views)
        predictions_of(found, data).save(kept.path(step).with_suffix(".npz"))
        rows.append({"step": step, "accuracy": found.scores["accuracy"], "loss": found.scores["loss"]})
    return rows


def predictions_of(found: Scored, data: Dataset) -> Predictions:
    """The final probabilities with the names of their images."""
    names = np.array([data.names[row] for row in found.center.ids.tolist()], dtype=np.str_)
    return Predictions(names, found.center.labels.numpy(), found.probabilities.float().numpy(), data.classes)


def multiply_adds(model: nn.Module, preprocess: Preprocess) -> int | None:
    """Those of one image; None where a model of the user's own cannot be followed."""
    try:
        return account(model, preprocess.channels, preprocess.size).totals["macs"]
    except Exception:  # whatever the user's code raises on tensors without numbers: the run is finished without this figure
        return None


def temperature_of(run: Run) -> float:
    """The temperature that was fitted to a run's validation images; 1 where none was, as in runs of earlier versions."""
    return float(run.read("scores.json").get("validation", {}).get("calibration", {}).get("temperature", 1.0))


def worst(run: Run, found: Scored, data: Dataset) -> None:
    """Write the validation images with the highest loss that the model got wrong, as thumbnails in the run."""
    answers = found.center
    wrong = (found.probabilities.argmax(1) != answers.labels).nonzero().flatten()
    rows = wrong[found.losses[wrong].argsort(descending=True)][:WORST]
    pixels: Any = data.pixels.read_exact(answers.ids[rows]).numpy() if len(rows) else []
    listed = []
    for place, (row, p, picture) in enumerate(zip(rows.tolist(), found.probabilities[rows], pixels, strict=True)):
        file = f"worst/{place:02d}.png"
        thumbnail(run, file, picture)
        listed.append(
            {
                "file": file,
                "name": data.names[int(answers.ids[row])],
                "truth": data.classes[int(answers.labels[row])],
                "predicted": data.classes[int(p.argmax())],
                "probability": float(p.max()),
                "loss": float(found.losses[row]),
            }
        )
    write(run.path / "worst.json", json.dumps({"images": listed}, indent=1) + "\n")


def thumbnail(run: Run, file: str, picture: np.ndarray) -> None:
    """Write pixels [H, W, C] as a PNG of at most 64 pixels a side."""
    image = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    with writing(run.path / file) as out:
        image.save(out, "PNG")
