"""The lectures' claims: the rule of their verdicts, each experiment on digits, and the notebook that survives a kill."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from goodfit.core.batch import Batch
from goodfit.core.errors import UsageError
from goodfit.core.parts import spell
from goodfit.lab.claim import RULE, Claim, Effect, find_claim, read_claims
from goodfit.lab.claims import transfer
from goodfit.lab.inquiry import Finding, Workplace, experiment, inquire, judge
from goodfit.lab.laboratory import BASE, Extent, Laboratory, compare_steps, curve, running_mean, take_images
from goodfit.lab.notebook import FILE, Entry, Notebook
from goodfit.lab.replicate import NothingToJudge, Replicate
from goodfit.optim.first_order import Sgd
from goodfit.recipe.recipe import Recipe
from goodfit.report.pages.claims import render_claims
from goodfit.terminal.claims import format_finding, format_result
from tests.support.command import goodfit as command
from tests.support.items import read_items
from tests.support.photos import make_photos

TINY = Extent("tiny", 120, 0.05, 0)
INFINITY = math.inf
# What an experiment must show even when it is this short, on digits: bounds (low, high) of its effects, in their order. Where they are as
# wide as possible, what an experiment makes of accuracies is tested with trainings whose outcome is known.
ANY = (-1.0, 1.0)
SHOWS: dict[str, tuple[tuple[float, float], ...]] = {
    "S003": (ANY, ANY),
    "S008": ((1.2, INFINITY), (1, INFINITY)),
    "S017": ((100, INFINITY), (0.7, 1)),
    "S026": ((0.99, 1), (0.8, 1), (0.01, 1), ANY),
    "S027": ((0, 1),),
    "S049": ((100, INFINITY), (0.9, 1), (0, INFINITY)),
    "S052": ((0.2, 20), (1.5, 20)),
    "S053": ((1, 1), (0.1, 1)),
    "S058": (ANY, ANY, ANY),
    "S060": ((1000, INFINITY), (1000, INFINITY), (0.5, 1), (0.2, 1), (0.1, 1)),
    "S064": ((0, 1),),
    "S069": ((1, 10000), (2, INFINITY), ANY),
    "S077": ((-0.2, 1),),
    "S085": ((-1, 0.2),),
    "S088": (ANY,),
    "S093": ((0.1, INFINITY), (0.1, 10)),
    "S102": (ANY, ANY),
    "S111": ((0, 1), (-0.2, 0.2), ANY),
    "S122": (ANY, ANY),
    "S123": ((0.01, 1),),
    "S125": ((-0.2, 1), ANY),
    "S127": ((0.01, 1),),
    "S129": ((3, 3), ANY),
    "S134": ((-0.2, 1), (0, 1), (0, 1)),
    "S146": ((49 / 27, 49 / 27), (0.1, 10), ANY),
    "S149": ((0.2, 5), (0.2, 5)),
    "S170": ((8, 8), (1.34, 1.35), (1.70, 1.71), (0.1, 10)),
    "S172": ((0.8, 1.5), (1.01, 2)),
    "S175": (ANY, ANY),
    "S180": ((-5, 5),),
    "S181": (ANY, ANY, ANY),
}


# ---- the rule ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((3.0, 3.1, 2.9), "holds"),
        ((1.0, 1.1, 0.9), "holds weaker"),
        ((0.1, -0.1, 0.0), "fails here"),
        ((-1.0, -1.1, -0.9), "fails here"),
        ((5.0, -2.0, 1.0), "undecided"),
        ((1.2, 0.4, 0.9), "undecided"),
        ((1.9, 1.5, 2.2), "holds weaker"),  # the interval reaches beyond what is claimed, the mean does not
        ((3.0,), "undecided"),
        ((2.0, 2.0), "holds"),
        ((0.0, 0.0), "fails here"),
    ],
)
def test_verdict_follows_the_rule(values: tuple[float, ...], verdict: str) -> None:
    assert Effect("x", null=0.0, claimed=2.0).judge(values).verdict == verdict


def test_a_lower_bound_cannot_fail() -> None:
    effect = Effect("x", null=0.0, claimed=2.0)
    assert effect.judge((0.1, -0.1, 0.0), is_bound=True).verdict == "undecided"
    assert effect.judge((1.0, 1.1, 0.9), is_bound=True).verdict == "holds weaker"
    assert effect.judge((3.0, 3.1, 2.9), is_bound=True).verdict == "holds"
    judgments, verdict = read_claims()["S049"].judge([Replicate((1.0, 1.0, 2.0), bounds=(0,)), Replicate((1.0, 1.0, 2.0))])
    assert verdict == "undecided" and [one.is_bound for one in judgments] == [True, False, False]


def test_shares_lie_between_0_and_1() -> None:
    assert Effect("x", 0.5, 0.99, "share").judge((1.0, 1.0, 0.75, 1.0)).interval[1] == 1.0


def test_interval_is_students() -> None:
    values = (1.0, 2.5, 2.0, 4.0)
    found = Effect("x", 0.0, 2.0).judge(values)
    low, high = stats.t.interval(0.95, 3, statistics.fmean(values), stats.sem(values))
    assert found.mean == pytest.approx(2.375) and found.interval == pytest.approx((low, high))


def test_ratios_are_averaged_as_logarithms() -> None:
    found = Effect("x", 1.0, 2.0, "ratio").judge((1.0, 4.0))
    assert found.mean == pytest.approx(2.0) and found.interval[0] * found.interval[1] == pytest.approx(4.0)
    assert Effect("x", 1.0, 2.0, "ratio").judge((2.0, 2.1, 1.95)).verdict == "holds"


def test_a_claim_gets_the_least_verdict_of_its_effects() -> None:
    claim = read_claims()["S049"]
    _, verdict = claim.judge([Replicate((500.0, 0.95, 1.1)), Replicate((501.0, 0.95, 1.1))])
    assert verdict == "holds weaker"
    judgments, verdict = claim.judge([Replicate((500.0, -0.5, 1.1)), Replicate((501.0, -0.5, 1.1))])
    assert verdict == "fails here" and [one.verdict for one in judgments] == ["holds", "fails here", "holds weaker"]


def test_every_claim_of_the_lectures_has_an_experiment_and_a_rule() -> None:
    claims = read_claims()
    assert list(claims) == [item for item, kind in read_items().items() if kind == "claim"] and len(claims) == 31
    for claim in claims.values():
        experiment = getattr(importlib.import_module(f"goodfit.lab.claims.{claim.module}"), claim.function)
        assert experiment.__doc__.startswith(f"{claim.item}: ")
        assert all(effect.null <= effect.claimed and (effect.scale != "ratio" or effect.null > 0) for effect in claim.effects)
        assert 1 < claim.seeds[0] <= claim.seeds[1]


# ---- the experiments -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(["digits"], TINY, tmp_path_factory.mktemp("claims"))


@pytest.fixture(scope="module")
def other_laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A laboratory with digits under another name, to which digits are the far images."""
    folder = tmp_path_factory.mktemp("other")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(folder / "other.npz", x_train=images[:1400], y_train=labels[:1400], x_test=images[1400:], y_test=labels[1400:])
    return Laboratory([str(folder / "other.npz")], TINY, folder)


