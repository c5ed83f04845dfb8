"""The learning-rate range test: what it says of curves whose answer is known, of real trainings, and that it leaves the state alone."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goodfit.optim.groups import make_optimizer
from goodfit.recipe.parts import load_catalog
from goodfit.terminal.sketch import sketch_curve
from goodfit.training.freezing import freezing_phases
from goodfit.training.lr_range import LrTrace, find_lr_range, sweep_lr
from goodfit.training.state import State
from tests.support.command import FAST, goodfit, refused
from tests.support.fake_run import Page
from tests.support.loop import listed, net, normed, plan, run, sgd, told

RATES = tuple(float(x) for x in np.logspace(-5, 1, 120))


def curve(noise: float = 0.03, seed: int = 0, blowup: float = 1.0, fall: float = 1.5) -> np.ndarray:
    """A loss that starts at 2.3, falls fastest at 0.01 and rises steeply from `blowup` on."""
    x = np.log10(np.array(RATES))
    loss = 2.3 - fall / (1 + np.exp(-(x + 2) * 4)) + 2 * np.clip(x - math.log10(blowup), 0, None) ** 2 * 10
    return loss + noise * np.random.default_rng(seed).normal(size=len(x))


def trace(losses: np.ndarray) -> LrTrace:
    return LrTrace(RATES[: len(losses)], tuple(float(x) for x in losses))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blowup", [0.3, 1.0, 3.0])
def test_the_range_of_a_valley(seed: int, blowup: float) -> None:
    verdict = find_lr_range(trace(curve(seed=seed, blowup=blowup)))
    assert verdict.steepest is not None
    assert verdict.blowup is not None
    assert verdict.low is not None
    assert verdict.high is not None
    assert 0.005 < verdict.steepest < 0.02
    assert blowup < verdict.blowup < 4 * blowup
    assert sorted([verdict.steepest, verdict.blowup / 10]) == pytest.approx([verdict.low, verdict.high])
    assert "falls fastest" in verdict.reasons[0]
    assert "a tenth" in verdict.reasons[1]


def test_spikes_and_lost_numbers_do_not_move_it() -> None:
    clean = curve()
    spoiled = clean.copy()
    spoiled[[3, 4, 12]] = [40.0, 35.0, 80.0]
    spoiled[[7, 30, 61]] = math.nan
    expected, found = find_lr_range(trace(clean)), find_lr_range(trace(spoiled))
    assert found.low == pytest.approx(expected.low, rel=0.3)
    assert found.high == pytest.approx(expected.high, rel=0.3)


def test_an_end_that_is_no_number_is_the_blow_up() -> None:
    losses = curve(blowup=1e9)[:90]
    losses[87:] = math.nan
    verdict = find_lr_range(trace(losses))
    assert verdict.blowup == pytest.approx(RATES[87])
    assert "no longer finite" in verdict.reasons[1]


def test_a_loss_that_never_rises_is_said() -> None:
    verdict = find_lr_range(trace(curve(blowup=1e9)))
    assert verdict.blowup is None
    assert verdict.high == verdict.bottom
    assert "never rises again" in verdict.reasons[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", ["flat", "rising", "noise"])
def test_no_clear_valley(case: str, seed: int) -> None:
    losses = (
        curve(noise=0.3, seed=seed, fall=0.05) if case == "noise" else curve(seed=seed, fall=0.0, blowup=1e9 if case == "flat" else 0.01)
    )
    verdict = find_lr_range(trace(losses))
    assert (verdict.low, verdict.high) == (None, None)
    assert verdict.reasons[0].startswith("no clear valley: ")


@pytest.mark.parametrize("losses", [[], [math.nan] * 4, [2.0, math.nan, 1.0] * 2])
def test_too_few_numbers(losses: list[float]) -> None:
    verdict = find_lr_range(LrTrace(RATES[: len(losses)], tuple(losses)))
    assert verdict.low is None
    assert "losses are finite" in verdict.reasons[0]


def test_the_sweep_is_the_training_at_those_rates_and_leaves_the_state() -> None:
    state = sgd(normed())
    run(state, plan("1 epoch"))
    before, optimizer = copy.deepcopy(state.model.state_dict()), copy.deepcopy(state.optimizer.state_dict())
    scalars, noise = copy.deepcopy(state.scalars()), torch.get_rng_state()
    found = sweep_lr(state, listed(), plan(), 1e-4, 1e-1, 40)
    assert all(torch.equal(x, before[name]) for name, x in state.model.state_dict().items())
    assert state.optimizer.state_dict() == optimizer
    assert state.scalars() == scalars
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in state.model.parameters())
    assert list(found.rates) == pytest.approx([1e-4 * 1000 ** (n / 39) for n in range(40)])

    fresh = sgd(net(), lr=1.0)
    trained = sgd(net(), lr=1.0)
    swept = sweep_lr(fresh, listed(), plan(), 1e-4, 1e-1, 40)
    rows = run(trained, plan("40 steps", schedule=lambda t: 1e-4 * 1000 ** (round(t * 40) / 39)))
    assert list(swept.losses) == pytest.approx(told(rows, "loss"), rel=1e-5)


@pytest.mark.parametrize("text", ["sgd(0.1)", "adamw", "sam", "muon", "lbfgs"])
def test_any_optimizer_can_be_swept_and_trains_on_as_if_it_had_not(text: str) -> None:
    """Also between two stretches of a training, with momentum and frozen layers."""
    ends = []
    for swept in (False, True):
        model = net()
        part: Any = load_catalog().make(text, "optimizer")
        state = State.start(model, make_optimizer(model, part))
        used = (
            plan("2 epochs", trainable=freezing_phases(load_catalog().make("head(0.5) | all", "trainable"), model))
            if text == "adamw"
            else plan("2 epochs")
        )
        run(state, used, halt=lambda state=state: state.step == 5)
        if swept:
            assert len(sweep_lr(state, listed(), used, 1e-4, 1e-2, 20).losses) == 20
        run(state, used)
        ends.append(state.model.state_dict())
    assert all(torch.equal(x, ends[1][name]) for name, x in ends[0].items())


def test_an_explosion_ends_the_sweep_early() -> None:
    found = sweep_lr(sgd(net()), listed(), plan(), 1e-3, 1e6, 200)
    assert 20 < len(found.losses) < 200
    assert find_lr_range(found).blowup is not None


def test_lost_numbers_of_single_batches_are_passed_over() -> None:
    source = listed()
    source.batches[2].images[0, 0, 0, 0] = float("nan")
    found = sweep_lr(sgd(net()), source, plan(), 1e-4, 1e-2, 30)
    assert [n for n, x in enumerate(found.losses) if math.isnan(x)] == list(range(2, 30, 5))
    assert math.isfinite(found.losses[-1])


# ---- on the command line ------------------------------------------------------------------------------------------------------------


def words(**changes: str) -> list[str]:
    return [word for key, value in {**FAST, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]


def test_lr_says_a_range_and_makes_no_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = goodfit("lr", photos, *words(), "--steps", "100")
    assert said.code == 0, said
    assert "Good peak learning rates: " in said.out
    assert "falls fastest at" in said.out
    assert "loss, smoothed" in said.out
    assert not list(tmp_path.iterdir())
    again: dict[str, Any] = json.loads(goodfit("lr", photos, *words(), "--steps", "100", "--json").out)
    assert 0 < again["low"] <= again["high"]
    assert len(again["tested"]["rates"]) == len(again["tested"]["losses"])
    assert f"{again['low']:.2g} to {again['high']:.2g}" in said.out
    assert {"reasons", "steepest", "blowup", "bottom", "rates", "smoothed"} <= again.keys()


def test_lr_draws_the_curve_on_a_page(photos: Path, tmp_path: Path) -> None:
    said = goodfit("lr", photos, *words(), "--steps", "60", "--html", tmp_path / "lr.html", "--json")
    assert said.code == 0
    found, page = json.loads(said.out), Page((tmp_path / "lr.html").read_text())
    chart = page.charts()["Loss over the learning rate"]
    steps, smoothed = chart["series"]
    assert chart["logX"] and steps["x"] == pytest.approx(found["tested"]["rates"], rel=1e-5)
    assert smoothed["y"] == pytest.approx(found["smoothed"], rel=1e-5)
    assert [(box["low"], box["high"]) for box in chart["ranges"]] == [(found["low"], found["high"])]
    assert page.open == [] and f"Good peak learning rates: {found['low']:.2g} to {found['high']:.2g}." in page.visible()


def test_lr_says_when_there_is_no_valley(photos: Path) -> None:
    said = goodfit("lr", photos, *words(), "--low", "1e-9", "--high", "1e-8")
    assert said.code == 0
    assert "No clear valley: " in said.out


@pytest.mark.parametrize("wrong", [("--low", "1", "--high", "0.1"), ("--low", "0"), ("--steps", "5")])
def test_lr_refuses(photos: Path, wrong: tuple[str, ...]) -> None:
    refused(goodfit("lr", photos, *words(), *wrong), 2, "--low", "--steps")


def test_plot_schedule_draws_the_rate(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = goodfit("train", photos, *words(schedule="warmup(0.1) | cosine"), "--dry", "--plot-schedule")
    assert said.code == 0, said
    drawn = said.err[said.err.index("learning rate") :].splitlines()
    assert drawn[1].startswith("0.01 ")
    assert drawn[-1].split() == ["0", "epochs", "2"]
    assert "learning rate" not in goodfit("train", photos, *words(), "--dry").err
    assert not list(tmp_path.iterdir())


# ---- the sketch ---------------------------------------------------------------------------------------------------------------------


def test_a_sketch_is_where_the_numbers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodfit.terminal.sketch.MESSAGES.can_encode", lambda text: False)
    assert sketch_curve([0, 1, 2, 3], [0, 1, 2, 3], "up", "x", width=4, height=4).splitlines() == [
        "   up", "3 |   *", "  |  *", "  | *", "0 |*", "   0x 3",
    ]  # fmt: skip
    rows = sketch_curve([1, 10, 100], [1.0, math.nan, 1.0], width=5, height=2, log_x=True).splitlines()
    assert rows[0] == "1 |*   *"
    assert sketch_curve([1.0], [math.nan]) == "(nothing to draw)"


def test_a_sketch_in_braille(monkeypatch: pytest.MonkeyPatch) -> None:
    """A diagonal over 4 by 8 dots, each character two dots wide and four high."""
    monkeypatch.setattr("goodfit.terminal.sketch.MESSAGES.can_encode", lambda text: True)
    rows = [row[3:] for row in sketch_curve([0, 1], [0, 1], width=2, height=2).splitlines()[:2]]
    dots = {(2 * c + x, 4 * r + y) for r, row in enumerate(rows) for c, mark in enumerate(row) for x, y in lit(ord(mark) - 0x2800)}
    assert {y for _, y in dots} == set(range(8))
    assert all(abs(x - (7 - y) * 3 / 7) <= 0.5 for x, y in dots)


def lit(bits: int) -> list[tuple[int, int]]:
    """The (column, row) of the dots of a braille character, by the Unicode standard's numbering."""
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
    return [place for n, place in enumerate(places) if bits >> n & 1 and bits > 0]
