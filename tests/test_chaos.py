"""Chaos: kills and full disks in the middle of any write, over all kinds of training; nothing is lost, and no traceback is shown."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from goodfit.core.checkpoint_files import last_good_step
from goodfit.core.run import Run, list_runs
from goodfit.recipe.parts import load_catalog
from tests.support.command import goodfit
from tests.support.runs import BASE, assert_equal_weights, train
from tests.support.writes import command_cut_at_operation, command_killed_at_write, fault_at_operation, fault_at_write, fill

WHOLE_BATCH = {"batch_size": "all", "augment": "none", "model": "linear", "average": "none"}
ONLY = {"newton": {**WHOLE_BATCH, "limit": "8"}, "bfgs": {**WHOLE_BATCH, "limit": "8"}, "lbfgs": WHOLE_BATCH}  # what these optimizers need
NOISES = {"dropout": "mlp((32,), drop=dropout(0.5))", "dropconnect": "convnet(4, drop=dropconnect(0.3))",
          "gaussian_noise": "mlp((32,), drop=gaussian_noise(0.3))", "stochastic_depth": "resnet(20, drop=stochastic_depth(0.5))",
          "fractional_max": "convnet(4, pool=fractional_max(1.5))"}  # fmt: skip

KINDS: dict[str, dict[str, str]] = {
    **{f"optimizer {name}": {"optimizer": name, **ONLY.get(name, {})} for name in load_catalog().kinds["optimizer"]},
    **{f"average {name}": {"average": name} for name in load_catalog().kinds["average"] if name != "wise"},
    **{f"noise {name}": {"model": model} for name, model in NOISES.items()},
    **{f"storage {name}": {"storage": name} for name in ("raw", "jpeg", "files")},
    "breaking down": {"model": "mlp((32,))", "optimizer": "sgd(8)", "schedule": "warmup(1.0)", "augment": "none"},
    "resolution": {"resolution": "progressive(0.9, start=0.5)"},
    "sampler": {"sampler": "balanced"},
    "snapshots": {"schedule": "sgdr(2, growth=1)", "snapshots": "2"},
    "plateau": {"plateau": "plateau(patience=1)", "stop": "patience(2)", "optimizer": "sgd(0.5)"},
    "augment": {"augment": "flip(alternate=True) | rotate(10) | elastic(p=0.3) | ramp(rand_augment) | noise | cutmix", "pieces": "2"},
    "trainable": {"trainable": "head(0.4) | all"},
    "source": {"from": "SOURCE", "average": "wise"},
}
OFTEN = ("storage jpeg",)  # the default run's share; test_promises.py kills a training at a step


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to start from."""
    return train(photos, tmp_path_factory.mktemp("runs") / "source").path


def words_of(data: Path, out: Path, changes: dict[str, str]) -> list[str]:
    options = [word for key, value in {**BASE, "budget": "3 epochs", "save_every": "2 steps", **changes}.items()
               for word in (f"--{key.replace('_', '-')}", value)]  # fmt: skip
    return ["train", str(data), "--out", str(out), "--resume", "auto", *options]


def assert_same_story(whole: Path, other: Path) -> None:
    """The weights, and every step of the log once."""
    assert_equal_weights(whole, other)
    told = [[(row["step"], row["loss"], row["lr"]) for row in Run(path).log("train")] for path in (whole, other)]
    assert told[0] == told[1]
    assert Run(other).read("about.json")["state"] in ("finished", "stopped early")
    assert (other / "report.html").is_file() and not list(other.rglob("*.partial"))


def prune(folder: Path) -> None:
    """Prune the runs of a folder; those that have a good checkpoint stay."""
    good = {run.path for run in list_runs(folder) if last_good_step(run.checkpoints) is not None}
    folder.mkdir(exist_ok=True)
    assert goodfit("runs", folder, "--prune", "--yes").code == 0
    assert good <= {run.path for run in list_runs(folder)}


