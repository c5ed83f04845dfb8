"""The ward: faults and controls run and repeat, every cause has a fault, written cases tell nothing, scores are those of a hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.ward.baselines.forest import features_of, judge_by_forest
from bench.ward.baselines.rules import apply_autotrainer, apply_deepdiagnosis, apply_umlaut
from bench.ward.baselines.signals import record_signals
from bench.ward.cases import Spec, fitting
from bench.ward.controls import CONTROLS
from bench.ward.faults import CAUSES, FAULTS, UNLISTED, component_of, system
from bench.ward.fix import recovers
from bench.ward.harm import Outcome, judge_harm
from bench.ward.images import draw_splits, store_images
from bench.ward.loop import lr_factor
from bench.ward.nets import build_net, trunk_state
from bench.ward.patient import Patient, train
from bench.ward.score import Verdict, calibration_error, macro_mean, risk_at, score, share
from bench.ward.settings import HELD_OUT_SETTINGS, SETTINGS, admit
from bench.ward.ward import Ward
from bench.ward.write import plan_cases, write_cases

HOSTS = [
    "digits-mlp",
    "digits-cnn",
    "digits-bn",
    "digits-few",
    "digits-deepres",
    "digits-mlp-sgd",
    "gratings-warm",
    "shapes-tuned",
    "shapes-cnn",
    "shapes-bn",
    "shapes-few",
]

LATE = {"wait-for-data", "start-threads", "leak-memory", "stop-early", "decay-early", "keep-lr", "lose-state", "forget-weights"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and weights that nobody trained in the place of the pretrained ones."""
    folder = tmp_path_factory.mktemp("ward")
    store_images(folder, None, None)
    net = SETTINGS["shapes-tuned"].net
    torch.save(trunk_state(build_net(net, (3, 20, 20), 10)), folder / f"weights-shapes-{net.family}-{net.norm}-{net.width}.pt")
    return folder


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    system.MEMORY.clear()


def first_steps(patient: Patient) -> str:
    """What three steps show, as text, where NaN equals NaN: losses, accuracy and validation images, or the error that ends them."""
    case = patient.dictionary()
    try:
        model, losses = train(case, 0, 3)
        shown = [(float(images.double().sum()), labels.tolist()) for images, labels in case["validation"]()]
        return str((losses, case["evaluate"](model, case["validation"]()), shown, case["steps"], len(patient.splits.train)))
    except IndexError as error:
        return f"stopped: {error}"


# ---- faults and controls -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=list(FAULTS))
@pytest.mark.thorough
def test_a_fault_runs_and_repeats(number: int, data: Path) -> None:
    name = list(FAULTS)[number]
    spec = Spec(fitting(name, HOSTS, data)[0], name, number % 3)
    once, again = (first_steps(spec.make(0, data)) for _ in range(2))
    healthy = first_steps(spec.twin().make(0, data))
    if name != "start-threads":  # whose sums depend on the number of threads
        assert (once == again) == (name != "forget-seed")
    assert once.startswith("stopped") == (name == "start-labels-at-one")
    assert name in LATE or once != healthy, "nothing was changed that three steps would show"


@pytest.mark.parametrize("name", list(CONTROLS))
def test_a_control_runs_and_repeats(name: str, data: Path) -> None:
    spec = Spec(fitting(name, HOSTS, data)[0], name)
    once, again = (first_steps(spec.make(0, data)) for _ in range(2))
    assert once == again and "nan" not in once and "inf" not in once


def test_every_cause_has_a_fault_and_every_fault_a_cause() -> None:
    assert len(CAUSES) >= 60
    assert {fault.cause for fault in FAULTS.values()} == {*CAUSES, UNLISTED}
    assert {component_of(fault) for fault in FAULTS.values()} == {"data", "model", "optimization", "loop", "evaluation", "system"}
    assert all(cause in CAUSES for fault in FAULTS.values() for cause in fault.accept)


def test_labels_are_drawn_anew_for_the_share_that_was_asked(data: Path) -> None:
    healthy = admit(SETTINGS["digits-mlp"], 0, data)
    for severity, portion in enumerate((0.45, 0.6, 0.75)):
        labels = FAULTS["draw-labels"].inject(healthy, severity).splits.train.labels
        assert np.mean(labels != healthy.splits.train.labels) == pytest.approx(0.9 * portion, abs=0.05)  # a tenth is drawn as it was


