"""goodfit doctor: case files, folders of them, and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goodfit.cli.doctor import read_share
from goodfit.core.errors import DataError, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.doctor import case_folder
from goodfit.doctor.case_folder import RESULTS_FILE, examine_folder, examine_in_process
from goodfit.doctor.causes import BY_COMPONENT, COMPONENT_OF
from goodfit.doctor.finding import Finding, Verdict
from goodfit.doctor.remedy import choose_patch, next_free_folder, patched_recipe, try_remedy
from goodfit.doctor.rules import RULES
from goodfit.doctor.run_examination import RunDiagnosis, diagnose_run
from goodfit.doctor.wording import describe_verdict
from goodfit.report.page import render_report
from goodfit.report.sections.doctor import FINDINGS_FILE
from tests.support.command import goodfit, refused, train

KEYS = {"case", "seed", "verdict", "component", "causes", "alarm", "steps", "trial_steps", "seconds"}
CASE = """
import sys
sys.path.insert(0, {root!r})
from tests.support.patients import parts, evaluate

def case(seed):
    print("a case may print")
    def in_training_mode(model, batches):
        model.train()
        return sum(float((model(x).argmax(1) == y).float().mean()) for x, y in batches) / 3
    return parts(seed, evaluate=in_training_mode)
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    (folder / "a.py").write_text(CASE.format(root=str(Path.cwd())))
    (folder / "b.py").write_text("def case(seed):\n    raise RuntimeError('no such data')\n")
    return folder


@pytest.mark.thorough
def test_case_file(cases: Path) -> None:
    answer = json.loads(goodfit("doctor", str(cases / "a.py"), "--json", "--seed", "3").out)
    assert set(answer) >= KEYS and (answer["case"], answer["seed"]) == ("a.py", 3)
    assert answer["causes"][0]["cause"] == "evaluated_in_train_mode" and answer["alarm"] is True
    assert answer["component"] == COMPONENT_OF["evaluated_in_train_mode"]
    words = goodfit("doctor", str(cases / "a.py")).out
    assert "evaluated_in_train_mode" in words and "model.eval()" in words


def test_folder_is_resumable(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = []

    def examine(case: Path, seed: int, limit: float) -> dict[str, Any]:
        examined.append(case.name)
        return {"case": case.name, "seed": seed, **({"error": "it failed"} if case.name == "b.py" else {})}

    monkeypatch.setattr(case_folder, "examine_in_process", examine)
    assert {answer["case"] for answer in examine_folder(cases, 0, 1)} == {"a.py", "b.py"}
    assert {answer["case"] for answer in examine_folder(cases, 0, 1)} == {"a.py", "b.py"}
    assert sorted(examined) == ["a.py", "b.py", "b.py"]  # what failed is tried again
    list(examine_folder(cases, 1, 1))
    assert examined.count("a.py") == 2  # another seed is another patient
    (cases / "a.py").write_text("y = 2")
    list(examine_folder(cases, 0, 1))
    assert examined.count("a.py") == 3
    with (cases / RESULTS_FILE).open("a") as file:
        file.write('{"key": "torn')
    assert len(list(examine_folder(cases, 0, 1))) == 2


@pytest.mark.thorough
def test_failing_and_slow_cases_are_of_unknown_cause(cases: Path) -> None:
    failed = examine_in_process(cases / "b.py", 0, 100)
    assert failed["verdict"] == "unknown" and "no such data" in failed["error"] and failed["alarm"] is False
    (cases / "c.py").write_text("import time\ntime.sleep(60)")
    assert "longer than 1 s" in examine_in_process(cases / "c.py", 0, 1)["error"]


def test_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected case files"):
        list(examine_folder(tmp_path, 0, 1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["nowhere"], "found nothing at nowhere"), ([".", "--jobs", "0"], "--jobs of 1 or more"), ([".", "--limit", "0"], "--limit above 0")],
)
def test_refused(arguments: list[str], sentence: str) -> None:
    refused(goodfit("doctor", *arguments), 2, sentence)


@pytest.mark.parametrize(("text", "share"), [("15%", 0.15), ("0.2", 0.2), ("100 %", 1.0)])
def test_share(text: str, share: float) -> None:
    assert read_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "-1", "150%", "much"])
