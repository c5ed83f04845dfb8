"""Weights that torchvision publishes: their files, the models they fit, what those saw, and how good they are."""

from __future__ import annotations

from typing import NamedTuple

from goodfit.core.errors import UsageError, unknown_name

ADDRESS = "https://download.pytorch.org/models/"
DEFAULT = "imagenet"  # stands for the first weights of a model
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colors
HALF = (0.5, 0.5, 0.5)  # what torchvision's two inception nets turn those into on their way in


class Published(NamedTuple):
    """A file of weights: its name ends in the first digits of its SHA-256; `model` is the part that they fit, for ImageNet's 1000 classes.

    `top1` and `top5` are the accuracies on ImageNet's validation images in percent, their short side brought to `resize` pixels and the
    middle `size` of that taken.
    """

    file: str
    model: str
    top1: float
    top5: float
    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def url(self) -> str:
        return ADDRESS + self.file

    @property
    def checksum(self) -> str:
        """The first digits of its SHA-256."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


# By torchvision's names for the model and its weights, the default ones first. Auxiliary heads help to train from scratch, and those in
# googlenet's file have never been trained: they are left out.
PUBLISHED = {
    "alexnet:IMAGENET1K_V1": Published("alexnet-owt-7be5be79.pth", "alexnet(imagenet)", 56.522, 79.066),
    "vgg11:IMAGENET1K_V1": Published("vgg11-8a719046.pth", "vgg(11, stem=imagenet)", 69.02, 88.628),
    "vgg13:IMAGENET1K_V1": Published("vgg13-19584684.pth", "vgg(13, stem=imagenet)", 69.928, 89.246),
    "vgg16:IMAGENET1K_V1": Published("vgg16-397923af.pth", "vgg(16, stem=imagenet)", 71.592, 90.382),
    "vgg19:IMAGENET1K_V1": Published("vgg19-dcbb9e9d.pth", "vgg(19, stem=imagenet)", 72.376, 90.876),
    "vgg11_bn:IMAGENET1K_V1": Published("vgg11_bn-6002323d.pth", "vgg(11, stem=imagenet, norm=batch)", 70.37, 89.81),
    "vgg13_bn:IMAGENET1K_V1": Published("vgg13_bn-abd245e5.pth", "vgg(13, stem=imagenet, norm=batch)", 71.586, 90.374),
    "vgg16_bn:IMAGENET1K_V1": Published("vgg16_bn-6c64b313.pth", "vgg(16, stem=imagenet, norm=batch)", 73.36, 91.516),
    "vgg19_bn:IMAGENET1K_V1": Published("vgg19_bn-c79401a0.pth", "vgg(19, stem=imagenet, norm=batch)", 74.218, 91.842),
    "googlenet:IMAGENET1K_V1": Published("googlenet-1378be20.pth", "googlenet(imagenet, aux=0)", 69.778, 89.53, mean=HALF, std=HALF),
    "inception_v3:IMAGENET1K_V1": Published(
        "inception_v3_google-0cc3c7bd.pth", "inception_v3(imagenet, aux=0)", 77.294, 93.45, 299, 342, mean=HALF, std=HALF
    ),
    "resnet18:IMAGENET1K_V1": Published("resnet18-f37072fd.pth", "resnet(18, stem=imagenet)", 69.758, 89.078),
    "resnet34:IMAGENET1K_V1": Published("resnet34-b627a593.pth", "resnet(34, stem=imagenet)", 73.314, 91.42),
    "resnet50:IMAGENET1K_V2": Published("resnet50-11ad3fa6.pth", "resnet(50, stem=imagenet)", 80.858, 95.434, resize=232),
    "resnet50:IMAGENET1K_V1": Published("resnet50-0676ba61.pth", "resnet(50, stem=imagenet)", 76.13, 92.862),
    "resnet101:IMAGENET1K_V2": Published("resnet101-cd907fc2.pth", "resnet(101, stem=imagenet)", 81.886, 95.78, resize=232),
    "resnet101:IMAGENET1K_V1": Published("resnet101-63fe2227.pth", "resnet(101, stem=imagenet)", 77.374, 93.546),
    "resnet152:IMAGENET1K_V2": Published("resnet152-f82ba261.pth", "resnet(152, stem=imagenet)", 82.284, 96.002, resize=232),
    "resnet152:IMAGENET1K_V1": Published("resnet152-394f9c45.pth", "resnet(152, stem=imagenet)", 78.312, 94.046),
    "mobilenet_v2:IMAGENET1K_V2": Published("mobilenet_v2-7ebf99e0.pth", "mobilenet_v2(stem=imagenet)", 72.154, 90.822, resize=232),
    "mobilenet_v2:IMAGENET1K_V1": Published("mobilenet_v2-b0353104.pth", "mobilenet_v2(stem=imagenet)", 71.878, 90.286),
}


def published(text: str) -> str:
    """The full name in `PUBLISHED` of "resnet18:imagenet", "resnet18:IMAGENET1K_V1" or "resnet18"; empty where no such model is known.

    Raises:
        UsageError: the model has no such weights; the sentence lists those it has.
    """
    model, _, weights = text.partition(":")
    names = [name for name in PUBLISHED if name.partition(":")[0] == model]
    if not names or weights in ("", DEFAULT):
        return names[0] if names else ""
    found = next((name for name in names if name.lower() == text.lower()), "")
    if not found:
        raise UsageError(unknown_name(f"weights of {model}", weights, [DEFAULT, *(name.partition(":")[2] for name in names)]))
    return found