def test_a_leak_holds_the_validation_images(data: Path) -> None:
    sick = FAULTS["leak-exact"].inject(admit(SETTINGS["digits-mlp"], 0, data), 2)
    train_rows = {image.tobytes() for image in sick.splits.train.images}
    assert all(image.tobytes() in train_rows for image in sick.splits.validation.images)


@pytest.mark.parametrize("name", ["softmax-over-batch", "reshape-wrongly"])
def test_mixed_images_depend_on_each_other(name: str, data: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 1, 8, 8)
    for change, is_mixed in ((name, True), ("plain", False)):
        model = Spec("digits-mlp", change, 1).make(0, data).build_model().eval()
        other = images.clone()
        other[1:] += 1
        assert torch.allclose(model(images)[0], model(other)[0]) != is_mixed


def test_gradients_are_damped_and_values_are_not(data: Path) -> None:
    healthy = admit(SETTINGS["digits-mlp-sgd"], 0, data)
    torch.manual_seed(1)
    images, found = torch.randn(4, 1, 8, 8), []
    for patient in (healthy, FAULTS["damp-gradients"].inject(healthy, 0)):
        torch.manual_seed(0)
        model = patient.build_model()
        value = model(images).sum()
        value.backward()
        found.append((value.item(), next(model.parameters()).grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert torch.allclose(found[1][1], 1e-3 * found[0][1], atol=1e-8)  # a tenth at each of three activations


def test_schedules_end_where_they_should() -> None:
    assert [lr_factor(name, 1.0) for name in ("constant", "cosine", "step", "warmup", "restarts")] == pytest.approx(
        [1, 0, 0.01, 0, 0], abs=1e-9
    )
    assert lr_factor("warmup", 0.0) < 0.05 and lr_factor("warmup", 0.1) == pytest.approx(1)
    assert lr_factor("restarts", 0.34) > 0.99


def test_splits_differ_by_seed_and_share_no_image(data: Path) -> None:
    a, b = draw_splits("digits", 0, data), draw_splits("digits", 1, data)
    assert not np.array_equal(a.train.images, b.train.images)
    assert np.array_equal(a.train.images, draw_splits("digits", 0, data).train.images)
    assert len(a.train) + len(a.validation) + len(a.test) == 1797


# ---- written cases -----------------------------------------------------------------------------------------------------------------------


def test_written_cases_open_elsewhere_and_tell_nothing(data: Path) -> None:
    specs = [Spec("digits-mlp", "draw-labels", 1, 3), Spec("digits-mlp", "wait-for-data", 0, 3), Spec("digits-mlp", "plain", 0, 3)]
    folder = data.parent / "cases"
    folder.mkdir(exist_ok=True)
    (folder / "data").symlink_to(data, target_is_directory=True)
    write_cases(specs, folder, folder / "answers.json")
    files = sorted(folder.glob("case_*.py"))
    assert len(files) == 3
    for path in files:
        loader: Any = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(module)
        case = module.case(0)
        given = [case[key] for key in ("model", "optimizer", "loss", "train", "validation", "step", "evaluate")]
        names = [*(part.__qualname__ for part in given), case["train"](0).__qualname__, case["validation"]().__qualname__, path.name]
        assert not any(word in name for name in names for change in FAULTS for word in change.split("-") if len(word) > 5)
        assert "draw" not in path.read_text() and "wait" not in path.read_text()
        images, labels = next(iter(case["train"](0)))
        assert images.shape == (64, 1, 8, 8) and labels.dtype == torch.int64 and case["classes"] == 10
        assert torch.equal(images, next(iter(module.case(0)["train"](0)))[0])


def test_a_plan_has_all_causes_and_half_of_its_controls_odd(data: Path) -> None:
    specs = plan_cases(["digits", "shapes", "gratings"], data, 2, 40, 5)
    assert {spec.cause for spec in specs} == {*CAUSES, UNLISTED, None}
    controls = [spec for spec in specs if not spec.is_fault]
    assert len(controls) == 40 and sum(spec.is_odd for spec in controls) == 20
    assert len(set(specs)) == len(specs)


def test_held_out_settings_share_no_family_and_data_with_the_others(data: Path) -> None:
    known = {(setting.net.family, setting.data) for setting in SETTINGS.values()}
    assert all((setting.net.family, setting.data) not in known for setting in HELD_OUT_SETTINGS.values())
    specs = plan_cases(["digits", "shapes", "grains", "gratings"], data, 1, 10, 5, held_out=True)
    assert {spec.setting for spec in specs} <= set(HELD_OUT_SETTINGS)
    missing = {*CAUSES} - {spec.cause for spec in specs}
    assert missing == {"no_warmup", "vanishing_gradient", "missing_skip", "channels_swapped"}, "which need other nets"


@pytest.mark.parametrize("name", ["digits-transformer", "digits-mixer", "letters-dense", "grains-dense"])
def test_a_held_out_setting_learns(name: str, data: Path) -> None:
    patient = admit(HELD_OUT_SETTINGS[name], 0, data).but(steps=40)
    _, losses = train(patient.dictionary(), 0)
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:3])
    assert patient.but_net(act="tanh", skip=False).dictionary()["model"]().training


