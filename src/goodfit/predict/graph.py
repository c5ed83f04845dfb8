"""A predictor as one torch module from decoded pixels to probabilities, which can be traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.core.parts import spell
from goodfit.core.task import to_probabilities
from goodfit.data.pillow_resize import resize_windows
from goodfit.predict.calibration import apply_temperature
from goodfit.predict.predictor import Classifier, Predictor


class Graph(nn.Module):
    """Images uint8 [N, H, W, C] of one size, upright, in the model's channels -> probabilities [N, K] float32: all that `predict` does.

    Raises:
        UsageError: a view shows the model whole images, or the members differ in their channels.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor
        self.models = nn.ModuleList(member.model for member in predictor.members)
        channels = sorted({member.preprocess.channels for member in predictor.members})
        if len(channels) > 1:
            raise UsageError(
                f"Expected members that take the same channels, found {channels[0]} and {channels[-1]}: export each of them alone."
            )
        self.channels = channels[0]
        self.output = "numbers" if predictor.task.name == "numbers" else "probabilities"
        refuse_whole_views(predictor)

    def forward(self, images: Tensor) -> Tensor:
        """The probabilities, in the order of the predictor's classes."""
        return self.predictor.average(_member_probabilities(member, images) for member in self.predictor.members)


def refuse_whole_views(predictor: Predictor) -> None:
    """Refuse views that show a model images of any size, which a graph of one size does not take.

    Raises:
        UsageError: there are some.
    """
    whole_views = [member.views for member in predictor.members if any(view.place is None for view in member.viewer.views)]
    if whole_views:
        raise UsageError(
            f'"{spell(whole_views[0])}" shows the model whole images, each of another size, and an exported graph has one size: '
            "choose other views, such as --views center or --views ten_crop."
        )


def _member_probabilities(member: Classifier, images: Tensor) -> Tensor:
    """Probabilities [N, K] float32 of images uint8 [N, H, W, C]; the windows of all views go through the model together."""
    viewer = member.viewer
    views = [(view.scale, view.place, view.mirrored) for view in viewer.views if view.place]
    crops: dict[Any, Tensor] = {}
    for scale in member.scales:
        places = list(dict.fromkeys(place for view_scale, place, _ in views if view_scale == scale))
        crops |= {(scale, place): x for place, x in zip(places, resize_windows(member.preprocess, images, scale, places), strict=True)}
    inputs = [crops[scale, place].flip(3) if mirrored else crops[scale, place] for scale, place, mirrored in views]
    logits = viewer.scores(torch.cat(inputs))
    answers = logits if viewer.averages_logits else to_probabilities(viewer.loss, logits)
    mean = answers.view(len(views), -1, answers.shape[1]).double().mean(0)
    return apply_temperature(viewer.mean_to_probabilities(mean), member.temperature, member.task)
