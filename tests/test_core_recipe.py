"""Settings, recipes and progress: values keep their meaning through text and TOML, and a wrong one gets a sentence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.errors import UsageError
from goodfit.core.parts import pipe_parts
from goodfit.core.progress import Length, Lengths, Period
from goodfit.core.run import Run
from goodfit.core.run_files import DamagedFile
from goodfit.core.settings import INVALID, Count, Natural, Positive, Share, convert, parse_setting, settings_of, type_phrase
from goodfit.optim.first_order import Sgd
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import Recipe, presets
from goodfit.schedules.shapes import Cosine, Warmup

# ---- settings ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, 1.0), (True, float, INVALID), ("1", float, INVALID), (1.0, int, INVALID), (True, int, INVALID), (1, bool, INVALID),
        (0, Share, 0.0), (1, Share, 1.0), (1.0001, Share, INVALID), (float("nan"), Share, INVALID), (0, Positive, INVALID),
        (float("inf"), Positive, INVALID), (1, Count, 1), (0, Count, INVALID), (0, Natural, 0), (-1, Natural, INVALID),
        ([1, 2], tuple[float, float], (1.0, 2.0)), ((1, 2, 3), tuple[float, float], INVALID), ((), tuple[int, ...], ()),
        ((1, "a"), tuple[int, ...], INVALID), (5, tuple[int, ...], INVALID), (None, float | None, None), ("a", int | str, "a"),
        (2, float | str, 2.0), (None, float, INVALID),
    ],
)  # fmt: skip
def test_fit(value: Any, hint: Any, expected: Any) -> None:
    found = convert(value, hint)
    assert found is INVALID if expected is INVALID else (found == expected and type(found) is type(expected))


def test_types_are_said_in_words() -> None:
    assert type_phrase(Share) == "a number from 0 to 1"
    assert type_phrase(tuple[Positive, Positive]) == "a tuple of a number above 0 and a number above 0"
    assert type_phrase(Count | None) == "a whole number from 1 or None"


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("32", Count, 32),
        ("32", str, "32"),
        ("0.5", Share | str, 0.5),
        ("a.csv", Share | str, "a.csv"),
        ("x", Count, INVALID),
        ("auto", Count | str, "auto"),
    ],
)
def test_read(text: str, hint: Any, expected: Any) -> None:
    found = parse_setting(text, hint)
    assert found is expected or (found == expected and type(found) is type(expected))


# ---- the recipe -------------------------------------------------------------------------------------------------------------------

ODD = {
    "data": 'a "quoted" \\ path\twith é and 猫/',
    "size": "128x96",
    "validation": 0.25,
    "clip": 1e-05,
    "use": ("a.py", "b c.py"),
    "seed": 2**53,
}


def test_toml_round_trip(tmp_path: Path) -> None:
    for recipe in (Recipe(), Recipe(**ODD), Recipe(validation="splits.csv", size=32, batch_size=7)):
        (tmp_path / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.from_toml(tmp_path / "recipe.toml") == recipe
        assert tomllib.loads(recipe.to_toml()) == recipe.plain()


def test_every_field_is_written_under_its_sentence() -> None:
    lines = Recipe().to_toml().splitlines()
    assert [line.split(" = ")[0] for line in lines[1::2]] == [f.name for f in dataclasses.fields(Recipe) if f.metadata]
    assert lines[::2] == [f"# {f.metadata['help']}" for f in dataclasses.fields(Recipe) if f.metadata]


def test_parts_as_objects_are_spelled_out(tmp_path: Path) -> None:
    recipe = Recipe(optimizer=Sgd(0.2), schedule=Warmup(0.1) | Cosine())
    text = recipe.plain()
    assert text["optimizer"] == "sgd(0.2, momentum=0.0, nesterov=False, weight_decay=0.0, form='step')"
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    made = make_parts(Recipe.from_toml(tmp_path / "r.toml"), load_catalog())
    assert made["optimizer"] == Sgd(0.2)
    assert pipe_parts(made["schedule"]) == (Warmup(0.1), Cosine())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "sgd"}, r'Unknown recipe key "optimiser"\. Did you mean "optimizer"\? There is: data, task'),
        ({"batchsize": 3}, 'Did you mean "batch_size"'),
        ({"batch_size": 0}, 'recipe: expected batch_size to be a whole number from 1 or "auto" or "all", received 0'),
        ({"batch_size": "many"}, "expected batch_size to be"),
        ({"clip": -1}, "expected clip to be a number from 0, received -1"),
        ({"aspect": "zoom"}, 'expected aspect to be "auto" or "crop" or "pad" or "stretch"'),
        ({"validation": 1.5}, "expected validation to be a number from 0 to 1 or text, received 1.5"),
        ({"seed": 1.0}, "expected seed to be a whole number from 0"),
        ({"sampler": "auto"}, r"sampler is not chosen for you, found \"auto\": the default is shuffle"),
        ({"model": 3}, "expected model to be text or a part"),
        ({"use": "mine.py"}, "expected use to be a tuple of text"),
    ],
)
def test_wrong_keys_and_values(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe().but(**changes)
    key, value = next(iter(changes.items()))
    (tmp_path / "r.toml").write_text(f"{key} = {value!r}\n")
    with pytest.raises(UsageError, match=message):
        Recipe.from_toml(tmp_path / "r.toml")


def test_but_leaves_the_rest_and_the_original() -> None:
    before = Recipe(seed=3)
    after = before.but(clip=1, size="32")
    assert (before.clip, before.size) == (0.0, "auto")
    assert dataclasses.replace(after, clip=0.0, size="auto") == before
    assert isinstance(after.clip, float)


def test_but_text() -> None:
    recipe = Recipe().but_text(
        {"size": "96", "batch_size": "32", "validation": "0.2", "use": "('a.py',)", "clip": "1", "seed": "7", "model": "mlp"}
    )
    assert recipe == Recipe(size=96, batch_size=32, validation=0.2, use=("a.py",), clip=1.0, seed=7, model="mlp")
    assert Recipe().but_text({"size": "128x96"}).size == "128x96"
    assert Recipe().but_text({"batch_size": "auto"}).batch_size == "auto"
    with pytest.raises(UsageError, match='expected seed to be a whole number from 0, received "x"'):
        Recipe().but_text({"seed": "x"})
    with pytest.raises(UsageError, match='Did you mean "seed"'):
        Recipe().but_text({"sede": "1"})


def test_the_key_of_version_0_1_stays_readable(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('brake = "plateau(0.5)"\n')
    expected = Recipe(plateau="plateau(0.5)")
    assert (
        Recipe.from_toml(tmp_path / "r.toml")
        == Recipe().but(brake="plateau(0.5)")
        == Recipe().but_text({"brake": "plateau(0.5)"})
        == expected
    )
    assert "brake" not in expected.to_toml()


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("model = = 3")
    with pytest.raises(UsageError, match=r"is not TOML: .*line 1"):
        Recipe.from_toml(tmp_path / "r.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        Recipe.from_toml(tmp_path / "b.toml")
    with pytest.raises(UsageError, match=r'none at "nothing"\. Presets: .*quick'):
        Recipe.from_toml("nothing")
    with pytest.raises(UsageError, match="Expected a recipe file"):
        Recipe.from_toml(tmp_path / "gone.toml")


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_make_their_parts(name: str) -> None:
    recipe = Recipe.from_toml(name)
    assert recipe != Recipe()
    made = make_parts(recipe, load_catalog())
    assert made
    Length.read(recipe.budget if recipe.budget != "auto" else "1 epoch")
    assert {seat for seat, part in made.items() if part} <= {*vars(recipe), "probes"}


def test_the_recipe_needs_no_torch() -> None:
    use = "goodfit.Recipe.from_toml('quick').but(seed=1).to_toml()"
    code = f"import sys, goodfit; {use}; print(sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_field_defaults_are_right_by_their_own_types() -> None:
    for setting in settings_of(Recipe):
        assert convert(setting.default, setting.hint) == setting.default


# ---- progress ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("30 epochs", 30, "epoch"), ("1 epoch", 1, "epoch"), ("1.5epochs", 1.5, "epoch"), ("5000 steps", 5000, "step"),
        ("1_000 Steps", 1000, "step"),
        ("2e6 examples", 2e6, "example"), ("1e-1 epochs", 0.1, "epoch"), ("10 min", 600, "second"), ("10 mins", 600, "second"),
        ("2 minutes", 120, "second"), ("1.5 h", 5400, "second"), ("2 hours", 7200, "second"), ("90 s", 90, "second"),
        ("90 sec", 90, "second"),
        ("90 seconds", 90, "second"), ("  3   epochs ", 3, "epoch"),
        ("2 EUR at 1.50/h", 4800, "second"), ("3 USD at 6 / hour", 1800, "second"), ("1e3 won at 2_000/h", 1800, "second"),
    ],
)  # fmt: skip
def test_budgets(text: str, amount: float, unit: str) -> None:
    assert Length.read(text) == Length(amount, unit)


@pytest.mark.parametrize(
    "text",
    ["", "ten epochs", "10", "0.5", "1", "0 epochs", "-3 epochs", "3 fortnights", "3 ms", "3 m",
     "1.2.3 epochs", "epochs", "3 epochs 2", "1e999 steps", "nan epochs", "inf",
     "2 EUR", "2 EUR at 0/h", "2 EUR at 1.5", "2 at 1/h", "0 EUR at 1/h", "-2 EUR at 1/h", "2 EUR at 1.5.0/h", "2 EUR at 1e999/h"],
)  # fmt: skip
def test_wrong_budgets(text: str) -> None:
    with pytest.raises(UsageError, match=f'Expected a budget like "30 epochs".*received "{text}"'):
        Length.read(text)


def test_shares_are_lengths_but_no_budget() -> None:
    assert Length.read("0.25", "length") == Length(0.25, "share")
    assert Length.read(0.0, "length") == Length(0.0, "share")
    for text in ("1.5", "2 EUR at 1/h"):
        with pytest.raises(UsageError, match="Expected a length like"):
            Length.read(text, "length")


def lengths(budget: str, epoch_steps: int = 25, batch: int = 40) -> Lengths:
    return Lengths(epoch_steps, batch, Length.read(budget))


def test_the_same_budget_in_each_unit_has_the_same_t() -> None:
    """Four epochs of 25 steps of 40 images, at half a second a step."""
    alike = [lengths(budget) for budget in ("4 epochs", "100 steps", "4000 examples", "50 s")]
    for step in (0, 1, 37, 50, 99, 100, 130):
        assert {round(each.t(step, step / 2), 12) for each in alike} == {min(1.0, step / 100)}
    assert [each.total_steps for each in alike[:3]] == [100] * 3
    assert [each.timed for each in alike] == [False, False, False, True]


def test_time_is_kept_for_the_last_evaluation() -> None:
    budget = lengths("100 s")
    assert budget.t(0, 40.0, reserve=20.0) == 0.5
    assert budget.t(0, 80.0, reserve=20.0) == 1.0
    assert budget.t(0, 0.5, reserve=200.0) == 1.0
    assert budget.t(0, 30.0, startup=30.0) == 0.0
    assert budget.t(9, 55.0, reserve=20.0, startup=30.0) == 0.5
    assert lengths("100 steps").t(40, 1e9, reserve=20.0, startup=30.0) == 0.4


def test_lengths_become_shares() -> None:
    counted = lengths("4 epochs")
    assert [counted.share(x) for x in ("1 epoch", "10 steps", "400 examples", "0.3", 0.3)] == [0.25, 0.1, 0.1, 0.3, 0.3]
    timed = lengths("10 min")
    assert [timed.share(x) for x in ("1 min", "30 s", 0.3)] == [0.1, 0.05, 0.3]


@pytest.mark.parametrize(("budget", "length"), [("10 min", "1 epoch"), ("10 min", "5 steps"), ("4 epochs", "1 min"), ("100 steps", "3 s")])
def test_mixed_units_are_refused(budget: str, length: str) -> None:
    with pytest.raises(UsageError, match=f'length of "{length}" is not known under a budget in .*write it as a share'):
        lengths(budget).share(length)


@pytest.mark.parametrize(
    ("every", "budget", "comes"),
    [
        ("1 epoch", "4 epochs", {0: 0, 24: 0, 25: 1, 49: 1, 50: 2, 100: 4}),
        ("0.5 epochs", "4 epochs", {12: 0, 13: 1, 25: 2}),
        ("10 steps", "4 epochs", {9: 0, 10: 1, 19: 1, 20: 2}),
        ("400 examples", "4 epochs", {9: 0, 10: 1, 20: 2}),
        ("10 s", "4 epochs", {19: 0, 20: 1, 40: 2}),
        ("0.1", "4 epochs", {9: 0, 10: 1, 30: 3, 99: 9, 100: 10}),
        ("0.1", "50 s", {9: 0, 10: 1, 30: 3, 100: 10}),
        ("1 epoch", "50 s", {24: 0, 25: 1}),
    ],
)
def test_every(every: str, budget: str, comes: dict[int, int]) -> None:
    """At half a second a step."""
    run = lengths(budget)
    number = Period(Length.read(every, "length"), run).number
    assert {step: number(step, step / 2, run.t(step, step / 2)) for step in comes} == comes


def test_every_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        Period(Length.read("0", "length"), lengths("4 epochs"))


def test_a_runs_recipe_is_read_with_what_it_could_not_name_yet(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('model = "linear"\nthreads = 1\n')
    assert (Recipe.of_run(tmp_path).resolution, Recipe.of_run(tmp_path).views, Recipe.from_toml(tmp_path / "recipe.toml").views) == (
        "full", "center", "auto",
    )  # fmt: skip
    (tmp_path / "recipe.toml").write_text('views = "flip_pair"\nthreads = 1\n')
    assert Recipe.of_run(tmp_path).views == "flip_pair"
    (tmp_path / "recipe.toml").write_text('views = "flip_pair"\n')
    with pytest.raises(DamagedFile, match="it is not whole"):
        Recipe.of_run(tmp_path)
    Run(tmp_path).write("about.json", {"recipe": Recipe(model="linear", threads=2, seed=7).plain()})
    assert Recipe.of_run(tmp_path) == Recipe(model="linear", threads=2, seed=7, views="flip_pair"), "what is cut off is in about.json"
    (tmp_path / "recipe.toml").unlink()
    assert Recipe.of_run(tmp_path) == Recipe(model="linear", threads=2, seed=7)
    (tmp_path / "about.json").unlink()
    (tmp_path / "recipe.toml").write_text("views = ")
    with pytest.raises(UsageError, match="is not TOML"):
        Recipe.of_run(tmp_path)
    with pytest.raises(UsageError, match="Expected a recipe file or preset"):
        Recipe.of_run(tmp_path / "nowhere")
