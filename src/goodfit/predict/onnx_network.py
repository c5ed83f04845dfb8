"""A predictor whose networks are computed by ONNX Runtime; decoding, views and all that follows stay what `predict` does."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.run import Run
from goodfit.losses.scores import split_outputs
from goodfit.predict.export import explain_export_errors, open_session, trace_module
from goodfit.predict.graph import refuse_whole_views
from goodfit.predict.predictor import Classifier, Predictor


class Scores(nn.Module):
    """The scores [B, K] of a network alone, without those of auxiliary heads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K] for normalized images [B, C, H, W]."""
        return split_outputs(self.network(images))[0]


class OnnxNetwork(nn.Module):
    """A network in ONNX Runtime: normalized images float32 [B, C, H, W] -> scores [B, K]."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Tensor) -> Tensor:
        """The scores of images on the CPU."""
        return torch.from_numpy(self.session.run(None, {"images": images.contiguous().numpy()})[0])


def use_onnx(predictor: Predictor, run: Run) -> Predictor:
    """The predictor of a run, on the CPU, with its networks computed by ONNX Runtime.

    Raises:
        UsageError: a view shows the model whole images of any size.
        GoodfitError: a network cannot be written as ONNX.
    """
    refuse_whole_views(predictor)
    with explain_export_errors(run.path):
        return dataclasses.replace(predictor, members=tuple(_use_onnx(member) for member in predictor.members))


def _use_onnx(member: Classifier) -> Classifier:
    preprocess = member.preprocess
    images = torch.zeros(2, preprocess.channels, *preprocess.size)
    proto = trace_module(Scores(member.model).eval(), images, "scores", {"images": {0: "N"}})
    return dataclasses.replace(member, model=OnnxNetwork(open_session(proto.SerializeToString())))
