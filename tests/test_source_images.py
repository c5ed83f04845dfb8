"""A source decides how images come to its net, and with which stem; without one, no random weights stay frozen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import goodfit as package
from goodfit.core.errors import UsageError
from goodfit.core.settings import settings_of
from goodfit.models.weights.files import Weights
from goodfit.models.weights.surgery import find_heads
from goodfit.recipe import prepare as preparation
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.assumptions import with_fitting_stem
from goodfit.runs import plan
from tests.support.command import goodfit, train
from tests.support.laws import holds_for
from tests.support.photos import make_photos

ROOT = Path(__file__).parents[1]
KNOWN = load_catalog()
STEMMED: dict[str, Any] = {
    name: cls for name, cls in KNOWN.kinds["model"].items() if any(setting.name == "stem" for setting in settings_of(cls))
}
every_stemmed_model = holds_for({name: (cls(),) for name, cls in STEMMED.items()})
TINY = Recipe(
    data="digits", limit=8, size=8, model="convnet(4)", augment="none", optimizer="sgd(0.05)", schedule="constant", budget="2 steps",
    batch_size=16, evaluate_every="1 epoch", precision="fp32", layout="contiguous", device="cpu", threads=1, pieces=1,
)  # fmt: skip


# ---- the stem ---------------------------------------------------------------------------------------------------------------------


@every_stemmed_model
def test_a_run_decides_the_stem_of_its_model(part: Any) -> None:
    """By the stem that it was trained with, whatever its size; by its size where that decided then."""

    def of_run(stem: str, side: int) -> str:
        weights = Weights("runs/a", "", {}, str(dataclasses.replace(part, stem=stem)), size=(side, side))
        found: Any = with_fitting_stem(part, weights, KNOWN)[0]
        assert dataclasses.replace(found, stem="auto") == part
        return str(found.stem)

    assert [of_run("imagenet", 64), of_run("small", 224)] == ["imagenet", "small"]
    assert [of_run("auto", 64), of_run("auto", 224)] == ["small", "imagenet"]
    asked = dataclasses.replace(part, stem="small")
    assert with_fitting_stem(asked, Weights("runs/a", "", {}, str(part), size=(224, 224)), KNOWN)[0] == asked, "what is asked for stays"


@every_stemmed_model
def test_a_bare_file_of_imagenet_s_net_decides_the_stem(part: Any) -> None:
    """Also where the tensors of both stems have the same shapes, which is then said to be assumed."""
    with torch.device("meta"):
        net: nn.Module = dataclasses.replace(part, stem="imagenet")(1000, 3, (224, 224))
    heads = find_heads(net)
    body = {name: x for name, x in net.state_dict().items() if name.rpartition(".")[0] not in heads}
    found, rule = with_fitting_stem(part, Weights("a.pth", "", body), KNOWN)
    assert found.stem == "imagenet"  # type: ignore[attr-defined]
    assert "the stem that its weights have" in rule or ("assumed" in rule and "'small')" in rule)


@pytest.mark.thorough
def test_a_narrow_mobilenet_takes_the_stem_of_imagenet_at_any_size(photos: Path, tmp_path: Path) -> None:
    """No weights of that width are known, and the stems differ in their strides alone."""
    part: Any = KNOWN.make("mobilenet_v2(0.25)", "model")
    torch.save(part(1000, 3, (224, 224)).state_dict(), tmp_path / "a.pth")
    options = ("--trainable", "head", "--epochs", "1", "--optimizer", "sgd(0.1)", "--dry")
    said = goodfit("train", photos, "--model", "mobilenet_v2(0.25)", "--from", tmp_path / "a.pth", *options)
    assert said.code == 0, said
    for line in (
        "model = mobilenet_v2(0.25, stem='imagenet')  (the stem for ImageNet assumed, for its weights fit either one;"
        " --model \"mobilenet_v2(0.25, stem='small')\" takes the other",
        "size = 96  (the largest, up to that of the weights, assumed,",
        "mean = 0.485, 0.456, 0.406  (ImageNet's mean and std assumed, those of most nets with the stem for ImageNet; --set mean=data",
    ):
        assert line in said.err, line


def test_a_file_that_says_nothing_has_what_is_assumed_said(photos: Path, tmp_path: Path) -> None:
    """In the few lines of the plan, too."""
    part: Any = KNOWN.make("convnet(4)", "model")
    torch.save(part(9, 3, (16, 16)).state_dict(), tmp_path / "a.pth")
    said = train(photos, tmp_path / "run", "--from", tmp_path / "a.pth", model="convnet(4)", size="auto")
    assert said.code == 0, said
    for line in (
        "size = 20  (their own size, from 16 up to 64 pixels; assumed, for the weights do not say theirs)",
        "mean = data  (the images' own, assumed, for the weights do not say theirs; --set mean=... sets others)",
        "std = data  (the images' own, assumed, for the weights do not say theirs; --set std=... sets others)",
    ):
        assert line in said.err, line


# ---- aspect and white ---------------------------------------------------------------------------------------------------------------


def make_scans(root: Path, brightest: int) -> Path:
    """A folder of 16-bit gray pictures, wider than high, whose left or right half is bright."""
    rng = np.random.default_rng(brightest)
    for k, name in enumerate(("left", "right")):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, brightest // 4, (12, 20))
            pixels[:, 10 * k : 10 * k + 10] += brightest // 2
            pixels[0, 0] = brightest
            Image.fromarray(pixels.astype(np.uint16)).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 12-bit scans that were padded."""
    folder = tmp_path_factory.mktemp("scans")
    said = train(make_scans(folder / "data", 4000), folder / "run", model="convnet(4)", optimizer="sgd(0.05)", aspect="pad")
    assert said.code == 0, said
    return folder / "run"


