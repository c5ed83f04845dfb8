"""The doctor's ground: it watches without touching, replays without drifting, and measures what it says it measures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.doctor.course import Course, measure_label_entropy
from goodfit.doctor.examination import Examination
from goodfit.doctor.patient import PatientSource, make_patient, read_case_file
from goodfit.doctor.replay import Change, Replay
from goodfit.doctor.sample import Pass, Sample
from goodfit.inspection.chance import OwnChance, keep_chance
from goodfit.inspection.dissection import StepDissector
from goodfit.inspection.operations import trace
from goodfit.inspection.preflight import examine_start, measure_affine_error, measure_loss_shape, measure_mixing
from tests.support.patients import STEPS, convnet, parts, patient, step

# ---- it watches without touching -----------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Batch norm and dropout, as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = convnet(width=8)[:-1], nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.dropout(self.body(images), 0.3, self.training))


def train_plainly(case: dict[str, Any], seed: int, steps: int) -> nn.Module:
    """The user's own loop, as the protocol of case files writes it."""
    torch.manual_seed(seed)
    model = case["model"]()
    optimizer = case["optimizer"](model)
    schedule = case["schedule"] and case["schedule"](optimizer)
    taken = 0
    for epoch in itertools.count():
        for images, labels in case["train"](epoch):
            model.train()
            case["step"](model, optimizer, case["loss"], images, labels)
            if schedule and case["schedule_every"] == "step":
                schedule.step()
            taken += 1
            if taken == steps:
                return model
        if schedule and case["schedule_every"] == "epoch":
            schedule.step()
    raise AssertionError


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_watched_training_is_bit_equal(optimizer: type[torch.optim.Optimizer], every: str) -> None:
    changes = {"model": Noisy, "optimizer": lambda model: optimizer(model.parameters(), lr=0.01), "schedule_every": every}
    plain = train_plainly(parts(3, **changes), 3, 60)
    exam = Examination(patient(3, **changes))
    exam.preflight  # noqa: B018  computed between the steps as a rule would
    exam.course.follow(40)
    exam.evaluation()
    exam.trial(Change(rate=0.1), 5)
    torch.rand(7)
    exam.course.follow(60)
    watched = exam.course.replay.model
    assert exam.course.taken == 60
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_trials_repeat_the_batches_and_the_chance() -> None:
    exam = Examination(patient(model=Noisy))
    exam.course.follow(20)
    assert exam.trial(Change(), 20).losses == tuple(record.loss for record in exam.course.records)
    assert exam.trial_steps == 20
    exam.trial(Change(), 20)
    assert exam.trial_steps == 20  # made once


def test_no_more_trials_than_allowed() -> None:
    exam = Examination(patient(), max_trial_steps=10)
    assert math.isfinite(exam.trial(Change(), 8).train_loss)
    assert math.isnan(exam.trial(Change(rate=0.1), 8).train_loss)
    assert exam.trial_steps == 8


def test_own_chance_goes_on_where_it_was() -> None:
    chance = OwnChance(5)
    with chance.active():
        first = torch.rand(3)
    torch.rand(11)
    with chance.active():
        second = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.cat([first, second]), torch.rand(6)[:6])
    before = torch.get_rng_state()
    with keep_chance():
        torch.rand(4)
    assert torch.equal(before, torch.get_rng_state())


# ---- changes -------------------------------------------------------------------------------------------------------------------------


def test_rate_change_leaves_the_schedule_alone() -> None:
    own, slow = Replay(patient()), Replay(patient(), Change(rate=0.5))
    own.advance(10)
    slow.advance(10)
    assert own.optimizer.param_groups[0]["lr"] == pytest.approx(slow.optimizer.param_groups[0]["lr"])
    assert any(not torch.equal(a, b) for a, b in zip(own.model.parameters(), slow.model.parameters(), strict=True))


def test_rate_change_is_the_rate_written_by_hand() -> None:
    def by_hand(factor: float) -> Replay:
        return Replay(patient(schedule=None, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05 * factor)))

    changed = Replay(patient(schedule=None, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05)), Change(rate=0.1))
    assert changed.advance(8) == pytest.approx(by_hand(0.1).advance(8))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change(weight_decay=0.0), {"weight_decay": 0.0}),
        (Change(momentum=0.5), {"momentum": 0.5}),
    ],
)
def test_optimizer_settings(change: Change, expected: dict[str, float]) -> None:
    assert Replay(patient(), change).optimizer.param_groups[0].items() >= expected.items()


