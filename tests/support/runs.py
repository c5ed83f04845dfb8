"""Small trainings of photos from Python, and whether two runs have the same weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

import goodfit
from goodfit.core.run import Run

BASE = {
    "size": "16",
    "model": "convnet(8)",
    "augment": "flip | crop(2) | mixup(0.3)",
    "optimizer": "sgd(0.05, momentum=0.9)",
    "budget": "4 epochs",
    "batch_size": "24",
    "precision": "fp32",
    "layout": "channels_last",
    "threads": "1",
    "evaluate_every": "1 epoch",
    "average": "ema(0.9)",
}


def recipe(**changes: str) -> goodfit.Recipe:
    return goodfit.Recipe().but_text({**BASE, **changes})


def train(photos: Path, out: Path, **changes: str) -> Run:
    return goodfit.train(photos, recipe(**changes), out=out, quiet=True)


def assert_equal_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
