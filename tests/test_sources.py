"""Sources of weights on the command line: files as people have them, timm and the Hugging Face hub, each by a small stand-in."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import goodfit as package
from goodfit.core.run import Run
from goodfit.models.weights.published import IMAGENET_MEAN, PUBLISHED, PublishedWeights
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.pretrained import absolute_source
from tests.support.command import FAST, Said, goodfit, refused

OPEN = ("size", "model")  # what a source may say


def transfer(data: Path, out: Path, source: str | Path, *more: str | Path, **changes: str) -> Said:
    """Run `goodfit train DATA --from SOURCE --trainable head` with the fast recipe."""
    words = {**{key: value for key, value in FAST.items() if key not in OPEN}, "trainable": "head", **changes}
    options = [word for key, value in words.items() for word in (f"--{key.replace('_', '-')}", value)]
    return goodfit("train", data, "--out", out, "--from", source, "--verbose", *options, *more)


def kept(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def about_source(run: Path) -> dict[str, Any]:
    source: dict[str, Any] = Run(run).read("about.json")["source"]
    return source


def learned(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(99)
    return {name: torch.rand(x.shape, generator=generator) if x.is_floating_point() else x for name, x in net.state_dict().items()}


def convnet(classes: int = 1000) -> dict[str, Tensor]:
    part: Any = load_catalog().make("convnet(4)", "model")
    return learned(part(classes, 3, (16, 16)))


# ---- files -------------------------------------------------------------------------------------------------------------------------


def test_what_was_taken_off_a_file_is_said_and_kept(photos: Path, tmp_path: Path) -> None:
    tensors = convnet()
    averaged = {f"module.backbone.{name}": x for name, x in tensors.items()}
    torch.save({"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": averaged, "epoch": 9}, tmp_path / "a.pth")
    said = transfer(photos, tmp_path / "run", tmp_path / "a.pth", model="convnet(4)", size="16")
    assert said.code == 0, said
    assert "a.pth: 25 of 27 tensors copied unchanged" in said.err
    assert "its tensors lie under state_dict_ema, not under state_dict" in said.err
    assert '"module.backbone." is taken off the names in the source' in said.err
    source = about_source(tmp_path / "run")
    assert (source["keys"], source["tensors"]["prefix"]) == (["state_dict_ema"], "module.backbone.")
    assert torch.equal(kept(tmp_path / "run")["stem.conv.weight"], tensors["stem.conv.weight"])


def test_from_by_order(photos: Path, tmp_path: Path) -> None:
    tensors = {name: x for name, x in convnet().items() if "num_batches" not in name}
    torch.save({f"x{i}.{name.rpartition('.')[2]}": x for i, (name, x) in enumerate(tensors.items())}, tmp_path / "a.pth")
    options = {"model": "convnet(4)", "size": "16"}
    refused(
        transfer(photos, tmp_path / "run", tmp_path / "a.pth", **options), 2, "By order and shape they fit: --from-by order takes them so."
    )
    said = transfer(photos, tmp_path / "run", tmp_path / "a.pth", "--from-by", "order", **options)
    assert said.code == 0 and "matched by order and shape, not by name: stem.conv.weight <- x0.weight" in said.err, said
    names = about_source(tmp_path / "run")["tensors"]["pairs"]
    assert names == {name: f"x{i}.{name.rpartition('.')[2]}" for i, name in enumerate(tensors)}
    after = kept(tmp_path / "run")
    assert all(torch.equal(x, after[name]) for name, x in tensors.items() if not name.startswith("head."))
    assert Recipe.from_toml(tmp_path / "run" / "recipe.toml").source_by == "order"
    assert goodfit("train", "--recipe", tmp_path / "run" / "recipe.toml", "--out", tmp_path / "again").code == 0
    assert all(torch.equal(x, after[name]) for name, x in kept(tmp_path / "again").items())
    refused(goodfit("train", photos, "--from-by", "order"), 2, "Expected --from beside --from-by order")


@pytest.mark.thorough
def test_a_bare_file_of_a_published_net(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "tiny:V1", PublishedWeights("tiny-0123abcd.pth", "convnet(4)", 50.0, 90.0, 16, 18))
    torch.save(convnet(), tmp_path / "a.pth")
    said = transfer(photos, tmp_path / "run", tmp_path / "a.pth")
    assert said.code == 0, said
    for line in (
        "model = convnet(4)  (the model that its weights are of: its tensors are those of torchvision's tiny, and the file says no more)",
        "size = 16  (the size that its weights were trained at, assumed; --size sets another",
        "mean = 0.485, 0.456, 0.406  (ImageNet's mean and std assumed, those of torchvision's tiny; --set mean=data takes the images' own",
        "std = 0.229, 0.224, 0.225  (ImageNet's mean and std assumed, those of torchvision's tiny; --set std=data takes the images' own",
    ):
        assert line in said.err, line
    assert about_source(tmp_path / "run")["assumed_from"] == "torchvision's tiny"
    assert Recipe.from_toml(tmp_path / "run" / "recipe.toml").mean == IMAGENET_MEAN
    torch.save({f"x{i}": x for i, x in enumerate(convnet().values()) if x.ndim}, tmp_path / "b.pth")
    offer = "a file of tensors does not say it. By order and shape they are those of torchvision's tiny: --from-by order takes them so."
    refused(transfer(photos, tmp_path / "b", tmp_path / "b.pth"), 2, offer)
    assert transfer(photos, tmp_path / "b", tmp_path / "b.pth", "--from-by", "order", "--dry").code == 0
    said = transfer(photos, tmp_path / "own", tmp_path / "a.pth", "--set", "mean=data", "--set", "std=data", size="24")
    assert said.code == 0 and "assumed, those" not in said.err, said
    recipe = Recipe.from_toml(tmp_path / "own" / "recipe.toml")
    assert (recipe.mean, recipe.std, recipe.size) == ("data", "data", 24)


def test_the_stem_of_a_model_is_that_of_its_weights(photos: Path, tmp_path: Path) -> None:
    """At 32 pixels mobilenet_v2 would begin with a stem for small images, whose shapes are the same."""
    part: Any = load_catalog().make("mobilenet_v2(stem=imagenet)", "model")
    torch.save({name: x for name, x in part(1000, 3, (224, 224)).state_dict().items() if "classifier" not in name}, tmp_path / "a.pth")
    said = transfer(photos, tmp_path / "run", tmp_path / "a.pth", "--dry", model="mobilenet_v2", size="32")
    assert said.code == 0 and "model = mobilenet_v2(stem='imagenet')  (the stem that its weights have" in said.err, said
    said = transfer(photos, tmp_path / "run", tmp_path / "a.pth", "--dry", model="mobilenet_v2(stem=small)", size="32")
    assert said.code == 0 and "stem='imagenet'" not in said.err and "mean = data  (the images' own, assumed" in said.err, said


def test_a_stem_is_known_by_its_tensors(photos: Path, tmp_path: Path) -> None:
    """The order is offered for a net that would begin with another stem at 32 pixels."""
    part: Any = load_catalog().make("resnet(20, stem=imagenet)", "model")
    tensors = {name: x for name, x in part(9, 3, (224, 224)).state_dict().items() if "num_batches" not in name}
    torch.save(tensors, tmp_path / "a.pth")
    torch.save({f"x{i}": x for i, x in enumerate(tensors.values())}, tmp_path / "b.pth")
    said = transfer(photos, tmp_path / "run", tmp_path / "a.pth", "--dry", model="resnet(20)", size="32")
    assert said.code == 0 and "model = resnet(20, stem='imagenet')  (the stem that its weights have" in said.err, said
    refused(transfer(photos, tmp_path / "run", tmp_path / "b.pth", model="resnet(20)", size="32"), 2, "--from-by order takes them so.")
    said = transfer(photos, tmp_path / "run", tmp_path / "b.pth", "--from-by", "order", "--dry", model="resnet(20)", size="32")
    assert said.code == 0 and "95 of 97 tensors copied" in said.err, said


# ---- timm --------------------------------------------------------------------------------------------------------------------------


class TinyNet(nn.Module):
    """A net as timm makes them."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(channels, 6, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] > 8, "too small"
        scores: Tensor = self.classifier(self.bn1(self.conv_stem(x)).relu().mean((2, 3)))
        return scores


