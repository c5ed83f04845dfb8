"""Auto: what the user left open is chosen from the data and the machine; each choice is said with its rule and its evidence."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from goodfit.core.catalog import Catalog, Part
from goodfit.core.chance import Chance
from goodfit.core.device import choose, cores, free_memory, prepare
from goodfit.core.progress import Length
from goodfit.core.weights import is_norm
from goodfit.core.words import count, percent, size
from goodfit.data.dataset import Dataset
from goodfit.data.headers import ImageHeaders
from goodfit.models.anatomy.account import account
from goodfit.recipe import memorize
from goodfit.recipe.build import make_model, parts
from goodfit.recipe.full_batch import CHOICES
from goodfit.recipe.measure import fastest
from goodfit.recipe.recipe import Recipe
from goodfit.training.loop import learns

SMALL = 64  # images up to this side are taken as they are,
LEAST = 16  # but no smaller than this, so that a conv net has room for its stages
WIDTHS = (64, 48, 32, 24, 16, 12)
KINDS = {1: "gray", 3: "RGB", 4: "with alpha"}
PASSES = (8, 60)  # fewest and most epochs a counted default asks for
SEEN = 400_000  # images a default training looks at, between those bounds


@dataclasses.dataclass(frozen=True)
class Choice:
    """One field that was left open: what it became, by which rule, on what evidence."""

    field: str
    value: str
    rule: str
    evidence: str


class Chooser:
    """Fills the fields of a recipe that say "auto", keeping an account of each."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.choices: list[Choice] = []

    def open(self, field: str) -> bool:
        return bool(getattr(self.recipe, field) == "auto")

    def choose(self, field: str, value: Any, rule: str, evidence: str) -> None:
        """Settle a field, unless the user did."""
        if self.open(field):
            self.recipe = self.recipe.but(**{field: value})
            self.choices.append(Choice(field, str(value), rule, evidence))


def machine_choices(chooser: Chooser) -> None:
    """The device: it comes first, for everything else runs on it."""
    device = choose(chooser.recipe.device)
    chooser.choose("device", str(device), "an accelerator where there is one", f"{device.type} is there")
    prepare(cores() if chooser.open("threads") else int(chooser.recipe.threads))


def data_choices(chooser: Chooser, survey: ImageHeaders) -> None:
    """The size and channels the model sees, from the images' own."""
    good = np.array([row not in survey.broken for row in range(len(survey.widths))])
    short = np.minimum(survey.widths, survey.heights)[good]
    middle = int(np.median(short))
    small = middle <= SMALL
    cuda = chooser.recipe.device.startswith("cuda")
    side = max(middle, LEAST) if small else 128 if cuda else SMALL
    rule = (
        f"their own size, from {LEAST} up to {SMALL} pixels" if small else "128 pixels on a GPU, 64 on a CPU; give --size for more detail"
    )
    chooser.choose("size", side, rule, f"the median short side is {middle} pixels")
    kinds = ", ".join(f"{int((survey.channels == kind).sum()):,} {word}" for kind, word in KINDS.items() if (survey.channels == kind).any())
    rule = "gray where every image is, alpha where every image has it, else RGB (gray repeated, alpha laid over white)"
    chooser.choose("channels", survey.model_channels, rule, kinds)


