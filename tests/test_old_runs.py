"""Runs that Goodfit 0.1 left load, evaluate, predict, compare, render and go on, as then.

tests/data/runs-0.1.tar.gz holds what its commands wrote: `run` (a user's part, snapshots, an average, plateau under its old key,
two views, a temperature), `short` (a run to extend), an ensemble, a soup, folds, seeds and a search without checkpoints; and the
weights that `short` came to when 0.1 extended it.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import goodfit
from goodfit.core.errors import UsageError
from goodfit.core.run import Run
from goodfit.runs.resume import asked_values, refuse_changes
from tests.support.command import copied
from tests.support.command import goodfit as command
from tests.support.fake_run import Page

ARCHIVE = Path(__file__).parent / "data" / "runs-0.1.tar.gz"
MODELS = [
    "run", "short", "ensemble", "soup", "folds/fold-1", "folds/fold-2", "seeds/seed-0", "seeds/seed-1", "search/final/0000",
    "search/random/0000", "search/random/0001", "search/random/0002",
]  # fmt: skip
STUDIES = ["folds", "search"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders as they were, to read and to copy; the splits of folds lie where the recipes look for them."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for recipe in folder.glob("folds/*/recipe.toml"):
        recipe.write_text(recipe.read_text().replace("/home/someone", str(folder)))
    return folder


def read_predictions(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "predictions.npz") as file:
        return dict(file)


def test_the_archive_is_small_and_whole(old: Path) -> None:
    assert ARCHIVE.stat().st_size < 200_000
    assert {file.parent for name in ("model.safetensors", "ensemble.json") for file in old.rglob(name) if "members" not in file.parts} == {
        old / name for name in MODELS
    }


@pytest.mark.parametrize("name", MODELS)
def test_it_evaluates_to_the_scores_and_predictions_of_then(old: Path, tmp_path: Path, name: str) -> None:
    run = copied(old, tmp_path / "old") / name  # the whole, for an ensemble looks for its members' runs
    before, scores = read_predictions(run), json.loads((run / "scores.json").read_text())["validation"]
    written = (run / "predictions.npz").stat().st_mtime_ns
    done = command("evaluate", run, "--json", "--trust")  # parts of a user whose machine is not known
    assert done.code == 0, done.err
    assert done.err.count("has no checksum, as of runs of version 0.1") == (name not in ("ensemble", "soup")), (
        "which have the hashes of their members"
    )
    assert (run / "predictions.npz").stat().st_mtime_ns > written, "an ensemble reads in them which images it was scored on"
    found = json.loads(done.out)
    assert found["accuracy"] == scores["accuracy"]
    assert found["loss"] == pytest.approx(scores["loss"], rel=1e-4)
    after = read_predictions(run)
    assert after.keys() == before.keys() | {"own_name"}, "the file has its name since, by which it is not taken for another"
    assert (after["names"] == before["names"]).all() and (after["labels"] == before["labels"]).all()
    assert np.abs(after["probabilities"] - before["probabilities"]).max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_it_predicts_what_it_predicted(old: Path, name: str) -> None:
    expected = read_predictions(old / name)
    config = old / name / "config.json"
    temperature = json.loads(config.read_text()).get("temperature", 1.0) if config.is_file() else 1.0
    levels = load_digits().images[[int(image.split("#")[1]) for image in expected["names"]]]
    answers = goodfit.load(old / name).predict([np.rint(x * 255 / 16).astype(np.uint8) for x in levels], top=10)
    for answer, probabilities in zip(answers, expected["probabilities"] ** (1 / temperature), strict=True):
        by_class = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert [by_class[c] for c in expected["classes"]] == pytest.approx((probabilities / probabilities.sum()).tolist(), abs=1e-5)


@pytest.mark.parametrize("name", [*MODELS, *STUDIES])
def test_it_renders(old: Path, tmp_path: Path, name: str) -> None:
    folder = copied(old / name, tmp_path / Path(name).name)
    done = command("report", folder)
    assert done.code == 0, done.err
    text = Page((folder / "report.html").read_text()).visible()
    assert "Not readable there" not in text
    assert "accuracy" in text


def test_it_compares(old: Path) -> None:
    done = command("compare", old / "run", old / "short", old / "ensemble", "--json")
    assert done.code == 0, done.err
    assert "0.1" in done.out


def test_the_recipe_reads(old: Path) -> None:
    """Of every folder; plateau under its old key, and a part of the user's own."""
    for file in old.rglob("*.toml"):
        assert goodfit.Recipe.from_toml(file).data == "digits", file
    text = goodfit.Recipe.from_toml(old / "run" / "recipe.toml").to_toml()
    assert "plateau(0.1, patience=1, least=0.0, cooldown=0, lowest=0.0)" in text
    assert "negative(0.2)" in text


def test_a_finished_run_goes_on_to_the_weights_of_then(old: Path, tmp_path: Path) -> None:
    run = copied(old / "short", tmp_path / "short")
    options = {
        "size": "8", "limit": "8", "threads": "1", "device": "cpu", "precision": "fp32", "layout": "contiguous", "pieces": "1",
        "batch-size": "16", "evaluate-every": "1epoch", "workers": "1", "optimizer": "sgd(0.02)", "model": "linear",
        "budget": "4 epochs", "schedule": "constant", "augment": "none", "brake": "plateau(patience=1)", "seed": "1", "resume": "auto",
    }  # fmt: skip
    done = command("train", "digits", "--out", run, *(word for key, value in options.items() for word in (f"--{key}", value)))
    assert done.code == 0, done.err
    found, expected = load_file(run / "model.safetensors"), load_file(old / "short-extended.safetensors")
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert x.numpy() == pytest.approx(expected[name].numpy(), rel=1e-4, abs=1e-7), name
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) == 16, "it went on where it had stopped"


def test_a_soup_of_old_runs_is_made(old: Path, tmp_path: Path) -> None:
    """Its norms are computed anew by a training built from an old recipe, which lacks later fields."""
    done = command("ensemble", old / "seeds" / "seed-0", old / "seeds" / "seed-1", "--soup", "uniform", "--out", tmp_path / "soup")
    assert done.code == 0, done.err
    assert (tmp_path / "soup" / "model.safetensors").is_file()


def test_views_that_were_the_default_then_may_be_asked_for(old: Path, tmp_path: Path) -> None:
    about = json.loads((old / "short" / "about.json").read_text())
    assert about["asked"].get("views", "center") == "center" and "resolution" not in about["asked"]
    for views in (None, "center"):
        before = asked_values(about)
        assert before["views"] == "auto"
        run = Run(copied(old / "short", tmp_path / f"short-{views}"))
        own = {key: value for key, value in about["asked"].items() if key != "views"}
        refuse_changes(run, goodfit.Recipe().but(**own, **({"views": views} if views else {})))
    with pytest.raises(UsageError, match="another views"):
        refuse_changes(run, goodfit.Recipe().but(**own, views="flip_pair"))


def test_an_old_search_goes_on(old: Path, tmp_path: Path) -> None:
    """All its trials are done, so that it only says again what it found."""
    study = copied(old / "search", tmp_path / "search")
    before = json.loads((study / "results.json").read_text())
    done = command("search", "--resume", study, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["winner"] == before["winner"]
