"""Each lesson's numbers, against those of the slides and formulas in NumPy, scipy and scikit-learn; and each is drawn everywhere."""

from __future__ import annotations

import ast
import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from sklearn.linear_model import ElasticNet, Ridge
from sklearn.neighbors import KNeighborsClassifier

import goodfit.lab
from goodfit.lab.catalog import NAMES, list_lessons, run_lesson
from goodfit.lab.lesson import Lesson
from goodfit.lab.lessons import (
    approximation,
    convolution,
    dropout,
    elastic_net,
    nearest,
    optimizers,
    regression,
    svm_gradient,
    two_layer,
    workers,
)
from goodfit.lab.lessons import descent as descent_lesson
from goodfit.report.charts import Chart, Series, describe_chart
from goodfit.report.pages.lesson import render_lesson
from goodfit.terminal.lesson import format_lesson
from tests.support.fake_run import Page

FILES = Path(str(goodfit.lab.__file__)).parent / "lessons"
DOCS = Path(__file__).parent.parent / "docs"
ERRATA = (DOCS / "errata.md").read_text(encoding="utf-8")


@functools.cache
def learn(name: str) -> Lesson:
    """Compute a lesson, and see that it is written to JSON, to the terminal and as a page, numbers and pictures alike."""
    lesson = run_lesson(name)
    content = lesson.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False))["title"] == list_lessons()[name]
    text, page = "\n".join(format_lesson(content)), render_lesson(content, lesson.charts)
    for number in lesson.numbers:
        assert number.name in text and number.printed in text
    assert page.count('class="chart"') == len(lesson.charts) and "<script src" not in page and "http://" not in page.split("<footer>")[0]
    assert all(chart.title in text for chart in lesson.charts)
    assert (f"Erratum: {lesson.erratum}" in text) == bool(lesson.erratum)
    return lesson


def errs(lesson: Lesson, start: str) -> str:
    """The correction on the page of errata of the slide whose words start so; the lesson says that the slide errs, too."""
    assert lesson.erratum
    (right,) = [line.split("|")[2].strip() for line in ERRATA.splitlines() if line.startswith(f"| {start}")]
    return right


def test_every_file_is_a_lesson_in_the_list() -> None:
    assert sorted(NAMES) == sorted(file.stem for file in FILES.glob("*.py") if file.stem != "__init__")
    for name, title in list_lessons().items():
        assert title == (ast.get_docstring(ast.parse((FILES / f"{name}.py").read_text())) or "").splitlines()[0]
        assert re.fullmatch(r"[A-Z].*\.", title)


def test_the_page_lists_every_lesson_with_its_title() -> None:
    page = (DOCS / "lessons.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (.*) \| [a-z -]+ \|$", page, re.MULTILINE) == list(list_lessons().items())


def test_every_lesson_has_a_test_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'learn("{name}")' not in source] == []


@pytest.mark.item("S202", "S011")
def test_scores() -> None:
    lesson = learn("scores")
    assert lesson["same answers by W x + b as by probabilities"] == 1
    assert lesson["test accuracy by W x + b"] > 0.9
    assert lesson["numbers kept for the test"] == 10 * 64 + 10
    assert lesson["weights for CIFAR-10"] == 30_720 == lesson["rows of W for CIFAR-10"] * lesson["columns of W for CIFAR-10"]


@pytest.mark.item("S018", "S019", "S020", "S021", "S028", "S029")
def test_losses() -> None:
    lesson = learn("losses")
    scores = np.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    for image, name in enumerate(("cat", "car", "frog")):
        margins = scores[image] - scores[image, image] + 1
        assert lesson[f"SVM loss of the {name}"] == pytest.approx(np.maximum(0, np.delete(margins, image)).sum())
    p = np.exp(scores[0]) / np.exp(scores[0]).sum()
    assert lesson["softmax loss of the cat"] == pytest.approx(-np.log(p[0]))
    assert lesson["the same with the logarithm to base 10"] == pytest.approx(0.886115, abs=1e-6)
    assert f"{lesson['mean SVM loss']:.2f}" in errs(lesson, "The mean SVM loss") and "2.04" in errs(lesson, "The softmax loss")
    for number in lesson.numbers:  # all others are as printed
        if number.printed and number.name not in ("mean SVM loss", "softmax loss of the cat"):
            digits = len(number.printed.partition(".")[2])
            assert f"{number.value:.{digits}f}" == number.printed


