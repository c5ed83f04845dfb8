"""Several processes train what one does: the same images, draws and order, and the same weights to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.ranks import exact_results

WHOLE_BATCH = {"batch_size": "all", "augment": "none", "model": "linear", "limit": "8", "budget": "3 steps"}
# Each shows something that one rank could get wrong. Of 110 images, batches of 72 and 38 are 5 and 3 blocks of 16; of 48 the last has one.
OFTEN: dict[str, dict[str, str]] = {
    "batch norm": {"model": "convnet(4)", "average": "ema(0.9)"},
    "pieces, dropout": {"model": "convnet(4, norm=none, drop=dropout(0.3))", "pieces": "2", "batch_size": "all"},
    "class weights, penalty, clip": {"class_weights": "balanced", "penalty": "l2(0.01)", "clip": "0.5", "model": "mlp((16,))"},
    "short batches": {"batch_size": "48", "model": "convnet(4, act=maxout)"},
    "sam": {"optimizer": "sam(around=sgd(0.05))", "model": "mlp((16,), drop=dropout(0.5))", "sampler": "balanced"},
    "newton": {**WHOLE_BATCH, "optimizer": "newton(damping=0.01)", "class_weights": "balanced"},
}
SELDOM: dict[str, dict[str, str]] = {
    **{name: {"optimizer": name, "model": "mlp((16,))"} for name in ("adagrad", "rmsprop", "adam", "adamw", "muon")},
    **{name: {**WHOLE_BATCH, "optimizer": name} for name in ("bfgs", "lbfgs")},
    "newton by products": {**WHOLE_BATCH, "optimizer": "newton(damping=0.01, exact=1)", "pieces": "2"},
    **{name: {"loss": name} for name in ("binary", "kl", "mse", "svm")},
    **{f"average {name}": {"average": name} for name in ("polyak", "swa")},
    **{f"penalty {name}": {"penalty": name} for name in ("l1", "elastic_net")},
    **{f"norm {name}": {"model": f"convnet(4, norm={name})"} for name in ("layer", "group", "instance", "lrn")},
    "dropconnect": {"model": "convnet(4, drop=dropconnect(0.3))"},
    "gaussian noise": {"model": "mlp((16,), drop=gaussian_noise(0.3, ramp=linear))"},
    "vanilla dropout": {"model": "mlp((16,), drop=dropout(0.3, inverted=False))"},
    "stochastic depth": {"model": "resnet(20, drop=stochastic_depth(0.5))", "budget": "3 steps"},
    "fractional max": {"model": "convnet(4, pool=fractional_max(1.5))"},
    "cutmix": {"augment": "cutmix | smooth"},
    "drawn policies": {"augment": "rand_augment | elastic | erase"},
    "progressive": {"resolution": "progressive(0.9, start=0.5)"},
    "many pieces": {"pieces": "3", "batch_size": "all"},
    "contiguous": {"layout": "contiguous"},
    **{f"model {name}": {"model": name, "size": "32", "budget": "2 steps"} for name in ("mobilenet_v2", "lenet", "nin", "resnet(18)")},
}  # fmt: skip


def assert_same_training(size: int, folder: Path, cases: dict[str, dict[str, str]]) -> None:
    """Every rank ends with the same bits, which are those of one process to rounding in float64."""
    one, many = exact_results(1, folder / "one", cases)[0], exact_results(size, folder / "many", cases)
    for name in cases:
        for rank in range(1, size):
            unequal = [key for key, x in many[0][name].items() if not torch.equal(x, many[rank][name][key])]
            assert not unequal, (name, rank, unequal)
        distances = {key: float((many[0][name][key] - x).abs().max() / x.abs().max().clamp(min=0.01)) for key, x in one[name].items()}
        assert max(distances.values()) < 1e-9, (name, {key: x for key, x in distances.items() if not x < 1e-9})


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    assert_same_training(2, tmp_path, OFTEN)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_part_of_the_catalog(size: int, tmp_path: Path) -> None:
    assert_same_training(size, tmp_path, {**OFTEN, **SELDOM})
