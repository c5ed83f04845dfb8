"""Convolution: number by number, over several channels, and as a product of matrices."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.words import count_of
from goodfit.lab.examples import read_digits
from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.layers.pool import Max
from goodfit.models.anatomy.account import account_for

IMAGE = ((1, 1, 1, 0, 0), (0, 1, 1, 1, 0), (0, 0, 1, 1, 1), (0, 0, 1, 1, 0), (0, 1, 1, 0, 0))
CROSS = ((1, 0, 1), (0, 1, 0), (1, 0, 1))
EDGE_IMAGE, EDGE = ((100, 100, 100, 0, 0, 0),) * 6, ((1, 0, -1),) * 3
POOLED = ((1, 1, 2, 4), (5, 6, 7, 8), (3, 2, 1, 0), (1, 2, 3, 4))
# Three channels of 4x4, and two filters of 3x3 for each: the slide's own figure does not read.
CHANNELS = (
    ((0, 1, 1, 1), (1, 1, 1, 0), (0, 1, 1, 1), (0, 0, 1, 1)),
    ((1, 0, 0, 2), (0, 1, 0, 1), (2, 0, 1, 0), (1, 1, 0, 0)),
    ((0, 2, 1, 0), (1, 0, 0, 1), (0, 1, 2, 0), (1, 0, 1, 1)),
)
FILTERS = (
    (((0, 1, 0), (1, 0, 1), (0, 1, 0)), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((0, 0, 1), (0, -1, 0), (1, 0, 0))),
    (((0, 1, 0), (1, 0, 1), (0, -1, 0)), ((0, 0, 0), (1, -2, 1), (0, 0, 0)), ((-1, 0, 1), (0, 0, 0), (1, 0, -1))),
)


def convolve_by_sums(images: Tensor, filters: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve images [B, C, H, W] with filters [K, C, h, w], one sum of products for each place, as by hand."""
    padded = F.pad(images, (padding,) * 4)
    (k, _, height, width), (b, _, rows, columns) = filters.shape, padded.shape
    places = (rows - height) // stride + 1, (columns - width) // stride + 1
    maps = images.new_zeros(b, k, *places)
    for i, j in itertools.product(*map(range, places)):
        window = padded[:, None, :, i * stride : i * stride + height, j * stride : j * stride + width]
        maps[:, :, i, j] = (window * filters).sum(dim=(2, 3, 4))
    return maps


def convolve_by_columns(images: Tensor, filters: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve images [B, C, H, W] with filters [K, C, h, w] as one product of matrices: im2col puts each window into a column."""
    (k, _, height, width), (b, _, rows, columns) = filters.shape, images.shape
    windows = F.unfold(images, (height, width), stride=stride, padding=padding)  # [B, C h w, places]
    places = ((side + 2 * padding - kernel) // stride + 1 for side, kernel in ((rows, height), (columns, width)))
    return (filters.flatten(1) @ windows).view(b, k, *places)


def change_by_shift(pools: int) -> float:
    """How much digits differ from themselves a pixel further, relative to their size, after some 2x2 max pools."""
    images = read_digits(100).images
    images = images - images.min()
    pool = nn.Sequential(*(Max()() for _ in range(pools)))
    kept, shifted = pool(images[..., :-1]), pool(images[..., 1:])
    return float((kept - shifted).norm() / kept.norm())


def as_maps(values: object) -> Tensor:
    """Nested rows as one image [1, C, H, W] or filters [K, C, h, w] of as many dimensions as they have."""
    maps = torch.tensor(values, dtype=torch.float64)
    return maps.view(*(1,) * (4 - maps.ndim), *maps.shape)


def as_table(title: str, rows: Tensor) -> Table:
    """A map [H, W] as a table."""
    return Table(title, ("row", *map(str, range(rows.shape[1]))), tuple((str(k), *row) for k, row in enumerate(rows.tolist())))


def teach() -> Lesson:
    """Compute the lesson."""
    crossed = convolve_by_columns(as_maps(IMAGE), as_maps(CROSS))[0, 0]
    edges = convolve_by_columns(as_maps(EDGE_IMAGE), as_maps(EDGE))[0, 0]
    maps = convolve_by_columns(as_maps(CHANNELS), as_maps(FILTERS))[0]
    generator = torch.Generator().manual_seed(0)
    images, filters = torch.randn(2, 3, 11, 9, generator=generator), torch.randn(5, 3, 3, 3, generator=generator)
    distance = max(
        float((convolve_by_columns(images, filters, s, p) - convolve_by_sums(images, filters, s, p)).abs().max())
        for s, p in ((1, 0), (2, 1), (3, 2))
    )
    layer = account_for(nn.Sequential(nn.Conv2d(3, 6, 5)), 3, (32, 32)).rows[0]
    windows = F.unfold(torch.zeros(1, 3, 32, 32), 5)
    pooled = Max()()(as_maps(POOLED))[0, 0]
    overlapping = account_for(nn.Sequential(nn.MaxPool2d(2, stride=1)), 1, (4, 4)).rows[0]
    first = [float((as_maps(CHANNELS)[0, c, :3, :3] * as_maps(FILTERS)[0, c]).sum()) for c in range(3)]
    return Lesson(
        "A filter slides over the image; each output is the sum of the products with what lies below it, over all channels, and each filter"
        " makes one map. im2col copies every window into a column, so that all of it is one product of matrices.",
        "CS231n, convolutional networks",
        (
            Number("first output of the 3x3 filter", float(crossed[0, 0]), "4"),
            *(
                Number(f"vertical edge, column {k}", float(x), p)
                for k, (x, p) in enumerate(zip(edges[0], ("0", "300", "300", "0"), strict=True))
            ),
            *(Number(f"part of channel {c} in the first output of filter 0", x) for c, x in enumerate(first)),
            Number("first output of filter 0", float(maps[0, 0, 0])),
            Number("output channels of 2 filters over 3 channels", maps.shape[0], "2"),
            Number("side of the map, 5x5 over 32x32", layer.output[1], "28"),
            Number("its channels with six filters", layer.output[0], "6"),
            Number("its parameters", layer.parameters, "", "6 (5 5 3 + 1)"),
            Number(
                "numbers that im2col makes of the image",
                windows.numel(),
                "",
                f"of {3 * 32 * 32:,}: {windows.numel() / (3 * 32 * 32):.1f} times",
            ),
            Number("largest distance of im2col from sums", distance),
            *(
                Number(f"change of digits by a shift of a pixel, {count_of(n, 'pool')}", change_by_shift(n), "", "of their size")
                for n in (0, 1, 2)
            ),
            Number("side of a 4x4 map after 2x2 pooling with stride 1", overlapping.output[1], "", "H - 1"),
        ),
        (
            as_table("The 3x3 filter over the 5x5 image", crossed),
            as_table("Filter 0 over three channels", maps[0]),
            as_table("Filter 1 over three channels", maps[1]),
            as_table("2x2 max pooling with stride 2", pooled),
        ),
    )
