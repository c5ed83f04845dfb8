"""Labels and numbers through every verb: train, resume after a kill, evaluate, predict, search, folds, ensemble, export and report."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score

import goodfit
from goodfit.core.predictions import Predictions
from goodfit.core.run import Run
from goodfit.predict.predictor import load_classifier
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.runs.resume import asked_values
from goodfit.terminal.log import LoggingReporter
from goodfit.training.step import Objective
from tests.support.command import goodfit as command
from tests.support.command import refused
from tests.support.process import start_command
from tests.support.runs import assert_equal_weights
from tests.support.tasks import FAST, draw_squares, make_label_folder, make_number_folder, words_of

FIGURES = {"labels": "mean_average_precision", "numbers": "r2"}
both = pytest.mark.parametrize("task", list(FIGURES))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    return {"labels": make_label_folder(root / "labels"), "numbers": make_number_folder(root / "numbers")}


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for task, path in data.items():
        said = command("train", path, "--task", task, "--out", folder / task, *words_of({}))
        assert said.code == 0, said.err
    return {task: folder / task for task in data}


def train(path: Path, task: str, out: Path, *more: str, **changes: str) -> Any:
    return command("train", path, "--task", task, "--out", out, *words_of(changes), *more)


def count(run: Path, split: str) -> int:
    """The images of a split, by the run's own table."""
    return sum(line.endswith(f",{split}") for line in (run / "splits.csv").read_text().splitlines())


def kept(run: Path) -> Predictions:
    found = Predictions.read(run / "predictions.npz")
    assert found is not None
    return found


def figure(task: str, predictions: Predictions) -> float:
    truth, answers = predictions.labels, predictions.probabilities
    return float(average_precision_score(truth, answers) if task == "labels" else r2_score(truth, answers))


# ---- train, evaluate ---------------------------------------------------------------------------------------------------------------


@both
def test_scores_are_those_of_the_predictions_that_are_kept(runs: dict[str, Path], task: str) -> None:
    scores, predictions = Run(runs[task]).scores["validation"], kept(runs[task])
    assert scores[FIGURES[task]] == pytest.approx(figure(task, predictions), abs=1e-5)
    assert scores[FIGURES[task]] > 0.8
    assert scores["interval"][0] <= scores[FIGURES[task]] <= scores["interval"][1]
    if task == "numbers":
        mae = mean_absolute_error(predictions.labels, predictions.probabilities, multioutput="raw_values")
        assert [row["mae"] for row in scores["numbers"]] == pytest.approx(mae.tolist(), rel=1e-4)
        names = [int(Path(name).stem) for name in predictions.names.tolist()]
        assert np.allclose(predictions.labels, draw_squares()[2][names]), "in their own units"
    log = Run(runs[task]).log("evaluate")[-1]["validation"]
    assert log[FIGURES[task]] == pytest.approx(scores[FIGURES[task]], abs=1e-4)


@both
def test_evaluate_repeats_the_scores_and_opens_the_test_images(runs: dict[str, Path], task: str, tmp_path: Path) -> None:
    run = shutil.copytree(runs[task], tmp_path / "run")
    before = Run(run).scores["validation"]
    again = json.loads(command("evaluate", run, "--json").out)
    for key in (FIGURES[task], "interval", "loss"):
        assert again[key] == pytest.approx(before[key], rel=1e-6), key
    said = command("evaluate", run, "--test")
    test = Run(run).scores["test"]
    assert said.code == 0 and test["images"] == count(run, "test") and len(Run(run).read("about.json")["openings"]) == 1
    config = Run(run).read("config.json")["task"]
    if task == "labels":
        assert [row["threshold"] for row in test["labels"]] == config["thresholds"], "fitted on validation"
        assert "all labels right for" in said.out
    else:
        assert test["calibration"]["half_widths"] == pytest.approx(config["half_widths"])
        assert "RMSE" in said.out