def training_choices(chooser: Chooser, data: Dataset, known: Catalog, spent: float = 0.0) -> None:
    """Augmentation, batch, model, optimizer, pieces, precision, budget and how often to evaluate; `spent` seconds are over already."""
    images = len(data.splits.train)
    _full_batch(chooser, known)
    _model(chooser, data, known, spent)
    model = parts(chooser.recipe, known)["model"]
    shape = make_model(model, len(data.classes), data.preprocess.channels, data.preprocess.size)
    if not learns(shape):
        _memory(chooser, model)
    chooser.choose("schedule", *_schedule(chooser.recipe))
    augment_choice(chooser, data)
    batch = 128 if images >= 2000 else 64 if images >= 500 else max(4, min(32, images // 4))
    chooser.choose("batch_size", batch, "128; fewer for small sets, so that an epoch has steps enough", count(images, "training image"))
    chooser.choose("optimizer", *_optimizer(chooser.recipe.images_a_step(images), shape))
    _fit_memory(chooser, data, shape)
    _precision(chooser, data, model)
    epochs = min(max(round(SEEN / images), PASSES[0]), PASSES[1])
    rule = f"about {SEEN:,} images seen, within {PASSES[0]} to {PASSES[1]} epochs"
    chooser.choose("budget", f"{epochs} epochs", rule, count(images, "training image"))
    budget = Length.read(chooser.recipe.budget)
    few = budget.unit == "epoch" and budget.amount <= 40
    often = "1 epoch" if few else "0.1" if budget.unit == "second" else "0.025"
    chooser.choose(
        "evaluate_every", often, "each epoch; 40 times over a longer budget, 10 times over one in minutes", chooser.recipe.budget
    )


def _full_batch(chooser: Chooser, known: Catalog) -> None:
    """Beside an optimizer that needs the same loss at every call: no noise, and all images in each step."""
    optimizer = parts(chooser.recipe, known).get("optimizer")
    for field, value, rule in CHOICES if getattr(optimizer, "full_batch", False) and chooser.recipe.noise == "refuse" else ():
        chooser.choose(field, value, rule, f"the optimizer is {optimizer}")


def _memory(chooser: Chooser, model: Part) -> None:
    """Beside a model that learns nothing by steps nothing is measured."""
    for field, value, rule in (*memorize.CHOICES, ("threads", cores(), "one for each core")):
        chooser.choose(field, value, rule, f"{model} has nothing to train")


def _schedule(recipe: Recipe) -> tuple[str, str, str]:
    if str(recipe.brake) != "none":
        return "warmup(0.05) | constant", "a short warmup, then the peak: the brake is what lowers it", f"the brake is {recipe.brake}"
    if recipe.snapshots:
        cycles = 5 if recipe.snapshots == "all" else recipe.snapshots
        return f"sgdr({cycles}, growth=1)", "a cycle for each snapshot", f"snapshots = {recipe.snapshots}"
    return "warmup(0.05) | cosine", "a short warmup, then down to zero at the budget's end", recipe.budget


def augment_choice(chooser: Chooser, data: Dataset) -> None:
    """The augmentation, by the images' size and whether their mirror images keep the class."""
    if chooser.open("augment"):
        chooser.choose("augment", *_augment(data))


def _augment(data: Dataset) -> tuple[str, str, str]:
    kept, evidence = _mirror_keeps_class(data)
    height, width = data.preprocess.size
    side = min(height, width)
    shift = f"crop({max(1, round(side / 8))})"
    words = [shift] if side <= SMALL and data.preprocess.box == data.preprocess.size else ["resized_crop(area=(0.35, 1.0))"]
    if kept:
        words.insert(0, "flip")
    if data.preprocess.channels >= 3 and side > 48:
        words.append("jitter(0.3)")
    rule = "shifts of an eighth of the side for small images, resized crops for photos; flips when mirrored images keep their class"
    return " | ".join([*words, "smooth(0.1)"]), rule, evidence


def _mirror_keeps_class(data: Dataset, most: int = 1500, side: int = 12) -> tuple[bool, str]:
    """Whether mirrored training images still look like their class: the nearest neighbors of mirrored images against those of the
    images themselves, among at most `most` training images at `side` pixels.
    """
    rows = data.rows("train")
    rows = rows[Chance.of(0, torch.arange(len(rows)), "mirror").permutation()[:most]].sort().values
    boxes = (data.pixels.read(some).permute(0, 3, 1, 2).float() for some in torch.split(rows, 64))
    small = torch.cat([torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True) for x in boxes])
    labels = data.labels[rows]

    def agreement(queries: torch.Tensor) -> float:
        distance = torch.cdist(queries.flatten(1), small.flatten(1))
        distance.fill_diagonal_(float("inf"))
        return float((labels[distance.argmin(1)] == labels).double().mean())

    chance = float((torch.bincount(labels).double() / len(labels)).square().sum())
    plain, mirrored = agreement(small), agreement(small.flip(3))
    kept = mirrored - chance > 0.75 * (plain - chance)
    return kept, f"nearest neighbors agree on the class for {percent(plain)} of images, for {percent(mirrored)} of mirrored ones"


def _optimizer(batch: int, model: nn.Module) -> tuple[str, str, str]:
    norms = sum(is_norm(module) for module in model.modules())
    rate = (0.25 if norms else 0.025) * (batch / 128) ** 0.5
    return (
        f"sgd({rate:.2g}, momentum=0.9, nesterov=True, weight_decay=0.0005)",
        "SGD with Nesterov momentum; ten times the rate where norms keep the activations in bounds; it grows with the root of the batch",
        f"{count(norms, 'norm')}, batches of {batch}",
    )


def _model(chooser: Chooser, data: Dataset, known: Catalog, spent: float) -> None:
    """A small conv net: under a budget in minutes the widest that sees every image often enough, by the measured speed of one."""
    images, budget = len(data.splits.train), chooser.recipe.budget
    if budget == "auto" or Length.read(budget).unit != "second":
        width = 16 if images < 2000 else 32
        chooser.choose("model", f"convnet({width})", "a small conv net: 32 wide, 16 for few images", count(images, "training image"))
    elif chooser.open("model"):
        passes = min(max(SEEN / images, PASSES[0]), PASSES[1]) / 2
        middle = WIDTHS[len(WIDTHS) // 2]
        speed = fastest(known.make(f"convnet({middle})", "model"), data, chooser.recipe)
        work = {width: _macs(known.make(f"convnet({width})", "model"), data) for width in WIDTHS}
        taken = (
            speed.seconds_per_image * images / max(0.9 * Length.read(budget).amount - spent, 1.0)
        )  # by one pass at the middle width, as a share of the budget
        seen = {width: (work[middle] / work[width]) ** 0.8 / taken for width in WIDTHS}  # small nets use the machine less well
        width = next((width for width in WIDTHS if seen[width] >= passes), WIDTHS[-1])
        rule = f"the widest small conv net that passes over the data {passes:.0f} times in the budget"
        evidence = f"by convnet({middle})'s speed, convnet({width}) sees each of {images:,} images {seen[width]:.0f} times in {budget}"
        chooser.choose("model", f"convnet({width})", rule, evidence)


def _macs(part: Part, data: Dataset) -> int:
    """Multiply-adds of one forward pass."""
    pre = data.preprocess
    with torch.device("meta"):
        model = make_model(part, len(data.classes), pre.channels, pre.size)
    return account(model, pre.channels, pre.size).totals["macs"]


def _fit_memory(chooser: Chooser, data: Dataset, model: nn.Module) -> None:
    """Cut the step into pieces when the activations would not fit."""
    recipe, pre = chooser.recipe, data.preprocess
    try:
        totals = account(copy.deepcopy(model).to("meta"), pre.channels, pre.size).totals
    except (RuntimeError, NotImplementedError):  # a net of the user's own that makes tensors in its forward pass
        chooser.choose("pieces", 1, "the whole step at once", "what it needs cannot be told without running it")
        return
    batch = recipe.images_a_step(len(data.splits.train))
    need = 2 * 4 * totals["activations"] * batch + 16 * totals["parameters"]
    free = free_memory(choose(recipe.device))
    pieces = 1
    while need / pieces > 0.6 * free and pieces * 16 < batch:
        pieces *= 2
    evidence = f"a step needs about {size(need)}, {size(free)} are free"
    chooser.choose("pieces", pieces, "as few as fit in 60 % of the free memory", evidence)


def _precision(chooser: Chooser, data: Dataset, model: Part) -> None:
    if chooser.open("precision") or chooser.open("layout") or chooser.open("threads"):
        found = fastest(model, data, chooser.recipe)
        rule = "the fastest of those measured with this model on this machine; another than plain fp32 must gain 15 %"
        chooser.choose("precision", found.precision, rule, found.evidence)
        chooser.choose("layout", found.layout, rule, found.evidence)
        chooser.choose(
            "threads", found.threads, "one for each core; one alone for small steps that several would hardly speed up", found.evidence
        )
        torch.set_num_threads(int(chooser.recipe.threads))
