"""Two tests of the way from the loss to the weights: a small step does what its gradient predicts, and a few images can be learned."""

from __future__ import annotations

import copy
import dataclasses
import math
import time

import torch
from torch import Tensor, nn

from goodfit.core.words import count_of
from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import LossFunction
from goodfit.losses.scores import split_outputs

SMALL_SET, MAX_FIT_STEPS, FIT_RATE = 20, 200, 3e-3
RELATIVE_STEP = 1e-3  # of the norm of the weights
LOSS_SHARE = 0.02  # of the loss, that the small step is to lower it by at most, lest curvature count


@dataclasses.dataclass(frozen=True)
class SmallFit:
    """A network trained on a few images alone, without noise: how many `images`, how many it got `right` in the end, after how many
    `steps`, the loss before each step and in the end, and whether it `ran_out_of_time`.
    """

    images: int
    right: int
    steps: int
    losses: tuple[float, ...]
    ran_out_of_time: bool = False

    @property
    def is_learned(self) -> bool:
        """Whether it got every image right."""
        return self.right == self.images

    def describe(self) -> str:
        when = ", when its time was over" if self.ran_out_of_time else ""
        return f"fits {self.right} of {count_of(self.images, 'image')} after {count_of(self.steps, 'step')} on them alone{when}"


def fit_small_set(
    model: nn.Module, loss: LossFunction, images: Tensor, labels: Tensor, steps: int = MAX_FIT_STEPS, seconds: float = math.inf
) -> SmallFit:
    """Train a copy of a network on up to 20 images [N, C, H, W] with labels [N] by Adam, until it gets all right, or until `steps` or
    `seconds` are over.

    Parameters that are frozen stay so. Dropout is off, and batch norm takes its statistics from these images.

    Source: CS231n, babysitting the learning process (overfit a small portion of the training data: 20 images to 100 %).
    """
    model, images, labels = copy_without_noise(model), images[:SMALL_SET], labels[:SMALL_SET]
    classes = labels.argmax(1) if labels.ndim == 2 else labels  # of soft ones the largest
    trained = [p for p in model.parameters() if p.requires_grad]
    losses: list[float] = []
    right, start = 0, time.monotonic()
    with keep_chance(), torch.enable_grad():
        optimizer = torch.optim.Adam(trained, lr=FIT_RATE) if trained else None
        while True:
            outputs = model(images)
            right = int((split_outputs(outputs)[0].argmax(1) == classes).sum())
            value = loss(outputs, labels)
            losses.append(float(value.detach()))
            is_stuck = optimizer is None or not math.isfinite(losses[-1]) or not value.requires_grad
            is_over = right == len(labels) or is_stuck or len(losses) > steps
            if is_over or time.monotonic() - start > seconds:
                return SmallFit(len(labels), right, len(losses) - 1, tuple(losses), not is_over)
            assert optimizer is not None
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def measure_predicted_descent(model: nn.Module, loss: LossFunction, images: Tensor, labels: Tensor) -> float:
    """How much a small step down the gradient lowers the loss of a batch, over what the gradient predicts: 1 where both agree.

    The model is in training mode without dropout; it stays as it is. NaN where there is no gradient.
    """
    copied = copy_without_noise(model)
    parameters = [p for p in copied.parameters() if p.requires_grad]
    with keep_chance(), torch.enable_grad():
        before = loss(copied(images), labels)
        if not parameters or not before.requires_grad:
            return math.nan
        gradients = torch.autograd.grad(before, parameters, allow_unused=True)
        squared = sum(float(g.double().square().sum()) for g in gradients if g is not None)
        if not 0 < squared < math.inf:
            return math.nan
        weights = math.sqrt(sum(float(p.detach().double().square().sum()) for p in parameters))
        step = min(RELATIVE_STEP * weights / math.sqrt(squared), LOSS_SHARE * abs(float(before.detach())) / squared)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                if g is not None:
                    p.sub_(g, alpha=step)
            after = loss(copied(images), labels)
    return float(before.detach() - after) / (step * squared) if step > 0 else math.nan


def copy_without_noise(model: nn.Module) -> nn.Module:
    """A copy of a network in training mode whose dropout is off."""
    copied = copy.deepcopy(model).train()
    for module in copied.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return copied
