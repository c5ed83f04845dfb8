"""Matching a source's tensors to a model's: prefixes of names, order and shape, and files of published nets that say nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.models.weights.files import Weights, from_file
from goodfit.models.weights.matching import fits_by_order, order_of_net, pair_by_order, transfer_weights
from goodfit.models.weights.published import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.transfer.assumptions import assume_preprocessing

KNOWN = load_catalog()
COUNTER = "num_batches_tracked"


def build(text: str, classes: int = 5, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    part: Any = KNOWN.make(text, "model")
    net: nn.Module = part(classes, channels, (16, 16))
    return net


def learned(net: nn.Module) -> dict[str, Tensor]:
    """Tensors that no fresh model has."""
    generator = torch.Generator().manual_seed(99)
    return {name: torch.rand(x.shape, generator=generator) for name, x in net.state_dict().items()}


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in their order, under names that say nothing but what kind each is."""
    return {f"layer_{i:03d}.{name.rpartition('.')[2]}": x for i, (name, x) in enumerate(tensors.items())}


def numbered(*, classes: int = 2, width: int = 4) -> nn.Sequential:
    """A net of eleven numbered modules and a head, of which "10" comes before "2" when they are sorted as texts."""
    layers = [nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)] + [nn.Conv2d(width, width, 1) for _ in range(9)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


# ---- by name -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "backbone.", "encoder.", "model.", "module.backbone.", "_orig_mod.module.", "detector.body."]
)
def test_what_is_put_before_the_names_is_taken_off(prefix: str) -> None:
    net = build("resnet(20)")
    tensors = learned(net)
    source = Weights(
        "", "", {**{f"{prefix}{name}": x for name, x in tensors.items()}, "n_averaged": torch.ones(()), "other.weight": torch.ones(9)}
    )
    transfer = transfer_weights(net, source)
    assert transfer.prefix == prefix and transfer.unused == ("other.weight",)
    assert all(torch.equal(x, tensors[name]) for name, x in net.state_dict().items() if not name.startswith("fc.") and COUNTER not in name)
    assert f'"{prefix}" is taken off the names in the source' in transfer.sentences() and transfer.to_dict()["prefix"] == prefix


def test_a_word_that_is_the_models_own_stays() -> None:
    net = nn.Sequential()
    net.add_module("backbone", nn.Conv2d(3, 4, 1))
    net.add_module("head", nn.Linear(4, 2))
    transfer = transfer_weights(net, Weights("", "", learned(net)))
    assert transfer.prefix == "" and set(transfer.copied) == {"backbone.weight", "backbone.bias"}
    assert not any("taken off" in line for line in transfer.sentences()) and "prefix" not in transfer.to_dict()


def test_a_usual_prefix_may_lead_to_a_part_of_the_model_and_an_unusual_one_not() -> None:
    tensors = learned(build("resnet(20)"))
    source = Weights("", "", {f"module.{name}": x for name, x in tensors.items()})
    assert transfer_weights(build("resnet(110)"), source).prefix == "module."
    unusual = Weights("", "", {f"teacher.{name}": x for name, x in tensors.items()})
    with pytest.raises(UsageError, match="None of the checkpoint's tensors match"):
        transfer_weights(build("resnet(110)"), unusual)


# ---- by order ----------------------------------------------------------------------------------------------------------------------


def test_other_names_are_matched_by_order_and_it_is_written_down() -> None:
    tensors = {name: x for name, x in learned(build("resnet(20)")).items() if COUNTER not in name}
    source = Weights("", "", renamed(tensors))
    net = build("resnet(20)", 3)
    with pytest.raises(UsageError, match=r"None of .* match the model.* By order and shape they fit: --from-by order takes them so\.$"):
        transfer_weights(net, source)
    transfer = transfer_weights(net, dataclasses.replace(source, by="order"))
    assert all(torch.equal(x, tensors[name]) for name, x in net.state_dict().items() if not name.startswith("fc.") and COUNTER not in name)
    assert transfer.pairs == dict(zip(tensors, renamed(tensors), strict=True)) == transfer.to_dict()["pairs"]
    assert "conv1.weight <- layer_000.weight, bn1.weight <- layer_001.weight" in transfer.sentences()[1] and not transfer.unused


def test_counters_do_not_count_in_the_order() -> None:
    tensors = learned(build("resnet(20)"))
    bare = {name: x for name, x in tensors.items() if COUNTER not in name}
    for theirs in (tensors, bare):
        pairs = pair_by_order(build("resnet(20)"), Weights("", "", renamed(theirs)))
        assert pairs.keys() == bare.keys()
        assert all(torch.equal(renamed(theirs)[other], bare[name]) for name, other in pairs.items())


@pytest.mark.parametrize("head", ["none", "other classes", "two layers"])
def test_the_head_need_not_fit_by_order(head: str) -> None:
    body = {name: x for name, x in learned(build("resnet(20)")).items() if not name.startswith("fc.")}
    more = {
        "none": {},
        "other classes": {"x.weight": torch.ones(7, 64), "x.bias": torch.ones(7)},
        "two layers": {"x.weight": torch.ones(9, 64), "x.bias": torch.ones(9), "y.weight": torch.ones(7, 9), "y.bias": torch.ones(7)},
    }[head]
    net = build("resnet(20)", 3, channels=1)
    transfer = transfer_weights(net, Weights("", "", {**renamed(body), **more}, by="order"))
    assert set(transfer.adapted) == {"conv1.weight"} and set(transfer.reinitialized) == {"fc.weight", "fc.bias"}
    assert transfer.unused == (tuple(more) if head == "two layers" else ())
    assert torch.equal(net.state_dict()["layer3.2.bn2.bias"], body["layer3.2.bn2.bias"])


