"""Schedules: laws over the whole catalog, pipes, and lengths in every unit."""

from __future__ import annotations

import pytest
import torch

from goodfit.core.catalog import Catalog, Foreign
from goodfit.core.contracts import Facts
from goodfit.core.errors import UsageError
from goodfit.core.progress import Length, Lengths
from goodfit.schedules.compose import Composed, compose
from goodfit.schedules.shapes import Cosine, OneCycle, Step, Warmup

CATALOG = Catalog(["goodfit.schedules"])
NAMES = list(CATALOG.kinds["schedule"])


def made(text: str) -> Composed:
    return compose(CATALOG.make(text, "schedule"))


def facts(budget: str) -> Facts:
    lengths = Lengths(epoch_steps=100, batch=32, budget=Length.read(budget))
    return Facts(("a", "b"), (1, 1), 1, (8, 8), (0.5,), (0.2,), ((0.04,),), lengths)


# ---- laws ------------------------------------------------------------------------------------------------------------------------

TEXTS = [
    *NAMES,
    *(f"{name}(length=0.4)" for name in NAMES),
    *(f"warmup(0.1) | {name}" for name in NAMES),
    *(f"{name}(length=0.4) | cosine" for name in NAMES),
]


@pytest.mark.parametrize("text", TEXTS)
def test_factors_are_in_range(text: str) -> None:
    schedule = made(text)
    assert all(0 <= schedule(i / 1000) <= 1 for i in range(1001))
    assert all(isinstance(schedule(t), float) for t in (0.0, 1.0))


@pytest.mark.parametrize("text", TEXTS)
def test_right_at_its_landmarks(text: str) -> None:
    schedule = made(text)
    landmarks = schedule.landmarks()
    assert landmarks
    for t, factor in landmarks:
        assert 0 <= t <= 1
        assert schedule(t) == pytest.approx(factor, abs=1e-6), t


@pytest.mark.parametrize("name", NAMES)
def test_holds_its_last_factor_after_its_length(name: str) -> None:
    schedule = made(f"{name}(length=0.4)")
    assert schedule(0.4) == pytest.approx(schedule(0.7)) == pytest.approx(schedule(1.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", ["3 epochs", "300 steps", "9600 examples", "0.1", 0.1])
def test_same_for_epochs_steps_and_shares(name: str, length: str | float) -> None:
    part = CATALOG.kinds["schedule"][name](length=length)
    bound = compose((part | Cosine()).bind(facts("30 epochs")))
    share = compose(CATALOG.kinds["schedule"][name](length=0.1) | Cosine())
    assert [bound(i / 97) for i in range(98)] == pytest.approx([share(i / 97) for i in range(98)])


def test_same_for_minutes() -> None:
    bound = compose((Warmup("1 min") | Step(every="3 min")).bind(facts("10 min")))
    share = compose(Warmup(0.1) | Step(every=0.3))
    assert [bound(i / 97) for i in range(98)] == pytest.approx([share(i / 97) for i in range(98)])


# ---- pipes -----------------------------------------------------------------------------------------------------------------------


def test_a_part_takes_its_share_and_the_last_what_remains() -> None:
    schedule = made("warmup(0.1) | step(every=0.3, factor=0.1)")
    assert [schedule(t) for t in (0, 0.05, 0.1, 0.39, 0.4, 0.69, 0.7, 0.99, 1.0)] == pytest.approx(
        [0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]
    )
    schedule = made("warmup(0.05) | cosine")
    assert [schedule(t) for t in (0.025, 0.05, 0.525, 1)] == pytest.approx([0.5, 1, 0.5, 0])


def test_three_parts_and_a_part_of_no_length() -> None:
    schedule = made("constant(0.1, factor=0.2) | constant(0.5) | cosine")
    assert [schedule(t) for t in (0, 0.0999, 0.1, 0.5999, 0.8, 1)] == pytest.approx([0.2, 0.2, 1, 1, 0.5, 0])
    assert [made("warmup(0) | cosine")(t) for t in (0, 0.5)] == pytest.approx([1, 0.5])
    assert made("warmup(0)")(0) == 1


def test_a_function_of_the_users_own() -> None:
    assert made("math.sqrt")(0.25) == 0.5
    assert compose(Warmup(0.5) | Foreign("math.sqrt"))(0.5 + 0.125) == 0.5


@pytest.mark.parametrize("text", ["cosine | warmup(0.1)", "warmup(0.5) | constant(0.5) | cosine"])
def test_nothing_can_follow_the_end(text: str) -> None:
    with pytest.raises(UsageError, match="nothing follows"):
        made(text)


def test_lengths_are_checked() -> None:
    with pytest.raises(UsageError, match="10 parsecs"):
        Warmup("10 parsecs")
    with pytest.raises(UsageError, match="length"):
        Warmup(1.5)
    with pytest.raises(UsageError, match="before the budget is known"):
        compose(Warmup("3 epochs") | Cosine())
    with pytest.raises(UsageError, match="fit into the budget"):
        Warmup("40 epochs").bind(facts("30 epochs"))
    with pytest.raises(UsageError, match="budget in seconds"):
        Warmup("3 epochs").bind(facts("10 min"))
    with pytest.raises(UsageError, match="Expected a schedule"):
        made("none")


# ---- shapes against torch and the lecture -------------------------------------------------------------------------------------------


def rates(scheduler_of: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = scheduler_of(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.item("S098")
def test_step_halves_every_few_epochs() -> None:
    schedule = compose(Step(every="4 epochs", factor=0.5).bind(facts("20 epochs")))
    assert [schedule(e / 20) for e in range(20)] == [0.5 ** (e // 4) for e in range(20)]
    assert [schedule(e / 20) for e in range(20)] == pytest.approx(rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.5), 20))


def test_cosine_equals_torch() -> None:
    expected = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50, eta_min=0.1), 50)
    assert [Cosine(floor=0.1)(i / 50) for i in range(50)] == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_one_cycle_equals_torch(shape: str) -> None:
    def torchs(optimizer: torch.optim.Optimizer) -> object:
        anneal = "cos" if shape == "cosine" else "linear"
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 1.0, total_steps=101, pct_start=0.31, anneal_strategy=anneal, cycle_momentum=False, final_div_factor=4.0
        )  # 0.31: torch's peak is at pct_start * 101 - 1

    schedule = OneCycle(peak=0.3031, start=0.04, floor=0.01, shape=shape)  # type: ignore[arg-type]
    assert [schedule(i / 100) for i in range(101)] == pytest.approx(rates(torchs, 101), abs=1e-3)


@pytest.mark.item("S103")
def test_warmup_none_constant_gradual() -> None:
    steps = [i / 20 for i in range(5)]
    assert [made("constant")(t) for t in steps] == [1, 1, 1, 1, 1]
    assert [made("constant(0.1, factor=0.1) | constant")(t) for t in steps] == [0.1, 0.1, 1, 1, 1]
    assert [made("warmup(0.1) | constant")(t) for t in steps] == [0, 0.5, 1, 1, 1]
