"""goodfit.watch: a loop of the user's own is the same with it, bit for bit, and shows the doctor what a training of his own would."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodfit
from goodfit.core.errors import UsageError
from goodfit.doctor import observer
from goodfit.doctor.course import StepRecord
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.loop_watch import Watch
from goodfit.doctor.replay import Change
from goodfit.doctor.signals import remove_pauses
from tests.support import patients

Batch = tuple[Tensor, Tensor]


class Counted(nn.Module):
    """Keeps how often it was called in a buffer that it puts a new tensor in the place of, as some do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x * (1 + 0.001 * self.calls)


class Flickering(nn.Module):
    """Noise from the generators of Python and NumPy."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0.01 * random.random() + 0.01 * float(np.random.rand()))


def make_net() -> nn.Sequential:
    """Every kind of thing that a look could disturb: norms in both modes, noise, a buffer that is replaced, a frozen weight."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), Counted(), nn.Flatten(), nn.Linear(216, 12),
        nn.BatchNorm1d(12), nn.Tanh(), Flickering(), nn.Linear(12, 10),
    )  # fmt: skip
    net[0].bias.requires_grad_(False)
    net[7].eval()
    return net


def batches(n: int, size: int = 16, seed: int = 0) -> list[Batch]:
    """Batches of digits."""
    order = np.random.default_rng(seed).integers(0, 1200, n * size)
    return list(patients.iterate("train", size, order))


# ---- loops as people write them: each takes its steps within `watching(images, labels)` --------------------------------------------------

Watching = Callable[[Tensor, Tensor], contextlib.AbstractContextManager[Any]]


def run_plain(net: nn.Module, optimizer: torch.optim.Optimizer, watching: Watching) -> None:
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5)
    for images, labels in batches(70):
        with watching(images, labels) as step:
            scale = 0.1 * float(np.random.randn()) if random.random() < 0.5 else 0.0  # all three generators are drawn from
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images + scale * torch.randn_like(images)), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step.loss = loss
        schedule.step()


def run_accumulated(net: nn.Module, optimizer: torch.optim.Optimizer, watching: Watching) -> None:
    for k, (images, labels) in enumerate(batches(66)):
        with watching(images, labels) as step:
            loss = F.cross_entropy(net(images), labels)
            (loss / 3).backward()
            if k % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
            step.loss = loss


def run_summed(net: nn.Module, optimizer: torch.optim.Optimizer, watching: Watching) -> None:
    """One backward pass for two batches: a look in between must not disturb the graph that waits."""
    total: Any = 0.0
    for k, (images, labels) in enumerate(batches(60)):
        with watching(images, labels) as step:
            loss = F.cross_entropy(net(images), labels)
            total = total + loss / 2
            if k % 2:
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                total = 0.0
            step.loss = loss.item()


def run_closure(net: nn.Module, optimizer: torch.optim.Optimizer, watching: Watching) -> None:
    for images, labels in batches(12):

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            return loss

        with watching(images, labels) as step:
            step.loss = optimizer.step(closure)  # type: ignore[arg-type]


LOOPS: dict[str, tuple[Callable[[nn.Module, torch.optim.Optimizer, Watching], None], Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (run_plain, lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=1e-3)),
    "adam": (run_plain, lambda p: torch.optim.Adam(p, 0.003)),
    "accumulated": (run_accumulated, lambda p: torch.optim.SGD(p, 0.05, 0.9)),
    "summed": (run_summed, lambda p: torch.optim.AdamW(p, 0.003)),
    "lbfgs": (run_closure, lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3)),
}


@contextlib.contextmanager
def unwatched(images: Tensor, labels: Tensor) -> Iterator[Any]:
    yield dataclasses.make_dataclass("Step", [("loss", Any, None)])()


