"""Preflight: what some passes over one batch tell of a network and its loss before the first step."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import LossFunction, untouched
from goodfit.inspection.operations import Operation, OperationTrace, trace


@dataclasses.dataclass(frozen=True)
class LayerSigns:
    """A weight of the network as it starts: its name, gain (standard deviation times the root of fan-in; He's is 1.41), the root mean
    square of what enters and leaves it, how far that differs between images in units of it, the norm of its gradient over its own norm,
    and its own norm.
    """

    name: str
    gain: float
    entering: float
    leaving: float
    difference: float
    gradient: float
    norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class OutputSigns:
    """What the network puts out for a batch: its shape, the standard deviation of the scores, whether they are (log-)probabilities."""

    shape: tuple[int, ...]
    std: float
    are_probabilities: bool
    are_log_probabilities: bool


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What is seen before the first step. Losses are of the user's own loss function, in nats for cross-entropy.

    - `loss`: of the batch in training mode.
    - `operations`: in training mode, with what flows.
    - `affine_error`: how far the network is from an affine function of its images, 0 for one without a nonlinearity.
    - `mixing`: share of the gradient of an image's output that falls on other images, in evaluation mode.
    - `input_mean`, `input_std`: of all numbers of the images.
    """

    output: OutputSigns
    loss: float
    layers: tuple[LayerSigns, ...]
    operations: tuple[Operation, ...]
    affine_error: float
    mixing: float
    input_mean: float
    input_std: float


def examine_start(model: nn.Module, loss: LossFunction, images: Tensor, labels: Tensor) -> Preflight:
    """Examine a network and its loss on one batch of images [B, C, H, W] with labels [B]; nothing of the model changes."""
    with untouched(model), keep_chance():
        model.train()
        traced, scores = trace(model, images, signals=True)
        with keep_chance(), torch.no_grad():
            value = float(loss(model(images), labels))
        layers = examine_layers(model, loss, images, labels, traced)
        model.eval()
        return Preflight(
            examine_output(scores),
            value,
            layers,
            tuple(traced.operations),
            measure_affine_error(model, images),
            measure_mixing(model, images),
            float(images.mean()),
            float(images.std()),
        )


def examine_output(scores: Tensor) -> OutputSigns:
    """Describe the scores [B, K] of a batch."""
    x = scores.detach().float()
    is_matrix = x.ndim == 2 and x.shape[1] > 1
    sums_to_one = is_matrix and bool(((x.sum(1) - 1).abs() < 1e-3).all())
    logs_sum_to_one = is_matrix and bool((x.logsumexp(1).abs() < 1e-3).all())
    return OutputSigns(
        tuple(x.shape),
        float(x.std(0, correction=0).mean()) if x.ndim > 1 else 0.0,
        sums_to_one and bool((x >= 0).all()),
        logs_sum_to_one and bool((x <= 0).all()),
    )


def examine_layers(model: nn.Module, loss: LossFunction, images: Tensor, labels: Tensor, traced: OperationTrace) -> tuple[LayerSigns, ...]:
    """The weights of the network that took part, in the order in which they ran."""
    named = dict(model.named_parameters())
    ran = {operation.weight: operation for operation in traced.of_kind("weights") if operation.weight}
    weights = {name: named[name] for name in ran}
    modes = {name: p.requires_grad for name, p in weights.items()}
    for p in weights.values():
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            value = loss(model(images), labels)
            gradients = (
                torch.autograd.grad(value, list(weights.values()), allow_unused=True) if value.requires_grad else [None] * len(weights)
            )
    finally:
        for name, mode in modes.items():
            weights[name].requires_grad_(mode)
    rows = []
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        w = weight.detach().float().flatten(1)
        operation = ran[name]
        size = float(w.norm())
        rows.append(
            LayerSigns(
                name,
                float(w.std()) * math.sqrt(w.shape[1]) if w.numel() > 1 else 0.0,
                operation.entering.rms if operation.entering else math.nan,
                operation.leaving.rms if operation.leaving else math.nan,
                operation.leaving.difference if operation.leaving else math.nan,
                0.0 if gradient is None else float(gradient.double().norm()) / max(size, 1e-12),
                size,
            )
        )
    return tuple(rows)


def measure_affine_error(model: nn.Module, images: Tensor) -> float:
    """How far f(a + b - c) is from f(a) + f(b) - f(c), relative to how far f differs between images; the model is in evaluation mode."""
    n = len(images) // 3
    if n < 1:
        return math.nan
    a, b, c = images[:n], images[n : 2 * n], images[2 * n : 3 * n]
    with torch.no_grad():
        fa, fb, fc, together = (model(x).double() for x in (a, b, c, a + b - c))
    scale = float((fa - fb).norm()) + float((fb - fc).norm())
    return float((together - (fa + fb - fc)).norm()) / scale if scale > 0 else math.nan


def measure_mixing(model: nn.Module, images: Tensor, n: int = 8) -> float:
    """The share of the gradient of the first image's scores that falls on other images; the model is in evaluation mode.

    Source: A. Karpathy, A recipe for training neural networks (2019): use backprop to chart dependencies.
    """
    x = images[:n].detach().clone().requires_grad_(True)
    with torch.enable_grad():
        scores = model(x)
        if not scores.requires_grad or len(scores) != len(x):
            return math.nan
        weights = torch.linspace(1.0, 2.0, scores[0].numel()).reshape(scores[0].shape)  # scores that sum to 1 have a gradient, too
        (gradient,) = torch.autograd.grad((scores[0] * weights).sum(), x, allow_unused=True)
    if gradient is None:
        return math.nan
    sizes = gradient.flatten(1).abs().amax(1)
    return float(sizes[1:].max() / sizes.max()) if float(sizes.max()) > 0 and len(sizes) > 1 else 0.0


def measure_loss_shape(loss: LossFunction, classes: int, width: int) -> dict[str, float]:
    """What a loss function [B, K], [B] -> scalar does with made-up scores, whatever network they come from.

    - `even`: of equal scores; ln K for cross-entropy.
    - `right`, `wrong`: of scores that are 20 higher for the right class, or for another.
    - `probabilities`: of one-hot probabilities that are all right: 0 for a loss that takes probabilities, ln(1 + (K - 1) / e) for one that
      takes scores.
    - `shifted`: change when all scores of an image rise by 3: 0 if the loss has a softmax of its own.
    - `batch`: of a batch twice as long by the loss of the batch: 1 for a mean, 2 for a sum.
    - `slope`: norm of the gradient at equal scores over that of cross-entropy. `alignment`: cosine between the two.
    - `rare`: gradient of the last class over that of the first one, in a batch with one image of each: 1 without class weights.
    """
    labels = torch.arange(2 * classes) % classes
    even = torch.zeros(len(labels), width)
    hot = F.one_hot(labels, width).float()
    other = F.one_hot((labels + 1) % classes, width).float()

    def value(scores: Tensor, targets: Tensor = labels) -> float:
        return float(loss(scores, targets))

    def slope(function: LossFunction) -> Tensor:
        x = even.clone().requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(function(x, labels), x)[0]

    own, reference = slope(loss), slope(F.cross_entropy)
    draw = torch.linspace(-1, 1, even.numel()).reshape(even.shape).sin()
    once, twice = value(draw), value(torch.cat([draw, draw]), torch.cat([labels, labels]))
    return {
        "even": value(even),
        "right": value(20 * hot),
        "wrong": value(20 * other),
        "probabilities": value(hot),
        "shifted": value(draw + 3) - once,
        "batch": twice / once if once else math.nan,
        "slope": float(own.norm() / reference.norm()),
        "alignment": float(F.cosine_similarity(own.flatten(), reference.flatten(), dim=0)),
        "rare": float(own[classes - 1].norm() / own[0].norm()) if float(own[0].norm()) > 0 else math.nan,
    }
