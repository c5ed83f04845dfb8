"""Averages of the weights: the lecture's identity, cycles, batch statistics of their own, and what they are good for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.core.progress import Length, Lengths
from goodfit.schedules.compose import compose
from goodfit.training.averaging import blend_into
from goodfit.training.batch_statistics import STATISTICS_IMAGES, recompute_statistics, refresh_average
from goodfit.training.rules.average import Ema, Polyak, Swa, Wise, bind_cycles
from goodfit.training.state import State
from tests.support.loop import Listed, listed, noisy_digits, normed, plan, run

CATALOG = Catalog(["goodfit.schedules", "goodfit.training"])


def state_of(model: nn.Module, average: Any, lr: float = 0.3) -> State:
    return State.start(model, torch.optim.SGD(model.parameters(), lr=lr), average)


# ---- the mean ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S086")
def test_a_moving_average_with_1_minus_1_over_n_is_the_mean() -> None:
    """c_N = alpha c_(N-1) + (1 - alpha) x_N with alpha = (N - 1) / N = 1 - 1/N; so a decay of 0.9 is a memory of 10, 0.99 of 100."""
    xs, average, mean = np.random.default_rng(0).normal(size=1000), Polyak(start=0.0), 0.0
    for n, x in enumerate(xs, start=1):
        alpha = average(n - 1, 0.5)
        assert alpha == pytest.approx(1 - 1 / n, abs=1e-15)
        mean = alpha * mean + (1 - alpha) * x
        assert abs(mean - xs[:n].mean()) < 1e-12
    for n, decay in ((10, 0.9), (100, 0.99), (1000, 0.999)):
        assert average(n - 1, 0.5) == pytest.approx(decay, abs=1e-15)
        assert Ema(decay)(10**6, 0.5) == decay


def test_swa_is_the_mean_over_the_ends_of_cycles() -> None:
    kept: dict[int, Tensor] = {}
    schedule = compose(CATALOG.make("cyclic(0.2)", "schedule"))
    average = bind_cycles(Swa(start=0.3), schedule.cycle_ends())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3))
    state = state_of(model, average)

    def evaluate(judged: nn.Module, is_last: bool) -> dict[str, Any]:
        kept[state.step] = model[1].weight.detach().double().clone()
        if state.step < 8:
            assert torch.equal(judged[1].weight, model[1].weight), "before the first end it is the model itself"  # type: ignore[index]
        return {"score": 0.0}

    run(state, plan("4 epochs", every="1 step", schedule=schedule, average=average, evaluate=evaluate))
    assert state.average is not None
    expected = torch.stack([kept[step] for step in (8, 12, 16, 20)]).mean(0)
    assert torch.allclose(state.average[1].weight.double(), expected, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("schedule", "points"), [("constant", [0.5, 0.75, 1.0]), ("sgdr(3)", [3 / 7, 1.0]), ("cyclic(0.25)", [0.5, 0.75, 1.0])]
)
def test_swa_takes_the_schedules_cycles_else_its_own(schedule: str, points: list[float]) -> None:
    average = bind_cycles(Swa(0.3, every=0.25), compose(CATALOG.make(schedule, "schedule")).cycle_ends())
    assert isinstance(average, Swa)
    assert [n / 1000 for n in range(1001) if average.points_reached(n / 1000) > average.points_reached((n - 1) / 1000)] == pytest.approx(
        points, abs=1e-3
    )


def test_swa_with_several_points_in_one_step_takes_its_weights_once() -> None:
    """Four steps, points at every 0.05 from 0.3 on: the mean of the weights after steps 2, 3 and 4, not of those after step 1."""
    kept: list[Tensor] = []
    average = bind_cycles(Swa(start=0.3, every=0.05), ())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3))
    state = state_of(model, average)

    def evaluate(judged: nn.Module, is_last: bool) -> dict[str, Any]:
        kept.append(model[1].weight.detach().double().clone())
        return {"score": 0.0}

    run(state, plan("4 steps", every="1 step", average=average, evaluate=evaluate))
    assert state.average is not None
    assert torch.allclose(state.average[1].weight.double(), torch.stack(kept[1:]).mean(0), atol=1e-6)  # type: ignore[index]


def test_swa_without_cycles_or_places() -> None:
    with pytest.raises(UsageError, match="every to be a length above 0"):
        bind_cycles(Swa(every=0.0), ())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_lies_on_the_line_from_the_start(alpha: float) -> None:
    """(1 - alpha) start + alpha current, in float64, at each evaluation; the training itself is that without it."""
    seen: list[tuple[nn.Module, nn.Module]] = []
    states = {}
    for average in (Wise(alpha), None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).double()
        start = {name: x.clone() for name, x in model.state_dict().items()}
        state = states[average is None] = state_of(model, average)

        def evaluate(judged: nn.Module, is_last: bool, state: State = state) -> dict[str, Any]:
            seen.append((copy.deepcopy(judged), copy.deepcopy(state.model)))
            return {"score": 0.0}

        source = Listed([batch.but(images=batch.images.double(), targets=batch.targets.double()) for batch in listed().batches])
        run(state, plan("2 epochs", every="3 steps", average=average, evaluate=evaluate, start=start), source)
    assert all(torch.equal(a, b) for a, b in zip(states[False].model.parameters(), states[True].model.parameters(), strict=True))
    for judged, current in seen[: len(seen) // 2]:
        for name, x in judged.state_dict().items():
            expected = (1 - alpha) * start[name].numpy() + alpha * current.state_dict()[name].numpy()
            assert np.allclose(x.numpy(), expected, rtol=0, atol=1e-14), name
    moved = [not torch.equal(current[1].weight, start["1.weight"]) for _, current in seen[: len(seen) // 2]]  # type: ignore[index, arg-type]
    assert moved == [False, *[True] * (len(moved) - 1)] and len(moved) > 2, "the first evaluation is that of the start"


def test_wise_has_statistics_of_its_own_weights_and_leaves_the_start_alone() -> None:
    model = normed(seed=3)
    start = {name: x.clone() for name, x in model.state_dict().items()}
    kept = copy.deepcopy(start)
    state = state_of(model, Wise(0.5))
    run(state, plan("4 epochs", every="1 epoch", average=Wise(0.5), evaluate=lambda judged, is_last: {"score": 0.0}, start=start))
    assert all(torch.equal(x, kept[name]) for name, x in start.items())
    again = copy.deepcopy(state.average)
    assert again is not None and state.average is not None
    recompute_statistics(again, [batch.images for batch in listed().batches])
    assert torch.allclose(again[2].running_mean, state.average[2].running_mean, atol=1e-6)  # type: ignore[index]
    halfway = (start["2.running_mean"] + model[2].running_mean) / 2  # type: ignore[index]
    assert not torch.allclose(halfway, state.average[2].running_mean, atol=1e-3)  # type: ignore[index]


def test_wise_without_pretrained_weights() -> None:
    with pytest.raises(UsageError, match=r'^"wise\(0\.25\)" averages with pretrained weights, and there are none: give --from, [^.]*\.$'):
        plan(average=Wise(0.25))


# ---- batch statistics -------------------------------------------------------------------------------------------------------------


def images(n: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 2, 3, 3, generator=generator) * 2 + 1 for _ in range(n)]


def test_statistics_are_those_of_the_batches_and_nothing_else_changes() -> None:
    model = normed().train()
    model[4].eval()
    before = copy.deepcopy(model)
    recompute_statistics(model, images())
    inputs = [before[1](before[0](batch)).detach().double() for batch in images()]
    assert torch.allclose(model[2].running_mean.double(), torch.stack([x.mean(0) for x in inputs]).mean(0), atol=1e-5)
    assert torch.allclose(model[2].running_var.double(), torch.stack([x.var(0) for x in inputs]).mean(0), rtol=1e-4)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert model[2].momentum == before[2].momentum
    for name, p in model.named_parameters():
        assert torch.equal(p, dict(before.named_parameters())[name])
    recompute_statistics(model, [], fixed={"2"})
    assert not torch.equal(model[2].running_mean, torch.zeros(8)), "fixed ones are left alone"


@pytest.mark.item("S126")
def test_the_judged_average_has_statistics_of_its_own() -> None:
    """Those of its own weights on the first training batches: recomputed here, whatever the steps' running averages were."""
    seen: list[nn.Module] = []

    def evaluate(judged: nn.Module, is_last: bool) -> dict[str, Any]:
        seen.append(copy.deepcopy(judged))
        return {"score": 0.0}

    state = state_of(normed(), Ema(0.9))
    used = plan("4 epochs", every="1 epoch", average=Ema(0.9), evaluate=evaluate)
    run(state, used)
    batches = [batch.images for batch in listed().batches]
    assert sum(map(len, batches)) < STATISTICS_IMAGES
    for judged in (*seen, state.average):
        again = copy.deepcopy(judged)
        assert again is not None
        recompute_statistics(again, batches)
        for name, value in judged.state_dict().items():  # type: ignore[union-attr]
            assert torch.allclose(value.float(), again.state_dict()[name].float(), atol=1e-6), name
    naive = copy.deepcopy(state.model)
    blend_into(naive, state.average, 0.0)  # type: ignore[arg-type]
    assert not torch.allclose(naive[2].running_mean, state.model[2].running_mean, atol=1e-3)  # type: ignore[index]