TINY_CONFIG = {
    "architecture": "tiny",
    "tag": "a1_in1k",
    "input_size": (3, 20, 20),
    "fixed_input_size": True,
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.25, 0.2),
    "num_classes": 1000,
}


class FakeTimm(ModuleType):
    """A stand-in for timm with one model; `pretrained_calls` counts how often weights were asked for, `shift` is added to them."""

    def __init__(self) -> None:
        super().__init__("timm")
        self.pretrained_calls, self.shift = 0, 0
        self.failure: Exception | None = None

    def create_model(
        self, model_name: str, pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **kwargs: Any
    ) -> nn.Module:
        assert not kwargs, kwargs
        if not self.is_model(model_name):
            raise RuntimeError(f"Unknown model ({model_name})")
        net: Any = TinyNet(num_classes, in_chans)
        net.pretrained_cfg = TINY_CONFIG
        if pretrained:
            self.pretrained_calls += 1
            if self.failure:
                raise self.failure
            net.load_state_dict({name: x + self.shift for name, x in learned(net).items()})
        return net  # type: ignore[no-any-return]

    def is_model(self, name: str) -> bool:
        return name.partition(".")[0] == "tiny"

    def list_models(self) -> list[str]:
        return ["tiny"]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> FakeTimm:
    module = FakeTimm()
    monkeypatch.setattr(FakeTimm.create_model, "__module__", "timm")
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_weights_of_timm(timm: FakeTimm, photos: Path, tmp_path: Path) -> None:
    said = transfer(photos, tmp_path / "run", "timm:tiny")
    assert said.code == 0, said
    assert "model = timm.create_model('tiny.a1_in1k')  (the model that its weights are of: timm:tiny.a1_in1k)" in said.err
    assert "size = 20  (the size that its weights were trained at, and the only one that the model takes" in said.err
    assert "timm:tiny.a1_in1k: 5 of 7 tensors copied unchanged" in said.err
    assert "its images were resized by bicubic interpolation, here they are by hamming" in said.err
    source, preprocess = about_source(tmp_path / "run"), package.load(tmp_path / "run").members[0].preprocess
    assert (source["name"], source["interpolation"], timm.pretrained_calls) == ("timm:tiny.a1_in1k", "bicubic", 1)
    assert (preprocess.size, preprocess.mean, preprocess.std) == ((20, 20), TINY_CONFIG["mean"], TINY_CONFIG["std"])
    expected = learned(TinyNet(1000, 3))
    assert all(torch.equal(x, expected[name]) for name, x in kept(tmp_path / "run").items() if not name.startswith("classifier."))
    again = transfer(photos, tmp_path / "again", f"timm:tiny#sha256={source['sha256']}", "--dry")
    assert again.code == 0 and timm.pretrained_calls == 2, again
    refused(transfer(photos, tmp_path / "again", "timm:tiny", size="8"), 2, "does not take images of 3x8x8: too small.")
    timm.shift = 1
    refused(transfer(photos, tmp_path / "again", f"timm:tiny#sha256={source['sha256']}"), 3, "have changed")