@pytest.mark.item("S198")
def test_gradient_of_the_whole_svm_loss() -> None:
    lesson = learn("svm_gradient")
    w, x = svm_gradient.WEIGHTS.numpy(), svm_gradient.IMAGES.numpy()
    expected = 2 * svm_gradient.STRENGTH * w
    for i in range(3):
        margins = w @ x[i] - w[i] @ x[i] + 1
        for j in range(3):
            if j != i and margins[j] > 0:
                expected[j] += x[i] / 3
                expected[i] -= x[i] / 3
    found = np.array(list(lesson.table("Gradient by W").values()), dtype=float)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert lesson["largest distance from central differences"] < 1e-8
    assert "lambda" in errs(lesson, "The loss whose gradient is wanted")


@pytest.mark.item("S037", "S038", "S039", "S040", "S041")
def test_backpropagation() -> None:
    lesson = learn("backprop")
    assert [lesson[name] for name in ("q = x + y", "f = (x + y) z", "df/dx", "df/dy", "df/dz")] == [3, -12, -4, -4, 3]
    assert lesson["sigmoid neuron"] == pytest.approx(0.731059, abs=1e-6)
    found = [lesson[f"its gradient by {name}"] for name in ("w0", "x0", "w1", "x1", "w2")]
    assert found == pytest.approx([-0.1966, 0.3932, -0.3932, -0.5898, 0.1966], abs=1e-4)
    local = {name: row[1] for name, row in lesson.table("Local gradients at x = 2").items()}
    assert local == pytest.approx({"exp(x)": math.exp(2), "3 * x": 3, "1 / x": -0.25, "1 + x": 1})
    gates = lesson.table("Gates at x = 4, y = -1, for a gradient of 2")
    assert gates == {"x + y": ("distributes", 2, 2), "max(x, y)": ("routes", 2, 0), "x * y": ("switches", -2, 8)}
    chain = lesson["dz/dx = dz/dy dy/dx"]
    assert chain == pytest.approx(lesson["dz/dy for z = exp(y)"] * lesson["dy/dx for y = 3 x"]) == pytest.approx(3 * math.exp(1.5))
    assert chain == pytest.approx(lesson["dz/dx by central differences"], rel=1e-8)
    assert "w2 alone" in errs(lesson, "The sigmoid neuron")


@pytest.mark.item("S042")
def test_affine_layer() -> None:
    lesson = learn("affine")
    x, w, above = np.array([[1, 4], [-2, 0.5], [3, -1]]), np.array([[2.0], [3.0]]), np.array([[5.0], [-1.0], [2.0]])
    np.testing.assert_array_equal(list(lesson.table("dL/dX").values()), above @ w.T)
    np.testing.assert_array_equal(list(lesson.table("dL/dW").values()), x.T @ above)
    assert lesson["y of the first image"] == (x[:1] @ w).item() == 14