@pytest.mark.parametrize(
    "item",
    [
        pytest.param("S003", marks=pytest.mark.item("S003")),
        pytest.param("S008", marks=pytest.mark.item("S008")),
        pytest.param("S017", marks=[pytest.mark.item("S017"), pytest.mark.slow]),
        pytest.param("S026", marks=pytest.mark.item("S026")),
        pytest.param("S027", marks=pytest.mark.item("S027")),
        pytest.param("S049", marks=pytest.mark.item("S049")),
        pytest.param("S052", marks=[pytest.mark.item("S052"), pytest.mark.slow]),
        pytest.param("S053", marks=pytest.mark.item("S053")),
        pytest.param("S058", marks=pytest.mark.item("S058")),
        pytest.param("S060", marks=pytest.mark.item("S060")),
        pytest.param("S064", marks=pytest.mark.item("S064")),
        pytest.param("S069", marks=pytest.mark.item("S069")),
        pytest.param("S077", marks=[pytest.mark.item("S077"), pytest.mark.slow]),
        pytest.param("S085", marks=pytest.mark.item("S085")),
        pytest.param("S088", marks=pytest.mark.item("S088")),
        pytest.param("S093", marks=pytest.mark.item("S093")),
        pytest.param("S102", marks=pytest.mark.item("S102")),
        pytest.param("S111", marks=pytest.mark.item("S111")),
        pytest.param("S122", marks=pytest.mark.item("S122")),
        pytest.param("S123", marks=pytest.mark.item("S123")),
        pytest.param("S125", marks=pytest.mark.item("S125")),
        pytest.param("S127", marks=pytest.mark.item("S127")),
        pytest.param("S129", marks=pytest.mark.item("S129")),
        pytest.param("S134", marks=pytest.mark.item("S134")),
        pytest.param("S146", marks=pytest.mark.item("S146")),
        pytest.param("S149", marks=pytest.mark.item("S149")),
        pytest.param("S170", marks=[pytest.mark.item("S170"), pytest.mark.slow]),
        pytest.param("S172", marks=pytest.mark.item("S172")),
        pytest.param("S175", marks=pytest.mark.item("S175")),
        pytest.param("S180", marks=pytest.mark.item("S180")),
        pytest.param("S181", marks=pytest.mark.item("S181")),
    ],
)
@pytest.mark.thorough
def test_an_experiment_shows_what_it_must(
    laboratory: Laboratory, other_laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, item: str
) -> None:
    claim = find_claim(item)
    monkeypatch.setattr(transfer, "COUNTS", (5, 20, 60))
    lab = other_laboratory if item in ("S180", "S181") else laboratory
    longer = dataclasses.replace(TINY, length=0.3)
    found = claim.run_experiment(Laboratory(lab.data, longer, lab.folder) if item == "S052" else lab, 0)
    assert len(found.effects) == len(claim.effects) == len(SHOWS[item])
    for value, (low, high), effect in zip(found.effects, SHOWS[item], claim.effects, strict=True):
        assert low - 1e-9 <= value <= high + 1e-9, effect.name
    assert found.numbers and all(math.isfinite(x) for x in found.numbers.values())


