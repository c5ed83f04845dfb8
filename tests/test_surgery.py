"""Copying weights of one net into another: copied, adapted, newly initialized or unused, all reported; and freezing in every model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.core.parameters import is_norm
from goodfit.models.weights.files import Weights
from goodfit.models.weights.matching import transfer_weights
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.models.weights.surgery import Transfer, adapt_input_channels, adapt_statistics, copy_weights, find_heads, first_conv_weight
from goodfit.recipe.parts import load_catalog
from goodfit.training.freezing import freezing_phases

KNOWN = load_catalog()
COUNTER = "num_batches_tracked"


def build(text: str, classes: int = 5, channels: int = 3, size: tuple[int, int] = (16, 16), seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    part: Any = KNOWN.make(text, "model")
    net: nn.Module = part(classes, channels, size)
    return net


def learned(net: nn.Module) -> dict[str, Tensor]:
    """Tensors that no fresh model has."""
    generator = torch.Generator().manual_seed(99)
    return {
        name: torch.full_like(x, 7) if name.endswith(COUNTER) else torch.rand(x.shape, generator=generator)
        for name, x in net.state_dict().items()
    }


def copies(net: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in net.state_dict().items()}


def counted(transfer: Transfer, net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Every tensor of the model and of the source is in the account, once."""
    own = sorted(name for name in net.state_dict() if not name.endswith(COUNTER))
    assert sorted([*transfer.copied, *transfer.adapted, *transfer.reinitialized]) == own
    assert sorted([*transfer.copied, *transfer.adapted, *(n for n in transfer.reinitialized if n in tensors), *transfer.unused]) == sorted(
        name for name in tensors if not name.endswith(COUNTER)
    )


@pytest.mark.item("S176")
def test_all_but_the_head_is_taken() -> None:
    net = build("convnet(4)", 3)
    before, tensors = copies(net), learned(build("convnet(4)", 5))
    transfer = copy_weights(net, tensors)
    counted(transfer, net, tensors)
    for name, x in net.state_dict().items():
        assert torch.equal(x, before[name] if name.startswith("head.") else tensors[name]), name
    assert transfer.reinitialized == dict.fromkeys(("head.weight", "head.bias"), "newly initialized for 3 classes")
    assert transfer.sentences() == ["25 of 27 tensors copied unchanged", "head.weight, head.bias newly initialized for 3 classes"]
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    spread = find_head(net)[1].weight.square().mean().sqrt() * find_head(net)[1].in_features ** 0.5
    assert spread < 0.15, "a fresh head starts small"


def test_the_same_classes_keep_the_head() -> None:
    net = build("convnet(4)").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensors = learned(net)
    transfer = copy_weights(net, tensors, same_classes=True)
    counted(transfer, net, tensors)
    assert all(torch.equal(x, tensors[name]) for name, x in net.state_dict().items())
    assert net.get_submodule("stem.conv").weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, operator]
    assert transfer.sentences() == ["27 of 27 tensors copied unchanged"]
    assert copy_weights(build("convnet(4)"), tensors).reinitialized.keys() == {"head.weight", "head.bias"}, (
        "as many classes are not the same"
    )


def test_auxiliary_heads_are_heads() -> None:
    text = "googlenet(aux=0.3)"
    with torch.device("meta"):
        assert find_heads(build(text, 4)) == {"aux1.fc2": 4, "aux2.fc2": 4, "fc": 4}
        assert find_heads(build("inception_v3", 4)) == {"AuxLogits.fc": 4, "fc": 4}
        assert find_heads(build("googlenet(aux=0)", 4)) == {"fc": 4}
    net = build(text, 3, size=(8, 8))
    tensors = {name: x for name, x in learned(build(text, 3, size=(8, 8))).items() if "5b" in name or "fc" in name}
    transfer = copy_weights(net, tensors)
    heads = {f"{name}.{kind}" for name in ("aux1.fc2", "aux2.fc2", "fc") for kind in ("weight", "bias")}
    assert {name for name, how in transfer.reinitialized.items() if "classes" in how} == heads
    assert "aux1.fc1.weight" in transfer.copied


