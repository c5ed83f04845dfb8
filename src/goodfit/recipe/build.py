"""Build: from a recipe and its data to the parts that train; the one place that knows where concrete parts live."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.augment.apply import Pipeline
from goodfit.core.batch import one_hot
from goodfit.core.catalog import Catalog, Foreign, Part, spell, steps
from goodfit.core.chance import MASK, fold
from goodfit.core.contracts import Facts, Sampler
from goodfit.core.device import choose, memory_format, seed_noise
from goodfit.core.errors import UsageError
from goodfit.core.progress import Every, Length, Lengths
from goodfit.data.dataset import Dataset
from goodfit.data.loader import Loader, iterate_batches
from goodfit.data.preprocess import Preprocess
from goodfit.layers.init import DataInit, calibrate
from goodfit.losses.weighted import weighted
from goodfit.optim.groups import optimizer_for, with_peaks
from goodfit.predict.views import Viewer, at_once
from goodfit.recipe.early_crops import cut_early
from goodfit.recipe.full_batch import hear, idle
from goodfit.recipe.memorize import memorize
from goodfit.recipe.recipe import Recipe
from goodfit.schedules.compose import compose
from goodfit.training import average, snapshots, steering, trainable
from goodfit.training.evaluate import Answers, evaluate
from goodfit.training.heads import heads
from goodfit.training.loop import learns
from goodfit.training.rules import stop
from goodfit.training.state import Plan, State, ready
from goodfit.watch.telemetry import Telemetry

PACKAGES = ("augment", "layers", "losses", "optim", "schedules", "models", "training", "watch.probes", "data.sampler")
SEATS = (
    "model", "augment", "views", "loss", "penalty", "optimizer", "schedule", "brake", "average", "trainable", "rates", "stop", "sampler",
)  # fmt: skip
SAMPLE = 512  # training images that an initialization from data looks at
CLEAN_TRAIN = 1000  # training images judged without augmentation at each evaluation


def catalog(use: Iterable[str | Path] = ()) -> Catalog:
    """All our parts, and those of the user's files."""
    known = Catalog([f"goodfit.{package}" for package in PACKAGES])
    for file in use:
        known.use(file)
    return known


def parts(recipe: Recipe, known: Catalog) -> dict[str, Part]:
    """The recipe's part for each seat, made from its text.

    Raises:
        UsageError: a part or setting is unknown or wrong.
    """
    made = {seat: known.make(getattr(recipe, seat), seat) for seat in SEATS if getattr(recipe, seat) != "auto"}
    return {**made, "probes": known.make(recipe.probes, "probe")}


