"""Gradient checking: right gradients pass to 1e-7, wrong ones are found and named, kinks are neither."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.augment.flip import Flip
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.doctor.gradcheck import STEP, TOLERANCE, Subject, TensorCheck, check_gradients, loss_subject, module_subject
from goodfit.doctor.gradcheck_parts import CHECKED_KINDS, part_subject
from goodfit.losses.softmax import Softmax
from goodfit.losses.svm import Svm
from goodfit.recipe.parts import load_catalog
from tests.support.command import goodfit, refused

MINE = '''
import torch
from torch import Tensor, nn
from goodfit.core.contracts import Activation, Augment, Loss
from goodfit.core.settings import Share
import dataclasses

class Steep(torch.autograd.Function):
    """tanh with a gradient a thousandth too large."""
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()
    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].tanh() ** 2) * 1.001

class Net(nn.Module):
    def __init__(self, classes: int, wide: int = 4):
        super().__init__()
        self.first, self.last = nn.Linear(48, wide), nn.Linear(wide, classes)
    def forward(self, x):
        return self.last(Steep.apply(self.first(x.flatten(1))))

class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()

@dataclasses.dataclass(frozen=True)
class Cube(Activation):
    """x^3."""
    def __call__(self) -> nn.Module:
        return Cubed()

class Cubed(nn.Module):
    def forward(self, x):
        return x**3

@dataclasses.dataclass(frozen=True)
class Detached(Loss):
    """Softmax that forgets a path."""
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.detach().logsumexp(1) - (targets * logits).sum(1)

@dataclasses.dataclass(frozen=True)
class Shift(Augment):
    """The pixels of the neighbor to the left."""
    def __call__(self, batch, chance, t):
        return batch.but(images=batch.images.roll(1, 3))

@dataclasses.dataclass(frozen=True)
class Torn(Augment):
    """The same for a share of the images, copied as words of memory, which backward does not see: it takes the pixels for unmoved."""
    p: Share = 1.0
    def __call__(self, batch, chance, t):
        out = batch.images.clone()
        chosen = chance.chosen(self.p)
        out.detach().view(torch.int64)[chosen] = batch.images.detach().roll(1, 3).contiguous().view(torch.int64)[chosen]
        return batch.but(images=out)

def absolute(logits, targets):
    return (logits - targets).abs().sum(1)
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mine") / "my_parts.py"
    file.write_text(MINE)
    return file


class Wrong(torch.autograd.Function):
    """x, with a gradient that is off by a share given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, off: float) -> Tensor:
        ctx.off = off
        return x * 1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * (1 + ctx.off), None


def of(function: Any, **tensors: Tensor) -> Subject:
    """A subject of one function of its tensors."""
    leaves = {name: x.double().requires_grad_() for name, x in tensors.items()}
    return Subject(leaves, lambda: [function(*leaves.values())])


def only(part_subject: Subject, samples: int = 0) -> TensorCheck:
    (row,) = check_gradients(part_subject, samples)
    return row


# ---- the measure -------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S045")
def test_the_relative_error_of_right_gradients_is_below_1e_7() -> None:
    """|a - n| / max(|a|, |n|) in float64 with h = 1e-5, for scales from tiny to huge."""
    assert (STEP, TOLERANCE) == (1e-5, 1e-7)
    x = torch.linspace(-3, 3, 41)
    for function in (torch.sin, torch.exp, torch.sigmoid, lambda x: x**5, lambda x: 1 / (1 + x**2)):
        for factor in (1e-9, 1.0, 1e9):
            row = only(of(lambda x, f=function, k=factor: k * f(x), x=x))
            assert row.passed and row.error < 1e-7 and row.moved == 41 and row.kinks == 0
    assert only(of(lambda x: (1e-3 / x).sin(), x=x / 1000 + 2e-2)).passed, "the step follows the size of the tensor"