def test_a_model_of_timm_with_weights_from_a_file(timm: FakeTimm, photos: Path, tmp_path: Path) -> None:
    """What timm says of its own weights of that net is assumed, unless the file lacks some of it."""
    expected, model = learned(TinyNet(1000, 3)), "timm.create_model('tiny')"
    save_file(expected, tmp_path / "a.safetensors")
    said = transfer(photos, tmp_path / "run", tmp_path / "a.safetensors", model=model)
    assert said.code == 0 and timm.pretrained_calls == 0, said
    assert "size = 20  (the size that its weights were trained at, and the only one that the model takes" in said.err
    assert "mean = 0.5, 0.4, 0.3  (mean and std assumed, those of timm's tiny; --set mean=data takes the images' own" in said.err
    assert torch.equal(kept(tmp_path / "run")["conv_stem.weight"], expected["conv_stem.weight"])
    refused(
        transfer(photos, tmp_path / "own", tmp_path / "a.safetensors", model=model, size="8"), 2, "does not take images of 3x8x8: too small"
    )
    save_file({name: x for name, x in expected.items() if name != "bn1.bias"}, tmp_path / "b.safetensors")
    said = transfer(photos, tmp_path / "own", tmp_path / "b.safetensors", model=model, size="24")
    assert said.code == 0 and "timm's" not in said.err and "std = data  (the images' own, assumed" in said.err, said
    assert Recipe.from_toml(tmp_path / "own" / "recipe.toml").mean == "data"