def test_a_run_knows_its_numbers(tmp_path: Path) -> None:
    folder = make_number_folder(tmp_path / "data", 60)
    assert train(folder, "numbers", tmp_path / "run", budget="1 epoch").code == 0
    assert command("evaluate", tmp_path / "run").code == 0
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("100.0", "100.001"))
    refused(command("evaluate", tmp_path / "run"), 3, "have changed since")


@both
def test_calibrate_stores_what_is_fitted(runs: dict[str, Path], task: str, tmp_path: Path) -> None:
    run = shutil.copytree(runs[task], tmp_path / "run")
    before = Run(run).read("config.json")
    assert command("evaluate", run, "--calibrate").code == 0
    after = Run(run).read("config.json")
    if task == "labels":
        assert after["temperature"] == Run(run).scores["validation"]["calibration"]["temperature"] != 1
        image = tmp_path / "0.png"
        Image.fromarray(draw_squares()[0][0]).save(image)
        plain, scaled = (goodfit.load(path).predict(image)[0] for path in (runs[task], run))
        logit = torch.logit(torch.tensor(plain.probabilities, dtype=torch.float64)) / after["temperature"]
        assert scaled.probabilities == pytest.approx(torch.sigmoid(logit).tolist(), abs=1e-5)
        assert scaled.labels == plain.labels, "the thresholds are scaled, too"
    else:
        assert after["task"]["half_widths"] == pytest.approx(before["task"]["half_widths"]) and "temperature" not in after


@both
def test_views_average_answers(runs: dict[str, Path], task: str, tmp_path: Path) -> None:
    run = shutil.copytree(runs[task], tmp_path / "run")
    scores = json.loads(command("evaluate", run, "--views", "flip_pair", "--json").out)
    viewed = scores["viewed"]
    assert viewed["center"][FIGURES[task]] == pytest.approx(Run(run).scores["validation"][FIGURES[task]], abs=1e-6)
    assert viewed["views"][-1][FIGURES[task]] == pytest.approx(scores[FIGURES[task]], abs=1e-6)
    assert scores[FIGURES[task]] < viewed["center"][FIGURES[task]], "left is not right"


# ---- predict, export ---------------------------------------------------------------------------------------------------------------


@both
def test_predict_gives_the_answers_of_evaluate(runs: dict[str, Path], data: dict[str, Path], task: str) -> None:
    predictions = kept(runs[task])
    files = [data[task] / name for name in predictions.names.tolist()[:5]]
    rows = json.loads(command("predict", runs[task], *files, "--json").out)
    for row, answers in zip(rows, predictions.probabilities, strict=False):
        if task == "numbers":
            assert list(row["numbers"].values()) == pytest.approx(answers.tolist(), rel=1e-5)
            assert all(low < row["numbers"][name] < high for name, (low, high) in row["intervals"].items())
        else:
            assert dict(zip(row["classes"], row["probabilities"], strict=True)) == pytest.approx(
                dict(zip(predictions.classes, answers.tolist(), strict=True)), abs=1e-5
            )
            thresholds = Run(runs[task]).read("config.json")["task"]["thresholds"]
            assert row["labels"] == [n for n, x, least in zip(predictions.classes, answers, thresholds, strict=True) if x >= least]
    said = command("predict", runs[task], files[0], "--csv").out.splitlines()
    assert said[0] == {"labels": "name,label,probability,given,problem", "numbers": "name,number,value,low,high,problem"}[task]
    assert len(said) == 1 + len(predictions.classes)
    text = command("predict", runs[task], *files).out
    assert (predictions.classes[0] in text) and len(text.splitlines()) == 5
    refused(command("predict", runs[task], files[0], "--reject-below", "0.5"), 2, "--reject-below is for classes", task)


