"""What is chosen for a training that starts from pretrained weights: the size of its images, what it trains, and how."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from goodfit.core.device import memory_format
from goodfit.core.facts import Facts
from goodfit.core.parts import Part, spell
from goodfit.core.progress import Length, Lengths
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset
from goodfit.data.headers import ImageHeaders
from goodfit.losses.scores import split_outputs
from goodfit.models.weights.files import Weights
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.recipe.auto import budget_seconds, choose_augment, choose_evaluations, default_schedule
from goodfit.recipe.build import evaluated_images
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.parts import make_model
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.domain_shift import is_similar
from goodfit.recipe.transfer.features import HEAD
from goodfit.recipe.transfer.frozen import frozen_place
from goodfit.recipe.transfer.rates import TEST_STEPS, find_safe_rate
from goodfit.recipe.transfer.start import Start
from goodfit.schedules.compose import compose
from goodfit.training.freezing import freezing_phases, set_trainable
from goodfit.training.noise import evaluating
from goodfit.training.restored import restored_model

OTHER_BUDGET_SECONDS = 600.0  # seconds that a budget which is not in minutes is taken for
SIZE_STEP, MIN_SIDE = 32, 96  # pixels: the strides of most nets multiply to 32
MAX_ENLARGEMENT = 4  # times the images' own side
# Forward passes over the images that must fit the budget at a size: one for the features, and the cost of two passes that train later
# stages. Larger images with fewer stages were better than the reverse in 1 and in 3 minutes (photos of clothing, mobilenet_v2).
FORWARD_PASSES = 4
# The next two limits were set on photos of clothing and on gratings, which are unlike the images of the pretraining, from 5 to 300 images a
# class (bench/transfer_advice.py). Training stages on 5 photos of clothing a class was 5 to 15 points worse than the probe, on 20 level
# with it; training the later two thirds on 5 gratings a class was 31 points better than the probe and 12 better than training all.
MIN_IMAGES_PER_CLASS = 12
# With 80 photos of clothing a class all stages were 2 and 4 points better than the later two thirds; with 20 gratings and more level or
# better.
MANY_IMAGES_PER_CLASS = 50
# Passes over the training images that training more stages is worth its time for: on photos of clothing the later two thirds were a point
# better than the last third with 2 passes in 3 minutes, 2 points worse with 1.7 in one.
MIN_PASSES = 2.0
# That training all stages on images like those of the pretraining is worth: with 10 passes over 80 photos of clothing a class it was 3
# points better than training the later two thirds, with 4 and 6 passes over 220 a class 2 to 2.6 points worse, three times.
MIN_PASSES_OF_ALL = 8.0
IMAGES_SEEN, MIN_EPOCHS, MAX_EPOCHS = 40_000, 5, 30  # by a training whose budget is chosen
TIMED_IMAGES = 16
MIN_SECONDS_TO_MEASURE = 100.0  # seconds that are worth measuring the precision, layout and threads
MAX_VIEWS, VIEWS_SHARE, MIN_CACHE_GAIN = 8, 0.4, 1.5
EVALUATION_SHARE = 0.1
MAX_WARMUP_START = 0.5  # of the peak rate, at which a schedule begins that warms up
ADAM_RATE, ADAM_BATCH = 5e-4, 64  # the rate for all stages and batches of that size


def seconds_of(budget: str) -> float:
    """The seconds of a budget in minutes; another is taken for OTHER_BUDGET_SECONDS."""
    return budget_seconds(budget) or OTHER_BUDGET_SECONDS


def choose_source_size(chooser: Chooser, weights: Weights, headers: ImageHeaders, spent: float) -> None:
    """Choose the size of the images: that of the weights, or less on a CPU where the budget asks for it; `spent` seconds are over."""
    if not weights.size or not chooser.is_open("size"):
        return
    native = min(weights.size)
    images, own = int(headers.usable.sum()), headers.median_side
    assumed = ", assumed" if weights.assumed_from else ""
    evidence = f"{weights.assumed_from or weights.name}: {native} pixels"
    is_free = not weights.has_fixed_size and weights.size[0] == weights.size[1]
    sides = [side for side in range(native, MIN_SIDE - 1, -SIZE_STEP) if side <= MAX_ENLARGEMENT * own or side - SIZE_STEP < MIN_SIDE]
    if chooser.recipe.device != "cpu" or not is_free or sides in ([], [native]):
        rule = "the size that its weights were trained at"
        rule += (
            ", and the only one that the model takes" if weights.has_fixed_size else f"{assumed}; --size sets another" if assumed else ""
        )
        text: Any = native if weights.size[0] == weights.size[1] else "x".join(map(str, weights.size))
        chooser.choose("size", text, rule, evidence)
        return
    part = chooser.part("model")
    assert part is not None
    seconds = time_forward(part, weights.size, int(chooser.recipe.channels))
    left = seconds_of(chooser.recipe.budget) - spent
    costs = {side: images * seconds * (side / native) ** 2 * FORWARD_PASSES for side in sides}
    side = next((side for side in sides if costs[side] <= left), sides[-1])
    rule = f"the largest, up to that of the weights{assumed}, at which {FORWARD_PASSES} forward passes over the images fit the budget"
    evidence += f", {1 / seconds:,.0f} forward passes a second there; {count_of(images, 'image')}; {left:.0f} s"
    chooser.choose("size", side, rule, evidence)


def time_forward(part: Part, size: tuple[int, ...], channels: int) -> float:
    """Time the forward pass of a model on the CPU, in seconds an image."""
    model = make_model(part, 2, channels, (size[0], size[-1])).to(memory_format=memory_format("channels_last"))  # type: ignore[call-overload]
    return time_evaluation(model, channels, size)


def time_best(run: Callable[[], Any], times: int = 3) -> float:
    """The seconds of the fastest of some runs, after one to warm up."""
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def choose_for_source(chooser: Chooser, start: Start, data: Dataset, left: float) -> None:
    """Choose what is trained of a pretrained start and how, where that is open; `left` seconds of a budget in minutes are left."""
    model, images = start.model, len(data.splits.train)
    assert model is not None
    choose_length(chooser, data)
    choose_trainable(chooser, model, data, left, start.shift)
    if is_full_batch(chooser):
        return
    if chooser.recipe.head_init == "random":
        rule = "what is pretrained below a random head moves at a tenth of its rate"
        chooser.choose("rates", "backbone(0.1)", rule, "the head is random")
    if left < MIN_SECONDS_TO_MEASURE and chooser.recipe.device == "cpu":
        for field, value in (("precision", "fp32"), ("layout", "channels_last")):
            chooser.choose(field, value, "the usual one on a CPU, where the budget leaves no time to measure", f"{left:.0f} s are left")
    choose_augment(chooser, data)
    facts = data.facts(budget_lengths(chooser.recipe, images))
    if chooser.recipe.snapshots or str(chooser.recipe.plateau) != "none":
        chooser.choose("schedule", *default_schedule(chooser.recipe))
    rule = "a warmup, for the start is good already, then down to zero"
    chooser.choose("schedule", "warmup(0.1) | cosine", rule, chooser.recipe.budget)
    choose_optimizer(chooser, model, data, facts)
    if facts.lengths.timed and chooser.is_open("evaluate_every"):
        each = evaluated_images(data) * time_evaluation(model, data.preprocess.channels, data.preprocess.size)
        choose_evaluations(chooser, left, each, EVALUATION_SHARE)
    choose_cached_views(chooser, model, data, facts, left)


def choose_length(chooser: Chooser, data: Dataset) -> None:
    """Choose the batch and the budget, unless a full-batch optimizer decides."""
    if is_full_batch(chooser):
        return
    images = len(data.splits.train)
    batch = ADAM_BATCH if images >= 500 else max(4, min(32, images // 4))
    chooser.choose("batch_size", batch, "64; fewer for small sets, so that an epoch has steps enough", count_of(images, "training image"))
    epochs = min(max(round(IMAGES_SEEN / images), MIN_EPOCHS), MAX_EPOCHS)
    rule = f"about {IMAGES_SEEN:,} images seen, within {MIN_EPOCHS} to {MAX_EPOCHS} epochs: pretrained weights need few"
    chooser.choose("budget", f"{epochs} epochs", rule, count_of(images, "training image"))


def budget_lengths(recipe: Recipe, images: int) -> Lengths:
    """The lengths of a recipe whose batch size and budget are chosen."""
    steps = -(-images // recipe.images_per_step(images))
    return Lengths(steps, images / steps, Length.read(recipe.budget))


def choose_cached_views(chooser: Chooser, model: nn.Module, data: Dataset, facts: Facts, left: float) -> None:
    """Choose how many views of each image to compute the features of frozen stages for, where that leaves time for more passes."""
    part, images, lengths = chooser.part("trainable"), len(data.splits.train), facts.lengths
    assert part is not None
    trainable = part.bind(facts)
    if not chooser.is_open("cached_views") or not frozen_place(model, freezing_phases(trainable, model)):
        return
    forward = time_evaluation(model, data.preprocess.channels, data.preprocess.size)
    step = max(time_training(model, trainable, data), 1.1 * forward)
    if lengths.timed:
        views = min(MAX_VIEWS, int(VIEWS_SHARE * left / (images * forward)))
        passes, more = left / (images * step), (left - views * images * forward) / (images * (step - forward))
    else:
        passes = more = lengths.total_steps / lengths.epoch_steps
        views = min(MAX_VIEWS, max(2, math.ceil(passes / 3)))
    pays = views >= 2 and (more >= MIN_CACHE_GAIN * passes if lengths.timed else views < passes)
    rule = f"up to {MAX_VIEWS} views, as long as that leaves time for {MIN_CACHE_GAIN:g} times as many passes"
    evidence = f"{passes:.1f} passes without, {more:.1f} with {count_of(views, 'view')}"
    chooser.choose("cached_views", views if pays else 0, rule, evidence)


def choose_optimizer(chooser: Chooser, model: nn.Module, data: Dataset, facts: Facts) -> None:
    """Choose AdamW at a rate that moves pretrained weights little, or a lower one if it raises the loss of this model on this data."""
    if not chooser.is_open("optimizer"):
        return
    batch = chooser.recipe.images_per_step(len(data.splits.train))
    parts = chooser.parts()
    parts |= {seat: parts[seat].bind(facts) for seat in ("trainable", "augment", "schedule")}

    def optimizer_at(rate: float) -> Part:
        return chooser.catalog.make(f"adamw({rate:.2g}, weight_decay=0.05)", "optimizer")

    usual = ADAM_RATE * (batch / ADAM_BATCH / trained_share(model, parts["trainable"])) ** 0.5
    warms_up = compose(parts["schedule"])(0.0) < MAX_WARMUP_START
    lr, is_safe = find_safe_rate(model, data, parts, optimizer_at, usual, warms_up)
    rule = "AdamW at a rate that moves pretrained weights little, higher for few stages and large batches, halved while it is too high"
    evidence = f"{usual:.2g} for batches of {batch}"
    if lr != usual:
        evidence += f" raised the loss within {TEST_STEPS} steps, {lr:.2g} {'did not' if is_safe else 'still did'}"
    chooser.choose("optimizer", spell(optimizer_at(lr)), rule, evidence)


def trained_share(model: nn.Module, trainable: Part) -> float:
    """The share of the stages of a model in which anything is trained at first, the head counted as one of them."""
    phases = freezing_phases(trainable, model)
    stages = [*(stage.modules for stage in find_stages(model)), (find_head(model)[0],)]
    learns = [not phases or any(name.startswith(f"{module}.") for name in phases[0].trainable for module in modules) for modules in stages]
    return sum(learns) / len(stages)


def choose_trainable(chooser: Chooser, model: nn.Module, data: Dataset, left: float, shift: float | None = None) -> None:
    """Choose how many stages are trained, by the images per class, their shift from those of the pretraining, and the seconds left."""
    if not chooser.is_open("trainable"):
        return
    if is_full_batch(chooser):
        chooser.choose("trainable", "all", "a full-batch optimizer moves all weights as one vector", str(chooser.part("optimizer")))
        return
    n, per_class = len(find_stages(model)), statistics.median(data.class_counts())
    if n < 2:
        rule = "the whole net, for it has no stages to choose from; pretrained norms keep their statistics"
        chooser.choose("trainable", 'all(statistics="all_fixed")', rule, count_of(n, "stage"))
        return
    evidence = f"a median of {per_class:g} images a class"
    likeness, enough = ("like", MANY_IMAGES_PER_CLASS) if is_similar(shift) else ("unlike", MIN_IMAGES_PER_CLASS)
    if shift is not None:
        evidence += f", {likeness} those of the pretraining: they move the means of its norms by {shift:.2f} standard deviations"
    if per_class < MIN_IMAGES_PER_CLASS and is_similar(shift):
        rule = f"the head alone below {MIN_IMAGES_PER_CLASS} images a class like those of the pretraining: so few hardly teach more"
        chooser.choose("trainable", HEAD, rule, evidence)
        return
    rules = {
        "all(": f"all stages from {enough} images a class on that are {likeness} those of the pretraining, if the time allows",
        f"last({2 * n // 3}, ": "the later two thirds of the stages: the first hold for any images",
    }
    rules.setdefault(f"last({max(1, n // 3)}, ", "the last third of the stages")  # of two stages it is the later one as well
    texts = {f'{text}statistics="all_fixed")': rule for text, rule in rules.items()}
    passes: dict[str, float] = {}

    def fits_budget(text: str) -> bool:
        passes[text] = count_passes(chooser, model, data, text, left)
        return passes[text] >= (MIN_PASSES_OF_ALL if text.startswith("all(") and is_similar(shift) else MIN_PASSES)

    candidates = list(texts)[0 if per_class >= enough else 1 :]
    chosen = next((text for text in candidates if fits_budget(text)), candidates[-1])
    evidence += "; passes over the images: " + ", ".join(f"{each} {count:.1f}" for each, count in passes.items())
    chooser.choose("trainable", chosen, f"{texts[chosen]}; pretrained norms keep their statistics", evidence)


def count_passes(chooser: Chooser, model: nn.Module, data: Dataset, trainable: str, left: float) -> float:
    """How often training passes over the images: in `left` seconds, if the budget is in minutes, at the speed of training these stages."""
    images = len(data.splits.train)
    lengths = budget_lengths(chooser.recipe, images)
    if lengths.timed:
        return left / (images * time_training(model, chooser.catalog.make(trainable, "trainable"), data))
    return lengths.total_steps / lengths.epoch_steps


def is_full_batch(chooser: Chooser) -> bool:
    """Whether the optimizer takes all training images in each step."""
    return bool(getattr(chooser.part("optimizer"), "full_batch", False))


@torch.no_grad()
def time_evaluation(model: nn.Module, channels: int, size: tuple[int, ...]) -> float:
    """Time the forward pass of a model for images (height, width), in seconds an image."""
    device = next(model.parameters()).device
    images = torch.zeros(TIMED_IMAGES, channels, size[0], size[-1], device=device).to(memory_format=torch.channels_last)
    with evaluating(model):
        return time_best(lambda: model(images)) / TIMED_IMAGES


def time_training(model: nn.Module, trainable: Part, data: Dataset) -> float:
    """Time forward and backward of what a part trains of a model, in seconds an image; the weights are not moved."""
    pre, device = data.preprocess, next(model.parameters()).device
    images = torch.zeros(TIMED_IMAGES, pre.channels, *pre.size, device=device).to(memory_format=torch.channels_last)

    def step() -> None:
        model.train()
        set_trainable(model, freezing_phases(trainable, model), 0.0)
        split_outputs(model(images))[0].float().logsumexp(1).mean().backward()  # type: ignore[no-untyped-call]

    with restored_model(model):
        return time_best(step, times=1) / TIMED_IMAGES
