"""Scores of answers averaged at test time, over views or noisy passes (the lecture: train y = f(x, z), test by the mean over z)."""

from __future__ import annotations

import dataclasses
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.augment.mix import Cutmix, Mixup, Smooth
from goodfit.augment.pipeline import Pipeline
from goodfit.augment.views import Center, ImageView
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import MASK64, Chance, fold
from goodfit.core.device import physical_cores
from goodfit.core.errors import UsageError
from goodfit.core.parts import Part, pipe_parts, spell
from goodfit.core.predictions import Predictions
from goodfit.core.progress import Length, Lengths
from goodfit.data.dataset import Dataset
from goodfit.data.multiscale import decode_scaled
from goodfit.predict.calibration import log_probabilities, measure_calibration
from goodfit.predict.paired import compare_paired
from goodfit.predict.views import Pictures, Viewer, to_probabilities
from goodfit.training.evaluate import (
    Outputs,
    RowEvaluator,
    accuracy_and_log_loss,
    compute_scores,
    eval_batch_size,
    score_noisy_passes,
)
from goodfit.training.noise import noise_layers

IMAGES_AT_ONCE = 64  # whose pictures at one scale are in memory, more of small ones


@dataclasses.dataclass(frozen=True)
class ViewScores:
    """The scores of a model on some images: the outputs for the `center` crops alone, the `scores` by all views, and the final
    `probabilities` [N, K] with the `losses` [N] that belong to them.
    """

    center: Outputs
    scores: dict[str, Any]
    probabilities: Tensor
    losses: Tensor


def score_views(evaluator: RowEvaluator, model: nn.Module, rows: Tensor, part: Any, center: Outputs | None = None) -> ViewScores:
    """Score a model on rows of the evaluator's data by the views of a part; `center` has its outputs for the center crops where known.

    Unless that is the center alone, the scores have the key "viewed": the part's "spelling", and "accuracy", "log_loss" and
    "milliseconds" an image (reading the pixels included) of the "center" crop and of the mean over the first 1, 2, 4, ... and all "views".
    The loss of averaged logits is the model's own, that of averaged probabilities their log loss.
    """
    data, center = evaluator.dataset, center or evaluator(model, rows)
    center_probabilities = to_probabilities(evaluator.loss, center.logits)
    if isinstance(part, Center):
        return ViewScores(center, compute_scores(center, data.classes), center_probabilities, center.losses)
    viewer = Viewer(model, part, data.preprocess, evaluator.loss, evaluator.device)
    means, table = _average_views(viewer, data, rows, center)
    final = viewer.mean_to_probabilities(means)
    if viewer.averages_logits:
        outputs = dataclasses.replace(center, logits=means, losses=evaluator.loss(means, one_hot(center.labels, len(data.classes))))
    else:
        outputs = outputs_of_probabilities(final, center.ids, center.labels)
    result = compute_scores(outputs, data.classes)
    rule = {**accuracy_and_log_loss(center_probabilities, center.labels), "milliseconds": 1000 * center.seconds / len(rows)}
    return ViewScores(center, {**result, "viewed": {"spelling": spell(part), "center": rule, "views": table}}, final, outputs.losses)


def outputs_of_probabilities(probabilities: Tensor, ids: Tensor, labels: Tensor) -> Outputs:
    """Averaged probabilities [N, K] as outputs: their logarithms, and the log loss of each."""
    logits = log_probabilities(probabilities)
    return Outputs(ids, labels, logits, -logits.gather(1, labels[:, None])[:, 0])


def predictions_of(probabilities: Tensor, rows: Tensor, data: Dataset) -> Predictions:
    """Probabilities [N, K] for some rows together with the names and labels of those rows."""
    names = np.array([data.names[row] for row in rows.tolist()], dtype=np.str_)
    return Predictions(names, data.labels[rows].numpy(), probabilities.float().numpy(), data.classes)


def _average_views(viewer: Viewer, data: Dataset, rows: Tensor, center: Outputs) -> tuple[Tensor, list[dict[str, Any]]]:
    """Average the logits or probabilities of all views, [N, K] float32, and score the mean of the first 1, 2, 4, ... and all.

    The outputs for the `center` crops are known.
    """
    means: dict[int, list[Tensor]] = {}
    seconds: dict[int, float] = {}
    known_seconds = center.seconds if ImageView() in viewer.views else 0.0
    at_once = max(IMAGES_AT_ONCE, eval_batch_size(*data.preprocess.box))
    with ThreadPoolExecutor(physical_cores()) as pool:
        for piece, scores in zip(torch.split(rows, at_once), torch.split(center.logits, at_once), strict=True):
            began = time.perf_counter()
            for n, mean in viewer.means(_pictures(data, piece, pool), scores):
                means.setdefault(n, []).append(mean.float())
                seconds[n] = seconds.get(n, known_seconds) + time.perf_counter() - began
    table, labels = [], data.labels[rows]
    for n, pieces in means.items():
        line = accuracy_and_log_loss(viewer.mean_to_probabilities(torch.cat(pieces)), labels)
        table.append({"views": n, **line, "milliseconds": 1000 * seconds[n] / len(rows)})
    return torch.cat(means[len(viewer.views)]), table


