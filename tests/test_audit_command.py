"""goodfit audit: what it finds in folders and files that are wrong in known ways, what it says of them, and what train repeats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodfit import api
from goodfit.core.predictions import Predictions
from goodfit.core.reporter import SilentReporter
from goodfit.doctor.audit.audit import audit_table
from goodfit.doctor.audit.image_checks import group_by_name
from goodfit.doctor.audit.image_table import ImageTable
from tests.support.command import Said, goodfit, refused, train
from tests.support.digits import read_digits
from tests.support.photos import COLORS, picture

IMAGES, LABELS = read_digits()
ORDER = np.random.default_rng(0).permutation(len(LABELS))


def write_digits(path: Path, train_labels: np.ndarray, test_labels: np.ndarray) -> Path:
    """The digits in an order that has nothing to do with their writers, in two splits, with some labels."""
    images = IMAGES[ORDER, ..., 0]
    np.savez(path, x_train=images[:1300], y_train=train_labels, x_test=images[1300:], y_test=test_labels)
    return path


def find(said: Said, check: str) -> dict[str, object]:
    """The one finding of a check in what `--json` printed."""
    assert said.code == 0, said.err
    (found,) = [finding for finding in json.loads(said.out)["findings"] if finding["check"] == check]
    return dict(found)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two splits, of which some files are broken, blank or in both."""
    root = tmp_path_factory.mktemp("audit") / "spoiled"
    for k, (name, color) in enumerate(COLORS.items()):
        for split, numbers in (("train", range(40)), ("validation", range(100, 116))):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in numbers:
                Image.fromarray(picture(color, 1000 * k + i, 32)).save(root / split / name / f"{i}.png")
    (root / "train/red/broken.png").write_bytes(b"not an image")
    for i in range(4):
        Image.new("RGB", (32, 32), (255, 255, 255)).save(root / f"train/blue/blank{i}.png")
    for i in range(10):
        shutil.copyfile(root / f"train/green/{i}.png", root / f"validation/green/again{i}.png")
    return root


def test_broken_blank_and_leaked_images_are_named(spoiled: Path) -> None:
    said = goodfit("audit", spoiled, "--json")
    assert find(said, "broken")["numbers"]["images"] == 1  # type: ignore[index]
    assert {name for (name,) in find(said, "blank")["groups"]} == {f"train/blue/blank{i}.png" for i in range(4)}  # type: ignore[attr-defined]
    leak = find(said, "leak")
    assert leak["severity"] == "error"
    pairs = {(f"validation/green/again{i}.png", f"train/green/{i}.png") for i in range(10)}
    assert pairs <= {tuple(group) for group in leak["groups"]}  # type: ignore[attr-defined]


