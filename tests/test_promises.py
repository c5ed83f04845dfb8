"""The promises of a run, held with real trainings: the same again, killed and resumed, watched or not, the same predictions anywhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import goodfit
from goodfit.core.errors import Terminated
from goodfit.core.run import Run
from goodfit.predict.predictor import load_classifier
from tests.support.command import goodfit as command
from tests.support.photos import make_photos
from tests.support.predict import center_probabilities
from tests.support.process import start_command
from tests.support.runs import BASE, assert_equal_weights, recipe, train


@pytest.fixture(scope="module")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(photos, tmp_path_factory.mktemp("runs") / "reference").path


def test_rerun_is_bit_equal(photos: Path, reference: Path, tmp_path: Path) -> None:
    assert_equal_weights(reference, train(photos, tmp_path / "again").path)


def test_another_seed_differs(photos: Path, reference: Path, tmp_path: Path) -> None:
    other = load_file(train(photos, tmp_path / "other", seed="1").path / "model.safetensors")
    assert any(not torch.equal(x, other[name]) for name, x in load_file(reference / "model.safetensors").items())


def test_saved_recipe_trains_the_same(reference: Path, tmp_path: Path) -> None:
    again = goodfit.train(recipe=goodfit.Recipe.from_toml(reference / "recipe.toml"), out=tmp_path / "again", quiet=True)
    assert_equal_weights(reference, again.path)


@pytest.mark.parametrize("workers", ["0", "4"])
def test_workers_do_not_matter(photos: Path, reference: Path, tmp_path: Path, workers: str) -> None:
    assert_equal_weights(reference, train(photos, tmp_path / "run", workers=workers).path)


def test_probes_do_not_matter(photos: Path, reference: Path, tmp_path: Path) -> None:
    watched, blind = train(photos, tmp_path / "on", probes="update_ratio(every=1)"), train(photos, tmp_path / "off", probes="none")
    assert_equal_weights(reference, watched.path)
    assert_equal_weights(reference, blind.path)
    assert all("update_ratio" in row for row in watched.log("train"))
    assert not any("update_ratio" in row for row in blind.log("train"))


KILLED = {
    "sgd": {},
    "adam": {"optimizer": "adam(0.003)", "average": "polyak(0.3)", "augment": "flip | crop(2) | cutmix | smooth(0.1)"},
    "dropout": {"model": "mlp((32,), drop=dropout(0.5))", "clip": "1.0", "pieces": "2", "average": "none"},
    "augment": {
        "augment": "flip(alternate=True) | rotate(10) | lens | elastic(p=0.3) | pca | ramp(rand_augment) | noise | cutmix",
        "pieces": "2",
        "average": "swa(0.3)",
    },
    "breaking down": {"model": "mlp((32,))", "optimizer": "sgd(8)", "schedule": "warmup(1.0)", "augment": "none", "average": "ema(0.5)"},
    "growing": {"model": "convnet(4)", "resolution": "progressive(0.9, start=0.5)"},
    "noise": {"model": "convnet(4, pool=fractional_max(1.5), drop=dropconnect(0.3, ramp=linear), act=prelu, init=lsuv)"},
}


def words_for(photos: Path, out: Path, changes: dict[str, str]) -> list[str]:
    """The words of the command that trains, or goes on with, what `train` of these changes trains."""
    options = [word for key, value in {**BASE, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
    return ["train", str(photos), "--out", str(out), "--resume", "auto", *options]


def assert_equal_runs(whole: Run, other: Run) -> None:
    assert_equal_weights(whole.path, other.path)
    timeless = [[(row["step"], row["loss"], row["lr"]) for row in run.log("train")] for run in (whole, other)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("name", [name if name == "adam" else pytest.param(name, marks=pytest.mark.slow) for name in KILLED])
def test_killed_and_resumed_is_bit_equal(photos: Path, tmp_path: Path, name: str) -> None:
    changes = {**KILLED[name], "budget": "16 epochs", "save_every": "3 steps"}
    whole = train(photos, tmp_path / "whole", **changes)
    killed = Run(tmp_path / "killed")
    words = words_for(photos, killed.path, changes)
    step = random.Random(name).randrange(5, 30)
    process = start_command(tmp_path / "first", *words)
    try:
        while process.poll() is None and not any(int(p.stem) >= step for p in killed.path.glob("checkpoints/*.json")):
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.kill()
    with (killed.path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line torn by the kill
    assert not (killed.path / "model.safetensors").exists()
    again = start_command(tmp_path / "second", *words)
    assert again.wait() == 0, again.err
    assert_equal_runs(whole, killed)


@pytest.mark.parametrize("name", KILLED)
def test_stopped_and_resumed_is_bit_equal(photos: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above without another process: a signal comes while a line of the log is written."""
    changes = {**KILLED[name], "budget": "3 epochs", "save_every": "2 steps"}
    whole = train(photos, tmp_path / "whole", **changes)
    step, append = random.Random(name).randrange(2, 7), Run.append

    def append_and_stop(run: Run, lines: list[dict[str, Any]]) -> None:
        append(run, lines)
        if any(line.get("step", 0) >= step for line in lines):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(Run, "append", append_and_stop)
        train(photos, tmp_path / "stopped", **changes)
    stopped = Run(tmp_path / "stopped")
    assert stopped.read("about.json")["state"] == "terminated"
    assert step <= stopped.log("train")[-1]["step"] < 9
    assert_equal_runs(whole, goodfit.train(photos, recipe(**changes), out=stopped.path, resume="auto", quiet=True))