# ---- channels ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [1, 3, 4])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_other_channels_give_the_same_maps(before: int, after: int) -> None:
    """A gray image, as each net takes it, gives what it gave; an image of colors too, where both take colors; alpha has no say."""
    if before == after:
        return
    conv, other = nn.Conv2d(before, 6, 3, bias=False).double(), nn.Conv2d(after, 6, 3, bias=False).double()
    with torch.no_grad():
        if before == 4:
            conv.weight[:, 3] = 0
        new, how = adapt_input_channels(conv.weight, other.weight)
        assert new is not None and how
        other.weight.copy_(new)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 1 if 1 in (before, after) else 3, 9, 9, generator=generator, dtype=torch.float64)

    def image_of(channels: int) -> Tensor:
        colors = x.expand(-1, 3, -1, -1) if channels > 1 else x
        return torch.cat([colors, torch.rand(2, 1, 9, 9, dtype=torch.float64)], 1) if channels == 4 else colors

    torch.testing.assert_close(other(image_of(after)), conv(image_of(before)), atol=1e-12, rtol=0)


def test_the_first_conv_is_summed_for_gray_images() -> None:
    net = build("convnet(4)", 3, channels=1)
    tensors = learned(build("convnet(4)", 3))
    transfer = copy_weights(net, tensors)
    counted(transfer, net, tensors)
    assert transfer.adapted == {"stem.conv.weight": "summed over red, green and blue for gray images"}
    assert torch.equal(net.state_dict()["stem.conv.weight"][:, 0], tensors["stem.conv.weight"].sum(1))
    assert transfer.sentences()[1] == "stem.conv.weight summed over red, green and blue for gray images"


def test_alpha_starts_at_zero() -> None:
    net = build("resnet(20)", 3, channels=4)
    transfer = copy_weights(net, learned(build("resnet(20)", 3)))
    assert transfer.adapted == {"conv1.weight": "zero for alpha"}
    assert not net.state_dict()["conv1.weight"][:, 3].any()


def test_only_the_first_conv_is_adapted() -> None:
    like = torch.zeros(6, 1, 3, 3)
    assert adapt_input_channels(torch.zeros(6, 2, 3, 3), like) == (None, "") and adapt_input_channels(torch.zeros(6, 3, 5, 5), like) == (
        None,
        "",
    )
    assert adapt_input_channels(torch.zeros(6, 3), like) == (None, "")
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    tensors = {name: torch.ones(4, 3, 3, 3) if name == "1.weight" else torch.ones_like(x) for name, x in net.state_dict().items()}
    assert first_conv_weight(net) == "0.weight"
    assert copy_weights(net, tensors).reinitialized["1.weight"] == "newly initialized: the shapes differ (4x1x3x3 here, 4x3x3x3 there)"
    assert first_conv_weight(nn.Linear(2, 2)) == ""


def test_numbers_for_other_channels() -> None:
    rgb = (0.485, 0.456, 0.406)
    assert adapt_statistics(rgb, 1, 0.0) == pytest.approx((0.449,))
    assert adapt_statistics(rgb, 3, 0.0) == rgb
    assert adapt_statistics(rgb, 4, 0.5) == (*rgb, 0.5)
    assert adapt_statistics((0.3,), 3, 0.0) == (0.3, 0.3, 0.3) and adapt_statistics((0.3,), 4, 1.0) == (0.3, 0.3, 0.3, 1.0)
    assert adapt_statistics((*rgb, 0.9), 4, 1.0) == (*rgb, 0.9) and adapt_statistics((*rgb, 0.9), 3, 1.0) == rgb
    assert adapt_statistics((*rgb, 0.9), 1, 1.0) == adapt_statistics(rgb, 1, 0.0)


# ---- other models ------------------------------------------------------------------------------------------------------------------


def test_a_deeper_model_takes_what_there_is() -> None:
    net, tensors = build("resnet(32)", 3), learned(build("resnet(20)", 3))
    before = copies(net)
    transfer = copy_weights(net, tensors)
    counted(transfer, net, tensors)
    assert not transfer.unused and transfer.copied
    for name, how in transfer.reinitialized.items():
        assert torch.equal(net.state_dict()[name], before[name])
        assert how == (
            "newly initialized for 3 classes" if name.startswith("fc.") else "newly initialized: the source has none of that name"
        )
    back = copy_weights(build("resnet(20)", 3), learned(build("resnet(32)", 3)))
    assert len(back.unused) == sum("none of that name" in how for how in transfer.reinitialized.values())
    assert back.sentences()[-1].endswith(f"and {len(back.unused) - 4} more left out: the model has none of that name")


