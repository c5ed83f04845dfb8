"""docs/errata.md: each figure that it sets right is computed here by the parts it names, or by torch where no part has it."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.lab.catalog import NAMES
from goodfit.losses.kl import Kl
from goodfit.losses.softmax import Softmax
from goodfit.losses.svm import Svm
from goodfit.models.anatomy.account import account_for
from goodfit.models.anatomy.lecture import LECTURE_ERRATA
from goodfit.optim.first_order import Adagrad, Sgd
from goodfit.recipe.parts import load_catalog

PAGE = (Path(__file__).parent.parent / "docs" / "errata.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
CATALOG = load_catalog()
SLIDE = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]], dtype=torch.float64)  # cat, car, frog
RIGHT = torch.eye(3, dtype=torch.float64)


def right(start: str) -> str:
    """What the page says is right where the slide's words start so."""
    (found,) = [row[1] for row in ROWS if row[0].startswith(start)]
    return found


def test_every_part_that_the_page_names_exists() -> None:
    named = [text for row in ROWS for text in re.findall("`([^`]+)`", row[2])]
    kinds = {"describe": "model"}
    for text in named:
        verb, _, model = text.partition(" ")
        if verb == "lab":
            assert model.removeprefix("lessons ") in NAMES
        elif model:
            assert CATALOG.make(model.strip('"'), kinds[verb])
        elif text not in ("describe", "gradcheck"):
            assert any(text.partition("(")[0] in parts for parts in CATALOG.kinds.values()), text
    assert len(named) > 15


@pytest.mark.item("S021", "S029")
def test_losses_of_the_slide() -> None:
    cat = Softmax()(SLIDE[:1], RIGHT[:1]).item()
    assert f"the loss is {cat:.2f}" in right("The softmax loss") and f"{cat / math.log(10):.2f}" == "0.89"
    mean = Svm()(SLIDE, RIGHT).mean().item()
    assert right("The mean SVM loss").startswith(f"{mean:.2f}: 15.8 / 3 = {mean:.4f}")
    assert math.floor(100 * mean) / 100 == 5.26, "which the slide prints"


def test_divergence_is_zero_where_both_agree_and_less_than_the_cross_entropy_by_the_entropy() -> None:
    soft = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    entropy = -(soft * soft.log()).sum().item()
    assert Kl()(soft.log(), soft).item() == pytest.approx(0, abs=1e-12)
    assert Kl()(SLIDE[:1], soft).item() == pytest.approx(Softmax()(SLIDE[:1], soft).item() - entropy)
    assert Kl()(SLIDE[:1], RIGHT[:1]).item() == pytest.approx(Softmax()(SLIDE[:1], RIGHT[:1]).item())


@pytest.mark.item("S044")
def test_the_second_chain_of_the_two_layer_example_is_zero() -> None:
    """The linked example: w5 of 0.4 leads from h1 to o1. Its gradient is that of the first chain; through out_h1 nothing depends on it."""
    inputs, target = torch.tensor([0.05, 0.10], dtype=torch.float64), torch.tensor([0.01, 0.99], dtype=torch.float64)
    first = torch.tensor([[0.15, 0.20], [0.25, 0.30]], dtype=torch.float64)
    w5 = torch.tensor(0.40, dtype=torch.float64, requires_grad=True)
    rest = torch.tensor([0.45, 0.50, 0.55], dtype=torch.float64)
    h = torch.sigmoid(first @ inputs + 0.35)
    net_o1 = w5 * h[0] + rest[0] * h[1] + 0.60
    out = torch.sigmoid(torch.stack([net_o1, rest[1] * h[0] + rest[2] * h[1] + 0.60]))
    error = 0.5 * (target - out).square().sum()
    (gradient,) = torch.autograd.grad(error, w5, retain_graph=True)
    chain = (out[0] - target[0]) * out[0] * (1 - out[0]) * h[0]
    assert gradient.item() == pytest.approx(0.082167041, abs=1e-9) == chain.item()
    assert not h.requires_grad, "out_h1 does not depend on w5: the second chain is 0"
    assert "the second chain is 0" in right("The chain for dE/dw5")


def test_the_sigmoid_neuron_has_a_bias_alone() -> None:
    """The figure of CS231n: w = (2, -3, -3), x = (-1, -2); its gradients -0.20, -0.39 and 0.20 are those without x2."""
    w = torch.tensor([2.0, -3.0, -3.0], dtype=torch.float64, requires_grad=True)
    out = torch.sigmoid(w[0] * -1 + w[1] * -2 + w[2])
    out.backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert out.item() == pytest.approx(0.7311, abs=1e-4)
    np.testing.assert_allclose(w.grad, [-0.1966, -0.3932, 0.1966], atol=1e-4)


