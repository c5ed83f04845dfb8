"""What is frozen is computed once: the features at the cut of some augmented views of each image, in a file mapped into memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch, make_targets
from goodfit.core.cached import cached_writer, is_cached
from goodfit.core.chance import MIXING_BLOCK, Chance
from goodfit.core.contracts import Penalty
from goodfit.core.device import autocast
from goodfit.core.files import cache_folder
from goodfit.core.words import count_of, format_bytes
from goodfit.data.dataset import Dataset
from goodfit.data.loader import LazyBatch, Loader
from goodfit.data.store import hash_fields
from goodfit.models.weights.cut import Cut, find_cut
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.recipe.build import Training, Validator, clean_rows
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.features import FeatureNet, append_array
from goodfit.training.evaluate import Outputs, collect_outputs, eval_batch_size
from goodfit.training.freezing import Phase
from goodfit.training.noise import evaluating
from goodfit.training.rules.resolution import Full

DTYPE = np.float16
# What the features depend on besides the weights and the images.
KEY_FIELDS = ("augment", "seed", "precision", "layout", "device", "threads", "storage")
COMPUTED_AT_ONCE = 4 * MIXING_BLOCK  # images: whole blocks, from which partners for mixing come
TARGET_BYTES = 4  # of a float32
CUT_TEST_IMAGES = 2  # that show whether a cut is possible


@dataclasses.dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features [views, n, ...] float16 and targets [views, n, K] float32 of the images at ascending `rows` [n], mapped into memory.

    `places` [views, n] says where in a view each of the rows is.
    """

    rows: Tensor
    places: Tensor
    features: np.memmap[Any, Any]
    targets: np.memmap[Any, Any]

    def batch(self, rows: Tensor, view: int, chance: Chance | None = None) -> Batch:
        """The features of some of the rows in one view, as a batch."""
        places = self.places[view][torch.searchsorted(self.rows, rows)].numpy()
        features, targets = (torch.from_numpy(np.take(x[view], places, axis=0)) for x in (self.features, self.targets))
        return Batch(features, targets, rows, chance)


@dataclasses.dataclass(frozen=True, eq=False)
class CachedViews:
    """Training batches of cached features in the order of a loader; epoch after epoch shows the views in turn."""

    loader: Loader
    cached: CachedFeatures

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from the start of training, with its chance."""
        epoch, places = self.loader.places(step)
        rows = self.loader.order(epoch)[places]
        return self.cached.batch(
            rows, epoch % len(self.cached.features), Chance.for_epoch(self.loader.seed, "augment", epoch, places, rows)
        )

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from step `start` on, without end."""
        while True:
            yield self.batch(start)
            start += 1


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenEvaluator:
    """Runs models on cached features of the rows that are evaluated during training."""

    dataset: Dataset
    loss: Any
    device: torch.device
    cut: Cut
    cached: CachedFeatures

    def __call__(self, model: nn.Module, rows: Tensor, precision: str = "fp32") -> Outputs:
        """The outputs for some of the cached rows."""
        batches = (self.cached.batch(piece, 0) for piece in torch.split(rows, eval_batch_size(*self.dataset.preprocess.box)))
        with evaluating(model):
            return collect_outputs(self.cut.upper(model), batches, self.loss, Tensor.float, self.device, precision)


def cache_frozen(training: Training, recipe: Recipe, data: Dataset) -> Training:
    """Replace the images of a training whose first stages stay frozen by features at the cut above them, of the recipe's cached views.

    The training comes back as it was where the recipe has none; with a note, where there is no such cut, or the cache is too small.

    Raises:
        GoodfitError: no space is left.
    """
    if not recipe.cached_views:
        return training
    assert isinstance(training.loader, Loader), "the features are cached already"
    plan, model, train = training.plan, training.state.model, data.rows("train").sort().values
    evaluated = torch.cat([data.rows("validation"), clean_rows(data)]).unique()  # type: ignore[no-untyped-call]
    cut, size = find_frozen_cut(training, data)
    obstacle = "" if cut else "the model cannot be cut above stages that stay frozen"
    if not isinstance(plan.parts["resolution"], Full):
        obstacle = f"the images change their size ({recipe.resolution})"
    if data.local_train is not None:
        obstacle = "the training images are streamed"
    if cut is None or obstacle:
        return dataclasses.replace(training, notes=(*training.notes, f"Nothing is cached: {obstacle}."))
    views = min(int(recipe.cached_views), int((recipe.cache * 2**30 / size - len(evaluated)) / len(train)))
    if views < 1:
        note = f"Nothing is cached: a view of all images takes {format_bytes(size * len(train))}, the cache is {recipe.cache:g} GB."
        return dataclasses.replace(training, notes=(*training.notes, note))
    source = FrozenStages(training, training.loader, recipe, data, cut, views)
    center = source.compute(evaluated, [torch.arange(len(evaluated))], source.read_center)
    orders = [Chance.for_epoch(recipe.seed, "views", view, torch.arange(len(train)), train).permutation() for view in range(views)]
    cached = source.compute(train, orders, source.read_augmented)
    plan = dataclasses.replace(
        plan,
        cut=cut,
        augment=keep_images,
        normalize=Tensor.float,
        evaluate=Validator(FrozenEvaluator(data, training.evaluator.loss, plan.device, cut, center), data, recipe.precision),
        penalties=tuple(functools.partial(penalize_whole, penalty, model) for penalty in plan.penalties),  # type: ignore[misc]
    )
    figures = f"{count_of(views, 'view')} of each image, {format_bytes(cached.features.nbytes)} of features after {cut.place}"
    notes = (*training.notes, f"The frozen stages are computed once: {figures}.")
    return dataclasses.replace(training, loader=CachedViews(training.loader, cached), plan=plan, notes=notes)


