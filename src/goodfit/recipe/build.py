"""Build: from a resolved recipe, its parts and its data to everything that `fit` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.augment.pipeline import Pipeline
from goodfit.augment.views import ImageView
from goodfit.core.chance import MASK64, fold
from goodfit.core.contracts import Penalty, Sampler
from goodfit.core.device import memory_format, seed_noise, select_device
from goodfit.core.errors import UsageError
from goodfit.core.parameters import has_parameters
from goodfit.core.parts import ExternalPart, Part, pipe_parts, spell
from goodfit.core.progress import Length, Period
from goodfit.core.ranks import ALONE, Ranks
from goodfit.core.words import count_of
from goodfit.data.accelerator import place_pixels
from goodfit.data.dataset import Dataset
from goodfit.data.loader import Loader, TrainingPixels, iterate_batches
from goodfit.data.preprocess import Preprocess
from goodfit.data.shards.streamed import order_epochs
from goodfit.inspection.telemetry import Telemetry
from goodfit.layers.data_init import Whitening
from goodfit.layers.init import DataInit, calibrate_init, weight_layers
from goodfit.losses.class_weights import with_class_weights
from goodfit.losses.penalty import StartPenalty
from goodfit.models.weights.surgery import find_heads
from goodfit.optim.groups import make_optimizer, record_peak_rates
from goodfit.recipe.early_crops import crop_early
from goodfit.recipe.full_batch import check_full_batch, check_inactive_parts
from goodfit.recipe.memorize import memorize_images
from goodfit.recipe.parts import check_loss, check_resolution, make_model
from goodfit.recipe.recipe import Recipe
from goodfit.schedules.compose import compose
from goodfit.training.evaluate import Outputs, RowEvaluator, eval_batch_size, join_outputs
from goodfit.training.freezing import disable_fused_momentum, freezing_phases
from goodfit.training.gradient import shares_of
from goodfit.training.rules.average import bind_cycles
from goodfit.training.snapshots import snapshot_points
from goodfit.training.state import Batches, Plan, State

MAX_INIT_IMAGES = 512  # training images that an initialization from data sees
MAX_CLEAN_IMAGES = 1000  # training images evaluated without augmentation at each evaluation


@dataclasses.dataclass(frozen=True)
class Training:
    """What `fit` takes, the evaluator of any rows of the data, and the notes and warnings for the user."""

    state: State
    loader: Batches
    plan: Plan
    watch: Telemetry
    evaluator: RowEvaluator
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def among(self, ranks: Ranks, sync_norms: bool) -> Training:
        """The same training, carried out by several ranks together; each reads ahead only the images of its share."""
        if ranks.size == 1:
            return self
        if isinstance(self.loader, Loader):
            self.loader.rows_ahead = lambda n: (share.rows for share in shares_of(n, self.state.pieces, ranks))
        if isinstance(self.plan.evaluate, Validator):
            self.plan.evaluate.ranks = ranks
        plan = dataclasses.replace(
            self.plan,
            ranks=ranks,
            sync_norms=sync_norms,
            final_passes=self.plan.final_passes * ranks.size,  # those of the final views, which rank 0 makes alone
        )
        return dataclasses.replace(self, plan=plan)

    @property
    def last_outputs(self) -> Outputs | None:
        """The outputs of the last evaluation for the validation images, if it ran the whole model on them."""
        validator = self.plan.evaluate
        return validator.last if isinstance(validator, Validator) and validator.evaluator is self.evaluator else None


def build(recipe: Recipe, parts: Mapping[str, Part], data: Dataset, pretrained: nn.Module | None = None) -> Training:
    """Build the training of a resolved recipe (nothing "auto") whose parts by seat are `parts`.

    It starts from the model `pretrained`, which it trains in place, or else from the recipe's model with random weights.

    Raises:
        UsageError: a part or setting does not go with the data or with another part.
    """
    device, size = select_device(recipe.device), data.preprocess.size
    pixels, early_crop = crop_early(pipe_parts(parts["augment"]), data, recipe.seed)
    loader = make_loader(recipe, parts["sampler"], data, place_pixels(pixels, device))
    images = loader.epoch_images
    lengths = loader.lengths(recipe.budget)
    facts = data.facts(lengths)
    bound: dict[str, Any] = {seat: part.bind(facts) for seat, part in parts.items()}
    model = make_initial_model(recipe, bound["model"], data, device) if pretrained is None else pretrained
    model = model.to(device, memory_format=memory_format(recipe.layout))  # type: ignore[call-overload]
    start = None if pretrained is None else {name: x.detach().clone() for name, x in model.state_dict().items()}
    warnings = (*check_full_batch(recipe, bound, model, images), *check_inactive_parts(bound["augment"], facts.channels))
    if pretrained is None and isinstance(init := getattr(bound["model"], "init", None), DataInit):
        calibrate_init(init, model, init_images(data, device))
    notes = memorize_images(bound["model"], model, data)
    loss, schedule = data.task.with_loss(bound["loss"]), compose(bound["schedule"])
    evaluator = RowEvaluator(data, loss, device)
    penalties = bind_penalties(bound["penalty"], model, start)
    plan = Plan(
        loss=with_class_weights(loss, recipe.class_weights, facts),  # type: ignore[arg-type]
        lengths=lengths,
        augment=Pipeline(pipe_parts(bound["augment"]), size, early_crop),  # type: ignore[arg-type]
        normalize=normalizer(data.preprocess, recipe.layout),
        schedule=schedule,
        penalties=penalties,
        average=bind_cycles(bound["average"], schedule.cycle_ends()),
        trainable=freezing_phases(bound["trainable"], model) if has_parameters(model) and "trainable" in bound else (),
        clip=recipe.clip,
        clip_value=recipe.clip_value,
        seed=recipe.seed,
        size=size,
        device=device,
        precision=recipe.precision,
        evaluate=Validator(evaluator, data, recipe.precision),
        evaluate_every=Period(Length.read(recipe.evaluate_every, "length"), lengths),
        save_every=Period(Length.read(recipe.save_every, "length"), lengths),
        snapshots=snapshot_points(recipe.snapshots, schedule.cycle_ends()),
        evaluated_images=evaluated_images(data),
        final_passes=final_passes(bound["views"], data.preprocess),
        parts=bound,
        start=start,
    )
    check_loss(bound["loss"], len(data.classes))
    check_resolution(bound["resolution"], model, data.preprocess)
    optimizer = build_optimizer(bound["optimizer"], model, bound["rates"](model) if "rates" in bound else {}, recipe.precision)
    if plan.trainable:
        disable_fused_momentum(optimizer)
    state = State.start(model, optimizer, plan.average, 1 if recipe.pieces == "auto" else recipe.pieces)
    return Training(state, loader, plan, Telemetry(pipe_parts(bound["probes"])), evaluator, notes, warnings)  # type: ignore[arg-type]


def make_loader(recipe: Recipe, sampler: Any, data: Dataset, pixels: TrainingPixels) -> Loader:
    """Make the loader of the training images, in the order of a sampler, or of streamed data in that of their shards.

    Raises:
        UsageError: the sampler is none, or does not go with the data.
    """
    if not isinstance(sampler, Sampler):
        raise UsageError(f'Expected a part of the kind sampler, received "{sampler}": derive yours from goodfit.core.contracts.Sampler.')
    train = data.rows("train")
    batch_size = recipe.images_per_step(sampler.length(data.labels[train]))
    order = order_epochs(data, sampler, batch_size)
    return Loader(pixels, data.labels, train, len(data.classes), batch_size, recipe.seed, recipe.workers, order)


def check_random_stages(training: Training, parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Refuse a network of ours with random weights of which some are never trained; returns a warning where some are trained later.

    The first layer may stay as it is under init=whitening, which makes it from the training images.

    Raises:
        UsageError: it has such weights.
    """
    model, part, phases = training.state.model, parts["model"], training.plan.trainable
    is_ours = not isinstance(part, ExternalPart) and type(part).__module__.startswith("goodfit.")
    if not phases or not is_ours:  # others may bring weights of their own
        return ()
    from_data = next(weight_layers(model)) if isinstance(getattr(part, "init", None), Whitening) else nn.Identity()
    known = {id(parameter) for parameter in from_data.parameters()}
    random = {name for name, parameter in model.named_parameters() if id(parameter) not in known}
    text = f'"{spell(parts["trainable"])}"'
    if never := len(random - {name for phase in phases for name in phase.trainable}):
        raise UsageError(
            f"{text} would leave {never} of {count_of(len(random), 'tensor')} of the network at the random weights it starts with: give"
            " --from with weights to start from (a run folder, a file, or published ones such as resnet18:imagenet), or --trainable all."
        )
    if random <= phases[0].trainable:
        return ()
    return (f"{text} freezes weights at first that are random and have nothing to keep: without --from the plain way is --trainable all.",)


