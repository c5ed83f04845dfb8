"""What the doctor says of a watched loop: what it says of the same training as a case, and nothing of healthy ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import goodfit
from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.finding import Rule, Stage, Verdict
from goodfit.doctor.loop_patient import RecordedSchedule
from goodfit.doctor.loop_watch import Watch
from goodfit.doctor.replay import NO_CHANGE, Change
from goodfit.doctor.wording import describe_verdict
from goodfit.inspection.randomness import is_pretrained, looks_drawn
from goodfit.recipe.parts import load_catalog
from tests.support import patients

pytestmark = pytest.mark.slow  # a training or several each; make test-slow runs them


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=1e-4)


def watch_loop(
    n: int = 100,
    make: Callable[[], nn.Module] = patients.convnet,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    step: Callable[..., Any] = patients.step,
    has_epochs: bool = True,
    **options: Any,
) -> Watch:
    """A loop over the batches of the patients, watched; it anneals its rate as they do."""
    patient = patients.patient().make()
    torch.manual_seed(0)
    net = make()
    optimizer = make_optimizer(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n)
    watch, taken, epoch = goodfit.watch(net, optimizer, patient.loss, **options), 0, 0
    while taken < n:
        for images, labels in watch.epoch(list(patient.train(epoch))) if has_epochs else patient.train(epoch):
            if taken < n:
                with watch.step(images, labels) as watched:
                    watched.loss = step(net, optimizer, patient.loss, images, labels)
                schedule.step()
            taken += 1
        epoch += 1
    return watch


def held_out() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(patients.iterate("validation", 200))


def dropout_net() -> nn.Module:
    return nn.Sequential(*list(patients.convnet(norm=False))[:-1], nn.Dropout(0.5), nn.Linear(512, 10))


def clipped_step(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    value: torch.Tensor = loss(net(images), labels, label_smoothing=0.1)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()
    return value.detach()


HEALTHY: dict[str, dict[str, Any]] = {
    "sgd with batch norm": {},
    "adam without norm": {"make": patients.plain_net, "make_optimizer": lambda m: torch.optim.Adam(m.parameters(), 1e-3)},
    "dropout": {"make": dropout_net},
    "smoothed and clipped": {"step": clipped_step},
    "tanh": {"make": lambda: patients.convnet(nn.Tanh, norm=False)},
    "without epochs": {"has_epochs": False},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_loops_get_no_alarm(name: str) -> None:
    make_model = HEALTHY[name].get("make", patients.convnet)
    verdict = watch_loop(patients.STEPS, validation=held_out(), make_model=make_model, **HEALTHY[name]).verdict()
    assert not verdict.alarm and verdict.kind == "healthy", verdict
    assert str(verdict).startswith("Healthy")


def test_a_rate_that_is_too_high_is_named_by_the_same_numbers_as_for_a_case() -> None:
    def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), 50.0, 0.9)

    verdict = watch_loop(160, patients.plain_net, make_optimizer, validation=held_out()).verdict()
    case = diagnose(patients.patient(model=patients.plain_net, optimizer=make_optimizer))
    assert (verdict.kind, verdict.findings[0].cause, verdict.steps) == ("fault", "lr_too_high", case.steps)
    assert verdict.findings[0].evidence == case.findings[0].evidence  # so its trials are the same, bit for bit
    assert str(verdict).splitlines()[0] == describe_verdict(case)[0]


def not_zeroed(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A step that adds its gradient to those of the steps before."""
    value: torch.Tensor = loss(net(images), labels)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value.detach()


