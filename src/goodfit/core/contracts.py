"""The contracts: what each kind of part takes and returns. One page holds them all."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.facts import Facts
from goodfit.core.parts import Part


class Augment(Part):
    """(Batch, Chance, t) -> Batch: pure, on the whole batch, on any device. Images may come as uint8 or as float 0..1."""

    kind: ClassVar[str] = "augment"
    piped: ClassVar[bool] = True
    strength_field: ClassVar[str] = "p"  # the setting that `scaled` multiplies

    def __init_subclass__(cls) -> None:
        """Read what users' files in run folders of version 0.1 call otherwise."""
        super().__init_subclass__()
        for former, name in (("dial", "strength_field"), ("now", "at_progress")):
            if former in vars(cls):
                setattr(cls, name, vars(cls)[former])

    @abstractmethod
    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch: ...

    def scaled(self, strength: float) -> Self:
        """Return the same part, milder: 0 changes nothing, 1 is this part.

        Raises:
            UsageError: the part has no setting `strength_field` and no `scaled` of its own.
        """
        field = self.strength_field
        if not hasattr(self, field):
            raise UsageError(f'"{self}" cannot be made milder: give it a setting {field}, or a method scaled of its own.')
        return dataclasses.replace(self, **{field: getattr(self, field) * strength})  # type: ignore[type-var]

    def at_progress(self, t: float) -> Augment:
        """Return the part to use at progress `t`: itself, unless its strength follows progress."""
        return self


class Loss(Part):
    """(logits [B, K], targets [B, K]) -> [B]: one number per example."""

    kind: ClassVar[str] = "loss"

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor: ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities [B, K] for the logits [B, K]; rows sum to 1."""
        return logits.softmax(dim=1)

    def weigh(self, targets: Tensor) -> Tensor | None:
        """The weight [B] of each example in the mean loss, by its target [B, K]; None weighs all alike."""
        return None


class Sampler(Part):
    """(labels [n] of the training images, chance of n places) -> int64 [length]: which images an epoch shows, in its order."""

    kind: ClassVar[str] = "sampler"

    @abstractmethod
    def length(self, labels: Tensor) -> int:
        """The images of an epoch."""

    @abstractmethod
    def __call__(self, labels: Tensor, chance: Chance) -> Tensor: ...


class Penalty(Part):
    """(model) -> scalar, added to the mean loss; on weights only, never on biases or norms."""

    kind: ClassVar[str] = "penalty"
    piped: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, model: nn.Module) -> Tensor: ...


class Optimizer(Part):
    """(parameter groups) -> torch.optim.Optimizer; its `lr` is the peak that the schedule multiplies.

    One that is `full_batch` needs the same loss at every call (all training images in each step, no noise) and gets all parameters in one
    group; one that `separates_ends` gets the weights of the first and the last layer in a group of their own.
    """

    kind: ClassVar[str] = "optimizer"
    full_batch: ClassVar[bool] = False

    @property
    def separates_ends(self) -> bool:
        return False

    @abstractmethod
    def __call__(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer: ...


class Schedule(Part):
    """(t) -> factor of the peak learning rate, pure, for t in 0..1 of the stretch it is given: the whole budget, or its share in a pipe."""

    kind: ClassVar[str] = "schedule"
    piped: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, t: float) -> float: ...

    @property
    def share(self) -> float:
        """The share of the whole budget it takes when another schedule follows it; 1: all that remains."""
        return 1.0

    def within(self, stretch: float) -> Self:
        """The same schedule for a stretch of the budget: its lengths, shares of the budget, become shares of the stretch."""
        return self

    def landmarks(self) -> tuple[tuple[float, float], ...]:
        """(t, factor) at the points that define its shape."""
        return ()


class Model(Part):
    """(classes, channels, size) -> nn.Module whose children are its stages, first to last, then the head."""

    kind: ClassVar[str] = "model"

    @abstractmethod
    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module: ...


class Activation(Part):
    """() -> nn.Module; `width` says how many times wider its input must be (maxout: its pieces)."""

    kind: ClassVar[str] = "activation"

    @property
    def width(self) -> int:
        return 1

    @abstractmethod
    def __call__(self) -> nn.Module: ...


class Norm(Part):
    """(channels) -> nn.Module that normalizes [B, C, ...]."""

    kind: ClassVar[str] = "norm"

    @abstractmethod
    def __call__(self, channels: int) -> nn.Module: ...


class Init(Part):
    """(module) -> None: fill the weights of every linear and conv layer in place, from torch's default generator."""

    kind: ClassVar[str] = "init"

    @abstractmethod
    def __call__(self, module: nn.Module) -> None: ...