def _pictures(data: Dataset, rows: Tensor, pool: ThreadPoolExecutor) -> Pictures:
    """The function from a scale to the pictures of some rows: their stored boxes, or decoded from the originals."""

    def pictures(scale: int) -> Any:
        if not scale:
            return data.pixels.read_exact(rows).numpy()
        return list(pool.map(lambda row: decode_scaled(data.preprocess, data.store.read(row), scale), rows.tolist()))

    return pictures


# ---- noise ---------------------------------------------------------------------------------------------------------------------


def require_noise(model: nn.Module, passes: int, augment: str = "") -> None:
    """Refuse to average passes in which nothing is drawn at random.

    Raises:
        UsageError: `passes` is negative, the model has no noise layer and there is no augmentation, or that has no passes.
    """
    if augment and not passes:
        raise UsageError(f'Expected --marginalize, the number of passes to average, with --augment; received "{augment}" alone.')
    if passes < 0 or (passes and not augment and not noise_layers(model)):
        received = f"{passes}" if passes < 0 else "one that has no noise layer"
        raise UsageError(
            "marginalize averages noisy passes, 1 or more, of a model trained with noise such as dropout, or with --augment over augmented"
            f" images; received {received}."
        )


def bind_test_augment(augment: Part, data: Dataset) -> Pipeline:
    """Bind an augmentation to the data for test time, without what mixes targets.

    Raises:
        UsageError: nothing is left of it.
    """
    bound = augment.bind(data.facts(Lengths(1, 1, Length.read("1 epoch"))))
    parts: tuple[Any, ...] = tuple(part for part in pipe_parts(bound) if not isinstance(part, (Mixup, Cutmix, Smooth)))
    if not parts:
        raise UsageError(f'Expected augmentation that changes single images, such as "flip | crop(4)", received "{spell(augment)}".')
    return Pipeline(parts, data.preprocess.size)


def score_noise(
    evaluator: RowEvaluator, model: nn.Module, outputs: Outputs, passes: int, seed: int, augment: Pipeline | None = None
) -> dict[str, Any]:
    """Accuracy and log loss of the mean of noisy passes by their number, and of the deterministic `outputs` for the same images.

    With `augment`, each pass shows other draws of it, at its full strength; the draws of an image depend on nothing but the seed.
    """

    def draw(batch: Batch, index: int) -> Batch:
        assert augment is not None
        drawn = augment(batch, Chance.for_epoch(seed, "marginalize", index, batch.ids, batch.ids), 1.0)
        if not torch.equal(drawn.targets, batch.targets):
            raise UsageError("Expected augmentation that changes single images at test time, received one that mixes targets.")
        return drawn

    def run_pass(index: int) -> Outputs:
        seed_of_pass = fold(seed & MASK64, "marginalize", index)
        return evaluator(model, outputs.ids, seed=seed_of_pass, augment=functools.partial(draw, index=index) if augment else None)

    def probabilities(logits: Any) -> Any:
        return to_probabilities(evaluator.loss, logits)

    deterministic = accuracy_and_log_loss(probabilities(outputs.logits), outputs.labels)
    return {"deterministic": deterministic, "passes": score_noisy_passes(run_pass, passes, probabilities)}


# ---- ensembles -----------------------------------------------------------------------------------------------------------------------


def score_ensemble(mean: Predictions, single: Predictions, temperature: float | None = None) -> dict[str, Any]:
    """Score averaged probabilities as those of a run are, with, under "gain", their lead over a single model on the same images.

    Without a `temperature`, one is fitted to these images, which then must be validation images.
    """
    probabilities, labels = torch.from_numpy(mean.probabilities), torch.from_numpy(mean.labels)
    result = compute_scores(outputs_of_probabilities(probabilities, torch.arange(len(labels)), labels), mean.classes)
    result["calibration"] = measure_calibration(probabilities, labels, temperature)
    result["gain"] = {"single": float(single.correct.mean()), **compare_paired(mean.correct[None], single.correct[None]).plain()}
    return result