def make_initial_model(recipe: Recipe, part: Any, data: Dataset, device: torch.device) -> nn.Module:
    """Make the network with the random weights of the recipe's seed, on a device."""
    seed_noise(fold(recipe.seed & MASK64, "init") >> 1, torch.device("cpu"))
    return make_model(part, len(data.classes), data.preprocess.channels, data.preprocess.size).to(device)


def bind_penalties(pipe: Part, model: nn.Module, start: Mapping[str, Tensor] | None) -> tuple[Penalty, ...]:
    """Give the penalties of a pipe the pretrained weights that training starts from, all but those of the heads, and try each on the model.

    Raises:
        UsageError: a penalty is on layers that do not exist, or on pretrained weights where there are none.
    """
    penalties: Any = pipe_parts(pipe)
    if start is not None:
        heads = find_heads(model)
        known = {name: x for name, x in start.items() if name.rpartition(".")[0] not in heads}
        penalties = tuple(penalty.with_start(known) if isinstance(penalty, StartPenalty) else penalty for penalty in penalties)
    for penalty in penalties:
        penalty(model)
    return penalties  # type: ignore[no-any-return]


def build_optimizer(part: Any, model: nn.Module, rates: Mapping[str, float], precision: str = "fp32") -> torch.optim.Optimizer:
    """Build the optimizer of a part, or of any torch class, over the model's parameter groups; `rates` are factors by stage.

    Its groups have the `precision` in which it may multiply matrices, as muon does. A model without parameters gets an optimizer that moves
    nothing.

    Raises:
        UsageError: the part does not take the parameters, or makes no optimizer.
    """
    if not has_parameters(model):
        return record_peak_rates(torch.optim.SGD([{"params": []}], lr=1.0))
    try:
        optimizer = make_optimizer(model, part, rates)
    except (TypeError, ValueError) as error:
        raise UsageError(f'The optimizer "{part}" does not take this model\'s parameters: {error}.') from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        name = f'"{part.path}"' if isinstance(part, ExternalPart) else f'"{part}"'
        raise UsageError(f"Expected {name} to make a torch optimizer, received a {type(optimizer).__name__}.")
    for group in optimizer.param_groups:
        group["precision"] = precision
    return optimizer