def make_model(part: Any, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """The network of a model part, or of the user's own class, given those of classes, channels and size that it asks for by our names,
    timm's or torchvision's.
    """
    facts: dict[str, Any] = {
        "classes": classes,
        "num_classes": classes,
        "channels": channels,
        "in_chans": channels,
        "in_channels": channels,
    }
    facts |= {"size": size, "img_size": size}
    made = part.knowing(facts)() if isinstance(part, Foreign) else part(classes, channels, size)
    if not isinstance(made, nn.Module):
        raise UsageError(f'Expected "{part}" to make a torch nn.Module, received a {type(made).__name__}.')
    return made


@torch.no_grad()
def check_model(part: Part, data: Dataset) -> None:
    """Try a model of the user's own on one black image, before anything is measured with it.

    Raises:
        UsageError: it does not take such an image, or does not give a score for each class.
    """
    if not isinstance(part, Foreign) and type(part).__module__.startswith("goodfit."):
        return
    classes, shape = len(data.classes), (data.preprocess.channels, *data.preprocess.size)
    model = make_model(part, classes, shape[0], data.preprocess.size).eval()
    try:
        scores = heads(model(torch.zeros(1, *shape)))[0]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(f'The model "{part}" does not take images of {"x".join(map(str, shape))}: {reason}.') from error
    found = list(getattr(scores, "shape", [type(scores).__name__]))
    if found != [1, classes]:
        raise UsageError(f'Expected the model "{part}" to give scores of shape [1, {classes}] for one image, received {found}.')


@dataclasses.dataclass(frozen=True)
class Built:
    """What `fit` takes, the judge of any set of rows of the data, and what the user should be warned of; what was taken from which source,
    and the lines that say so.
    """

    state: State
    loader: Loader
    plan: Plan
    watch: Telemetry
    judge: Judge
    warnings: tuple[str, ...] = ()
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Judge:
    """Asks a model about rows of a data set, through the preprocessing that predict uses."""

    dataset: Dataset
    loss: Any
    device: torch.device

    def __call__(self, model: nn.Module, rows: Tensor, precision: str = "fp32", seed: int | None = None) -> Answers:
        """The answers to rows of the data; with a `seed`, those of one pass with the model's noise at work."""
        data, pre = self.dataset, self.dataset.preprocess
        boxes = iterate_batches(data.pixels, data.labels, rows, len(data.classes), at_once(*pre.box))
        batches = (box.but(images=pre.center_crop(box.images)) for box in boxes)
        return evaluate(model, batches, self.loss, pre.normalize, self.device, precision, seed)


def facts_of(data: Dataset, lengths: Lengths) -> Facts:
    """What parts may know of the data."""
    pre, measured = data.preprocess, data.statistics
    return Facts(data.classes, data.class_counts(), pre.channels, pre.size, measured.mean, measured.std, measured.covariance, lengths)


def build(recipe: Recipe, data: Dataset, known: Catalog) -> Built:
    """Everything a resolved recipe (no "auto" left) names, made for this data.

    Raises:
        UsageError: a part or setting is unknown, or does not go with the data.
    """
    device, size, train = choose(recipe.device), data.preprocess.size, data.rows("train")
    made = parts(recipe, known)
    sampler: Any = made["sampler"]
    if not isinstance(sampler, Sampler):
        raise UsageError(f'Expected a part of the kind sampler, received "{sampler}": derive yours from goodfit.core.contracts.Sampler.')
    images = sampler.length(data.labels[train])
    batch = recipe.images_a_step(images)
    pixels, cut = cut_early(steps(made["augment"]), data, recipe.seed)
    loader = Loader(pixels, data.labels, train, len(data.classes), batch, recipe.seed, recipe.workers, sampler)
    lengths = Lengths(loader.epoch_steps, images / loader.epoch_steps, Length.read(recipe.budget))
    facts = facts_of(data, lengths)
    seats: dict[str, Any] = {seat: part.bind(facts) for seat, part in made.items()}
    seed_noise(fold(recipe.seed & MASK, "init") >> 1, torch.device("cpu"))
    model = make_model(seats["model"], len(data.classes), facts.channels, size)
    model = model.to(device, memory_format=memory_format(recipe.layout))  # type: ignore[call-overload]
    Viewer(model, seats["views"], data.preprocess, seats["loss"], device).check()
    warnings = (*hear(recipe, seats, model, images), *idle(seats["augment"], facts.channels))
    if isinstance(init := getattr(seats["model"], "init", None), DataInit):
        calibrate(init, model, sample(data, device))
    notes = memorize(seats["model"], model, data)
    judge, schedule = Judge(data, seats["loss"], device), compose(seats["schedule"])
    loss: Any = weighted(seats["loss"], recipe.class_weights, facts)
    penalties: Any = steps(seats["penalty"])
    for penalty in penalties:
        penalty(model)  # one on layers that are not there is said now
    plan = Plan(
        loss=loss,
        lengths=lengths,
        augment=Pipeline(steps(seats["augment"]), size, cut),  # type: ignore[arg-type]
        normalize=normalizer(data.preprocess, recipe.layout),
        schedule=schedule,
        penalties=penalties,
        average=average.along(seats["average"], schedule.ends()),
        stop=None if isinstance(seats["stop"], stop.None_) else seats["stop"],
        brake=None if isinstance(seats["brake"], steering.None_) else seats["brake"],
        trainable=trainable.phases(seats["trainable"], model) if learns(model) else (),
        clip=recipe.clip,
        clip_value=recipe.clip_value,
        seed=recipe.seed,
        device=device,
        precision=recipe.precision,
        evaluate=validator(judge, data, recipe),
        evaluate_every=Every(Length.read(recipe.evaluate_every, "length"), lengths),
        save_every=Every(Length.read(recipe.save_every, "length"), lengths),
        snapshots=snapshots.points(recipe.snapshots, schedule.ends()),
        judged=len(data.rows("validation")) + len(clean_rows(data)),
    )
    check_loss(seats["loss"], len(data.classes))
    moves = optimizer(seats["optimizer"], model, seats["rates"](model) if "rates" in seats else {})
    if plan.trainable:
        trainable.unfuse(moves)
    state = ready(model, moves, plan.average, 1 if recipe.pieces == "auto" else recipe.pieces)
    return Built(state, loader, plan, Telemetry(steps(seats["probes"])), judge, warnings, notes=notes)  # type: ignore[arg-type]


def optimizer(part: Any, model: nn.Module, rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """The optimizer of a part, or of any class of torch's, over the model's parameter groups; `rates` are factors by stage.

    A model that has nothing to train gets one that moves nothing.
    """
    if not learns(model):
        return with_peaks(torch.optim.SGD([{"params": []}], lr=1.0))
    try:
        made = optimizer_for(model, part, rates)
    except (TypeError, ValueError) as error:
        raise UsageError(f'The optimizer "{part}" does not take this model\'s parameters: {error}.') from error
    if not isinstance(made, torch.optim.Optimizer):
        where = f'"{part.path}"' if isinstance(part, Foreign) else f'"{part}"'
        raise UsageError(f"Expected {where} to make a torch optimizer, received a {type(made).__name__}.")
    return made


def sample(data: Dataset, device: torch.device) -> Tensor:
    """Normalized training images [B, C, H, W] from all over the split, without augmentation: what weights may be fitted to at the start."""
    train, pre = data.rows("train"), data.preprocess
    rows = train[torch.linspace(0, len(train) - 1, min(SAMPLE, len(train))).long()]
    batch = next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), len(rows))).to(device)
    return pre.normalize(pre.center_crop(batch.images))


