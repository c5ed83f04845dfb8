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

from goodfit.data.preprocess import Preprocess
from goodfit.recipe import auto, plan
from goodfit.recipe.build import final_passes
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.measure import Fastest
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.plan import Curve, choose_best, is_covered, load_curves, plan_training, speed_gain
from goodfit.recipe.recipe import Recipe
from goodfit.training.rules.resolution import Full

SMALL, LARGE = Curve("small", 1.0, ((1e4, 0.4), (1e5, 0.2), (1e6, 0.18))), Curve("large", 4.0, ((1e4, 0.5), (1e5, 0.2), (1e6, 0.08)))


def images(side: int, count: int) -> Any:
    return SimpleNamespace(preprocess=SimpleNamespace(size=(side, side + 9)), splits=SimpleNamespace(train=range(count)))


def test_a_curve_is_straight_between_its_points_in_the_logarithms() -> None:
    assert [SMALL.error(seen) for seen, _ in SMALL.points] == pytest.approx([error for _, error in SMALL.points])
    assert SMALL.error(10**4.5) == pytest.approx(math.sqrt(0.4 * 0.2))
    assert SMALL.error(1e7) == pytest.approx(0.18**2 / 0.2), "the last line goes on"
    assert SMALL.error(1e3) == pytest.approx(0.8), "and the first"


def test_the_best_net_is_larger_the_more_time_there_is() -> None:
    curves, speed = (SMALL, LARGE), 1000.0
    chosen = [(seconds, choose_best(curves, speed, seconds)) for seconds in (10.0, 100.0, 1000.0, 10_000.0)]
    for seconds, (best, seen) in chosen:
        errors = {curve.model: curve.error(speed * seconds / curve.cost) for curve in curves}
        assert errors[best.model] == min(errors.values()) and seen == speed * seconds / best.cost
    assert [best.model for _, (best, _) in chosen] == ["small", "small", "large", "large"]


def test_the_measured_curves_read_as_they_should() -> None:
    """Each net is one of ours, the costs begin at 1, and more images seen leave fewer errors."""
    catalog, curves = load_catalog(), load_curves()
    origin = json.loads((resources.files("goodfit.recipe") / plan.CURVES_FILE).read_text())["origin"]
    assert origin["made by"] == "bench/plan.py" and {"machine", "date", "data", "torch"} <= origin.keys()
    assert curves[0].cost == 1 and len({curve.model for curve in curves}) == len(curves) > 1
    for curve in curves:
        assert catalog.make(curve.model, "model")(10, 3, (32, 32)) is not None  # type: ignore[operator]
        seen, errors = np.array(curve.points).T
        assert len(seen) > 1 and (np.diff(seen) > 0).all() and (np.diff(errors) < 0).all() and 0 < errors.min() < errors.max() < 1
    times = [choose_best(curves, 1000.0, seconds)[0].cost for seconds in (30, 300, 3000)]
    assert times == sorted(times), "more time never makes the net smaller"


@pytest.mark.parametrize(("side", "count", "covered"), [(32, 42_500, True), (8, 42_500, False), (64, 42_500, False), (32, 3000, False)])
def test_it_speaks_for_data_like_that_of_the_curves(side: int, count: int, covered: bool) -> None:
    assert is_covered(images(side, count)) == covered


def test_smaller_images_early_are_seen_faster() -> None:
    def half(size: tuple[int, int], t: float) -> tuple[int, int]:
        return (16, 16) if t < 0.5 else size

    assert speed_gain(Full(), (32, 32)) == 1
    assert speed_gain(half, (32, 32)) == pytest.approx(0.5 * 4**plan.PIXEL_POWER + 0.5)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """What 40 seconds are planned for at 2,000 images a second, by what is asked for and whether mirrored images keep their class."""
    fastest = Fastest("fp32", "channels_last", 2, 1 / 2000, "")
    monkeypatch.setattr(plan, "measure_fastest", lambda part, data, recipe: fastest)

    def choose(mirrored: bool, **asked: Any) -> Recipe:
        chooser = Chooser(Recipe(budget="60 s", device="cpu", **asked), load_catalog())
        plan_training(chooser, images(32, 42_500), 40.0, mirrored)
        assert "passes over the images in the 40 s that are left" in chooser.choices[0].evidence
        return chooser.recipe

    return choose


def test_what_is_open_is_as_the_curves_were_measured(planned: Callable[..., Recipe]) -> None:
    preset, recipe = Recipe.from_toml("fast"), planned(True, schedule="cosine")
    speed = 2000.0 * speed_gain(load_catalog().make(str(preset.resolution), "resolution"), (32, 41))  # type: ignore[arg-type]
    assert recipe.model == choose_best(load_curves(), speed, 40.0)[0].model
    assert recipe.schedule == "cosine", "what was asked for stays"
    for field in ("optimizer", "augment", "resolution", "views", "batch_size"):
        assert getattr(recipe, field) == getattr(preset, field)
    assert planned(True).schedule == preset.schedule


def test_images_that_mirroring_would_change_are_never_mirrored(planned: Callable[..., Recipe]) -> None:
    """Neither in training nor for the answers: digits, letters."""
    recipe = planned(False)
    assert (recipe.augment, recipe.views) == ("crop(2) | smooth(0.2)", "auto")


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
