"""Search: spaces in the recipe's language, draws by the trial's place, coarse to fine, workers that die, and what is said of luck."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from goodfit.core.errors import DataError, Diverged, GoodfitError, Interrupted, UsageError
from goodfit.core.parts import part_name
from goodfit.core.progress import steady_time
from goodfit.core.run import Run
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import SEATS, Recipe
from goodfit.study.search import storage as storage_module
from goodfit.study.search.begin import begin_search
from goodfit.study.search.defaults import default_space, draw_part, fill_defaults, has_default
from goodfit.study.search.plan import SearchPlan, scale_length
from goodfit.study.search.refine import draw_values, find_edge, grid_values, refine_axes
from goodfit.study.search.results import collect_results, format_results
from goodfit.study.search.search import Search, work_on
from goodfit.study.search.space import Axis, Space, read_texts
from goodfit.study.search.storage import FolderStorage
from goodfit.study.search.trial_recipe import recipe_of_trial
from tests.support.command import FAST, goodfit, refused
from tests.support.process import Forked, wait_until
from tests.support.search import BASE, CATALOG, hill, work_slowly, work_until_stopped

SPACE = {"lr": "log(1e-4, 1)", "optimizer.momentum": "uniform(0, 0.99)", "model.width": "one_of(8, 16)"}


def plan(method: Any = "fine", trials: int = 10, **more: Any) -> SearchPlan:
    return SearchPlan(**{"space": SPACE, "method": method, "trials": trials, "each": "9 epochs", "full": "9 epochs", "seed": 3, **more})


def searched(folder: Path, method: Any = "fine", trials: int = 10, train: Callable[[Recipe, Path], float] = hill, **more: Any) -> Search:
    search = begin_search(folder, plan(method, trials, **more), BASE)
    work_on(search, train)
    return search


def story(search: Search) -> list[tuple[object, ...]]:
    """What a search did, apart from who did it when."""
    return sorted((row.stage, row.place, str(row.values), row.value, row.state, row.origin, row.parent) for row in search.trials.all())


# ---- the space ---------------------------------------------------------------------------------------------------------------------


def test_a_space_is_written_in_the_language_of_recipes() -> None:
    texts = read_texts(["optimizer=sgd(log(0.01, 1), momentum=one_of(0.9, 0.95))", 'model=one_of("resnet(18)", "swift(64)")',
                        "augment=flip | crop(integers(1, 4)) | jitter(uniform(0, 0.5))", "batch-size=one_of(32, 64)",
                        'budget=one_of("5 epochs", "10 epochs")'])  # fmt: skip
    space = Space.read(texts, CATALOG)
    assert [str(axis) for axis in space.axes] == [
        "log(0.01, 1)", "one_of(0.9, 0.95)", "one_of(resnet(18), swift(64))", "integers(1, 4)", "uniform(0, 0.5)", "one_of(32, 64)",
        "one_of(5 epochs, 10 epochs)",
    ]  # fmt: skip
    names = [axis.name for axis in space.axes]
    assert names[:3] == ["optimizer.lr", "optimizer.momentum", "model"]
    assert names[3].startswith("augment.crop.") and names[4].startswith("augment.jitter.")
    values = dict(zip(names, (0.03, "0.95", "swift(64)", 3, 0.25, "64", "5 epochs"), strict=True))
    recipe = recipe_of_trial(BASE, space, values, CATALOG)
    assert recipe.optimizer == "sgd(0.03, momentum=0.95)"
    assert (recipe.model, recipe.augment, recipe.batch_size, recipe.budget) == (
        "swift(64)",
        "flip | crop(3) | jitter(0.25)",
        64,
        "5 epochs",
    )


def test_settings_of_parts_and_short_words() -> None:
    texts = {"lr": "log(0.01, 1)", "model.drop": "dropout(uniform(0, 0.5))", "model.width": "one_of(8, 16)", "strength": "uniform(0, 1)"}
    space = Space.read(texts, CATALOG)
    recipe = recipe_of_trial(BASE, space, {"lr": 0.2, "model.drop.p": 0.3, "model.width": "16", "strength": 0.5}, CATALOG)
    made: dict[str, Any] = make_parts(recipe, CATALOG)
    assert made["optimizer"].lr == 0.2
    assert (made["model"].width, made["model"].drop.p) == (16, 0.3)
    assert [part.p for part in made["augment"].parts] == [part.scaled(0.5).p for part in CATALOG.make(BASE.augment, "augment").parts]  # type: ignore[attr-defined]
    lengths = Space.read({"schedule.length": 'one_of("1 epoch", "2 epochs")'}, CATALOG)
    recipe = recipe_of_trial(BASE.but(schedule="warmup(0.05)"), lengths, {"schedule.length": "2 epochs"}, CATALOG)
    assert recipe.schedule == "warmup(length='2 epochs')", "a choice that is no expression is text"
    nested = Space.read({"optimizer.around.lr": "log(0.01, 1)"}, CATALOG)
    recipe = recipe_of_trial(BASE.but(optimizer="sam(around=sgd(0.1))"), nested, {"optimizer.around.lr": 0.7}, CATALOG)
    assert make_parts(recipe, CATALOG)["optimizer"].around.lr == 0.7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"lrr": "log(0.1, 1)"}, 'Unknown key of the space "lrr". Did you mean "lr"'),
        ({"lr": "log(0, 1)"}, "Expected log with two numbers above 0"),
        ({"lr": "uniform(2, 1)"}, "the lower first"),
        ({"lr": "uniform(1)"}, "the lower first"),
        ({"model.width": "integers(1.5, 3)"}, "two whole numbers"),
        ({"model": "one_of()"}, "different choices"),
        ({"model": "one_of(swift(integers(8, 16)), convnet)"}, "cannot draw again"),
        ({"lr": "0.1"}, "draws something"),
        ({"lr": "log(0.1, 1"}, "cannot be parsed"),
        ({"budget.x": "log(0.1, 1)"}, "holds no part"),
        ({"optimizer": "sgd(log(0.1, 1))", "optimizer.lr": "log(0.1, 1)"}, "twice"),
    ],
)
def test_wrong_spaces_are_refused(texts: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", "\\(")):
        Space.read(texts, CATALOG)


def test_a_space_that_does_not_go_with_the_recipe_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for texts, said in (({"model.depth": "one_of(18, 34)"}, "setting of convnet"), ({"optimizer.momentum": "uniform(1, 2)"}, "momentum")):
        with pytest.raises(UsageError, match=said):
            begin_search(tmp_path / "s", plan(space=texts), BASE)
    for method in ("grid", "halving"):
        with pytest.raises(UsageError, match="--trials"):
            begin_search(tmp_path / "s", plan(method, 0), BASE)
    assert not (tmp_path / "s").exists()


@pytest.mark.item("S128")
def test_the_default_space_has_what_the_lecture_plays_with() -> None:
    texts = default_space(BASE, CATALOG)
    axes = {axis.name: axis for axis in Space.read(texts, CATALOG).axes}
    assert {axes[name].law for name in ("lr", "optimizer.weight_decay")} == {"log"}
    assert axes["lr"].low < 0.1 < axes["lr"].high
    assert axes["model.width"].choices == ("4", "8", "16")
    assert (axes["model.drop.p"].law, axes["strength"].law) == ("uniform", "uniform")
    assert axes["optimizer"].choices == ("sgd", "sgd(momentum=0.9)", "sgd(momentum=0.9, nesterov=True)")
    assert set(axes["schedule"].choices) == {"constant", "step", "exponential", "inverse", "cosine"}
    values = {"optimizer": "sgd(momentum=0.9, nesterov=True)", "lr": 0.2, "optimizer.weight_decay": 1e-3, "schedule": "step"}
    first = {axis.name: axis.value_at(0.0) for axis in Space.read(texts, CATALOG).axes}
    drawn = recipe_of_trial(BASE, Space.read(texts, CATALOG), first | values, CATALOG)
    assert CATALOG.make(drawn.optimizer, "optimizer") == CATALOG.make("sgd(0.2, 0.9, True, weight_decay=1e-3)", "optimizer")
    assert drawn.schedule == "step"
    adaptive = default_space(BASE.but(optimizer="adamw(1e-3, betas=(0.9, 0.95))", schedule="warmup(0.1) | cosine"), CATALOG)
    update, decay = (axis for axis in Space.read(adaptive, CATALOG).axes if axis.name in ("optimizer", "schedule"))
    assert [part_name(CATALOG.make(text, "optimizer")) for text in update.choices] == ["adamw", "adam", "rmsprop"]
    assert CATALOG.make(update.choices[1], "optimizer").betas == (0.9, 0.95), "what they share is the recipe's"  # type: ignore[attr-defined]
    assert len(decay.choices) == 5 and all(text.startswith("warmup(0.1) | ") for text in decay.choices)
    assert "schedule" not in default_space(BASE.but(schedule="cyclic", snapshots=2), CATALOG), "snapshots want their cycles"
    for model in ("resnet(18)", "linear", "mlp", "mobilenet_v2", "vgg"):
        for optimizer in ("adamw", "sam(around=sgd(0.1))", "muon", "lbfgs"):
            base = BASE.but(model=model, optimizer=optimizer)
            space = Space.read(default_space(base, CATALOG), CATALOG)
            for u in (0.0, 0.5, 1.0):
                recipe_of_trial(base, space, {axis.name: axis.value_at(u) for axis in space.axes}, CATALOG)
            assert ("schedule" in dict(space.texts)) == (optimizer != "lbfgs"), "full batches without noise need no decay"


@pytest.mark.thorough
def test_every_part_has_a_default_space_that_its_recipe_takes() -> None:
    """Over the whole catalog: whatever is drawn makes a part; a part without settings to draw is refused."""
    searched, plain = 0, 0
    for seat in SEATS:
        for name in CATALOG.kinds.get(seat, {}):
            base = BASE.but(**{seat: name})
            try:
                texts = fill_defaults({seat: ""}, base, CATALOG)
            except UsageError as error:
                assert "nothing that is searched by default" in str(error)
                plain += 1
                continue
            searched += 1
            space = Space.read(texts, CATALOG)
            for place in range(30):
                recipe_of_trial(base, space, draw_values(space.axes, 0, "random", place), CATALOG)
            for u in (0.0, 0.999):
                recipe_of_trial(base, space, {axis.name: axis.value_at(u) for axis in space.axes}, CATALOG)
                recipe_of_trial(
                    base, space, {axis.name: axis.value_at(u if i % 2 else 0.999 - u) for i, axis in enumerate(space.axes)}, CATALOG
                )
    assert searched > 70 and plain < 25


def test_defaults_go_by_the_types_of_settings() -> None:
    words = ["lr=log(0.0033, 1)", "momentum=one_of(0.7, 0.9, 0.966667)", "nesterov=one_of(True, False)", "weight_decay=log(1e-05, 0.01)"]
    assert draw_part(CATALOG.make("sgd(0.1, momentum=0.9)", "optimizer")) == f"sgd({', '.join(words)}, form='step')"
    assert "momentum=one_of(0.5, 0.9, 0.95, 0.99), nesterov=False" in draw_part(CATALOG.make("sgd(0.1)", "optimizer"))
    assert draw_part(CATALOG.make("flip | crop(2)", "augment")).count(" | ") == 1
    assert "around=sgd(lr=log(0.0033, 1)" in draw_part(CATALOG.make("sam(around=sgd(0.1))", "optimizer")), "a part in a part of its kind"
    assert "eps=1e-08" in draw_part(CATALOG.make("adam", "optimizer")), "a guard against zero is nothing to search"
    texts = fill_defaults({"optimizer.momentum": "", "lr": "", "strength": "", "model.width": "one_of(4, 8)"}, BASE, CATALOG)
    assert texts == {
        "optimizer.momentum": "one_of(0.5, 0.9, 0.95, 0.99)",
        "lr": "log(0.0033, 1)",
        "strength": "uniform(0, 1)",
        "model.width": "one_of(4, 8)",
    }
    erase = draw_part(CATALOG.make("erase", "augment"))
    assert "area=(log(0.002, 0.089), log(0.089, 0.4))" in erase, "ends of a range do not cross"
    assert "drop=dropout(uniform(0, 0.5))" in draw_part(CATALOG.make("vgg", "model"))
    for key, said in (
        ("seed", "Expected a space for"),
        ("nonsense", "Expected a space for"),
        ("optimizer.lr.x", "no settings of its own"),
        ("augment.crop", "no settings of its own"),
    ):
        with pytest.raises(UsageError, match=said):
            fill_defaults({key: ""}, BASE, CATALOG)
    with pytest.raises(UsageError, match=r'setting of sgd "momentun"\. Did you mean "momentum"'):
        fill_defaults({"optimizer.momentun": ""}, BASE, CATALOG)
    assert has_default("optimizer") and has_default("lr") and not has_default("seed") and not has_default("nonsense")


def test_a_key_alone_wins_over_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "optimizer").write_text("not a space")
    (tmp_path / "model.toml").write_text('lr = "log(0.1, 1)"')
    assert read_texts(["optimizer", "model.toml"], has_default) == {"optimizer": "", "lr": "log(0.1, 1)"}


MILDER = """
import dataclasses
from goodfit.core.contracts import Augment

