"""What went wrong with a run is said first, with what to do, and then nothing says that the fit is in order; sound runs hear none of it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import goodfit
from goodfit.core.interval import is_clearly_below
from goodfit.core.run import Run
from goodfit.report.failures import compare_with_baselines, find_broken_training, find_shortfalls
from goodfit.report.interpretation import describe_kept, interpret_run
from goodfit.report.markup import plain_text
from goodfit.report.pages.run import render_run
from goodfit.report.record import read_record
from goodfit.terminal.scores import format_scores
from tests.support.command import goodfit as command
from tests.support.fake_run import Page, make_run, replace_log, scores_of
from tests.support.fake_study import make_search

FINE = ("no clear sign", "larger model", "little overfitting", "still rising")  # what no broken run may hear
DIGITS = {
    "data": "digits", "size": "8", "model": "linear", "budget": "3 epochs", "schedule": "constant", "augment": "none", "batch_size": "64",
    "optimizer": "sgd(0.1)", "threads": "1", "precision": "fp32", "layout": "contiguous", "evaluate_every": "1 epoch",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "20260802-animals")


def said(run: Run) -> list[str]:
    return [plain_text(sentence) for sentence in interpret_run(read_record(run))]


def trained(losses: Sequence[float | None], norms: Sequence[float | None] = ()) -> list[dict[str, Any]]:
    pairs = itertools.zip_longest(losses, norms, fillvalue=1.0)
    return [{"kind": "train", "step": k, "loss": loss, "grad_norm": norm, "lr": 0.1} for k, (loss, norm) in enumerate(pairs, 1)]


def evaluated(validation: Sequence[float], clean: Sequence[float] = (), first: int = 1) -> list[dict[str, Any]]:
    """Evaluations after each hundred steps, the first after `first` hundred."""
    clean = clean or validation
    return [
        {"kind": "evaluate", "step": 100 * k, "validation": {"loss": 1.0, "accuracy": a}, "clean_train": {"loss": 1.0, "accuracy": b}}
        for k, (a, b) in enumerate(zip(validation, clean, strict=True), first)
    ]


def digits(folder: Path, **changes: str) -> Run:
    asked = goodfit.Recipe().but_text({**DIGITS, **changes})
    return goodfit.train(asked.data, asked, out=folder / "run", quiet=True)


# ---- training that broke ---------------------------------------------------------------------------------------------------------

SOUND = {
    "from ln K down": ([2.3 * 0.99**k for k in range(500)], ()),
    "to nearly zero, jittering a hundredfold": ([2.3, *(1e-5 * (1 + 99 * (k % 2)) for k in range(300))], ()),
    "a fitted head that augmentation makes worse": ([0.05, *[0.9] * 300], [0.01, *[2.0] * 300]),
    "a few spikes": ([2.3, *([1.0] * 50 + [400.0, 300.0]) * 5], [1.0, *([1.0] * 50 + [900.0, 700.0]) * 5]),
    "slow to start": ([2.3] * 100 + [1.0] * 100, [1e-6] * 100 + [8.0] * 100),
    "hinge": ([9.0] * 10 + [60.0] * 10 + [3.0] * 50, [20.0] * 70),
    "one step": ([2.3], [0.3]),
    "gaps": ([None, 2.3, None, 2.0], [None, None, None, 3.0]),
    "nothing": ([], ()),
}
SOUND["a spike that heals"] = ([2.3, 1.5, *[30.0] * 3, *[0.4] * 60], ())
BROKEN = {
    "loss": ([2.3, 8.0, *[30.0] * 50], (), "The training loss rose from 2.30 to 30.0 at step"),
    "and came back": ([2.3, *[334.0] * 6, *[2.2] * 100], (), "rose from 2.30 to 334 at step 3."),
    "without end": ([2.3, 1e3, 1e6, 1e9, 1e12, 6e18, 6e18, 6e18], (), "rose from 2.30 to 6.00e+18 at step"),
    "few steps": ([2.3, 175.0, 175.0], (), "rose from 2.30 to 175 at step 2"),
    "gradient": ([2.3] * 100, [1.5] * 50 + [90.0] * 50, "The norm of the gradient rose from 1.50 to 90.0 at step"),
    "both": ([2.3, *[24.0] * 9], [0.3, *[51.0] * 9], "24.0 at step 3; the norm of the gradient rose from 0.300 to 51.0"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_training_is_not_called_broken(run: Run, name: str) -> None:
    replace_log(run, trained(*SOUND[name]))
    assert find_broken_training(read_record(run)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_training_is_said_first_and_nothing_praises_it(run: Run, name: str) -> None:
    losses, norms, expected = BROKEN[name]
    replace_log(run, trained(losses, norms) + evaluated([0.5, 0.6, 0.7, 0.8, 0.83]))
    first, *rest = said(run)
    assert expected in first
    assert "train again with a tenth of it (--lr)" in first
    assert not any(words in sentence for words in FINE for sentence in rest)
    replace_log(run, evaluated([0.5, 0.6, 0.7, 0.8, 0.83]))
    assert any(words in sentence for words in FINE for sentence in said(run)), "which it would say otherwise"


def test_growth_is_measured_from_the_loss_of_knowing_nothing(run: Run) -> None:
    """Ten classes: from 23.03 on, though the first loss was far below."""
    for loss, is_broken in ((23.0, False), (23.1, True)):
        replace_log(run, trained([0.1, *[loss] * 20]))
        assert bool(find_broken_training(read_record(run))) == is_broken
    assert 10 * math.log(10) == pytest.approx(23.03, abs=0.01)


def test_what_diverged_is_said_first_with_what_to_do(run: Run) -> None:
    run.update("about.json", {"state": "diverged"})
    first, *rest = said(run)
    assert first.startswith("Training diverged at epoch 12.0: a number stopped being finite. The learning rate is likely too high")
    assert not any(words in sentence for words in FINE for sentence in rest)
    run.update("about.json", {"state": "finished"})
    replace_log(run, [*trained([2.3]), {"kind": "evaluate", "step": 1, "validation": {"loss": None, "accuracy": 0.1}}])
    assert said(run)[0].startswith("The last validation loss is not a finite number.")


def test_a_start_that_became_worse_is_said(run: Run) -> None:
    replace_log(run, evaluated([0.9, 0.8, 0.7], first=0))
    first = said(run)[0]
    assert first.startswith("Validation accuracy fell from 90.0 % at the pretrained start to 70.0 %.")
    assert "--trainable head" in first
    replace_log(run, evaluated([0.9, 0.8, 0.89], first=0))
    assert not find_broken_training(read_record(run)), "of 1,000 images one point is noise"


# ---- real runs -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "mlp((32,))", "optimizer": "adamw(0.003)", "schedule": "cosine"},
        {"model": "convnet(8)", "size": "16", "optimizer": "sgd(0.1, momentum=0.9)", "schedule": "warmup(0.1) | cosine"},
        {"model": "mlp((256,))", "optimizer": "adam(0.01)", "limit": "20", "budget": "100 epochs", "evaluate_every": "10 epochs"},
        {"loss": "svm", "optimizer": "sgd(0.01)"},
        {"loss": "mse", "model": "mlp((32,))"},
        {"loss": "binary", "average": "ema(0.9)"},
        {"optimizer": "lbfgs", "batch_size": "all", "budget": "15 steps", "evaluate_every": "5 steps"},
        {"budget": "1 steps"},
    ],
    ids=str,
)
def test_no_sound_run_on_digits_is_called_broken(tmp_path: Path, changes: dict[str, str]) -> None:
    assert find_broken_training(read_record(digits(tmp_path, **changes))) == []


def test_a_wrecked_run_on_digits_hears_what_went_wrong(tmp_path: Path) -> None:
    run = digits(tmp_path, optimizer="sgd(100, momentum=0.9)")
    losses = [row["loss"] for row in run.log("train")]
    assert max(losses) > 100 * losses[0], "wrecked indeed"
    first, *rest = said(run)
    assert first.startswith("The training loss rose from 2.")
    assert not any(words in sentence for words in FINE for sentence in rest)


def test_a_run_that_diverges_hears_so_in_its_report(tmp_path: Path) -> None:
    """A start that is evaluated after the first step, then a rate that leaves the numbers' range."""
    options = [word for key, value in DIGITS.items() if key not in ("data", "model", "optimizer") for word in (f"--{key}", value)]
    options = [word.replace("_", "-") if word.startswith("--") else word for word in options]
    done = command("train", "digits", "--out", tmp_path / "run", "--model", "mlp((32,32))", "--optimizer", "sgd(1e6)", *options)
    assert done.code == 4, done.err
    first = said(Run(tmp_path / "run"))[0]
    assert first.startswith("Training diverged at ")
    assert "the training loss rose from 2." in first
    assert "tenth of it (--lr)" in first


