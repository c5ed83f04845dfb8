"""The settings of the ward: data set, network, optimizer and schedule of a healthy training, and the patient made of one by seed."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import torch

from bench.ward.images import draw_splits
from bench.ward.loop import Rule, Schedule
from bench.ward.nets import Net, load_trunk, trunk_state
from bench.ward.patient import Patient, train
from bench.ward.transforms import Transform, Warp, keep, standardize

PRETRAINING_STEPS, PRETRAINING_SEED = 900, 7777


@dataclasses.dataclass(frozen=True)
class Setting:
    """A healthy training.

    Attributes:
        data: a key of `images.SPLITS`.
        net, rule, schedule, batch, steps, augment: as in `Patient`.
        size: training images per class, 0 for all.
        pretrained: whether the trunk starts from weights learned on other images of the same data set.
        shows_raw: whether the case shows what lies on disk.
    """

    data: str
    net: Net
    rule: Rule
    schedule: Schedule
    batch: int = 64
    steps: int = 250
    augment: Transform = keep
    size: int = 0
    pretrained: bool = False
    shows_raw: bool = True


CONSTANT, COSINE, STEPS = Schedule("constant"), Schedule("cosine"), Schedule("step")
MLP = Net("mlp", 96, 3)
CNN, CNN_BN, CNN_GN = Net("cnn", 12), Net("cnn", 12, norm="batch"), Net("cnn", 12, norm="group")
VGG, RESNET = Net("vgg", 10, 2, norm="batch"), Net("resnet", 10, 1, norm="batch")
DEEP = Net("mlp", 64, 12, norm="layer")
DEEP_RESNET = Net("resnet", 8, 7, norm="batch")
DEPTHWISE, TANH, GELU = Net("depthwise", 12, 1, norm="batch"), Net("cnn", 12, act="tanh"), Net("mlp", 96, 4, act="gelu", norm="layer")
SHIFT, MOVES, TURNS = Warp(shift=0.1), Warp(shift=0.08, flip=True, scale=0.9), Warp(shift=0.1, rotate=180, flip=True)

SETTINGS = {
    "digits-linear": Setting("digits", Net("linear"), Rule("sgd", 0.1), CONSTANT, steps=300),
    "digits-mlp": Setting("digits", MLP, Rule("adam", 4e-3), COSINE),
    "digits-mlp-sgd": Setting("digits", MLP, Rule("sgd", 0.05), STEPS, batch=32),
    "digits-mlp-rmsprop": Setting("digits", MLP, Rule("rmsprop", 1e-3), CONSTANT, shows_raw=False),
    "digits-cnn": Setting("digits", CNN, Rule("nesterov", 0.1), COSINE, batch=32, steps=300),
    "digits-cnn-adamw": Setting("digits", CNN, Rule("adamw", 8e-3, weight_decay=0.01), Schedule("warmup")),
    "digits-bn": Setting("digits", CNN_BN, Rule("sgd", 0.1, weight_decay=5e-4), Schedule("cosine", "epoch"), augment=SHIFT),
    "digits-deep": Setting("digits", DEEP, Rule("adam", 3e-3), COSINE, steps=300),
    "digits-few": Setting("digits", CNN, Rule("adam", 6e-3), COSINE, batch=32, size=15, augment=SHIFT, steps=300),
    "shapes-cnn": Setting("shapes", CNN, Rule("adam", 6e-3), COSINE, steps=400),
    "shapes-bn": Setting("shapes", CNN_BN, Rule("sgd", 0.2, weight_decay=5e-4), COSINE, augment=MOVES, steps=400),
    "shapes-gn": Setting("shapes", CNN_GN, Rule("nesterov", 0.1), Schedule("warmup")),
    "shapes-vgg": Setting("shapes", VGG, Rule("adamw", 8e-3, weight_decay=0.05), Schedule("restarts"), batch=48),
    "digits-deepres": Setting("digits", DEEP_RESNET, Rule("sgd", 0.05), Schedule("warmup"), steps=200),
    "shapes-tuned": Setting("shapes", CNN_BN, Rule("adam", 1e-3), COSINE, batch=32, size=20, steps=150, pretrained=True),
    "gratings-tanh": Setting("gratings", TANH, Rule("adam", 2e-3), CONSTANT),
    "gratings-depthwise": Setting("gratings", DEPTHWISE, Rule("rmsprop", 2e-3), COSINE, shows_raw=False),
    "gratings-gelu": Setting("gratings", GELU, Rule("adamw", 1e-3, weight_decay=0.05), Schedule("warmup"), augment=Warp(shift=0.05)),
    "blurred-resnet": Setting("blurred", RESNET, Rule("nesterov", 0.1, weight_decay=5e-4), COSINE, steps=200),
    "cifar10-cnn": Setting("cifar10", CNN, Rule("adam", 5e-3), COSINE, steps=350),
    "cifar10-bn": Setting("cifar10", CNN_BN, Rule("sgd", 0.1, weight_decay=5e-4), STEPS, augment=MOVES),
    "cifar10-resnet": Setting("cifar10", RESNET, Rule("nesterov", 0.1, weight_decay=5e-4), Schedule("warmup"), steps=200),
    "cifar10-gn": Setting("cifar10", CNN_GN, Rule("adamw", 3e-3, weight_decay=0.05), Schedule("restarts"), shows_raw=False),
    "cifar10-tuned": Setting("cifar10", CNN_BN, Rule("sgd", 0.02), COSINE, batch=32, size=60, steps=150, pretrained=True),
    "clothing-bn": Setting("clothing", CNN_BN, Rule("adamw", 5e-3, weight_decay=0.05), COSINE, augment=MOVES),
    "clothing-depthwise": Setting("clothing", DEPTHWISE, Rule("adam", 4e-3), Schedule("cosine", "epoch"), steps=200),
    "gratings-warm": Setting("gratings", CNN, Rule("nesterov", 0.07), Schedule("warmup")),
    "clothing-gn": Setting("clothing", CNN_GN, Rule("nesterov", 0.1), Schedule("warmup")),
    "shapes-few": Setting("shapes", CNN_BN, Rule("adam", 5e-3), COSINE, batch=32, size=25, augment=TURNS, steps=500),
    "cifar10-few": Setting("cifar10", CNN_BN, Rule("adamw", 5e-3, weight_decay=0.05), COSINE, batch=32, size=50, augment=MOVES, steps=400),
    "clothing-tanh": Setting("clothing", TANH, Rule("sgd", 0.05), COSINE, steps=250),
}

TRANSFORMER, MIXER = Net("transformer", 32, 2, act="gelu", norm="layer"), Net("mixer", 32, 2, norm="layer")
DENSE, DENSE_PLAIN = Net("dense", 14, 1, norm="batch"), Net("dense", 8, 2)
HELD_OUT_SETTINGS = {  # on which no rule was developed: each has a family, a data set or both that no other setting has
    "digits-transformer": Setting("digits", TRANSFORMER, Rule("adamw", 3e-3, weight_decay=0.05), Schedule("warmup"), steps=300),
    "digits-mixer": Setting("digits", MIXER, Rule("sgd", 0.1), Schedule("cosine", "epoch"), shows_raw=False),
    "letters-dense": Setting("letters", DENSE, Rule("sgd", 0.1, weight_decay=5e-4), COSINE, batch=48, steps=400),
    "letters-vgg": Setting("letters", Net("vgg", 6, 1, norm="batch"), Rule("nesterov", 0.05, weight_decay=5e-4), STEPS),
    "letters-tuned": Setting("letters", DENSE, Rule("adam", 3e-3), COSINE, batch=32, size=60, steps=200, pretrained=True),
    "grains-dense": Setting("grains", DENSE_PLAIN, Rule("adam", 3e-3), CONSTANT, batch=48),
    "grains-transformer": Setting("grains", TRANSFORMER, Rule("adam", 1e-3), Schedule("warmup"), batch=48, steps=300),
    "grains-cnn": Setting("grains", CNN_GN, Rule("rmsprop", 1e-3), COSINE, augment=Warp(flip=True), shows_raw=False),
    "gratings-mixer": Setting("gratings", MIXER, Rule("nesterov", 0.1), COSINE, batch=48, steps=300),
    "shapes-dense": Setting("shapes", DENSE, Rule("adam", 6e-3), COSINE, steps=400),
    "clothing-dense": Setting("clothing", DENSE, Rule("nesterov", 0.1, weight_decay=5e-4), Schedule("warmup"), batch=32),
}


def admit(setting: Setting, seed: int, folder: Path) -> Patient:
    """Make the healthy patient of a setting.

    Args:
        setting: what is trained.
        seed: of the splits, their order and their augmentation.
        folder: where `store_images` put the images, and where pretrained weights are kept.
    """
    splits = draw_splits(setting.data, seed, folder, setting.size)
    patient = Patient(
        seed, splits, setting.net, setting.rule, setting.schedule, min(setting.batch, len(splits.train)), setting.steps,
        prepare=standardize(splits.train.images), augment=setting.augment, shows_raw=setting.shows_raw,
    )  # fmt: skip
    if not setting.pretrained:
        return patient
    state = pretrain(setting.data, setting.net, folder)
    return patient.operate(lambda model: load_trunk(model, state))


@lru_cache(maxsize=8)
def pretrain(data: str, net: Net, folder: Path) -> dict[str, torch.Tensor]:
    """The trunk of a network trained on a draw of its own of the data set, read from `folder` if it was made before."""
    path = folder / f"weights-{data}-{net.family}-{net.norm}-{net.width}.pt"
    if not path.exists():
        splits = draw_splits(data, PRETRAINING_SEED, folder)
        steps = PRETRAINING_STEPS
        patient = Patient(0, splits, net, Rule("adam", 3e-3), COSINE, 64, steps, standardize(splits.train.images), MOVES)
        rng = torch.get_rng_state()
        model, _ = train(patient.dictionary(), 0)
        torch.set_rng_state(rng)
        torch.save(trunk_state(model), path)
    state: dict[str, torch.Tensor] = torch.load(path)
    return state