def step_by_hand(in_turn: bool, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
    """The error, outputs and second weights of the tutorial's net after some steps, by its formulas or with its hidden layer last."""
    i, t = np.array([0.05, 0.10]), np.array([0.01, 0.99])
    first, second = np.array([[0.15, 0.20], [0.25, 0.30]]), np.array([[0.40, 0.45], [0.50, 0.55]])

    def run() -> tuple[np.ndarray, np.ndarray]:
        h = 1 / (1 + np.exp(-(first @ i + 0.35)))
        return h, 1 / (1 + np.exp(-(second @ h + 0.60)))

    for _ in range(steps):
        h, o = run()
        delta = (o - t) * o * (1 - o)
        updated = second - 0.5 * np.outer(delta, h)
        back = (updated if in_turn else second).T @ delta * h * (1 - h)
        first, second = first - 0.5 * np.outer(back, i), updated
    _, o = run()
    return 0.5 * ((t - o) ** 2).sum(), o, second


@pytest.mark.item("S043", "S044")
def test_two_layers() -> None:
    lesson = learn("two_layer")
    assert lesson["error at first"] == pytest.approx(0.298371109, abs=5e-10)
    assert lesson["dE/dw5"] == pytest.approx(0.082167041, abs=5e-10)
    for k, printed in enumerate(two_layer.PRINTED):
        assert lesson[f"w{k + 1} after a step"] == pytest.approx(float(printed), abs=1e-8)
    assert lesson["error after a step"] == pytest.approx(step_by_hand(False, 1)[0]) == pytest.approx(0.29102777, abs=1e-8)
    in_turn = lesson["the same, passed back through the new w5 to w8"]
    assert in_turn == pytest.approx(step_by_hand(True, 1)[0], abs=1e-12) == pytest.approx(0.291027924, abs=5e-10)
    error, _, _ = step_by_hand(False, 9999)
    assert lesson["error after 9,999 steps"] == pytest.approx(error, rel=1e-9) == pytest.approx(3.51085e-5, abs=1e-10)
    assert lesson["output o1 after 10,000"] == pytest.approx(0.0159136, abs=1e-7)
    assert step_by_hand(True, 10_000)[1] == pytest.approx([0.015912196, 0.984065734], abs=1e-8), "which the tutorial prints"
    chain = lesson.table("The chain to w5")
    assert chain["product"][0] == pytest.approx(0.082167041, abs=5e-10) and chain["product"][1] == 0
    assert math.prod(float(row[0]) for name, row in chain.items() if name != "product") == pytest.approx(float(chain["product"][0]))
    assert chain["dnet_o1/dw5 (copy: dout_h1/dw5)"][1] == 0, "w5 does not lead to h1"
    assert "the second chain is 0" in errs(lesson, "The chain for dE/dw5")
    assert "0.291027774" in errs(lesson, "The linked tutorial")


@pytest.mark.item("S046", "S089", "S072")
def test_descent() -> None:
    lesson = learn("descent")
    assert [lesson[name] for name in ("5 - (2)", "3 - (4)", "-1 - (-0.5)")] == [3, -1, -0.5]
    for rate, last in ((0.01, 0.3354), (0.3, 0.00864), (0.6, 0.524)):
        x, y = 0.0, 0.0
        for _ in range(20):
            x, y = x - rate * (2 * x * (x * x - y) + x - 1), y - rate * (y - x * x)
        found = lesson[f"loss after 20 steps at rate {rate:g}"]
        assert found == pytest.approx(0.5 * (x * x - y) ** 2 + 0.5 * (x - 1) ** 2) == pytest.approx(last, rel=1e-3)
    heights = [s for s in lesson.charts[0].series if s.style == "whisker"]
    for series, level in zip(heights, descent_lesson.LEVELS, strict=True):
        on_it = [float(descent_lesson.valley(torch.tensor([x, y]))) for x, y in series.points if y is not None]
        assert len(on_it) > 10 and on_it == pytest.approx([level] * len(on_it), rel=0.2, abs=0.01)


@pytest.mark.item("S193", "S196")
def test_regression() -> None:
    lesson = learn("regression")
    inputs, outputs = (x.numpy() for x in regression.draw_examples())
    expected, (total,), *_ = np.linalg.lstsq(inputs, outputs[:, 0], rcond=None)
    for name, w in zip(("slope of x1", "slope of x2", "constant"), expected, strict=True):
        closed, *iterated, true = lesson.table("Weights")[name]
        assert closed == pytest.approx(w) and iterated == pytest.approx([w] * 3, abs=1e-4) and true == pytest.approx(w, abs=0.2)
    assert lesson["loss of the closed form"] == pytest.approx(total / len(inputs))
    assert lesson["steps of newton to 1e-06 of it"] == 1 < lesson["steps of sgd to 1e-06 of it"] < lesson["steps of adam to 1e-06 of it"]
    dots, fitted = lesson.charts[0].series
    slope, constant = np.polyfit(*zip(*dots.points, strict=True), 1)
    assert fitted.points[-1][1] == pytest.approx(constant + slope * len(dots.points)), "tomorrow's price"


@pytest.mark.item("S194")
def test_taylor() -> None:
    lesson = learn("taylor")
    # At (.2, .9): J = .5 (x^2 - y)^2 + .5 (x - 1)^2, its gradient and its Hessian by hand.
    x, y = 0.2, 0.9
    value, slope = 0.5 * (x * x - y) ** 2 + 0.5 * (x - 1) ** 2, np.array([2 * x * (x * x - y) + x - 1, y - x * x])
    hessian = np.array([[6 * x * x - 2 * y + 1, -2 * x], [-2 * x, 1]])
    for length, row in lesson.table("Taylor expansion of the bent valley").items():
        moved = float(length) * np.array([1.0, 0.5])
        a, b = x + moved[0], y + moved[1]
        true = 0.5 * (a * a - b) ** 2 + 0.5 * (a - 1) ** 2
        first = value + moved @ slope
        assert row == pytest.approx((true, abs(true - first), abs(true - first - moved @ hessian @ moved / 2)), abs=1e-12)
    assert lesson["error of first order, from a step to half of it, falls by"] == pytest.approx(4, rel=0.1)
    assert lesson["distance of a gradient step from the minimum of the linear expansion"] < 1e-12
    assert lesson["loss of a quadratic after one Newton step"] < 1e-20
    assert lesson["loss of it after one gradient step"] > 1
    assert lesson["loss of the bent valley after 20 Newton steps"] < 1e-20 < lesson["loss of it after 20 gradient steps"]


@pytest.mark.item("S195")
def test_condition_number() -> None:
    lesson = learn("conditioning")
    rows = lesson.table("Steps to 1e-06 from the minimum")
    for asked, (found, contraction, sgd, newton, beyond) in rows.items():
        assert found == pytest.approx(float(asked)) and newton == 1 and beyond == "grows"
        assert contraction == pytest.approx((float(asked) - 1) / (float(asked) + 1))
        if float(asked) > 1:
            assert sgd == pytest.approx(math.log(1e-6 / math.sqrt(2)) / math.log(float(contraction)), rel=0.05)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 2, generator=generator).double().numpy() * [1.0, 30.0]
    assert lesson["condition number, inputs of sizes 1 and 30"] == pytest.approx(np.linalg.cond(inputs.T @ inputs))
    assert lesson["condition number, the same inputs normalized"] < 2


