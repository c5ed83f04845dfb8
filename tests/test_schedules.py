"""Schedules: laws over the whole catalog, pipes, and lengths in every unit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.core.facts import Facts
from goodfit.core.parts import ExternalPart
from goodfit.core.progress import Length, Lengths
from goodfit.core.trust import trust_code
from goodfit.schedules.compose import ComposedSchedule, compose
from goodfit.schedules.cycles import Sgdr
from goodfit.schedules.decays import Exponential, Inverse, MultiStep, Polynomial
from goodfit.schedules.shapes import Cosine, OneCycle, Step, Warmup
from tests.support.laws import holds_for

CATALOG = Catalog(["goodfit.schedules"])
NAMES = list(CATALOG.kinds["schedule"])


def made(text: str) -> ComposedSchedule:
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


@holds_for(TEXTS)
def test_factors_are_in_range(text: str) -> None:
    schedule = made(text)
    assert all(0 <= schedule(i / 1000) <= 1 for i in range(1001))
    assert all(isinstance(schedule(t), float) for t in (0.0, 1.0))


@holds_for(TEXTS)
def test_right_at_its_landmarks(text: str) -> None:
    schedule = made(text)
    landmarks = schedule.landmarks()
    assert landmarks
    for t, factor in landmarks:
        assert 0 <= t <= 1
        assert schedule(t) == pytest.approx(factor, abs=1e-6), t


@holds_for(NAMES)
def test_holds_its_last_factor_after_its_length(name: str) -> None:
    schedule = made(f"{name}(length=0.4)")
    assert schedule(0.4) == pytest.approx(schedule(0.7)) == pytest.approx(schedule(1.0))


@holds_for({f"{name}({length!r})": (name, length) for name in NAMES for length in ("3 epochs", "300 steps", "9600 examples", "0.1", 0.1)})
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


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes_of_mine.py").write_text("def root(t): return t**0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    with trust_code("shapes_of_mine"):
        assert made("shapes_of_mine.root")(0.25) == 0.5
        assert compose(Warmup(0.5) | ExternalPart("shapes_of_mine.root"))(0.5 + 0.125) == 0.5


@pytest.mark.parametrize("text", ["cosine | warmup(0.1)", "warmup(0.5) | constant(0.5) | cosine"])
def test_nothing_can_follow_the_end(text: str) -> None:
    with pytest.raises(UsageError, match="nothing can follow"):
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


@pytest.mark.item("S103")
def test_warmup_says_its_three_kinds_itself() -> None:
    steps = [i / 20 for i in range(5)]
    assert [made("warmup(0.1, rise=none) | constant")(t) for t in steps] == [1, 1, 1, 1, 1]
    assert [made("warmup(0.1, start=0.1, rise=constant) | constant")(t) for t in steps] == [0.1, 0.1, 1, 1, 1]
    assert [made("warmup(0.1, start=0.5) | constant")(t) for t in steps] == pytest.approx([0.5, 0.75, 1, 1, 1])


@pytest.mark.item("S099")
def test_exponential_is_the_slides() -> None:
    """alpha0 e^(-kt), k = 0.1 an epoch: after ten epochs 0.367879 alpha0."""
    schedule = compose(Exponential(0.1, per="1 epoch").bind(facts("20 epochs")))
    assert schedule(10 / 20) == pytest.approx(0.367879, abs=5e-7)
    expected = rates(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, math.exp(-0.1)), 20)
    assert [schedule(e / 20) for e in range(20)] == pytest.approx(expected)


@pytest.mark.item("S100")
def test_inverse_is_the_slides() -> None:
    """alpha0 / (1 + kt), k = 0.1 an epoch: after ten epochs half of alpha0."""
    schedule = compose(Inverse(0.1, per="1 epoch").bind(facts("20 epochs")))
    assert schedule(10 / 20) == pytest.approx(0.5)
    assert [schedule(e / 20) for e in range(21)] == pytest.approx([1 / (1 + 0.1 * e) for e in range(21)])


@pytest.mark.parametrize("text", ["exponential(0.1, per='1 epoch')", "inverse(0.1, per='1 epoch')"])
def test_decays_fall_at_their_own_pace_after_a_warmup(text: str) -> None:
    """Ten epochs after the start of its stretch it is where it would be ten epochs after the start of training."""
    alone = compose(CATALOG.make(text, "schedule").bind(facts("20 epochs")))
    piped = compose(CATALOG.make(f"warmup('4 epochs') | {text}", "schedule").bind(facts("20 epochs")))
    assert [piped((4 + e) / 20) for e in range(17)] == pytest.approx([alone(e / 20) for e in range(17)])


def test_multi_step_equals_torch() -> None:
    schedule = compose(MultiStep(at=("8 epochs", "12 epochs"), factor=0.1).bind(facts("20 epochs")))
    expected = rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [8, 12], 0.1), 20)
    assert [schedule(e / 20) for e in range(20)] == pytest.approx(expected)
    piped = compose((Warmup("4 epochs") | MultiStep(at=("8 epochs", "12 epochs", "19 epochs"))).bind(facts("20 epochs")))
    assert [piped(e / 20) for e in (11, 12, 15, 16, 20)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_polynomial_equals_torch(power: float) -> None:
    expected = rates(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 50, power), 50)
    assert [Polynomial(power)(i / 50) for i in range(50)] == pytest.approx(expected)
    assert Polynomial(power, floor=0.2)(1.0) == pytest.approx(0.2)


@pytest.mark.item("S104")
@pytest.mark.parametrize(("mode", "shrink"), [("triangular", 1.0), ("triangular2", 0.5)])
def test_cyclic_is_a_triangle(mode: str, shrink: float) -> None:
    def torchs(optimizer: torch.optim.Optimizer) -> object:
        return torch.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, step_size_up=8, step_size_down=12, mode=mode, cycle_momentum=False)

    schedule = made(f"cyclic(0.2, floor=0.1, up=0.4, shrink={shrink})")
    assert [schedule(i / 100) for i in range(101)] == pytest.approx(rates(torchs, 101))
    assert schedule.cycle_ends() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.item("S104")
def test_a_higher_rate_leaves_a_saddle_sooner() -> None:
    """On x^2 - y^2 from beside the saddle: steps until it is left, at the low rate and at a cycle between it and ten times it."""

    def steps_to_leave(schedule: ComposedSchedule, peak: float) -> int:
        at = torch.tensor([1.0, 1e-6], dtype=torch.float64)
        for step in range(2000):
            if at[1].abs() > 1:
                return step
            at = at - peak * schedule(step / 2000) * torch.tensor([2.0, -2.0], dtype=torch.float64) * at
        return 2000

    low, cycle = steps_to_leave(made("constant"), 0.01), steps_to_leave(made("cyclic(0.05, floor=0.1)"), 0.1)
    assert cycle < low / 3


@pytest.mark.item("S105")
def test_sgdr_is_the_papers_formula() -> None:
    """eta = min + (max - min) (1 + cos(pi T / Ti)) / 2 in cycles that double, against torch's."""
    schedule = compose(Sgdr(period="10 epochs", growth=2.0, floor=0.01).bind(facts("70 epochs")))
    assert schedule(5 / 70) == pytest.approx(0.01 + 0.99 * 0.5)
    assert schedule(20 / 70) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 10 / 20)) / 2)
    expected = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2, eta_min=0.01), 70)
    assert [schedule(e / 70) for e in range(70)] == pytest.approx(expected)
    assert schedule(1.0) == pytest.approx(0.01), "the last cycle ends with the budget"


def test_sgdr_fills_its_length_with_whole_cycles() -> None:
    for cycles, growth in ((1, 2.0), (3, 2.0), (4, 1.0), (5, 1.5)):
        schedule = made(f"warmup(0.1) | sgdr({cycles}, growth={growth})")
        assert len(schedule.cycle_ends()) == cycles
        assert schedule.cycle_ends()[-1] == pytest.approx(1.0)
        assert schedule(1.0) == pytest.approx(0.0)
        for end in schedule.cycle_ends()[:-1]:
            assert schedule(end - 1e-7) < 1e-6
            assert schedule(end + 1e-7) > 0.999


def test_a_cycle_that_the_budget_cuts_stops_halfway() -> None:
    schedule = made("sgdr(period=0.4, growth=1.0)")
    assert schedule.cycle_ends() == pytest.approx((0.4, 0.8))
    assert schedule(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["cyclic(0)", "exponential(per=0)", "inverse(per=0)", "sgdr(growth=0.5)", "multi_step(at=(1.5,))"])
def test_settings_that_make_no_schedule(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        made(text)