def test_clean_step_undoes_a_wrong_sign() -> None:
    def uphill(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        return -step(model, optimizer, lambda x, y: -loss(x, y), images, labels)

    bad, good = Replay(patient(step=uphill)), Replay(patient(step=uphill), Change(step="clean"))
    assert bad.advance(30)[-1] > 5
    assert good.advance(30)[-1] < 1


def test_dropout_off_catches_modules_and_functions() -> None:
    class Dropped(Noisy):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(nn.Dropout(0.9)(F.dropout(self.body(images), 0.9, True)))

    replay = Replay(patient(model=Dropped), Change(dropout="off"))
    assert replay.advance(40)[-1] < 0.5 < Replay(patient(model=Dropped)).advance(40)[-1]


def test_order_shuffled_mixes_a_sorted_epoch() -> None:
    labels = np.sort(np.random.default_rng(0).integers(0, 10, 320))

    def train(epoch: int) -> Any:
        return [(torch.randn(32, 1, 8, 8), torch.from_numpy(labels[i : i + 32])) for i in range(0, 320, 32)]

    def entropy(change: Change) -> float:
        return measure_label_entropy(Replay(patient(train=train), change).next_batch()[1], 10)

    assert entropy(Change()) < 0.5
    assert entropy(Change(order="shuffled")) > 0.9


# ---- a step taken apart --------------------------------------------------------------------------------------------------------------


def test_dissected_step_by_hand() -> None:
    """Softmax regression in float64 NumPy: the gradient, the update and their cosines."""
    rng = np.random.default_rng(1)
    x, y, w = rng.normal(size=(12, 4)), rng.integers(0, 3, 12), rng.normal(size=(3, 4))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(w))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.from_numpy(x).reshape(12, 1, 2, 2), torch.from_numpy(y)
    dissector = StepDissector(model, F.cross_entropy)
    _, signs = dissector.dissect(images, labels, lambda: step(model, optimizer, F.cross_entropy, images, labels))

    scores = x @ w.T
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = (p - np.eye(3)[y]).T @ x / 12
    assert signs.fresh_loss == pytest.approx(-np.log(p[np.arange(12), y]).mean())
    assert signs.fresh_norm == pytest.approx(np.linalg.norm(gradient))
    assert signs.applied_norm == pytest.approx(signs.fresh_norm)
    assert signs.update_ratio == pytest.approx(0.1 * np.linalg.norm(gradient) / np.linalg.norm(w))
    assert (signs.applied_cosine, signs.descent) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (signs.updates, signs.lost) == (1, 0.0)


def test_gradient_of_a_closure_is_seen() -> None:
    model = convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    dissector = StepDissector(model, F.cross_entropy)

    def take_step() -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        return optimizer.step(closure)

    for _ in range(2):
        _, signs = dissector.dissect(images, labels, take_step)
        assert signs.applied_cosine == pytest.approx(1.0, abs=1e-5)


# ---- preflight -----------------------------------------------------------------------------------------------------------------------


def test_affine_error() -> None:
    images = torch.randn(30, 1, 8, 8)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Linear(20, 10)).eval()
    assert measure_affine_error(linear, images) < 1e-5
    assert measure_affine_error(convnet(norm=False).eval(), images) > 0.05


def test_mixing() -> None:
    class Mixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) + images.flatten(1).mean(0)

    assert measure_mixing(convnet().eval(), torch.randn(8, 1, 8, 8)) == 0.0
    assert measure_mixing(Mixed(), torch.randn(8, 1, 8, 8)) > 0.05