def test_findings_come_worst_first_in_sentences_of_60_words_and_are_kept(spoiled: Path) -> None:
    first, again = (json.loads(goodfit("audit", spoiled, "--json").out) for _ in range(2))
    assert first == again, "the second is read from the cache, its seconds included"
    severities = [finding["severity"] for finding in first["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert all(len(finding["sentence"].split()) <= 60 for finding in first["findings"])


def test_the_table_and_the_page_say_the_same(spoiled: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    said = goodfit("audit", spoiled, "--html", page)
    assert said.code == 0 and "of one color" in said.out and str(page) in said.out
    text = page.read_text(encoding="utf-8")
    assert "Leakage" in text and "data:image/png;base64" in text and "again0.png" in text


def test_train_warns_of_what_is_alarming_and_trains_the_same(spoiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned = train(spoiled, tmp_path / "a")
    assert "Warning: 4 images are of one color" in warned.err
    notes = json.loads((tmp_path / "a/about.json").read_text())["data"]["notes"]
    assert any("of one color" in note for note in notes)
    monkeypatch.setattr("goodfit.doctor.doctor_adviser.remark_on_data", lambda data: [])
    assert "of one color" not in train(spoiled, tmp_path / "b").err
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_with_a_run_the_accuracy_without_leaked_images_is_told(spoiled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(spoiled, run)
    said = goodfit("audit", "--run", run, "--json")
    predictions = Predictions.read(run / "predictions.npz")
    assert predictions is not None
    leaked = [group[0] for group in find(said, "leak")["groups"]]  # type: ignore[attr-defined]
    expected = predictions.correct[~np.isin(predictions.names, leaked)].mean()
    assert find(said, "honest_score")["numbers"]["honest_accuracy"] == pytest.approx(expected)  # type: ignore[index]
    assert 0 <= find(said, "transforms")["numbers"]["auc_before"] <= 1  # type: ignore[index]


def test_a_run_on_other_images_is_refused(spoiled: Path, tmp_path: Path) -> None:
    train("digits", tmp_path / "run", "--limit", "12")
    refused(goodfit("audit", spoiled, "--run", tmp_path / "run"), 2, "for other images")
    refused(goodfit("audit", spoiled, "--run", tmp_path / "none"), 2, "found no folder")
    (tmp_path / "empty").mkdir()
    refused(goodfit("audit", spoiled, "--run", tmp_path / "empty"), 2, "no predictions.npz")
    refused(goodfit("audit"), 2, "received neither")


def test_right_digits_raise_nothing(tmp_path: Path) -> None:
    labels = LABELS[ORDER]
    said = goodfit("audit", write_digits(tmp_path / "right.npz", labels[:1300], labels[1300:]), "--json")
    assert not [finding for finding in json.loads(said.out)["findings"] if finding["severity"] != "note"]


def test_shifted_renamed_and_wrong_labels_are_told_apart(tmp_path: Path) -> None:
    labels, rng = LABELS[ORDER], np.random.default_rng(0)
    shifted = write_digits(tmp_path / "shifted.npz", np.roll(labels[:1300], 2), labels[1300:])
    assert find(goodfit("audit", shifted, "--json"), "labels_shifted")["numbers"]["offset"] == 2  # type: ignore[index]
    names = np.array([1, 2, 0, 3, 4, 5, 6, 7, 9, 8])
    renamed = goodfit("audit", write_digits(tmp_path / "renamed.npz", labels[:1300], names[labels[1300:]]), "--json")
    assert find(renamed, "class_order")["numbers"]["meaning"] == np.argsort(names).tolist()  # type: ignore[index]
    wrong = labels[:1300].copy()
    chosen = rng.random(1300) < 0.2
    wrong[chosen] = (wrong[chosen] + rng.integers(1, 10, chosen.sum())) % 10
    noisy = find(goodfit("audit", write_digits(tmp_path / "wrong.npz", wrong, labels[1300:]), "--json"), "label_noise")
    low, high = noisy["numbers"]["interval"]  # type: ignore[index]
    assert low - 0.02 < chosen.mean() < high + 0.02


@pytest.mark.parametrize(("n", "classes"), [(0, 2), (1, 1), (3, 2), (40, 1)])
def test_tables_of_nearly_nothing_are_audited(n: int, classes: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (n, 8, 8, 1), dtype=np.uint8)
    labels, splits = np.arange(n) % classes, np.zeros(n, dtype=np.int8)
    table = ImageTable(images, labels, splits, [f"{i}.png" for i in range(n)], tuple("abc"[:classes]))
    for is_quick in (False, True):
        assert audit_table(table, SilentReporter(), is_quick).images == n


def test_one_class_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "one/a").mkdir(parents=True)
    Image.fromarray(picture((200, 50, 40), 0)).save(tmp_path / "one/a/0.png")
    refused(goodfit("audit", tmp_path / "one"), 3, "two classes")


def test_names_that_differ_in_their_last_number_are_of_one_group() -> None:
    groups = group_by_name(["a/p07_12.png", "a/p07_13.png", "a/p08_1.png", "a/12.png", "a/13.png", "b/p07_12.png"])
    assert groups[0] == groups[1] and len(set(groups.tolist())) == 5


def test_python_returns_what_json_prints() -> None:
    found = api.audit("digits", quick=True, reporter=SilentReporter())
    assert found.is_quick and found.images == len(LABELS)
    assert json.loads(goodfit("audit", "digits", "--quick", "--json").out) == found.plain()