@dataclasses.dataclass(frozen=True)
class MyTone(Augment):
    \"\"\"No strength.\"\"\"

    def __call__(self, batch, chance, t):
        return batch

@dataclasses.dataclass(frozen=True)
class Fussy(Augment):
    \"\"\"Refuses in its own way.\"\"\"

    level: float = 2.0
    p: float = 0.5

    def __post_init__(self):
        if self.level > 5:
            raise ValueError("too loud")

    def __call__(self, batch, chance, t):
        return batch
"""


def test_parts_of_ones_own_have_defaults_or_none(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MILDER)
    known = load_catalog([tmp_path / "own.py"])
    base = BASE.but(augment="flip | my_tone")
    assert "strength" not in default_space(base, known), "what cannot be made milder is not drawn by strength"
    with pytest.raises(UsageError, match="cannot be scaled"):
        recipe_of_trial(base, Space.read({"strength": "uniform(0, 1)"}, known), {"strength": 0.5}, known)
    with pytest.raises(UsageError, match="cannot be made milder"):
        known.make("my_tone", "augment").scaled(0.5)  # type: ignore[attr-defined]
    assert draw_part(known.make("fussy", "augment")) == "fussy(level=log(0.2, 2), p=log(0.05, 5))"


def test_parts_tells_what_a_search_draws_under_the_card_of_its_kind() -> None:
    said = goodfit("parts", "sgd").out
    assert said.count("Searched by default") == 1 and "optimizer=sgd(lr=log(0.0033, 1)" in said
    assert "Searched by default" not in goodfit("parts", "none").out, "nothing of it is drawn"
    assert "Searched by default" not in goodfit("parts", "optimizer").out


# ---- drawing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S130")
def test_a_log_axis_draws_each_decade_equally_often() -> None:
    n = 4000
    axis = Axis("lr", "log", 1e-4, 1.0)
    draws = np.array([axis.draw(0, "coarse", i) for i in range(n)], dtype=float)
    counts = np.histogram(np.log10(draws), bins=4, range=(-4, 0))[0]
    assert counts.sum() == n
    assert ((counts - n / 4) ** 2 / (n / 4)).sum() < 16.27, counts  # chi-square with 3 degrees of freedom, 1 in 1000
    plain = np.array([Axis("lr", "uniform", 1e-4, 1.0).draw(0, "coarse", i) for i in range(n)], dtype=float)
    assert (plain > 0.1).mean() > 0.85, "drawn evenly, the top decade takes nine tenths"


@pytest.mark.item("S129")
def test_nine_random_trials_have_nine_values_of_each_number_and_a_grid_three() -> None:
    axes = Space.read({"lr": "log(1e-4, 1)", "optimizer.momentum": "uniform(0, 0.99)"}, CATALOG).axes
    for seed in range(20):
        rows = [draw_values(axes, seed, "random", place) for place in range(9)]
        assert all(len({row[axis.name] for row in rows}) == 9 for axis in axes)
    rows = grid_values(axes, 9)
    assert len(rows) == 9
    assert all(len({row[axis.name] for row in rows}) == 3 for axis in axes)
    assert [round(math.log10(float(x)), 3) for x in sorted({row["lr"] for row in rows})] == [-3.333, -2.0, -0.667]


def test_draws_know_only_seed_stage_place_and_name() -> None:
    axes = Space.read(SPACE, CATALOG).axes
    assert draw_values(axes, 1, "coarse", 5) == {axis.name: axis.draw(1, "coarse", 5) for axis in reversed(axes)}
    assert draw_values(axes, 1, "coarse", 5) != draw_values(axes, 2, "coarse", 5)
    whole = Axis("n", "integers", 2, 5)
    assert Counter(whole.draw(0, "x", i) for i in range(4000)).keys() == {2, 3, 4, 5}
    for axis in (*axes, whole):
        for u in (0.0, 0.3, 1.0):
            assert axis.value_at(axis.position_of(axis.value_at(u))) == axis.value_at(u)


# ---- coarse to fine ----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S131")
def test_the_fine_stage_draws_inside_the_widened_hull_of_the_best(tmp_path: Path) -> None:
    search = searched(tmp_path / "s", trials=40)
    rows = search.trials.all()
    coarse = sorted((row for row in rows if row.stage == "coarse"), key=lambda row: -(row.value or 0))[:5]
    fine = [row for row in rows if row.stage == "fine"]
    assert len(fine) == 20
    for axis in search.space.axes[:2]:
        places = [axis.position_of(row.values[axis.name]) for row in coarse]
        pad = 0.1 * (max(places) - min(places)) + 0.021
        assert all(min(places) - pad <= axis.position_of(row.values[axis.name]) <= max(places) + pad for row in fine)
    widths = [
        max(x) - min(x) for x in ([math.log10(float(row.values["lr"])) for row in rows if row.stage == s] for s in ("coarse", "fine"))
    ]
    assert widths[1] < 0.7 * widths[0]
    assert not search.trials.read_notes()["warnings"]


@pytest.mark.item("S131")
def test_the_best_at_an_edge_warns_and_extends_the_range_where_a_recipe_takes_it() -> None:
    axes = (
        Axis("lr", "log", 1e-3, 0.1),
        Axis("p", "uniform", 0.0, 0.5),
        Axis("n", "integers", 1, 9),
        Axis("act", "one_of", choices=("a", "b", "c")),
    )
    best = [{"lr": 0.098, "p": 0.001, "n": 9, "act": "c"}, {"lr": 0.02, "p": 0.2, "n": 7, "act": "a"}]
    made, warnings = refine_axes(axes, best, lambda axis, value: axis.name != "p")
    assert made[0].high == pytest.approx(0.1 * 10**0.5) and 0.01 < made[0].low < 0.02
    assert (made[1].low, made[1].high) == (0.0, pytest.approx(0.22, abs=0.01))
    assert made[2].low <= 7 and made[2].high > 9
    assert made[3].choices == ("a", "c")
    assert [text.split(" of ")[0] for text in warnings] == ["The best lr", "The best p", "The best n"]
    assert "extended to 0.316" in warnings[0] and "upper edge" in warnings[0]
    assert "no recipe takes values beyond" in warnings[1]
    assert not find_edge(axes[0], 0.01)


def test_an_optimum_beyond_the_range_is_reached_by_extending_it(tmp_path: Path) -> None:
    search = searched(tmp_path / "s", trials=40, space={"lr": "log(1e-5, 0.005)"})
    assert "lies at the upper edge" in search.trials.read_notes()["warnings"][0]
    assert max(float(row.values["lr"]) for row in search.trials.all()) > 0.005
    assert "Warning: The best lr" in format_results(collect_results(search))


# ---- methods -----------------------------------------------------------------------------------------------------------------------


def test_halving_compares_whole_trainings_at_equal_progress(tmp_path: Path) -> None:
    lengths: list[str] = []

    def train(recipe: Recipe, out: Path) -> float:
        lengths.append(recipe.budget)
        return hill(recipe, out)

    search = searched(tmp_path / "s", "halving", 9, train, keep=1, copies=1)
    assert lengths == ["1 epoch"] * 9 + ["3 epochs"] * 3 + ["9 epochs"] + ["9 epochs"]
    rows = search.trials.all()
    first = sorted((row for row in rows if row.stage == "rung1"), key=lambda row: -(row.value or 0))
    assert [row.parent for row in rows if row.stage == "rung2"] == [row.place for row in first[:3]]
    assert collect_results(search).winner == next(row for row in rows if row.stage == "rung3")
    assert [scale_length(text, 1 / 3) for text in ("9 epochs", "100 steps", "3 min", "2 epochs")] == [
        "3 epochs",
        "33 steps",
        "60 seconds",
        "0.666667 epochs",
    ]


def test_tpe_draws_within_the_space_and_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", "tpe", 14)
    assert all(1e-4 <= float(row.values["lr"]) <= 1 and row.values["model.width"] in ("8", "16") for row in whole.trials.all())
    assert len({row.values["lr"] for row in whole.trials.all() if row.stage == "tpe"}) == 14
    stopped = begin_search(tmp_path / "stopped", plan("tpe", 14), BASE)
    with pytest.raises(KeyboardInterrupt):
        work_on(stopped, stopping(12))
    work_on(Search(tmp_path / "stopped"), hill)
    assert story(Search(tmp_path / "stopped")) == story(whole)


def test_a_grid_and_a_random_search_try_what_they_are_to(tmp_path: Path) -> None:
    search = searched(tmp_path / "grid", "grid", 9, space={"lr": "log(1e-4, 1)", "optimizer.momentum": "uniform(0, 0.99)"}, keep=0)
    assert [row.values for row in search.trials.all()] == grid_values(search.space.axes, 9)
    with pytest.raises(UsageError, match="cannot be made longer"):
        search.extend(16)
    search = searched(tmp_path / "random", "random", 6, keep=0)
    search.extend(8)
    work_on(search, hill)
    assert [row.values for row in search.trials.all()] == [draw_values(search.space.axes, 3, "random", i) for i in range(8)]


# ---- the winner, and luck ----------------------------------------------------------------------------------------------------------


def test_the_best_are_trained_anew_and_luck_is_what_did_not_come_again(tmp_path: Path) -> None:
    def lucky(recipe: Recipe, out: Path) -> float:
        """The third trial is lucky with the search's seed alone."""
        if recipe.seed == BASE.seed:
            return 0.95 if out.name == "0002" else 0.8 - 0.01 * int(out.name)
        part: Any = make_parts(recipe, CATALOG)["optimizer"]
        return 0.6 if part.lr == lr_of[2] else 0.75 + 0.02 * recipe.seed

    axes = Space.read(SPACE, CATALOG).axes
    lr_of = [draw_values(axes, 3, "random", i)["lr"] for i in range(6)]
    search = searched(tmp_path / "s", "random", 6, lucky, keep=3, copies=2)
    found = collect_results(search)
    assert [row.place for row in found.ranking[:3]] == [2, 0, 1]
    assert [one.trial.place for one in found.finalists] == [0, 1, 2], "equal means stay in the order of the search"
    assert [one.fresh for one in found.finalists] == [(0.77, 0.79), (0.77, 0.79), (0.6, 0.6)]
    assert found.finalists[2].luck == pytest.approx(0.35)
    assert found.winner is not None and found.winner.place == 0
    assert found.luck == pytest.approx(0.80 - 0.78)
    assert found.lead == pytest.approx(0.80 - np.median([0.95, 0.8, 0.79, 0.77, 0.76, 0.75]))
    text = format_results(found)
    assert "Luck: of its lead of 2.00 points" in text and "Winner: random/0000" in text
    finals = [row for row in search.trials.all() if row.stage == "final"]
    assert [(row.parent, row.copy) for row in finals] == [(2, 1), (0, 1), (1, 1), (2, 2), (0, 2), (1, 2)]
    assert [search.recipe_of(row).seed for row in finals] == [1, 1, 1, 2, 2, 2]


