"""A pretrained net on the data it is to be transferred to, and the same net with random weights to compare it with."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from goodfit.core.parts import Part
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.models.weights.files import Weights
from goodfit.models.weights.matching import transfer_weights
from goodfit.recipe.parts import make_model
from goodfit.recipe.transfer.features import FeatureNet
from goodfit.training.batch_statistics import recompute_statistics

STATISTICS_IMAGES = 256  # that random weights take their batch statistics from


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """The data of a transfer, the pretrained net, and the same net with random weights."""

    data: Dataset
    pretrained: FeatureNet
    random: FeatureNet


def make_origin(weights: Weights, part: Part, data: Dataset, device: torch.device, seed: int = 0) -> Origin:
    """Make the net of a model part with those weights, and without, for open data.

    Raises:
        UsageError: the weights do not fit the model, or the net does not take the images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(part, len(data.classes), data.preprocess.channels, data.preprocess.size).eval()
    pretrained = copy.deepcopy(model)
    transfer_weights(pretrained, weights, weights.has_classes(data.classes))
    nets = [
        FeatureNet(name, net.to(device, memory_format=torch.channels_last), data.preprocess, device)  # type: ignore[call-overload]
        for name, net in ((weights.name, pretrained), (f"{part} with random weights", model))
    ]
    _compute_statistics(nets[1], data, data.spread_rows("train", STATISTICS_IMAGES))
    return Origin(data, *nets)


def _compute_statistics(net: FeatureNet, data: Dataset, rows: Tensor) -> None:
    """Compute batch statistics for a net that was never trained, if it has any; without them its maps would grow or fade."""
    batches = iterate_batches(data.pixels, data.labels, rows, len(data.classes), STATISTICS_IMAGES)
    with net.explaining_shapes():
        recompute_statistics(net.model, (net.prepare(batch.images) for batch in batches))
