"""Penalties, dropout and augmentation."""

from __future__ import annotations

import itertools
import statistics

import torch
from torch import Tensor

from goodfit.augment.views import TenCrop
from goodfit.core.contracts import Penalty
from goodfit.data.index import SplitName
from goodfit.lab.laboratory import BASE, Laboratory, Training, accuracy_of_mean
from goodfit.lab.replicate import Curves, Replicate
from goodfit.layers.noise import Dropout
from goodfit.losses.penalty import L1, L2
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd
from goodfit.predict.scoring import score_views

PLAIN = Sgd(0.02, momentum=0.9)
STRENGTHS = (0.0, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SMALL = 0.001  # weights that count as zero
PASSES = 16  # of thinned nets
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
AUGMENT = "flip | crop(2, border=reflect)"
SHARES = (8, 3, 1)  # a training sees one in so many images


def _weights(trained: Training) -> Tensor:
    """All weights [n] of a model but the biases."""
    return torch.cat([w.detach().flatten() for w in trained.model.parameters() if w.ndim > 1])


def strength(lab: Laboratory, seed: int) -> Replicate:
    """S026: a perceptron on one in four images, by growing strengths of L2."""
    _, data = lab.open(BASE.but(size=16))
    recipe, per_class = BASE.but(model=Mlp((256,)), optimizer=PLAIN, size=16), max(1, min(data.class_counts()) // 4)
    trainings = [lab.train(seed, 500, recipe.but(penalty=L2(x) if x else "none"), per_class=per_class) for x in STRENGTHS]
    norms = [float(_weights(one).norm()) for one in trainings]
    train, held_out, test = ([one.accuracy(split) for one in trainings] for split in SPLITS)
    chosen = max(range(len(STRENGTHS)), key=held_out.__getitem__)
    shrinks = [after < before for before, after in itertools.pairwise(norms)]
    falls = [after <= before for before, after in itertools.pairwise(train)]
    numbers = {f"norm of the weights, lambda {x:g}": norm for x, norm in zip(STRENGTHS, norms, strict=True)}
    numbers["lambda chosen"] = STRENGTHS[chosen]
    curves: Curves = {
        ("Accuracy by lambda", "lambda (its place)", name): [(float(k), y) for k, y in enumerate(ys)]
        for name, ys in (("training", train), ("test", test))
    }
    effects = statistics.fmean(shrinks), statistics.fmean(falls), test[chosen] - test[-1], test[chosen] - test[0]
    return Replicate(effects, numbers, curves)


def sparsity(lab: Laboratory, seed: int) -> Replicate:
    """S027: linear softmax by growing strengths of L1 and of L2."""
    families: dict[str, list[Penalty]] = {
        "L1": [L1(x) for x in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)],
        "L2": [L2(x) for x in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)],
    }
    trained = {
        name: [lab.train(seed, 400, BASE.but(model=Linear(), optimizer=Sgd(0.005, momentum=0.9), penalty=part, size=16)) for part in parts]
        for name, parts in families.items()
    }
    held_out = {name: [one.accuracy("validation") for one in some] for name, some in trained.items()}
    enough = max(max(some) for some in held_out.values()) - 0.01
    shares = {}
    numbers: dict[str, float] = {}
    for name, some in trained.items():
        good = [k for k, accuracy in enumerate(held_out[name]) if accuracy >= enough] or [held_out[name].index(max(held_out[name]))]
        shares[name] = float((_weights(some[good[-1]]).abs() < SMALL).double().mean())
        numbers |= {f"share of small weights, {name}": shares[name], f"test accuracy, {name}": some[good[-1]].accuracy()}
    return Replicate((shares["L1"] - shares["L2"],), numbers)


def dropout_ensemble(lab: Laboratory, seed: int) -> Replicate:
    """S111: a perceptron with and without dropout, asked with masks drawn and with scaled weights."""
    recipe = BASE.but(optimizer=Sgd(0.01, momentum=0.9), size=16)
    dropped = lab.train(seed, 800, recipe.but(model=Mlp((512, 512), drop=Dropout(0.5))))
    plain = lab.train(seed, 800, recipe.but(model=Mlp((512, 512))))
    passes = [dropped.outputs(seed=k) for k in range(PASSES)]
    one = sum(x.accuracy for x in passes) / PASSES
    mean, scaled = accuracy_of_mean(passes), dropped.accuracy()
    correlations = [_correlation(x, lab.images(1000, "test", BASE.but(size=16)).images) for x in (plain, dropped)]
    numbers = {
        "one thinned net": one, f"mean of {PASSES}": mean, "scaled weights": scaled, "without dropout": plain.accuracy(),
        "correlation, without": correlations[0], "correlation, with": correlations[1],
    }  # fmt: skip
    return Replicate((mean - one, scaled - mean, correlations[0] - correlations[1]), numbers)


@torch.no_grad()
def _correlation(trained: Training, images: Tensor) -> float:
    """The mean size of the correlation between the outputs of two units of the first hidden layer, of those that are not constant."""
    trained.model.eval()
    hidden = images
    for name, layer in trained.model.named_children():
        hidden = layer(hidden)
        if name == "layer1":
            break
    hidden = hidden[:, hidden.std(0) > 0].double()
    correlations = torch.corrcoef(hidden.T)
    n = len(correlations)
    return float((correlations.abs().sum() - n) / (n * (n - 1)))


def augmentation(lab: Laboratory, seed: int) -> Replicate:
    """S122: a conv net with and without augmentation on one in eight images, one in three, and all; ten crops against the center."""
    _, data = lab.open(BASE.but(size=16))
    test = dict[tuple[str, int], float]()
    for share in SHARES:
        for name, augment in (("plain", "none"), ("augmented", AUGMENT)):
            recipe = BASE.but(model=Convnet(8), size=16, augment=augment)
            training = lab.train(seed, 600, recipe, per_class=max(1, min(data.class_counts()) // share))
            test[name, share] = training.accuracy()
    crops = score_views(training.built.evaluator, training.model, data.rows("test"), TenCrop(scales=(18,))).scores["accuracy"]
    numbers = {f"{name}, 1/{share} of the images": x for (name, share), x in test.items()} | {"augmented, ten crops": crops}
    gains = [test["augmented", share] - test["plain", share] for share in SHARES]
    return Replicate((statistics.fmean(gains), crops - test["augmented", SHARES[-1]]), numbers)