@pytest.mark.item("S087")
@pytest.mark.thorough
def test_optimizers() -> None:
    lesson = learn("optimizers")
    rows = lesson.table("Steps to a loss of 0.01, at the best of 5 rates")
    assert len(rows) == 15 and all(rate in optimizers.RATES for rate, *_ in rows.values())
    w = np.array(optimizers.SURFACES["ravine"][1])
    rate, steps, last = (float(x) for x in rows["ravine, sgd"])
    values = []
    for _ in range(optimizers.STEPS + 1):
        values.append(0.5 * (w[0] ** 2 + 20 * w[1] ** 2))
        w = w - rate * np.array([w[0], 20 * w[1]])
    assert last == pytest.approx(values[-1]) and max(k for k, value in enumerate(values) if value > 0.01) + 1 == steps
    assert float(rows["banana, momentum"][1]) < optimizers.STEPS and math.isnan(float(rows["banana, sgd"][1]))
    assert lesson["distance of sgd from the saddle point, begun on its ridge"] < 1e-6 and lesson["loss there"] == pytest.approx(0.25)
    assert len(lesson.charts) == 9
    assert all(len([s for s in c.series if s.style != "whisker"]) == 5 for c in lesson.charts if not c.choices)


@pytest.mark.item("S187")
@pytest.mark.parametrize("surface", optimizers.SURFACES)
def test_a_slider_moves_a_race_through_the_rates(surface: str) -> None:
    """At each rate the reader sees every optimizer's way at that rate, by the formulas in NumPy for sgd and momentum, and the surface."""
    (chart,) = [chart for chart in learn("optimizers").charts if chart.title.startswith(f"The race on the {surface}")]
    (data,) = Page(render_lesson(learn("optimizers").to_dict(), [chart])).charts().values()
    assert (data["slider"], data["choices"]) == ("learning rate", [f"{rate:g}" for rate in optimizers.RATES])
    assert {s["style"] for s in data["series"] if not s["choice"]} == {"whisker"}, "the contours are always there"
    function, start, ((left, right), (bottom, top)), _ = optimizers.SURFACES[surface]
    for rate in optimizers.RATES:
        ways = {s["label"]: (s["x"], s["y"]) for s in data["series"] if s["choice"] == f"{rate:g}"}
        assert list(ways) == ["sgd", "momentum", "adagrad", "rmsprop", "adam"]
        for racer, momentum in (("sgd", 0.0), ("momentum", 0.9)):
            w, v, points = torch.tensor(start, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), []
            while left <= w[0] <= right and bottom <= w[1] <= top and len(points) <= optimizers.RACE_STEPS:
                points.append(w.tolist())
                v = momentum * v + torch.autograd.functional.jacobian(function, w)  # type: ignore[no-untyped-call]
                w = w - rate * v
            np.testing.assert_allclose(np.array(ways[racer]).T, points, rtol=1e-5, atol=1e-9)


