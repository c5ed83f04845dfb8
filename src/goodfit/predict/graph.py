"""A classifier or an ensemble as one module from decoded pixels to probabilities, which can be traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.catalog import spell
from goodfit.core.errors import UsageError
from goodfit.data.pillow_resize import resize_windows
from goodfit.predict.ensemble import Ensemble
from goodfit.predict.predictor import Classifier
from goodfit.predict.views import probabilities_of
from goodfit.training.calibration import tempered


class Graph(nn.Module):
    """Images uint8 [N, H, W, C] of one size, upright, in the model's channels -> probabilities [N, K] float32: all that `predict` does.

    Raises:
        UsageError: a view shows the model whole images, or the members of an ensemble differ in their channels.
    """

    def __init__(self, classifier: Classifier | Ensemble) -> None:
        super().__init__()
        self.classifier = classifier
        self.members = classifier.members if isinstance(classifier, Ensemble) else (classifier,)
        self.models = nn.ModuleList(member.model for member in self.members)
        channels = sorted({member.preprocess.channels for member in self.members})
        if len(channels) > 1:
            raise UsageError(
                f"Expected members that take the same channels, found {channels[0]} and {channels[-1]}: export each of them alone."
            )
        self.channels = channels[0]
        whole = [member.views for member in self.members if any(view.place is None for view in member.viewer.views)]
        if whole:
            raise UsageError(
                f'"{spell(whole[0])}" shows the model whole images, of another size each, and an exported graph has one size: '
                "choose other views, such as --views center or --views ten_crop."
            )

    def forward(self, images: Tensor) -> Tensor:
        """The probabilities, in the order of the classifier's classes."""
        answers = (answered(member, images) for member in self.members)
        return self.classifier.mean(answers) if isinstance(self.classifier, Ensemble) else next(answers)


def answered(member: Classifier, images: Tensor) -> Tensor:
    """Probabilities [N, K] float32 of images uint8 [N, H, W, C]; the windows of all views go through the model together."""
    viewer = member.viewer
    views = [(view.scale, view.place, view.mirrored) for view in viewer.views if view.place]
    cut: dict[Any, Tensor] = {}
    for scale in member.scales:
        places = list(dict.fromkeys(place for own, place, _ in views if own == scale))
        cut |= {(scale, place): x for place, x in zip(places, resize_windows(member.preprocess, images, scale, places), strict=True)}
    logits = viewer.scores(torch.cat([cut[scale, place].flip(3) if mirrored else cut[scale, place] for scale, place, mirrored in views]))
    answers = logits if viewer.by_logits else probabilities_of(viewer.loss, logits)
    mean = answers.view(len(views), -1, answers.shape[1]).double().mean(0)
    return tempered(viewer.in_probabilities(mean), member.temperature)
