"""The net that a transfer begins from, on the data it is to be transferred to, and the same net before it had learned anything."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.catalog import Part
from goodfit.core.errors import UsageError
from goodfit.core.weights import is_norm
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.models.weights.files import Weights
from goodfit.models.weights.surgery import transplant
from goodfit.recipe.auto import Chooser, data_choices, machine_choices
from goodfit.recipe.build import catalog, make_model
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.recipe.transfer import pretrained
from goodfit.recipe.transfer.features import Net, run
from goodfit.terminal.reporter import Silent, Voice

SETTLING = 256  # images that random weights take their batch statistics from


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """A target's data, the net with what it has learned from a source, and the same net with random weights."""

    data: Dataset
    learned: Net
    random: Net


def origin(asked: Recipe, voice: Voice | None = None) -> Origin:
    """The data of a recipe and the net of its source, opened as a training opens them: the same size, channels, splits, mean and std.

    Raises:
        UsageError: the recipe has no source or data, or it is not known which model the weights are of.
        DataError: the weights or the data do not read.
    """
    if not asked.source:
        raise UsageError("Expected --from: a run folder, a file of weights or the name of published ones, received nothing.")
    voice, chooser = voice or Silent(), Chooser(asked)
    machine_choices(chooser)
    weights = pretrained.weights_of(asked, None, voice.say)
    assert weights is not None
    known = pretrained.take_over(chooser, weights, catalog(asked.use))
    seen = look(chooser.recipe, voice.say)
    data_choices(chooser, seen)
    pretrained.settle(chooser, weights, known)
    data = open_data(chooser.recipe, seen, voice.packing)
    return meet(weights, known.make(chooser.recipe.model, "model"), data, torch.device(chooser.recipe.device))


def meet(weights: Weights, part: Part, data: Dataset, device: torch.device, seed: int = 0) -> Origin:
    """The net of a model part with those weights, and without, for open data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(part, len(data.classes), data.preprocess.channels, data.preprocess.size).eval()
    learned = copy.deepcopy(model)
    transplant(learned, weights.tensors, weights.tell_apart(data.classes))
    nets = [
        Net(name, there.to(device, memory_format=torch.channels_last), data.preprocess, device)  # type: ignore[call-overload]
        for name, there in ((weights.name, learned), (f"{part} with random weights", model))
    ]
    train = data.rows("train")
    settle(nets[1], data, train[torch.linspace(0, len(train) - 1, min(SETTLING, len(train))).long()])
    return Origin(data, *nets)


@torch.no_grad()
def settle(net: Net, data: Dataset, rows: Tensor) -> None:
    """Give a net that has never trained the batch statistics of some images, if it has any: else its maps would grow or fade."""
    norms: list[Any] = [m for m in net.model.modules() if keeps_statistics(m)]
    before = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the mean over all batches
        m.train()
    if norms:
        for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), SETTLING):
            run(net, batch.images)
    for m, momentum in zip(norms, before, strict=True):
        m.momentum = momentum
        m.eval()


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a norm with running statistics of torch's kind."""
    return is_norm(module) and getattr(module, "running_mean", None) is not None and hasattr(module, "reset_running_stats")