def test_a_chart_is_described_as_it_is_at_first() -> None:
    series = tuple(Series(f"at {k}", [(0.0, k), (1.0, k)], choice=str(k)) for k in (1, 2))
    said = describe_chart(Chart("A chart", series, slider="k", choices=("1", "2")))
    assert "at 1 from 1 to 1" in said and "at 2" not in said


@pytest.mark.item("S096")
def test_workers() -> None:
    """Averaging every step is the step on all images; averaged every 20 steps, nets are those of a plain loop of torch's."""
    lesson = learn("workers")
    assert lesson["largest difference of their weights from those of one"] < 1e-10
    assert lesson["of 4 workers that average every step"] == pytest.approx(lesson["loss of one worker on all images"], rel=1e-9)
    rows = lesson.table("4 workers, 120 steps of SGD, on 400 digits")
    assert [row[0] for row in rows.values()] == [120, 24, 6, 1]
    apart = [float(row[1]) for row in rows.values()]
    assert apart == sorted(set(apart)), "the longer they are alone, the farther apart they are"
    images = workers.read_digits(workers.IMAGES)
    x, labels = images.images.double(), images.targets.argmax(1)
    nets = [workers.make_net() for _ in range(4)]
    for step in range(1, workers.STEPS + 1):
        for k, net in enumerate(nets):
            gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(net(x[k::4]), labels[k::4]), list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), gradients, strict=True):
                    p.sub_(workers.RATE * g)
        if step % 20 == 0:
            with torch.no_grad():
                for ps in zip(*(net.parameters() for net in nets), strict=True):
                    mean = torch.stack(ps).mean(0)
                    for p in ps:
                        p.copy_(mean)
    scores = nets[0](x).detach()
    assert rows["20"][2] == pytest.approx(float(torch.nn.functional.cross_entropy(scores, labels)), rel=1e-8)
    assert rows["20"][3] == pytest.approx(float((scores.argmax(1) == labels).double().mean()))
    assert "pulls" in errs(lesson, "EASCS")


@pytest.mark.item("S016")
def test_perceptron() -> None:
    lesson = learn("perceptron")
    assert lesson["AND by a perceptron"] == lesson["OR by a perceptron"] == lesson["XOR by two layers"] == 1
    assert lesson["XOR by a perceptron"] <= lesson["XOR by the best line"] == 0.75
    places = [xy for s in lesson.charts[-1].series if s.label == "region of class 1" for xy in s.points]
    assert any(x > 0.8 and y < 0.2 for x, y in places if y is not None) and any(x < 0.2 and y > 0.8 for x, y in places if y is not None)


@pytest.mark.item("S017")
@pytest.mark.thorough
def test_universal_approximation() -> None:
    lesson = learn("approximation")
    errors = [float(row[0]) for row in lesson.table("Fit of sin x, two periods").values()]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.3 and errors[-1] < 0.005
    weights = approximation.fit_widths()[3].numpy()
    x = np.linspace(-2 * np.pi, 2 * np.pi, 101)
    slopes, shifts, outs = weights[:-1].reshape(3, 3)
    fitted = np.tanh(x[:, None] * slopes + shifts) @ outs + weights[-1]
    assert ((fitted - np.sin(x)) ** 2).mean() == pytest.approx(errors[2])


@pytest.mark.item("S048", "S053", "S047", "S050", "S051")
def test_saturation() -> None:
    lesson = learn("saturation")
    slopes = lesson.table("Local gradient of an activation")
    assert slopes["sigmoid"] == pytest.approx((4.54e-5, 0.25, 4.54e-5), rel=1e-3)
    assert slopes["tanh"] == pytest.approx((8.2446e-9, 1, 8.2446e-9), rel=1e-3) and slopes["relu"] == (0, 0, 1)
    assert slopes["elu"][0] == pytest.approx(math.exp(-10))
    assert lesson["largest gradient by the weights of a dead unit"] == lesson["largest change of its weights in training"] == 0
    assert lesson["of all other units"] > 0 < lesson["change of all others"]
    shares = [number.value for number in lesson.numbers if number.name.startswith("dead units")]
    assert shares == sorted(shares) and shares[0] < 0.1 and shares[-1] > 0.9
    assert "0.01" in errs(lesson, "Leaky ReLU")