@both
@pytest.mark.thorough
def test_an_exported_model_answers_as_the_run(runs: dict[str, Path], task: str, tmp_path: Path) -> None:
    said = command("export", runs[task], "--onnx", tmp_path / "model.onnx")
    assert said.code == 0, said.err
    images = draw_squares(4, seed=9)[0][..., None]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"images": images})
    assert session.get_outputs()[0].name == {"labels": "probabilities", "numbers": "numbers"}[task]
    classifier = load_classifier(runs[task])
    own = classifier.probabilities([classifier.decode(image) for image in images])  # type: ignore[misc]
    assert answers == pytest.approx(own.numpy(), rel=1e-4, abs=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["task"])["name"] == task


# ---- resume ------------------------------------------------------------------------------------------------------------------------


@both
def test_killed_and_resumed_is_bit_equal(data: dict[str, Path], task: str, tmp_path: Path) -> None:
    changes = {"augment": "crop(1) | mixup(0.3) | cutmix(0.5)", "budget": "30 epochs", "save_every": "3 steps"}
    assert train(data[task], task, tmp_path / "whole", **changes).code == 0
    words = ["train", str(data[task]), "--task", task, "--out", str(tmp_path / "killed"), "--resume", "auto", *words_of(changes)]
    process = start_command(tmp_path / "first", *words)
    try:
        while process.poll() is None and not any(int(p.stem) >= 12 for p in (tmp_path / "killed").glob("checkpoints/*.json")):
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.kill()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    again = start_command(tmp_path / "second", *words)
    assert again.wait() == 0, again.err
    assert_equal_weights(tmp_path / "whole", tmp_path / "killed")
    assert Run(tmp_path / "whole").scores["validation"] == Run(tmp_path / "killed").scores["validation"]


# ---- many runs ---------------------------------------------------------------------------------------------------------------------


@both
def test_folds_and_their_ensemble(data: dict[str, Path], task: str, tmp_path: Path) -> None:
    said = train(data[task], task, tmp_path / "folds", "--folds", "2", "--json", budget="6 epochs")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    predictions = kept(tmp_path / "folds")
    assert len(predictions.names) == len(set(predictions.names.tolist())) == 150 - count(tmp_path / "folds" / "fold-1", "test"), (
        "all but the test images, each once"
    )
    assert found["out_of_fold"][FIGURES[task]] == pytest.approx(figure(task, predictions), abs=1e-5)
    assert found[FIGURES[task]] == pytest.approx(np.mean(found[FIGURES[task] + "s"]))
    by_fold = [figure(task, kept(tmp_path / "folds" / f"fold-{k}")) for k in (1, 2)]
    assert found[FIGURES[task] + "s"] == pytest.approx(by_fold, abs=1e-5)
    page = (tmp_path / "folds" / "report.html").read_text()
    assert {"labels": "Average precision", "numbers": "predicted against true"}[task] in page
    made = command("ensemble", tmp_path / "folds", "--out", tmp_path / "both")
    assert made.code == 0, made.err
    if task == "numbers":
        refused(command("ensemble", tmp_path / "folds", "--soup", "uniform", "--out", tmp_path / "soup"), 2, "differ in preprocess, task")
    image = Image.fromarray(draw_squares()[0][0])
    together = goodfit.load(tmp_path / "both").predict(image)[0]
    alone = [goodfit.load(tmp_path / "folds" / f"fold-{k}").predict(image)[0] for k in (1, 2)]
    mean = [np.mean([dict(zip(p.classes, p.probabilities, strict=True))[name] for p in alone]) for name in together.classes]
    assert together.probabilities == pytest.approx(mean, rel=1e-5), "the mean of the answers, though each fold has a scale of its own"