def preprocessed(recipe: Recipe) -> Any:
    return prepare(recipe).data.preprocess


def test_a_run_decides_how_images_are_shown(scanned: Path, tmp_path: Path) -> None:
    """Darker scans would have another white, and would be cropped."""
    own = package.load(scanned).members[0].preprocess
    assert (own.white_level, own.aspect, own.channels) == (4095, "pad", 1)
    dark = make_scans(tmp_path / "dark", 900)
    plain = TINY.but(data=str(dark), size="auto", model="convnet(4)")
    alone = preprocessed(plain)
    assert (alone.white_level, alone.aspect) == (1023, "crop")
    source = plain.but(model="auto", source=str(scanned))
    assert preprocessed(source) == own
    asked = preprocessed(source.but(aspect="stretch", white_level=1023))
    assert (asked.white_level, asked.aspect) == (1023, "stretch"), "what is asked for wins"
    bright = make_scans(tmp_path / "bright", 60000)
    assert preprocessed(source.but(data=str(bright))).white_level == 65535, "its images are brighter than the source's white"


def test_a_run_keeps_the_white_it_was_trained_with(scanned: Path, tmp_path: Path) -> None:
    dark = make_scans(tmp_path / "dark", 900)
    said = train(dark, tmp_path / "run", "--from", scanned, model="auto", size="auto")
    assert said.code == 0, said
    assert "white_level = 4095\n" in (tmp_path / "run" / "recipe.toml").read_text()
    before = package.load(tmp_path / "run").members[0].preprocess
    assert (before.white_level, before.aspect) == (4095, "pad")
    assert package.evaluate(tmp_path / "run")["accuracy"] >= 0.5


# ---- random weights that stay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["head", "last(1)", "since(stage1)", "head(0.5) | last(1)"])
def test_random_weights_are_not_frozen_for_good(text: str) -> None:
    with pytest.raises(UsageError, match=r"of the network at the random weights it starts with: give --from .* or --trainable all"):
        prepare(TINY.but(trainable=text))


@pytest.mark.parametrize(
    ("text", "warns"), [("all", False), ("gradual", True), ("head(0.5) | all", True), ("last(2)", False), ("auto", False)]
)
def test_random_weights_frozen_at_first_are_warned_of(text: str, warns: bool) -> None:
    warnings = prepare(TINY.but(trainable=text)).training.warnings
    assert any("random and have nothing to keep" in warning for warning in warnings) == warns