@pytest.mark.item("S126")
def test_without_evaluations_the_statistics_come_at_the_end() -> None:
    state = state_of(normed(), Ema(0.9))
    run(state, plan("4 epochs", average=Ema(0.9)))
    before = copy.deepcopy(state.average)
    assert before is not None
    recompute_statistics(again := copy.deepcopy(before), [batch.images for batch in listed().batches])
    for name, value in before.state_dict().items():
        assert torch.allclose(value.float(), again.state_dict()[name].float(), atol=1e-6), name
    refresh_average(state, plan("4 epochs", average=Ema(0.9)), listed())
    assert all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), state.average.state_dict().values(), strict=True))  # type: ignore[union-attr]


# ---- what it is good for ------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S126")
@pytest.mark.parametrize("average", [Ema(0.95), Polyak(0.5)])
def test_at_a_constant_high_rate_the_average_beats_the_last_weights(average: Any) -> None:
    """On digits with batch norm, mean accuracy over three seeds; a fifth of the labels are wrong, so the steps never grow quiet."""
    source, x, y = noisy_digits()
    raw, mean = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        state = state_of(model, average, lr=0.5)
        run(state, plan(lengths=Lengths(30, 20, Length.read("240 steps")), average=average, seed=seed), source)
        for judged, into in ((state.model, raw), (state.average, mean)):
            assert judged is not None
            with torch.no_grad():
                into.append(float((judged.eval()(x).argmax(1) == y).double().mean()))
    assert np.mean(mean) > np.mean(raw) + 0.03
