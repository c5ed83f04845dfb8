"""Cross-validation: folds that are disjoint and cover everything, stratified and by group, against scikit-learn; runs that go on."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

import goodfit
from goodfit.core.errors import DataError, Interrupted, UsageError
from goodfit.core.interval import wilson_interval
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import Run
from goodfit.data.index import TEST, UNASSIGNED, Index
from goodfit.data.splits import SplitRule, make_splits
from goodfit.data.store import ArrayStore
from goodfit.runs.train import RunOptions
from goodfit.study import cross_validation, seeds
from goodfit.study.cross_validation import train_folds
from goodfit.study.folds import deal_groups, deal_stratified, make_folds, read_groups
from tests.support.command import FAST, refused, train
from tests.support.command import goodfit as command
from tests.support.fake_run import Page
from tests.support.photos import make_photos
from tests.support.process import start_command


def index_of(labels: np.ndarray, splits: np.ndarray | None = None) -> Index:
    """An index without pixels."""
    n = len(labels)
    classes = tuple(f"class{k}" for k in range(int(labels.max()) + 1))
    own = np.full(n, UNASSIGNED, dtype=np.int8) if splits is None else splits.astype(np.int8)
    store = ArrayStore(lambda: np.zeros((n, 1, 1)), "x")
    return Index("made", classes, labels.astype(np.int64), own, [f"{k}.png" for k in range(n)], store)


def uneven(n: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(4, n, p=[0.55, 0.25, 0.15, 0.05])


@pytest.mark.item("S005")
@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_are_disjoint_cover_everything_and_leave_the_test_images(folds: int) -> None:
    index = index_of(uneven())
    splits = make_splits(index, np.ones(len(index), dtype=bool), SplitRule(0.15, 0))
    found = make_folds(index, splits, folds, 0)
    parts = [found.splits(k) for k in range(folds)]
    pool = sorted([*splits.train, *splits.validation])
    assert sorted(np.concatenate([part.validation for part in parts])) == pool, "each image validates once"
    for part in parts:
        assert sorted([*part.train, *part.validation]) == pool
        assert not set(part.train) & set(part.validation)
        assert (part.test == splits.test).all() and not set(splits.test) & {*part.train, *part.validation}
    sizes = [len(part.validation) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    counts = np.array([np.bincount(index.labels[part.validation], minlength=4) for part in parts])
    assert (counts.max(0) - counts.min(0) <= 1).all(), "stratified as well as whole images allow"
    assert len({part.digest for part in parts}) == folds


def test_folds_follow_from_seed_and_names() -> None:
    labels, names = uneven(), [f"{k}.png" for k in range(300)]
    first = deal_stratified(labels, names, 5, 0)
    assert (deal_stratified(labels, names, 5, 0) == first).all() and (deal_stratified(labels, names, 5, 1) != first).any()
    order = np.random.default_rng(0).permutation(300)
    assert (deal_stratified(labels[order], [names[k] for k in order], 5, 0) == first[order]).all(), "not from the order of the images"


@pytest.mark.item("S005")
@pytest.mark.parametrize("seed", range(4))
def test_no_group_is_in_two_folds_and_classes_are_as_even_as_scikit_learns(seed: int) -> None:
    labels = uneven(400, seed)
    groups = np.random.default_rng(seed).integers(0, 60, 400)
    fold = deal_groups(labels, [f"g{g}" for g in groups], 5, seed)
    assert all(len(set(fold[groups == g])) == 1 for g in groups)
    assert set(fold) == set(range(5))

    def unevenness(of: np.ndarray) -> float:
        shares = np.array([[(labels[of == k] == c).sum() / (labels == c).sum() for c in range(4)] for k in range(5)])
        return float(shares.std(0).mean())

    theirs = np.empty(400, dtype=int)
    for k, (_, held) in enumerate(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)):
        theirs[held] = k
    assert unevenness(fold) <= 1.5 * unevenness(theirs) + 0.01


def test_folds_that_cannot_be_are_refused() -> None:
    index = index_of(np.array([0] * 20 + [1] * 20))
    splits = make_splits(index, np.ones(40, dtype=bool), SplitRule(0.15, 0))
    with pytest.raises(UsageError, match="2 folds or more"):
        make_folds(index, splits, 1, 0)
    pool = len(splits.train) + len(splits.validation)
    with pytest.raises(DataError, match=f"Expected {pool + 1} images"):
        make_folds(index, splits, pool + 1, 0)
    with pytest.raises(DataError, match="Expected 3 groups"):
        make_folds(index, splits, 3, 0, {name: str(k % 2) for k, name in enumerate(index.names)})
    with pytest.raises(DataError, match=r"every image of class0.*2 groups"):
        make_folds(index, splits, 2, 0, {name: "a" if k < 20 else name for k, name in enumerate(index.names)})
    alone = make_folds(index, splits, 2, 0, dict.fromkeys(index.names, ""))
    assert len(np.unique(alone.fold)) == 2, "an image without a group is a group of its own"


def test_groups_are_read_from_tables(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("File\tlabel\tGroup\na.png\tx\tp1\nb.png\ty\t\n")
    assert read_groups(table) == {"a.png": "p1", "b.png": ""}
    table.write_text("path,label\na.png,x\n")
    assert read_groups(table) is None
    table.write_text("name,group\na.png,x\n")
    with pytest.raises(DataError, match="columns path and group"):
        read_groups(table)


# ---- trainings -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "cv"
    said = train(photos, out, "--folds", "3", "--json")
    assert said.code == 0, said
    assert "3 folds of 24 images, stratified; 18 test images left alone." in said.err
    assert json.loads(said.out)["accuracies"] == Run(out).read("folds.json")["accuracies"]
    return out


@pytest.mark.item("S005")
def test_mean_and_deviation_and_out_of_fold_predictions(folder: Path, photos: Path) -> None:
    result = Run(folder).read("folds.json")
    runs = [Run(folder / f"fold-{k}") for k in (1, 2, 3)]
    found = [run.read("scores.json")["validation"]["accuracy"] for run in runs]
    assert result["accuracies"] == found
    assert (result["accuracy"], result["deviation"]) == pytest.approx((np.mean(found), np.std(found, ddof=1)))
    whole, parts = Predictions.read(folder / PREDICTIONS_FILE), [Predictions.read(run.path / PREDICTIONS_FILE) for run in runs]
    assert whole is not None and len(set(whole.names.tolist())) == len(whole.names) == 72
    for k, part in enumerate(parts):
        assert part is not None
        rows = [whole.names.tolist().index(name) for name in part.names.tolist()]
        assert (whole.probabilities[rows] == part.probabilities).all() and (whole.labels[rows] == part.labels).all()
        with (folder / f"fold-{k + 1}.csv").open() as file:
            splits = {row["path"]: row["split"] for row in csv.DictReader(file)}
        assert {name for name, word in splits.items() if word == "validation"} == set(part.names.tolist())
        assert sum(word == "test" for word in splits.values()) == 18
    assert result["out_of_fold"]["accuracy"] == whole.correct.mean()
    assert result["out_of_fold"]["interval"] == list(wilson_interval(int(whole.correct.sum()), 72))


@pytest.mark.item("S005")
def test_the_test_images_are_those_of_an_ordinary_run(folder: Path, photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run").code == 0

    def tested(file: Path) -> set[str]:
        with file.open() as table:
            return {row["path"] for row in csv.DictReader(table) if row["split"] == "test"}

    ordinary = tested(tmp_path / "run" / "splits.csv")
    assert ordinary and all(tested(folder / f"fold-{k}" / "splits.csv") == ordinary for k in (1, 2, 3))


def test_an_interrupted_fold_goes_on_and_finished_ones_are_kept(
    photos: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = cross_validation.train

    def stopping(asked: goodfit.Recipe, options: RunOptions) -> Run | None:
        calls.append(options.out.name if options.out else "")
        if len(calls) == 2:
            raise Interrupted("Stopped.")
        return real(asked, options)

    monkeypatch.setattr(cross_validation, "train", stopping)
    out = tmp_path / "cv"
    said = train(photos, out, "--folds", "3")
    refused(said, 130, "Stopped in fold 2 of 3", f"--resume auto --out {out}")
    assert Run(out).read("folds.json")["state"] == "running"
    page = Page((out / "report.html").read_text()).visible()
    assert "not all folds are trained yet" in page and "fold-1" in page
    refused(train(photos, out, "--folds", "3"), 2, "holds folds already")
    assert train(photos, out, "--folds", "3", "--resume", "auto").code == 0
    assert calls == ["fold-1", "fold-2", "fold-2", "fold-3"], "the first was not trained again"
    kept, whole = Predictions.read(out / PREDICTIONS_FILE), Predictions.read(folder / PREDICTIONS_FILE)
    assert kept is not None and whole is not None
    assert (kept.probabilities == whole.probabilities).all(), "as if it had never been stopped"
    calls.clear()
    assert train(photos, out, "--folds", "3", "--resume", "auto").code == 0
    assert calls == []
    refused(train(photos, out, "--folds", "4", "--resume", "auto"), 3, "changed since")


def test_folds_from_python_leave_their_page(photos: Path, tmp_path: Path) -> None:
    asked = goodfit.Recipe(data=str(photos)).but_text(FAST)
    out = tmp_path / "cv"
    found = train_folds(asked, RunOptions(out), 2)
    text = Page((out / "report.html").read_text()).visible()
    assert f"{100 * found['accuracy']:.1f} % validation accuracy , mean of the folds" in text
    assert "Those of fold-1 only" in text and "Linear softmax on pixels" in text
    (out / "report.html").unlink()
    train_folds(asked, RunOptions(out, resume="auto"), 2)
    assert (out / "report.html").is_file(), "of folds that were all finished before, too"


@pytest.mark.thorough
def test_a_fold_that_was_killed_goes_on_as_if_it_never_was(photos: Path, tmp_path: Path) -> None:
    """The whole command, killed with -9 in the middle of the second fold's training."""
    changes = {"budget": "40 epochs", "save_every": "40 steps", "evaluate_every": "10 epochs"}
    assert train(photos, tmp_path / "whole", "--folds", "2", **changes).code == 0
    options = [word for key, value in {**FAST, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
    words = ["train", photos, "--folds", "2", *options, "--out", tmp_path / "killed"]
    process = start_command(tmp_path / "words", *words)
    second = tmp_path / "killed" / "fold-2" / "checkpoints"
    while not list(second.glob("*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    assert Run(tmp_path / "killed").read("folds.json")["state"] == "running"
    first = (tmp_path / "killed" / "fold-1" / "model.safetensors").stat().st_mtime_ns
    again = train(photos, tmp_path / "killed", "--folds", "2", "--resume", "auto", **changes)
    assert again.code == 0 and "Continuing" in again.err, again.err
    assert (tmp_path / "killed" / "fold-1" / "model.safetensors").stat().st_mtime_ns == first, "the first was not trained again"
    one, other = (Predictions.read(tmp_path / name / PREDICTIONS_FILE) for name in ("whole", "killed"))
    assert one is not None and other is not None
    assert (one.names == other.names).all() and (one.probabilities == other.probabilities).all()


def test_groups_of_a_csv_stay_together(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 12)
    files = sorted(photos.rglob("*.png"))
    table = tmp_path / "data.csv"
    lines = [
        f"{file.relative_to(tmp_path)},{file.parent.name},{int(file.stem) // 3},{'test' if int(file.stem) >= 9 else ''}" for file in files
    ]
    table.write_text("path,label,group,split\n" + "\n".join(f"{a},{b},{b}{g},{s}" for a, b, g, s in (line.split(",") for line in lines)))
    assert train(table, tmp_path / "cv", "--folds", "3").code == 0
    where: dict[str, set[int]] = {}
    for k in (1, 2, 3):
        answers = Predictions.read(tmp_path / "cv" / f"fold-{k}" / PREDICTIONS_FILE)
        assert answers is not None and len(answers.names) == 9
        for name in answers.names.tolist():
            where.setdefault(f"{Path(name).parent.name}{int(Path(name).stem) // 3}", set()).add(k)
    assert len(where) == 9 and all(len(folds) == 1 for folds in where.values())
    refused(train(table, tmp_path / "other", "--folds", "2", "--groups", tmp_path / "none.csv"), 2, "--groups", "none.csv")


def test_words_that_do_not_go_together(photos: Path, tmp_path: Path) -> None:
    refused(train(photos, tmp_path / "a", "--folds", "3", "--seeds", "2"), 2, "--seeds and --folds")
    refused(train(photos, tmp_path / "a", "--groups", "x.csv"), 2, "--folds beside --groups")
    refused(train(photos, tmp_path / "a", "--folds", "1"), 2, "2 folds or more", "1")
    dry = train(photos, tmp_path / "a", "--folds", "3", "--dry")
    assert dry.code == 0 and "3 folds of 24 images" in dry.err
    assert not (tmp_path / "a").exists()


def test_without_out_a_folder_of_its_own_is_found_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", photos, "--folds", "2", *(w for key, value in FAST.items() for w in (f"--{key.replace('_', '-')}", value))]
    assert command(*words).code == 0
    (made,) = tmp_path.glob("runs/*-folds")
    Run(made).update("folds.json", {"state": "running"})
    said = command(*words, "--resume", "auto")
    assert said.code == 0 and "fold-2 is finished" in said.err
    assert list(tmp_path.glob("runs/*-folds")) == [made]


def test_seeds_are_as_before(photos: Path, tmp_path: Path) -> None:
    result = json.loads(train(photos, tmp_path / "s", "--seeds", "2", "--json").out)
    assert [Path(run).name for run in result["runs"]] == ["seed-0", "seed-1"]
    assert result["standard_error"] == pytest.approx(np.std(result["accuracies"], ddof=1) / np.sqrt(2))
    assert TEST == 2


def test_interrupted_seeds_go_on_by_the_folder_of_all(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = seeds.train

    def stopping(asked: goodfit.Recipe, options: RunOptions) -> Run | None:
        if asked.seed == 1:
            raise Interrupted("Stopped.")
        return real(asked, options)

    monkeypatch.setattr(seeds, "train", stopping)
    said = train(photos, tmp_path / "all", "--seeds", "2")
    refused(said, 130, "Stopped at seed 1", f"--resume auto --out {tmp_path / 'all'}")
    monkeypatch.setattr(seeds, "train", real)
    assert train(photos, tmp_path / "all", "--seeds", "2", "--resume", "auto").code == 0
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"seed-0", "seed-1", "latest"}