def init_images(data: Dataset, device: torch.device) -> Tensor:
    """Normalized training images [B, C, H, W], evenly spread over the split, without augmentation, for an initialization from data."""
    rows, pre = data.spread_rows("train", MAX_INIT_IMAGES), data.preprocess
    batch = next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), len(rows))).to(device)
    return pre.normalize(pre.center_crop(batch.images))


def normalizer(preprocess: Preprocess, layout: str) -> Callable[[Tensor], Tensor]:
    """The function from uint8 or 0..1 images to what the model takes, in the recipe's memory layout."""
    if layout == "channels_last":
        return preprocess.normalize
    return lambda images: preprocess.normalize(images).contiguous()


def clean_rows(data: Dataset) -> Tensor:
    """Some training rows, evenly spread, that are evaluated without augmentation beside the validation images."""
    return data.spread_rows("train", min(MAX_CLEAN_IMAGES, len(data.rows("validation"))))


def evaluated_images(data: Dataset) -> int:
    """How many images each evaluation during training looks at."""
    return len(data.rows("validation")) + len(clean_rows(data))


def final_passes(views: Any, preprocess: Preprocess) -> int:
    """How many passes over the validation images the final evaluation makes: one of the center, and one for each other view."""
    return len({ImageView(), *views(preprocess.size, preprocess.box)})


@dataclasses.dataclass
class Validator:
    """The evaluation during training: of the validation images, and of some training images without augmentation.

    The last one, by which the run is judged, is in fp32 for the validation images; `last` has its outputs for these. The `ranks` share the
    images; rank 0 scores.
    """

    evaluator: Callable[[nn.Module, Tensor, str], Outputs]
    data: Dataset
    precision: str
    last: Outputs | None = None
    ranks: Ranks = ALONE

    def __call__(self, model: nn.Module, is_last: bool) -> dict[str, Any]:
        """The scores for the log, with the key "score"."""
        held_out = self._evaluate(model, self.data.rows("validation"), "fp32" if is_last else self.precision)
        trained_on = self._evaluate(model, clean_rows(self.data), self.precision)
        self.last = held_out if is_last else None
        scores = {}
        if held_out is not None and trained_on is not None:
            validation = held_out.summarize()
            scores = {"score": validation[held_out.task.figure.key], "validation": validation, "clean_train": trained_on.summarize()}
        return self.ranks.broadcast_object(scores)

    def _evaluate(self, model: nn.Module, rows: Tensor, precision: str) -> Outputs | None:
        """The outputs for some rows, in their order, on rank 0; None on the others."""
        batch = eval_batch_size(*self.data.preprocess.box)
        own = self.ranks.split(torch.split(rows, batch))  # the batches of one process, so that the numbers are the same
        outputs = self.evaluator(model, torch.cat(tuple(own)), precision) if own else None
        gathered = [part for part in self.ranks.gather(outputs) if part is not None]
        return join_outputs(gathered) if gathered else None
