"""What the layers of any network see: the weights of its first layer as images, and what a layer puts out, found by hooks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError, unknown_name
from goodfit.training.noise import evaluating

MIN_MAP_SIDE = 4  # places a side of the maps in which one still sees where something is
WEIGHTED = (nn.Conv2d, nn.Linear)

Watcher = Callable[[str, nn.Module, Any], None]


@dataclasses.dataclass(frozen=True)
class FirstLayer:
    """The first layer that takes images: its name and its weights [N, C, h, w] as images, which are templates of the classes where the
    layer gives the scores.
    """

    name: str
    weights: Tensor
    are_templates: bool


@contextlib.contextmanager
def watch_modules(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Call `watcher(name, module, output)` for every module of a network within the block, as each ends."""
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: watcher(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def find_first_layer(model: nn.Module, images: Tensor) -> FirstLayer | None:
    """Find the first layer to run on images [B, C, H, W]; None where its weights are no images, as of a layer that takes patches.

    The weights of a convolution are its filters, those of a linear layer on the flattened pixels have the size of the images.
    Source: CS231n, linear classification and convolutional networks.
    """
    ran: list[tuple[str, nn.Module]] = []
    with evaluating(model), watch_modules(model, lambda name, module, output: ran.append((name, module))):
        model(images)
    layers = [(name, module) for name, module in ran if isinstance(module, WEIGHTED)]
    if not layers:
        return None
    (name, first), shape = layers[0], images.shape[1:]
    weights = first.weight.detach()
    if isinstance(first, nn.Linear):
        return FirstLayer(name, weights.reshape(-1, *shape), len(layers) == 1) if weights.shape[1] == math.prod(shape) else None
    return FirstLayer(name, weights, False) if weights.shape[1] in (1, shape[0]) else None


@torch.no_grad()
def find_map_layer(model: nn.Module, images: Tensor) -> str:
    """Find the layer whose maps show best where a class is: the last one with maps [B, C, h, w] of at least MIN_MAP_SIDE places a side,
    or where there is none the last with more than one place. Empty for a network without convolutions.

    A layer that runs several times is passed over, for its maps are of several places in the network.
    """
    shapes: list[tuple[str, tuple[int, ...]]] = []
    has_convolved = False

    def see(name: str, module: nn.Module, output: Any) -> None:
        nonlocal has_convolved
        has_convolved = has_convolved or isinstance(module, nn.Conv2d)
        if has_convolved and isinstance(output, Tensor) and output.ndim == 4:
            shapes.append((name, tuple(output.shape[2:])))

    with evaluating(model), watch_modules(model, see):
        model(images)
    runs = Counter(name for name, _ in shapes)
    once = [(name, shape) for name, shape in shapes if runs[name] == 1]
    for least in (MIN_MAP_SIDE**2, 2):
        if found := [name for name, shape in once if math.prod(shape) >= least]:
            return found[-1]
    return ""


@torch.no_grad()
def record_output(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What a layer puts out for images [B, C, H, W]: maps [B, D, h, w], or vectors [B, D], of tokens their mean; of several runs the last.

    Raises:
        UsageError: there is no such layer, or it puts out no tensor.
    """
    require_layer(model, layer)
    outputs: list[Any] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with evaluating(model):
            model(images)
    finally:
        hook.remove()
    output = outputs[-1] if outputs else None
    output = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(images):
        raise UsageError(f'Expected a layer that puts out maps or vectors of each image, received "{layer}", which does not.')
    output = output.detach().float()
    return output if output.ndim == 4 else output.mean(1) if output.ndim == 3 else output.flatten(1)


def require_layer(model: nn.Module, layer: str) -> None:
    """Refuse a name that no layer of a network has.

    Raises:
        UsageError: there is no such layer.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise UsageError(unknown_name("layer", layer, names))