def test_wrong_share(text: str) -> None:
    with pytest.raises(UsageError, match="--budget as a share"):
        read_share(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training whose learning rate is far too low."""
    folder = tmp_path_factory.mktemp("doctor") / "run"
    changes = {"model": "mlp((16,))", "optimizer": "sgd(0.00001)", "batch_size": "32", "size": "8", "budget": "3 epochs"}
    assert train("digits", folder, **changes).code == 0
    return Run.open(folder)


def test_run_is_examined_and_reported(run: Run) -> None:
    before = {path.name: path.read_bytes() for path in run.path.glob("*.safetensors")}
    diagnosis = diagnose_run(run, SilentReporter())
    answer = json.loads((run.path / FINDINGS_FILE).read_text())
    assert set(answer) >= KEYS and answer["case"] == str(run.path)
    assert diagnosis.verdict.trial_steps == 0
    assert before == {path.name: path.read_bytes() for path in run.path.glob("*.safetensors")}
    assert 'id="doctor"' in render_report(run.path)


def test_remedy_is_tried_and_applied(run: Run) -> None:
    diagnosis = diagnose_run(run, SilentReporter())
    finding = Finding("lr_too_low", 0.9, "It hardly moves.", "Raise the rate.", {"optimizer": "sgd(0.1)"})
    verdict = Verdict("fault", "optimization", (finding,), True, 10, 0, 1.0)
    diagnosis = RunDiagnosis(verdict, diagnosis.prepared, diagnosis.planned_steps)
    remedy = try_remedy(diagnosis, SilentReporter(), 0.5)
    assert remedy is not None and remedy.with_it.validation_accuracy > remedy.without.validation_accuracy + 0.2
    assert "sgd(0.1)" in remedy.describe()
    assert patched_recipe(diagnosis).optimizer != diagnosis.prepared.recipe.optimizer
    assert next_free_folder(run).name == "run-fixed"


@pytest.mark.thorough
def test_nothing_to_apply(run: Run) -> None:
    diagnosis = diagnose_run(run, SilentReporter())
    nothing = RunDiagnosis(Verdict("healthy", None, (), False, 10, 0, 1.0), diagnosis.prepared, 10)
    assert choose_patch(nothing) == {} and try_remedy(nothing, SilentReporter(), 0.5) is None
    with pytest.raises(UsageError, match="nothing is applied"):
        patched_recipe(nothing)


def test_words_of_a_verdict() -> None:
    sure = Finding("lr_too_high", 0.95, "The loss rose to 21.", "Use 0.01.", {"optimizer": "sgd(0.01)"})
    maybe = Finding("no_warmup", 0.9, "It spiked.", "Warm up.")
    note = Finding("validation_too_small", 0.6, "There are 20.", "Use more.", is_material=False)
    fault = describe_verdict(Verdict("fault", "optimization", (sure, maybe, note), True, 50, 30, 2.0))
    assert fault[0].startswith("lr_too_high (optimization, 95 % sure)") and 'optimizer = "sgd(0.01)"' in fault[0]
    assert any(line.startswith("Note: validation_too_small") for line in fault)
    either = describe_verdict(Verdict("either", "optimization", (sure, maybe), True, 50, 0, 2.0))
    assert either[0] == "One of these:"
    assert "To tell lr_too_high from no_warmup: with no_warmup, the same rate learns if it rises over some steps." in either
    assert describe_verdict(Verdict("healthy", None, (note,), False, 50, 0, 2.0))[0].startswith("Healthy")
    unknown = describe_verdict(Verdict("unknown", "loop", (), True, 50, 0, 2.0, ("the data",)))
    assert "loop" in unknown[0] and "Ruled out: the data" in unknown


def test_train_with_the_doctor_is_bit_equal(tmp_path: Path) -> None:
    changes = {"model": "mlp((16,), drop=dropout(0.3))", "optimizer": "adam", "size": "8"}
    said = train("digits", tmp_path / "a", "--doctor", **changes)
    assert "The doctor found nothing" in said.err
    train("digits", tmp_path / "b", **changes)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_every_cause_is_documented_and_has_a_rule() -> None:
    page = Path("docs/doctor.md").read_text()
    for component, causes in BY_COMPONENT.items():
        for cause, sentence in causes.items():
            assert f"| {cause} | {component} | {sentence} |" in page
    assert {rule.cause for rule in RULES} == set(COMPONENT_OF)


# ---- runs that went wrong --------------------------------------------------------------------------------------------------------

SHORT = ("train", "digits", "--size", "8", "--schedule", "constant", "--threads", "1")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (
            ("--model", "linear", "--optimizer", "sgd(50, momentum=0.9)", "--limit", "40", "--epochs", "4"),
            0,
        ),  # fewer steps than are followed
        (("--model", "mlp", "--optimizer", "sgd(1e30)", "--epochs", "3"), 4),  # diverged
        (("--model", "mlp((64,))", "--optimizer", "sgd(0.00003)", "--epochs", "3"), 0),  # learned nothing, on soft labels
    ],
    ids=["short", "diverged", "slow"],
)
@pytest.mark.thorough
def test_a_run_that_went_wrong_is_never_called_healthy(options: tuple[str, ...], code: int, tmp_path: Path) -> None:
    assert goodfit(*SHORT, *options, "--out", tmp_path / "run").code == code
    for more in ((), ("--try",)):
        answer = json.loads(goodfit("doctor", tmp_path / "run", "--json", *more).out)
        assert answer["alarm"] and answer["verdict"] != "healthy", answer
        assert answer["causes"] or answer["evidence"]
        assert not [line for line in answer["ruled_out"] if "could not be tested" in line]
        assert "nan" not in json.dumps(answer).lower()
    assert "Healthy" not in goodfit("doctor", tmp_path / "run").out


def test_a_run_that_shows_its_images_smaller_at_first_is_examined(photos: Path, tmp_path: Path) -> None:
    said = train(photos, tmp_path / "run", model="convnet(4)", size="64", resolution="progressive", budget="4 epochs")
    assert said.code == 0, said.err
    assert "smaller" in said.err or "resolution" in (tmp_path / "run" / "recipe.toml").read_text()
    answer = json.loads(goodfit("doctor", tmp_path / "run", "--json").out)
    assert not [line for line in answer["ruled_out"] if "could not be tested" in line], answer


def test_what_could_not_be_tested_is_said() -> None:
    verdict = Verdict("healthy", None, (), False, 10, 0, 1.0, ("lr_too_low could not be tested: ValueError: no steps",))
    assert "Not known: lr_too_low could not be tested: ValueError: no steps" in describe_verdict(verdict)
