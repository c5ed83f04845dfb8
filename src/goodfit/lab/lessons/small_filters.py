"""Small filters: what three 3x3 convs, bottlenecks and thin filters save, and where nets have their parameters and operations."""

from __future__ import annotations

import torch
from torch import nn

from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.models.anatomy.account import Account, account_for
from goodfit.models.anatomy.lecture import LECTURE_ERRATA
from goodfit.recipe.parts import load_catalog, make_model

CHANNELS, SIDE = 64, 32
PRINTED = {  # the slide's table: parameters in millions, the share of conv layers, operations in millions, the share of conv layers
    "alexnet2012": ("61", "3.8", "725", "91.9"),
    "vgg_f": ("99", "2.2", "762", "87.4"),
    "vgg_m": ("103", "6.3", "1678", "94.3"),
    "vgg_s": ("103", "6.3", "2640", "96.3"),
    "vgg(16)": ("138", "10.6", "15484", "99.2"),
    "vgg(19)": ("144", "13.9", "19647", "99.4"),
    "nin": ("7.6", "100", "1168", "100.0"),
    "googlenet(aux=0, norm=none, kernel=5)": ("6.9", "85.1", "1566", "99.9"),
}
SIDES = {"alexnet2012": 227}  # of images, where not 224


def account_for_convs(*convs: nn.Conv2d) -> Account:
    """The account of convs in a row, on a map of CHANNELS channels and SIDE pixels a side."""
    return account_for(nn.Sequential(*convs), CHANNELS, (SIDE, SIDE))


def conv(n_in: int, n_out: int, kernel: int | tuple[int, int], groups: int = 1) -> nn.Conv2d:
    """A conv without bias that keeps the size."""
    return nn.Conv2d(n_in, n_out, kernel, padding="same", groups=groups, bias=False)


def account_for_net(text: str) -> Account:
    """The account of a net of the catalog for 1000 classes."""
    side = SIDES.get(text, 224)
    with torch.device("meta"):
        net = make_model(load_catalog().make(text, "model"), 1000, 3, (side, side))
    return account_for(net, 3, (side, side))


def teach() -> Lesson:
    """Compute the lesson."""
    c, half = CHANNELS, CHANNELS // 2
    nets = {
        "one 7x7": account_for_convs(conv(c, c, 7)),
        "three 3x3": account_for_convs(*(conv(c, c, 3) for _ in range(3))),
        "one 3x3": account_for_convs(conv(c, c, 3)),
        "1x1 to half, 3x3, 1x1 back": account_for_convs(conv(c, half, 1), conv(half, half, 3), conv(half, c, 1)),
        "1x3, 3x1": account_for_convs(conv(c, c, (1, 3)), conv(c, c, (3, 1))),
        "depthwise 3x3, 1x1": account_for_convs(conv(c, c, 3, groups=c), conv(c, c, 1)),
    }
    in_c = {name: account.totals["parameters"] / c**2 for name, account in nets.items()}
    rows = tuple(
        (name, account.rows[-1].field[0], len(account.rows), in_c[name], account.totals["macs"] / (SIDE**2 * c**2))
        for name, account in nets.items()
    )
    accounts = {text: account_for_net(text) for text in PRINTED}
    table = []
    for text, account in accounts.items():
        totals, shares, printed = account.totals, account.shares, PRINTED[text]
        computed = (totals["parameters"] / 1e6, 100 * shares["conv_parameters"], totals["ops"] / 1e6, 100 * shares["conv_ops"])
        table.append((text, *(cell for pair in zip((f"{x:.1f}" for x in computed), printed, strict=True) for cell in pair)))
    header = ("net", "M parameters", "slide", "conv %", "slide", "M operations", "slide", "conv %", "slide")
    separable = nets["depthwise 3x3, 1x1"].totals["macs"] / nets["one 3x3"].totals["macs"]
    return Lesson(
        "Three 3x3 convs see as much of the image as one of 7x7, with fewer parameters, less compute and more nonlinearity; 1x1 bottlenecks"
        " and 1x3 with 3x1 save more. Conv layers do most of the operations, fully connected ones hold most of the parameters.",
        "CS231n, convolutional networks",
        (
            Number("side that three 3x3 convs see", nets["three 3x3"].rows[-1].field[0], "7"),
            Number("weights of one 7x7 conv, over C^2", in_c["one 7x7"], "49"),
            Number("weights of three 3x3 convs, over C^2", in_c["three 3x3"], "27"),
            Number(
                "multiply-adds of three 3x3 over those of one 7x7",
                nets["three 3x3"].totals["macs"] / nets["one 7x7"].totals["macs"],
                "",
                "27 / 49",
            ),
            Number("weights of a bottleneck, over C^2", in_c["1x1 to half, 3x3, 1x1 back"], "", "3.25, of 9 for one 3x3"),
            Number("weights of 1x3 and 3x1, over C^2", in_c["1x3, 3x1"], "", "6, of 9"),
            Number("multiply-adds of a depthwise separable conv over a conv's", separable, "", f"1 / C + 1 / 9 = {1 / c + 1 / 9:.4g}"),
        ),
        (
            Table(f"Convs on {c} channels", ("convs", "sees", "nonlinearities", "weights / C^2", "multiply-adds / (H W C^2)"), rows),
            Table("Where nets have their parameters and operations", header, tuple(table)),
        ),
        erratum=" ".join(LECTURE_ERRATA[text] for text in ("vgg_f", "nin", "alexnet2012")),
    )
