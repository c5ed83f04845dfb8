"""Ensembles: averages, greedy selection and soups against plain NumPy, snapshots at the minima of the rate, and the folder that is made."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import goodfit
from goodfit.core.catalog import Catalog
from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.predictions import Predictions
from goodfit.core.progress import Length, Lengths
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.models.weights.saved import write_config
from goodfit.predict.predictor import load_predictor
from goodfit.schedules.compose import ComposedSchedule, compose
from goodfit.study.ensemble.assembly import make_ensemble
from goodfit.study.ensemble.candidates import align_predictions, find_candidates
from goodfit.study.ensemble.selection import average_probabilities, greedy_bag, greedy_soup, score
from goodfit.study.ensemble.soup import average_weights
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.snapshots import Snapshots, record_snapshot, snapshot_points
from goodfit.training.state import State
from tests.support.command import copied, refused, train
from tests.support.command import goodfit as command
from tests.support.loop import net as plain_net
from tests.support.loop import noisy_digits, plan, sgd
from tests.support.loop import run as fitted

CATALOG = Catalog(["goodfit.schedules", "goodfit.training"])
NORMED = {"model": "convnet(8)", "budget": "3 epochs", "optimizer": "sgd(0.05, momentum=0.9)", "schedule": "sgdr(3, growth=1)"}


def schedule(text: str) -> ComposedSchedule:
    return compose(CATALOG.make(text, "schedule"))


# ---- averages and choices ----------------------------------------------------------------------------------------------------------


def answers(models: int, images: int, classes: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Probabilities of models that are right more often than not, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    scores = rng.normal(size=(models, images, classes)) + 1.2 * np.eye(classes)[labels]
    shares = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    return list(shares.astype(np.float32)), labels


def naive(shares: list[np.ndarray], labels: np.ndarray, bag: tuple[int, ...]) -> tuple[float, float]:
    """(accuracy, -log loss) of the plain mean of a bag's probabilities, an image at a time in float64."""
    right, logs = 0, 0.0
    for i, label in enumerate(labels):
        mean = sum(np.float64(shares[m][i]) for m in bag) / len(bag)
        right += int(np.argmax(mean)) == label
        logs += float(np.log(mean[label]))
    return right / len(labels), logs / len(labels)