@pytest.mark.item("S060", "S061", "S062", "S063", "S064")
def test_initialization() -> None:
    lesson = learn("initialization")
    names = ("tanh, std 0.01", "tanh, std 1", "tanh, xavier", "tanh, lsuv", "relu, xavier", "relu, he")
    stds = np.array(list(lesson.table("Standard deviation of the activations").values()), dtype=float)
    first, last = dict(zip(names, stds[0], strict=True)), dict(zip(names, stds[-1], strict=True))
    assert last["tanh, std 0.01"] < 1e-6 and last["tanh, std 1"] > 0.95 and 0.15 < last["tanh, xavier"] < first["tanh, xavier"]
    assert last["tanh, lsuv"] == pytest.approx(first["tanh, lsuv"], rel=0.05) and last["relu, he"] == pytest.approx(
        first["relu, he"], rel=0.3
    )
    assert lesson["variance each layer keeps, relu, xavier"] == pytest.approx(0.5, abs=0.05)
    rng = np.random.default_rng(0)  # the same net in NumPy, with other random numbers
    x = rng.normal(size=(200, 500))
    for n_in, n_out in ((500, 300), *[(300, 300)] * 9):
        x = np.tanh(x @ rng.normal(0, 0.01, (n_in, n_out)))
    assert last["tanh, std 0.01"] == pytest.approx(x.std(), rel=0.3)
    n = 3072 * 100
    for part, variance in (("xavier", 2 / 3172), ("he", 2 / 3072)):
        error = 3 * variance * math.sqrt(2 / n)
        assert lesson[f"variance of {part}'s weights, 3072 to 100"] == pytest.approx(variance, abs=error)
    without, with_norm = (lesson[f"accuracies {x}, from the worst to the best std"] for x in ("without norm", "with batch norm"))
    assert with_norm < 0.1 and without > 0.5
    shares = [sum(y or 0 for _, y in s.points) for chart in lesson.charts[1:] for s in chart.series]
    assert len(shares) == 12 and shares == pytest.approx([1.0] * 12)


@pytest.mark.item("S203", "S065")
def test_batch_norm() -> None:
    lesson = learn("batch_norm")
    assert lesson["largest mean after normalizing"] < 1e-5 and lesson["variance after normalizing, by 1/m"] == pytest.approx(1, abs=1e-3)
    assert lesson["largest distance of what gamma and beta give back"] < 1e-4
    rows = lesson.table("What a tanh layer gets")
    assert rows["as it comes"] == pytest.approx(rows["gamma and beta undo it"], abs=1e-4)
    assert rows["normalized"][1] == pytest.approx(1, abs=1e-3) and rows["gamma 0.1, beta 0"][2] == 1
    phi = math.erf(0.5 / math.sqrt(2))  # of a unit Gaussian, what lies within 0.5
    assert float(rows["normalized"][2]) == pytest.approx(phi, abs=3 * math.sqrt(phi * (1 - phi) / 500))


@pytest.mark.item("S108", "S109", "S110")
def test_dropout() -> None:
    lesson = learn("dropout")
    assert lesson["log10 of the masks of 4096 units"] == pytest.approx(len(str(2**4096)) - 1 + 0.02, abs=0.005)
    assert lesson["mean over the four masks of a neuron"] == lesson["its output at test, p = 0.5"] == 0.5 * (2 * 1 + 3 * 4) == 7
    assert lesson.table("The four masks") == {"1, 1": (14,), "1, 0": (2,), "0, 1": (12,), "0, 0": (0,)}
    for p, (trained, test, by_words, inverted, inverted_test) in lesson.table("Means over 20,000 masks").items():
        keep = 1 - float(p)
        error = 3 * math.sqrt(keep * float(p) * (2**2 + 12**2) / dropout.PASSES)  # of the mean of independent masks
        assert trained == pytest.approx(test, abs=error) and test == pytest.approx(14 * keep, rel=1e-6)
        assert inverted == pytest.approx(inverted_test, abs=error / keep) and inverted_test == 14
        assert (by_words == pytest.approx(test)) == (p == "0.5")
    assert "probability of keeping" in errs(lesson, "At test, multiply")


