"""Calibration against NumPy and SciPy in float64; the temperature in evaluate and predict; answers rejected; the test images left alone."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

import goodfit
from goodfit.core.errors import GoodfitError
from goodfit.core.predictions import MAX_FULL_PRECISION_VALUES, PREDICTIONS_FILE, Predictions
from goodfit.core.run import Run
from goodfit.predict.calibration import (
    COVERAGES,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    measure_calibration,
    reject_curve,
    reliability_bins,
)
from tests.support.command import copied, refused, train
from tests.support.command import goodfit as command
from tests.support.photos import make_photos


def made(n: int = 600, classes: int = 5, sharp: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `sharp` times too large for the labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    labels = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return torch.tensor(logits * sharp, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize("sharp", [0.3, 1.0, 4.0])
def test_the_temperature_is_that_of_least_log_loss(sharp: float) -> None:
    logits, labels = made(sharp=sharp)

    def loss(log_t: float) -> float:
        logs = log_softmax(logits.double().numpy() / math.exp(log_t), axis=1)
        return -float(logs[np.arange(len(labels)), labels.numpy()].mean())

    oracle = math.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10}).x)
    assert fit_temperature(logits.double().softmax(1), labels) == pytest.approx(oracle, rel=1e-5)
    assert oracle == pytest.approx(sharp, rel=0.15)


def test_a_temperature_divides_scores() -> None:
    logits, _ = made()
    for t in (0.5, 1.0, 2.5):
        assert torch.allclose(apply_temperature(logits.softmax(1), t), (logits / t).softmax(1), atol=2e-6)
    assert (apply_temperature(logits.softmax(1), 3.0).argmax(1) == logits.argmax(1)).all()
    gone = apply_temperature(torch.tensor([[1.0, 0.0]]), 2.0)
    assert gone.isfinite().all() and float(gone.sum()) == pytest.approx(1)


def test_always_right_or_never_stays_within_bounds() -> None:
    sure = torch.tensor([[0.9, 0.1]] * 8)
    assert MIN_TEMPERATURE <= fit_temperature(sure, torch.zeros(8, dtype=torch.int64)) < 0.1, "where the loss has vanished"
    assert fit_temperature(sure, torch.ones(8, dtype=torch.int64)) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)
    assert measure_calibration(sure[:1], torch.zeros(1, dtype=torch.int64))["ece"] == pytest.approx(0.1, abs=1e-6)


def oracle_ece(p: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    sure, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return total


def test_the_expected_calibration_error_is_that_of_numpy() -> None:
    logits, labels = made(seed=3)
    p = logits.double().softmax(1)
    assert expected_calibration_error(p, labels) == pytest.approx(oracle_ece(p.numpy(), labels.numpy()), abs=1e-12)
    rows = reliability_bins(p, labels)
    assert sum(row["images"] for row in rows) == len(labels)
    assert expected_calibration_error(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


def test_scaling_calibrates_and_is_judged_on_the_other_half() -> None:
    logits, labels = made(2000, sharp=3.0)
    p = logits.softmax(1)
    found = measure_calibration(p, labels)
    assert found["ece_after"] < 0.4 * found["ece"] and found["log_loss_after"] < found["log_loss"]
    after = p.clone()
    for mine, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        after[mine] = apply_temperature(p[mine], fit_temperature(p[other], labels[other]))
    assert found["ece_after"] == pytest.approx(oracle_ece(after.double().numpy(), labels.numpy()), abs=1e-6)
    given = measure_calibration(p, labels, 2.0)
    assert given["temperature"] == 2.0
    assert given["ece_after"] == pytest.approx(oracle_ece(apply_temperature(p, 2.0).double().numpy(), labels.numpy()), abs=1e-6)


def test_the_reject_option_curve() -> None:
    logits, labels = made(seed=5)
    p = logits.softmax(1)
    sure, right = p.max(1).values.numpy(), (p.argmax(1) == labels).numpy()
    rows = reject_curve(p, labels)
    assert rows[0]["coverage"] == 1 and rows[0]["accuracy"] == pytest.approx(right.mean())
    for row, asked in zip(rows, COVERAGES, strict=True):
        given = sure >= row["below"]
        assert row["coverage"] == pytest.approx(given.mean()) and row["coverage"] >= asked - 1e-9
        assert row["accuracy"] == pytest.approx(right[given].mean())
    tied = reject_curve(torch.full((10, 2), 0.5), torch.zeros(10, dtype=torch.int64))
    assert {row["coverage"] for row in tied} == {1.0}, "equally sure answers are not told apart"


# ---- predictions in a file ---------------------------------------------------------------------------------------------------------


def test_predictions_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = made(7, 3)[0].softmax(1).numpy()
    kept = Predictions(np.array(["é/1", *"bcdefg"]), np.arange(7) % 3, p, ("x", "y", "z"))
    kept.save(tmp_path / "p.npz")
    back = Predictions.read(tmp_path / "p.npz")
    assert back is not None and back.classes == kept.classes
    assert all((getattr(back, key) == getattr(kept, key)).all() for key in ("names", "labels", "probabilities", "predicted", "correct"))
    monkeypatch.setattr("goodfit.core.predictions.MAX_FULL_PRECISION_VALUES", 20)
    kept.save(tmp_path / "half.npz")
    half = Predictions.read(tmp_path / "half.npz")
    assert half is not None and np.abs(half.probabilities - p).max() < 1e-3 and MAX_FULL_PRECISION_VALUES > 20
    assert Predictions.read(tmp_path / "none.npz") is None
    (tmp_path / "p.npz").write_bytes(b"no zip")
    with pytest.raises(GoodfitError, match=r'p.npz" does not read'):
        Predictions.read(tmp_path / "p.npz")


# ---- a run -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "run"
    assert train(photos, out, budget="4 epochs").code == 0
    return out


def test_a_run_keeps_its_predictions_and_its_calibration(finished: Path, photos: Path) -> None:
    kept, scores = Predictions.read(finished / PREDICTIONS_FILE), Run(finished).read("scores.json")["validation"]
    assert kept is not None
    assert kept.correct.mean() == pytest.approx(scores["accuracy"])
    assert scores["calibration"]["ece"] == pytest.approx(oracle_ece(kept.probabilities.astype(float), kept.labels), abs=1e-6)
    for name, label, p in zip(kept.names[:3], kept.labels, kept.probabilities, strict=False):
        assert str(name).startswith(kept.classes[label])
        (said,) = goodfit.load(finished).predict(photos / str(name))
        assert said.probabilities[0] == pytest.approx(p.max(), abs=1e-5)


def test_predict_is_tempered_once_the_run_is_calibrated_and_not_before(finished: Path, photos: Path, tmp_path: Path) -> None:
    run, image = copied(finished, tmp_path / "run"), photos / "red" / "000.png"
    (before,) = goodfit.load(run).predict(image)
    assert "temperature" not in Run(run).read("config.json"), "an uncalibrated run is as one of an earlier version"
    assert command("evaluate", run).code == 0
    assert goodfit.load(run).predict(image) == [before], "looking at it changes nothing"
    said = command("evaluate", run, "--calibrate")
    assert "calibration error" in said.out and "Stored with the model: temperature" in said.out
    t = Run(run).read("config.json")["temperature"]
    assert t == Run(run).read("scores.json")["validation"]["calibration"]["temperature"] != 1
    (after,) = goodfit.load(run).predict(image)
    assert after.classes == before.classes
    powers = np.array(before.probabilities) ** (1 / t)
    assert np.allclose(after.probabilities, powers / powers.sum(), atol=1e-5)
    refused(command("evaluate", run, "--calibrate", "--test"), 2, "validation", "test")
    assert not Run(run).read("about.json")["openings"], "refused before the test images are opened"


@pytest.mark.item("S004")
def test_the_test_images_fit_no_temperature(finished: Path, tmp_path: Path) -> None:
    run = Run(copied(finished, tmp_path / "run"))
    t = run.read("scores.json")["validation"]["calibration"]["temperature"]
    files = {name: (run.path / name).read_bytes() for name in ("config.json", PREDICTIONS_FILE)}
    assert command("evaluate", run.path, "--test").code == 0
    assert run.read("scores.json")["test"]["calibration"]["temperature"] == t
    assert {name: (run.path / name).read_bytes() for name in files} == files
    scores = run.read("scores.json")
    del scores["validation"]["calibration"]
    run.write("scores.json", scores)
    command("evaluate", run.path, "--test")
    assert run.read("scores.json")["test"]["calibration"]["temperature"] == 1, "none was fitted: none is"


@pytest.mark.item("S004")
def test_other_test_images_change_nothing_that_is_chosen(tmp_path: Path) -> None:
    """Two data sets with the same training and validation images and other test images: the same weights, temperature and folds."""
    kept = []
    for place in ("one", "other"):
        data = tmp_path / place
        for split, each in (("train", 8), ("val", 4)):
            make_photos(data / split, each)
        make_photos(data / "test", 4)
        if place == "other":
            for file in (data / "test").rglob("*.png"):
                shutil.copy(data / "train" / "red" / "000.png", file)
        out = tmp_path / f"run-{place}"
        assert train(data, out, budget="1 epoch").code == 0
        assert train(data, tmp_path / f"folds-{place}", "--folds", "2", budget="1 epoch").code == 0
        scores = Run(out).read("scores.json")["validation"]
        folds = Run(tmp_path / f"folds-{place}").read("folds.json")
        rows = [{key: x for key, x in row.items() if key != "seconds"} for row in Run(out).read("baselines.json")["rows"]]
        answers = Predictions.read(tmp_path / f"folds-{place}" / PREDICTIONS_FILE)
        assert answers is not None and len(answers.names) == 36 and not any("test" in name for name in answers.names.tolist())
        kept.append(((out / "model.safetensors").read_bytes(), scores, folds["accuracies"], folds["out_of_fold"], rows))
    assert kept[0] == kept[1]


def test_reject_below(finished: Path, photos: Path, tmp_path: Path) -> None:
    words = ("predict", finished, photos, "--reject-below")
    plain = json.loads(command("predict", finished, photos, "--json").out)
    sure = sorted({row["probabilities"][0] for row in plain})
    below = (sure[len(sure) // 2 - 1] + sure[len(sure) // 2]) / 2
    rows = json.loads(command(*words, str(below), "--json").out)
    assert [row["rejected"] for row in rows] == [row["probabilities"][0] < below for row in plain]
    assert 0 < sum(row["rejected"] for row in rows) < len(rows)
    assert all("rejected" not in row for row in plain)
    lines = command(*words, str(below)).out.splitlines()
    assert [": rejected, " in line for line in lines] == [row["rejected"] for row in rows]
    table = list(csv.DictReader(io.StringIO(command(*words, str(below), "--csv", "--top", "1").out)))
    assert [row["rejected"] == "true" for row in table] == [row["rejected"] for row in rows]
    (tmp_path / "broken.png").write_bytes(b"no png")
    unsure = next(row["name"] for row in rows if row["rejected"])
    mixed = command("predict", finished, tmp_path / "broken.png", unsure, "--reject-below", str(below), "--json")
    first, second = json.loads(mixed.out)
    assert first["problem"] and not first["rejected"] and second["rejected"]
    refused(command(*words, "1.5"), 2, "0 to 1", "1.5")