def test_the_average_is_the_weighted_mean_in_float64() -> None:
    shares, labels = answers(4, 30, 5)
    weights = [0.5, 0.0, 0.2, 0.3]
    expected = np.einsum("m,mnk->nk", np.array(weights), np.stack(shares).astype(np.float64))
    assert np.abs(average_probabilities(shares, weights) - expected).max() < 1e-15
    assert score(average_probabilities(shares, [0.25] * 4), labels) == pytest.approx(naive(shares, labels, (0, 1, 2, 3)), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_selection_is_what_brute_force_finds(seed: int) -> None:
    """Each model it adds is the best of all that could be added, and of the bags on the way it keeps the best, the smallest of equals."""
    shares, labels = answers(4, 24, 3, seed)
    bags: list[tuple[int, ...]] = [()]
    for _ in range(5):
        bags.append((*bags[-1], max(range(4), key=lambda m: (*naive(shares, labels, (*bags[-1], m)), -m))))
    best = max(bags[1:], key=lambda bag: (*(round(x, 12) for x in naive(shares, labels, bag)), -len(bag)))
    assert greedy_bag(shares, labels, rounds=5) == [best.count(m) for m in range(4)]
    found = naive(shares, labels, best)
    every = [bag for n in range(1, 6) for bag in itertools.combinations_with_replacement(range(4), n)]
    assert max(naive(shares, labels, (m,)) for m in range(4)) <= found <= max(naive(shares, labels, bag) for bag in every)


@pytest.mark.item("S135")
def test_greedy_selection_takes_what_helps_and_leaves_what_harms() -> None:
    shares, labels = answers(3, 400, 4, seed=1)
    useless = np.full_like(shares[0], 0.25)
    wrong = np.eye(4, dtype=np.float32)[(labels + 1) % 4]
    counts = greedy_bag([*shares, useless, wrong], labels)
    assert counts[4] == 0
    assert sum(n > 0 for n in counts[:3]) >= 2
    chosen = score(average_probabilities([*shares, useless, wrong], [n / sum(counts) for n in counts]), labels)
    assert chosen > max(score(one.astype(np.float64), labels) for one in shares)


def test_a_greedy_soup_stirs_in_what_does_not_harm() -> None:
    scores = {(2,): 0.7, (2, 0): 0.6, (2, 1): 0.7, (2, 1, 3): 0.8}
    asked: list[tuple[int, ...]] = []

    def score_of(chosen: list[int]) -> tuple[float, float]:
        asked.append(tuple(chosen))
        return scores[tuple(chosen)], 0.0

    assert greedy_soup([2, 0, 1, 3], score_of) == [2, 1, 3]
    assert asked == list(scores)


def test_a_blend_is_the_mean_and_one_of_identical_models_is_the_model() -> None:
    torch.manual_seed(0)
    states = [{"w": torch.randn(5, 3), "n": torch.tensor(i + 4)} for i in range(3)]
    before = [x["w"].clone() for x in states]
    expected = np.mean([x["w"].numpy().astype(np.float64) for x in states], axis=0)
    found = average_weights(states)
    assert np.abs(found["w"].numpy() - expected).max() < 1e-7
    assert found["n"] == 4
    assert all(torch.equal(a, b["w"]) for a, b in zip(before, states, strict=True)), "the ingredients stay as they are"
    same = average_weights([states[0]] * 7)
    assert all(torch.equal(same[name], states[0][name]) for name in same)
    assert average_weights([{"w": torch.ones(2, dtype=torch.bfloat16)}])["w"].dtype == torch.bfloat16


# ---- snapshots ---------------------------------------------------------------------------------------------------------------------


def test_points_are_the_ends_of_cycles() -> None:
    assert snapshot_points(0, (0.5, 1.0)) == ()
    assert snapshot_points("all", (0.2, 0.6, 1.0)) == (0.2, 0.6, 1.0)
    assert snapshot_points(2, (0.2, 0.6, 1.0)) == (0.6, 1.0)
    assert snapshot_points(4, ()) == pytest.approx((0.25, 0.5, 0.75, 1.0))
    with pytest.raises(UsageError, match="Expected 4 cycles for as many snapshots, but the schedule has 3"):
        snapshot_points(4, (0.2, 0.6, 1.0))
    with pytest.raises(UsageError, match="a schedule with cycles"):
        snapshot_points("all", ())


def keeping(folder: Path) -> Snapshots:
    return Snapshots(Checkpoints(folder / "checkpoints"), folder / "snapshots")


def files(folder: Path) -> dict[int, bytes]:
    return {int(file.stem): file.read_bytes() for file in sorted((folder / "snapshots").glob("*.safetensors"))}


@pytest.mark.item("S124")
@pytest.mark.parametrize(("text", "steps"), [("cyclic(0.25)", [5, 10, 15, 20]), ("sgdr(2)", [7, 20]), ("sgdr(3, growth=1)", [7, 14, 20])])
def test_snapshots_are_the_weights_where_the_rate_is_lowest(text: str, steps: list[int], tmp_path: Path) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    state, used = sgd(plain_net()), schedule(text)

    def evaluate(model: nn.Module, is_last: bool) -> dict[str, Any]:
        seen[state.step] = {name: x.clone() for name, x in model.state_dict().items()}
        return {"score": 0.0}

    taken = snapshot_points("all", used.cycle_ends())
    rows = fitted(state, plan(every="1 step", schedule=used, snapshots=taken, evaluate=evaluate), save=keeping(tmp_path).save)
    assert list(files(tmp_path)) == state.snapshots == steps
    for step in steps:
        kept = load_file(tmp_path / "snapshots" / f"{step:08d}.safetensors")
        assert kept.keys() == seen[step].keys()
        assert all(torch.equal(kept[name], x) for name, x in seen[step].items())
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    for step in steps[:-1]:
        assert int(np.argmin(rates[step - 3 : step + 3])) in (2, 3), "the lowest rate is that of the step before or after"


@pytest.mark.parametrize("at", [3, 5, 6, 13])
def test_a_killed_training_has_the_snapshots_of_one_never_killed(at: int, tmp_path: Path) -> None:
    def begun() -> State:
        return sgd(plain_net())

    used = plan(schedule=schedule("cyclic(0.25)"), snapshots=(0.25, 0.5, 0.75, 1.0))
    fitted(begun(), used, save=keeping(tmp_path / "whole").save)
    state, shots = begun(), keeping(tmp_path / "killed")
    fitted(state, used, save=shots.save, halt=lambda: state.step >= at)
    state = begun()
    shots.checkpoints.restore(state)
    fitted(state, used, save=shots.save)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_longer_budget_takes_its_own_snapshots(tmp_path: Path) -> None:
    used, shots = schedule("cyclic(0.25)"), keeping(tmp_path)
    fitted(sgd(plain_net()), plan("4 epochs", schedule=used, snapshots=used.cycle_ends()), save=shots.save)
    state = sgd(plain_net())
    shots.checkpoints.restore(state)
    fitted(state, plan("8 epochs", schedule=used, snapshots=used.cycle_ends()), save=shots.save)
    assert state.snapshots == [5, 10, 15, 20, 30, 40]
    (tmp_path / "snapshots" / "00000007.safetensors").write_bytes(b"of another time")
    shots.prune(state)
    assert list(files(tmp_path)) == state.snapshots


@pytest.mark.item("S124", "S135")
def test_the_ensemble_of_snapshots_is_better_than_the_best_of_them(tmp_path: Path) -> None:
    """On digits with a fifth of the labels wrong, mean over three seeds; the best single one is even chosen by the test images."""
    source, x, y = noisy_digits()
    used, gains = schedule("sgdr(5, growth=1)"), []
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        state = State.start(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        lengths = Lengths(30, 20, Length.read("300 steps"))
        fitted(
            state,
            plan(lengths=lengths, schedule=used, snapshots=snapshot_points(4, used.cycle_ends()), seed=seed),
            source,
            save=keeping(tmp_path).save,
        )
        assert state.snapshots == [120, 180, 240, 300]
        shares = []
        for step in state.snapshots:
            model.load_state_dict(load_file(keeping(tmp_path).path(step)))
            with torch.no_grad():
                shares.append(model(x).softmax(1).numpy())
        single = max(score(one.astype(np.float64), y.numpy())[0] for one in shares)
        gains.append(score(average_probabilities(shares, [0.25] * 4), y.numpy())[0] - single)
    assert np.mean(gains) > 0.002


# ---- the folder ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that differ in their seed, one of another size, one with snapshots and batch norm, and one of other splits."""
    root = tmp_path_factory.mktemp("ensembles")
    for seed in range(3):
        assert train(photos, root / f"seed-{seed}", seed=str(seed)).code == 0
    assert train(photos, root / "small", size="12").code == 0
    assert train(photos, root / "cyclic", snapshots="all", **NORMED).code == 0
    assert train(photos, root / "elsewhere", split_seed="5").code == 0
    return root


def seeds(runs: Path) -> list[Path]:
    return [runs / f"seed-{seed}" for seed in range(3)]


def everything(classifier: Any, files: list[Path]) -> np.ndarray:
    """Probabilities [n, K] of a classifier, in the order of its classes."""
    found = classifier.predict(files, top=len(classifier.classes))
    return np.array([[dict(zip(p.classes, p.probabilities, strict=True))[name] for name in classifier.classes] for p in found])


def images(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))[::9]


@pytest.mark.item("S135")
def test_the_ensemble_of_runs_predicts_the_mean_of_their_probabilities(runs: Path, photos: Path, tmp_path: Path) -> None:
    """Each member by its own preprocessing: one of them sees smaller images."""
    members = [*seeds(runs), runs / "small"]
    made = make_ensemble(members, tmp_path / "made")
    found = goodfit.load(made)
    expected = np.mean([everything(load_predictor(path), images(photos)) for path in members], axis=0)
    assert np.abs(everything(found, images(photos)) - expected).max() < 1e-6
    said = json.loads(command("predict", made.path, *images(photos), "--json").out)
    assert [row["classes"][0] for row in said] == [found.classes[k] for k in expected.argmax(1)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    one, other = found.predict([broken, images(photos)[0]])
    assert one.problem
    assert other.classes
    assert np.abs(everything(load_predictor(made.path, views="flip_pair"), images(photos)) - expected).max() > 1e-6
    content = made.read("ensemble.json")
    for row, path in zip(content["candidates"], members, strict=True):
        assert not Path(row["source"]).is_absolute()
        assert (made.path / row["source"]).resolve() == (path / "model.safetensors").resolve()
        assert row["sha256"] == hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


def test_evaluate_scores_the_mean_on_the_same_images(runs: Path, tmp_path: Path) -> None:
    members = [*seeds(runs), runs / "small"]
    made = make_ensemble(members, tmp_path / "made")
    kept = [Predictions.read(path / "predictions.npz") for path in members]
    mean = np.mean([one.probabilities.astype(np.float64) for one in kept if one], axis=0)
    labels = kept[0].labels  # type: ignore[union-attr]
    right = [float((one.probabilities.argmax(1) == labels).mean()) for one in kept if one]
    before = made.read("scores.json")["validation"]
    said = command("evaluate", made.path, "--json")
    assert said.code == 0, said
    after = json.loads(said.out)
    for scores in (before, after):
        assert scores["accuracy"] == pytest.approx((mean.argmax(1) == labels).mean(), abs=1e-12)
        assert scores["loss"] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean(), abs=1e-5)
        assert scores["gain"]["single"] == max(right)
        assert scores["gain"]["difference"] == pytest.approx(scores["accuracy"] - max(right), abs=1e-12)
        low, high = scores["gain"]["interval"]
        assert low <= scores["gain"]["difference"] <= high
    assert "points over the best single model" in command("evaluate", made.path).out


def test_an_ensemble_has_the_baselines_of_the_images_it_is_judged_on(runs: Path, tmp_path: Path) -> None:
    """Those of its first model's run; none where that validated on more images than all had in common."""
    made = make_ensemble(seeds(runs), tmp_path / "made")
    assert made.read("baselines.json") == Run(runs / "seed-0").read("baselines.json") != {}
    command("evaluate", made.path)
    assert "Linear softmax on pixels, on validation" in (made.path / "report.html").read_text()
    assert "linear softmax" in command("compare", made.path).out
    other = make_ensemble([runs / "seed-0", runs / "elsewhere"], tmp_path / "other")
    assert other.read("scores.json")["validation"]["images"] < Run(runs / "seed-0").read("scores.json")["validation"]["images"]
    assert other.read("baselines.json") == {}


@pytest.mark.item("S004")
@pytest.mark.parametrize("option", [{}, {"select": "greedy"}, {"soup": "uniform"}, {"soup": "greedy"}])
def test_choosing_never_touches_the_test_split(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]) -> None:
    """Nothing asks for test rows while an ensemble is made; evaluate --test does, and logs it in the ensemble and in its runs."""
    rows, members = Dataset.rows, [copied(path, tmp_path / "runs" / path.name) for path in seeds(runs)]

    def guarded(self: Dataset, split: Any) -> Tensor:
        assert split != "test"
        return rows(self, split)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "rows", guarded)
        made = make_ensemble(members, tmp_path / "made", **option)
    assert made.read("about.json")["openings"] == []
    scores = goodfit.evaluate(made, test=True)
    assert scores["images"] == Run(runs / "seed-0").read("about.json")["data"]["splits"]["test"]
    assert {"single", "difference", "interval", "p"} <= scores["gain"].keys()
    assert [len(Run(path).read("about.json")["openings"]) for path in (made.path, *members)] == [1] * (1 + len(members))
    assert "was opened 1 time before" in command("evaluate", made.path, "--test").err


