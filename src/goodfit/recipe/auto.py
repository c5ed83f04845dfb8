"""Auto: what the user left open is chosen from the data and the machine; each choice is reported with its rule and its evidence."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from goodfit.augment.mix import Smooth
from goodfit.core.chance import Chance
from goodfit.core.device import configure_torch, free_memory, physical_cores, select_device
from goodfit.core.parameters import has_parameters, is_norm
from goodfit.core.parts import Part
from goodfit.core.progress import Length
from goodfit.core.task import TASKS, Classes
from goodfit.core.words import count_of, format_bytes, format_percent
from goodfit.data.dataset import Dataset
from goodfit.data.headers import ImageHeaders
from goodfit.models.anatomy.account import account_for
from goodfit.recipe.build import evaluated_images
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.measure import choose_precision, measure_fastest
from goodfit.recipe.parts import make_model
from goodfit.recipe.plan import find_curves, plan_training
from goodfit.recipe.recipe import Recipe

SMALL_SIDE = 64  # pixels: images up to this side keep their own size,
MIN_SIDE = 16  # but no smaller than this, so that a conv net has room for its stages
GPU_SIDE = 128  # of larger images on a GPU; on a CPU it is SMALL_SIDE
WIDTHS = (64, 48, 32, 24, 16, 12)  # of the conv net, by the time there is
CONV_NET = "convnet({}, act=gelu)"
CHANNEL_NAMES = {1: "gray", 3: "RGB", 4: "with alpha"}
MIN_EPOCHS, MAX_EPOCHS = 8, 200  # of a budget that is chosen: of 166 photos at 64 pixels 60 teach 74 % (two seeds), 240 80 %
IMAGES_SEEN = 400_000  # by a training whose budget is chosen, within those epochs
MAX_MIRRORED, MIRRORED_SIDE = 1500, 12  # images and pixels for the question whether mirrored images keep their class
MAX_EVALUATIONS, EVALUATION_SHARE = 10, 0.05  # within a budget in minutes: how often at most, and in which share of its time
TRAINING_SHARE, OTHER_SECONDS = 0.97, 6.5  # of a budget in minutes, and what measuring, baselines and the final scores take of it
MEMORY_SHARE = 0.6  # of the free memory that a step may take

# With an optimizer that needs the same loss at every call: a field, its value, and why.
FULL_BATCH_CHOICES = (
    ("augment", "none", "a full-batch optimizer needs the same images at every call"),
    ("batch_size", "all", "a full-batch optimizer needs all training images in each step"),
    ("model", "linear", "a small model without noise or batch statistics, for each step passes over all images several times"),
    ("schedule", "constant", "a full-batch optimizer finds the length of its steps by itself"),
    ("layout", "contiguous", "second derivatives are taken in that layout"),
    ("precision", "fp32", "rounding to bf16 would hide how the loss falls along a step"),
)


# With a model that has no parameters: a field, its value, and why.
UNTRAINED_CHOICES = (
    ("augment", "none", "the training images are memorized as they are"),
    ("batch_size", "all", "all training images are memorized at once"),
    ("schedule", "constant", "none is needed"),
    ("optimizer", "sgd", "none is needed: it is never asked"),
    ("pieces", 1, "there is no step to be cut"),
    ("precision", "fp32", "images are compared exactly"),
    ("layout", "contiguous", "images are compared number by number"),
    ("budget", "1 epoch", "no steps are made, so that it is not used"),
    ("evaluate_every", "1 epoch", "it is judged once"),
)


def choose_machine(chooser: Chooser) -> None:
    """Choose the device, and set up torch; this comes first, for everything else runs on it."""
    device = select_device(chooser.recipe.device)
    chooser.choose("device", str(device), "an accelerator where there is one", f"{device.type} is available")
    configure_torch(physical_cores() if chooser.is_open("threads") else int(chooser.recipe.threads))


def choose_loss(chooser: Chooser) -> None:
    """Choose the loss of the task; that of classes is no choice to speak of."""
    task = TASKS[chooser.recipe.task]
    if task is Classes:
        chooser.set("loss", task.default_loss)
    chooser.choose("loss", task.default_loss, f"the loss of {task.name}", f"the task is {task.name}")


def choose_size(chooser: Chooser, headers: ImageHeaders, note: str = "") -> None:
    """Choose the size the model sees, from that of the images; `note` is added to the rule."""
    median = headers.median_side
    on_gpu = chooser.recipe.device.startswith("cuda")
    if median <= SMALL_SIDE:
        side, rule = max(median, MIN_SIDE), f"their own size, from {MIN_SIDE} up to {SMALL_SIDE} pixels"
    else:
        side = GPU_SIDE if on_gpu else SMALL_SIDE
        rule = f"{GPU_SIDE} pixels on a GPU, {SMALL_SIDE} on a CPU; give --size for more detail"
    chooser.choose("size", side, rule + note, f"the median short side is {median} pixels")


def choose_channels(chooser: Chooser, headers: ImageHeaders) -> None:
    """Choose the channels the model sees, from those of the images."""
    images = {name: int((headers.channels == channels).sum()) for channels, name in CHANNEL_NAMES.items()}
    rule = "gray where every image is, alpha where every image has it, else RGB (gray repeated, alpha laid over white)"
    chooser.choose("channels", headers.model_channels, rule, ", ".join(f"{n:,} {name}" for name, n in images.items() if n))


def choose_training(chooser: Chooser, data: Dataset, spent: float = 0.0) -> None:
    """Choose augmentation, batch, model, optimizer, pieces, precision, budget and how often to evaluate.

    `spent` seconds of a budget in minutes are over already.
    """
    if not chooser.has_open_fields():
        return
    images = len(data.splits.train)
    for field, value in (("trainable", "all"), ("rates", "none"), ("head_init", "random"), ("cached_views", 0)):
        chooser.set(field, value)
    chooser.set("sync_norms", getattr(chooser.part("sync"), "every", 0) == 0)
    _choose_for_full_batch(chooser)
    _choose_model(chooser, data, spent)
    part = chooser.part("model")
    assert part is not None
    model = make_model(part, len(data.classes), data.preprocess.channels, data.preprocess.size)
    if not has_parameters(model):
        _choose_for_untrained(chooser, part)
    chooser.choose("schedule", *default_schedule(chooser.recipe))
    choose_augment(chooser, data)
    batch = 128 if images >= 2000 else 64 if images >= 500 else max(4, min(32, images // 4))
    chooser.choose("batch_size", batch, "128; fewer for small sets, so that an epoch has steps enough", count_of(images, "training image"))
    chooser.choose("optimizer", *_default_optimizer(chooser.recipe.images_per_step(images), model))
    _choose_pieces(chooser, data, model)
    fastest = choose_precision(chooser, data, part)
    seconds = budget_seconds(chooser.recipe.budget)
    if seconds and chooser.is_open("evaluate_every") and has_parameters(model):
        fastest = fastest or measure_fastest(part, data, chooser.recipe)
        choose_evaluations(chooser, seconds - spent, evaluated_images(data) * fastest.seconds_per_image / 3, EVALUATION_SHARE)
    _choose_length(chooser, images)
    for field, value in (("resolution", "full"), ("views", "center")):
        chooser.set(field, value)


def budget_seconds(budget: str) -> float:
    """The seconds of a budget in minutes; 0 for any other, and while it is open."""
    length = Length.read(budget) if budget != "auto" else None
    return length.amount if length and length.unit == "second" else 0.0


def _choose_length(chooser: Chooser, images: int) -> None:
    """Choose the budget and how often to evaluate."""
    epochs = min(max(round(IMAGES_SEEN / images), MIN_EPOCHS), MAX_EPOCHS)
    rule = f"about {IMAGES_SEEN:,} images seen, within {MIN_EPOCHS} to {MAX_EPOCHS} epochs"
    chooser.choose("budget", f"{epochs} epochs", rule, count_of(images, "training image"))
    budget = Length.read(chooser.recipe.budget)
    is_short = budget.unit == "epoch" and budget.amount <= 40
    chooser.choose("evaluate_every", "1 epoch" if is_short else "0.025", "each epoch; 40 times over a longer budget", chooser.recipe.budget)


def choose_evaluations(chooser: Chooser, left: float, each: float, share: float) -> None:
    """Choose how often to evaluate within a budget in minutes, of which `left` seconds are left, if it takes `each` seconds."""
    times = max(1, min(MAX_EVALUATIONS, int(share * left / each)))
    rule = f"at most {MAX_EVALUATIONS} times, in {share:.0%} of the time that is left"
    chooser.choose("evaluate_every", f"{math.ceil(1e4 / times) / 1e4:g}", rule, f"an evaluation takes {each:.1f} s")


def _choose_for_full_batch(chooser: Chooser) -> None:
    """With an optimizer that needs the same loss at every call: no noise, and all images in each step."""
    optimizer = chooser.part("optimizer")
    if getattr(optimizer, "full_batch", False) and chooser.recipe.noise == "refuse":
        for field, value, rule in FULL_BATCH_CHOICES:
            chooser.choose(field, value, rule, f"the optimizer is {optimizer}")


def _choose_for_untrained(chooser: Chooser, model: Part) -> None:
    """With a model that is not trained by steps, nothing is measured."""
    for field, value, rule in (*UNTRAINED_CHOICES, ("threads", physical_cores(), "one for each core")):
        chooser.choose(field, value, rule, f"{model} has nothing to train")


def default_schedule(recipe: Recipe) -> tuple[str, str, str]:
    """The schedule of a recipe, with the rule and the evidence for it."""
    if str(recipe.plateau) != "none":
        evidence = f"the plateau rule is {recipe.plateau}"
        return "warmup(0.05) | constant", "a short warmup, then the peak: the plateau rule lowers it", evidence
    if recipe.snapshots:
        cycles = 5 if recipe.snapshots == "all" else recipe.snapshots
        return f"sgdr({cycles}, growth=1)", "a cycle for each snapshot", f"snapshots = {recipe.snapshots}"
    return "warmup(0.05) | cosine", "a short warmup, then down to zero at the budget's end", recipe.budget


def choose_augment(chooser: Chooser, data: Dataset) -> None:
    """Choose the augmentation, by the images' size and whether their mirror images keep the class."""
    if chooser.is_open("augment"):
        softening = ["smooth(0.1)"] if chooser.recipe.task in Smooth.tasks and not chooser.recipe.source else []
        chooser.choose("augment", *_default_augment(data, softening))