def test_what_does_not_fit_by_order_is_not_offered() -> None:
    tensors = list(renamed({name: x for name, x in learned(build("resnet(20)")).items() if COUNTER not in name}).items())
    swapped = [tensors[0], tensors[2], tensors[1], *tensors[3:]]  # the shapes fit, but bias stands before weight
    for wrong, sentence in (
        (dict(swapped), r"tensor 2 is bn1\.weight \(16\) here, layer_002\.bias \(16\) there"),
        (dict(tensors[1:]), r"tensor 1 is conv1\.weight \(16x3x3x3\) here, layer_001\.weight \(16\) there"),
        (dict(tensors[:50]), r"it has 95 tensors below its head, they are 50"),
    ):
        with pytest.raises(UsageError, match=rf"do not fit the model by order: {sentence}"):
            transfer_weights(build("resnet(20)"), Weights("", "", wrong, by="order"))
        with pytest.raises(UsageError, match=r"None of .* Give the --model that the weights were trained with\.$"):
            transfer_weights(build("resnet(20)"), Weights("", "", wrong))


def test_a_sorted_file_of_numbered_modules_keeps_their_order(tmp_path: Path) -> None:
    net, kept = numbered(), numbered()
    tensors = learned(kept)
    save_file(
        {f"features.{name.removeprefix('0.')}": x for name, x in tensors.items() if name.startswith("0.")}, tmp_path / "a.safetensors"
    )
    source = from_file(tmp_path / "a.safetensors")
    assert list(source.tensors) != order_of_net(list(source.tensors))
    transfer_weights(net, dataclasses.replace(source, by="order"))
    assert all(torch.equal(x, tensors[name]) for name, x in net.state_dict().items() if name.startswith("0.") and COUNTER not in name)


def test_a_sorted_file_of_named_modules_does_not(tmp_path: Path) -> None:
    tensors = {f"my_{name}": x for name, x in learned(build("resnet(20)")).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pth")
    net, sorted_file = build("resnet(20)"), from_file(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"sorted by name, and my_bn1, my_conv1, my_fc do not say which comes first\. A \.pth file keeps"):
        pair_by_order(net, sorted_file)
    assert not fits_by_order(net, sorted_file) and fits_by_order(net, from_file(tmp_path / "a.pth"))


# ---- published nets ----------------------------------------------------------------------------------------------------------------


def published(text: str, classes: int = 1000) -> dict[str, Tensor]:
    part: Any = KNOWN.make(text, "model")
    net = part(classes, 3, (224, 224))
    return {name: x for name, x in net.state_dict().items() if COUNTER not in name}


def assumed(tensors: dict[str, Tensor], model: str = "auto", by: Any = "name") -> Weights:
    part = None if model == "auto" else KNOWN.make(model, "model")
    return assume_preprocessing(Weights("a.pth", "", tensors, by=by), KNOWN, part)


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v2", 224), ("resnet18", 224), ("inception_v3", 299)])
@pytest.mark.thorough
def test_a_bare_file_of_a_published_net_is_taken_for_imagenets(name: str, size: int) -> None:
    about = PUBLISHED[f"{name}:IMAGENET1K_V1"]
    whole = published(about.model)
    body = {key: x for key, x in whole.items() if not key.startswith(("fc.", "classifier."))}
    assert len(body) == len(whole) - 2
    for tensors in (whole, body, {f"module.{key}": x for key, x in body.items()}):
        weights = assumed(tensors)
        assert (weights.model, weights.size, weights.mean, weights.std) == (about.model, (size, size), about.mean, about.std)
        assert weights.assumed_from == f"torchvision's {name}" and weights.tensors is tensors
    if name == "mobilenet_v2":
        assert assumed(renamed(body), by="order").assumed_from and not assumed(renamed(body)).assumed_from


@pytest.mark.thorough
def test_what_is_not_imagenets_for_certain_is_not_taken_for_it() -> None:
    tensors = published("resnet(18, stem=imagenet)")
    without = {name: x for name, x in tensors.items() if name != "layer4.1.bn2.bias"}
    assert not assumed(without).assumed_from
    assert not assumed({**tensors, "conv1.weight": torch.zeros(64, 1, 7, 7)}).assumed_from
    assert assumed(published("resnet(18, stem=imagenet)", classes=10)).assumed_from, "its head may be for other classes"
    assert (
        not assumed(tensors, "resnet(18, stem=small)").assumed_from
        and assumed(tensors, "resnet(18)").assumed_from == "torchvision's resnet18"
    )
    own = Weights("a.pth", "", tensors, mean=(0.5,), std=(0.5,), size=(64, 64))
    assert assume_preprocessing(own, KNOWN, None) is own
    assert assumed(tensors).mean == IMAGENET_MEAN and assumed(tensors).std == IMAGENET_STD