def test_an_average_is_made_without_the_data_and_works_elsewhere(runs: Path, photos: Path, tmp_path: Path) -> None:
    """Its folder holds all it needs: the runs may go."""
    for path in seeds(runs):
        copied(path, tmp_path / path.name)
        recipe = tmp_path / path.name / "recipe.toml"
        recipe.write_text(recipe.read_text().replace(str(photos), str(tmp_path / "gone")))
    made = make_ensemble([tmp_path / path.name for path in seeds(runs)], tmp_path / "made", select="greedy")
    before = everything(goodfit.load(made), images(photos))
    shutil.move(made.path, tmp_path / "moved")
    for path in seeds(runs):
        shutil.rmtree(tmp_path / path.name)
    assert np.array_equal(everything(goodfit.load(tmp_path / "moved"), images(photos)), before)
    member = next((tmp_path / "moved" / "members").glob("*/model.safetensors"))
    tensors = load_file(member)
    save_file({name: x + 1 for name, x in tensors.items()}, member)
    with pytest.raises(GoodfitError, match="its SHA-256 differs"):
        goodfit.load(tmp_path / "moved")


def test_classes_in_another_order_are_matched_by_name(runs: Path, photos: Path, tmp_path: Path) -> None:
    """A copy of a run whose classes, head and answers are turned around is the same model: the ensemble of both is the run."""
    run, turned = runs / "seed-0", Run(copied(runs / "seed-0", tmp_path / "turned"))
    turned.update("config.json", {"label_names": turned.read("config.json")["label_names"][::-1]})
    save_file({name: x.flip(0).contiguous() for name, x in load_file(run / "model.safetensors").items()}, turned.path / "model.safetensors")
    write_config(turned, turned.read("config.json"))
    kept = Predictions.read(run / "predictions.npz")
    assert kept is not None
    backward = np.arange(len(kept.names))[::-1]
    Predictions(
        kept.names[backward], len(kept.classes) - 1 - kept.labels[backward], kept.probabilities[backward][:, ::-1], kept.classes[::-1]
    ).save(turned.path / "predictions.npz")
    one, other = align_predictions(find_candidates([run, turned.path]))
    assert np.array_equal(one.probabilities, other.probabilities)
    assert np.array_equal(one.labels, other.labels)
    made = make_ensemble([run, turned.path], tmp_path / "made")
    assert np.abs(everything(goodfit.load(made), images(photos)) - everything(load_predictor(run), images(photos))).max() < 1e-6
    assert goodfit.evaluate(made)["accuracy"] == Run(run).read("scores.json")["validation"]["accuracy"]
    with pytest.raises(UsageError, match="label_names"):
        make_ensemble([run, turned.path], tmp_path / "soup", soup="uniform")