@pytest.mark.parametrize(("number", "code", "state"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_signals_save_and_go_on(photos: Path, tmp_path: Path, number: int, code: int, state: str) -> None:
    changes = {"budget": "15 epochs"}
    words = words_for(photos, tmp_path / "run", changes)
    process = start_command(tmp_path / "first", *words)
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoints/*.json")):
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait() == code
    assert "--resume auto" in process.err.splitlines()[-1]
    assert "Traceback" not in process.err
    run = Run(tmp_path / "run")
    assert run.read("about.json")["state"] == state
    saved = max(int(p.stem) for p in run.checkpoints.glob("*.json"))
    assert saved == run.log("train")[-1]["step"]
    assert command(*words).code == 0
    assert_equal_weights(train(photos, tmp_path / "whole", **changes).path, run.path)


def test_damaged_last_checkpoint_falls_back(photos: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    run = Run(tmp_path / "run")
    steps = sorted(run.checkpoints.glob("*.safetensors"))
    assert len(steps) >= 2
    damaged = bytearray(steps[-1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    steps[-1].write_bytes(damaged)
    run.update("about.json", {"state": "running"})
    done = command(*words_for(photos, run.path, {}))
    assert done.code == 0
    assert f"The checkpoint of step {int(steps[-1].stem)} is damaged" in done.err
    assert_equal_weights(reference, run.path)


def test_finished_run_is_extended(photos: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    run = goodfit.train(photos, recipe(budget="6 epochs"), out=tmp_path / "run", resume="auto", quiet=True)
    steps = [row["step"] for row in run.log("train")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == len(Run(reference).log("train")) * 6 // 4


def test_resume_refuses_another_recipe(photos: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    with pytest.raises(goodfit.core.errors.UsageError, match=r"another optimizer; on a resume only budget, .* may change"):
        goodfit.train(photos, recipe(optimizer="sgd(0.1)"), out=tmp_path / "run", resume="auto", quiet=True)


def test_resume_without_out_takes_the_newest_unfinished_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = goodfit.train(photos, recipe(), quiet=True)
    assert (tmp_path / "runs" / "latest").resolve() == first.path.resolve()
    finished = goodfit.train(photos, recipe(), resume="auto", quiet=True)
    assert finished.path != first.path, "a finished run is not gone on with"
    finished.update("about.json", {"state": "running"})
    assert goodfit.train(photos, recipe(), resume="auto", quiet=True).path == finished.path


def test_predict_is_evaluate_from_anywhere_without_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process, another folder, the data gone: the same pixels, probabilities within 1e-5, the same classes."""
    photos = make_photos(tmp_path / "photos", side=37)
    run = train(photos, tmp_path / "run", size="16")
    scores = goodfit.evaluate(run.path)
    rows = [line.split(",") for line in (run.path / "splits.csv").read_text().splitlines()[1:]]
    names = [row[0] for row in rows if row[2] == "validation"]
    kept = tmp_path / "elsewhere" / "pictures"
    for name in names:
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photos / name, kept / name)
    used = goodfit.Recipe.from_toml(run.path / "recipe.toml")
    data = goodfit.open_images(used)
    classifier = load_classifier(run.path)
    stored = data.pixels.read_exact(data.rows("validation")).numpy()
    assert np.array_equal(stored, np.stack([classifier.preprocess.decode(kept / name) for name in names]))
    expected = torch.cat([center_probabilities(classifier, torch.from_numpy(x)[None].permute(0, 3, 1, 2)) for x in stored])

    moved = shutil.move(run.path, tmp_path / "elsewhere" / "run")
    shutil.rmtree(photos)
    shutil.rmtree(os.environ["GOODFIT_CACHE"], ignore_errors=True)
    monkeypatch.chdir("/")
    words = ["predict", str(moved), *[str(kept / name) for name in names], "--json", "--top", "3"]
    done = start_command(tmp_path / "predict", *words)
    assert done.wait() == 0
    said = json.loads(done.out)
    right = 0
    for name, row, p in zip(names, said, expected, strict=True):
        assert row["name"] == str(kept / name)
        there = dict(zip(row["classes"], row["probabilities"], strict=True))
        assert np.allclose([there[c] for c in classifier.classes], p.numpy(), atol=1e-5)
        right += row["classes"][0] == Path(name).parent.name
    assert right / len(names) == pytest.approx(scores["accuracy"])


@pytest.mark.item("S004")
def test_opening_the_test_split_is_logged_and_a_second_one_warned_of(photos: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    assert Run(tmp_path / "run").read("about.json")["openings"] == []
    for opening in (1, 2):
        done = command("evaluate", tmp_path / "run", "--test", "--json")
        assert done.code == 0
        assert ("Warning: the test split" in done.err) == (opening == 2)
        assert {"accuracy", "loss", "balanced_accuracy", "interval", "images"} <= json.loads(done.out).keys()
        assert len(Run(tmp_path / "run").read("about.json")["openings"]) == opening
    assert "test" in Run(tmp_path / "run").read("scores.json")


THEIRS = '''
import dataclasses
import torch
from goodfit.core.contracts import Augment, Model

@dataclasses.dataclass(frozen=True)
class Darken(Augment):
    """Divides the brightness."""
    by: float = 2.0
    def __call__(self, batch, chance, t):
        images = batch.images.float() / (255 if batch.images.dtype == torch.uint8 else 1)
        return batch.but(images=images / self.by)

@dataclasses.dataclass(frozen=True)
class Tiny(Model):
    """One hidden layer."""
    hidden: int = 8
    def __call__(self, classes, channels, size):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size[0] * size[1], self.hidden), torch.nn.ReLU(),
                                   torch.nn.Linear(self.hidden, classes))
'''


def test_a_part_in_the_users_file_works_everywhere(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(THEIRS)
    changes = {"model": "tiny(hidden=6)", "augment": "flip | darken(by=1.5)", "use": f"({str(tmp_path / 'mine.py')!r},)"}
    run = train(photos, tmp_path / "run", **changes)
    saved = goodfit.Recipe.from_toml(run.path / "recipe.toml")
    assert saved.model == "tiny(6)" and saved.augment.startswith("flip(0.5") and saved.augment.endswith(" | darken(1.5)")
    assert len(run.read("about.json")["use"]["mine.py"]) == 64
    again = goodfit.train(recipe=saved, out=tmp_path / "again", quiet=True)
    assert_equal_weights(run.path, again.path)
    (tmp_path / "mine.py").unlink()
    assert goodfit.load(run).predict(next((photos / "red").iterdir()))[0].classes


def test_dotted_names_and_torch_optimizers(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirpkg").mkdir()
    (tmp_path / "theirpkg" / "nets.py").write_text(
        "import torch\ndef flat(classes, channels, size, hidden=4):\n"
        "    flat = torch.nn.Linear(channels * size[0] * size[1], hidden)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), flat, torch.nn.Linear(hidden, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = train(photos, tmp_path / "run", model="theirpkg.nets.flat(hidden=5)", optimizer="torch.optim.Adadelta(lr=0.5)")
    assert load_file(run.path / "model.safetensors")["1.weight"].shape == (5, 16 * 16 * 3)
    assert run.log("train")[0]["lr"] < run.log("train")[4]["lr"] <= 0.5


def test_seeds_report_mean_and_standard_error(photos: Path, tmp_path: Path) -> None:
    done = command(*words_for(photos, tmp_path / "runs", {"budget": "2 epochs"}), "--seeds", "3", "--json")
    result = json.loads(done.out)
    assert len(result["runs"]) == 3
    assert result["accuracy"] == pytest.approx(np.mean(result["accuracies"]))
    assert result["standard_error"] == pytest.approx(np.std(result["accuracies"], ddof=1) / 3**0.5)


def test_budget_in_minutes_ends_in_time_and_anneals(photos: Path, tmp_path: Path) -> None:
    started = time.time()
    run = train(photos, tmp_path / "run", budget="4 s", evaluate_every="0.2")
    rows = run.log("train")
    assert time.time() - started < 12
    assert rows[-1]["t"] > 0.9
    assert rows[-1]["lr"] < 0.05 * max(row["lr"] for row in rows)
    assert [row["t"] for row in rows] == sorted(row["t"] for row in rows)
