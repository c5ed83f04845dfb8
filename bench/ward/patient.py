"""A patient: everything a training is made of, in parts that can be changed one at a time, and the dictionary of black boxes made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.ward.images import Split, Splits
from bench.ward.loop import (
    Evaluate,
    Loss,
    Order,
    Rule,
    Schedule,
    Step,
    cross_entropy,
    make_optimizer,
    make_schedule,
    measure_accuracy,
    shuffle,
    take_step,
)
from bench.ward.nets import Net, build_net
from bench.ward.transforms import Transform, chain, keep, to_float

Batches = Iterable[tuple[Tensor, Tensor]]
EVALUATION_BATCH = 256


def _same_model(model: nn.Module) -> nn.Module:
    return model


def _same_batches(batches: Batches) -> Batches:
    return batches


@dataclasses.dataclass(frozen=True)
class Patient:
    """A training in parts.

    Attributes:
        seed: of the data, their order and their augmentation.
        splits: what lies on disk; `splits.test` is for the honest accuracy.
        net, rule, schedule, batch, steps: the recipe.
        prepare: what makes floats from 0 to 1 into what the model gets, in training and validation.
        augment: what is done at random to training images before that.
        prepare_validation: in place of `prepare` for validation, if given.
        augment_validation: random, for validation.
        validation_labels: maps the labels of the validation split to those that are handed out.
        surgery: what is done to the model after it is built.
        optimizer: makes the optimizer of the model, in place of `rule`.
        loss, step, evaluate, order: the loop.
        feed, feed_validation: what is done to the batches on their way.
        shows_raw: whether the dictionary holds what lies on disk.
    """

    seed: int
    splits: Splits
    net: Net
    rule: Rule
    schedule: Schedule
    batch: int
    steps: int
    prepare: Transform
    augment: Transform = keep
    prepare_validation: Transform | None = None
    augment_validation: Transform = keep
    validation_labels: Callable[[Tensor], Tensor] | None = None
    surgery: Callable[[nn.Module], nn.Module] = _same_model
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    loss: Loss = cross_entropy
    step: Step = take_step
    evaluate: Evaluate = measure_accuracy
    order: Order = shuffle
    feed: Callable[[Batches], Batches] = _same_batches
    feed_validation: Callable[[Batches], Batches] = _same_batches
    shows_raw: bool = True

    def but(self, **changes: Any) -> Patient:
        """This patient with other parts."""
        return dataclasses.replace(self, **changes)

    def but_net(self, **changes: Any) -> Patient:
        """This patient with another network."""
        return self.but(net=dataclasses.replace(self.net, **changes))

    def but_train(self, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> Patient:
        """This patient with other training images or labels on disk."""
        return self.but_splits(train=self.splits.train.but(images, labels))

    def but_validation(self, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> Patient:
        """This patient with other validation images or labels on disk."""
        return self.but_splits(validation=self.splits.validation.but(images, labels))

    def but_splits(self, **changes: Split) -> Patient:
        """This patient with other splits on disk."""
        return self.but(splits=dataclasses.replace(self.splits, **changes))

    def but_both(self, change: Callable[[Split], Split]) -> Patient:
        """This patient with its training and validation images or labels on disk changed."""
        return self.but_splits(train=change(self.splits.train), validation=change(self.splits.validation))

    def but_shown(self, change: Transform) -> Patient:
        """This patient with something done to all images before they are prepared."""
        return self.but(prepare=chain(change, self.prepare))

    def but_shown_validation(self, change: Transform) -> Patient:
        """This patient with something done to validation images before they are prepared as training images are."""
        return self.but(prepare_validation=chain(change, self.prepare))

    def operate(self, surgery: Callable[[nn.Module], nn.Module]) -> Patient:
        """This patient with something more done to its model after it is built."""
        before = self.surgery
        return self.but(surgery=lambda model: surgery(before(model)))

    def rng(self, salt: int) -> np.random.Generator:
        """A generator of this patient's own."""
        return np.random.default_rng([self.seed, salt])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        height, width, channels = self.splits.train.images.shape[1:]
        return channels, height, width

    @property
    def is_color(self) -> bool:
        return self.shape[0] == 3

    @property
    def epoch_steps(self) -> int:
        """Steps of one epoch."""
        return max(1, len(self.splits.train) // self.batch)

    # ---- what the dictionary is made of ------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        """Build the model; its weights come from torch's default generator."""
        return self.surgery(build_net(self.net, self.shape, self.splits.classes))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of the model."""
        return self.optimizer(model) if self.optimizer else make_optimizer(self.rule, [p for p in model.parameters() if p.requires_grad])

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """Build the schedule of the optimizer, or None."""
        calls = self.steps if self.schedule.every == "step" else -(-self.steps // self.epoch_steps)
        return make_schedule(self.schedule, optimizer, calls)

    def train_batches(self, epoch: int) -> Batches:
        """The training batches of an epoch."""
        return self.feed(self._train_batches(epoch))

    def _train_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(self.seed * 7919 + epoch)
        labels = torch.from_numpy(self.splits.train.labels)
        for rows in self.order(labels, self.batch, g):
            images = to_float(self.splits.train.images[rows.numpy()])
            yield self.prepare(self.augment(images, g), g).contiguous(), labels[rows]

    def validation_batches(self, g: torch.Generator) -> Batches:
        """The validation batches, as the model is shown them."""
        return self.feed_validation(self._validation_batches(g))

    def _validation_batches(self, g: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        prepare = self.prepare_validation or self.prepare
        for images, labels in read_batches(self.splits.validation):
            yield (
                prepare(self.augment_validation(images, g), g).contiguous(),
                self.validation_labels(labels) if self.validation_labels else labels,
            )

    def honest_accuracy(self, model: nn.Module) -> float:
        """Accuracy on the test split that no fault touches, prepared as in training but for the augmentation."""
        g = torch.Generator().manual_seed(self.seed)
        return measure_accuracy(model, ((self.prepare(images, g), labels) for images, labels in read_batches(self.splits.test)))

    def dictionary(self) -> dict[str, Any]:
        """The dictionary of black boxes; nothing in it says what was changed."""
        draws = count(self.seed)
        case: dict[str, Any] = {
            "classes": self.splits.classes,
            "steps": self.steps,
            "model": _hide(self.build_model),
            "optimizer": _hide(self.build_optimizer),
            "schedule": None if self.schedule.name == "constant" else _hide(self.build_schedule),
            "schedule_every": self.schedule.every,
            "loss": _hide(self.loss),
            "train": lambda epoch: _relay(self.train_batches(epoch)),
            "validation": lambda: _relay(self.validation_batches(torch.Generator().manual_seed(next(draws)))),
            "step": _hide(self.step),
            "evaluate": _hide(self.evaluate),
        }
        if self.shows_raw:
            train, validation = self.splits.train, self.splits.validation
            case["raw"] = {"train": (train.images, train.labels), "validation": (validation.images, validation.labels)}
        return case


def _hide(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without its name."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def _relay(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches without the name of what makes them."""
    yield from batches


def read_batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Floats from 0 to 1 and labels of a split, in its order."""
    for start in range(0, len(split), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        yield to_float(split.images[rows]), torch.from_numpy(split.labels[rows])


def train(case: dict[str, Any], seed: int, steps: int = 0) -> tuple[nn.Module, list[float]]:
    """Train a dictionary as its user would, and return the model with the loss of every step."""
    torch.manual_seed(seed)
    model = case["model"]()
    optimizer = case["optimizer"](model)
    schedule = case["schedule"] and case["schedule"](optimizer)
    losses: list[float] = []
    for epoch in count():
        for images, labels in case["train"](epoch):
            model.train()
            losses.append(float(case["step"](model, optimizer, case["loss"], images, labels)))
            if schedule and case["schedule_every"] == "step":
                schedule.step()
            if len(losses) >= (steps or case["steps"]):
                return model, losses
        if schedule and case["schedule_every"] == "epoch":
            schedule.step()
    raise AssertionError("the epochs have no end")
