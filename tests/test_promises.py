"""The promises of a run, held with real trainings: the same again, killed and resumed, watched or not, the same predictions anywhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import goodfit
from goodfit.core.run import Run
from tests.support.runs import BASE, assert_equal_weights, recipe, train

PYTHON = [sys.executable, "-m", "goodfit"]


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
        "average": "swa",
    },
    "noise": {"model": "convnet(4, pool=fractional_max(1.5), drop=dropconnect(0.3, ramp=linear), act=prelu, init=lsuv)"},
}


def command(photos: Path, out: Path, changes: dict[str, str]) -> list[str]:
    options = [word for key, value in {**BASE, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
    return [*PYTHON, "train", str(photos), "--out", str(out), "--resume", "auto", *options]


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed_is_bit_equal(photos: Path, tmp_path: Path, name: str) -> None:
    changes = {**KILLED[name], "budget": "25 epochs", "save_every": "3 steps"}
    whole = train(photos, tmp_path / "whole", **changes)
    words = command(photos, tmp_path / "killed", changes)
    step = random.Random(name).randrange(5, 60)
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not any(int(p.stem) >= step for p in (tmp_path / "killed").glob("checkpoints/*.json")):
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    log = tmp_path / "killed" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"kind": "train", "st')  # a line torn by the kill
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    assert_equal_weights(whole.path, tmp_path / "killed")
    timeless = [[(row["step"], row["loss"], row["lr"]) for row in run.log("train")] for run in (whole, Run(tmp_path / "killed"))]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(("number", "code", "state"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_signals_save_and_go_on(photos: Path, tmp_path: Path, number: int, code: int, state: str) -> None:
    changes = {"budget": "40 epochs"}
    words = command(photos, tmp_path / "run", changes)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoints/*.json")):
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "--resume auto" in said.splitlines()[-1]
    assert "Traceback" not in said
    run = Run(tmp_path / "run")
    assert run.read("about.json")["state"] == state
    saved = max(int(p.stem) for p in run.checkpoints.glob("*.json"))
    assert saved == run.log("train")[-1]["step"]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
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
    done = subprocess.run(command(photos, run.path, {}), capture_output=True, text=True, check=True)
    assert f"The checkpoint of step {int(steps[-1].stem)} is damaged" in done.stderr
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


def test_predict_is_evaluate_from_anywhere_without_the_data(tmp_path: Path) -> None:
    """Another process, another folder, the data gone: the same pixels, probabilities within 1e-5, the same classes."""
    from tests.support.photos import make_photos

    photos = make_photos(tmp_path / "photos", side=37)
    run = train(photos, tmp_path / "run", size="16")
    scores = goodfit.evaluate(run.path)
    rows = [line.split(",") for line in (run.path / "splits.csv").read_text().splitlines()[1:]]
    names = [row[0] for row in rows if row[2] == "validation"]
    kept = tmp_path / "elsewhere" / "pictures"
    for name in names:
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photos / name, kept / name)
    from goodfit.recipe.source import open_images

    used = goodfit.Recipe.from_toml(run.path / "recipe.toml")
    data = open_images(used)
    classifier = goodfit.load(run)
    stored = data.pixels.read_exact(data.rows("validation")).numpy()
    assert np.array_equal(stored, np.stack([classifier.preprocess.decode(kept / name) for name in names]))
    expected = torch.cat([classifier.probabilities(torch.from_numpy(x)[None].permute(0, 3, 1, 2)) for x in stored])

    moved = shutil.move(run.path, tmp_path / "elsewhere" / "run")
    shutil.rmtree(photos)
    shutil.rmtree(os.environ["GOODFIT_CACHE"], ignore_errors=True)
    words = [*PYTHON, "predict", str(moved), *[str(kept / name) for name in names], "--json", "--top", "3"]
    said = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout)
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
        done = subprocess.run([*PYTHON, "evaluate", str(tmp_path / "run"), "--test", "--json"], capture_output=True, text=True, check=True)
        assert ("Warning: the test split" in done.stderr) == (opening == 2)
        assert {"accuracy", "loss", "balanced_accuracy", "interval", "images"} <= json.loads(done.stdout).keys()
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
    words = [*command(photos, tmp_path / "runs", {"budget": "2 epochs"}), "--seeds", "3", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert len(result["runs"]) == 3
    assert result["accuracy"] == pytest.approx(np.mean(result["accuracies"]))
    assert result["standard_error"] == pytest.approx(np.std(result["accuracies"], ddof=1) / 3**0.5)


def test_budget_in_minutes_ends_in_time_and_anneals(photos: Path, tmp_path: Path) -> None:
    started = time.time()
    run = train(photos, tmp_path / "run", budget="8 s", evaluate_every="0.2")
    rows = run.log("train")
    assert time.time() - started < 16
    assert rows[-1]["t"] > 0.9
    assert rows[-1]["lr"] < 0.05 * max(row["lr"] for row in rows)
    assert [row["t"] for row in rows] == sorted(row["t"] for row in rows)
