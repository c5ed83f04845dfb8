"""Weights that torchvision publishes: their files, the models they fit, the preprocessing they expect, and their accuracy."""

from __future__ import annotations

from typing import NamedTuple

from goodfit.core.errors import UsageError, unknown_name

BASE_URL = "https://download.pytorch.org/models/"
DEFAULT_WEIGHTS = "imagenet"  # the name of the first weights of a model in `PUBLISHED`
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colors
INCEPTION_MEAN_AND_STD = (0.5, 0.5, 0.5)  # what torchvision's two inception nets normalize with, by their transform_input


class PublishedWeights(NamedTuple):
    """A file of weights, whose name ends in the first digits of its SHA-256; `model` is the part that they fit, for 1000 classes.

    `top1` and `top5` are the accuracies in percent on ImageNet's validation images, resized to a short side of `resize` pixels and
    center-cropped to `size`.
    """

    file: str
    model: str
    top1: float
    top5: float
    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def url(self) -> str:
        return BASE_URL + self.file

    @property
    def checksum(self) -> str:
        """The first digits of its SHA-256."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


# By torchvision's names for the model and its weights, the default ones first. Auxiliary heads are left out: they help to train from
# scratch only, and those in googlenet's file have never been trained.
PUBLISHED = {
    "alexnet:IMAGENET1K_V1": PublishedWeights("alexnet-owt-7be5be79.pth", "alexnet(imagenet)", 56.522, 79.066),
    "vgg11:IMAGENET1K_V1": PublishedWeights("vgg11-8a719046.pth", "vgg(11, stem=imagenet)", 69.02, 88.628),
    "vgg13:IMAGENET1K_V1": PublishedWeights("vgg13-19584684.pth", "vgg(13, stem=imagenet)", 69.928, 89.246),
    "vgg16:IMAGENET1K_V1": PublishedWeights("vgg16-397923af.pth", "vgg(16, stem=imagenet)", 71.592, 90.382),
    "vgg19:IMAGENET1K_V1": PublishedWeights("vgg19-dcbb9e9d.pth", "vgg(19, stem=imagenet)", 72.376, 90.876),
    "vgg11_bn:IMAGENET1K_V1": PublishedWeights("vgg11_bn-6002323d.pth", "vgg(11, stem=imagenet, norm=batch)", 70.37, 89.81),
    "vgg13_bn:IMAGENET1K_V1": PublishedWeights("vgg13_bn-abd245e5.pth", "vgg(13, stem=imagenet, norm=batch)", 71.586, 90.374),
    "vgg16_bn:IMAGENET1K_V1": PublishedWeights("vgg16_bn-6c64b313.pth", "vgg(16, stem=imagenet, norm=batch)", 73.36, 91.516),
    "vgg19_bn:IMAGENET1K_V1": PublishedWeights("vgg19_bn-c79401a0.pth", "vgg(19, stem=imagenet, norm=batch)", 74.218, 91.842),
    "googlenet:IMAGENET1K_V1": PublishedWeights(
        "googlenet-1378be20.pth", "googlenet(imagenet, aux=0)", 69.778, 89.53, mean=INCEPTION_MEAN_AND_STD, std=INCEPTION_MEAN_AND_STD
    ),
    "inception_v3:IMAGENET1K_V1": PublishedWeights(
        "inception_v3_google-0cc3c7bd.pth",
        "inception_v3(imagenet, aux=0)",
        77.294,
        93.45,
        299,
        342,
        mean=INCEPTION_MEAN_AND_STD,
        std=INCEPTION_MEAN_AND_STD,
    ),
    "resnet18:IMAGENET1K_V1": PublishedWeights("resnet18-f37072fd.pth", "resnet(18, stem=imagenet)", 69.758, 89.078),
    "resnet34:IMAGENET1K_V1": PublishedWeights("resnet34-b627a593.pth", "resnet(34, stem=imagenet)", 73.314, 91.42),
    "resnet50:IMAGENET1K_V2": PublishedWeights("resnet50-11ad3fa6.pth", "resnet(50, stem=imagenet)", 80.858, 95.434, resize=232),
    "resnet50:IMAGENET1K_V1": PublishedWeights("resnet50-0676ba61.pth", "resnet(50, stem=imagenet)", 76.13, 92.862),
    "resnet101:IMAGENET1K_V2": PublishedWeights("resnet101-cd907fc2.pth", "resnet(101, stem=imagenet)", 81.886, 95.78, resize=232),
    "resnet101:IMAGENET1K_V1": PublishedWeights("resnet101-63fe2227.pth", "resnet(101, stem=imagenet)", 77.374, 93.546),
    "resnet152:IMAGENET1K_V2": PublishedWeights("resnet152-f82ba261.pth", "resnet(152, stem=imagenet)", 82.284, 96.002, resize=232),
    "resnet152:IMAGENET1K_V1": PublishedWeights("resnet152-394f9c45.pth", "resnet(152, stem=imagenet)", 78.312, 94.046),
    "mobilenet_v2:IMAGENET1K_V2": PublishedWeights("mobilenet_v2-7ebf99e0.pth", "mobilenet_v2(stem=imagenet)", 72.154, 90.822, resize=232),
    "mobilenet_v2:IMAGENET1K_V1": PublishedWeights("mobilenet_v2-b0353104.pth", "mobilenet_v2(stem=imagenet)", 71.878, 90.286),
}


def resolve_published(text: str) -> str:
    """Find the full name in `PUBLISHED` of "resnet18:imagenet", "resnet18:IMAGENET1K_V1" or "resnet18"; empty where there is none.

    Raises:
        UsageError: the model has other weights, which the sentence lists.
    """
    model, _, weights = text.partition(":")
    names = [name for name in PUBLISHED if name.partition(":")[0] == model]
    if not names or weights in ("", DEFAULT_WEIGHTS):
        return names[0] if names else ""
    match = next((name for name in names if name.lower() == text.lower()), "")
    if not match:
        raise UsageError(unknown_name(f"weights of {model}", weights, [DEFAULT_WEIGHTS, *(name.partition(":")[2] for name in names)]))
    return match