@pytest.mark.item("S201", "S024", "S025")
def test_elastic_net() -> None:
    lesson = learn("elastic_net")
    assert (lesson["L2 of w1 = (1, 0, 0, 0)"], lesson["L2 of w2 = (.25, .25, .25, .25)"]) == (1, 0.25)
    assert lesson["L1 of w1"] == lesson["L1 of w2"] == 1
    assert (lesson["elastic net of w1, beta = 1"], lesson["elastic net of w2, beta = 1"]) == (2, 1.25)
    assert lesson["weights that lasso drops"] >= 2 and lesson["weights that ridge drops"] == 0
    batch = elastic_net.draw_examples()
    x, y = batch.images.flatten(1).numpy(), batch.targets[:, 0].numpy()
    for theta, row in zip(elastic_net.THETAS, lesson.tables[0].rows, strict=True):
        # Ours is twice scikit-learn's loss: alpha * l1_ratio is half of ours of |w|, alpha * (1 - l1_ratio) / 2 half of ours of w^2.
        l1, l2 = elastic_net.STRENGTH * (1 - theta) / 2, elastic_net.STRENGTH * theta
        model = ElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), tol=1e-10) if theta < 1 else Ridge(alpha=l2 * len(x))
        np.testing.assert_allclose(np.array(row[1:-1], dtype=float), model.fit(x, y).coef_, atol=2e-3)


@pytest.mark.item("S200")
def test_nearest_neighbors() -> None:
    lesson = learn("nearest")
    points, others = (nearest.draw_clusters(n, nearest.NOISE, seed) for n, seed in ((nearest.TRAINED, 0), (nearest.HELD_OUT, 1)))
    for (k, (trained, held_out, wrong)), chart in zip(
        lesson.table("Accuracy by the number of neighbors").items(), lesson.charts, strict=True
    ):
        model = KNeighborsClassifier(int(k), algorithm="brute").fit(points.images.flatten(1).numpy(), points.targets.argmax(1).numpy())
        if k == "1":  # of more, votes may be equal, for which scikit-learn has another rule
            assert held_out == pytest.approx(model.score(others.images.flatten(1).numpy(), others.targets.argmax(1).numpy()), abs=1e-6)
        regions = {s.label[-1]: s.points for s in chart.series if s.label.startswith("region")}
        places = [(xy, int(label)) for label, found in regions.items() for xy in found]
        assert len(places) == 1600
        agreement = np.mean(model.predict(np.array([xy for xy, _ in places], dtype=float)) == [label for _, label in places])
        assert agreement > (0.999 if k == "1" else 0.95)
        assert wrong == round(60 * (1 - float(trained)))
    assert (
        lesson["training accuracy of the nearest neighbor"]
        == 1
        > lesson["accuracy on others of 15 neighbors"]
        > lesson["its accuracy on others"]
    )


@pytest.mark.item("S200")
def test_under_and_overfitting() -> None:
    lesson = learn("fitting")
    small, right, large = lesson.table("In the end").values()
    assert large[0] == 1 > right[0] > small[0], "the large net learns the training points by heart"
    assert right[1] > small[1] and right[3] < min(float(small[3]), float(large[3])), "on others the one in the middle is best"
    assert large[2] < right[2] < small[2]
    assert lesson["step at which the large net is best on others"] < 100
    assert lesson["its loss on others then"] < lesson["its loss on others in the end"] / 2
    assert [len(chart.series) for chart in lesson.charts] == [4, 4, 4, 2, 2, 2]