def test_importance_finds_the_value_that_matters(tmp_path: Path) -> None:
    found = collect_results(searched(tmp_path / "s", "random", 30, keep=0))
    assert next(iter(found.importance)) == "lr"
    assert found.importance["lr"] > 0.6
    assert sum(found.importance.values()) == pytest.approx(1)
    json.dumps(found.plain())
    search = Search(tmp_path / "s")
    assert collect_results(search, with_importance=False) == dataclasses.replace(collect_results(search), importance={})


def test_trials_that_diverge_or_fail_are_kept_and_said(tmp_path: Path) -> None:
    def train(recipe: Recipe, out: Path) -> float:
        if out.name == "0001":
            raise Diverged("the loss is not finite.")
        if out.name == "0002":
            raise RuntimeError("out of memory")
        return hill(recipe, out)

    search = searched(tmp_path / "s", "random", 5, train, keep=0)
    states = {row.place: (row.state, row.value) for row in search.trials.all()}
    assert (states[1], states[2]) == (("done", 0.0), ("failed", None))
    assert "out of memory" in format_results(collect_results(search)) and "(diverged)" in format_results(collect_results(search))

    def broken(recipe: Recipe, out: Path) -> float:
        raise UsageError("no such thing")

    with pytest.raises(GoodfitError, match=r"Every trial so far has failed.*no such thing"):
        searched(tmp_path / "broken", "random", 9, broken)

    def gone(recipe: Recipe, out: Path) -> float:
        raise DataError("the images are gone")

    with pytest.raises(DataError):
        searched(tmp_path / "gone", "random", 9, gone)
    assert [row.state for row in Search(tmp_path / "gone").trials.all()] == ["waiting"] * 9, "it can go on when they are back"