# ---- harm and fixes ----------------------------------------------------------------------------------------------------------------------


def outcomes(honest: list[float], reported: list[float]) -> list[Outcome]:
    return [Outcome(a, b, 0.01, 0.0) for a, b in zip(honest, reported, strict=True)]


@pytest.mark.parametrize(
    ("honest", "reported", "kind"),
    [
        ([0.90, 0.91, 0.92], [0.90, 0.91, 0.92], "accuracy"),  # five points lost
        ([0.94, 0.95, 0.96], [0.94, 0.95, 0.96], ""),  # one point
        ([0.95, 0.96, 0.97], [0.99, 1.00, 1.00], "report"),  # reported three to four points too well
        ([0.74, 0.95, 1.00], [0.74, 0.95, 1.00], ""),  # six points in the mean, but by chance
    ],
)
def test_harm_is_judged_by_points_and_chance(honest: list[float], reported: list[float], kind: str) -> None:
    twins = outcomes([0.95, 0.96, 0.97], [0.95, 0.96, 0.97])
    assert judge_harm("draw-labels", list(zip(outcomes(honest, reported), twins, strict=True))).kind == kind


def test_costs_harm_only_where_the_machine_is_at_fault() -> None:
    slow, twin = Outcome(0.9, 0.9, 0.02, 0.0), Outcome(0.9, 0.9, 0.01, 0.0)
    assert judge_harm("wait-for-data", [(slow, twin)]).kind == "time"
    assert judge_harm("draw-labels", [(slow, twin)]).kind == ""
    assert judge_harm("leak-memory", [(Outcome(0.9, 0.9, 0.01, 5e7), twin)]).kind == "memory"


def test_nine_tenths_of_the_gap_are_a_fix() -> None:
    case, twin = Outcome(0.5, 0.5, 0, 0), Outcome(0.9, 0.9, 0, 0)
    assert recovers(Outcome(0.87, 0.87, 0, 0), case, twin, "accuracy")
    assert not recovers(Outcome(0.85, 0.85, 0, 0), case, twin, "accuracy")
    assert recovers(Outcome(0.8, 0.81, 0, 0), Outcome(0.8, 0.99, 0, 0), Outcome(0.8, 0.8, 0, 0), "report")