@pytest.mark.item("S137", "S138", "S139", "S140", "S141", "S142", "S147", "S199")
def test_convolution() -> None:
    lesson = learn("convolution")
    maps = {table.title: np.array([row[1:] for row in table.rows], dtype=float) for table in lesson.tables}
    assert maps["The 3x3 filter over the 5x5 image"].tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    assert [lesson[f"vertical edge, column {k}"] for k in range(4)] == [0, 300, 300, 0]
    assert maps["2x2 max pooling with stride 2"].tolist() == [[6, 8], [3, 4]]
    for k in range(2):
        channels = zip(np.array(convolution.CHANNELS), np.array(convolution.FILTERS[k]), strict=True)
        expected = sum(scipy.signal.correlate2d(image, kernel, "valid") for image, kernel in channels)
        assert maps[f"Filter {k} over three channels"].tolist() == expected.tolist()
    parts = [lesson[f"part of channel {c} in the first output of filter 0"] for c in range(3)]
    assert sum(parts) == lesson["first output of filter 0"] == maps["Filter 0 over three channels"][0, 0]
    assert (lesson["side of the map, 5x5 over 32x32"], lesson["its channels with six filters"], lesson["its parameters"]) == (28, 6, 456)
    assert lesson["numbers that im2col makes of the image"] == 28 * 28 * 75
    assert lesson["side of a 4x4 map after 2x2 pooling with stride 1"] == 3
    changes = [lesson[f"change of digits by a shift of a pixel, {n}"] for n in ("0 pools", "1 pool", "2 pools")]
    assert changes == sorted(changes, reverse=True)


@pytest.mark.item("S147", "S137")
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("convolve", [convolution.convolve_by_columns, convolution.convolve_by_sums], ids=["im2col", "sums"])
def test_both_convolutions_are_torchs(convolve: object, stride: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images, filters = torch.randn(2, 3, 11, 9, generator=generator), torch.randn(5, 3, 3, 2, generator=generator)
    expected = torch.nn.functional.conv2d(images, filters, stride=stride, padding=padding)
    torch.testing.assert_close(convolve(images, filters, stride, padding), expected, atol=1e-5, rtol=1e-5)  # type: ignore[operator]


@pytest.mark.item("S143", "S144", "S145", "S148", "S150")
def test_small_filters() -> None:
    lesson = learn("small_filters")
    assert lesson["side that three 3x3 convs see"] == 7
    assert (lesson["weights of one 7x7 conv, over C^2"], lesson["weights of three 3x3 convs, over C^2"]) == (49, 27)
    assert lesson["multiply-adds of three 3x3 over those of one 7x7"] == pytest.approx(27 / 49)
    assert (lesson["weights of a bottleneck, over C^2"], lesson["weights of 1x3 and 3x1, over C^2"]) == (3.25, 6)
    assert lesson["multiply-adds of a depthwise separable conv over a conv's"] == pytest.approx(1 / 64 + 1 / 9)
    nets = lesson.table("Where nets have their parameters and operations")
    for text, row in nets.items():
        if text not in ("vgg_f", "nin") and "googlenet" not in text:
            for computed, printed in zip(row[::2], row[1::2], strict=True):
                assert float(computed) == pytest.approx(float(printed), abs=0.6)
    assert "60.8M" in errs(lesson, "VGG-F") and nets["vgg_f"][0] == "60.8"


@pytest.mark.item("S197")
def test_memory() -> None:
    lesson = learn("memory")
    rows = [(224, 64), (224, 64), (112, 64), (112, 128), (112, 128), (56, 128), *[(56, 256)] * 3, (28, 256), *[(28, 512)] * 3, (14, 512)]
    rows += [*[(14, 512)] * 3, (7, 512)]
    kept = 3 * 224**2 + sum(side**2 * channels for side, channels in rows) + 4096 * 2 + 1000
    assert lesson["million activations, each map once"] == pytest.approx(kept / 1e6)
    assert lesson["MB forward, each map once"] == pytest.approx(4 * kept / 1e6)
    assert lesson["million parameters"] == pytest.approx(138.357544)
    right = errs(lesson, "VGG-16: 24M")
    assert f"{kept / 1e6:.1f}M ({4 * kept / 1e6:.0f} MB)" in right
    assert f"{lesson['million with relus that keep their own output']:.1f}M" in right
    assert 1 < lesson["activations and their gradients, over activations"] < 2, "the slide says twice"
    for weights, gradients, state, activations, workspace, total in lesson.table("MB at the peak of a training step, 64 images").values():
        assert float(weights) + float(gradients) + float(state) + float(activations) + float(workspace) == pytest.approx(float(total))


def test_python_and_the_lists_agree() -> None:
    assert goodfit.lab.list_lessons() == list_lessons()
    assert goodfit.lab.run_lesson("affine").name == "affine"
