"""Answers averaged at test time (the lecture's pattern: train y = f(x, z), test by the mean over z): views of an image, noisy passes."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.augment.views import Center
from goodfit.core.batch import one_hot
from goodfit.core.catalog import spell
from goodfit.core.chance import MASK, fold
from goodfit.core.device import cores
from goodfit.core.errors import UsageError
from goodfit.data.dataset import Dataset
from goodfit.data.multiscale import decode_scaled
from goodfit.predict.views import Pictures, Viewer, probabilities_of
from goodfit.recipe.build import Judge
from goodfit.training.evaluate import Answers, judged, mean_of_passes, scores
from goodfit.training.noise import noise_layers

PIECE = 64  # images whose pictures at one scale are in memory at once


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model comes to on some images: the `answers` to the center crops alone, the `scores` by all views, and the final
    `probabilities` [N, K] with the `losses` [N] that belong to them.
    """

    center: Answers
    scores: dict[str, Any]
    probabilities: Tensor
    losses: Tensor


def scored(judge: Judge, model: nn.Module, rows: Tensor, part: Any) -> Scored:
    """Score a model on rows of the judge's data by the views of a part.

    Unless that is the center alone, the scores have the key "viewed": the part's "spelling", and "accuracy", "log_loss" and
    "milliseconds" an image (reading the pixels included) of the "center" crop and of the mean over the first 1, 2, 4, ... and all "views".
    The loss of averaged logits is the model's own, that of averaged probabilities their log loss.
    """
    data, began = judge.dataset, time.perf_counter()
    center = judge(model, rows)
    seconds = time.perf_counter() - began
    alone = probabilities_of(judge.loss, center.logits)
    if isinstance(part, Center):
        return Scored(center, scores(center, data.classes), alone, center.losses)
    viewer = Viewer(model, part, data.preprocess, judge.loss, judge.device)
    means, table = by_views(viewer, data, rows)
    final = viewer.in_probabilities(means)
    if viewer.by_logits:
        logits, losses = means, judge.loss(means, one_hot(center.labels, len(data.classes)))
    else:
        logits = final.clamp(min=torch.finfo(torch.float32).tiny).log()
        losses = -logits.gather(1, center.labels[:, None])[:, 0]
    result = scores(dataclasses.replace(center, logits=logits, losses=losses), data.classes)
    rule = {**judged(alone, center.labels), "milliseconds": 1000 * seconds / len(rows)}
    return Scored(center, {**result, "viewed": {"spelling": spell(part), "center": rule, "views": table}}, final, losses)


def by_views(viewer: Viewer, data: Dataset, rows: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """The mean [N, K] float32 of the logits or probabilities of all views, and a line for the mean of the first 1, 2, 4, ... and all."""
    found: dict[int, list[Tensor]] = {}
    seconds: dict[int, float] = {}
    with ThreadPoolExecutor(cores()) as pool:
        for piece in torch.split(rows, PIECE):
            began = time.perf_counter()
            for n, mean in viewer.means(pictures_of(data, piece, pool)):
                found.setdefault(n, []).append(mean.float())
                seconds[n] = seconds.get(n, 0.0) + time.perf_counter() - began
    table, labels = [], data.labels[rows]
    for n, means in found.items():
        line = judged(viewer.in_probabilities(torch.cat(means)), labels)
        table.append({"views": n, **line, "milliseconds": 1000 * seconds[n] / len(rows)})
    return torch.cat(found[len(viewer.views)]), table


def pictures_of(data: Dataset, rows: Tensor, pool: ThreadPoolExecutor) -> Pictures:
    """The pictures of some rows at any scale: their stored boxes, or decoded from the originals."""

    def pictures(scale: int) -> Any:
        if not scale:
            return data.pixels.read_exact(rows).numpy()
        return list(pool.map(lambda row: decode_scaled(data.preprocess, data.store.read(row), scale), rows.tolist()))

    return pictures


# ---- noise ---------------------------------------------------------------------------------------------------------------------


def needs_noise(model: nn.Module, passes: int) -> None:
    """Refuse to average passes of a model that has no noise.

    Raises:
        UsageError: `passes` is negative, or the model has no noise layer.
    """
    if passes < 0 or (passes and not noise_layers(model)):
        found = f"{passes}" if passes < 0 else "one that has no noise layer"
        raise UsageError(f"marginalize averages noisy passes, 1 or more, of a model trained with noise such as dropout; received {found}.")


def averaged(judge: Judge, model: nn.Module, answers: Answers, passes: int, seed: int) -> dict[str, Any]:
    """Accuracy and log loss of the mean of noisy passes by their number, and those of the deterministic `answers` to the same images."""

    def ask(place: int) -> Answers:
        return judge(model, answers.ids, seed=fold(seed & MASK, "marginalize", place))

    def probabilities(logits: Any) -> Any:
        return probabilities_of(judge.loss, logits)

    return {"deterministic": judged(probabilities(answers.logits), answers.labels), "passes": mean_of_passes(ask, passes, probabilities)}
