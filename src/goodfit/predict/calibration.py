"""Calibration: whether a model is right as often as it claims, the temperature that makes it so, and which answers to withhold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from goodfit.core.number_scores import measure_coverage
from goodfit.core.task import CLASSES, Task

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # a model that is always right would need zero
MAX_FITTED_PROBABILITIES = 20_000_000  # that a temperature is fitted to: it is only one number
FIT_TOLERANCE = 1e-9  # relative change of 1 / temperature that ends the fit
COVERAGES = tuple(i / 20 for i in range(20, 0, -1))  # of the reject-option curve


def apply_temperature(probabilities: Tensor, temperature: float, task: Task = CLASSES) -> Tensor:
    """Raise probabilities [N, K] to the power of 1 / temperature, normalized: the softmax of scores divided by the temperature.

    The likeliest class stays the likeliest. Of labels it is the sigmoid of scores divided by it. Source: Guo et al. 2017.
    """
    if temperature == 1:
        return probabilities
    return task.to_answers(task.to_logits(probabilities) / temperature)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """The logarithms [N, K] of probabilities, finite where those are zero."""
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """Find the temperature that minimizes the mean log loss of probabilities [N, K] for labels [N]; for validation images only.

    The log loss is convex in 1 / temperature, so Newton's method within a bracket of the minimum finds it.
    """
    step = max(1, math.ceil(probabilities.numel() / MAX_FITTED_PROBABILITIES))
    logs = log_probabilities(probabilities[::step].double())
    of_label = logs.gather(1, labels[::step, None])[:, 0].mean()
    low, high, sharpness = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, 1.0
    for _ in range(100):
        shares = (logs * sharpness).softmax(1)
        means = (shares * logs).sum(1)
        slope = float(means.mean() - of_label)
        curvature = float(((shares * logs.square()).sum(1) - means.square()).mean())
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        proposal = sharpness - slope / curvature if curvature > 0 else math.nan
        if not low <= proposal <= high:
            proposal = math.sqrt(low * high)
        if abs(proposal - sharpness) <= FIT_TOLERANCE * sharpness:
            break
        sharpness = proposal
    return 1 / sharpness


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy over equal bins of confidence."""
    rows = reliability_bins(probabilities, labels, bins)
    return sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(labels)


def reliability_bins(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> list[dict[str, float]]:
    """For each bin of confidence, ((i - 1) / bins, i / bins], that has images: their number, mean confidence and accuracy."""
    confidences, guesses = probabilities.double().max(1)
    bin_of = (confidences * bins).ceil().long().sub(1).clamp(0, bins - 1)
    images = torch.bincount(bin_of, minlength=bins)
    confidence, right = (torch.bincount(bin_of, weights=x, minlength=bins) for x in (confidences, (guesses == labels).double()))
    return [
        {"images": int(n), "confidence": float(c / n), "accuracy": float(r / n)}
        for n, c, r in zip(images, confidence, right, strict=True)
        if n
    ]


def reject_curve(probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """The reject-option curve: the accuracy on the shares 1, 0.95, ... of the images with the highest confidence.

    `below` is the confidence below which an answer is withheld; equally confident answers stay together, so `coverage` may be more.
    Source: El-Yaniv & Wiener 2010.
    """
    confidences, guesses = probabilities.max(1)
    order = confidences.argsort(descending=True, stable=True)
    ranked, right = confidences[order], (guesses == labels)[order].double().cumsum(0)
    rows = []
    for coverage in COVERAGES:
        below = float(ranked[max(1, math.ceil(coverage * len(labels) - 1e-9)) - 1])
        answered = int((ranked >= below).sum())
        rows.append({"coverage": answered / len(labels), "below": below, "accuracy": float(right[answered - 1] / answered)})
    return rows


def log_loss(probabilities: Tensor, labels: Tensor) -> float:
    """The mean of -log of the probability of the right class."""
    return -float(log_probabilities(probabilities).gather(1, labels[:, None]).double().mean())


def measure_calibration(answers: Tensor, truth: Tensor, temperature: float | None = None, task: Task = CLASSES) -> dict[str, Any]:
    """Measure how well the answers of a task are calibrated: the probabilities of choices, or how often intervals hold the truth.

    A temperature (and intervals) are fitted to these images where none is given, which then must be validation images.
    """
    if (choices := task.to_choices(answers, truth)) is not None:
        return _measure_choices(*choices, temperature, len(choices[1]) // max(len(truth), 1))
    half_widths = getattr(task, "half_widths", ()) if temperature is not None else None
    return measure_coverage(answers.double().numpy(), truth.double().numpy(), half_widths)


def _measure_choices(probabilities: Tensor, labels: Tensor, temperature: float | None, per_image: int = 1) -> dict[str, Any]:
    """Measure how well probabilities [N, K] are calibrated for right choices [N], before and after scaling by a temperature.

    The choices of an image, so many `per_image`, stand together.

    Without a temperature, one is fitted to these images, which must then be validation images. So that "ece_after" and "log_loss_after"
    are not flattered, each half of the images is scaled by the temperature of the other half. The key "bins" has the reliability bins
    before scaling, "rejection" the reject-option curve after, where an image has one choice.
    """
    is_odd = torch.arange(len(labels)) // per_image % 2 == 1
    halves = [torch.ones_like(is_odd)]
    temperatures = [temperature or 1.0]
    if temperature is None:
        temperature = fit_temperature(probabilities, labels)
        halves = [~is_odd, is_odd] if is_odd.any() else halves
        temperatures = [fit_temperature(probabilities[half], labels[half]) for half in reversed(halves)]
    after = probabilities.clone()
    for half, other in zip(halves, temperatures, strict=True):
        after[half] = apply_temperature(probabilities[half], other)
    return {
        "temperature": temperature,
        "ece": expected_calibration_error(probabilities, labels),
        "ece_after": expected_calibration_error(after, labels),
        "log_loss": log_loss(probabilities, labels),
        "log_loss_after": log_loss(after, labels),
        "bins": reliability_bins(probabilities, labels),
        "rejection": reject_curve(apply_temperature(probabilities, temperature), labels) if per_image == 1 else [],
    }