# ---- optimizers --------------------------------------------------------------------------------------------------------------------


def first_moves(part: Sgd | Adagrad, gradients: list[float]) -> list[float]:
    """How far a weight moves with each gradient."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = part([{"params": [weight], "lr": part.lr}])
    moves = []
    for gradient in gradients:
        before = weight.item()
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        moves.append(weight.item() - before)
    return moves


@pytest.mark.item("S072")
def test_a_step_of_sgd_goes_down() -> None:
    assert first_moves(Sgd(0.1), [2.0]) == pytest.approx([-0.2])


@pytest.mark.item("S081")
def test_adagrad_divides_by_the_root_of_all_squares() -> None:
    gradients = [3.0, 2.0, 1.0, 0.5]
    factors = [-move for move in first_moves(Adagrad(1.0), gradients)]
    said = [float(x) for x in re.findall(r"[\d.]*\d", right("AdaGrad").partition("factors of")[2].partition(" for ")[0])]
    expected = [g / math.sqrt(sum(x * x for x in gradients[: i + 1])) for i, g in enumerate(gradients)]
    assert factors == pytest.approx(expected, abs=1e-6) and said == pytest.approx(expected, abs=1e-4)


@pytest.mark.item("S092")
def test_an_update_of_bfgs_is_of_rank_two() -> None:
    """The inverse Hessian after one update, less that before: two eigenvalues that are not zero."""
    chance = np.random.default_rng(0)
    s, noise = chance.normal(size=6), chance.normal(size=6)
    y = s + 0.3 * noise
    rho, identity = 1 / (y @ s), np.eye(6)
    updated = (identity - rho * np.outer(s, y)) @ identity @ (identity - rho * np.outer(y, s)) + rho * np.outer(s, s)
    assert np.linalg.matrix_rank(updated - identity, tol=1e-9) == 2


# ---- networks ----------------------------------------------------------------------------------------------------------------------


def totals(model: str, side: int = 224) -> dict[str, float]:
    with torch.device("meta"):
        net: nn.Module = CATALOG.make(model, "model")(1000, 3, (side, side))  # type: ignore[operator]
    return account_for(net, 3, (side, side)).totals


@pytest.mark.item("S160", "S161", "S166")
def test_counts_of_networks() -> None:
    vgg_f, paper, joined = totals("vgg_f"), totals("alexnet2012", 227), totals("alexnet2012(groups=1)", 227)
    assert right("VGG-F").startswith(f"{vgg_f['parameters'] / 1e6:.1f}M and {vgg_f['ops'] / 1e6:.1f}M")
    assert (round(paper["parameters"] / 1e6), round(paper["ops"] / 1e6)) == (61, 725)
    assert f"{joined['parameters'] / 1e6:.1f}M and {joined['macs'] / 1e6:.0f}M" in right("AlexNet")
    nin = [totals("nin", side)["ops"] / 1e6 for side in (224, 227)]
    assert right("NIN") == f"{nin[0]:.0f}M at 224 pixels, {nin[1]:.0f}M at 227."
    assert {"alexnet2012", "alexnet2012(groups=1)", "vgg(16)", "vgg_f", "nin"} <= LECTURE_ERRATA.keys(), "describe says so, too"


@pytest.mark.item("S158")
def test_the_rows_of_vgg_add_up_to_less_than_the_slide_says() -> None:
    sides, channels = [224, 112, 56, 28, 14], [64, 128, 256, 512, 512]
    convs = sum(side**2 * width * count for side, width, count in zip(sides, channels, (2, 2, 3, 3, 3), strict=True))
    pools = sum((side // 2) ** 2 * width for side, width in zip(sides, channels, strict=True))
    total = 224 * 224 * 3 + convs + pools + 2 * 4096 + 1000
    assert f"add up to {total / 1e6:.1f}M ({4 * total / 1e6:.0f} MB)" in right("VGG-16")
    outputs: list[int] = []
    with torch.device("meta"):
        net: nn.Module = CATALOG.make("vgg(16)", "model")(1000, 3, (224, 224))  # type: ignore[operator]
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Linear)):
                layer.register_forward_hook(lambda module, args, out: outputs.append(out.numel()))
        images: Tensor = torch.zeros(1, 3, 224, 224)
        net.eval()(images)
    assert f"{(images.numel() + sum(outputs)) / 1e6:.1f}M" in right("VGG-16")


def test_the_page_is_a_table_of_three() -> None:
    assert all(len(row) == 3 for row in ROWS)
    assert not [a for a, b in itertools.pairwise(ROWS) if a[0] == b[0]]