def test_timm_fails_in_one_sentence(timm: FakeTimm, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    refused(transfer(photos, out, "timm:tinny"), 2, 'timm has no weights of "tinny" (Unknown model (tinny))', 'Did you mean "tiny"?')
    timm.failure = OSError("We could not connect. Please check your connection.")
    refused(transfer(photos, out, "timm:tiny"), 3, "cannot be fetched (We could not connect)", "--model \"timm.create_model('tiny')\"")
    timm.failure = RuntimeError("No pretrained weights exist for tiny.")
    refused(transfer(photos, out, "timm:tiny"), 2, "(No pretrained weights exist for tiny).")
    monkeypatch.setitem(sys.modules, "timm", None)
    refused(transfer(photos, out, "timm:tiny"), 2, '"timm:tiny" needs timm: pip install timm.')
    assert not out.exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo evil",)


def test_timm_unpickles_nothing_but_tensors(
    timm: FakeTimm, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.bin")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: torch.load(tmp_path / "evil.bin", weights_only=False))
    refused(transfer(photos, tmp_path / "run", "timm:tiny"), 3, "cannot be fetched")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.bin", weights_only=True)
    assert "evil" not in capfd.readouterr().out and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# ---- the hub -----------------------------------------------------------------------------------------------------------------------


class EntryNotFoundError(Exception):
    """The repository has no such file."""


class LocalEntryNotFoundError(EntryNotFoundError, FileNotFoundError):
    """The file is not in the cache, and there is no connection."""


class FakeHub(ModuleType):
    """A stand-in for huggingface_hub whose repositories are folders in `root`; without a connection it warns, and has what is there."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.is_connected = root, True

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        path = self.root / repo_id / filename
        if path.is_file():
            return str(path)
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 8s")
        if self.is_connected:
            raise EntryNotFoundError(f"404 Client Error for {filename}.")
        raise LocalEntryNotFoundError("Cannot reach the hub. Please check your connection.")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    module, errors = FakeHub(tmp_path / "hub"), ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError, errors.LocalEntryNotFoundError = EntryNotFoundError, LocalEntryNotFoundError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    (tmp_path / "hub" / "me" / "tiny").mkdir(parents=True)
    save_file(learned(TinyNet(1000, 3)), tmp_path / "hub" / "me" / "tiny" / "model.safetensors")
    return module


def flat(config: dict[str, Any]) -> dict[str, Any]:
    return config


def nested(config: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in config.items() if key not in ("architecture", "num_classes")}
    return {"architecture": config["architecture"], "num_classes": 1000, "pretrained_cfg": inner}


@pytest.mark.parametrize("form", [flat, nested])
def test_weights_of_the_hub(form: Any, timm: FakeTimm, hub: FakeHub, photos: Path, tmp_path: Path) -> None:
    (hub.root / "me" / "tiny" / "config.json").write_text(json.dumps(form(TINY_CONFIG)))
    said = transfer(photos, tmp_path / "run", "hf:me/tiny")
    assert said.code == 0 and timm.pretrained_calls == 0, said
    assert "model = timm.create_model('tiny')" in said.err and "hf:me/tiny: 5 of 7 tensors copied unchanged" in said.err
    preprocess = package.load(tmp_path / "run").members[0].preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == ((20, 20), TINY_CONFIG["mean"], TINY_CONFIG["std"])
    assert Recipe.from_toml(tmp_path / "run" / "recipe.toml").source.startswith("hf:me/tiny#sha256=")
    hub.is_connected = False
    assert transfer(photos, tmp_path / "again", "hf:me/tiny", "--dry").code == 0, "it is in the cache"


def test_a_repository_without_a_configuration(timm: FakeTimm, hub: FakeHub, photos: Path, tmp_path: Path) -> None:
    refused(transfer(photos, tmp_path / "run", "hf:me/tiny"), 2, 'Expected the --model that the weights in "hf:me/tiny" are of')
    (hub.root / "me" / "tiny" / "model.safetensors").rename(hub.root / "me" / "tiny" / "other.safetensors")
    said = transfer(photos, tmp_path / "run", "hf:me/tiny/other.safetensors", model="timm.create_model('tiny')", size="20")
    assert said.code == 0 and "5 of 7 tensors copied" in said.err, said
    hub.is_connected = False
    again = transfer(photos, tmp_path / "again", "hf:me/tiny/other.safetensors", "--dry", model="timm.create_model('tiny')", size="20")
    assert again.code == 0, "the weights are in the cache, and no config.json can be"


def test_the_hub_fails_in_one_sentence(
    hub: FakeHub, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: str, code: int, *parts: str) -> None:
        refused(transfer(photos, tmp_path / "run", source, model="linear", size="16"), code, *parts)

    refuse("hf:me/none", 3, 'The repository "me/none" has no model.safetensors', "hf:me/none/FILE.safetensors")
    refuse("hf:tiny", 2, 'Expected hf:OWNER/NAME or hf:OWNER/NAME/FILE.safetensors, received "hf:tiny"')
    refuse("hf:me/tiny/pytorch_model.bin", 2, "Expected hf:OWNER/NAME or")
    (hub.root / "me" / "tiny" / "config.json").write_text('{"mean": "gray"}')
    refuse("hf:me/tiny", 3, 'The configuration of "hf:me/tiny" is not of the form that timm writes')
    (hub.root / "me" / "tiny" / "config.json").write_text("[]")
    refuse("hf:me/tiny", 3, "does not read as a configuration")
    hub.is_connected = False
    refuse("hf:me/none", 3, 'model.safetensors of "me/none" cannot be fetched from the Hugging Face hub (Cannot reach the hub)')
    assert not caplog.records, "the sentence says it all"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refuse("hf:me/tiny", 2, '"hf:me/tiny" needs the extra: pip install "goodfit[hub]".')


def test_names_of_timm_and_the_hub_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("timm:resnet18", "hf:me/tiny", "hf:me/tiny#sha256=0123abcd"):
        assert absolute_source(source) == source
    (tmp_path / "timm:resnet18").write_text("")
    assert absolute_source("timm:resnet18") == str(tmp_path / "timm:resnet18"), "a file of that name is nearer"


def test_what_is_assumed_of_a_source_stands_in_the_short_plan(timm: FakeTimm, photos: Path, tmp_path: Path) -> None:
    save_file(learned(TinyNet(1000, 3)), tmp_path / "a.safetensors")
    words = [word for key, value in FAST.items() if key not in OPEN for word in (f"--{key.replace('_', '-')}", value)]
    said = goodfit(
        "train", photos, "--from", tmp_path / "a.safetensors", *words, "--model", "timm.create_model('tiny')", "--out", tmp_path / "run"
    )
    assert said.code == 0 and "mean = 0.5, 0.4, 0.3  (mean and std assumed" in said.err and "batch_size = " not in said.err, said.err