def test_the_terminal_ends_with_the_warnings_and_what_was_kept(tmp_path: Path) -> None:
    options = [word for key, value in DIGITS.items() if key not in ("data", "optimizer") for word in (f"--{key.replace('_', '-')}", value)]
    done = command("train", "digits", "--out", tmp_path / "run", "--optimizer", "sgd(100, momentum=0.9)", *options)
    assert done.code == 0, done.err
    for failure in find_shortfalls(read_record(Run(tmp_path / "run")), is_broken=True):
        assert f"Warning: {plain_text(str(failure), read_record(Run(tmp_path / 'run')).shell_path)}" in done.err
    assert "Warning: The training loss rose from 2." in done.err
    assert "\nKept: the weights of " in done.err
    assert "`" not in done.err


# ---- results that fall short -----------------------------------------------------------------------------------------------------


def baselines(accuracy: float, low: float, high: float, majority: float = 0.1) -> dict[str, Any]:
    rows = [("majority class", majority, majority, majority), ("nearest neighbor", accuracy, low, high), ("linear softmax", 0.3, 0.2, 0.4)]
    return {"images": 1000, "rows": [{"name": name, "accuracy": a, "interval": [b, c]} for name, a, b, c in rows]}


def test_a_result_below_a_baseline_is_said_first(run: Run) -> None:
    accuracy = run.read("scores.json")["validation"]["accuracy"]
    run.write("baselines.json", baselines(0.94, 0.92, 0.96))
    first, *rest = said(run)
    distance = f"{100 * (0.94 - accuracy):.0f} points below a baseline: nearest training image, 94.0 %."
    assert first.startswith(f"{100 * accuracy:.1f} % on validation is {distance}")
    assert "--augment" not in first and "does not carry over: try stronger augmentation" in first, "training images reach it"
    assert not any(words in sentence for words in FINE for sentence in rest)
    replace_log(run, evaluated([accuracy], [0.85]))
    assert "Train at another learning rate (goodfit lr measures some), longer" in said(run)[0], "training images do not reach it"


