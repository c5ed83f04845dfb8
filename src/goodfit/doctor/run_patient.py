"""A run of ours as a patient: its recipe's network, optimizer, batches, step and evaluation, made anew."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch, one_hot
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.data.index import SplitName
from goodfit.data.loader import iterate_batches
from goodfit.doctor.course import clean_labels
from goodfit.doctor.patient import Batches, Patient, PatientSource, Split
from goodfit.doctor.sample import MAX_TRAIN_IMAGES, MAX_VALIDATION_IMAGES
from goodfit.layers.init import DataInit, calibrate_init
from goodfit.losses.scores import split_outputs
from goodfit.recipe.build import build_optimizer, init_images, make_initial_model
from goodfit.recipe.parts import load_run_catalog, refuse_other_tasks
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.run_recipe import trained_recipe
from goodfit.runs.start import read_start, require_same_data
from goodfit.training.freezing import set_trainable
from goodfit.training.gradient import gradient
from goodfit.training.noise import set_progress
from goodfit.training.step import set_rates

VALIDATION_BATCH = 256


def prepare_run(run: Run, reporter: Reporter) -> Prepared:
    """Prepare the training of a run anew, from the weights it started from.

    Raises:
        DataError: its images are gone, or are not those it was trained on.
        UsageError: its recipe does not read.
    """
    recipe = trained_recipe(run.path)
    refuse_other_tasks(recipe.task, "The doctor")
    return prepare(
        recipe,
        reporter,
        catalog=load_run_catalog(run, recipe),
        start=read_start(run),
        check_data=lambda data: require_same_data(run, data),
    )


def make_run_source(prepared: Prepared, name: str, steps: int) -> PatientSource:
    """The patients of a prepared training of so many steps."""
    raw = read_raw(prepared.data)
    return PatientSource(name, prepared.recipe.seed, lambda: RunParts(prepared, steps).make_patient(raw))


def read_raw(data: Dataset) -> dict[str, Split]:
    """Some images of both splits as they are stored, with their labels."""
    raw: dict[str, Split] = {}
    limits: dict[SplitName, int] = {"train": MAX_TRAIN_IMAGES, "validation": MAX_VALIDATION_IMAGES}
    for split, limit in limits.items():
        rows = data.spread_rows(split, limit)
        raw[split] = np.asarray(data.pixels.read(rows)), data.labels[rows].numpy().astype(np.int64)
    return raw


class RunParts:
    """The parts of one patient that is a prepared training: they know at which step it is.

    Images have the network's size from the start on, also where the training shows them smaller at first: the tests compare batches.
    """

    def __init__(self, prepared: Prepared, steps: int) -> None:
        self.prepared, self.steps, self.taken = prepared, steps, 0
        plan = prepared.training.plan
        parts = {seat: part for seat, part in plan.parts.items() if seat != "resolution"}
        self.plan, self.data = dataclasses.replace(plan, parts=parts), prepared.data

    def make_patient(self, raw: dict[str, Split]) -> Patient:
        """The patient, with what is known of its images on disk."""
        return Patient(
            classes=len(self.data.classes),
            steps=self.steps,
            model=self.make_model,
            optimizer=self.make_optimizer,
            schedule=lambda optimizer: _Rates(self, optimizer),
            schedule_every="step",
            loss=self.measure_loss,
            train=self.iterate_epoch,
            validation=self.iterate_validation,
            step=self.take_step,
            evaluate=self.evaluate,
            raw=raw,
        )

    def t(self, step: int) -> float:
        """Progress at a step."""
        return min(step / max(self.steps, 1), 1.0)

    def make_model(self) -> nn.Module:
        """The network as training starts with it: a copy of the pretrained one, or one with weights drawn anew."""
        plan, recipe = self.plan, self.prepared.recipe
        if plan.start is not None:
            model = copy.deepcopy(self.prepared.training.state.model)
            model.load_state_dict(dict(plan.start))
            return model
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng(devices=[]):
            model = make_initial_model(recipe.but(seed=seed), plan.parts["model"], self.data, plan.device)
            if isinstance(init := getattr(plan.parts["model"], "init", None), DataInit):
                calibrate_init(init, model, init_images(self.data, plan.device))
        return model

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The recipe's optimizer over the network's parameter groups, at the first step's rates."""
        set_trainable(model, self.plan.trainable, 0.0)
        rates = self.plan.parts["rates"](model) if "rates" in self.plan.parts else {}
        optimizer = build_optimizer(self.plan.parts["optimizer"], model, rates, self.prepared.recipe.precision)
        set_rates(optimizer, self.plan.schedule(0.0))
        return optimizer

    def measure_loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """The mean loss of outputs for labels [B], or targets [B, K]."""
        scores, _ = split_outputs(outputs)
        targets = labels if labels.ndim == 2 else one_hot(labels, scores.shape[1])
        losses = self.plan.loss(scores.float(), targets)
        weights = self.plan.loss.weigh(targets) if hasattr(self.plan.loss, "weigh") else None
        return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()

    def iterate_epoch(self, epoch: int) -> Batches:
        """The batches of an epoch as the network gets them: images [B, C, H, W], and targets [B, K] or labels [B]."""
        loader: Any = self.prepared.training.loader
        return _Epoch(self, epoch, loader)

    def iterate_validation(self) -> Batches:
        """The validation images as the network gets them, with their labels."""
        pre = self.data.preprocess
        rows = self.data.rows("validation")
        for batch in iterate_batches(self.data.pixels, self.data.labels, rows, len(self.data.classes), VALIDATION_BATCH):
            yield self.plan.normalize(pre.center_crop(batch.images)), batch.targets.argmax(1)

    def take_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        """One step as the training loop takes it, on a batch that is prepared already."""
        plan, t = self.plan, self.t(self.taken)
        set_trainable(model, plan.trainable, t)
        set_progress(model, t)
        targets = labels if labels.ndim == 2 else one_hot(labels, len(self.data.classes))
        batch = Batch(images, targets, torch.arange(len(images)))
        losses: list[Tensor] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            outcome = gradient(model, [batch], len(batch), plan.loss, plan.penalties, plan.clip, plan.precision)
            losses.append(outcome.loss)
            return outcome.loss

        optimizer.step(closure)  # type: ignore[arg-type]
        self.taken += 1
        return losses[0]

    def evaluate(self, model: nn.Module, batches: Batches) -> float:
        """The share of images that the network gets right."""
        right = n = 0
        model.eval()
        with torch.no_grad():
            for images, labels in batches:
                scores, _ = split_outputs(model(images))
                right += int((scores.argmax(1) == clean_labels(labels, len(self.data.classes))).sum())
                n += len(labels)
        return right / max(n, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch(Iterable[tuple[Tensor, Tensor]]):
    """The batches of an epoch; its length is known before they are read."""

    parts: RunParts
    epoch: int
    loader: Any

    def __len__(self) -> int:
        return int(self.loader.epoch_steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = self.epoch * len(self)
        for step in range(first, first + len(self)):
            batch = self.parts.plan.prepare(self.loader.batch(step), self.parts.t(step))
            is_hard = bool((batch.targets.amax(1) == 1).all())
            yield batch.images, batch.targets.argmax(1) if is_hard else batch.targets


class _Rates:
    """Sets the learning rates of the next step by the recipe's schedule."""

    def __init__(self, parts: RunParts, optimizer: torch.optim.Optimizer) -> None:
        self.parts, self.optimizer, self.taken = parts, optimizer, 0

    def step(self) -> None:
        self.taken += 1
        set_rates(self.optimizer, self.parts.plan.schedule(self.parts.t(self.taken)))