def run(name: str, is_watched: bool) -> tuple[dict[str, Any], Watch | None]:
    """Run a loop; returns all that it leaves behind."""
    random.seed(1)
    np.random.seed(1)
    loop, make_optimizer = LOOPS[name]
    net = make_net()
    optimizer = make_optimizer(net.parameters())
    watch = goodfit.watch(net, optimizer, F.cross_entropy, validation=batches(4, seed=9)) if is_watched else None
    loop(net, optimizer, watch.step if watch else unwatched)
    if watch:
        watch.verdict()
        assert watch.signals
    left = {
        "net": net.state_dict(), "optimizer": optimizer.state_dict(), "gradients": [p.grad for p in net.parameters()],
        "modes": [module.training for module in net.modules()], "learns": [p.requires_grad for p in net.parameters()],
        "torch": torch.get_rng_state(), "numpy": np.random.rand(), "python": random.random(),
        "hooks": [len(optimizer._optimizer_step_pre_hooks), len(net._forward_hooks)],
    }  # fmt: skip
    return left, watch


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, all the way down."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.thorough
def test_a_loop_is_the_same_with_the_watch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "MAX_SHARE", 1e9)  # every look that may be taken is
    monkeypatch.setattr(observer, "INTERVAL", 10)
    plain, _ = run(name, is_watched=False)
    left, watch = run(name, is_watched=True)
    assert_equal(plain, left)
    assert watch is not None and watch._observer.problems == {}
    rows = watch.signals
    assert sum("dead" in row for row in rows) >= 3 and sum("update_ratio" in row for row in rows) >= 6
    if name == "sgd":
        assert rows[60]["update_ratio"] > 0 and rows[60]["mode_gap"] is not None  # of every INTERVAL steps after the early ones


# ---- what is seen, by calculation in float64 ---------------------------------------------------------------------------------------------