def test_missing_names_come_with_the_nearest() -> None:
    net = nn.Sequential()
    net.add_module("features", nn.Conv2d(3, 4, 3))
    net.add_module("middle", nn.Conv2d(4, 4, 3))
    net.add_module("head", nn.Linear(4, 2))
    tensors = {
        name.replace("features", "feature").replace("head", "classifier"): torch.ones_like(x) for name, x in net.state_dict().items()
    }
    said = copy_weights(net, tensors).sentences()
    assert said == [
        "2 of 6 tensors copied unchanged",
        "features.weight (nearest there: feature.weight), features.bias (nearest there: feature.bias)"
        " newly initialized: the source has none of that name",
        "head.weight, head.bias newly initialized for 2 classes",
        "feature.weight (nearest there: features.weight), feature.bias (nearest there: features.bias), classifier.weight,"
        " classifier.bias left out: the model has none of that name",
    ]


def test_another_shape_is_said() -> None:
    transfer = copy_weights(build("mlp((8, 6))", size=(8, 8)), learned(build("mlp((8, 7))", size=(8, 8))))
    named = "layer2.linear.weight (6x8 here, 7x8 there)"
    assert any(line.startswith(named) and line.endswith("newly initialized: the shapes differ") for line in transfer.sentences()), (
        transfer.sentences()
    )


def test_what_fits_nowhere_is_refused() -> None:
    sentence = r"None of the checkpoint's tensors match the model: they are named a, b, the model's conv1\.weight.* Give the --model"
    with pytest.raises(UsageError, match=sentence):
        transfer_weights(build("resnet(20)"), Weights("", "", {"a": torch.zeros(2), "b": torch.zeros(3)}))
    tensors = learned(build("convnet(4)"))
    tensors["stage1.first.conv.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"received others in stage1\.first\.conv\.weight"):
        copy_weights(build("convnet(4)"), tensors)


def test_half_precision_is_converted_and_counters_do_not_count() -> None:
    net = build("convnet(4)")
    tensors = {name: x.half() for name, x in learned(net).items() if not name.endswith(COUNTER)}
    transfer = copy_weights(net, tensors, same_classes=True)
    assert not transfer.copied and not transfer.reinitialized and set(transfer.adapted.values()) == {"converted from float16"}
    assert torch.equal(net.state_dict()["stem.conv.weight"], tensors["stem.conv.weight"].float())
    assert transfer.sentences()[1].startswith("stem.conv.weight, ") and transfer.sentences()[1].endswith("more converted from float16")


def test_for_json() -> None:
    transfer = copy_weights(build("convnet(4)", channels=1), learned(build("convnet(4)")))
    plain = transfer.to_dict()
    assert plain.keys() == {"taken", "adapted", "anew", "left"} and plain["adapted"] == transfer.adapted
    assert len(plain["taken"]) + len(plain["adapted"]) + len(plain["anew"]) == 27


# ---- freezing, in every model ------------------------------------------------------------------------------------------------------


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build(name, size=(32, 32))


NAMES = [name for name in KNOWN.kinds["model"] if any(True for _ in on_meta(name).parameters())]


@pytest.mark.item("S176")
@pytest.mark.parametrize("name", NAMES)
def test_head_freezes_all_but_the_head(name: str) -> None:
    net = on_meta(name)
    if not find_stages(net):
        return  # nothing but a head
    (phase,) = freezing_phases(KNOWN.make("head", "trainable"), net)
    last = find_head(net)[0]
    assert phase.trainable == {f"{last}.{inner}" for inner, _ in find_head(net)[1].named_parameters()}
    assert phase.fixed == {n for n, m in net.named_modules() if is_norm(m) and getattr(m, "running_mean", None) is not None}


@pytest.mark.item("S177")
@pytest.mark.parametrize("name", NAMES)
def test_more_layers_learn_one_stage_after_the_other(name: str) -> None:
    net = on_meta(name)
    there = find_stages(net)
    before: set[str] = set()
    for k in range(len(there) + 1):
        (phase,) = freezing_phases(KNOWN.make(f"last({k})", "trainable"), net) or (None,)
        learning = set(phase.trainable) if phase else {n for n, _ in net.named_parameters()}
        if k:
            since = freezing_phases(KNOWN.make(f"since({there[len(there) - k].name!r})", "trainable"), net)
            assert learning == (since[0].trainable if since else learning)
            assert any(n.startswith(f"{m}.") for n in learning - before for m in there[len(there) - k].modules)
        assert before < learning
        before = learning
    assert before == {n for n, _ in net.named_parameters()}


def test_a_copy_is_not_the_source() -> None:
    net = build("convnet(4)")
    tensors = learned(net)
    kept = copy.deepcopy(tensors)
    copy_weights(net, tensors)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert all(torch.equal(x, kept[name]) for name, x in tensors.items())