@dataclasses.dataclass
class KnownTraining:
    """A training whose outcome is known: accuracies by split."""

    accuracies: dict[str, float]
    losses: tuple[float, ...] = (1.0, 0.5)

    def accuracy(self, split: str = "test") -> float:
        return self.accuracies[split]


def known(test: float, validation: float | None = None, train: float = 1.0) -> KnownTraining:
    return KnownTraining({"test": test, "validation": test if validation is None else validation, "train": train})


TESTS_OF_ACTS = {"relu": 0.5, "leaky_relu": 0.6, "maxout": 0.4, "elu": 0.8, "tanh": 0.45, "sigmoid": 0.1}
KNOWN: dict[str, tuple[Callable[[str, Recipe], KnownTraining], tuple[float, ...]]] = {
    # of a model and recipe, and the effects that follow by hand
    "S003": (lambda model, recipe: known({"nearest": 0.3, "linear": 0.4, "convnet": 0.7}[model]), (0.1, 0.3)),
    "S058": (
        lambda model, recipe: known(TESTS_OF_ACTS[act_of(recipe)]),
        (0.4, 0.05, 0.1),
    ),
    # the other with the best validation accuracy is momentum, though rmsprop tests better
    "S088": (
        lambda model, recipe: {
            "adam": known(0.6), "rmsprop": known(0.9, 0.2), "adagrad": known(0.1),
            "sgd": known(0.7, 0.8) if "momentum=0.9" in str(recipe.optimizer) else known(0.2),
        }[str(recipe.optimizer).partition("(")[0]],
        (-0.1,),
    ),
    "S102": (
        lambda model, recipe: known(0.5 + (recipe.schedule == "cosine") * (0.2 if "sgd" in str(recipe.optimizer) else 0.05)),
        (0.2, 0.15),
    ),
    # batch norm gains a hundredth for each conv
    "S175": (
        lambda model, recipe: known(0.4 + ("norm=batch" in str(recipe.model)) * 0.01 * sum(recipe.model.convs)),  # type: ignore[union-attr]
        (0.01 * (8 + 10 + 13 + 16) / 4, 0.08),
    ),
}  # fmt: skip