def test_filters_made_from_the_images_may_stay() -> None:
    """As in airbench, which whitens by a frozen conv; those that are not must learn."""
    whitened = TINY.but(model="swift(8)", size=16, trainable="since(group1)")
    assert prepare(whitened).training.warnings == ()
    with pytest.raises(UsageError, match="random weights"):
        prepare(whitened.but(model="swift(8, init=he)"))


def test_with_a_source_or_weights_of_its_own_a_net_may_be_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part: Any = KNOWN.make("convnet(4)", "model")
    torch.save(part(10, 1, (8, 8)).state_dict(), tmp_path / "a.pth")
    prepared = prepare(TINY.but(trainable="head", source=str(tmp_path / "a.pth"), channels=1))
    assert not any("random" in warning for warning in prepared.training.warnings)
    (tmp_path / "net_with_weights.py").write_text(
        "from torch import nn\n\n\ndef net(classes, channels, size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 9), nn.Linear(9, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert prepare(TINY.but(model="net_with_weights.net", trainable="head")).training.plan.trainable


def test_a_run_that_began_so_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As runs of earlier versions may have begun."""
    monkeypatch.setattr(preparation, "check_random_stages", lambda training, parts: ())
    words = {"model": "convnet(4)", "trainable": "head", "optimizer": "sgd(0.05)"}
    assert train(photos, tmp_path / "run", **words, budget="1 epoch").code == 0
    monkeypatch.undo()
    said = train(photos, tmp_path / "run", "--resume", "auto", **words, budget="2 epochs")
    assert said.code == 0 and "Continuing" in said.err, said


# ---- what weights would be worth --------------------------------------------------------------------------------------------------

WORTH = "Pretrained weights are worth more here"


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("large") / "photos", each=8, side=80)


def test_few_photos_without_a_source_are_told_what_weights_are_worth(
    large_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: not by the second seed, the next run, or a run that goes on."""
    monkeypatch.chdir(tmp_path)
    words: tuple[str | Path, ...] = ("train", large_photos, "--model", "convnet(4)", "--size", "16", "--epochs", "1")
    said = goodfit(*words, "--seeds", "2")
    assert said.code == 0 and said.err.count(WORTH) == 1, said
    assert "  --from mobilenet_v2:imagenet fetches them; --from also takes a file (.pth, .safetensors) or a run of yours." in said.err
    assert WORTH not in goodfit(*words, "--seed", "9").err
    out = ("--out", tmp_path / "elsewhere")
    monkeypatch.chdir(large_photos)
    assert WORTH in goodfit(*words, *out, "--verbose").err
    said = goodfit(*words[:-1], "2", *out, "--resume", "auto")
    assert said.code == 0 and "Continuing" in said.err and WORTH not in said.err, said


def test_others_are_not_told(large_photos: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gray or small images, as of digits; a linear model; many images; a training from weights."""
    monkeypatch.chdir(tmp_path)
    shared = ("--size", "16", "--epochs", "1", "--dry")

    def is_told(*words: str | Path) -> bool:
        said = goodfit("train", *words, *shared)
        assert said.code == 0, said
        return WORTH in said.err

    assert is_told(large_photos, "--model", "convnet(4)")
    assert not is_told(photos, "--model", "convnet(4)")
    assert not is_told(large_photos, "--model", "convnet(4)", "--channels", "1")
    assert not is_told(large_photos, "--model", "linear")
    part: Any = KNOWN.make("convnet(4)", "model")
    torch.save(part(3, 3, (16, 16)).state_dict(), tmp_path / "a.pth")
    assert not is_told(large_photos, "--model", "convnet(4)", "--from", tmp_path / "a.pth")
    monkeypatch.setattr(plan, "FEW_PHOTOS", 10)
    assert not is_told(large_photos, "--model", "convnet(4)")


def test_what_is_told_was_measured() -> None:
    """By the row of the README that its bench printed."""
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if "`transfer_real.py`" in line)
    assert "10 images a class 72.0 % in 32 s, from scratch 37.4 % in 5 minutes" in row
    assert "72 %, training from scratch 37 %" in plan.WORTH_OF_WEIGHTS[plan.VERY_FEW_PHOTOS]