@pytest.mark.item("S045")
def test_the_slopes_are_those_of_the_definition() -> None:
    """Both slopes, printed for the worst number, against calculus in NumPy."""
    x = torch.tensor([0.3, -1.2, 2.0])
    row = only(of(torch.exp, x=x), 0)
    factors = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    expected = factors[row.place] * np.exp(x.double().numpy()[row.place])
    assert row.analytic == pytest.approx(expected, rel=1e-14)
    assert row.numeric == pytest.approx(expected, rel=1e-9)


@pytest.mark.item("S045")
@pytest.mark.parametrize("off", [1e-6, 1e-3, -0.5, 1.0])
def test_a_wrong_gradient_is_found_and_its_error_said(off: float) -> None:
    row = only(of(lambda x: Wrong.apply(x, off).sin(), x=torch.linspace(-1, 1, 9)))
    assert not row.passed
    assert row.error == pytest.approx(abs(off) / max(1.0, 1 + off), rel=1e-2)
    assert row.kinks == 0


def test_the_tensor_that_is_wrong_is_named_and_no_other() -> None:
    rows = check_gradients(of(lambda a, b, c: a.sin() * Wrong.apply(b, 0.01) + c, a=torch.ones(3), b=torch.ones(3), c=torch.ones(3)), 0)
    assert [(row.name, row.passed) for row in rows] == [("a", True), ("b", False), ("c", True)]


def test_a_path_that_backward_forgets_is_found() -> None:
    """The gradient is None, or lacks a term; a tensor that nothing depends on is right to have none."""
    rows = check_gradients(of(lambda a, b, c: a * b.detach(), a=torch.ones(3), b=torch.ones(3), c=torch.ones(3)), 0)
    assert [(row.name, row.passed) for row in rows] == [("a", True), ("b", False), ("c", True)]
    assert (rows[1].analytic, rows[1].error) == (0.0, pytest.approx(1.0))


def test_one_wrong_number_among_many_is_found_when_it_is_steepest_or_all_are_moved() -> None:
    factors = torch.ones(1000)
    factors[137] = 3.0

    def function(x: Tensor) -> Tensor:
        return torch.cat([x[:137], Wrong.apply(x[137:138], 0.1), x[138:]]) * factors

    x = torch.linspace(1, 2, 1000)
    assert not only(of(function, x=x), 0).passed
    assert only(of(function, x=x), 0).place == (137,)
    steep = only(Subject({"x": (leaf := x.double().requires_grad_())}, lambda: [(function(leaf) * factors**8).sum()]), 5)
    assert (steep.passed, steep.place, steep.moved) == (False, (137,), 5)


# ---- kinks -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S045")
@pytest.mark.parametrize("function", [torch.relu, torch.abs, lambda x: x.clamp(-1, 0), lambda x: torch.maximum(x, 2 * x)])
def test_a_kink_is_reported_and_does_not_fail(function: Any) -> None:
    """At 0 the slopes on both sides differ, and backward's is one of those between; elsewhere there is no kink."""
    row = only(of(function, x=torch.tensor([-0.5, 0.0, 0.7])))
    assert (row.passed, row.kinks) == (True, 1)
    assert only(of(function, x=torch.tensor([-0.5, 0.7]))).kinks == 0


def test_a_kink_within_the_step_is_told_from_a_wrong_gradient() -> None:
    near = torch.tensor([0.5, 1e-6, -2e-6], dtype=torch.float64)
    row = only(of(torch.relu, x=near))
    assert (row.passed, row.kinks) == (True, 2)
    assert not only(of(lambda x: Wrong.apply(x.relu(), 0.01), x=near)).passed


def test_a_slope_outside_of_both_sides_is_wrong_at_a_kink_too() -> None:
    assert not only(of(lambda x: Wrong.apply(x, 1.0).abs() + 2 * Wrong.apply(x, 1.0), x=torch.zeros(2))).passed