def softmax_gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of the mean cross-entropy of a linear classifier w [K, D] at images x [B, D]."""
    scores = x @ w.T
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y)


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_the_signals_of_a_linear_classifier_by_hand(max_norm: float | None) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    w = net[1].weight.detach().double().numpy().copy()  # type: ignore[union-attr, operator]
    watch = goodfit.watch(net, optimizer)
    expected = []
    for images, labels in batches(5):
        x, y = images.flatten(1).double().numpy(), labels.numpy()
        with watch.step(images, labels) as step:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if max_norm:
                nn.utils.clip_grad_norm_(net.parameters(), max_norm)
            optimizer.step()
            step.loss = loss
        scores = x @ w.T
        loss64 = np.log(np.exp(scores).sum(1)).mean() - scores[np.arange(len(y)), y].mean()
        gradient = softmax_gradient(w, x, y)
        size = np.linalg.norm(gradient)
        factor = max_norm / size if max_norm and max_norm < size else 1.0
        p = np.bincount(y, minlength=10) / len(y)
        expected.append({
            "loss": loss64, "loss_over_chance": loss64 / np.log(10), "rate": 0.02, "fresh_cosine": 1.0, "descent": 1.0,
            "applied_over_fresh": factor, "clip_share": 1.0 if max_norm else 0.0,
            "update_ratio": 0.02 * factor * size / np.linalg.norm(w), "gradient_ratio": size / np.linalg.norm(w), "gradient_spread": 1.0,
            "label_entropy": -(p[p > 0] * np.log(p[p > 0])).sum() / (math.log(10) - 9 / (2 * len(y))), "images": 16,
        })  # fmt: skip
        w -= 0.02 * factor * gradient
    for row, numbers in zip(watch.signals, expected, strict=True):
        assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=2e-4)


def test_update_over_reference_is_that_of_adamw() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    start = net[1].weight.detach().double().numpy().copy()  # type: ignore[union-attr, operator]
    watch = goodfit.watch(net, optimizer := torch.optim.SGD(net.parameters(), lr=0.02))
    (images, labels), *_ = batches(1)
    with watch.step(images, labels) as step:
        loss = F.cross_entropy(net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step.loss = loss
    gradient = softmax_gradient(start, images.flatten(1).double().numpy(), labels.numpy())
    update = 1e-3 * gradient / (np.abs(gradient) + 1e-8)  # Adam's first step
    (row,) = watch.signals
    assert row["update_over_reference"] == pytest.approx(0.02 * np.linalg.norm(gradient) / np.linalg.norm(update), rel=1e-3)


def test_accumulated_batches_are_one_step() -> None:
    _, watch = run("accumulated", is_watched=True)
    assert watch is not None
    rows = watch.signals
    assert len(rows) == 22 and {row["images"] for row in rows} == {48}
    taken_apart = [row for row in rows if "fresh_cosine" in row]
    assert len(taken_apart) == 7
    for row in taken_apart:  # the mean gradient of three batches, with dropout of the same random numbers
        assert row["fresh_cosine"] > 0.999 and row["applied_over_fresh"] == pytest.approx(1, abs=1e-3)


def test_an_update_that_is_skipped_joins_the_next_without_its_gradient() -> None:
    """As a gradient scaler does when its loss overflows."""
    net = make_net()
    watch = goodfit.watch(net, optimizer := torch.optim.SGD(net.parameters(), 0.05))
    for k, (images, labels) in enumerate(batches(4)):
        with watch.step(images, labels) as step:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if k != 1:
                optimizer.step()
            step.loss = loss
    rows = watch.signals
    assert [row["images"] for row in rows] == [16, 32, 16]
    assert all(row["fresh_cosine"] > 0.999 for row in rows)


def test_a_closure_that_is_called_once_shows_its_gradient() -> None:
    net = make_net()
    watch = goodfit.watch(net, optimizer := torch.optim.SGD(net.parameters(), 0.05))
    (images, labels), *_ = batches(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        return loss

    with watch.step(images, labels) as step:
        step.loss = optimizer.step(closure)  # type: ignore[arg-type, assignment]
    (row,) = watch.signals
    assert row["fresh_cosine"] > 0.999 and row["clip_share"] == 1


def test_a_closure_of_a_line_search_leaves_the_applied_gradient_open() -> None:
    _, watch = run("lbfgs", is_watched=True)
    assert watch is not None
    taken_apart = [row for row in watch.signals if "fresh_cosine" in row]
    assert taken_apart and all(row["fresh_cosine"] is None and row["update_ratio"] > 0 and row["descent"] > 0 for row in taken_apart)


# ---- the doctor's rules over it ----------------------------------------------------------------------------------------------------------


def watch_patient(n: int, watch_all: bool = True, **options: Any) -> tuple[Watch, Examination]:
    """The healthy patient in a loop of one's own, and the doctor's examination of it: one seed, equal batches."""
    source = patients.patient()
    exam = Examination(source)
    exam.course.follow(n)
    patient = source.make()
    with exam.course.replay.chance.active():
        torch.manual_seed(0)
        net = patient.model()
    optimizer = patient.optimizer(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, patients.STEPS)
    watch, taken, epoch = goodfit.watch(net, optimizer, patient.loss, **options), 0, 0
    while taken < n:
        for images, labels in watch.epoch(list(patient.train(epoch))) if watch_all else patient.train(epoch):
            if taken < n:
                with watch.step(images, labels) as step:
                    step.loss = patient.step(net, optimizer, patient.loss, images, labels)
                    schedule.step()
                taken += 1
        epoch += 1
    return watch, exam


def test_rules_see_what_they_see_of_a_patient() -> None:
    watch, doctor = watch_patient(60)
    seen: list[Any] = []

    def look(exam: Examination) -> None:
        course = exam.course
        seen.append((course.taken, list(course.records), dict(course.dissected), dict(course.looks), exam.preflight, exam.sample.train))

    verdict = watch.verdict([Rule("lr_too_high", stage, look, {}) for stage in (Stage.DATA, Stage.EARLY, Stage.END)], trial_share=0)
    assert verdict.kind == "healthy" and verdict.steps == 60 and verdict.ruled_out == ()
    assert [taken for taken, *_ in seen] == [0, 50, 60]  # each stage sees no more of it than it would have
    _, records, dissected, looks, preflight, train = seen[1]
    assert [r.loss for r in records] == [r.loss for r in doctor.course.records[:50]]
    assert [(r.step, r.rate, r.images, r.label_entropy, r.state_tensors) for r in records] == [
        (r.step, r.rate, r.images, r.label_entropy, r.state_tensors) for r in doctor.course.records[:50]
    ]
    assert [(r.updates, r.state_losses) for r in records] == [(r.updates, r.state_losses) for r in doctor.course.records[:50]]
    assert dissected == doctor.course.dissected
    assert sorted(looks) == [0, 5, 10, 20, 35, 50]
    assert all(looks[step].weight_norm == pytest.approx(doctor.course.looks[step].weight_norm, rel=1e-6) for step in looks)
    assert torch.equal(train.images, doctor.sample.train.images) and train.is_whole
    assert preflight.loss == pytest.approx(doctor.preflight.loss) and preflight.layers == doctor.preflight.layers


def test_two_epochs_are_told_apart() -> None:
    watch, doctor = watch_patient(39)  # of 37 batches each
    seen: list[Any] = []
    watch.verdict([Rule("not_shuffled", Stage.DATA, lambda exam: seen.extend([exam.sample.train, exam.sample.next_epoch]), {})])
    assert torch.equal(seen[0].images, doctor.sample.train.images) and len(seen[0].lengths) == 37
    assert torch.equal(seen[1].images, doctor.sample.next_epoch.images[:64])


def test_what_a_loop_does_not_show_is_not_tested() -> None:
    watch, _ = watch_patient(12, watch_all=False, steps=100)
    asked: dict[str, Callable[[Examination], object]] = {
        "duplicates_in_train": lambda exam: exam.sample.train,  # it is not known where the epoch ends
        "leakage_exact": lambda exam: exam.sample.validation,
        "frozen_by_mistake": lambda exam: exam.random_parameters,
        "no_decay": lambda exam: exam.planned_rates,  # 88 steps are still to come
        "dropout_at_test": lambda exam: exam.evaluation(),
        "label_noise": lambda exam: exam.something_new,  # type: ignore[attr-defined]
        "wrong_sign": lambda exam: exam.course.something_new,  # type: ignore[attr-defined]
    }
    rules = [Rule(cause, Stage.START, lambda exam, ask=ask: ask(exam), {}) for cause, ask in asked.items()]  # type: ignore[misc]
    late = Rule("trained_too_short", Stage.END, lambda exam: Finding("trained_too_short", 1.0, "", ""), {})
    verdict = watch.verdict([*rules, late])
    assert verdict.kind == "healthy" and [line.split()[0] for line in verdict.ruled_out] == list(asked)
    assert "Not tested" in str(verdict) and "frozen_by_mistake" in str(verdict)
    trials: list[float] = []
    watch.verdict([Rule("lr_too_low", Stage.START, lambda exam: trials.append(exam.trial(Change(rate=10)).validation_loss), {})])
    assert math.isnan(trials[0])


def test_random_weights_are_known_by_a_function_that_makes_the_network() -> None:
    trunk = make_net()[:6]

    def make() -> nn.Module:
        return nn.Sequential(trunk, nn.Linear(216, 10))  # as with a pretrained trunk

    watch = goodfit.watch(net := make(), optimizer := torch.optim.SGD(net.parameters(), 0.05), make_model=make)
    images, labels = batches(1)[0]
    with watch.step(images, labels) as step:
        step.loss = patients.step(net, optimizer, F.cross_entropy, images, labels)
    seen: list[frozenset[str]] = []
    verdict = watch.verdict([Rule("frozen_by_mistake", Stage.START, lambda exam: seen.append(exam.random_parameters), {})], trial_share=0)
    assert verdict.ruled_out == () and seen == [{"1.weight", "1.bias"}]


# ---- waits -------------------------------------------------------------------------------------------------------------------------------


def test_waits_by_a_clock_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    net = make_net()
    watch = goodfit.watch(net, optimizer := torch.optim.SGD(net.parameters(), 0.05))

    def load() -> Iterator[Batch]:
        for batch in batches(6):
            clock[0] += 3.0
            yield batch

    for images, labels in watch.epoch(load()):
        with watch.step(images, labels) as step:
            clock[0] += 1.0
            step.loss = patients.step(net, optimizer, F.cross_entropy, images, labels)
        clock[0] += 100.0  # is not waiting
    assert [(row["wait_share"], row["seconds"]) for row in watch.signals] == [(0.75, 1.0)] * 6


def test_rare_long_gaps_are_pauses_and_frequent_ones_are_waits() -> None:
    def record(step: int, wait: float) -> StepRecord:
        return StepRecord(step, 1.0, 0.1, 8, 1.0, wait, 0.0, 1.0, 1.0, 0, 0.0)

    rare = [record(i, 50.0 if i % 20 == 19 else 0.1) for i in range(100)]
    often = [record(i, 50.0 if i % 4 == 3 else 0.1) for i in range(100)]
    assert {r.wait for r in remove_pauses(rare)} == {0.1}
    assert remove_pauses(often) == often


# ---- what goes wrong ---------------------------------------------------------------------------------------------------------------------


def test_signals_are_saved_as_lines_of_json(tmp_path: Path) -> None:
    _, watch = run("lbfgs", is_watched=True)
    assert watch is not None
    watch.save_signals(tmp_path / "signals.jsonl")
    lines = (tmp_path / "signals.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == watch.signals and len(lines) == 12


def test_misuse_is_refused_in_a_sentence() -> None:
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    images, labels = batches(1)[0]
    watch = goodfit.watch(net, optimizer)
    with pytest.raises(UsageError, match="Expected a step to be watched first"):
        watch.verdict()
    for wrong, says in [((images.numpy(), labels), "images as a tensor"), ((images, labels[:3]), r"labels as a tensor \[16\]")]:
        with pytest.raises(UsageError, match=says), watch.step(*wrong):  # type: ignore[arg-type]
            pass
    with pytest.raises(UsageError, match=r"step\.loss = loss"), watch.step(images, labels):
        pass
    maps = goodfit.watch(net[:3], optimizer)
    with pytest.raises(UsageError, match=r"scores of shape \[B, K\].* shape \[2, 6, 6, 6\]"), maps.step(images, labels):
        pass


def test_an_error_in_the_loop_passes_through_and_leaves_nothing_behind() -> None:
    net = make_net()
    watch = goodfit.watch(net, optimizer := torch.optim.SGD(net.parameters(), 0.05))
    for k, (images, labels) in enumerate(batches(3)):
        with contextlib.suppress(ZeroDivisionError), watch.step(images, labels) as step:
            step.loss = patients.step(net, optimizer, F.cross_entropy, images, labels)
            if k == 1:
                raise ZeroDivisionError
    assert len(watch.signals) == 2 and not optimizer._optimizer_step_pre_hooks


def test_a_test_that_fails_is_told_and_the_loop_goes_on() -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("no evaluation here")
            return x

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Moody())
    watch = goodfit.watch(net, optimizer := torch.optim.SGD(net.parameters(), 0.05))
    for images, labels in batches(8):
        with watch.step(images, labels) as step:
            step.loss = patients.step(net, optimizer, F.cross_entropy, images, labels)
    assert len(watch.signals) == 8
    assert any("no evaluation here" in line for line in watch.verdict().ruled_out)


def test_watch_is_the_function_of_that_name() -> None:
    assert isinstance(goodfit.watch(nn.Flatten(), torch.optim.SGD([torch.zeros(1)])), Watch)
