"""goodfit describe: tables, stages, CSV and JSON, models side by side, a run's own network, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from goodfit.core.errors import UsageError
from goodfit.core.run import Run
from goodfit.predict.predictor import load_classifier
from goodfit.study import networks
from tests.support.command import Said, goodfit, refused, train


def test_a_table_with_its_totals_and_training() -> None:
    said = goodfit("describe", "resnet(18)", "--size", "64", "--classes", "10", "--batch", "8", "--optimizer", "adam")
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert lines[0].split() == [
        "layer", "type", "output", "parameters", "share", "multiply-adds", "ops", "activations", "kept", "field", "stride",
    ]  # fmt: skip
    assert any(line.startswith("fc ") and line.split()[2] == "10" for line in lines)
    assert lines[-1].startswith("A training step of 8 images with adam takes ")
    assert "CS231n" not in said.out


def test_stages() -> None:
    lines = goodfit("describe", "resnet(18)", "--size", "64", "--stages").out.splitlines()
    assert [line.split()[0] for line in lines[1:9]] == ["input", "stem", "layer1", "layer2", "layer3", "layer4", "head", "total"]


@pytest.mark.item("S158")
def test_a_slides_error_is_told_with_the_net_it_is_about() -> None:
    said = goodfit("describe", "vgg(16)")
    assert "15,237,608 numbers" in said.out
    assert said.out.splitlines()[-1].startswith("CS231n says 24M activations, 93 MB: its own rows add up to 15.2M")
    assert "CS231n" not in goodfit("describe", "vgg(16)", "--classes", "10").out


def test_csv_and_json_agree() -> None:
    words = ("describe", "convnet", "--size", "32", "--batch", "4")
    rows = list(csv.DictReader(goodfit(*words, "--csv").out.splitlines()))
    content = json.loads(goodfit(*words, "--json").out)
    assert content["model"] == "convnet" and content["input"] == [4, 3, 32, 32]
    assert [row["layer"] for row in rows] == [layer["name"] for layer in content["layers"]]
    assert sum(int(row["ops"]) for row in rows) == content["totals"]["ops"]
    assert sum(int(row["kept_bytes"]) for row in rows) == content["totals"]["kept"] > 0
    stages = list(csv.DictReader(goodfit(*words, "--stages", "--csv").out.splitlines()))
    assert [row["layer"] for row in stages] == [stage["name"] for stage in content["stages"]]


def test_models_side_by_side() -> None:
    said = goodfit("describe", "--compare", "alexnet", "vgg(16)", "nin")
    assert said.code == 0, said
    head, *lines = said.out.splitlines()
    assert head.startswith("model")
    assert [line.split()[0] for line in lines] == ["alexnet", "vgg(16)", "nin"]
    assert "138.36 M   10.6 %  89.4 %  15,483.82 M" in lines[1] and "28.41 %" in lines[1]
    rows = json.loads(goodfit("describe", "alexnet", "--compare", "nin", "--json").out)
    assert [row["model"] for row in rows] == ["alexnet", "nin"]
    assert rows[0]["top5_error"] == 20.91 and "top5_error" not in rows[1]
    table = list(csv.DictReader(goodfit("describe", "--compare", "nin", "alexnet", "--csv").out.splitlines()))
    assert [row["top1_error"] for row in table] == ["", "43.45"]


@pytest.mark.item("S170")
def test_the_speed_of_networks_is_measured_where_it_is_asked_for(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, on which the first pass, which does not count, takes half a second, later ones 2, 1 and 4."""
    monkeypatch.setattr(networks, "MIN_PASSES", 3)
    models = ("linear", "mlp((4,))")

    def describe(*words: str | Path) -> Said:
        ticks = itertools.accumulate(itertools.cycle([0.0, 0.5, 0.0, 2.0, 0.0, 1.0, 0.0, 4.0]))
        monkeypatch.setattr(networks, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
        return goodfit("describe", *words, "--size", "8", "--batch", "6")

    table = describe("--compare", *models, "--speed").out.splitlines()
    assert table[0].endswith("images/s") and [line.split()[-1] for line in table[1:]] == ["6.0", "6.0"]
    rows = json.loads(describe("--compare", *models, "--speed", "--json").out)
    assert [row["images_per_second"] for row in rows] == [6.0, 6.0]
    assert all("images_per_second" not in row for row in json.loads(describe("--compare", *models, "--json").out))
    assert "It answers 6.0 images a second on this machine's processor, 6 images at a time." in describe("linear", "--speed").out
    assert json.loads(describe("linear", "--speed", "--json").out)["images_per_second"] == 6.0
    assert "answers" not in describe("linear").out
    refused(goodfit("describe", "linear", "--signals", "--speed"), 2, "received --speed too")


def test_the_speed_of_a_network_is_that_of_real_passes(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run", model="convnet(4)").code == 0
    for model in (str(tmp_path / "run"), "convnet(4)"):
        assert networks.measure_speed(model, networks.NetworkOptions(size="16", batch=2)) > 0
    with pytest.raises(UsageError, match="lineal"):
        networks.measure_speed("lineal", networks.NetworkOptions())


def test_a_runs_own_network(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(photos, run, model="mlp((8,))").code == 0
    content = json.loads(goodfit("describe", run, "--json").out)
    trained = load_classifier(run, "cpu")
    assert content["input"] == [1, 3, 16, 16]
    assert content["totals"]["parameters"] == sum(p.numel() for p in trained.model.parameters())
    assert content["model"] == str(run)
    (Run(run).path / "model.safetensors").write_bytes(b"")
    refused(goodfit("describe", run), 1, "does not read")


def test_what_training_takes_may_not_be_known() -> None:
    said = goodfit("describe", "linear", "--size", "8", "--optimizer", "lbfgs")
    assert said.code == 0
    assert said.out.splitlines()[-1] == 'The memory of a training step is unknown: the steps of "lbfgs" depend on the values of the loss.'
    assert json.loads(goodfit("describe", "nearest", "--size", "8", "--json").out)["training"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Expected a model, such as"),
        (("linear", "--batch", "0"), "Expected --batch to be 1 or more, received 0"),
        (("linear", "--csv", "--json"), "received both"),
        (("linear", "--optimizer", "sdg"), 'Did you mean "sgd"?'),
        (("--compare", "linear", "lineal"), 'Did you mean "linear"?'),
        (("vgg_f", "--size", "4"), "expected images of at least"),
        (("torch.nn.Flatten(7)",), "does not take images of 3x224x224"),
    ],
)
def test_describe_refuses_in_a_sentence(words: tuple[str, ...], said: str) -> None:
    refused(goodfit("describe", *words), 2, said)