def test_a_curve_is_no_kink() -> None:
    row = only(of(lambda x: (300 * x).sin(), x=torch.linspace(0.9, 1.1, 20)))
    assert (row.passed, row.kinks) == (True, 0)


# ---- what has no gradient --------------------------------------------------------------------------------------------------------


def test_what_is_no_function_or_not_in_float64_is_refused() -> None:
    class Drawn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rand((), generator=generator)

    generator = torch.Generator()
    for module, words in ((Drawn(), "draws noise from elsewhere"), (Cast(), "received torch.float32"), (Cut(), "received none that do")):
        with pytest.raises(GoodfitError, match=words):
            check_gradients(module_subject(module, torch.ones(2, 3)))
    with pytest.raises(UsageError, match="Linear does not take an input of 2x3"):
        module_subject(nn.Linear(4, 2), torch.ones(2, 3))
    with pytest.raises(UsageError, match=r"one number per example, of shape \[6\], received \[\]"):
        loss_subject(nn.functional.cross_entropy, 3)  # type: ignore[arg-type]


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().sin()


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_result_that_was_rounded_to_float32_is_not_passed_off() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().sin().double()

    assert not check_gradients(module_subject(Rounded(), torch.linspace(-1, 1, 8)[None]), 0)[0].passed


# ---- the catalog -------------------------------------------------------------------------------------------------------------------

KNOWN = load_catalog()


def parts() -> list[tuple[str, str]]:
    return [(kind, name) for kind in CHECKED_KINDS if kind not in ("model", "augment") for name in sorted(KNOWN.kinds.get(kind, {}))]


@pytest.mark.item("S045")
@pytest.mark.parametrize(("kind", "name"), parts())
def test_every_layer_loss_and_penalty_passes(kind: str, name: str) -> None:
    for row in check_gradients(part_subject(KNOWN.make(name, kind), kind, 5, 4, (4, 4)), 12):
        assert row.passed, row
        assert row.error <= 1e-7


ROUNDING = {"autocontrast", "equalize", "gamma", "posterize", "ramp", "rand_augment", "solarize", "trivial_augment"}


@pytest.mark.item("S045")
@pytest.mark.parametrize("text", [*sorted(KNOWN.kinds["augment"]), "rotate(30, border=mean) | flip(0.2) | jitter(0.4) | noise(p=1.0)"])
def test_every_augment_passes_but_those_that_round_pixels(text: str) -> None:
    """By pixels and by targets; of steps a difference would say 0 and backward too, which is not their slope."""
    augment = KNOWN.make(text, "augment")
    if text in ROUNDING:
        with pytest.raises(UsageError, match=rf'^"{re.escape(str(augment))}" rounds pixels to whole levels: .* no gradient to check\.$'):
            part_subject(augment, "augment", 3, 3, (4, 5))
        return
    rows = check_gradients(part_subject(augment, "augment", 3, 3, (4, 5)), 60)
    assert [(row.name, row.passed) for row in rows] == [("pixels", True), ("targets", True)]
    assert all(row.error <= 1e-7 for row in rows) and all(row.analytic for row in rows)


@pytest.mark.item("S045")
def test_the_gradient_of_a_flip_is_flipped_back() -> None:
    """Of each image that was mirrored, in floats of both sizes: rows of whole words, and of others."""
    for dtype, width in ((torch.float32, 4), (torch.float64, 5)):
        pixels = torch.rand(32, 3, 4, width, dtype=dtype, requires_grad=True)
        ids = torch.arange(32)
        out = Pipeline((Flip(),), (4, width))(Batch(pixels * 1, torch.ones(32, 2) / 2, ids), Chance.of(0, ids, "augment"), 0.5).images
        factors = torch.rand_like(out)
        (gradient,) = torch.autograd.grad((out * factors).sum(), pixels)
        is_mirrored = (out != pixels).flatten(1).any(1)
        assert 4 < int(is_mirrored.sum()) < 28
        assert torch.equal(gradient, torch.where(is_mirrored[:, None, None, None], factors.flip(3), factors))