def test_a_control_that_ends_far_below_its_other_seeds_has_failed(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "cases")
    specs = [Spec("digits-mlp", "plain", 0, draw) for draw in (1, 2)]
    ward.beside("_answers.json").write_text(json.dumps({str(spec.draw): spec.answer() for spec in specs}))
    rows = [(1, 0, 0.3), (1, 1, 0.9), (2, 0, 0.88), (2, 1, 0.9)]
    log = [
        {"spec": dataclasses.asdict(specs[draw - 1]), "seed": seed, "outcome": dataclasses.asdict(Outcome(honest, honest, 0.01, 0.0))}
        for draw, seed, honest in rows
    ]
    ward.beside("_harm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    assert ward.find_failed() == {"1"}
    failed = dataclasses.replace(verdict("plain", None, ["lr_too_high"]), has_failed=True)
    found = score([failed, verdict("plain", None, [], says="healthy")])
    assert (found["false alarms, plain"].mean, found["alarms, controls that failed"].mean) == (0, 1)


# ---- scores by hand ----------------------------------------------------------------------------------------------------------------------


def verdict(
    kind: str, cause: str | None, named: list[str], confidence: float = 0.8, says: str = "fault", harm: str | None = None
) -> Verdict:
    component = CAUSES.get(cause or "", "loop" if kind == "unlisted" else None)
    answer = {"kind": kind, "cause": cause, "accept": [], "component": component, "data": "digits", "architecture": "mlp"}
    causes = [{"cause": name, "component": CAUSES[name], "confidence": confidence} for name in named]
    line = {
        "case": "x", "verdict": says, "component": causes[0]["component"] if causes else None, "causes": causes,
        "alarm": says == "fault", "steps": 10, "trial_steps": 50, "seconds": 2.0,
    }  # fmt: skip
    return Verdict("x", answer, line, harm, is_fixed=named[:1] == [cause] if kind == "fault" else None, planned=200)


def test_scores_are_those_of_a_hand() -> None:
    verdicts = [
        verdict("fault", "lr_too_high", ["lr_too_high"], 0.95),
        verdict("fault", "lr_too_high", ["momentum_too_high", "lr_too_high"], 0.95),  # second, the component is right, confidently wrong
        verdict("fault", "label_noise", ["label_noise"], 0.6),
        verdict("fault", "dead_relu", [], says="healthy"),  # missed
        verdict("fault", "wrong_outputs", ["lr_too_low"], harm=""),  # benign, so an alarm
        verdict("unlisted", UNLISTED, ["wrong_sign"], 0.4, says="unknown"),  # the right component, unsure
        verdict("plain", None, [], says="healthy"),
        verdict("odd", None, ["lr_too_low"], 0.7),  # a false alarm
    ]
    found = score(verdicts)
    assert found["top-1 cause"].mean == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["top-3 causes"].mean == pytest.approx((1 + 1 + 0) / 3)
    assert found["component"].mean == pytest.approx((1 + 1 + 0) / 3)
    assert found["functional fix"].mean == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["top-1 cause"].count == 4 and found["causes"] == 3
    assert found["confidently wrong"].mean == pytest.approx(1 / 5)
    assert found["unlisted: unsure, right component"].mean == 1
    assert (found["false alarms, plain"].mean, found["false alarms, odd"].mean, found["alarms, benign faults"].mean) == (0, 1, 1)
    assert found["steps to the verdict, median"] == 10 and found["trial steps / planned, faults"] == pytest.approx(0.25)


def test_a_healthy_verdict_names_no_cause() -> None:
    silent = verdict("fault", "lr_too_high", ["lr_too_high"], 0.2, says="healthy")
    assert not silent.is_among(1) and not silent.is_component_right and not silent.is_confidently_wrong


def test_calibration_and_risk_by_hand() -> None:
    assert calibration_error([0.95, 0.95, 0.55, 0.55], [True, True, True, False]) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert risk_at([0.9, 0.8, 0.3, 0.2], [True, True, False, False], 0.5) == 0
    assert risk_at([0.9, 0.8, 0.3, 0.2], [True, True, False, False], 1.0) == 0.5


def test_intervals_hold_their_means() -> None:
    alarms = share([True] + [False] * 99)
    assert alarms.mean == 0.01 and alarms.low == pytest.approx(0.00025, abs=1e-5) and alarms.high == pytest.approx(0.0545, abs=1e-3)
    estimate = macro_mean([verdict("fault", "lr_too_high", ["lr_too_high"])], lambda v: v.is_among(1))
    assert estimate.low == estimate.mean == estimate.high == 1


# ---- baselines ---------------------------------------------------------------------------------------------------------------------------


def test_published_rules_speak_by_their_thresholds(data: Path) -> None:
    case = dict(Spec("digits-mlp-sgd", "zero-weights", 2).make(0, data).dictionary(), steps=30)
    signals = record_signals(case, 0)
    assert len(signals.losses) == 30 and not signals.error
    assert signals.checks[-1].gradients[0] == 0 and signals.input_high > 1
    assert "dead_relu" in apply_autotrainer(signals)  # 70 % of the gradient is zero
    assert apply_deepdiagnosis(signals) == ["init_too_small"]  # activations are zero, and so is the variance of the weights
    assert "inputs_not_scaled" in apply_umlaut(signals)  # as on every standardized image


def test_the_forest_never_sees_the_group_it_judges(data: Path) -> None:
    features = np.array([[0.0], [0.1], [1.0], [1.1]] * 2)
    found = judge_by_forest(features, ["a", "a", "b", "b", "c", "c", "c", "c"], ["x"] * 4 + ["y"] * 4)
    assert {order[0][0] for order in found[:4]} == {"c"} and [order[0][0] for order in found[4:]] == ["a", "a", "b", "b"]
    vector = features_of(record_signals(dict(Spec("digits-mlp").make(0, data).dictionary(), steps=12), 0))
    assert np.isfinite(vector).all()
