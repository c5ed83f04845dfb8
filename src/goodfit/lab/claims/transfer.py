"""Weights from other images."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from goodfit.core.batch import Batch
from goodfit.core.errors import UsageError
from goodfit.core.files import write_atomic
from goodfit.data.loader import iterate_batches
from goodfit.inspection.chance import OwnChance
from goodfit.lab.laboratory import BASE, Laboratory, Training
from goodfit.lab.replicate import Curves, Replicate
from goodfit.models.convnet import Convnet
from goodfit.optim.first_order import Sgd

MAP_SIDE, PROBED = 2, 1000  # side of the maps that a probe sees; images of a split at most
RECIPE = BASE.but(model=Convnet(16), size=16, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)  # the same for all data
COUNTS = (10, 50, 200)  # images of a class


def _halves(lab: Laboratory) -> tuple[Path, Path]:
    """Files of the images of one half of the classes each, with the splits of the whole."""
    _, data = lab.open(RECIPE)
    if len(data.classes) < 4:
        raise UsageError(f"Expected images of four classes or more for this claim, found {len(data.classes)}.")
    half = len(data.classes) // 2
    files = []
    for name, first, last in (("first", 0, half), ("second", half, len(data.classes))):
        arrays: dict[str, Any] = {}
        for split in ("train", "test"):
            batch = _boxes(lab, split)
            kept = (batch.targets.argmax(1) >= first) & (batch.targets.argmax(1) < last)
            arrays[f"x_{split}"] = batch.images[kept].permute(0, 2, 3, 1).contiguous().numpy()
            arrays[f"y_{split}"] = batch.targets.argmax(1)[kept].numpy() - first
        file = lab.folder / f"{name}-half-{data.digest[:12]}.npz"
        if not file.exists():
            content = io.BytesIO()
            np.savez(content, **arrays)
            lab.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content.getvalue())
        files.append(file)
    return files[0], files[1]


def _boxes(lab: Laboratory, split: str) -> Batch:
    """The images of a split as they are stored, uint8 [n, C, H, W]; those held out for validation are left to the training images."""
    _, data = lab.open(RECIPE)
    rows = torch.cat([data.rows("train"), data.rows("validation")]).sort().values if split == "train" else data.rows("test")
    batch = next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), len(rows)))
    return batch.but(images=data.preprocess.center_crop(batch.images))


def _pretrain(lab: Laboratory, seed: int, file: Path) -> Training:
    return lab.train(seed, 800, RECIPE.but(data=str(file)))


def stages(lab: Laboratory, seed: int) -> Replicate:
    """S180: linear probes of each stage of a net for near and far images."""
    if lab.data[0] == "digits":
        raise UsageError("Expected other images than digits, which are the far ones of this claim, received digits.")
    first, second = _halves(lab)
    net = _pretrain(lab, seed, first).model
    worth = {}
    numbers: dict[str, float] = {}
    curves: Curves = {}
    for name, data in (("near", str(second)), ("far", "digits")):
        probes = {}
        features = {split: _features(net, lab.images(PROBED, split, RECIPE.but(data=data))) for split in ("train", "test")}
        for stage in features["train"][0]:
            scaler = StandardScaler().fit(features["train"][0][stage])
            probe = LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(features["train"][0][stage]), features["train"][1])
            probes[stage] = float(probe.score(scaler.transform(features["test"][0][stage]), features["test"][1]))
        first_stage, *_, last_stage = probes.values()
        worth[name] = (last_stage - first_stage) / max(1 - first_stage, 1e-9)  # of the error of the first stage
        numbers |= {f"{name}, {stage}": x for stage, x in probes.items()}
        curves["Accuracy of a linear probe", "stage", name] = [(float(k), x) for k, x in enumerate(probes.values())]
    return Replicate((worth["near"] - worth["far"],), numbers, curves)


@torch.no_grad()
def _features(net: nn.Module, batch: Batch) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """What each stage puts out for images, maps averaged to MAP_SIDE pixels, and the labels."""
    net.eval()
    found, x = {}, batch.images
    for name, stage in net.named_children():
        if name == "pool":
            break
        x = stage(x)
        found[name] = F.adaptive_avg_pool2d(x, MAP_SIDE).flatten(1).numpy()
    return found, batch.targets.argmax(1).numpy()


def few_images(lab: Laboratory, seed: int) -> Replicate:
    """S181: a net from the weights of other classes and from random ones, on few images."""
    first, second = _halves(lab)
    net = _pretrain(lab, seed, first).model
    tests = {}
    curves: Curves = {}
    recipe = RECIPE.but(data=str(second), augment="flip")
    for count in COUNTS:
        for name, start in (("random", None), ("pretrained", net)):
            trainings = [
                lab.train(seed, 200, recipe.but(optimizer=Sgd(lr, momentum=0.9)), start and _with_new_head(start, seed), count)
                for lr in (0.01, 0.05)
            ]
            tests[name, count] = max(trainings, key=lambda one: one.accuracy("validation")).accuracy()
            curves.setdefault(("Test accuracy", "images of a class", name), []).append((float(count), tests[name, count]))
    gains = {count: tests["pretrained", count] - tests["random", count] for count in COUNTS}
    few, more, many = COUNTS
    effects = gains[few], gains[more], tests["pretrained", more] - tests["random", many]
    return Replicate(effects, {f"{name}, {count} a class": x for (name, count), x in tests.items()}, curves)


def _with_new_head(net: nn.Module, seed: int) -> nn.Module:
    """A copy of a net whose last layer is drawn anew."""
    new = copy.deepcopy(net)
    head: Any = new.get_submodule("head")
    with OwnChance(seed).active():
        head.reset_parameters()
    return new