# ---- killed, and many --------------------------------------------------------------------------------------------------------------


def stopping(after: int) -> Callable[[Recipe, Path], float]:
    """`hill` that is stopped by Ctrl-C in the training after so many."""
    done = []

    def train(recipe: Recipe, out: Path) -> float:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(out)
        return hill(recipe, out)

    return train


@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow), 11])
def test_a_search_that_was_stopped_goes_on_as_if_it_never_was(tmp_path: Path, after: int) -> None:
    whole = searched(tmp_path / "whole")
    search = begin_search(tmp_path / "stopped", plan(), BASE)
    with pytest.raises(KeyboardInterrupt):
        work_on(search, stopping(after))
    again = Search(tmp_path / "stopped")
    assert (collect_results(again).over, collect_results(again).timed_out) == (False, False)
    assert sum(row.value is not None for row in again.trials.all()) == after, "what was done is kept"
    work_on(again, hill)
    assert story(again) == story(whole)
    assert collect_results(again).plain()["winner"] == collect_results(whole).plain()["winner"]
    again.set_time_limit(0.001, 0.0)  # a time that is over now makes nothing of a search that was through before
    assert (collect_results(again).over, collect_results(again).timed_out) == (True, False)


def said(study: Path) -> list[str]:
    return (study / "said.txt").read_text().split() if (study / "said.txt").is_file() else []