def penalize_whole(penalty: Penalty, model: nn.Module, upper: nn.Module) -> Tensor:
    """A penalty on the whole model, whichever part of it runs."""
    return penalty(model)


def keep_images(batch: Batch, chance: Chance, t: float) -> Batch:
    """The augmentation of features, which are those of augmented images already: none."""
    return batch


def find_frozen_cut(training: Training, data: Dataset) -> tuple[Cut | None, int]:
    """The cut above the frozen stages of a training, and the bytes of an image's features there; None where there is none."""
    plan, model, pre = training.plan, training.state.model, data.preprocess
    pixels = data.pixels.read_exact(data.spread_rows("train", CUT_TEST_IMAGES)).permute(0, 3, 1, 2)
    images = plan.normalize(pre.center_crop(pixels).to(plan.device))
    place = frozen_place(model, plan.trainable)
    with evaluating(model), torch.no_grad():
        cut = find_cut(model, place, images) if place else None
        numbers = cut.features(model, images)[0].numel() if cut else 0
        return cut, np.dtype(DTYPE).itemsize * numbers + TARGET_BYTES * len(data.classes)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenStages:
    """Computes the features at the cut of a training, or maps those that were computed before."""

    training: Training
    loader: Loader
    recipe: Recipe
    data: Dataset
    cut: Cut
    views: int

    @functools.cached_property
    def weights_digest(self) -> str:
        """A hash of the net below its head, which is computed once for all that is cached."""
        net = FeatureNet(self.recipe.source, self.training.state.model, self.data.preprocess, self.training.plan.device)
        return net.digest

    def read_center(self, rows: Tensor, places: Tensor, view: int) -> Batch:
        """The center crops of some rows as the model takes them."""
        data, plan = self.data, self.training.plan
        pixels = data.preprocess.center_crop(data.pixels.read_exact(rows).permute(0, 3, 1, 2)).to(plan.device)
        return Batch(plan.normalize(pixels), make_targets(data.labels[rows], len(data.classes)), rows)

    def read_augmented(self, rows: Tensor, places: Tensor, view: int) -> Batch:
        """Some rows, at consecutive places of a view's order, as the model sees them in the epoch with the number of the view."""
        chance = Chance.for_epoch(self.recipe.seed, "augment", view, places, rows)
        batch = LazyBatch.of(self.loader.pixels, make_targets(self.data.labels[rows], len(self.data.classes)), rows, chance)
        return self.training.plan.prepare(batch[:], (view + 0.5) / self.views)

    @torch.no_grad()
    def compute(self, rows: Tensor, orders: Sequence[Tensor], read: Callable[[Tensor, Tensor, int], Batch]) -> CachedFeatures:
        """Features and targets of ascending rows, from the cache or written to it view by view, each in its own order, batch by batch.

        The cache knows them by weights, images, rows, preprocessing, machine, augmentation, seed and place.

        Raises:
            GoodfitError: no space is left.
        """
        recipe, data, plan, model = self.recipe, self.data, self.training.plan, self.training.state.model
        shown = [str(getattr(recipe, field)) for field in KEY_FIELDS] + [str(data.preprocess.to_dict()), read.__name__, self.cut.place]
        parts = [Path(file).read_bytes() for file in recipe.use]
        key = hash_fields(self.weights_digest, data.digest, *shown, *parts, f"{len(orders)} {self.views}", rows.numpy().tobytes())
        files, lead = [cache_folder() / "features" / f"{key}-{name}.npy" for name in ("features", "targets")], (len(orders), len(rows))
        if not all(map(is_cached, files)):
            with evaluating(model), cached_writer(files[0]) as features, cached_writer(files[1]) as targets:
                for view, order in enumerate(orders):
                    for places in torch.split(torch.arange(len(rows)), COMPUTED_AT_ONCE):
                        batch = read(rows[order[places]], places, view)
                        with autocast(plan.device, plan.precision):
                            output = self.cut.features(model, batch.images).float()
                        append_array(features, output.cpu().numpy().astype(DTYPE), lead)
                        append_array(targets, batch.targets.cpu().numpy(), lead)
        places = torch.stack([order.argsort() for order in orders])
        return CachedFeatures(rows, places, *(np.load(file, mmap_mode="r") for file in files))


def frozen_place(model: nn.Module, phases: tuple[Phase, ...]) -> str:
    """The last module of the stages that nothing ever moves, the head where none moves below it; empty where the first one learns."""
    if not phases:
        return ""
    learns = frozenset().union(*(phase.trainable for phase in phases))
    fixed = frozenset.intersection(*(phase.fixed for phase in phases))
    place = ""
    for stage in find_stages(model):
        for name in stage.modules:
            module = model.get_submodule(name)
            moves = any(f"{name}.{parameter}" in learns for parameter, _ in module.named_parameters())
            statistics = {
                f"{name}.{inner}".rstrip(".") for inner, m in module.named_modules() if getattr(m, "running_mean", None) is not None
            }
            if moves or not statistics <= fixed:
                return place
        place = stage.modules[-1]
    return find_head(model)[0]
