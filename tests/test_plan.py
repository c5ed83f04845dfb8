"""The planner: learning curves read between and beyond their points, the best net for a time, and what a training then takes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from goodfit.core.forecast import Forecast
from goodfit.data.preprocess import Preprocess
from goodfit.recipe import auto, measure, plan
from goodfit.recipe.build import final_passes
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.measure import Fastest
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.plan import Curve, Curves, choose_best, find_curves, forecast, load_curves, plan_training, speed_gain
from goodfit.recipe.recipe import Recipe
from goodfit.training.rules.resolution import Full

SMALL = Curve("small", ((1e4, 0.4), (1e5, 0.2), (1e6, 0.18)))
LARGE = Curve("large", ((1e4, 0.5), (1e5, 0.2), (1e6, 0.08)))
CIFAR10 = next(curves for curves in load_curves() if curves.data == "cifar10")
TABLE = Curves("squares", 32, 40_000, "fast", (SMALL, LARGE))


def images(side: int, count: int) -> Any:
    return SimpleNamespace(
        preprocess=SimpleNamespace(size=(side, side + 9), channels=3), splits=SimpleNamespace(train=range(count), validation=range(900))
    )


def test_a_curve_is_straight_between_its_points_in_the_logarithms() -> None:
    assert [SMALL.error(seen) for seen, _ in SMALL.points] == pytest.approx([error for _, error in SMALL.points])
    assert SMALL.error(10**4.5) == pytest.approx(math.sqrt(0.4 * 0.2))
    assert SMALL.error(1e8) == pytest.approx(0.18**2 / 0.2), "the last line goes on at half its slope"
    assert SMALL.error(1e3) == pytest.approx(0.8), "and the first"
    assert [SMALL.covers(seen) for seen in (9e3, 1e4, 1e6, 2e6)] == [False, True, True, False]


def test_the_spread_is_how_far_off_points_are_from_the_line_of_their_neighbors() -> None:
    misses = [math.log(0.2 / math.sqrt(0.4 * 0.18)), math.log(0.2 / math.sqrt(0.5 * 0.08))]
    assert SMALL.misses() + LARGE.misses() == pytest.approx(misses) and misses[1] == pytest.approx(0)
    assert TABLE.spread == pytest.approx(math.sqrt(misses[0] ** 2 / 2))


def test_the_best_net_is_larger_the_more_time_there_is() -> None:
    speeds = {SMALL: 1000.0, LARGE: 250.0}
    chosen = [(seconds, choose_best(speeds, seconds)) for seconds in (10.0, 100.0, 1000.0, 10_000.0)]
    for seconds, (best, seen) in chosen:
        assert best.error(seen) == min(curve.error(speed * seconds) for curve, speed in speeds.items()) and seen == speeds[best] * seconds
    assert [best.model for _, (best, _) in chosen] == ["small", "small", "large", "large"]


def test_a_forecast_is_as_sure_as_its_curve_and_the_images_asked() -> None:
    """Two standard errors of the error's logarithm, that of the curve and that of a share of so many images, on either side."""
    error = SMALL.error(3e5)
    sure = forecast(TABLE, SMALL, 3e5, 10**9)
    assert (sure.accuracy, sure.data) == (1 - error, "squares")
    assert (1 - sure.low) / error == pytest.approx(math.exp(2 * TABLE.spread)) == pytest.approx(error / (1 - sure.high))
    assert (1 - forecast(TABLE, SMALL, 1e7, 10**9).low) / SMALL.error(1e7) == pytest.approx(math.exp(4 * TABLE.spread)), "beyond its end"
    exact = dataclasses.replace(TABLE, nets=(LARGE,))
    low = forecast(exact, LARGE, 1e5, 400).low
    assert (
        1 - low
        == pytest.approx(0.2 * math.exp(2 * math.sqrt(0.8 / (0.2 * 400))))
        == pytest.approx(0.2 + 2 * math.sqrt(0.2 * 0.8 / 400), abs=0.01)
    )
    assert forecast(TABLE, SMALL, 1e2, 4).low == 0


def test_a_forecast_is_compared_with_what_was_reached() -> None:
    planned = Forecast(0.8, 0.75, 0.85, "cifar10")
    start = "The plan expected 80.0 % (75.0 % to 85.0 %) on data like cifar10; this is"
    assert planned.compare(0.831) == f"{start} 3.1 points above it, within its range."
    assert planned.compare(0.74) == f"{start} 6.0 points below it, outside its range."


def test_the_measured_curves_read_as_they_should() -> None:
    """Each net is one of ours, and more images seen leave fewer errors."""
    catalog = load_catalog()
    content = json.loads((resources.files("goodfit.recipe") / plan.CURVES_FILE).read_text())
    assert {table["data"] for table in content["curves"]} == {origin["data"] for origin in content["origins"]}
    for origin in content["origins"]:
        assert origin["made by"] == "bench/plan.py" and {"machine", "date", "data", "torch"} <= origin.keys()
    for curves in load_curves():
        assert Recipe.from_toml(curves.preset) and 0 < curves.spread < 0.2
        assert len({curve.model for curve in curves.nets}) == len(curves.nets) > 1
        for curve in curves.nets:
            assert catalog.make(curve.model, "model")(10, 3, (curves.side, curves.side)) is not None  # type: ignore[operator]
            seen, errors = np.array(curve.points).T
            assert len(seen) > 1 and (np.diff(seen) > 0).all() and (np.diff(errors) < 0).all() and 0 < errors.min() < errors.max() < 1