def _default_augment(data: Dataset, softening: list[str]) -> tuple[str, str, str]:
    keeps_class, evidence = _mirror_keeps_class(data)
    side = min(data.preprocess.size)
    shift = f"crop({max(1, round(side / 8))}, border=reflect)"
    is_small = side <= SMALL_SIDE and data.preprocess.box == data.preprocess.size
    parts = ["flip"] if keeps_class else []
    if data.task.name == "numbers":  # which may be about size, or light
        rule = "shifts of an eighth of the side, which leave sizes and colors as they are; flips when mirrored images keep their numbers"
        return " | ".join([*parts, shift]), rule, evidence
    parts.append(shift if is_small else "resized_crop(area=(0.35, 1.0))")
    if data.preprocess.channels >= 3 and side > 48:
        parts.append("jitter(0.3)")
    rule = "shifts of an eighth of the side for small images, resized crops for photos; flips when mirrored images keep their class"
    return " | ".join([*parts, *softening]), rule, evidence


def _mirror_keeps_class(data: Dataset) -> tuple[bool, str]:
    """Whether mirrored training images still look like their class: compares the nearest neighbors of mirrored images with those of the
    images themselves, among at most MAX_MIRRORED training images at MIRRORED_SIDE pixels.
    """
    rows = data.local_rows("train")
    rows = rows[Chance.of(0, torch.arange(len(rows)), "mirror").permutation()[:MAX_MIRRORED]].sort().values
    boxes = (data.pixels.read(piece).permute(0, 3, 1, 2).float() for piece in torch.split(rows, 64))
    side = (MIRRORED_SIDE, MIRRORED_SIDE)
    images = torch.cat([torch.nn.functional.interpolate(x, size=side, mode="bilinear", antialias=True) for x in boxes])
    labels = data.labels[rows]

    def nearest(queries: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(queries.flatten(1), images.flatten(1))
        distance.fill_diagonal_(float("inf"))
        return distance.argmin(1)

    if data.task.name != "classes":  # of labels and numbers, how much of their variance nearest neighbors share
        spread = float(labels.double().var(0, correction=0).sum()) or 1.0
        errors = [float((labels[nearest(x)] - labels).double().square().sum(1).mean()) for x in (images, images.flip(3))]
        plain, mirrored = (1 - error / (2 * spread) for error in errors)
        evidence = f"nearest neighbors share {format_percent(plain)} of the variance, those of mirrored images {format_percent(mirrored)}"
        return mirrored > 0.75 * max(plain, 0.0), evidence
    by_chance = float((torch.bincount(labels).double() / len(labels)).square().sum())
    plain, mirrored = (float((labels[nearest(x)] == labels).double().mean()) for x in (images, images.flip(3)))
    keeps_class = mirrored - by_chance > 0.75 * (plain - by_chance)
    return keeps_class, (
        f"nearest neighbors agree on the class for {format_percent(plain)} of images, for {format_percent(mirrored)} of mirrored ones"
    )


def _default_optimizer(batch: int, model: nn.Module) -> tuple[str, str, str]:
    norms = sum(is_norm(module) for module in model.modules())
    lr = (0.25 if norms else 0.025) * (batch / 128) ** 0.5
    return (
        f"sgd({lr:.2g}, momentum=0.9, nesterov=True, weight_decay=0.0005)",
        "SGD with Nesterov momentum; ten times the rate where norms keep the activations in bounds; it grows with the root of the batch",
        f"{count_of(norms, 'norm')}, batches of {batch}",
    )


def _choose_model(chooser: Chooser, data: Dataset, spent: float) -> None:
    """Choose a small conv net: under a budget in minutes the widest that sees every image often enough, by the measured speed of one."""
    images, budget = len(data.splits.train), chooser.recipe.budget
    if not budget_seconds(budget):
        width = 16 if images < 2000 else 32
        chooser.choose("model", CONV_NET.format(width), "a small conv net: 32 wide, 16 for few images", count_of(images, "training image"))
    elif chooser.is_open("model"):
        left = max(TRAINING_SHARE * budget_seconds(budget) - spent - OTHER_SECONDS, 1.0)
        if data.task.name == "classes" and (curves := find_curves(data)):
            plan_training(chooser, data, curves, left, _mirror_keeps_class(data)[0])
            return
        epochs = min(max(IMAGES_SEEN / images, MIN_EPOCHS), MAX_EPOCHS) / 2
        middle = WIDTHS[len(WIDTHS) // 2]
        nets = {width: chooser.catalog.make(CONV_NET.format(width), "model") for width in WIDTHS}
        speed = measure_fastest(nets[middle], data, chooser.recipe)
        work = {width: _multiply_adds(net, data) for width, net in nets.items()}
        epoch_share = speed.seconds_per_image * images / left  # of the budget, at the middle width
        seen = {width: (work[middle] / work[width]) ** 0.8 / epoch_share for width in WIDTHS}  # small nets use the machine less well
        width = next((width for width in WIDTHS if seen[width] >= epochs), WIDTHS[-1])
        rule = f"the widest small conv net that passes over the data {epochs:.0f} times in the budget"
        evidence = f"by convnet({middle})'s speed, convnet({width}) sees each of {images:,} images {seen[width]:.0f} times in {budget}"
        chooser.choose("model", CONV_NET.format(width), rule, evidence)


def _multiply_adds(part: Part, data: Dataset) -> int:
    """Those of one forward pass."""
    pre = data.preprocess
    with torch.device("meta"):
        model = make_model(part, len(data.classes), pre.channels, pre.size)
    return account_for(model, pre.channels, pre.size).totals["macs"]


def _choose_pieces(chooser: Chooser, data: Dataset, model: nn.Module) -> None:
    """Cut the step into pieces when the activations would not fit into memory."""
    recipe, pre = chooser.recipe, data.preprocess
    try:
        totals = account_for(copy.deepcopy(model).to("meta"), pre.channels, pre.size).totals
    except (RuntimeError, NotImplementedError):  # a net of the user's own that makes tensors in its forward pass
        chooser.choose("pieces", 1, "the whole step at once", "how much memory it takes cannot be told without running it")
        return
    batch = recipe.images_per_step(len(data.splits.train))
    need = 2 * 4 * totals["activations"] * batch + 16 * totals["parameters"]
    free = free_memory(select_device(recipe.device))
    pieces = 1
    while need / pieces > MEMORY_SHARE * free and pieces * 16 < batch:
        pieces *= 2
    evidence = f"a step needs about {format_bytes(need)}, {format_bytes(free)} are free"
    chooser.choose("pieces", pieces, "as few as fit in 60 % of the free memory", evidence)
