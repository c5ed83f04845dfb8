"""Comparison of runs, its winner and its tests against SciPy and NumPy; baselines against scikit-learn; all from run folders alone."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import goodfit
from goodfit.core.errors import Interrupted, UsageError
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import Run
from goodfit.predict.paired import align_on_shared_images, compare_paired, mcnemar
from goodfit.recipe.source import open_images
from goodfit.report.charts import RUN_STYLES, run_style
from goodfit.report.frame import read_static
from goodfit.report.sections.baselines import read_baselines
from goodfit.runs import baselines as b
from goodfit.runs import train as train_module
from goodfit.study.compare import Entry, compare_runs, read_entries
from goodfit.study.differences import MAX_NAME_LENGTH, abbreviate_parts, find_differences, name_runs
from goodfit.terminal.comparison import format_comparison
from tests.support.command import FAST, copied, refused, train
from tests.support.command import goodfit as command
from tests.support.fake_run import Page


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 5), (12, 3), (3, 12), (400, 333), (7000, 6800)])
def test_mcnemar_is_scipys_binomial_test(one: int, other: int) -> None:
    oracle = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(oracle, rel=1e-9)


def answers(n: int = 400, shares: tuple[float, ...] = (0.8, 0.74), seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return [(0.6 * hard + 0.4 * rng.random(n) < share)[None] for share in shares]


def test_the_interval_is_that_of_images_drawn_one_by_one() -> None:
    one, other = answers()
    found = compare_paired(one, other)
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 400, (20_000, 400))
    drawn = (one[0][rows].mean(1) - other[0][rows].mean(1)).astype(np.float64)
    assert found.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.004)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    assert (found.only_one, found.only_other) == (int((one & ~other).sum()), int((~one & other).sum()))
    assert found.p == mcnemar(found.only_one or 0, found.only_other or 0)
    turned = compare_paired(other, one)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=0.004)
    assert compare_paired(one, one).interval == (0, 0) and compare_paired(one, one).p == 1


def test_copies_of_a_side_are_drawn_as_well() -> None:
    sides = answers(300, (0.9, 0.7, 0.5, 0.6))
    one, other = np.concatenate(sides[:3]), sides[3]
    found = compare_paired(one, other)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(4000):
        rows, copies = rng.integers(0, 300, 300), rng.integers(0, 3, 3)
        drawn.append(one[copies][:, rows].mean() - other[:, rows].mean())
    assert found.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    assert found.p is None and found.difference == pytest.approx(one.mean() - other.mean())
    assert found.interval[1] - found.interval[0] > compare_paired(one[:1], other).interval[1] - compare_paired(one[:1], other).interval[0]


def test_only_images_that_both_judged_are_compared() -> None:
    p = np.eye(2, dtype=np.float32)
    one = Predictions(np.array(["a", "b", "c"]), np.array([0, 1, 0]), p[[0, 0, 0]], ("x", "y"))
    other = Predictions(np.array(["c", "d", "b"]), np.array([0, 1, 1]), p[[1, 1, 1]], ("x", "y"))
    first, second = ([p.correct.tolist() for p in side] for side in align_on_shared_images([[one], [other]]))
    assert first == [[False, True]] and second == [[True, False]], "b, then c"
    turned = Predictions(other.names, 1 - other.labels, other.probabilities[:, ::-1], ("y", "x"))
    again = [[p.correct.tolist() for p in side] for side in align_on_shared_images([[one], [turned]])]
    assert again == [first, second], "classes are matched by name, in whatever order a run has them"
    for problem, changed in (
        ("their classes differ", Predictions(other.names, other.labels, other.probabilities, ("x", "z"))),
        ("they label some images differently", Predictions(other.names, 1 - other.labels, other.probabilities, ("x", "y"))),
        ("they have no validation images in common", Predictions(np.array(["e", "f", "g"]), other.labels, other.probabilities, ("x", "y"))),
    ):
        assert align_on_shared_images([[one], [changed]]) == problem


@pytest.mark.parametrize(
    ("paths", "differences", "names"),
    [
        (["runs/wide", "runs/deep"], {"seed": ["0", "1"]}, ["wide", "deep"]),
        (["a/seed-0", "b/seed-0"], {}, ["a/seed-0", "b/seed-0"]),
        (["runs/20260101-120000-digits", "runs/20260101-120501-digits"], {"batch_size": ["32", "64"]}, ["batch_size 32", "batch_size 64"]),
        (
            ["runs/20260101-120000-digits", "runs/20260101-120501-digits"],
            {"optimizer": ["sgd(0.1, ...)", "sgd(0.2, ...)"], "threads": ["1", "2"]},
            ["sgd(0.1)", "sgd(0.2)"],
        ),
        (
            ["runs/20260101-120000-digits", "runs/20260101-120501-digits"],
            {"model": ["a", "b"], "seed": ["0", "1"]},
            ["20260101-120000-digits", "20260101-120501-digits"],
        ),
    ],
)
def test_runs_get_short_names_made_of_what_differs(paths: list[str], differences: dict[str, list[str]], names: list[str]) -> None:
    rows = [{"field": field, "values": values} for field, values in differences.items()]
    assert name_runs([Path(path) for path in paths], rows) == names


def test_no_two_names_are_the_same_or_long() -> None:
    long = [Path(f"runs/{'x' * 100}{k}{'y' * 100}") for k in range(3)]
    names = name_runs(long, [])
    assert len(set(names)) == 3 and max(map(len, names)) <= MAX_NAME_LENGTH + len(" (3)")


def test_recipes_are_told_only_where_they_differ() -> None:
    plain = goodfit.Recipe(optimizer="sgd(0.1, momentum=0.9)", seed=1).plain()
    other = goodfit.Recipe(optimizer="sgd(0.2, momentum=0.9)", seed=1).plain()
    assert find_differences([plain, plain]) == []
    assert find_differences([plain, other]) == [{"field": "optimizer", "values": ["sgd(0.1, ...)", "sgd(0.2, ...)"]}]
    assert abbreviate_parts(["sgd(0.1, momentum=0.9)", "adam(0.1)"]) == ["sgd(0.1, momentum=0.9)", "adam(0.1)"]
    assert abbreviate_parts(["flip | crop(4)", "flip"]) == ["flip | crop(4)", "flip"]
    assert abbreviate_parts(["30 epochs", "4 epochs"]) == ["30 epochs", "4 epochs"]
    assert abbreviate_parts(["net(a=1)", "net(a=1, b=(2, 3))"]) == ["net(...)", "net(b=(2, 3), ...)"]


# ---- which is best -----------------------------------------------------------------------------------------------------------------


def entry(name: str, right: np.ndarray, **recipe: object) -> Entry:
    """A run that was right about some of its images."""
    p = np.eye(2, dtype=np.float32)[np.where(right, 0, 1)]
    images = np.array([f"{k:05d}" for k in range(len(right))])
    predictions = Predictions(images, np.zeros(len(right), dtype=np.int64), p, ("x", "y"))
    scores = {"accuracy": float(right.mean()), "interval": [0.0, 1.0], "images": len(right)}
    return Entry(Path(name), {"seed": 0, "model": name, **recipe}, {}, scores, [], predictions, {})


def right_answers(*shares: float, n: int = 2000) -> list[np.ndarray]:
    """Right answers of classifiers of these accuracies, which are right about the easy images alike."""
    return [np.arange(n) < round(share * n) for share in shares]


def test_the_winner_leads_every_other_run_by_an_interval_without_0() -> None:
    low, high, middle = right_answers(0.80, 0.90, 0.85)
    result = compare_runs([entry("low", low), entry("high", high), entry("middle", middle)])
    assert result["verdict"]["best"] == ["high"]
    # The images differ one way only, so the difference of means is that of a share of 5 % of 2,000 images, which is nearly normal.
    half = 1.96 * math.sqrt(0.05 * 0.95 / 2000)
    text = f"high is best: +5.0 points over middle (95 % interval +{100 * (0.05 - half):.1f} to +{100 * (0.05 + half):.1f}, 2,000 images)"
    assert result["verdict"]["sentence"] == f"{text}, and better than each of the 2 others by an interval without 0."
    assert [(pair["one"], pair["other"]) for pair in result["pairs"]] == [
        (["high"], ["middle"]),
        (["high"], ["low"]),
        (["middle"], ["low"]),
    ]


def test_where_one_lead_could_be_luck_there_is_no_winner() -> None:
    rng = np.random.default_rng(0)
    low, high = right_answers(0.60, 0.90)
    close = rng.permutation(high)
    close[np.flatnonzero(close)[:4]] = False
    verdict = compare_runs([entry("low", low), entry("high", high), entry("close", close)])["verdict"]
    assert verdict["best"] is None
    assert verdict["sentence"].startswith(
        "No run is clearly best: high has the highest accuracy, 90.0 %, but its lead of +0.2 points over close"
    )
    assert verdict["sentence"].endswith("could be luck.")
    alike = compare_runs([entry("a", high), entry("b", high)])["verdict"]
    assert alike["best"] is None and "it is not ahead of b" in alike["sentence"]
    assert compare_runs([entry("a", high)])["verdict"] == {"best": None, "sentence": ""}
    other = dataclasses.replace(entry("b", low), predictions=None)
    assert "it cannot be compared with b image by image" in compare_runs([entry("a", high), other])["verdict"]["sentence"]


def test_a_seed_is_no_run_of_its_own_in_the_verdict() -> None:
    first, second, other = right_answers(0.90, 0.89, 0.70)
    result = compare_runs([entry("s0", first, model="m"), entry("s1", second, model="m", seed=1), entry("other", other)])
    assert result["verdict"]["best"] == ["s0", "s1"] and result["verdict"]["sentence"].startswith(
        "The mean of s0, s1 is best: +19.5 points"
    )


def test_all_are_compared_with_all_or_each_with_a_baseline(tmp_path: Path) -> None:
    runs = [entry(str(tmp_path / f"r{k}"), right, model=k) for k, right in enumerate(right_answers(0.5, 0.6, 0.7, 0.8, 0.9, 0.95))]
    for n, pairs in ((2, 1), (5, 10), (6, 5)):
        assert len(compare_runs(runs[:n])["pairs"]) == pairs
    assert {tuple(pair["one"]) for pair in compare_runs(runs)["pairs"]} == {("r5",)}, "of many, the best with each of the others"
    for baseline in ("r2", tmp_path / "r2"):
        result = compare_runs(runs, baseline)
        assert {tuple(pair["other"]) for pair in result["pairs"]} == {("r2",)} and len(result["pairs"]) == 5
        assert result["pairs"][0]["difference"] == pytest.approx(0.25) and result["pairs"][-1]["difference"] == pytest.approx(-0.2)
        assert result["verdict"]["best"] == ["r5"], "whatever the baseline"
    with pytest.raises(UsageError, match="--baseline to be one of r0, r1, "):
        compare_runs(runs, "r9")


# ---- how it is drawn -------------------------------------------------------------------------------------------------------------


def luminance(color: str) -> float:
    """The relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_runs_have_lines_that_differ_and_stand_out_on_light_and_dark_paper() -> None:
    css = read_static("report.css")
    papers, cards = re.findall(r"--paper: (#\w{6})", css), re.findall(r"--card: (#\w{6})", css)
    for k in range(6):
        colors = re.findall(rf"--run-{k}: (#\w{{6}})", css)
        assert len(colors) == len(papers) == len(cards) == 2
        for color, *grounds in zip(colors, papers, cards, strict=True):
            for ground in grounds:
                light, dark = sorted((luminance(color), luminance(ground)), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 3, (color, ground)
    rules = re.findall(r"((?:\.run\d+,? ?)+)\{ border-top-([^}]+); \}", css)
    looks = {k: frozenset(body for names, body in rules if run_style(k) in re.findall(r"run\d+", names)) for k in range(RUN_STYLES)}
    assert len(set(looks.values())) == RUN_STYLES == 18 and run_style(18) == run_style(0)


def test_the_curves_in_the_terminal_share_their_axes() -> None:
    right = right_answers(0.8, 0.9)
    curves: list[list[tuple[float, float]]] = [[(0.5, 0.3), (1.0, 0.8)], [(0.1, 0.6), (0.9, 0.9)]]
    entries = [dataclasses.replace(entry(name, some), curve=curve) for name, some, curve in zip("ab", right, curves, strict=True)]
    lines = format_comparison(compare_runs(entries))
    assert lines[0].startswith("b is best: +10.0 points over a (95 % interval +")
    axes = [line.split() for line in lines if "share of the budget" in line]
    assert [(words[0], words[-1]) for words in axes] == [("0.1", "1"), ("0.1", "1")]
    sketches = [line for line in lines if line.lstrip().startswith(("0.9 ", "0.3 "))]
    assert [line.split()[0] for line in sketches] == ["0.9", "0.3", "0.9", "0.3"]


# ---- runs ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one recipe, another recipe, and folds."""
    root = tmp_path_factory.mktemp("compared")
    assert train(photos, root / "seeds", "--seeds", "2").code == 0
    assert train(photos, root / "other", optimizer="sgd(0.0001)").code == 0
    assert train(photos, root / "cv", "--folds", "2").code == 0
    return root


def test_compare_runs(house: Path) -> None:
    result = json.loads(command("compare", house / "seeds", house / "other", "--json").out)
    assert [row["name"] for row in result["runs"]] == [Path(row["path"]).name for row in result["runs"]] == ["seed-0", "seed-1", "other"]
    assert [row["field"] for row in result["differences"]] == ["optimizer", "seed"]
    (seeds, alone) = result["groups"]
    found = [row["accuracy"] for row in result["runs"]]
    assert seeds["accuracy"] == pytest.approx(np.mean(found[:2]))
    assert seeds["standard_error"] == pytest.approx(np.std(found[:2], ddof=1) / math.sqrt(2))
    assert (alone["runs"], alone["standard_error"]) == (["other"], None)
    (pair,) = result["pairs"]
    assert {tuple(pair["one"]), tuple(pair["other"])} == {("seed-0", "seed-1"), ("other",)}
    assert pair["images"] == result["runs"][0]["images"]
    assert pair["difference"] == pytest.approx(abs(np.mean(found[:2]) - found[2]), abs=1e-6), "the better less the other"
    assert result["runs"][0]["parameters"] == 3 * 16 * 16 * 3 + 3 and result["runs"][0]["multiply_adds"] == 3 * 16 * 16 * 3
    assert len(result["runs"][0]["curve"]) == 2 and result["runs"][0]["seconds"] > 0
    assert {row["name"] for row in result["baselines"]["rows"]} == {"majority class", "nearest neighbor", "linear softmax"}


def test_compare_says_it_in_words_and_as_a_page(house: Path, tmp_path: Path) -> None:
    said = command("compare", house / "seeds" / "seed-0", house / "other", house / "cv", "--html", tmp_path / "c.html")
    assert said.code == 0
    for words in (
        "the same except for",
        "sgd(0.0001, ...)",
        " over other ",
        "McNemar's p",
        "(2 folds)",
        "Baselines",
        "validation accuracy",
    ):
        assert words in said.out, words
    page = Page((tmp_path / "c.html").read_text())
    assert page.open == []
    text = page.visible()
    assert "3 runs compared" in text and "seed-0 over other" in text and "Nearest neighbor" in text
    assert page.charts()["Validation accuracy"]["x"] == "share of the budget"
    assert {series["label"] for series in page.charts()["Validation accuracy"]["series"]} == {"seed-0", "other"}, (
        "folds have no curve of their own"
    )
    again = command("compare", house / "other")
    assert again.code == 0 and "differ" not in again.out


def test_compare_needs_the_folders_alone_and_no_torch(house: Path, tmp_path: Path) -> None:
    one, two = copied(house / "seeds" / "seed-0", tmp_path / "one"), copied(house / "other", tmp_path / "two")
    call = f"sys.argv = ['goodfit', 'compare', {str(one)!r}, {str(two)!r}, '--html', {str(tmp_path / 'c.html')!r}]"
    code = f"import sys; {call}; from goodfit.cli import main; main(); print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "False"
    assert "one over two" in done.stdout or "two over one" in done.stdout


def test_what_cannot_be_compared(house: Path, photos: Path, tmp_path: Path) -> None:
    refused(command("compare"), 2, "runs to compare")
    refused(command("compare", tmp_path / "none"), 2, "Expected a run folder")
    bare = Run(copied(house / "other", tmp_path / "bare"))
    (bare.path / PREDICTIONS_FILE).unlink()
    assert "kept no predictions" in command("compare", house / "seeds" / "seed-0", bare.path).out
    (bare.path / "scores.json").unlink()
    with pytest.raises(UsageError, match="no validation scores"):
        read_entries([bare.path])
    Run(house / "cv").update("folds.json", {"state": "running"})
    refused(command("compare", house / "cv"), 2, "not finished")
    Run(house / "cv").update("folds.json", {"state": "finished"})


def test_a_run_that_was_repeated_is_no_second_seed(house: Path, tmp_path: Path) -> None:
    same = copied(house / "seeds" / "seed-0", tmp_path / "same")
    result = compare_runs(read_entries([house / "seeds", same]))
    assert [group["runs"] for group in result["groups"]] == [["seed-0", "seed-1"], ["same"]]
    assert compare_runs(read_entries([house / "seeds" / "seed-0", same]))["pairs"][0]["interval"] == [0, 0]


# ---- baselines -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> b.Dataset:
    recipe = goodfit.Recipe(data="digits", limit=60, channels=1).but_text({**FAST, "size": "16"})
    return open_images(recipe)


def test_baselines_are_those_of_scikit_learn(digits: b.Dataset, tmp_path: Path) -> None:
    found = {row["name"]: row for row in b.compute_baselines(digits, 60, cache=tmp_path)["rows"]}
    train_rows, rows = digits.rows("train"), digits.rows("validation")
    x, y = (b.image_vectors(digits, some).numpy() for some in (train_rows, rows))
    labels, truth = digits.labels[train_rows].numpy(), digits.labels[rows].numpy()
    assert found["nearest neighbor"]["accuracy"] == KNeighborsClassifier(1).fit(x, labels).score(y, truth)
    scale = (x - x.mean(0)).std()
    oracle = LogisticRegression(C=1 / (1e-2 * len(x)), max_iter=2000).fit((x - x.mean(0)) / scale, labels)
    assert found["linear softmax"]["accuracy"] == pytest.approx(oracle.score((y - x.mean(0)) / scale, truth), abs=0.04)
    common = np.bincount(labels).argmax()
    assert found["majority class"]["accuracy"] == (truth == common).mean()
    assert all(row["judged"] == len(truth) and row["whole"] for row in found.values())


def test_baselines_are_computed_once_and_within_their_limit(digits: b.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = b.compute_baselines(digits, 60, cache=tmp_path / "a")
    monkeypatch.setattr(b, "learned_baselines", lambda *_: pytest.fail("they are in the cache"))
    assert b.compute_baselines(digits, 60, cache=tmp_path / "a") == json.loads(json.dumps(first))
    monkeypatch.undo()
    monkeypatch.setattr(b, "JUDGED_AT_ONCE", 16)
    monkeypatch.setattr(b, "READ_AT_ONCE", 16)
    cut = {row["name"]: row for row in b.compute_baselines(digits, 0, cache=tmp_path / "c")["rows"]}
    assert (cut["nearest neighbor"]["judged"], cut["nearest neighbor"]["trained"]) == (16, 16) and not cut["nearest neighbor"]["whole"]
    assert not cut["linear softmax"]["whole"] and cut["linear softmax"]["accuracy"] > 0.5
    assert all(row["whole"] for row in b.compute_baselines(digits, 60, cache=tmp_path / "c")["rows"]), "a longer limit finishes them"
    assert [b.time_limit(seconds) for seconds in (1, 1000, 1e6)] == [b.MIN_SECONDS, 1000 * b.SHARE, b.MAX_SECONDS]


def test_every_training_leaves_all_three(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its images are kept as; under a budget in minutes they are there before the first step, for they count."""
    kept = goodfit.train(photos, goodfit.Recipe().but_text({**FAST, "storage": "files"}), out=tmp_path / "files", quiet=True)
    seen: list[list[str]] = []

    def fit(*_: object) -> None:
        seen.append([row["name"] for row in Run(tmp_path / "timed").read("baselines.json")["rows"]])
        raise Interrupted("enough")

    monkeypatch.setattr(train_module, "fit", fit)
    with pytest.raises(Interrupted):
        goodfit.train(photos, goodfit.Recipe().but_text({**FAST, "budget": "10 min"}), out=tmp_path / "timed", quiet=True)
    names = [row["name"] for row in kept.read("baselines.json")["rows"]]
    assert [names] == seen == [["majority class", "nearest neighbor", "linear softmax"]]
    page = (kept.path / "report.html").read_text()
    assert all(said in page for said in ("Always answering the most common", "Nearest training image", "Linear softmax on pixels"))


def test_a_run_is_finished_whatever_becomes_of_its_baselines(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise OSError("the disk of the images is away")

    monkeypatch.setattr(b, "learned_baselines", gone)
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    said = train(photos, tmp_path / "run")
    assert said.code == 0 and "Warning: the baselines could not be computed: the disk of the images is away" in said.err
    assert Run(tmp_path / "run").read("about.json")["state"] == "finished" and (tmp_path / "run" / "report.html").is_file()


def test_baselines_read_no_test_image(digits: b.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()
    rows = type(digits.pixels).read

    def watched(self: object, some: torch.Tensor) -> torch.Tensor:
        read.update(some.tolist())
        return rows(self, some)  # type: ignore[arg-type]

    monkeypatch.setattr(type(digits.pixels), "read", watched)
    b.compute_baselines(digits, 60, cache=tmp_path)
    assert read == {*digits.rows("train").tolist(), *digits.rows("validation").tolist()}
    assert not read & set(digits.rows("test").tolist()) and len(digits.rows("test"))


def test_few_steps_are_made_to_few_images_where_time_is_short() -> None:
    x, labels = torch.randn(4000, 300), torch.arange(4000) % 40
    guesses, trained, done = b.predict_linear(x, labels, x[:50], 40, time.monotonic() + 1e-3)
    assert len(guesses) == 50 and trained == b.MIN_TRAIN_IMAGES and not done


def test_a_ridge_is_fitted_to_few_images_where_time_is_short() -> None:
    x = torch.randn(2000, 40)
    targets = x[:, :2] + 5
    guesses, trained, done = b.predict_ridge(x, targets, x[:50], 2, time.monotonic() - 1)
    assert trained == b.MIN_TRAIN_IMAGES and not done
    assert guesses.numpy() == pytest.approx(targets[:50].numpy(), abs=0.1)
    assert b.predict_ridge(x, targets, x[:50], 2, time.monotonic() + 3600)[1:] == (2000, True)
    products = b.ridge_products(np.array([100, 200, 3000, 6000]), 3000)
    assert products[1] / products[0] > 4 and products[3] < 2 * products[2], "the square of n below the width, not above"


def test_large_images_are_averaged_down(photos: Path) -> None:
    recipe = goodfit.Recipe(data=str(photos)).but_text({**FAST, "size": "40x20"})
    data = open_images(recipe)
    rows = data.rows("validation")[:4]
    found = b.image_vectors(data, rows).view(4, 3, 32, 20)
    images = data.preprocess.center_crop(data.pixels.read(rows).permute(0, 3, 1, 2)).double()
    assert found[:, :, 0].double() == pytest.approx((images[:, :, 0] + images[:, :, 1]) / 2, abs=1e-4)
    assert torch.equal(b.spread_order(7).sort().values, torch.arange(7))


def test_baselines_on_request_and_in_the_report(house: Path, tmp_path: Path) -> None:
    run = Run(copied(house / "other", tmp_path / "run"))
    assert "Linear softmax on pixels, on validation" in (run.path / "report.html").read_text()
    (run.path / "baselines.json").unlink()
    assert "Baselines" not in command("compare", run.path).out
    assert "Baselines" in command("compare", run.path, "--baselines").out
    assert len(run.read("baselines.json")["rows"]) == 3
    found = run.read("baselines.json")
    run.write("baselines.json", {**found, "rows": [{**row, "trained": 7, "judged": 5} for row in found["rows"]]})
    assert command("report", run.path).code == 0
    text = (run.path / "report.html").read_text()
    assert "Nearest training image (of 7 training images, evaluated on 5 images), on validation" in text and "in time" not in text
    (run.path / "baselines.json").write_text("{")
    assert command("report", run.path).code == 0
    text = (run.path / "report.html").read_text()
    assert "Linear softmax on pixels" not in text and "Always answering the most common class" in text
    assert "Files that could not be read: baselines.json." in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"trained": 50_000, "judged": 1000}, ""),
        ({"trained": 20_000, "judged": 1000}, " (of 20,000 training images)"),
        ({"trained": 50_000, "judged": 512}, " (evaluated on 512 images)"),
        ({}, ""),
    ],
)
def test_a_baseline_says_what_it_was_cut_down_to(row: dict[str, int], said: str) -> None:
    found = {"images": 1000, "rows": [{"name": "linear softmax", "accuracy": 0.5, "interval": [0.4, 0.6], **row}]}
    assert read_baselines(found, 50_000) == [(f"Linear softmax on pixels{said}", 0.5, 0.4, 0.6)]


def test_folds_alone_are_compared_with_the_baselines_of_the_first(house: Path, tmp_path: Path) -> None:
    said = command("compare", house / "cv", "--html", tmp_path / "c.html")
    assert "Baselines on the validation images of fold-1: majority class " in said.out and "linear softmax" in said.out
    text = Page((tmp_path / "c.html").read_text()).visible()
    assert "Baselines of fold-1" in text and "Nearest neighbor: " in text
