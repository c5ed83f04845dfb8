"""What a file of weights does not say but its tensors tell: the size and colors of known nets, and the stem of a model."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.core.parts import ExternalPart, Part
from goodfit.models.blocks import SMALL_STEM_BELOW
from goodfit.models.weights.files import IMAGENET_CLASSES, Weights
from goodfit.models.weights.hub import with_pretrained_cfg
from goodfit.models.weights.matching import fits_by_order, match_tensors, without_counters
from goodfit.models.weights.published import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED
from goodfit.models.weights.surgery import find_heads
from goodfit.recipe.parts import make_model

TIMM_MODEL = "timm.create_model"
SMALL_STEM_SIDE, IMAGENET_SIDE = 32, 224  # pixels of the images that the small stem and that for ImageNet are usually trained on


def assume_preprocessing(weights: Weights, catalog: Catalog, model: Part | None) -> Weights:
    """Give weights that say no size, mean and std of their own those of the published weights of the same net, if it is known.

    It is known if the weights have every tensor below its head. Known are the nets of torchvision's published weights and, where `model`
    is one of timm's, that one. A `model` with the stem for small images was not trained so. Where the weights name no model, they get that
    of the net; `assumed_from` says which it is.
    """
    if weights.size or weights.mean or weights.classes or getattr(model, "stem", "") == "small":
        return weights
    if isinstance(model, ExternalPart) and model.path == TIMM_MODEL:
        return _assume_as_timm(weights, model)
    for text, name in {about.model: name for name, about in PUBLISHED.items()}.items():
        about = PUBLISHED[name]
        with torch.device("meta"):
            net = make_model(catalog.make(text, "model"), IMAGENET_CLASSES, 3, (about.size, about.size))
        if has_body_of(net, weights):
            return dataclasses.replace(
                weights,
                model=weights.model or about.model,
                size=(about.size, about.size),
                mean=about.mean,
                std=about.std,
                assumed_from=f"torchvision's {name.partition(':')[0]}",
            )
    return weights


def _assume_as_timm(weights: Weights, model: ExternalPart) -> Weights:
    """Give the weights what timm says of its own weights of the same net."""
    with torch.random.fork_rng(devices=[]):
        net = model()
    config = getattr(net, "pretrained_cfg", None) or {}
    if not config.get("mean") or not has_body_of(net, weights):
        return weights
    return dataclasses.replace(with_pretrained_cfg(weights, config), assumed_from=f"timm's {config.get('architecture', model)}")


def with_fitting_stem(part: Part, weights: Weights, catalog: Catalog) -> tuple[Part, str]:
    """The model part with the stem that its weights have, so that it keeps it at any size of the images, and the rule by which.

    It is that of the model they are of, else that for the size of its images, else the one that its tensors fit. Where they fit both, as
    stems that differ in their strides alone, they are taken for weights trained on ImageNet; where neither, the part stays as it is.
    """
    if getattr(part, "stem", "") != "auto":
        return part, ""
    rule = "the stem that its weights have"
    small, imagenet = (dataclasses.replace(part, stem=stem) for stem in ("small", "imagenet"))  # type: ignore[type-var]
    own = catalog.make(weights.model, "model") if weights.model and not weights.use else None
    if type(own) is type(part) and (stem := getattr(own, "stem", "auto")) != "auto":
        return (small if stem == "small" else imagenet), rule
    if weights.size:
        return (imagenet if min(weights.size) >= SMALL_STEM_BELOW else small), rule
    fitting = []
    for choice, side in ((small, SMALL_STEM_SIDE), (imagenet, IMAGENET_SIDE)):
        with torch.device("meta"):
            net = make_model(choice, IMAGENET_CLASSES, 3, (side, side))
        fitting += [choice] if has_body_of(net, weights) or fits_by_order(net, weights) else []
    if len(fitting) == 2:
        return imagenet, f'the stem for ImageNet assumed, for its weights fit either one; --model "{small}" takes the other'
    return (fitting[0], rule) if fitting else (part, "")


def assume_imagenet(weights: Weights, part: Part | None) -> Weights:
    """Give weights that say nothing of their images the usual size, mean and std of ImageNet where their net has the stem for it."""
    if weights.size or weights.mean or weights.classes or getattr(part, "stem", "") != "imagenet":
        return weights
    size = (IMAGENET_SIDE, IMAGENET_SIDE)
    return dataclasses.replace(
        weights, size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, assumed_from="most nets with the stem for ImageNet"
    )


def has_body_of(net: nn.Module, weights: Weights) -> bool:
    """Whether the weights have every tensor of a net below its head, in its shape."""
    try:
        there = match_tensors(net, weights).tensors
    except UsageError:
        return False
    heads, here = find_heads(net), without_counters(net.state_dict())
    return all(name in there and there[name].shape == x.shape for name, x in here.items() if name.rpartition(".")[0] not in heads)
