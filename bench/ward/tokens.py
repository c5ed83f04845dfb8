"""Networks that cut images into patches, and one whose stages hand on all features: families that the doctor was not developed on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SMALL, PATCH = 12, 4  # pixels of a side: of images that are cut half as wide, and of a patch
HEADS = 4


class Residual(nn.Module):
    """A layer, and its input added to what comes out of it if `skip`."""

    def __init__(self, body: nn.Module, skip: bool) -> None:
        super().__init__()
        self.body, self.skip = body, skip

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        return x + self.body(x) if self.skip else self.body(x)


class Attention(nn.Module):
    """Self-attention over tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_all, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        batch, tokens, width = x.shape
        q, k, v = self.to_all(x).view(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.as_tensor(self.out(mixed.transpose(1, 2).reshape(batch, tokens, width)))


class Transposed(nn.Module):
    """A layer over the tokens in place of the features."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        return torch.as_tensor(self.body(x.transpose(1, 2)).transpose(1, 2))


class Patches(nn.Module):
    """Images as tokens: patches through a linear layer, with a learned place added."""

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        side = PATCH // 2 if height < SMALL else PATCH
        self.cut = nn.Conv2d(channels, width, side, side)
        self.count = (height // side) * (breadth // side)
        self.place = nn.Parameter(0.02 * torch.randn(1, self.count, width))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, T, D]
        return torch.as_tensor(self.cut(x).flatten(2).transpose(1, 2) + self.place)


class Mean(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, D]
        return x.mean(1)


class Dense(nn.Module):
    """A layer whose input is handed on beside what comes out of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C + G, H, W]
        return torch.cat([x, self.body(x)], 1)


def build_tokens(
    family: str, shape: tuple[int, int, int], width: int, depth: int, skip: bool, norm: bool, act: Callable[[], nn.Module]
) -> tuple[list[nn.Module], int]:
    """A transformer or a mixer up to its features, and how many these are."""
    patches = Patches(shape, width)

    def residual(*body: nn.Module) -> Residual:
        return Residual(nn.Sequential(*([nn.LayerNorm(width)] if norm else []), *body), skip)

    def mix(tokens: int) -> nn.Module:
        if family == "transformer":
            return Attention(width)
        return Transposed(nn.Sequential(nn.Linear(tokens, tokens), act(), nn.Linear(tokens, tokens)))

    layers: list[nn.Module] = [patches]
    for _ in range(depth):
        layers += [residual(mix(patches.count)), residual(nn.Linear(width, 2 * width), act(), nn.Linear(2 * width, width))]
    return [*layers, Mean()], width