def act_of(recipe: Recipe) -> str:
    """The name of the activation of a recipe's model."""
    return spell(recipe.model.act).partition("(")[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("item", KNOWN)
def test_effects_follow_from_accuracies(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    outcome, effects = KNOWN[item]

    def train(self: Laboratory, seed: int, steps: int, recipe: Recipe, *_: object, **__: object) -> KnownTraining:
        return outcome(spell(recipe.model).partition("(")[0], recipe)  # type: ignore[arg-type]

    monkeypatch.setattr(Laboratory, "train", train)
    assert find_claim(item).run_experiment(laboratory, 0).effects == pytest.approx(effects)


def test_a_last_stage_that_tells_all_is_worth_as_much_near_and_far(other_laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)

    def features(net: object, batch: Batch) -> tuple[dict[str, np.ndarray], np.ndarray]:
        labels = batch.targets.argmax(1).numpy()
        return {"first": noise.normal(size=(len(labels), 2)), "last": batch.targets.double().numpy()}, labels

    monkeypatch.setattr(transfer, "_features", features)
    assert find_claim("S180").run_experiment(other_laboratory, 0).effects == pytest.approx((0.0,), abs=1e-6)


def test_the_best_rate_is_chosen_by_validation(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {Sgd(0.1): known(test=0.1, validation=0.9), Sgd(0.2): known(test=0.9, validation=0.1)}
    monkeypatch.setattr(Laboratory, "train", lambda self, seed, steps, recipe: outcomes[recipe.optimizer])
    assert laboratory.best(0, 1, BASE, list(outcomes)).accuracy() == 0.1


def test_an_experiment_repeats_to_the_bit(laboratory: Laboratory) -> None:
    claim = find_claim("S129")
    assert claim.run_experiment(laboratory, 1) == claim.run_experiment(laboratory, 1) != claim.run_experiment(laboratory, 2)


def test_a_laboratory_trains_as_long_as_its_extent_says(laboratory: Laboratory) -> None:
    training = laboratory.train(0, 50, BASE.but(size=8))
    assert len(training.losses) == 2 and not training.diverged
    assert max(training.data.class_counts()) <= TINY.limit
    assert training.steps_until(0.0) == INFINITY and training.steps_until(INFINITY) == 1 and training.seconds_until(0.0) == INFINITY
    assert training.last_loss == pytest.approx(statistics.fmean(training.losses))


def test_a_training_that_diverged_is_at_chance_and_never_arrives(laboratory: Laboratory) -> None:
    training = laboratory.train(0, 100, BASE.but(size=8, model="mlp((8,))", optimizer="sgd(1e30)"))
    assert training.diverged and training.accuracy() == pytest.approx(0.1)
    assert training.steps_until(INFINITY) == INFINITY and training.last_loss == INFINITY


def test_fewer_images_are_training_images_alone(laboratory: Laboratory) -> None:
    _, data = laboratory.open(BASE.but(size=8))
    fewer = take_images(data, 5)
    assert fewer.class_counts() == (5,) * 10 and set(fewer.rows("train").tolist()) < set(data.rows("train").tolist())
    assert (
        fewer.rows("validation").tolist() == data.rows("validation").tolist() and fewer.rows("test").tolist() == data.rows("test").tolist()
    )
    with pytest.raises(UsageError, match="Expected 500 training images of each class"):
        take_images(data, 500)


def test_data_need_test_images(tmp_path: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x_train=images[:400], y_train=labels[:400], x_validation=images[400:600], y_validation=labels[400:600])
    with pytest.raises(UsageError, match="with a test split"):
        Laboratory([str(tmp_path / "d.npz")], TINY, tmp_path).open()


def test_steps_are_compared_with_what_is_known() -> None:
    assert compare_steps(30, 10, 100) == (3.0, False)
    assert compare_steps(INFINITY, 10, 100) == (10.0, True)
    with pytest.raises(NothingToJudge, match="in 100 steps"):
        compare_steps(30, INFINITY, 100)


def test_what_cannot_be_judged_is_no_replicate(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodfit.lab.claims.activations.sigmoid_problems", lambda lab, seed: Replicate((0.0, 1.0, math.nan)))
    with pytest.raises(NothingToJudge, match="first layer's gradient"):
        find_claim("S049").run_experiment(laboratory, 0)
    monkeypatch.setattr("goodfit.lab.claims.activations.sigmoid_problems", lambda lab, seed: 1 / 0)
    assert experiment(find_claim("S049"), 0, Workplace(("digits",), TINY, laboratory.folder)) == "ZeroDivisionError: division by zero"


def test_running_means_are_over_the_last_values() -> None:
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert curve([1.0, 3.0], 1) == [(0.0, 1.0), (1.0, 3.0)] and curve([]) == []
    thinned = curve([float(x) for x in range(1000)], 1)
    assert len(thinned) == 200 and thinned[0] == (0.0, 0.0) and thinned[-1] == (999.0, 999.0)


# ---- the notebook --------------------------------------------------------------------------------------------------------------------


def write_entries(folder: Path, claim: Claim, seeds: int) -> Notebook:
    """A notebook with experiments that were never done."""
    notebook = Notebook(folder, ["digits"], TINY.name)
    for seed in range(seeds):
        found = Replicate((5.0 + seed, 0.95, 1.3), {"a": 1.0 + seed}, {("Loss", "step", "x"): [(0.0, 2.0 + seed), (1.0, 1.0)]})
        notebook.add(Entry(claim.item, seed, notebook.key(claim), found, 2.0, "a machine", "2026-12-01T00:00:00+00:00"))
    return notebook


def test_what_is_written_down_is_not_done_again(tmp_path: Path) -> None:
    claim = find_claim("S049")
    written = write_entries(tmp_path, claim, claim.seeds[0])
    again = Notebook(tmp_path, ["digits"], TINY.name)
    assert again.entries == written.entries
    (finding,) = inquire([claim], ["digits"], TINY, tmp_path, 1)
    assert isinstance(finding, Finding) and finding.judgments[0].values == (5.0, 6.0, 7.0, 8.0, 9.0)
    assert finding.numbers == {"a": 3.0}
    (chart,) = finding.charts()
    assert chart.series[0].points == [(0.0, 4.0), (1.0, 1.0)]


def test_other_data_extents_and_code_are_other_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = find_claim("S049")
    write_entries(tmp_path, claim, 1)
    assert Notebook(tmp_path, ["digits"], TINY.name).find(claim, 0)
    assert not Notebook(tmp_path, ["cifar10"], TINY.name).find(claim, 0)
    assert not Notebook(tmp_path, ["digits"], "full").find(claim, 0)
    assert not Notebook(tmp_path, ["digits"], TINY.name).find(claim, 1)
    assert Notebook(tmp_path, ["digits", "cifar10"], TINY.name).find(claim, 0), "it sees the first data alone"
    monkeypatch.setattr("goodfit.lab.notebook.SHARED", ("laboratory.py",))
    assert not Notebook(tmp_path, ["digits"], TINY.name).find(claim, 0)


def test_a_line_that_a_kill_has_cut_is_done_again(tmp_path: Path) -> None:
    claim = find_claim("S049")
    write_entries(tmp_path, claim, 3)
    file = tmp_path / FILE
    file.write_text("[]\n{}\n" + file.read_text()[:-40])
    notebook = Notebook(tmp_path, ["digits"], TINY.name)
    assert [bool(notebook.find(claim, seed)) for seed in range(3)] == [True, True, False]
    notebook.add(dataclasses.replace(next(iter(notebook.entries.values())), seed=2))
    assert [bool(Notebook(tmp_path, ["digits"], TINY.name).find(claim, seed)) for seed in range(4)] == [True, True, True, False]


def test_pages_and_lines_tell_all(tmp_path: Path) -> None:
    claim = find_claim("S049")
    finding = judge(claim, write_entries(tmp_path, claim, 2), TINY)
    content = json.loads(json.dumps(finding.to_dict()))
    assert content["verdict"] == finding.verdict == "holds weaker" and content["seconds"] == 4.0
    line = format_result(content)
    assert line.startswith("S049  holds weaker") and "first layer's gradient" in line and "claimed 100x" in line
    text = "\n".join(format_finding(content, []))
    page = render_claims([(content, finding.charts())], [("S180", "early layers", "no images")], RULE)
    for shown in (claim.slide, claim.hypothesis, claim.limits, "neurons with gradients of one sign, sigmoid less tanh", "a machine"):
        assert shown in text and shown.replace("'", "&#x27;") in page.replace("&#39;", "&#x27;")
    assert "<figure" in page and "not tried: no images" in page


# ---- the command ---------------------------------------------------------------------------------------------------------------------


def test_the_list_loads_no_torch() -> None:
    script = "import sys; sys.argv = ['goodfit', 'lab', 'claims']; from goodfit.cli import main; main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False" and [line.split()[0] for line in lines if line.startswith("S")] == list(read_claims())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("S999",), 'Unknown claim "S999"'),
        (("S052", "--quick", "--full"), "Expected --quick or --full, received both."),
        (("S052", "--workers", "-1"), "Expected --workers to be 1 or more"),
        (("S052", "--out", "file"), "Expected --out to be a folder"),
    ],
)
def test_wrong_words_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    said = command("lab", "claims", *words)
    assert said.code == 2 and sentence in said.sentence


def test_a_wrong_name_of_data_is_an_error(tmp_path: Path) -> None:
    said = command("lab", "claims", "S129", "--data", tmp_path / "nothing", "--out", tmp_path / "out", "--workers", "1")
    assert said.code == 3 and "nothing" in said.sentence and not (tmp_path / "out" / "claims.html").exists()


@pytest.mark.thorough
def test_a_claim_that_these_images_do_not_allow(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    said = command("lab", "claims", "S180", "--data", photos, "--out", tmp_path / "out", "--workers", "1")
    assert said.code == 2 and "Expected images of four classes or more" in said.sentence


@pytest.mark.thorough
def test_a_killed_inquiry_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "goodfit", "lab", "claims", "S053", "--data", "digits", "--out", str(tmp_path), "--workers", "2"]
    process = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    file = tmp_path / FILE
    for _ in wait_up_to(120):
        if file.exists() and file.read_text().count("\n") >= 1:
            break
    children = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children
    for _ in wait_up_to(30):
        if not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
            break
    done = file.read_text().splitlines()
    said = command("lab", "claims", "S053", "--data", "digits", "--out", tmp_path, "--workers", "1", "--json")
    assert said.code == 0, said.err
    content = json.loads(said.out)
    assert content["seeds"] == 5 and content["effects"][0]["mean"] == 1.0 and content["effects"][0]["verdict"] == "holds"
    assert file.read_text().splitlines()[: len(done)] == done
    assert (tmp_path / "claims.html").read_text().startswith("<!doctype html>")


def wait_up_to(seconds: float) -> Iterator[None]:
    """Yield ten times a second until the test should give up.

    Raises:
        AssertionError: the time is over.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.1)
    raise AssertionError("waited in vain")
