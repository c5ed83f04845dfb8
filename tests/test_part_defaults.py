"""A part's defaults are those of torch, of kornia (which are torchvision's) or of its paper; what is saved names all its settings."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import kornia.augmentation as kornia
import pytest
import torch
from torch import nn

from goodfit.core.parts import Part, Pipe, part_name, spell
from goodfit.core.settings import settings_of
from goodfit.recipe.auto import CONV_NET
from goodfit.recipe.parts import load_catalog, make_parts, with_parts_spelled
from goodfit.recipe.recipe import SEATS, Recipe, presets
from tests.support.laws import holds_for

KNOWN = load_catalog()
every_part = holds_for({f"{kind} {name}": (kind, cls) for kind, found in KNOWN.kinds.items() for name, cls in found.items()})

ALIKE: dict[str, tuple[Any, dict[str, str]]] = {  # part -> what has the same settings elsewhere, and by which names where they differ
    "optimizer sgd": (torch.optim.SGD, {"momentum": "momentum", "nesterov": "nesterov", "weight_decay": "weight_decay"}),
    "optimizer adam": (torch.optim.Adam, {"lr": "lr", "betas": "betas", "eps": "eps", "weight_decay": "weight_decay"}),
    "optimizer adamw": (torch.optim.AdamW, {"lr": "lr", "betas": "betas", "eps": "eps", "weight_decay": "weight_decay"}),
    "optimizer adagrad": (torch.optim.Adagrad, {"lr": "lr", "weight_decay": "weight_decay"}),
    "optimizer rmsprop": (torch.optim.RMSprop, {"alpha": "alpha", "momentum": "momentum", "weight_decay": "weight_decay"}),
    "optimizer muon": (torch.optim.Muon, {"momentum": "momentum", "nesterov": "nesterov", "rounds": "ns_steps"}),
    "activation elu": (nn.ELU, {"alpha": "alpha"}),
    "activation leaky_relu": (nn.LeakyReLU, {"slope": "negative_slope"}),
    "activation prelu": (nn.PReLU, {"slope": "init"}),
    "norm batch": (nn.BatchNorm2d, {"momentum": "momentum", "eps": "eps"}),
    "norm group": (nn.GroupNorm, {"eps": "eps"}),
    "noise dropout": (nn.Dropout, {"p": "p"}),
    "schedule polynomial": (torch.optim.lr_scheduler.PolynomialLR, {"power": "power"}),
    "schedule one_cycle": (torch.optim.lr_scheduler.OneCycleLR, {"peak": "pct_start"}),
    "plateau plateau": (torch.optim.lr_scheduler.ReduceLROnPlateau, {"factor": "factor", "cooldown": "cooldown"}),
    "augment flip": (kornia.RandomHorizontalFlip, {"p": "p"}),
    "augment resized_crop": (kornia.RandomResizedCrop, {"area": "scale", "ratio": "ratio", "p": "p"}),
    "augment erase": (kornia.RandomErasing, {"p": "p"}),
    "augment perspective": (kornia.RandomPerspective, {"strength": "distortion_scale", "p": "p"}),
    "augment equalize": (kornia.RandomEqualize, {"p": "p"}),
    "augment posterize": (kornia.RandomPosterize, {"p": "p"}),
}
PAPERS = {  # part -> its settings in the paper that its card names
    "augment crop": "crop(4, border=zero)",  # Lee et al. 2015, He et al. 2016: padded by zeros
    "augment cutmix": "cutmix(1.0, p=0.5)",
    "augment cutout": "cutout(0.5)",
    "augment elastic": "elastic(0.05, sigma=0.14, border=zero, p=1.0)",  # Simard et al. 2003: 4 of 29 pixels; the background beyond
    "augment erase": "erase(0.5, area=(0.02, 0.4), ratio=(0.3, 3.3333333333333335))",
    "augment pca": "pca(0.1)",
    "augment rand_augment": "rand_augment(2, m=9)",
    "augment scale_crop": "scale_crop((256, 480), patch=224)",
    "augment smooth": "smooth(0.1)",
    "augment solarize": "solarize(0.5, p=0.2)",  # Grill et al. 2020
    "average swa": "swa(0.75)",  # after three quarters of the usual training
    "model convnet": "convnet(32, act=relu)",
    "noise stochastic_depth": "stochastic_depth(0.5, rule=linear)",
    "optimizer sam": "sam(0.05)",
}  # fmt: skip
TRAINED_WITH = {  # what auto and the presets trained with when it was the default, so that they write it out
    "fast": {"augment": "crop(2, border=reflect)"},
    "swift-cifar10": {"augment": "crop(2, border=reflect)"},
    "photos": {"augment": "resized_crop(area=(0.35, 1.0))"},
}


@pytest.mark.parametrize("name", ALIKE)
def test_defaults_are_those_of_torch_and_kornia(name: str) -> None:
    (kind, word), (target, names) = name.split(), ALIKE[name]
    part = KNOWN.make(word, kind)
    theirs = inspect.signature(target).parameters
    assert {ours: getattr(part, ours) for ours in names} == {ours: theirs[other].default for ours, other in names.items()}


@pytest.mark.parametrize("name", PAPERS)
def test_defaults_are_those_of_the_paper(name: str) -> None:
    kind, word = name.split()
    assert KNOWN.make(word, kind) == KNOWN.make(PAPERS[name], kind)


@every_part
def test_beyond_the_image_lies_black(kind: str, cls: type[Part]) -> None:
    """As for torchvision and kornia, and the same for all parts that move pixels, so that neighbors are sampled once."""
    if any(setting.name == "border" for setting in settings_of(cls)):
        expected = "mean" if part_name(cls) == "rand_augment" else "zero"  # the gray of AutoAugment's code
        assert cls().border == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", TRAINED_WITH)
def test_presets_write_out_what_they_want(preset: str) -> None:
    for seat, text in TRAINED_WITH[preset].items():
        assert text in str(getattr(Recipe.from_toml(preset), seat))
    assert CONV_NET.format(16) == "convnet(16, act=gelu)"


# ---- what is saved ----------------------------------------------------------------------------------------------------------------


def assert_spelled(part: Part, node: ast.expr) -> None:
    """Check that the text of a part has a value for each of its settings, and of those of the parts in it."""
    assert not isinstance(part, Pipe)
    settings = settings_of(type(part))
    values = [*node.args, *(keyword.value for keyword in node.keywords)] if isinstance(node, ast.Call) else []
    names = [setting.name for setting in settings]
    written = [*names[:1], *(keyword.arg for keyword in node.keywords)] if isinstance(node, ast.Call) else []
    assert written == names, f"{part_name(part)}: another default would change what was saved"
    for name, value in zip(names, values, strict=True):
        if isinstance(inner := getattr(part, name), Part):
            assert_spelled(inner, value)


@every_part
def test_what_is_saved_of_a_part_names_every_setting(kind: str, cls: type[Part]) -> None:
    """So that a run stays as it is when a default changes."""
    part = cls()
    assert_spelled(part, ast.parse(spell(part, full=True), mode="eval").body)


@pytest.mark.parametrize("preset", presets())
def test_a_saved_recipe_names_every_setting_of_every_part(preset: str) -> None:
    recipe = Recipe.from_toml(preset)
    parts = make_parts(recipe, KNOWN)
    saved = with_parts_spelled(recipe, parts).plain()
    for seat, part in parts.items():
        steps = part.parts if isinstance(part, Pipe) else (part,)
        texts = saved[seat].split(" | ") if steps else []
        assert len(texts) == len(steps), seat
        for step, text in zip(steps, texts, strict=True):
            assert_spelled(step, ast.parse(text, mode="eval").body)
    assert len(parts) > len(SEATS) / 3