@pytest.mark.parametrize("kind", [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def test_killed_in_the_middle_of_a_write(kind: str, source: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training is killed three times on its way, at writes drawn by its name."""
    changes = {key: str(source) if value == "SOURCE" else value for key, value in KINDS[kind].items()}
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "whole cache"))
    with fault_at_write(0, fill) as writes:
        said = goodfit(*words_of(photos, tmp_path / "whole", changes))
    assert said.code == 0, said.err
    rng, kills = random.Random(kind), 0
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    words = words_of(photos, tmp_path / "killed", changes)
    for n in (rng.randrange(1, 6), rng.randrange(6, len(writes) // 2), rng.randrange(1, len(writes) // 2)):
        kills += (code := command_killed_at_write(n, tmp_path / f"kill {n}", *words)) == -9
        assert code in (-9, 0), (tmp_path / f"kill {n}" / "stderr.txt").read_text()
        prune(tmp_path)
    said = goodfit(*words)
    assert said.code == 0 and "Traceback" not in said.err, said.err
    assert_same_story(tmp_path / "whole", tmp_path / "killed")
    assert kills
    print(f"{kind}: {kills} kills, {len(writes)} writes")


MINE = """
import dataclasses
from goodfit.core.contracts import Augment

@dataclasses.dataclass(frozen=True)
class Darker(Augment):
    '''Darkens.'''

    def __call__(self, batch, chance, t):
        return batch.but(images=batch.images // 2)
"""
CUTS = 3  # by default


@pytest.mark.parametrize("every", [0, pytest.param(4, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))])
def test_the_power_is_cut_at_a_file_operation(photos: Path, tmp_path: Path, every: int) -> None:
    """Of each file is left what was synced: the same command ends with the weights and the log of the whole run."""
    (tmp_path / "mine.py").write_text(MINE)
    changes = {"augment": "flip | darker", "schedule": "sgdr(2, growth=1)", "snapshots": "2", "use": str(tmp_path / "mine.py")}
    with fault_at_operation(0, fill) as operations:
        assert goodfit(*words_of(photos, tmp_path / "whole", changes)).code == 0
    places = range(1, len(operations), every) if every else random.Random(2).sample(range(1, len(operations)), CUTS)
    lost = 0
    for n in places:
        out = tmp_path / f"cut {n}"
        words = words_of(photos, out, changes)
        assert command_cut_at_operation(n, tmp_path / f"log {n}", out, *words) in (-9, 0), n
        said = goodfit(*words)
        assert said.code == 0 and "Traceback" not in said.err, (n, said)
        lost += "it lacks" in said.err
        assert_same_story(tmp_path / "whole", out)
    print(f"{len(places)} power cuts at {len(operations)} file operations: all went on to the same weights, {lost} lost rows")
    assert not lost


@pytest.mark.slow
def test_folds_killed_in_the_middle_of_writes(photos: Path, tmp_path: Path) -> None:
    words = [[*words_of(photos, tmp_path / name, {}), "--folds", "3"] for name in ("whole", "killed")]
    with fault_at_write(0, fill) as writes:
        assert goodfit(*words[0]).code == 0
    kills = [
        command_killed_at_write(n, tmp_path / f"kill {n}", *words[1]) for n in (7, len(writes) // 4, len(writes) // 3, len(writes) // 4)
    ]
    assert kills.count(-9) > 2 and goodfit(*words[1]).code == 0
    for k in (1, 2, 3):
        assert_same_story(tmp_path / "whole" / f"fold-{k}", tmp_path / "killed" / f"fold-{k}")
    accuracies = [json.loads((tmp_path / name / "folds.json").read_text())["accuracy"] for name in ("whole", "killed")]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
def test_a_search_killed_in_the_middle_of_writes(photos: Path, tmp_path: Path) -> None:
    base = {**BASE, "model": "linear", "average": "none"}
    del base["budget"]
    options = [word for key, value in base.items() for word in (f"--{key.replace('_', '-')}", value)]
    short = ["--trials", "4", "--each", "1 epoch", "--full", "2 epochs", "--keep", "1", "--seeds", "1", "--space", "lr=log(0.001, 0.1)"]
    with fault_at_write(0, fill) as writes:
        assert goodfit("search", photos, "--out", tmp_path / "whole", *options, *short).code == 0
    assert command_killed_at_write(9, tmp_path / "kill", "search", photos, "--out", tmp_path / "killed", *options, *short) == -9
    for n in (len(writes) // 4, len(writes) // 3):
        assert command_killed_at_write(n, tmp_path / f"kill {n}", "search", "--resume", tmp_path / "killed") == -9
    said = goodfit("search", "--resume", tmp_path / "killed")
    assert said.code == 0 and "Traceback" not in said.err, said.err
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed")]
    assert [(row["run"], row["values"], row["value"]) for row in found[0]["trials"]] == [
        (row["run"], row["values"], row["value"]) for row in found[1]["trials"]
    ]


def fill_the_disk(n: int, whole: Path, photos: Path, folder: Path) -> str:
    """Train with a full disk at the n-th write, then with space: the end is that of the whole run. Returns what could not be written."""
    words = words_of(photos, folder / "run", {})
    with fault_at_write(n, fill) as writes:
        said = goodfit(*words)
    assert "Traceback" not in said.err, said.err
    if said.code == 0:
        assert_equal_weights(whole, folder / "run")
    else:
        assert said.code == 1 and ("No space" in said.sentence), said
    if said.code:
        prune(folder)
    assert goodfit(*words).code == 0
    assert_same_story(whole, folder / "run")
    return writes.names[n - 1]


def test_the_disk_is_full_at_any_write(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = full_disk_trials(photos, tmp_path, monkeypatch, 6)
    print(f"{len(tried)} writes failed: {tried}")


@pytest.mark.slow
def test_the_disk_is_full_at_every_write(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = full_disk_trials(photos, tmp_path, monkeypatch, 0)
    print(f"{len(tried)} writes failed: {tried}")


def full_disk_trials(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> list[str]:
    """Fill the disk at some writes of a training, evenly spread (0: at all of them)."""
    monkeypatch.setenv("GOODFIT_CACHE", str(folder / "cache"))
    with fault_at_write(0, fill) as writes:
        assert goodfit(*words_of(photos, folder / "whole", {})).code == 0
    step = max(1, len(writes) // most) if most else 1
    tried = []
    for n in range(1, len(writes) + 1, step):
        shutil.rmtree(folder / "cache")
        tried.append(fill_the_disk(n, folder / "whole", photos, folder / f"full {n}"))
    return tried
