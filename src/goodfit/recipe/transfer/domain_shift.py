"""Domain shift: how far images are from those that a net was pretrained on, by the statistics of its batch norms."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn

from goodfit.core.parameters import is_norm
from goodfit.data.dataset import Dataset
from goodfit.recipe.transfer.features import FeatureNet
from goodfit.training.noise import evaluating

MAX_IMAGES = 64  # more hardly change the shift: that of 50 photos of clothing is 0.20, that of 200 is 0.21
# Set midway between photos of clothing (0.20) and gratings (0.53), in a mobilenet_v2 trained on ImageNet at 96 pixels. Beside them, not
# used to set it: CIFAR-10 0.27, digits 0.44, drawn letters 0.46.
MAX_SHIFT = 0.37


@torch.no_grad()
def measure_shift(net: FeatureNet, data: Dataset) -> float | None:
    """Measure how far training images are from those that a net was pretrained on; None if it has no batch norms.

    It is the distance of each channel's mean over the images from its running mean, in running standard deviations, as a mean over the
    channels of each norm and then over the norms.

    Raises:
        UsageError: the net does not take the images.

    Source: Li et al. 2016 (AdaBN: what sets domains apart shows in the statistics of batch norms).
    """
    shifts: list[float] = []

    def record(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, mean = inputs[0].float(), norm.get_buffer("running_mean")
        variance = norm.get_buffer("running_var") + float(norm.eps)  # type: ignore[arg-type]
        distance = (x.mean([axis for axis in range(x.ndim) if axis != 1]) - mean).abs() / variance.sqrt()
        shifts.append(float(distance.mean()))

    norms = [module for module in net.model.modules() if is_norm(module) and getattr(module, "running_mean", None) is not None]
    hooks = [module.register_forward_hook(record) for module in norms]
    try:
        with evaluating(net.model), net.explaining_shapes():
            net.model(net.prepare(data.pixels.read(data.sample_rows("train", MAX_IMAGES)).permute(0, 3, 1, 2)))
    finally:
        for hook in hooks:
            hook.remove()
    return statistics.fmean(shifts) if shifts else None


def is_similar(shift: float | None) -> bool:
    """Whether a shift is that of images like those of the pretraining, as they are taken to be where it is not known."""
    return shift is None or shift <= MAX_SHIFT
