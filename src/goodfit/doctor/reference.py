"""Parts that are known to work, to put in the place of a patient's: a network, weights, an order of the images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.patient import Batches

MAX_POOLED_IMAGES = 4096


class ReferenceNet(nn.Module):
    """Three 3x3 convs with group norm and ReLU, the second and third at stride 2, the mean over places, and a linear head."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        widths = (width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for i, (enter, leave) in enumerate(zip((channels, *widths), widths, strict=False)):
            layers += [nn.Conv2d(enter, leave, 3, 2 if i else 1, 1, bias=False), nn.GroupNorm(8, leave), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x: Tensor = self.body(images)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def make_reference_model(channels: int, classes: int) -> nn.Module:
    """A small network that learns on any small images within tens of steps."""
    return ReferenceNet(channels, classes)


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of outputs [B, K], which may be scores, probabilities, or shares of 0 to 1 by a sigmoid, with labels [B]."""
    if bool(((outputs >= 0) & (outputs <= 1)).all()):
        sums_to_one = bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
        outputs = outputs.clamp(1e-7, 1 - 1e-7)
        outputs = outputs.log() if sums_to_one else outputs.logit()
    return F.cross_entropy(outputs, labels)


def initialize_again(model: nn.Module) -> None:
    """Draw the weights of a network anew: He's normal initialization, biases 0, norms' factors 1, whatever the modules are called."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim >= 2:
                nn.init.kaiming_normal_(p.flatten(1) if p.ndim > 4 else p, nonlinearity="relu")
            else:
                p.fill_(1.0 if name.endswith("weight") or (p.numel() and float(p.min()) > 0.5) else 0.0)


def pool_batches(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of an epoch in a new order, in batches as long as the first; of long epochs a part."""
    images, labels, n = [], [], 0
    for x, y in batches:
        images.append(x)
        labels.append(y)
        if (n := n + len(x)) >= MAX_POOLED_IMAGES:
            break
    size = len(images[0])
    x, y = torch.cat(images), torch.cat(labels)
    for rows in torch.randperm(n).split(size):  # type: ignore[no-untyped-call]
        yield x[rows], y[rows]
