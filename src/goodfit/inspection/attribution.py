"""Where in an image a network finds a class: saliency, class activation maps and occlusion, of any module that takes images."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError, unknown_name
from goodfit.inspection.feature_maps import require_layer
from goodfit.losses.scores import split_outputs
from goodfit.training.noise import evaluating

CamRule = Literal["grad_cam", "layer_cam"]
CAM_RULES: tuple[str, ...] = get_args(CamRule)


def compute_saliency(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """How much the score of each image's class [B] changes with each pixel of images [B, C, H, W]: the largest absolute derivative of
    its channels, [B, H, W].

    Raises:
        UsageError: the scores have no derivative by the pixels.
    Source: Simonyan et al. 2014; CS231n, visualizing and understanding.
    """
    inputs = images.detach().clone().requires_grad_()
    with evaluating(model), torch.enable_grad():
        gradient = _differentiate(_score(model, inputs, classes), inputs)
    return gradient.abs().amax(1)


def compute_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: str, rule: CamRule = "grad_cam") -> Tensor:
    """Where the maps of a layer speak for each image's class [B]: [B, h, w] of the size of the maps, 0 where they do not.

    The channels are weighted by the derivative of the score: `grad_cam` takes its mean over the map, for late layers, `layer_cam` its
    positive part place by place, which is finer in early ones.

    Raises:
        UsageError: there is no such layer or rule, the layer has no maps, or the scores have no derivative by them.
    Source: Selvaraju et al. 2017 (Grad-CAM); Jiang et al. 2021 (LayerCAM).
    """
    require_layer(model, layer)
    if rule not in CAM_RULES:
        raise UsageError(unknown_name("rule", rule, CAM_RULES))
    kept: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        kept.append(output)
        return output.clone() if isinstance(output, Tensor) else output  # what works in place later leaves the maps as they are

    hook = model.get_submodule(layer).register_forward_hook(keep)
    try:
        with evaluating(model), torch.enable_grad():
            score = _score(model, images.detach().clone().requires_grad_(), classes)
            maps = kept[-1] if kept else None
            if not isinstance(maps, Tensor) or maps.ndim != 4:
                raise UsageError(f'Expected a layer that puts out maps [B, C, h, w], received "{layer}", which does not.')
            gradient = _differentiate(score, maps)
    finally:
        hook.remove()
    weights = gradient.mean((2, 3), keepdim=True) if rule == "grad_cam" else gradient.relu()
    return (weights * maps.detach()).sum(1).relu()


@torch.no_grad()
def compute_occlusion(
    model: nn.Module, images: Tensor, classes: Tensor, window: tuple[int, int], stride: tuple[int, int], value: float = 0.0
) -> Tensor:
    """How far the score of each image's class [B] falls while a window over images [B, C, H, W] is hidden: at each pixel the mean over
    the windows on it, [B, H, W]; negative where hiding makes the class more likely.

    Windows (height, width) lie `stride` pixels apart, the last ones cut at the border. They are filled with `value`, which in normalized
    images is the mean color. It takes a pass for each window.

    Raises:
        UsageError: a window would not cover all pixels, as with a stride beyond its size.
    Source: Zeiler and Fergus 2014; CS231n, visualizing and understanding.
    """
    if not all(1 <= step <= side for step, side in zip(stride, window, strict=True)):
        raise UsageError(f"Expected a stride from 1 up to the window's {window}, received {stride}.")
    height, width = images.shape[2:]
    falls = torch.zeros(len(images), height, width, device=images.device, dtype=images.dtype)
    windows = torch.zeros(height, width, device=images.device, dtype=images.dtype)
    with evaluating(model):
        whole = _score(model, images, classes)
        for top in _starts(height, window[0], stride[0]):
            for left in _starts(width, window[1], stride[1]):
                place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                hidden = images.clone()
                hidden[place] = value
                falls[place] += (whole - _score(model, hidden, classes))[:, None, None]
                windows[place] += 1
    return falls / windows


def _starts(side: int, window: int, step: int) -> range:
    """The first pixels of the windows along a side, the last of which reaches its end."""
    return range(0, max(side - window, 0) + step, step)


def _score(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The score of each image's class [B]."""
    return split_outputs(model(images))[0].gather(1, classes.to(images.device)[:, None])[:, 0]


def _differentiate(score: Tensor, by: Tensor) -> Tensor:
    """The derivative of the scores [B] by what they were computed from, image by image."""
    gradient = torch.autograd.grad(score.sum(), by, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise UsageError("The scores of this network have no derivative by its images, so that nothing can be said of single pixels.")
    return gradient
