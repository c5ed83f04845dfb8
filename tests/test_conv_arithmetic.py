"""The lecture's convolutions and pools, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.layers.pool import Max


def conv(image: list[list[float]], kernel: list[list[float]]) -> list[list[float]]:
    """What a conv layer makes of one channel, without padding."""
    maps: Tensor = F.conv2d(torch.tensor(image)[None, None], torch.tensor(kernel)[None, None])
    made: list[list[float]] = maps[0, 0].tolist()
    return made


@pytest.mark.item("S137")
def test_a_3x3_filter_over_the_5x5_image() -> None:
    image = [[1.0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    made = conv(image, [[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert made == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    windows = np.lib.stride_tricks.sliding_window_view(np.array(image), (3, 3))
    assert made == (windows * np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])).sum(axis=(2, 3)).tolist()


@pytest.mark.item("S138")
def test_the_vertical_edge_filter() -> None:
    image = [[100.0, 100, 100, 0, 0, 0]] * 6
    assert conv(image, [[1.0, 0, -1]] * 3) == [[0, 300, 300, 0]] * 4


@pytest.mark.item("S141")
def test_max_pooling_2x2_with_stride_2() -> None:
    image = torch.tensor([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])
    assert Max()()(image[None, None])[0, 0].tolist() == [[6, 8], [3, 4]]


@pytest.mark.item("S147")
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_im2col_turns_a_conv_into_a_matrix_product(stride: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images, kernels = torch.randn(2, 3, 11, 9, generator=generator), torch.randn(5, 3, 3, 3, generator=generator)
    columns = F.unfold(images, 3, stride=stride, padding=padding)  # [B, 27, places]
    maps = F.conv2d(images, kernels, stride=stride, padding=padding)
    assert torch.allclose((kernels.flatten(1) @ columns).view(maps.shape), maps, atol=1e-5)
