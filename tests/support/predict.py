"""What a classifier answers, by the shortest way."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.losses.scores import split_outputs
from goodfit.predict.calibration import apply_temperature
from goodfit.predict.predictor import Classifier
from goodfit.predict.views import to_probabilities


@torch.no_grad()
def center_probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """Probabilities [B, K] float32 for stored pixels uint8 [B, C, H, W] of the preprocessing's box, by their center crop alone."""
    inputs = classifier.preprocess.normalize(classifier.preprocess.center_crop(images.to(classifier.device)))
    logits = split_outputs(classifier.model(inputs))[0].float()
    return apply_temperature(to_probabilities(classifier.loss, logits).cpu(), classifier.temperature)