@both
def test_an_ensemble_of_seeds_is_scored_as_its_mean(data: dict[str, Path], task: str, tmp_path: Path) -> None:
    assert train(data[task], task, tmp_path / "seeds", "--seeds", "2", budget="5 epochs").code == 0
    runs = [kept(tmp_path / "seeds" / f"seed-{k}") for k in (0, 1)]
    mean = Predictions(runs[0].names, runs[0].labels, (runs[0].probabilities + runs[1].probabilities) / 2, runs[0].classes, task)
    said = command("ensemble", tmp_path / "seeds", "--out", tmp_path / "both")
    assert said.code == 0, said.err
    scores = Run(tmp_path / "both").scores["validation"]
    assert scores[FIGURES[task]] == pytest.approx(figure(task, mean), abs=1e-5)
    best = max(figure(task, one) for one in runs)
    assert scores["gain"]["difference"] == pytest.approx(figure(task, mean) - best, abs=1e-5)
    tested = json.loads(command("evaluate", tmp_path / "both", "--test", "--json").out)
    assert (
        tested["images"] == count(tmp_path / "seeds" / "seed-0", "test")
        and tested["gain"]["interval"][0] <= tested["gain"]["difference"] <= tested["gain"]["interval"][1]
    )
    pair = [tmp_path / "seeds" / f"seed-{k}" for k in (0, 1)]
    compared = json.loads(command("compare", *pair, "--json", "--html", tmp_path / "compare.html").out)
    assert [row[FIGURES[task]] for row in compared["runs"]] == pytest.approx([figure(task, one) for one in runs], abs=1e-5)
    assert compared["groups"][0][FIGURES[task]] == pytest.approx(np.mean([figure(task, one) for one in runs]), abs=1e-5)
    pairs = json.loads(command("compare", pair[0], tmp_path / "both", "--json").out)["pairs"]
    assert abs(pairs[0]["difference"]) == pytest.approx(abs(figure(task, mean) - figure(task, runs[0])), abs=1e-5)
    assert {"labels": "Validation mean average precision", "numbers": "Validation R2"}[task] in (tmp_path / "compare.html").read_text()
    assert command("compare", *pair).code == 0
    assert command("ensemble", tmp_path / "seeds", "--select", "greedy", "--out", tmp_path / "greedy").code == 0
    assert Run(tmp_path / "greedy").scores["validation"][FIGURES[task]] >= best - 1e-6
    assert command("ensemble", tmp_path / "seeds", "--soup", "uniform", "--out", tmp_path / "soup").code == 0
    weights = [load_file(tmp_path / "seeds" / f"seed-{k}" / "model.safetensors") for k in (0, 1)]
    name = "head.weight" if "head.weight" in weights[0] else next(iter(weights[0]))
    averaged = load_file(tmp_path / "soup" / "model.safetensors")[name]
    assert torch.allclose(averaged, (weights[0][name] + weights[1][name]) / 2)


def test_runs_of_other_tasks_are_no_ensemble(runs: dict[str, Path], tmp_path: Path) -> None:
    said = command("ensemble", runs["labels"], runs["numbers"], "--out", tmp_path / "x")
    refused(said, 2, "models of the same task", "labels", "numbers")
    refused(command("compare", runs["labels"], runs["numbers"]), 2, "Expected runs of one task", "mean average precision", "R2")


