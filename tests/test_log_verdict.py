"""Every training ends with a verdict by its log; how rare a finding is among healthy trainings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.doctor.calibration import MAX_FALSE_ALARMS, MIN_ALARM, Calibration, read_calibration
from goodfit.doctor.diagnose import decide
from goodfit.doctor.doctor_adviser import DoctorAdviser
from goodfit.doctor.finding import Finding
from goodfit.doctor.log_verdict import find_certain_failures, read_verdict
from goodfit.doctor.run_patient import prepare_run
from goodfit.doctor.wording import describe_verdict
from goodfit.recipe.run_recipe import trained_recipe
from goodfit.report.pages.run import render_run
from goodfit.report.record import read_record
from tests.support.command import goodfit as command
from tests.support.fake_run import Page, make_run, replace_log

CONSTANT = ("--schedule", "constant", "--epochs", "3")
TRAIN = ("train", "digits", "--augment", "none", "--size", "8", "--threads", "1")


def evaluated(validation: list[float], clean: list[float]) -> list[dict[str, Any]]:
    return [
        {"kind": "evaluate", "step": 100 * k, "validation": {"loss": 1.0, "accuracy": a}, "clean_train": {"loss": 1.0, "accuracy": b}}
        for k, (a, b) in enumerate(zip(validation, clean, strict=True), 1)
    ]


def rates(*values: float) -> list[dict[str, Any]]:
    return [{"kind": "train", "step": step, "loss": 1.0, "lr": rate} for step, rate in enumerate(values, 1)]


def test_a_sound_training_ends_with_a_healthy_verdict(tmp_path: Path) -> None:
    done = command(
        *TRAIN, "--model", "mlp((256,))", "--optimizer", "adamw(0.005)", "--schedule", "cosine", "--epochs", "30", "--out", tmp_path / "run"
    )
    assert done.code == 0, done.err
    assert f"Doctor: the log shows nothing that harms this training; goodfit doctor {tmp_path / 'run'} --try looks deeper." in done.err
    findings = json.loads((tmp_path / "run/findings.json").read_text())
    assert (findings["verdict"], findings["alarm"], findings["by"]) == ("healthy", False, "log")
    assert "The log shows nothing that harms this training. goodfit doctor" in Page(render_run(tmp_path / "run")).visible()


def test_a_wrecked_training_ends_with_the_cause_and_a_recipe_that_mends_it(tmp_path: Path) -> None:
    done = command(
        *TRAIN,
        "--model",
        "linear",
        "--optimizer",
        "sgd(100, momentum=0.9)",
        "--schedule",
        "constant",
        "--epochs",
        "3",
        "--out",
        tmp_path / "run",
    )
    assert done.code == 0, done.err
    assert "Doctor: most likely lr_too_high, by the log; goodfit doctor" in done.err
    findings = json.loads((tmp_path / "run/findings.json").read_text())
    (cause,) = findings["causes"]
    assert cause["evidence"].startswith("The training loss rose from 2.")
    assert cause["patch"] == {}, "how far to lower the rate is not known"
    assert findings["p"] is None and findings["steps"] == 0 and findings["ruled_out"] == [] and findings["failures"]
    page = Page(render_run(tmp_path / "run")).visible()
    assert "By the log alone:" in page and "lr too high" in page


def test_a_training_that_diverged_hears_the_cause(tmp_path: Path) -> None:
    done = command(*TRAIN, "--model", "mlp", "--optimizer", "sgd(1e30)", *CONSTANT, "--out", tmp_path / "run")
    assert done.code == 4, done.err
    assert "Doctor: most likely lr_too_high, by the log; goodfit doctor" in done.err
    assert json.loads((tmp_path / "run/findings.json").read_text())["alarm"] is True


def test_the_fields_that_a_log_tells_to_change_build(tmp_path: Path) -> None:
    done = command(*TRAIN, "--model", "linear", "--optimizer", "sgd(0.1)", *CONSTANT, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    run = Run(tmp_path / "run")
    replace_log(run, rates(0.1, 0.1) + evaluated([0.8, 0.88, 0.38], [0.9, 0.95, 0.4]))
    prepared = prepare_run(run, SilentReporter())
    assert any("below its best" in line for line in DoctorAdviser().conclude(run, prepared))
    (cause,) = [cause for cause in run.read("findings.json")["causes"] if cause["cause"] == "no_decay"]
    assert cause["patch"] == {"schedule": "warmup | cosine"}
    assert trained_recipe(run.path).but_text(cause["patch"]).schedule == "warmup | cosine"


@pytest.mark.parametrize(
    ("log", "kind", "cause"),
    [
        (evaluated([0.8, 0.88, 0.58], [0.9, 0.95, 1.0]), "fault", "overfitting"),
        (rates(0.1, 0.1) + evaluated([0.8, 0.88, 0.58], [0.9, 0.95, 0.6]), "fault", "no_decay"),
        (rates(0.1, 0.001) + evaluated([0.8, 0.88, 0.58], [0.9, 0.95, 0.6]), "fault", "lr_too_high"),
        (rates(0.1, 0.1) + evaluated([0.5, 0.6, 0.7, 0.8, 0.85], [0.5, 0.6, 0.7, 0.8, 0.85]), "healthy", "trained_too_short"),
        (evaluated([0.7, 0.8, 0.85], [0.8, 0.9, 0.99]), "healthy", "overfitting"),
    ],
)
def test_causes_by_what_the_log_shows(tmp_path: Path, log: list[dict[str, Any]], kind: str, cause: str) -> None:
    run = make_run(tmp_path / "run")
    replace_log(run, log)
    verdict = read_verdict(read_record(run))
    assert (verdict.kind, verdict.alarm) == (kind, kind == "fault")
    assert [finding.cause for finding in verdict.findings][:1] == [cause]
    assert all(finding.is_material == (kind == "fault") for finding in verdict.findings)


def test_a_failure_without_a_known_cause_is_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = [
        {"name": "majority class", "accuracy": 0.1, "interval": [0.1, 0.1]},
        {"name": "nearest neighbor", "accuracy": 0.99, "interval": [0.98, 1.0]},
    ]
    run.write("baselines.json", {"images": 1000, "rows": rows})
    verdict = read_verdict(read_record(run))
    assert (verdict.kind, verdict.alarm, verdict.findings) == ("unknown", True, ())
    assert "below a baseline" in find_certain_failures(read_record(run))[0].evidence
    accuracy = run.read("scores.json")["validation"]["accuracy"]
    rows[1] |= {"accuracy": accuracy + 0.01, "interval": [accuracy - 0.02, accuracy + 0.04]}
    run.write("baselines.json", {"images": 1000, "rows": rows})
    assert not read_verdict(read_record(run)).alarm, "a difference that may be noise is no reason to stop a person"


# ---- calibration -----------------------------------------------------------------------------------------------------------------


def test_the_p_value_is_the_share_of_healthy_trainings_as_odd() -> None:
    calibration = Calibration(99, (0.9, 0.6))
    assert [calibration.p_value(c) for c in (0.95, 0.9, 0.7, 0.6, 0.5, 0.0)] == [0.01, 0.02, 0.02, 0.03, 0.03, 1.0]
    assert calibration.alarm_level > 0.9, "above the strongest finding of a healthy training"
    assert Calibration(999, (0.9, 0.6)).alarm_level == MIN_ALARM, "two in a thousand are few enough"
    assert Calibration(20, (0.7,)).alarm_level > 0.7, "of twenty trainings none may"


def test_the_doctor_is_calibrated_on_enough_healthy_trainings() -> None:
    calibration = read_calibration()
    assert calibration.trainings >= 75 and "bench.ward calibrate" in calibration.origin
    assert sum(found >= calibration.alarm_level for found in calibration.confidences) <= MAX_FALSE_ALARMS * calibration.trainings
    sure = Finding("lr_too_high", 0.95, "", "")
    verdict = decide([sure], 10, 0, 0.0)
    assert verdict.alarm and verdict.p == calibration.p_value(0.95)
    assert decide([], 10, 0, 0.0).p == 1.0
    assert f"Of {calibration.trainings} healthy trainings, " in " ".join(describe_verdict(verdict))