@pytest.mark.item("S124")
def test_members_are_the_averaged_weights_of_runs_with_an_average(photos: Path, tmp_path: Path) -> None:
    """EMA copies: of each run its running average, not the weights that its steps came to."""
    for seed in range(2):
        assert train(photos, tmp_path / f"ema-{seed}", seed=str(seed), average="ema(0.9)").code == 0
        assert train(photos, tmp_path / f"raw-{seed}", seed=str(seed)).code == 0
    made = make_ensemble([tmp_path / "ema-0", tmp_path / "ema-1"], tmp_path / "made")
    for seed, member in enumerate(made.read("ensemble.json")["members"]):
        kept, averaged, raw = (
            load_file(path / "model.safetensors")
            for path in (made.path / member["path"], tmp_path / f"ema-{seed}", tmp_path / f"raw-{seed}")
        )
        assert all(torch.equal(kept[name], averaged[name]) for name in kept)
        assert any(not torch.equal(kept[name], raw[name]) for name in kept)


def test_a_run_with_snapshots_is_an_ensemble_of_them(runs: Path, photos: Path, tmp_path: Path) -> None:
    said = command("ensemble", runs / "cyclic", "--out", tmp_path / "made", "--json")
    assert said.code == 0, said
    content = json.loads(said.out)
    shots = sorted((runs / "cyclic" / "snapshots").glob("*.safetensors"))
    scores = Run(runs / "cyclic").read("scores.json")["snapshots"]
    assert len(shots) == len(content["members"]) == len(scores) == 3
    assert [row["accuracy"] for row in content["candidates"]] == pytest.approx([row["accuracy"] for row in scores])
    last = load_file(shots[-1])
    assert all(torch.equal(x, last[name]) for name, x in load_file(runs / "cyclic" / "model.safetensors").items())
    expected = np.mean([everything(load_predictor(tmp_path / "made" / m["path"]), images(photos)) for m in content["members"]], axis=0)
    assert np.abs(everything(goodfit.load(tmp_path / "made"), images(photos)) - expected).max() < 1e-6
    said = command("ensemble", runs / "cyclic", runs / "seed-0", "--final", "--out", tmp_path / "final", "--json")
    assert len(json.loads(said.out)["members"]) == 2
    said = command("ensemble", *shots[1:], "--out", tmp_path / "two")
    assert said.code == 0, said
    assert "points over the best single model" in said.out


