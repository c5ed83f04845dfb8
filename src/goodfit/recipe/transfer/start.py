"""The pretrained start of a training: the network with the weights of its source, and a new head that is their linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.device import memory_format
from goodfit.core.errors import UsageError
from goodfit.core.parameters import is_norm
from goodfit.core.task import Labels, Task
from goodfit.core.words import count_of, format_percent
from goodfit.data.dataset import Dataset
from goodfit.models.weights.files import Weights
from goodfit.models.weights.stages import find_head
from goodfit.recipe.build import make_initial_model
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.transfer.domain_shift import measure_shift
from goodfit.recipe.transfer.features import HEAD, FeatureNet, Progress, compute_features
from goodfit.recipe.transfer.pretrained import copy_pretrained
from goodfit.recipe.transfer.probe import fit_probe, fit_ridge

MAX_PROBE_IMAGES = 20_000  # that the head's probe is fitted to, at random; more hardly change it, and their features would fill the memory
# Of a norm's epsilon: a channel with less variance never varied in pretraining, and the norm would multiply what reaches it a hundredfold.
CONSTANT_SHARE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The network that training starts from (none: one with random weights), the record of its weights, and lines to report.

    `shift` is how far the images are from those of its pretraining, where that can be told (see `domain_shift`).
    """

    model: nn.Module | None
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shift: float | None = None


def make_start(chooser: Chooser, weights: Weights, data: Dataset, progress: Progress = lambda done, total: None) -> Start:
    """Make the network of an opened recipe with the weights of its source; a new head becomes the linear probe if the recipe says so.

    Raises:
        UsageError: the weights do not fit the model, the net does not take the images, or the head is of other classes.
        DataError: there are too few images to fit a probe to.
    """
    choose_head_init(chooser, weights, data)
    net, record, notes = load_pretrained(chooser, weights, data)
    if chooser.recipe.head_init == "probe":
        has_bias = find_head(net.model)[1].bias is not None
        without = "the head stays random: it has no bias, which a linear probe needs"
        notes = (*notes, f"  {set_head_to_probe(net, data, progress) if has_bias else without}")
    return Start(net.model, record, notes, measure_shift(net, data) if chooser.is_open("trainable") else None)


def choose_head_init(chooser: Chooser, weights: Weights, data: Dataset) -> None:
    """Choose what the head starts from: that of the source for the same classes, else a linear probe.

    Raises:
        UsageError: the source's head is asked for, but is of other classes.
    """
    same_classes = data.task.name == "classes" and weights.has_classes(data.classes)
    if same_classes:
        chooser.choose("head_init", "source", "the head of the source, whose classes are the same", weights.name)
    rule = "a new head starts as the linear probe of its input, so that training begins where a linear classifier ends"
    chooser.choose("head_init", "probe", rule, weights.name)
    if chooser.recipe.head_init == "source" and not same_classes:
        raise UsageError(
            f'Expected the classes of "{weights.name}" for its head to be kept, but the data has others: give --head-init probe.'
        )


def load_pretrained(chooser: Chooser, weights: Weights, data: Dataset) -> tuple[FeatureNet, dict[str, Any], tuple[str, ...]]:
    """Make the network of an opened recipe with the weights of its source, and a record of them and lines to report.

    Raises:
        UsageError: none of the tensors match the model.
    """
    device = torch.device(chooser.recipe.device)
    model = make_initial_model(chooser.recipe, chooser.part("model"), data, device)
    record, notes = copy_pretrained(model, weights, chooser.recipe.head_init == "source")
    if constant := neutralize_constant_channels(model):
        what = f"{count_of(constant, 'channel')} of its norms never varied"
        notes = (*notes, f"  {what}: the norms no longer multiply what reaches them")
    model.to(memory_format=memory_format("channels_last"))  # type: ignore[call-overload]
    return FeatureNet(weights.name, model, data.preprocess, device), record, notes


def restore_start(chooser: Chooser, tensors: Mapping[str, Tensor], data: Dataset) -> nn.Module:
    """Make the network of a recipe again with the weights that its run started from."""
    model = make_initial_model(chooser.recipe, chooser.part("model"), data, torch.device(chooser.recipe.device))
    model.load_state_dict(tensors)
    return model


@torch.no_grad()
def neutralize_constant_channels(model: nn.Module) -> int:
    """Set the running variance of channels that never varied in pretraining to 1, and return how many there are.

    The outputs stay the same: such a channel is constant, equal to its mean. But its norm would divide by the root of its tiny epsilon,
    hundreds of times a common gain, once a step of fine-tuning moves the weights before it.
    """
    constant = 0
    for module in model.modules():
        variance = getattr(module, "running_var", None)
        if is_norm(module) and isinstance(variance, Tensor):
            is_constant = variance < CONSTANT_SHARE * getattr(module, "eps", 1e-5)
            variance[is_constant] = 1.0
            constant += int(is_constant.sum())
    return constant


@torch.no_grad()
def set_head_to_probe(net: FeatureNet, data: Dataset, progress: Progress = lambda done, total: None) -> str:
    """Set the head of a net to the linear probe of its input, fitted to the training images alone; returns a sentence on it.

    Raises:
        UsageError: its features are not finite.
    """
    head, rows = find_head(net.model)[1], data.sample_rows("train", MAX_PROBE_IMAGES)
    features, labels = compute_features(net, data, rows, [HEAD], progress)[HEAD], data.labels[rows]
    if not np.isfinite(features).all():
        raise UsageError(
            f'The features that "{net.name}" computes of the images are not finite: its weights are of another model or damaged.'
        )
    if data.task.name != "classes":
        return _set_head_to_ridge(head, torch.tensor(features), linear_aims(data.task, labels))
    probe = fit_probe(features, labels, len(data.classes))
    head.weight.copy_(probe.weight)
    head.bias.copy_(probe.bias)
    held = format_percent(float((probe.held == labels).double().mean()))
    return f"the head starts as a linear probe of {count_of(len(rows), 'training image')}: {held} right when held out, L2 {probe.l2:.2g}"


def linear_aims(task: Task, targets: Tensor) -> Tensor:
    """What a linear model with squared error is to answer [N, K] for targets [N, K], so that it gives about logits.

    Near 0 the sigmoid of x is 1/2 + x/4.
    """
    return 4 * targets - 2 if isinstance(task, Labels) else targets


def _set_head_to_ridge(head: Any, features: Tensor, aims: Tensor) -> str:
    """Set a head to the ridge regression of what its scores [n, K] are to be on features [n, D]; returns a sentence on it."""
    ridge = fit_ridge(features, aims)
    head.weight.copy_(ridge.theta.T)
    head.bias.copy_(ridge.bias)
    share = format_percent(max(0.0, 1 - ridge.held_error / (float(aims.var(0, correction=0).mean()) or 1.0)))
    return f"the head starts as a linear probe of {count_of(len(features), 'training image')}: {share} of the variance when held out"