def test_operations_by_function_and_module() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 64))

        def forward(self, images: Tensor) -> Tensor:
            hidden = torch.relu(images.flatten(1) @ self.w.t() - 100.0)
            return F.log_softmax(F.dropout(hidden, 0.25, True), 1)

    operations, _ = trace(Functional(), torch.randn(4, 1, 8, 8), signals=True)
    kinds = [operation.kind for operation in operations.operations if operation.kind in ("weights", "activation", "dropout", "softmax")]
    assert kinds == ["weights", "activation", "dropout", "softmax"]
    weights, relu, dropout = (operations.of_kind(kind)[0] for kind in ("weights", "activation", "dropout"))  # type: ignore[arg-type]
    assert weights.weight == "w"
    assert relu.leaving is not None and relu.leaving.dead == 1.0
    assert dropout.rate == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (F.cross_entropy, {"even": math.log(5), "right": 0.0, "wrong": 20.0, "shifted": 0.0, "batch": 1.0, "slope": 1.0, "rare": 1.0}),
        (lambda x, y: F.cross_entropy(x, y, reduction="sum"), {"batch": 2.0, "alignment": 1.0, "slope": 10.0}),
        (lambda x, y: F.cross_entropy(x.softmax(1), y), {"probabilities": None, "shifted": 0.0}),
        (lambda x, y: F.cross_entropy(x, y, weight=torch.tensor([1.0, 1, 1, 1, 4])), {"rare": 4.0}),
        (lambda x, y: F.mse_loss(x.softmax(1), F.one_hot(y, 5).float()), {"right": 0.0, "even": 0.16}),
    ],
)
def test_loss_shape(loss: Any, expected: dict[str, float | None]) -> None:
    shape = measure_loss_shape(loss, 5, 5)
    for name, value in expected.items():
        if value is not None:
            assert shape[name] == pytest.approx(value, abs=1e-4), name
    if loss is F.cross_entropy:
        assert shape["probabilities"] == pytest.approx(math.log(1 + 4 / math.e), abs=1e-5)


def test_preflight_leaves_the_model_as_it_is() -> None:
    model = convnet().eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    examine_start(model, F.cross_entropy, torch.randn(30, 1, 8, 8), torch.arange(30) % 10)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())


# ---- patients ------------------------------------------------------------------------------------------------------------------------


def test_a_pretrained_network_is_told_from_a_random_one() -> None:
    weights = convnet().state_dict()

    def pretrained() -> nn.Module:
        model = convnet()
        model.load_state_dict({name: x for name, x in weights.items() if not name.startswith("7.")}, strict=False)
        return model

    exam = Examination(patient(model=pretrained))
    assert exam.is_pretrained and exam.random_parameters == {"7.weight", "7.bias"}
    assert not Examination(patient()).is_pretrained


@pytest.mark.thorough
def test_planned_rates_are_those_of_the_training() -> None:
    for every in ("step", "epoch"):
        exam = Examination(patient(schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5), schedule_every=every))
        exam.course.follow(STEPS)
        assert exam.planned_rates == pytest.approx([record.rate for record in exam.course.records])


def test_broken_training_is_noticed() -> None:
    course = Course(source := patient(optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1e30)), Sample(source))
    course.follow(50)
    assert course.is_broken and course.taken < 50


def test_case_file_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found none at"):
        read_case_file(tmp_path / "none.py", 0)
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(UsageError, match="function case"):
        read_case_file(tmp_path / "a.py", 0)
    (tmp_path / "b.py").write_text("x = 1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        read_case_file(tmp_path / "b.py", 0)
    with pytest.raises(GoodfitError, match="lacks model, optimizer"):
        make_patient({"classes": 2, "steps": 1}, "a.py")


def test_sources_make_independent_patients() -> None:
    calls: list[int] = []
    source = PatientSource("x", 0, lambda: (calls.append(1), make_patient(parts(0), "x"))[1])
    exam = Examination(source)
    exam.trial(Change(), 2)
    exam.course.follow(2)
    assert len(calls) >= 3


def test_batches_of_hard_and_of_mixed_labels_are_read_together() -> None:
    hard, mixed = (torch.zeros(2, 1, 4, 4), torch.tensor([0, 2])), (torch.zeros(2, 1, 4, 4), torch.tensor([[0.5, 0.5, 0], [0, 0, 1.0]]))
    read = Pass.read([hard, mixed], 100)
    assert read.labels.tolist() == [[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0, 1]] and read.lengths == (2, 2)