MODELS = [
    "linear",
    "mlp((6, 5), act=tanh, norm=batch, drop=dropout)",
    "mlp((6,), act=relu, norm=layer)",
    "convnet(2)",
    "convnet(2, act=relu, norm=group(2), drop=dropout)",
    "convnet(2, act=maxout(3), norm=layer, drop=dropconnect, pool=fractional_max, order=act_norm)",
    "mlp((6,), act=prelu, drop=gaussian_noise)",
]


@pytest.mark.item("S045")
@pytest.mark.parametrize("text", MODELS)
def test_networks_pass(text: str) -> None:
    rows = check_gradients(part_subject(KNOWN.make(text, "model"), "model", 3, 2, (8, 8)), 3)
    assert rows[0].name == "input"
    assert len(rows) > 2
    for row in rows:
        assert row.passed, row


@pytest.mark.item("S042")
def test_the_affine_layer_of_the_slide() -> None:
    """y = x W, x = [x1 x2], W = [w11; w12] (a column): dL/dx = dL/dy W^T and dL/dW = X^T dL/dY, of the classifier `linear` on an image of
    two pixels, whose `weight` is W^T.
    """
    net: Any = KNOWN.make("linear", "model")(1, 1, (1, 2)).double()  # type: ignore[operator]
    layer = net.head
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 3.0]]))
        layer.bias.zero_()
    x = torch.tensor([[1.0, 4.0]], dtype=torch.float64, requires_grad=True)
    y = net(x.view(1, 1, 1, 2))
    y.backward(torch.tensor([[5.0]], dtype=torch.float64))
    inputs, weights, outer = np.array([[1.0, 4.0]]), np.array([[2.0], [3.0]]), np.array([[5.0]])
    assert y.item() == (inputs @ weights).item() == 14.0
    assert x.grad is not None and layer.weight.grad is not None
    assert np.array_equal(x.grad.numpy(), outer @ weights.T)  # [10, 15]
    assert np.array_equal(layer.weight.grad.numpy(), (inputs.T @ outer).T)  # [5, 20]
    assert np.array_equal(layer.bias.grad.numpy(), outer.sum(0))
    assert all(row.passed and row.error < 1e-9 for row in check_gradients(module_subject(net, torch.randn(4, 1, 1, 2)), 0))


