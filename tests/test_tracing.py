"""The tracer: the gradients of every node are autograd's, whatever torch computes, and text is read without being run."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodfit.lab
from goodfit.core.errors import UsageError
from goodfit.lab.expression import FUNCTIONS, MAX_CHARACTERS
from goodfit.lab.graph import ROLE_OF
from goodfit.lab.tracing import trace, trace_network
from goodfit.recipe.parts import load_catalog, make_model

CATALOG = load_catalog()
NETS = ("mlp((5, 4), act=maxout)", "convnet(4)", "resnet(20)", "swift(8)", "mobilenet_v2", "mlp((6,), act=tanh, norm=layer)")


# ---- expressions ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S037")
def test_the_slides_expression() -> None:
    graph = goodfit.lab.trace("(x + y) * z", {"x": -2, "y": 5, "z": -4})
    nodes = {node.name: (float(node.value), float(graph.gradient_of(node.name)), node.role) for node in graph.nodes}
    assert nodes == {
        "x": (-2, -4, ""), "y": (5, -4, ""), "z": (-4, 3, ""), "x + y": (3, -4, "distributes"), "(x + y) * z": (-12, 1, "switches"),
    }  # fmt: skip
    product = graph["(x + y) * z"]
    assert (product.operation, product.inputs, product.local) == ("mul", ("x + y", "z"), (-4, 3))
    assert [float(share) for share in product.passed if share is not None] == [-4, 3]
    assert str(graph).splitlines()[-1].split()[:5] == ["(x", "+", "y)", "*", "z"]


@pytest.mark.parametrize(
    ("text", "values", "derivatives"),
    [
        ("x * x", {"x": 3.0}, (6.0,)),
        ("x ** 3 - 2 ** x / x", {"x": 2.0}, (12 - (4 * math.log(2) / 2 - 4 / 4),)),
        ("-exp(x) + log(y) + sqrt(y)", {"x": 0.5, "y": 4.0}, (-math.exp(0.5), 0.25 + 0.25)),
        ("sin(x) * cos(y)", {"x": 0.3, "y": 0.8}, (math.cos(0.3) * math.cos(0.8), -math.sin(0.3) * math.sin(0.8))),
        ("tanh(x)", {"x": 0.3}, (1 / math.cosh(0.3) ** 2,)),
        ("sigmoid(x) + relu(y) + abs(z)", {"x": 0.0, "y": -1.0, "z": -2.0}, (0.25, 0.0, -1.0)),
        ("max(x, y, 2) + min(x, y)", {"x": 1.0, "y": 3.0}, (1.0, 1.0)),
        ("3 * (2 - 1) / x", {"x": 2.0}, (-0.75,)),
        ("x", {"x": 5.0}, (1.0,)),
    ],
)  # fmt: skip
def test_derivatives_of_expressions(text: str, values: dict[str, float], derivatives: tuple[float, ...]) -> None:
    graph = trace(text, values)
    assert [float(graph.gradient_of(name)) for name in values] == pytest.approx(derivatives)


@pytest.mark.item("S039", "S041")
def test_local_gradients_multiply_along_the_chain() -> None:
    graph = trace("1 / (1 + exp(-x))", {"x": 0.7})
    slopes = [node.local[0] for node in graph.nodes if node.inputs]
    assert np.prod(slopes) == pytest.approx(float(graph.gradient_of("x")))
    moved = [float(trace("1 / (1 + exp(-x))", {"x": 0.7 + side}).nodes[-1].value) for side in (1e-6, -1e-6)]
    assert float(graph.gradient_of("x")) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-8)


@pytest.mark.item("S040")
def test_a_variable_used_twice_gets_the_sum_and_each_use_its_own_slope() -> None:
    graph = trace("x * x + x", {"x": 3.0})
    assert graph["x * x"].local == (3, 3) and float(graph.gradient_of("x")) == 7
    assert graph["x * x"].inputs == ("x", "x")
    repeated = trace("x * x + x * x", {"x": 3.0})
    assert [node.name for node in repeated.nodes] == ["x", "x * x", "x * x #2", "x * x + x * x"]


@pytest.mark.parametrize(
    ("text", "values", "says"),
    [
        ("(x + y", {"x": 1.0}, "does not read"),
        ("", {}, "does not read"),
        ("x + y", {"x": 1.0}, "received none for y: give --set y=1"),
        ("x", {"x": 1.0, "z": 1.0}, "received z"),
        ("1 + 2", {}, "does not depend on them"),
        ("__import__('os')", {}, "Unknown function"),
        ("x.__class__", {"x": 1.0}, 'found "x.__class__"'),
        ("(lambda: x)()", {"x": 1.0}, "found"),
        ("[x for x in y]", {"x": 1.0, "y": 1.0}, "found"),
        ("'x' + x", {"x": 1.0}, "found \"'x'\""),
        ("True + x", {"x": 1.0}, 'found "True"'),
        ("1j * x", {"x": 1.0}, 'found "1j"'),
        ("expo(x)", {"x": 1.0}, "did you mean"),
        ("exp(x, x)", {"x": 1.0}, "Expected one argument for exp, received 2"),
        ("max(x)", {"x": 1.0}, "Expected two or more for max, received 1"),
        ("exp(x=1)", {"x": 1.0}, "found"),
        ("x if x else x", {"x": 1.0}, "found"),
        ("x // 2", {"x": 1.0}, "found"),
        ("9 ** 9 ** 9 * x", {"x": 1.0}, "no finite number"),
        ("x + 1 / 0", {"x": 1.0}, "no finite number"),
        ("x + (-8) ** 0.5", {"x": 1.0}, "no finite number"),
        ("x" + "+x" * MAX_CHARACTERS, {"x": 1.0}, "characters"),
        ("(" * 900 + "x" + ")" * 900, {"x": 1.0}, "does not read"),
    ],
)
def test_text_that_is_no_expression_is_refused_in_a_sentence(text: str, values: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError) as error:
        trace(text, values)
    assert says.lower() in str(error.value).lower()


def test_what_is_not_finite_is_none_in_json() -> None:
    content = trace("x * log(y)", {"x": 1.0, "y": 0.0}).to_dict()["nodes"]
    assert content[2]["value"] is None and content[2]["local"] == [None] and content[1]["received"] is None
    assert "Infinity" not in json.dumps(content) and "NaN" not in json.dumps(content)


def test_every_function_has_a_derivative_here() -> None:
    for name in FUNCTIONS:
        text = f"{name}(x, 3)" if name in ("max", "min") else f"{name}(x)"
        assert math.isfinite(float(trace(text, {"x": 0.4}).gradient_of("x")))


# ---- functions and modules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NETS)
def test_networks_have_autograds_gradients(text: str) -> None:
    torch.manual_seed(0)
    net, images = make_model(CATALOG.make(text, "model"), 3, 3, (8, 8)).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = trace(net, images)
    x = images.clone().requires_grad_()
    output = net(x)
    (output[0] if isinstance(output, tuple) else output).sum().backward()
    torch.testing.assert_close(graph.gradient_of("input"), x.grad)
    for name, p in net.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(graph.gradient_of(name), p.grad, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(graph.nodes[-1].value, output[0] if isinstance(output, tuple) else output)


def test_a_module_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2))
    before = {name: x.clone() for name, x in net.state_dict().items()}
    trace(net, torch.randn(3, 1, 4, 4))
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def change_in_place(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    z += x
    z.mul_(y)
    z[0] = y[1]
    F.relu(z, inplace=True)
    return (z * z).sum()


def use_several_outputs(x: Tensor, y: Tensor) -> Tensor:
    first, second = torch.stack([x, y]).chunk(2)
    largest, places = (first * second).max(dim=1)
    return (largest + places).sum() + torch.cat([first, second]).T[0].prod()


def stop_gradient(x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.norm()
    return (scale * y + x.detach() * x).sum()


def change_without_gradient(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    with torch.no_grad():
        z.clamp_(max=1.0)
    return (z * z).sum()


@pytest.mark.parametrize("function", [change_in_place, use_several_outputs, stop_gradient, change_without_gradient])
def test_functions_of_any_operations_have_autograds_gradients(function: object) -> None:
    values = {"x": torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), "y": torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)}
    graph = trace(function, values)  # type: ignore[arg-type]
    leaves = {name: x.clone().requires_grad_() for name, x in values.items()}
    output = function(**leaves)  # type: ignore[operator]
    output.backward()
    assert float(graph.nodes[-1].value) == pytest.approx(float(output.detach()))
    for name, x in leaves.items():
        torch.testing.assert_close(graph.gradient_of(name), x.grad)


def test_dropout_is_drawn_once() -> None:
    torch.manual_seed(0)
    graph = trace(nn.Dropout(0.5).train(), torch.ones(1000, dtype=torch.float64))
    torch.testing.assert_close(graph.gradient_of("input"), graph["dropout"].value)


def test_parameters_of_a_function_become_nodes() -> None:
    layer = nn.Linear(3, 2).double()
    graph = trace(lambda x: layer(x).square().sum(), {"x": torch.ones(3, dtype=torch.float64)})
    assert [node.operation for node in graph.nodes] == ["input", "parameter", "parameter", "linear", "square", "sum"]
    assert graph.gradient_of("parameter").shape == (2, 3) and graph["linear"].role == "switches"


def test_what_cannot_be_traced_is_said() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            return 2 * gradients[0]

    with pytest.raises(UsageError, match=r"autograd\.Function"):
        trace(lambda x: Double.apply(x) + 1, {"x": torch.ones(2)})
    with pytest.raises(UsageError, match="does not depend"):
        trace(lambda x: torch.ones(2), {"x": torch.ones(2)})
    with pytest.raises(UsageError, match="does not depend"):
        trace(lambda x: 3.0, {"x": torch.ones(2)})  # type: ignore[arg-type, return-value]


@pytest.mark.item("S040")
def test_roles_of_gates_are_what_gradients_do() -> None:
    """A distributor passes on what it gets, a router to the largest alone, a switcher times the other input."""
    for x, y, g in itertools.product((2.0, -1.0), (0.5, 3.0), (1.0, -2.0)):
        shares = {}
        for text in ("x + y", "max(x, y)", "x * y"):
            node = trace(f"{g} * ({text})", {"x": x, "y": y})[text]
            shares[node.role] = [float(share) for share in node.passed if share is not None]
        assert shares == {"distributes": [g, g], "routes": [g * (x > y), g * (y > x)], "switches": [g * y, g * x]}
    assert set(ROLE_OF.values()) == {"distributes", "routes", "switches", "passes"}


def test_infinity_is_said_and_null_in_json() -> None:
    graph = trace("1 / x", {"x": 0.0})
    assert str(graph).splitlines()[1].split() == ["x", "input", "0", "-inf"]
    assert graph.to_dict()["nodes"][0]["received"] is None


def test_names_are_numbered_and_free_again_after_a_rename() -> None:
    graph = trace(lambda x: (x + 1) + (x + 2) + (x + 3), {"x": 1.0})
    assert [node.name for node in graph.nodes] == ["x", "add", "add #2", "add #3", "add #4", "add #5"]


def test_a_part_is_traced_to_its_loss() -> None:
    graph = trace_network("convnet(2)")
    assert graph.nodes[-1].value.ndim == 0 and 0.9 < float(graph.nodes[-1].value) < 1.4, "near ln 3"
    assert all(node.received is not None for node in graph.nodes if node.operation == "parameter")
    assert graph.to_dict() == trace_network("convnet(2)").to_dict()
    with pytest.raises(UsageError, match="at least 8x8 pixels"):
        trace_network("alexnet", "2")


def test_a_function_of_torch_itself_is_traced() -> None:
    graph = trace(torch.sigmoid, torch.zeros(2, dtype=torch.float64))
    assert graph.gradient_of("input").tolist() == [0.25, 0.25] and graph["sigmoid"].role == "scales"