class Noise(Part):
    """() -> nn.Module that adds noise in training and its average in evaluation."""

    kind: ClassVar[str] = "noise"

    @abstractmethod
    def __call__(self) -> nn.Module: ...


class Pool(Part):
    """() -> nn.Module that makes the sides of maps [B, C, H, W] `factor` times smaller."""

    kind: ClassVar[str] = "pool"
    factor: float

    @abstractmethod
    def __call__(self) -> nn.Module: ...


class Average(Part):
    """(weights in it so far, t) -> the share of itself the running average of the weights keeps at this step; 0 starts it anew."""

    kind: ClassVar[str] = "average"
    keeps_start: ClassVar[bool] = False  # whether it keeps that share of the pretrained weights training started from, not of itself

    @abstractmethod
    def __call__(self, updates: int, t: float) -> float: ...

    def is_due(self, last: float, t: float) -> bool:
        """Whether the weights at progress t come into the average, when those at progress `last` were the last to."""
        return True


class Sync(Part):
    """(the weights of this process, their mean, the center, how many processes) -> None: brings the first and the center together."""

    kind: ClassVar[str] = "sync"
    every, start, keeps_center = 0, 0.0, False  # steps between, 0: never; progress at which processes part; whether the center is the model

    @abstractmethod
    def __call__(self, own: Tensor, mean: Tensor, center: Tensor, size: int) -> None: ...


class StopRule(Part):
    """(scores so far, oldest first) -> whether to stop early."""

    kind: ClassVar[str] = "stop"

    @abstractmethod
    def __call__(self, scores: list[float]) -> bool: ...


class PlateauRule(Part):
    """(scores so far, oldest first) -> the factor that multiplies the learning rate from now on, in addition to the schedule."""

    kind: ClassVar[str] = "plateau"

    @abstractmethod
    def __call__(self, scores: list[float]) -> float: ...


Stop, Brake = StopRule, PlateauRule  # their names in version 0.1, which users' files in run folders import


class Trainable(Part):
    """(model) -> the names of the parameters that learn; the others stay as they are, bit for bit."""

    kind: ClassVar[str] = "trainable"
    piped: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, model: nn.Module) -> set[str]: ...

    def phases(self, model: nn.Module) -> list[tuple[float, set[str]]]:
        """What learns when: pairs of a share of the budget, counted from the part's own start, and the names that learn from there on."""
        return [(0.0, self(model))]


class Rates(Part):
    """(model) -> {start of parameter names: factor of the learning rate}; names without one learn at the full rate."""

    kind: ClassVar[str] = "rates"

    @abstractmethod
    def __call__(self, model: nn.Module) -> dict[str, float]: ...


class Resolution(Part):
    """(the model's size, t) -> the size, both (height, width) and none larger, at which training shows the images at progress t."""

    kind: ClassVar[str] = "resolution"

    @abstractmethod
    def __call__(self, size: tuple[int, int], t: float) -> tuple[int, int]: ...


class Probe(Part):
    """Looks at training, changes nothing: every `every` steps it may keep something from before the step, and reads numbers after it."""

    kind: ClassVar[str] = "probe"
    piped: ClassVar[bool] = True
    every: int

    def before(self, state: Any) -> Any:
        """What to keep from before the step, from `training.State`."""
        return None

    @abstractmethod
    def read(self, view: Any) -> dict[str, Any]:
        """Named numbers (or scalar tensors, or dictionaries of them) from `watch.telemetry.StepView`."""


class Views(Part):
    """(model's size, stored box), both (height, width) -> the views of an image (`augment.views.View`) that a trained model is asked about.

    Its answers are averaged in the `average` space: the probabilities, or the logits that then become probabilities.
    """

    kind: ClassVar[str] = "views"
    average: str

    @abstractmethod
    def __call__(self, size: tuple[int, int], box: tuple[int, int]) -> tuple[Any, ...]: ...

    def bind(self, facts: Facts) -> Self:
        self(facts.size, facts.size)  # scales too small for the model are said before it is trained
        return super().bind(facts)