def test_batch_statistics_and_noise_are_the_same_for_every_evaluation() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))
    checked = check_gradients(module_subject(module, torch.randn(5, 6, generator=torch.Generator().manual_seed(3))), 0)
    assert all(row.passed for row in checked)
    assert [row.name for row in checked] == ["input", "0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
    assert int(module[1].num_batches_tracked) <= 1, "statistics are put back"
    assert module[0].weight.grad is None, "nothing is left in .grad"


def test_the_check_leaves_the_tensors_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(6, 3), nn.Sigmoid()).double()
    before = [p.detach().clone() for p in module.parameters()]
    check_gradients(module_subject(module, torch.randn(2, 6)), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_losses_are_checked_on_hard_and_soft_targets() -> None:
    """A loss that is wrong on soft targets alone is found."""

    def hard_only(logits: Tensor, targets: Tensor) -> Tensor:
        loss = Softmax()(logits, targets)
        return torch.where(targets.amax(1) == 1, loss, Wrong.apply(loss, 0.1))

    assert not only(loss_subject(hard_only, 4)).passed  # type: ignore[arg-type]
    assert only(loss_subject(Svm(), 4)).passed
    assert only(loss_subject(Svm(squared=True), 4)).passed


# ---- the command -------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S045")
def test_the_command_passes_and_says_so() -> None:
    said = goodfit("gradcheck", "svm(2.0)", "--classes", "4")
    assert said.code == 0, said
    assert "scores" in said.out and " ok" in said.out and "WRONG" not in said.out
    assert re.search(r"A loss, svm\(2.0\): 1 tensor passed, relative error at most \d\.\de-(0[89]|1\d)(;|\.)", said.out), said.out
    for words in (
        ("linear", "--size", "5x4"),
        ("l1 | l2", "--kind", "penalty"),
        ("gelu",),
        ("dropout(0.3)",),
        ("batch",),
        ("none", "--kind", "norm"),
    ):
        assert goodfit("gradcheck", *words).code == 0, words


def test_the_command_as_json() -> None:
    said = goodfit("gradcheck", "mlp((3,))", "--size", "4", "--samples", "2", "--json")
    found = json.loads(said.out)
    assert (said.code, found["passed"], found["kind"]) == (0, True, "model")
    assert [row["name"] for row in found["tensors"]] == ["input", "layer1.linear.weight", "layer1.linear.bias", "head.weight", "head.bias"]
    assert all(row["moved"] == 2 and 0 <= row["error"] <= found["tolerance"] for row in found["tensors"])


@pytest.mark.item("S045")
def test_the_command_on_modules_and_parts_of_ones_own(mine: Path) -> None:
    """The tensor whose gradient is wrong is named on stderr, the exit code is 1; right ones pass."""
    said = goodfit("gradcheck", "Net(wide=3)", "--use", mine, "--size", "4", "--json")
    rows = {row["name"]: row for row in json.loads(said.out)["tensors"]}
    assert said.code == 1
    assert {name for name, row in rows.items() if not row["passed"]} == {"input", "first.weight", "first.bias"}
    assert said.sentence.startswith("goodfit: The gradient of Net(wide=3) is wrong for 3 tensors: input[")
    assert "first.bias[" in said.sentence and "backward gives" in said.sentence
    said = goodfit("gradcheck", "Net(wide=3)", "--use", mine, "--size", "4")
    passed, wrong = (max(row["error"] for row in rows.values() if row["passed"] == is_right) for is_right in (True, False))
    assert f"A model, Net(wide=3): {len(rows) - 3} of {len(rows)} tensors passed, relative error at most {passed:.1e}" in said.out, said
    assert passed < TOLERANCE < wrong, "the summary says nothing of the wrong ones"
    assert goodfit("gradcheck", "detached", "--use", mine).code == 1
    for text in ("flip | torn", "torn(0.005)"):  # one that seldom acts is shown at work
        said = goodfit("gradcheck", text, "--use", mine)
        assert said.code == 1 and said.sentence.startswith(f"goodfit: The gradient of {text} is wrong for 1 tensor: pixels["), said
    for words in (("Swish", "--size", "4"), ("cube",), ("torch.nn.Softplus", "--size", "3"), ("absolute", "--kind", "loss"), ("shift",)):
        assert goodfit("gradcheck", *words, "--use", mine).code == 0, words


def test_the_command_refuses_what_it_cannot_check(mine: Path) -> None:
    refused(goodfit("gradcheck", "sgd"), 2, '"sgd" is an optimizer, which has no gradient to check')
    refused(goodfit("gradcheck", "flip | gamma"), 2, '"flip | gamma" rounds pixels to whole levels')
    refused(goodfit("gradcheck", "none"), 2, "an activation", "a norm", "--kind")
    refused(goodfit("gradcheck", "convnett"), 2, 'Did you mean "convnet"?')
    refused(goodfit("gradcheck", "svm", "--kind", "optimizer"), 2, "Unknown kind with a gradient", "model, loss")
    refused(goodfit("gradcheck", "svm", "--kind", "model"), 2, 'Unknown model "svm"')
    refused(goodfit("gradcheck", "svm", "--classes", "1"), 2, "--classes of 2 or more")
    refused(goodfit("gradcheck", "torch.nn.Nothing"), 2, "does not import")
    refused(goodfit("gradcheck", "Net", "--use", mine, "--size", "5"), 2, "Net does not take an input of 4x3x5x5")