@pytest.mark.parametrize(
    ("side", "count", "data"), [(32, 42_500, "cifar10"), (48, 15_000, "cifar10"), (8, 42_500, None), (300, 42_500, None)]
)
def test_curves_speak_for_data_like_their_own(side: int, count: int, data: str | None) -> None:
    curves = find_curves(images(side, count))
    assert (curves.data if curves else None) == data


def test_smaller_images_early_are_seen_faster() -> None:
    def half(size: tuple[int, int], t: float) -> tuple[int, int]:
        return (16, 16) if t < 0.5 else size

    assert speed_gain(Full(), (32, 32)) == 1
    assert speed_gain(half, (32, 32)) == pytest.approx(0.5 * 4**plan.PIXEL_POWER + 0.5)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """What 40 seconds are planned for at 2,000 images a second, by what is asked for and whether mirrored images keep their class."""
    settings: list[str] = []

    def fastest(part: Any, data: Any, recipe: Recipe) -> Fastest:
        settings.append(recipe.precision)
        return Fastest("bf16", "channels_last", 1, part.width / (32 * 2000), "")

    monkeypatch.setattr(plan, "measure_fastest", fastest)
    monkeypatch.setattr(measure, "measure_fastest", fastest)

    def choose(mirrored: bool, **asked: Any) -> Recipe:
        chooser = Chooser(Recipe(budget="60 s", device="cpu", **asked), load_catalog())
        settings.clear()
        plan_training(chooser, images(32, 42_500), CIFAR10, 40.0, mirrored)
        assert settings == ["auto"] + ["bf16"] * len(CIFAR10.nets), "only the first net is measured at every precision"
        evidence = next(choice.evidence for choice in chooser.choices if choice.field == "model")
        assert "passes over the images in the 40 s that are left" in evidence and str(chooser.forecast) in evidence
        return chooser.recipe

    return choose


def test_what_is_open_is_as_the_curves_were_measured(planned: Callable[..., Recipe]) -> None:
    preset, recipe, catalog = Recipe.from_toml("fast"), planned(True, schedule="cosine"), load_catalog()
    speed = 2000.0 * plan.SPEED_SHARE * speed_gain(catalog.make(str(preset.resolution), "resolution"), (32, 41))  # type: ignore[arg-type]
    nets = {curve: speed * 32 / catalog.make(curve.model, "model").width for curve in CIFAR10.nets}  # type: ignore[attr-defined]
    assert recipe.model == choose_best(nets, 40.0)[0].model
    assert recipe.schedule == "cosine", "what was asked for stays"
    for field in ("optimizer", "augment", "resolution", "views", "batch_size"):
        assert getattr(recipe, field) == getattr(preset, field)
    assert planned(True).schedule == preset.schedule


def test_images_that_mirroring_would_change_are_never_mirrored(planned: Callable[..., Recipe]) -> None:
    """Neither in training nor for the answers: digits, letters."""
    recipe = planned(False)
    assert (recipe.augment, recipe.views) == ("crop(2, border=reflect) | smooth(0.2)", "auto")


def test_gray_images_get_no_jitter_of_color(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = Fastest("fp32", "channels_last", 2, 1 / 2000, "")
    for module in (plan, measure):
        monkeypatch.setattr(module, "measure_fastest", lambda part, data, recipe: fastest)
    curves, data = dataclasses.replace(CIFAR10, preset="photos"), images(32, 3000)
    for channels, jitters in ((1, False), (3, True)):
        data.preprocess.channels = channels
        chooser = Chooser(Recipe(budget="60 s", device="cpu"), load_catalog())
        plan_training(chooser, data, curves, 40.0, True)
        assert ("jitter" in str(chooser.recipe.augment)) == jitters and "resized_crop" in str(chooser.recipe.augment)


def test_what_asks_for_a_schedule_or_a_rate_of_its_own_gets_it(planned: Callable[..., Recipe]) -> None:
    assert planned(True, snapshots=5).schedule == planned(True, plateau="plateau").schedule == "auto"
    assert planned(True, batch_size=32).optimizer == "auto", "the preset's rates go with its batch"


@pytest.mark.parametrize(("each", "share", "every"), [(0.1, 0.05, "0.1"), (1.0, 0.05, "0.2"), (4.0, 0.05, "1"), (1.1, 0.1, "0.1112")])
def test_evaluations_take_no_more_than_their_share(each: float, share: float, every: str) -> None:
    chooser = Chooser(Recipe(budget="2 min"), load_catalog())
    auto.choose_evaluations(chooser, 100.0, each, share)
    assert float(chooser.recipe.evaluate_every) == pytest.approx(float(every), abs=1e-3)
    times = round(1 / float(chooser.recipe.evaluate_every))
    assert times == 1 or times * each <= share * 100.0
    assert dataclasses.asdict(chooser.choices[-1])["evidence"] == f"an evaluation takes {each:.1f} s"


@pytest.mark.parametrize(("views", "passes"), [("center", 1), ("flip_pair", 2), ("ten_crop", 10), ("ten_crop((40,))", 11)])
def test_the_final_evaluation_is_planned_with_all_its_views(views: str, passes: int) -> None:
    """The center is scored in any case, and counts once."""
    part: Any = load_catalog().make(views, "views")
    assert final_passes(part, Preprocess((32, 32), (36, 36))) == passes
