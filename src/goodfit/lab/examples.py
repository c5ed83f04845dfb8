"""The small data of lessons: digits, and points of the plane as images of one pixel with two channels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from goodfit.core.batch import Batch, one_hot
from goodfit.data.builtin import index_digits


def make_batch(images: Tensor, labels: Tensor, classes: int) -> Batch:
    """A batch of images [n, C, H, W] and their labels [n]."""
    return Batch(images, one_hot(labels, classes), torch.arange(len(images)))


def read_digits(n: int) -> Batch:
    """The first n of scikit-learn's digits [n, 1, 8, 8], of mean 0 and standard deviation 1."""
    index = index_digits()
    images = torch.from_numpy(np.stack([np.asarray(index.store.read(row)) for row in range(n)])).float()[:, None]
    return make_batch((images - images.mean()) / images.std(), torch.from_numpy(index.labels[:n]), 10)


def draw_moons(n: int, noise: float, seed: int) -> Batch:
    """n points [n, 2, 1, 1] of two half moons that interlock, with normal noise of a standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angles = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angles.cos(), angles.sin()], dim=1)
    lower = torch.stack([1 - angles.cos(), 0.5 - angles.sin()], dim=1)
    points = torch.where(labels[:, None] == 0, upper, lower) + noise * torch.randn(n, 2, generator=generator)
    return make_batch(points[:, :, None, None], labels, 2)


def draw_clusters(n: int, noise: float, seed: int) -> Batch:
    """n points [n, 2, 1, 1] around the corners of a triangle, with normal noise of a standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    angles = 2 * math.pi / 3 * labels + math.pi / 2
    points = torch.stack([angles.cos(), angles.sin()], dim=1) + noise * torch.randn(n, 2, generator=generator)
    return make_batch(points[:, :, None, None], labels, 3)