def test_an_ensemble_below_a_baseline_hears_so(run: Run) -> None:
    run.write("ensemble.json", {"kind": "average", "select": "all", "members": [], "candidates": [{"source": "a", "weight": 1.0}]})
    run.write("baselines.json", baselines(0.94, 0.92, 0.96))
    assert "below a baseline: nearest training image, 94.0 %. The reports of its models show which" in said(run)[0]


@pytest.mark.parametrize(("best", "is_below"), [(0.62, False), (0.635, True)])
def test_the_noise_of_both_counts(best: float, is_below: bool) -> None:
    """Half widths 0.03 and 0.04 make 0.05; the difference is 0.12 less 0.085, then 0.1."""
    rows = [("Nearest training image", best, best - 0.04, best + 0.04), ("Linear softmax on pixels", 0.2, 0.1, 0.3)]
    sentence = compare_with_baselines(best - 0.045 - 0.01 * is_below, (0.47, 0.53), rows)
    assert "below a baseline" in str(sentence) and ("which may be noise" not in str(sentence)) == is_below
    assert not compare_with_baselines(best, (0.47, 0.53), rows)
    assert not compare_with_baselines(None, (None, None), rows)
    assert not compare_with_baselines(0.1, (None, None), [("Always answering the most common class", 0.9, None, None)])


def test_a_search_below_a_baseline_hears_so(tmp_path: Path) -> None:
    study = make_search(tmp_path / "s")
    trial = study.path / "coarse" / "0001"
    trial.mkdir(parents=True, exist_ok=True)
    Run(trial).write("baselines.json", baselines(0.99, 0.98, 1.0))
    command("report", study.path)
    assert (
        "below a baseline: nearest training image, 99.0 %. Search wider ranges" in Page((study.path / "report.html").read_text()).visible()
    )
    Run(trial).write("baselines.json", baselines(0.5, 0.4, 0.6))
    command("report", study.path)
    assert "below a baseline" not in Page((study.path / "report.html").read_text()).visible()


@pytest.mark.parametrize(
    ("clean", "expected"),
    [
        ([0.9, 0.95, 0.6], ", and on training images too. A lower learning rate, or one that anneals, may keep what was learned."),
        (
            [0.9, 0.95, 1.0],
            '. Stopping there (--stop "patience(10)"), stronger augmentation or more weight decay may keep what was learned.',
        ),
    ],
)
def test_a_run_that_ended_below_its_best_says_so(run: Run, clean: list[float], expected: str) -> None:
    replace_log(run, evaluated([0.8, 0.88, 0.58], clean))
    assert said(run)[0] == f"Training ended 30 points below its best validation accuracy, 88.0 % at step 200{expected}"
    replace_log(run, evaluated([0.8, 0.88, 0.87], clean))
    assert "below its best" not in " ".join(said(run))


def test_clearly_below_is_below_the_interval_of_wilson() -> None:
    for right, n in ((90, 100), (100, 100), (7, 9), (880, 1000)):
        low = stats.binomtest(right, n).proportion_ci(0.95, "wilson").low
        assert is_clearly_below(low - 1e-6, right / n, n)
        assert not is_clearly_below(low + 1e-6, right / n, n)


# ---- what was kept ---------------------------------------------------------------------------------------------------------------