# ---- soups ---------------------------------------------------------------------------------------------------------------------------


def test_a_soup_of_identical_models_is_the_model(runs: Path, tmp_path: Path) -> None:
    """Weights, batch statistics and answers, bit for bit."""
    other = copied(runs / "cyclic", tmp_path / "copy")
    made = make_ensemble([runs / "cyclic", other], tmp_path / "made", soup="uniform", final=True)
    before, after = (load_file(path / "model.safetensors") for path in (runs / "cyclic", made.path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    scores = made.read("scores.json")["validation"]
    assert scores["accuracy"] == Run(runs / "cyclic").read("scores.json")["validation"]["accuracy"]
    assert scores["gain"]["difference"] == 0


def test_a_uniform_soup_has_the_mean_weights_and_statistics_of_its_own(runs: Path, photos: Path, tmp_path: Path) -> None:
    made = make_ensemble([runs / "cyclic"], tmp_path / "made", soup="uniform")
    parts = [load_file(file) for file in sorted((runs / "cyclic" / "snapshots").glob("*.safetensors"))]
    found = load_file(made.path / "model.safetensors")
    for name, x in found.items():
        mean = np.mean([part[name].numpy().astype(np.float64) for part in parts], axis=0)
        if "running" in name:
            assert np.abs(x.numpy() - mean).max() > 1e-6, f"{name} is of the soup, not a mean"
        elif x.is_floating_point():
            assert np.abs(x.numpy() - mean).max() < 1e-6
    classifier = goodfit.load(made)
    assert np.array_equal(everything(classifier, images(photos)), everything(load_predictor(made.path), images(photos))), "it is one model"
    scores = made.read("scores.json")["validation"]
    assert goodfit.evaluate(made)["accuracy"] == scores["accuracy"]
    assert (made.path / "members" / "00" / "model.safetensors").is_file(), "the best single model, to compare it with on test images"
    assert train(photos, tmp_path / "on", "--from", made.path, model="auto", budget="1 epoch").code == 0


def test_a_greedy_soup_is_never_below_the_best_single_model(runs: Path, tmp_path: Path) -> None:
    made = make_ensemble([runs / "cyclic"], tmp_path / "made", soup="greedy")
    gain = made.read("scores.json")["validation"]["gain"]
    assert gain["difference"] >= 0
    weights = [row["weight"] for row in made.read("ensemble.json")["candidates"]]
    assert sum(weights) == pytest.approx(1)
    assert len({w for w in weights if w}) == 1


# ---- what does not go together -------------------------------------------------------------------------------------------------------


def split_of(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


@pytest.mark.item("S004", "S005")
def test_runs_of_other_splits_are_judged_by_what_all_held_out(runs: Path, tmp_path: Path) -> None:
    """Images that one of them was trained on judge nothing, and a test image that one was trained on refuses the test score."""
    a, b = runs / "seed-0", runs / "elsewhere"
    both = {name for name, split in split_of(a).items() if split == split_of(b)[name] == "validation"}
    seen = sum(split == "test" and split_of(b)[name] != "test" for name, split in split_of(a).items())
    assert seen
    made = make_ensemble([a, b], tmp_path / "made")
    assert made.read("scores.json").get("validation", {"images": 0})["images"] == len(both)
    assert made.read("ensemble.json")["tests_seen"] == seen
    refused(command("evaluate", made.path, "--test"), 2, f"{seen} of its test images were used to train", "--split-seed")
    assert made.read("about.json")["openings"] == []


def test_folds_have_no_validation_image_in_common(runs: Path, photos: Path, tmp_path: Path) -> None:
    splits = split_of(runs / "seed-0")
    pool = sorted(name for name, split in splits.items() if split != "test")
    for fold in range(2):
        with (tmp_path / f"{fold}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("path", "split"))
            table.writerows((name, split) for name, split in splits.items() if split == "test")
            table.writerows((name, "validation" if place % 2 == fold else "train") for place, name in enumerate(pool))
        assert train(photos, tmp_path / f"fold-{fold}", validation=str(tmp_path / f"{fold}.csv")).code == 0
    folds = [tmp_path / f"fold-{fold}" for fold in range(2)]
    said = command("ensemble", tmp_path, "--out", tmp_path / "made")
    assert said.code == 0, said
    assert [row["source"] for row in Run(tmp_path / "made").read("ensemble.json")["candidates"]] == [
        f"../fold-{fold}/model.safetensors" for fold in range(2)
    ]
    assert "only test images show the accuracy of all together" in said.out
    assert Run(tmp_path / "made").read("scores.json") == {}
    refused(command("evaluate", tmp_path / "made"), 2, "no validation image that no member was trained on")
    assert goodfit.evaluate(tmp_path / "made", test=True)["images"] == sum(split == "test" for split in splits.values())
    for option in ({"select": "greedy"}, {"soup": "greedy"}):
        with pytest.raises(UsageError, match="A greedy choice needs images"):
            make_ensemble(folds, tmp_path / "none", **option)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_refusals(runs: Path, tmp_path: Path) -> None:
    one, two = seeds(runs)[:2]
    refused(command("ensemble"), 2, "Expected two models or more, received none")
    refused(command("ensemble", one), 2, "seed-0 alone", "--snapshots")
    refused(command("ensemble", one, tmp_path / "none"), 2, "Expected a run folder")
    refused(command("ensemble", one, two, one), 2, "Expected each model once", "seed-0")
    refused(command("ensemble", one, two, "--select", "greedy", "--soup", "greedy"), 2, "Expected one of --select greedy and --soup")
    refused(command("ensemble", one, runs / "small", "--soup", "uniform", "--out", tmp_path / "no"), 2, "differ in preprocess")
    refused(command("ensemble", one, two, "--out", one), 2, "is not empty")
    bare = copied(two, tmp_path / "bare")
    (bare / "predictions.npz").unlink()
    refused(command("ensemble", one, bare), 2, "are not kept", f'goodfit evaluate "{bare}"')
    other = Run(copied(two, tmp_path / "other"))
    kept = Predictions.read(two / "predictions.npz")
    assert kept is not None
    Predictions(kept.names, kept.labels, kept.probabilities, ("blue", "green", "pink")).save(other.path / "predictions.npz")
    refused(command("ensemble", one, other.path), 2, "models of the same classes", "pink", "red")
    Predictions(kept.names, (kept.labels + 1) % 3, kept.probabilities, kept.classes).save(other.path / "predictions.npz")
    with pytest.raises(DataError, match="different labels"):
        make_ensemble([one, other.path], tmp_path / "no")
    made = make_ensemble([one, two], tmp_path / "made")
    refused(command("ensemble", one, made.path), 2, "is an ensemble already")
    refused(command("evaluate", made.path, "--marginalize", "3"), 2, "marginalize is for a single model")
    refused(command("evaluate", made.path, "--calibrate"), 2, "calibrate is for a single model")
    refused(command("describe", made.path), 2, "the ensemble")


def test_a_long_step_that_passes_several_cycles_leaves_one_snapshot() -> None:
    """As under a budget in minutes."""
    made: Any = SimpleNamespace(snapshots=(0.3, 0.6, 1.0), t=lambda state: 0.0 if state.step == 0 else 0.7)
    state: Any = SimpleNamespace(step=0, snapshots_taken=0, snapshots=[])
    record_snapshot(state, made)
    assert (state.snapshots_taken, state.snapshots) == (0, [])
    state.step = 5
    record_snapshot(state, made)
    record_snapshot(state, made)
    assert (state.snapshots_taken, state.snapshots) == (2, [5])