def made_anew(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The optimizer that was given to the watch makes no step at all."""
    return patients.step(net, sgd(net), loss, images, labels)


FAULTS: dict[str, dict[str, Any]] = {
    "gradients_not_zeroed": {"step": not_zeroed},
    "optimizer_state_lost": {"step": made_anew},
    "frozen_by_mistake": {"make_optimizer": lambda net: torch.optim.SGD(net[-1].parameters(), 0.05, 0.9)},
    "softmax_twice": {"make": lambda: nn.Sequential(patients.convnet(), nn.Softmax(1))},
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("cause", FAULTS)
def test_faults_of_a_loop_are_named(cause: str) -> None:
    make_model = FAULTS[cause].get("make", patients.convnet)
    verdict = watch_loop(60, make_model=make_model, validation=held_out(), **FAULTS[cause]).verdict()
    assert verdict.alarm and verdict.findings[0].cause == cause, verdict


def test_a_fault_of_the_evaluation_is_named_as_for_a_case() -> None:
    def evaluate(model: nn.Module, rows: Any) -> float:
        model.train()
        right = [model(images).argmax(1) == labels for images, labels in rows]
        return float(torch.cat(right).float().mean())

    watch = watch_loop(8, validation=held_out(), evaluate=evaluate)
    verdict = watch.verdict()
    assert verdict.alarm and verdict.findings[0].cause == "evaluated_in_train_mode"
    assert str(verdict).splitlines()[0] == describe_verdict(verdict)[0]
    assert diagnose(patients.patient(evaluate=evaluate)).findings[0].cause == verdict.findings[0].cause
    row = watch.signals[5]
    assert 0 <= row["validation_accuracy"] <= 1 and row["validation_loss"] > 0


def test_what_the_watch_keeps_is_no_leak_and_what_the_loop_keeps_is() -> None:
    kept: list[torch.Tensor] = []

    def leak(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = patients.step(net, optimizer, loss, images, labels)
        kept.append(net(images))
        return value

    assert watch_loop(step=leak).verdict().findings[0].cause == "memory_leak"


def test_a_loop_that_broke_is_not_healthy_though_nothing_can_be_tried() -> None:
    def break_down(net: nn.Module, optimizer: Any, loss: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return patients.step(net, optimizer, loss, images * (1 if optimizer.param_groups[0]["lr"] > 0.02 else 1e30), labels)

    verdict = watch_loop(60, patients.plain_net, step=break_down, has_epochs=False).verdict(
        [Rule("lr_too_high", Stage.END, lambda exam: None, {})]
    )
    assert (verdict.kind, verdict.alarm) == ("unknown", True)
    assert "no finite number" in str(verdict)


def try_own(watch: Watch, changes: list[Change], **options: Any) -> list[tuple[float, ...]]:
    """The losses of trials within an examination of a watched loop."""
    losses: list[tuple[float, ...]] = []
    rule = Rule("lr_too_high", Stage.END, lambda exam: losses.extend(exam.trial(change, 8).losses for change in changes), {})
    verdict: Verdict = watch.verdict([rule], **options)
    assert not [line for line in verdict.ruled_out if "lr_too_high" in line], verdict.ruled_out
    return losses


def test_trials_repeat_a_plain_loop_and_refuse_another() -> None:
    watch = watch_loop(20)
    recorded = tuple(row["loss"] for row in watch.signals[:8])
    own, slower = try_own(watch, [NO_CHANGE, Change(rate=0.01)])
    assert own == recorded and slower[0] == own[0] and slower[7] > own[7]
    assert try_own(watch, [NO_CHANGE], trial_share=0) == [()]
    clipped = watch_loop(20, step=clipped_step)
    own, clean = try_own(clipped, [NO_CHANGE, Change(step="clean")])
    assert own == () and len(clean) == 8
    assert try_own(watch_loop(20, has_epochs=False), [NO_CHANGE]) == [()]


def test_recorded_rates_keep_the_proportions_of_groups() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)], "lr": 0.3}])
    schedule = RecordedSchedule(optimizer, (0.2, 0.1))
    rates = []
    for _ in range(3):
        rates.append([group["lr"] for group in optimizer.param_groups])
        schedule.step()
    assert rates == [pytest.approx([0.1, 0.3]), pytest.approx([0.05, 0.15]), pytest.approx([0.05, 0.15])]


@pytest.mark.parametrize("init", ["he", "xavier", "orthogonal", "gaussian(0.01)", "none"])
def test_weights_that_were_drawn_and_those_that_learned_are_told_apart(init: str) -> None:
    part: Any = load_catalog().make(f"convnet(16, init={init})", "model")
    for seed in range(4):
        torch.manual_seed(seed)
        net = part(10, 1, (8, 8))
        assert not is_pretrained(net, lambda name, weight: looks_drawn(weight))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for images, labels in [*patients.iterate("train", 32)] * 2:
        patients.step(net, optimizer, F.cross_entropy, images, labels)
    assert is_pretrained(net, lambda name, weight: looks_drawn(weight))
    assert is_pretrained(net, lambda name, weight: name.startswith("head")), "a new head does not count"
    assert not is_pretrained(net, lambda name, weight: not name.startswith("head"))