def kept(run: Run, step: int, accuracies: Sequence[float], first: int = 1) -> str:
    run.update("scores.json", {"kept": step})
    replace_log(run, evaluated(accuracies, first=first))
    return plain_text(describe_kept(read_record(run)))


def test_which_weights_were_kept_is_said(run: Run) -> None:
    assert kept(run, 300, [0.5, 0.8, 0.881]) == "Kept: the weights of the last step, 300."
    assert kept(run, 200, [0.5, 0.881, 0.583]) == (
        "Kept: the weights of step 200, whose validation accuracy was 88.1 %; those of the last step had 58.3 %."
        " Validation chose them, so their accuracy there is biased upward."
    )
    assert kept(run, 0, [0.9, 0.8], first=0).startswith("Kept: the weights of the pretrained start, whose validation accuracy was 90.0 %;")
    noise = (
        "Kept: the weights of the last step, 300, whose validation accuracy was 88.1 %; those of step 200 had 88.9 %, which may be noise."
    )
    assert kept(run, 300, [0.5, 0.889, 0.881]) == noise
    with (run.path / "recipe.toml").open("a") as file:
        file.write('keep = "last"\n')
    assert kept(run, 300, [0.5, 0.9, 0.6]).endswith("those of step 200 had 90.0 %, and --keep best keeps them.")
    assert kept(run, 250, [0.5, 0.9, 0.6]) == "", "which the log does not know"
    assert kept(run, 0, [0.5], first=0) == "", "of a model that has no steps"


def test_the_mark_in_curves_and_table_is_at_the_weights_that_are_kept(run: Run) -> None:
    run.update("scores.json", {"best": {"step": 2200, "score": 0.861}, "kept": 1000})
    page = Page(render_run(run.path))
    for title in ("Loss", "Accuracy"):
        assert page.charts()[title]["marks"] == [{"x": 1000, "label": "kept"}]
    assert "epoch 5.0 (kept)" in page.visible() and page.visible().count("(kept)") == 1
    many = [line | {"step": line["step"] // 10} for line in evaluated([0.5] * 200)]
    replace_log(run, many)
    run.update("scores.json", {"kept": 990})
    assert "step 990 (kept)" in Page(render_run(run.path)).visible(), "though only one in four is shown"


# ---- top five --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "is_shown"), [(2, False), (5, False), (6, True)])
def test_top_five_is_shown_of_more_than_five_classes(tmp_path: Path, classes: int, is_shown: bool) -> None:
    names = tuple("abcdef"[:classes])
    run = make_run(tmp_path / "run", names)
    assert ("top five" in Page(render_run(run.path)).visible()) == is_shown
    scores = scores_of(names)
    scores["calibration"]["rejection"] = []
    assert ("top-5" in " ".join(format_scores(scores, "validation"))) == is_shown
    assert "top5" in json.loads((run.path / "scores.json").read_text())["validation"]


# ---- classes and copies ----------------------------------------------------------------------------------------------------------


def test_classes_that_are_never_recognized_are_named(run: Run) -> None:
    about, scores = run.read("about.json"), run.read("scores.json")
    split = read_record(run).headline_split
    rows = [{"name": name, "images": 30, "accuracy": 0.9} for name in about["data"]["classes"]]
    first = rows[0]["name"]

    def found(images: int, trained: int) -> list[tuple[str, str]]:
        rows[0] |= {"images": images, "accuracy": 0.0}
        counts = {row["name"]: [trained if row["name"] == first else 500, 30, 30] for row in rows}
        run.write("about.json", about | {"data": about["data"] | {"counts": counts}})
        run.write("scores.json", scores | {split: scores[split] | {"classes": rows}})
        return [(str(remark), remark.cause) for remark in find_shortfalls(read_record(run)) if first in remark.evidence]

    assert found(9, 500) == []  # too few to tell
    assert found(10, 500) == [(f'No {split} image of "{first}" is recognized. The report shows what they are taken for.', "")]
    ((sentence, cause),) = found(30, 100)
    assert "--class-weights balanced" in sentence and cause == "class_imbalance"


def test_validation_images_that_are_trained_on_are_said_at_the_end(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("validation", 10)):  # half of the validation images are training images
        for name, base in (("dark", 20), ("light", 200)):
            (folder := tmp_path / "data" / split / name).mkdir(parents=True)
            for k in range(first, first + 20):
                noise = np.random.default_rng(1000 * base + k).integers(0, 40, (8, 8, 3))
                Image.fromarray((base + noise).astype(np.uint8)).save(folder / f"{split}-{k}.png")
    run = digits(tmp_path, data=str(tmp_path / "data"), size="8")
    (leak,) = [remark for remark in find_shortfalls(read_record(run)) if remark.cause == "leakage_exact"]
    assert plain_text(leak.evidence).startswith("50.0 % of the validation images are training images too")