@both
@pytest.mark.thorough
def test_search_ranks_by_the_figure(data: dict[str, Path], task: str, tmp_path: Path) -> None:
    options = list(words_of({"budget": "6 epochs"}))
    place = options.index("--budget")
    del options[place : place + 2]
    said = command(
        "search", data[task], "--task", task, *options, "--out", tmp_path / "search", "--space", "lr=one_of(0.05, 1e-6)",
        "--method", "grid", "--trials", "2", "--keep", "1", "--seeds", "1", "--each", "6 epochs", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    results = json.loads((tmp_path / "search" / "results.json").read_text())
    assert results["winner"]["values"]["lr"] == "0.05"
    for trial in results["trials"]:
        assert trial["value"] == pytest.approx(Run(tmp_path / "search" / trial["run"]).scores["validation"][FIGURES[task]])
    name = {"labels": "mean average precision", "numbers": "R2"}[task]
    assert f"validation {name}" in (tmp_path / "search" / "report.html").read_text()


# ---- report, baselines -------------------------------------------------------------------------------------------------------------


@both
def test_the_report_shows_the_outputs(runs: dict[str, Path], task: str) -> None:
    page = (runs[task] / "report.html").read_text()
    words = {
        "labels": ("mean average precision on validation", "Threshold", "Always answering how frequent each label is", "bright"),
        "numbers": ("R2 on validation", "RMSE", "light: predicted against true, on validation", "Always answering the mean"),
    }[task]
    assert all(word in page for word in (*words, "Ridge regression on pixels"))
    assert "accuracy on validation" not in page and ">Confusion<" not in page


@both
def test_baselines_are_scikit_learns(runs: dict[str, Path], task: str) -> None:
    rows = {row["name"]: row[FIGURES[task]] for row in Run(runs[task]).read("baselines.json")["rows"]}
    images, labels, numbers = draw_squares()
    targets, names = (labels, numbers)[task == "numbers"], kept(runs[task]).names.tolist()
    held = [int(Path(name).stem) for name in names]
    splits = {row.split(",")[0]: row.rstrip().rsplit(",", 1)[1] for row in (runs[task] / "splits.csv").read_text().splitlines()}
    trained = [int(Path(name).stem) for name, split in splits.items() if split == "train"]
    x = images.reshape(150, -1) / 255.0
    nearest = [trained[int(((x[trained] - x[k]) ** 2).sum(1).argmin())] for k in held]
    score = average_precision_score if task == "labels" else r2_score
    assert rows["nearest neighbor"] == pytest.approx(score(targets[held], targets[nearest]), abs=1e-4)
    constant = np.tile(targets[trained].mean(0), (len(held), 1))
    assert rows["label frequencies" if task == "labels" else "mean"] == pytest.approx(score(targets[held], constant), abs=1e-4)
    best = max(score(targets[held], Ridge(alpha).fit(x[trained], targets[trained]).predict(x[held])) for alpha in (0.1, 1, 10, 100))
    assert best - 0.25 < rows["linear ridge"] <= best + 0.05


@both
def test_the_default_is_not_clearly_below_what_a_person_would_fit_by_hand(runs: dict[str, Path], task: str) -> None:
    images, labels, numbers = draw_squares()
    held = [int(Path(name).stem) for name in kept(runs[task]).names.tolist()]
    trained = [k for k in range(150) if k not in held]  # the test images, too: more than the run had
    x = images.reshape(150, -1) / 255.0
    if task == "labels":
        answers = np.stack(
            [LogisticRegression(max_iter=1000).fit(x[trained], labels[trained, k]).predict_proba(x[held])[:, 1] for k in range(3)], axis=1
        )
        by_hand = average_precision_score(labels[held], answers)
    else:
        by_hand = r2_score(numbers[held], Ridge(1.0).fit(x[trained], numbers[trained]).predict(x[held]))
    assert Run(runs[task]).scores["validation"][FIGURES[task]] > by_hand - 0.03


# ---- what a task has -----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S193")
def test_numbers_are_learned_by_squared_error_of_plain_outputs(data: dict[str, Path]) -> None:
    recipe = Recipe(data=str(data["numbers"]), task="numbers").but_text({**FAST, "model": "linear"})
    prepared = prepare(recipe, LoggingReporter())
    assert str(prepared.recipe.loss) == "mse()"[:-2] or "mse" in str(prepared.recipe.loss)
    state, plan = prepared.training.state, prepared.training.plan
    batch = next(prepared.training.loader.stream(0))
    train_rows = prepared.data.rows("train")
    truth = prepared.data.truth[train_rows]
    expected = (prepared.data.truth[batch.ids] - truth.mean(0)) / truth.std(0, correction=0)
    assert torch.allclose(batch.targets.double(), expected, atol=1e-5), "in deviations from the mean of the training images"
    loss = Objective(state, batch, plan, 0.0)()
    outputs = state.model(plan.prepare(batch, 0.0).images)
    assert float(loss) == pytest.approx(float((outputs - batch.targets).square().mean()), rel=1e-5)


@both
def test_mixing_mixes_targets_by_their_shares(data: dict[str, Path], task: str) -> None:
    recipe = Recipe(data=str(data[task]), task=task).but_text({**FAST, "augment": "mixup(0.5)"})  # type: ignore[arg-type]
    prepared = prepare(recipe, LoggingReporter())
    batch = next(prepared.training.loader.stream(0))
    assert batch.chance is not None
    mixed = prepared.training.plan.augment(batch, batch.chance, 0.0)
    flat = batch.images.float().flatten(1) / 255
    for row in range(4):
        columns = torch.cat([flat, batch.targets], dim=1)
        aim = torch.cat([mixed.images[row].flatten(), mixed.targets[row]])
        shares = torch.linalg.lstsq(columns.T.double(), aim.double()[:, None]).solution[:, 0]
        assert torch.allclose(columns.T.double() @ shares, aim.double(), atol=1e-4) and shares.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("task", "options", "parts"),
    [
        ("labels", ["--loss", "softmax"], ('"softmax" is for classes, not for --task labels',)),
        ("labels", ["--loss", "mse"], ('"mse" is for classes and numbers',)),
        ("numbers", ["--loss", "binary"], ('"binary" is for classes and labels',)),
        ("numbers", ["--augment", "crop(1) | smooth(0.1)"], ('"smooth" is for classes',)),
        ("labels", ["--augment", "ramp(smooth)"], ('"smooth" is for classes',)),
        ("labels", ["--sampler", "balanced"], ('"balanced" is for classes',)),
        ("numbers", ["--model", "nearest"], ('"nearest" is for classes',)),
        ("labels", ["--class-weights", "balanced"], ("class_weights are for classes",)),
        ("classes", ["--targets", "light"], ("Expected --task labels or --task numbers beside --targets",)),
        ("classes", ["--loss", "huber"], ('"huber" is for numbers',)),
        ("tags", [], ("task",)),
    ],
)
def test_parts_that_make_no_sense_are_refused(
    data: dict[str, Path], task: str, options: list[str], parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = data.get(task, data["numbers"])
    options = [*words_of({}), *options]
    for name in ("--augment", "--model"):  # given twice by the case
        if options.count(name) > 1:
            place = options.index(name)
            del options[place : place + 2]
    refused(command("train", path, "--task", task, "--out", tmp_path / "run", *options), 2, *parts)
    assert not (tmp_path / "run").exists()


@both
def test_the_doctor_and_the_audit_say_that_they_know_classes_alone(
    data: dict[str, Path], runs: dict[str, Path], task: str, tmp_path: Path
) -> None:
    refused(command("doctor", runs[task]), 2, "The doctor knows images of one class each so far", task)
    refused(command("audit", data[task], "--task", task), 2, "The audit knows images of one class each so far")
    refused(train(data[task], task, tmp_path / "run", "--doctor"), 2, "The doctor knows")


@both
def test_a_pretrained_net_starts_with_a_linear_probe(data: dict[str, Path], runs: dict[str, Path], task: str, tmp_path: Path) -> None:
    other = "numbers" if task == "labels" else "labels"
    said = train(data[task], task, tmp_path / "run", "--from", str(runs[other]), budget="2 epochs", model="auto")
    assert said.code == 0, said.err
    assert "the head starts as a linear probe" in said.err
    first = Run(tmp_path / "run").log("evaluate")[0]
    assert first["step"] == 0 and first["validation"][FIGURES[task]] > 0.3, "it begins where the probe ends"


def test_runs_from_before_there_were_tasks_are_of_classes() -> None:
    asked = {key: value for key, value in Recipe(loss="softmax").plain().items() if key not in ("task", "targets")}
    values = asked_values({"asked": asked})
    assert (values["task"], values["loss"]) == ("classes", "auto")
