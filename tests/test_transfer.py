"""Transfer on the command line: from runs, files and published weights; frozen bit for bit, resumed without the source, and replayed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import goodfit as package
from goodfit.core.errors import DataError, UsageError
from goodfit.core.run import Run
from goodfit.models.weights.published import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED, PublishedWeights
from goodfit.models.weights.saved import write_config
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.pretrained import absolute_source
from tests.support.command import FAST, Said, copied, goodfit, refused, train
from tests.support.photos import make_photos

OPEN = ("size", "model")  # what a transfer takes over


def transfer(data: Path, out: Path, source: str | Path, *more: str | Path, **changes: str) -> Said:
    """Run `goodfit train DATA --from SOURCE` with the fast recipe."""
    words = {**{key: value for key, value in FAST.items() if key not in OPEN}, **changes}
    options = [word for key, value in words.items() for word in (f"--{key.replace('_', '-')}", value)]
    return goodfit("train", data, "--out", out, "--from", source, "--verbose", *options, *more)


def tensors(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def assert_equal(one: Path, other: Path) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the same kind under other names."""
    root = make_photos(tmp_path_factory.mktemp("others") / "others", each=24)
    (root / "red").rename(root / "rouge")
    return root


@pytest.fixture(scope="module")
def headed(source: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has taken over all but the head, and trained that alone."""
    out = tmp_path_factory.mktemp("headed") / "run"
    said = transfer(others, out, source, trainable="head")
    assert said.code == 0, said
    return out


# ---- from run to run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S176")
def test_only_the_head_has_changed_and_the_source_not_at_all(source: Path, headed: Path) -> None:
    before, after = tensors(source), tensors(headed)
    scores = Run(source).read("scores.json")["validation"]
    assert before.keys() == after.keys()
    for name, x in before.items():  # batch statistics too
        assert torch.equal(x, after[name]) == (not name.startswith("head.")), name
    assert package.evaluate(source)["accuracy"] == scores["accuracy"]
    assert package.evaluate(source)["loss"] == scores["loss"]


def test_what_travels_with_the_weights(source: Path, headed: Path) -> None:
    old, new = (package.load(run).members[0] for run in (source, headed))
    assert new.preprocess == old.preprocess
    assert new.classes == ("blue", "green", "rouge")
    recipe = Recipe.from_toml(headed / "recipe.toml")
    assert (recipe.size, recipe.mean, recipe.std) == (16, old.preprocess.mean, old.preprocess.std)
    assert str(recipe.model) == Run(source).read("config.json")["model"]
    assert not [line for line in (headed / "recipe.toml").read_text().splitlines() if line.endswith('= "auto"')]


def test_the_account_of_a_transfer(source: Path, headed: Path) -> None:
    about = Run(headed).read("about.json")
    taken = about["source"]
    assert taken["name"] == str(source)
    assert taken["sha256"] == hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert Recipe.from_toml(headed / "recipe.toml").source == f"{source}#sha256={taken['sha256']}"
    assert taken["tensors"]["anew"] == dict.fromkeys(("head.weight", "head.bias"), "newly initialized for 3 classes")
    names = {name for name in tensors(source) if not name.endswith("num_batches_tracked")}
    assert set(taken["tensors"]["taken"]) == names - {"head.weight", "head.bias"}
    assert {"model", "size", "mean", "std", "head_init"} <= {choice["field"] for choice in about["choices"]}
    assert "source" not in Run(source).read("about.json")


def test_it_is_said(source: Path, others: Path, tmp_path: Path) -> None:
    said = transfer(others, tmp_path / "run", source, "--dry").err
    for line in (
        "model = convnet(4)  (the model that its weights are of",
        "size = 16  (the size that its weights were trained at",
        "head_init = probe  (a new head starts as the linear probe of its input",
        "the head starts as a linear probe of 48 training images",
        f"{source}: 25 of 27 tensors copied unchanged",
        "head.weight, head.bias newly initialized for 3 classes",
    ):
        assert line in said, line


def test_scores_are_those_of_the_run_itself(headed: Path) -> None:
    """The images are opened anew, and normalized by the numbers of the weights, not by their own."""
    before = Run(headed).read("scores.json")["validation"]
    again = package.evaluate(headed)
    assert (again["accuracy"], again["loss"]) == (before["accuracy"], before["loss"])


def test_the_same_classes_keep_the_head(source: Path, photos: Path, tmp_path: Path) -> None:
    said = transfer(photos, tmp_path / "run", source, optimizer="sgd(1e-9)", trainable="head")
    assert "27 of 27 tensors copied unchanged, the head too, because its classes are the same" in said.err
    assert Run(tmp_path / "run").read("scores.json")["validation"]["accuracy"] == Run(source).read("scores.json")["validation"]["accuracy"]


@pytest.mark.item("S178")
def test_what_has_learned_moves_at_a_tenth(source: Path, others: Path, photos: Path) -> None:
    base = Recipe().but_text({key: value for key, value in FAST.items() if key not in OPEN})

    def peaks(**changes: Any) -> tuple[Recipe, dict[str, float]]:
        prepared = prepare(base.but(data=str(others), **changes))
        state = prepared.training.state
        names = {id(p): name for name, p in state.model.named_parameters()}
        return prepared.recipe, {names[id(p)]: group["peak"] for group in state.optimizer.param_groups for p in group["params"]}

    recipe, found = peaks(source=str(source), optimizer="sgd(0.2)", head_init="random")
    assert str(recipe.rates) == "backbone(0.1)"
    for name, peak in found.items():
        assert peak == pytest.approx(0.2 if name.startswith("head.") else 0.02), name
    assert set(peaks(source=str(source), optimizer="sgd(0.2)", head_init="random", rates="none")[1].values()) == {0.2}
    assert set(peaks(source=str(source), optimizer="sgd(0.2)")[1].values()) == {0.2}, "a head that is a probe has learned too"
    recipe, found = peaks(model="convnet(4)", size=16, optimizer="sgd(0.2)")
    assert (recipe.rates, set(found.values()), recipe.mean, recipe.std) == ("none", {0.2}, "data", "data")
    recipe, _ = peaks(source=str(source), optimizer="lbfgs", noise="allow")
    assert recipe.rates == "none", "one vector has one rate"


@pytest.mark.item("S177")
def test_layers_join_one_after_the_other(source: Path, others: Path, tmp_path: Path) -> None:
    said = transfer(others, tmp_path / "run", source, trainable="head(0.5) | last(1)", budget="2 epochs", head_init="random")
    assert said.code == 0, said
    before, after = tensors(source), tensors(tmp_path / "run")
    same = {name.split(".")[0] for name, x in before.items() if x.is_floating_point() and torch.equal(x, after[name])}
    changed = {name.split(".")[0] for name, x in before.items() if not torch.equal(x, after[name])}
    assert (same, changed) == ({"stem", "stage1"}, {"stage2", "head"})


@pytest.mark.item("S182")
def test_a_pretrained_net_learns_in_one_epoch_what_a_fresh_one_does_not(source: Path, others: Path, tmp_path: Path) -> None:
    transfer(others, tmp_path / "with", source, budget="1 epoch", trainable="head", optimizer="sgd(0.05)")
    train(others, tmp_path / "without", model="convnet(4)", budget="1 epoch", optimizer="sgd(0.05)")
    pretrained, fresh = (Run(tmp_path / name).read("scores.json")["validation"]["loss"] for name in ("with", "without"))
    assert pretrained < 0.8 * fresh


def test_the_running_average_begins_there_too(source: Path, others: Path) -> None:
    recipe = Recipe().but_text({**{key: value for key, value in FAST.items() if key not in OPEN}, "average": "ema(0.9)"})
    state = prepare(recipe.but(data=str(others), source=str(source))).training.state
    assert state.average is not None
    for name, x in state.model.state_dict().items():
        assert torch.equal(x, state.average.state_dict()[name])
        assert name.startswith("head.") or torch.equal(x, tensors(source)[name])


def test_parts_of_the_users_own_come_along(others: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom torch import nn\nfrom goodfit.core.contracts import Model\n\n@dataclasses.dataclass(frozen=True)\n"
        "class Own(Model):\n    def __call__(self, classes, channels, size):\n"
        "        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))\n"
    )
    assert train(photos, tmp_path / "a", "--use", tmp_path / "mine.py", model="own").code == 0
    (tmp_path / "mine.py").unlink()
    said = transfer(others, tmp_path / "b", tmp_path / "a", trainable="head")
    assert said.code == 0, said
    assert torch.equal(tensors(tmp_path / "a")["0.weight"], tensors(tmp_path / "b")["0.weight"])
    shutil.rmtree(tmp_path / "a")
    assert package.load(tmp_path / "b").predict(next((photos / "red").iterdir()))[0].classes


def test_gray_images_and_another_size(source: Path, photos: Path, tmp_path: Path) -> None:
    for file in sorted(photos.rglob("*.png")):
        (tmp_path / "gray" / file.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(file).convert("L").save(tmp_path / "gray" / file.parent.name / file.name)
    said = transfer(tmp_path / "gray", tmp_path / "run", source, trainable="head", size="24")
    assert said.code == 0, said
    assert "stem.conv.weight summed over red, green and blue for gray images" in said.err
    weight = tensors(tmp_path / "run")["stem.conv.weight"]
    assert torch.equal(weight, tensors(source)["stem.conv.weight"].sum(1, keepdim=True))
    old, new = (package.load(run).members[0].preprocess for run in (source, tmp_path / "run"))
    assert new.size == (24, 24) and new.channels == 1
    assert new.mean == pytest.approx((np.mean(old.mean),)) and new.std == pytest.approx((np.mean(old.std),))


def test_a_stem_stays_what_it_was(others: Path, photos: Path, tmp_path: Path) -> None:
    """At 96 pixels resnet would begin with another conv."""
    assert train(photos, tmp_path / "a", model="resnet(20)", budget="1 step", evaluate_every="1 epoch").code == 0
    said = transfer(others, tmp_path / "b", tmp_path / "a", "--dry", size="96")
    assert "model = resnet(20, stem='small')" in said.err and "anew for another shape" not in said.err, said


# ---- resumed and replayed ----------------------------------------------------------------------------------------------------------


def test_a_resume_needs_no_source(source: Path, others: Path, tmp_path: Path) -> None:
    chosen = {"schedule": "constant", "trainable": "last(1)", "cached_views": "0"}  # which the default would choose by the budget
    moved = copied(source, tmp_path / "source")
    whole = transfer(others, tmp_path / "whole", moved, budget="2 epochs", **chosen)
    assert whole.code == 0, whole
    assert transfer(others, tmp_path / "run", moved, budget="1 epoch", **chosen).code == 0
    shutil.rmtree(moved)
    said = transfer(others, tmp_path / "run", moved, "--resume", "auto", budget="2 epochs", **chosen)
    assert said.code == 0 and "Continuing" in said.err, said
    assert_equal(tmp_path / "whole", tmp_path / "run")
    assert Run(tmp_path / "run").read("about.json")["source"]["name"] == str(moved)


def test_a_run_killed_before_its_first_checkpoint_goes_on(source: Path, headed: Path, others: Path, tmp_path: Path) -> None:
    kept = copied(source, tmp_path / "source")
    run = tmp_path / "run"
    assert transfer(others, run, kept, trainable="head").code == 0
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").unlink()
    resumed = transfer(others, run, kept, "--resume", "auto", trainable="head")
    assert resumed.code == 0 and "at step 0." in resumed.err, resumed
    assert_equal(headed, run)
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").unlink()
    shutil.rmtree(kept)
    resumed = transfer(others, run, kept, "--resume", "auto", trainable="head")
    assert resumed.code == 0, "the run has the weights that it started from"
    assert_equal(headed, run)
    for file in ("start.safetensors", "model.safetensors"):
        (run / file).unlink()
    shutil.rmtree(run / "checkpoints")
    refused(transfer(others, run, kept, "--resume", "auto", trainable="head"), 2, "found nothing at")


def test_the_recipe_replays(headed: Path, tmp_path: Path) -> None:
    said = goodfit("train", "--recipe", headed / "recipe.toml", "--out", tmp_path / "again")
    assert said.code == 0, said
    assert_equal(headed, tmp_path / "again")
    assert (headed / "recipe.toml").read_text() == (tmp_path / "again" / "recipe.toml").read_text()


def test_a_source_that_has_changed_is_refused(source: Path, others: Path, tmp_path: Path) -> None:
    moved = copied(source, tmp_path / "source")
    digest = hashlib.sha256((moved / "model.safetensors").read_bytes()).hexdigest()
    save_file({name: x + 1 for name, x in tensors(moved).items()}, moved / "model.safetensors")
    write_config(Run(moved), Run(moved).read("config.json"))
    refused(transfer(others, tmp_path / "run", f"{moved}#sha256={digest}"), 3, "have changed: expected SHA-256", f'--from "{moved}"')
    assert transfer(others, tmp_path / "run", moved, "--dry").code == 0


def test_sources_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    assert absolute_source("") == ""
    assert absolute_source("resnet50:imagenet") == "resnet50:imagenet" and absolute_source("vgg16") == "vgg16"
    assert absolute_source("resnet18") == str(tmp_path / "resnet18"), "a folder of that name is nearer"
    assert absolute_source("runs/gone") == str(tmp_path / "runs" / "gone")
    assert absolute_source("gone#sha256=0123abcd") == f"{tmp_path / 'gone'}#sha256=0123abcd"


# ---- files and published weights ---------------------------------------------------------------------------------------------------


def test_a_file_of_tensors_needs_a_model(source: Path, others: Path, tmp_path: Path) -> None:
    torch.save(tensors(source), tmp_path / "a.pth")
    refused(transfer(others, tmp_path / "run", tmp_path / "a.pth"), 2, "Expected the --model that the weights in")
    said = transfer(others, tmp_path / "run", tmp_path / "a.pth", model="convnet(4)", size="16", trainable="head")
    assert said.code == 0 and "25 of 27 tensors copied unchanged" in said.err, said
    assert Recipe.from_toml(tmp_path / "run" / "recipe.toml").mean == "data", "a file does not say what its net saw"
    assert torch.equal(tensors(tmp_path / "run")["stem.conv.weight"], tensors(source)["stem.conv.weight"])
    said = transfer(others, tmp_path / "other", source / "model.safetensors", "--dry")
    assert "model = convnet(4)" in said.err, "a run's own file is that run"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path) -> str:
    """Published weights of a small net, in the cache already."""
    file = io.BytesIO()
    torch.save({name: x for name, x in tensors(source).items() if "num_batches" not in name}, file)
    name = f"tiny-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "tiny:V1", PublishedWeights(name, "convnet(4)", 50.0, 90.0, 16, 18))
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "downloads" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "downloads" / "weights" / name).write_bytes(file.getvalue())
    return "tiny:imagenet"


def test_published_weights(tiny: str, source: Path, others: Path, tmp_path: Path) -> None:
    said = transfer(others, tmp_path / "run", tiny, trainable="head")
    assert said.code == 0, said
    assert "tiny:V1: 25 of 27 tensors copied unchanged" in said.err and "top-1 50.0 %, top-5 90.0 % on ImageNet" in said.err
    preprocess = package.load(tmp_path / "run").members[0].preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == ((16, 16), IMAGENET_MEAN, IMAGENET_STD)
    recipe = Recipe.from_toml(tmp_path / "run" / "recipe.toml")
    assert recipe.source.startswith("tiny:V1#sha256=") and recipe.mean == IMAGENET_MEAN
    assert Run(tmp_path / "run").read("about.json")["asked"]["source"] == tiny
    for name, x in tensors(source).items():
        assert name.startswith("head.") or "num_batches" in name or torch.equal(x, tensors(tmp_path / "run")[name])


@pytest.mark.thorough
def test_resnet18_is_224_pixels_of_imagenets_colors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole plan with weights of torchvision's names and shapes, made here; images of 20 pixels are enlarged to 96 at most."""
    others = make_photos(tmp_path / "others", each=24, side=64)
    with torch.device("meta"):
        part: Any = load_catalog().make("resnet(18, stem=imagenet)", "model")
        shapes = {name: x.shape for name, x in part(1000, 3, (224, 224)).state_dict().items() if "num_batches" not in name}
    file = io.BytesIO()
    torch.save({name: torch.full(shape, 0.5) for name, shape in shapes.items()}, file)
    about = PUBLISHED["resnet18:IMAGENET1K_V1"]
    name = f"resnet18-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "resnet18:IMAGENET1K_V1", about._replace(file=name))
    (tmp_path / name).write_bytes(file.getvalue())
    recipe = Recipe().but_text({key: value for key, value in FAST.items() if key not in OPEN})
    asked = recipe.but(data=str(others), source=str(tmp_path / name))
    with pytest.raises(UsageError, match="are not finite"):
        prepare(asked)
    prepared = prepare(asked.but(head_init="random"))
    assert prepare(asked.but(head_init="random", data=str(make_photos(tmp_path / "small", each=8)))).recipe.size == 96
    preprocess, training = prepared.data.preprocess, prepared.training
    assert (prepared.recipe.size, preprocess.mean, preprocess.std) == (224, IMAGENET_MEAN, IMAGENET_STD)
    assert (
        training.notes[0].endswith(": 100 of 102 tensors copied unchanged")
        and training.notes[1].strip() == "fc.weight, fc.bias newly initialized for 3 classes"
    )
    state = training.state.model.state_dict()
    assert all(bool((state[name] == 0.5).all()) for name in shapes if not name.startswith("fc."))


# ---- what cannot be -----------------------------------------------------------------------------------------------------------------


def test_what_is_no_source(source: Path, others: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(transfer(others, out, tmp_path / "nowhere"), 2, "Expected weights to start from", "found nothing at")
    refused(transfer(others, out, "resnet81:imagenet"), 2, 'Did you mean "resnet18"?')
    refused(transfer(others, out, "resnet18:V9"), 2, 'Unknown weights of resnet18 "V9"', "IMAGENET1K_V1")
    refused(transfer(others, out, others), 2, "Expected a run folder")
    refused(transfer(others, out, source, model="mlp((8,))"), 2, "None of the checkpoint's tensors match the model")
    (tmp_path / "a.pth").write_bytes(b"nonsense")
    refused(transfer(others, out, tmp_path / "a.pth", model="convnet(4)"), 3, "so it is not opened")
    unfinished = copied(source, tmp_path / "unfinished")
    (unfinished / "config.json").unlink()
    refused(transfer(others, out, unfinished), 2, "has no model yet")
    assert not out.exists()


def test_mean_and_std_by_hand(photos: Path, tmp_path: Path) -> None:
    refused(train(photos, tmp_path / "run", mean="(0.5,)"), 2, "Expected mean to have 3 numbers, one for each channel, received 1")
    refused(train(photos, tmp_path / "run", std="(0.5, 0.5, 0)"), 2, "expected std to be")
    refused(train(photos, tmp_path / "run", mean="mine"), 2, 'expected mean to be "auto" or "data" or "image" or a tuple')
    assert train(photos, tmp_path / "run", mean="(0.5, 0.4, 0.3)", std="(0.2, 0.2, 0.2)").code == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["preprocess"]
    assert (kept["mean"], kept["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    before = Run(tmp_path / "run").read("scores.json")["validation"]["loss"]
    assert package.evaluate(tmp_path / "run")["loss"] == before


def test_numbers_of_the_source_can_be_overruled(source: Path, others: Path) -> None:
    recipe = Recipe().but_text({key: value for key, value in FAST.items() if key not in OPEN}).but(data=str(others), source=str(source))
    data = prepare(recipe.but(mean="data", std="data", size=20)).data
    assert data.preprocess.mean == data.statistics.mean and data.preprocess.size == (20, 20)
    with pytest.raises(DataError, match="Expected weights in a file that ends in"):
        prepare(recipe.but(source=str(source / "recipe.toml")))
    with pytest.raises(UsageError, match="found nothing at"):
        prepare(recipe.but(source="nowhere"))