def test_a_worker_killed_with_9_loses_its_trial_only_and_others_take_it_up(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole")
    search = begin_search(tmp_path / "s", plan(), BASE)
    killed = Forked(tmp_path / "worker", work_slowly, search.folder, "fine/0002")
    wait_until(lambda: "fine/0002" in said(search.folder))
    killed.kill()
    again = Search(tmp_path / "s")
    states = {row.folder: row.state for row in again.trials.all()}
    assert states["fine/0002"] == "running", "it says so for ever"
    assert sum(state == "done" for state in states.values()) == 7
    with (again.folder / "journal.log").open("a") as file:
        file.write('{"op_code": 5, "tor')  # and the machine went down in the middle of a line
    work_on(Search(tmp_path / "s"), hill)
    assert story(Search(tmp_path / "s")) == story(whole)


def test_disks_without_locks_are_shared_by_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodfit.study.search.storage.lock", lambda path, wait=True: contextlib.nullcontext(None))
    search = searched(tmp_path / "s", "random", 4, keep=0)
    assert [row.state for row in search.trials.all()] == ["done"] * 4
    assert not list(tmp_path.glob("s/*.links.lock*"))


def test_a_stop_says_how_to_go_on(tmp_path: Path) -> None:
    def stopped(recipe: Recipe, out: Path) -> float:
        raise Interrupted("Stopped at step 3.")

    with pytest.raises(Interrupted, match="goodfit search --resume"):
        searched(tmp_path / "s", "random", 4, stopped)
    assert [row.state for row in Search(tmp_path / "s").trials.all()] == ["waiting"] * 4


def test_a_living_worker_keeps_its_trial_and_no_two_run_the_same(tmp_path: Path) -> None:
    search = begin_search(tmp_path / "s", plan("random", 16, keep=2, copies=1), BASE)
    workers = [Forked(tmp_path / f"worker{k}", work_slowly, search.folder) for k in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert sorted(said(search.folder)) == [f"final/{i:04d}" for i in range(2)] + [f"random/{i:04d}" for i in range(16)]
    assert story(search) == story(searched(tmp_path / "alone", "random", 16, keep=2, copies=1))
    owners = {trial.user_attrs["worker"] for trial in search.trials.study.get_trials()}
    assert len(owners) <= 2


def test_a_trial_that_kills_its_workers_fails_in_the_end(tmp_path: Path) -> None:
    begin_search(tmp_path / "s", plan("random", 1, keep=0), BASE)
    for _ in range(3):
        assert Search(tmp_path / "s").claim() is not None  # by a worker that never lives
    search = Search(tmp_path / "s")
    work_on(search, hill)
    assert [(row.state, row.why) for row in search.trials.all()] == [("failed", "its worker died 3 times")]
    assert "its worker died 3 times" in format_results(collect_results(search))


def test_workers_of_other_machines_live_by_their_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = FolderStorage(tmp_path), FolderStorage(tmp_path)
    there.worker = "1-abc@elsewhere"
    with there.heartbeat(), here.heartbeat():
        assert here.is_alive(there.worker) and here.is_alive(here.worker)
        hour_ago = time.time() - 3600
        os.utime(tmp_path / "workers" / "1-abc@elsewhere.lock", (hour_ago, hour_ago))
        assert not here.is_alive(there.worker)
        near = FolderStorage(tmp_path)
        assert not here.is_alive(near.worker), "it has not begun"
        with near.heartbeat():
            assert here.is_alive(near.worker)
            os.utime(tmp_path / "workers" / f"{near.worker}.lock", (hour_ago, hour_ago))
            assert here.is_alive(near.worker), "a process of this machine is known by its lock"
        assert not here.is_alive(near.worker)
    monkeypatch.setattr(storage_module, "HEARTBEAT_SECONDS", 0.02)
    with there.heartbeat():
        file = tmp_path / "workers" / "1-abc@elsewhere.lock"
        os.utime(file, (hour_ago, hour_ago))
        wait_until(lambda: file.stat().st_mtime > hour_ago + 1)


def test_a_worker_of_another_machine_that_died_is_missed_after_its_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = searched(tmp_path / "whole", "random", 4, keep=0)
    search = begin_search(tmp_path / "s", plan("random", 4, keep=0), BASE)
    killed = Forked(tmp_path / "worker", work_slowly, search.folder, "random/0001", "elsewhere")
    wait_until(lambda: "random/0001" in said(search.folder))
    killed.kill()
    assert list(search.folder.glob("workers/*@elsewhere.lock")), "nothing tells this machine at once"
    with search.storage.heartbeat():
        for place in (2, 3):
            row = search.claim()
            assert row is not None and row.place == place
            search.trials.finish(row, hill(search.recipe_of(row), search.folder / row.folder))
        assert search.claim() is None, "it may still live"
        monkeypatch.setattr(storage_module, "MAX_SILENT_SECONDS", 0.1)
        wait_until(lambda: not search.storage.is_alive(next(search.folder.glob("workers/*@elsewhere.lock")).stem))
    work_on(Search(search.folder), hill)
    assert story(search) == story(whole)


# ---- time --------------------------------------------------------------------------------------------------------------------------


def test_a_budget_ends_a_search_with_the_best_so_far(tmp_path: Path) -> None:
    """In a process of its own, for the end comes as a signal: trainings without number, the last of them stopped on the way."""
    search = begin_search(tmp_path / "s", plan("fine", 0), BASE)
    worker = Forked(tmp_path / "worker", work_until_stopped, search.folder, 2.0)
    assert worker.wait() == 0, worker.err
    span = search.trials.read_notes()["time"]
    assert span[1] <= float(worker.out) < span[1] + 6, "the last training would have taken ten seconds"
    rows = search.trials.all()
    assert {row.stage for row in rows} == {"coarse", "fine", "final"}
    assert not any(row.state == "running" for row in rows)
    found = collect_results(search)
    assert found.winner is not None
    assert found.over and found.timed_out
    assert "so far" in format_results(found) or found.finalists
    assert search.is_over() and search.claim() is None


# ---- the command -------------------------------------------------------------------------------------------------------------------

QUICK = {**FAST, "size": "8", "augment": "crop(1)", "limit": "20"}
del QUICK["budget"]
WORDS = [word for key, value in QUICK.items() for word in (f"--{key.replace('_', '-')}", value)]
SHORT = ["--each", "1 epoch", "--full", "1 epoch", "--keep", "1", "--seeds", "1"]


def test_the_command_searches_resumes_and_leaves_ordinary_runs(tmp_path: Path) -> None:
    done = goodfit("search", "digits", *WORDS, *SHORT, "--out", tmp_path / "s", "--trials", "4", "--space", "lr=log(0.001, 0.1)", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["winner"]["retrained"]
    assert [row["run"] for row in found["trials"] if row["stage"] == "coarse"] == ["coarse/0000", "coarse/0001"]
    for row in found["trials"]:
        run = Run.open(tmp_path / "s" / row["run"])
        assert run.read("about.json")["state"] == "finished"
        assert run.read("about.json")["openings"] == []
        assert run.read("scores.json")["validation"]["accuracy"] == row["value"]
        assert list(run.read("scores.json")).count("test") == 0
    winner = Recipe.from_toml(tmp_path / "s" / "winner.toml")
    assert f"{found['winner']['values']['lr']}" in str(winner.optimizer)
    assert json.loads((tmp_path / "s" / "results.json").read_text())["winner"] == found["winner"]
    assert "Winner: " in goodfit("search", "--resume", tmp_path / "s").out
    again = goodfit("search", "--resume", tmp_path / "s", "--trials", "5", "--json")
    assert again.code == 0, again.err
    more = json.loads(again.out)["trials"]
    assert [row["run"] for row in more if row["stage"] == "fine"] == ["fine/0000", "fine/0001", "fine/0002"]
    assert [row for row in more if row["stage"] == "coarse"] == [row for row in found["trials"] if row["stage"] == "coarse"]


@pytest.mark.item("S004")
def test_the_test_split_has_no_say_in_a_search(tmp_path: Path) -> None:
    """Two sets of images that differ in their test split alone, in pixels and labels, give the same search."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = (rng.integers(0, 60, (90, 8, 8, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    stories = []
    for name, shift in (("a", 0), ("b", 1)):
        test = (255 - images[:30]) if shift else images[:30]
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=labels, x_test=test, y_test=(labels[:30] + shift) % 3)
        done = goodfit(
            "search",
            tmp_path / f"{name}.npz",
            *WORDS,
            *SHORT,
            "--out",
            tmp_path / name,
            "--trials",
            "2",
            "--space",
            "lr=log(0.001, 0.1)",
            "--json",
        )
        assert done.code == 0, done.err
        stories.append([(row["run"], row["values"], row["value"]) for row in json.loads(done.out)["trials"]])
    assert stories[0] == stories[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trials", "0"), "--trials to be 1 or more"),
        (("--workers", "0"), "--workers to be 1 or more"),
        (("--workers", "3000"), "--workers to be 256 or less, received 3,000"),
        (("--trials", "9" * 30), "--trials to be 1,000,000 or less"),
        (("--budget", "3 epochs"), '"30 min"'),
        (("--space", "nonsense"), "Expected --space as key=text"),
        (("--resume", "x", "--each", "1 epoch"), "the search has all else already"),
        (("--resume", "x", "--method", "grid"), "the search has all else already"),
        (("--resume", "x", "--model", "linear"), "the search has them already"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], said: str) -> None:
    refused(goodfit("search", *(() if "--resume" in words else ("digits",)), *words), 2, said)


@pytest.mark.slow
def test_workers_of_the_command_share_the_trials_and_one_that_is_killed_is_told(tmp_path: Path) -> None:
    """`--workers 3`: two more processes, one of which is killed with -9 in the middle of a training."""
    study = tmp_path / "s"
    words = [*WORDS, "--each", "40 epochs", "--full", "40 epochs", "--keep", "0", "--trials", "6", "--workers", "3", "--out", str(study)]
    command = [sys.executable, "-m", "goodfit", "search", "digits", *words, "--space", "lr=log(0.001, 0.1)"]
    home = {**os.environ, "GOODFIT_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=home)
    wait_until(lambda: len(list(study.glob("workers/*.lock"))) == 3, 120)
    victim = next(x for x in psutil.Process(process.pid).children() if list(study.glob(f"workers/{x.pid}-*.lock")))
    mine = f"{victim.pid}-"
    search = Search(study)

    def training() -> bool:
        return any(t.user_attrs.get("worker", "").startswith(mine) and t.state.name == "RUNNING" for t in search.trials.study.get_trials())

    wait_until(training, 120)
    victim.kill()
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert "Warning: a worker was killed by signal 9; its trial waits for another." in said
    rows = Search(study).trials.all()
    assert sorted((row.stage, row.place) for row in rows) == [("coarse", i) for i in range(3)] + [("fine", i) for i in range(3)]
    assert all(row.state == "done" for row in rows)
    assert len({t.user_attrs["worker"] for t in search.trials.study.get_trials() if t.state.name == "COMPLETE"}) >= 2
    (packed,) = (tmp_path / "cache" / "packed").glob("*/pack.json")
    first = min((study / row.folder / "splits.csv").stat().st_mtime for row in rows)
    assert packed.stat().st_mtime < first, "packed once, before all trials, and mapped by every worker"


def test_a_folder_that_is_no_search_and_one_that_is_taken_are_refused(tmp_path: Path) -> None:
    refused(goodfit("search", "--resume", tmp_path), 2, "Expected the folder of a search")
    (tmp_path / "file").write_text("x")
    refused(goodfit("search", "digits", *WORDS, *SHORT, "--out", tmp_path), 2, "is not empty")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("budget", [(), ("--budget", "500 min")], ids=["trials", "minutes"])
def test_a_signal_between_trainings_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: tuple[str, ...], number: int, code: int
) -> None:
    monkeypatch.setattr("goodfit.study.search.run.train", lambda *_: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    said = goodfit("search", "digits", *WORDS, *SHORT, "--trials", "2", *budget, "--out", tmp_path / "s")
    signal.signal(signal.SIGINT, before)
    refused(said, code, f'"goodfit search --resume {tmp_path / "s"}" continues it')


def test_the_first_error_is_said_when_nothing_more_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise DataError("The images are gone.")

    def full(*_: object) -> None:
        raise GoodfitError("No space is left.")

    monkeypatch.setattr("goodfit.study.search.run.work_on", gone)
    monkeypatch.setattr("goodfit.study.search.run.write_results", full)
    refused(goodfit("search", "digits", *WORDS, *SHORT, "--out", tmp_path / "s"), 3, "The images are gone.")


def test_two_searches_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("goodfit.core.run.time.strftime", lambda form: "20261130-120000")
    plan, base = SearchPlan({"optimizer.lr": "log(0.01, 0.1)"}, "random", 2, "1 epoch", "1 epoch", 1, 1, 0), Recipe(optimizer="sgd(0.1)")
    assert [begin_search(None, plan, base).folder.name for _ in range(2)] == ["20261130-120000", "20261130-120000-1"]


@pytest.mark.parametrize("shift", [-86400.0, 86400.0])
def test_a_time_limit_is_the_same_for_processes_that_began_before_and_after_a_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """The steady time of the one that sets it is off by what the clock was set."""
    begin_search(tmp_path / "search", plan(), BASE)
    with monkeypatch.context() as patch:
        patch.setattr("goodfit.study.search.search.steady_time", lambda: steady_time() - shift)
        first = Search(tmp_path / "search")
        first.set_time_limit(1000, steady_time() - shift)
        assert 0 <= first.time_share() < 0.5
    second = Search(tmp_path / "search")
    assert second.deadline is not None and 0 <= second.time_share() < 0.5
    assert 500 < second.deadline - steady_time() <= 1000 and not second.is_over()