def normalizer(preprocess: Preprocess, layout: str) -> Callable[[Tensor], Tensor]:
    """uint8 or 0..1 images -> what the model takes, in the recipe's memory layout."""
    if layout == "channels_last":
        return preprocess.normalize
    return lambda images: preprocess.normalize(images).contiguous()


def check_loss(loss: Any, classes: int) -> None:
    """Try a loss of the user's own on two examples.

    Raises:
        UsageError: it does not give one number per example.
    """
    logits = torch.zeros(2, classes)
    try:
        found = list(loss(logits, one_hot(torch.zeros(2), classes)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(f'The loss "{loss}" does not take scores and targets of shape [B, {classes}]: {reason}.') from error
    if found != [2]:
        raise UsageError(f'Expected the loss "{loss}" to give one number per example, of shape [B], received shape {found} for 2 examples.')


def clean_rows(data: Dataset) -> Tensor:
    """Some training rows, evenly spread, to judge as they are beside the validation images."""
    train = data.rows("train")
    return train[torch.linspace(0, len(train) - 1, min(CLEAN_TRAIN, len(data.rows("validation")), len(train))).long()]


def validator(judge: Judge, data: Dataset, recipe: Recipe) -> Callable[[nn.Module], dict[str, Any]]:
    """What an evaluation on the way asks: the validation images, and some training images as they are."""
    validation, some = data.rows("validation"), clean_rows(data)

    def validate(model: nn.Module) -> dict[str, Any]:
        held_out, clean = judge(model, validation, recipe.precision), judge(model, some, recipe.precision)
        return {"score": held_out.accuracy, "validation": brief(held_out), "clean_train": brief(clean)}

    return validate


def brief(answers: Answers) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy, for the log."""
    right = (answers.logits.argmax(1) == answers.labels).double()
    images = torch.bincount(answers.labels)
    per_class = torch.bincount(answers.labels, weights=right)[images > 0] / images[images > 0]
    return {"loss": float(answers.losses.double().mean()), "accuracy": answers.accuracy, "balanced_accuracy": float(per_class.mean())}


def with_rate(recipe: Recipe, rate: float | None) -> Recipe:
    """The recipe with its optimizer's peak learning rate replaced; `None` leaves it.

    Raises:
        UsageError: the optimizer is still open, or has no lr.
    """
    if rate is None:
        return recipe
    if recipe.optimizer == "auto":
        return recipe.but(optimizer=f"sgd({rate!r}, momentum=0.9, nesterov=True)")
    part = catalog(recipe.use).make(recipe.optimizer, "optimizer")
    if not hasattr(part, "lr"):
        raise UsageError(f'"{part}" has no setting lr to replace: write its rate into --optimizer.')
    return recipe.but(optimizer=spell(dataclasses.replace(part, lr=rate)))  # type: ignore[type-var]
