"""State holds everything that changes during training; Plan holds everything that does not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch
from goodfit.core.chance import MASK64, Chance, fold
from goodfit.core.contracts import Average, Loss, Penalty
from goodfit.core.errors import UsageError
from goodfit.core.parts import Part, Pipe, pipe_parts
from goodfit.core.progress import Lengths, Period
from goodfit.core.ranks import ALONE, Ranks
from goodfit.data.dataset import Dataset
from goodfit.data.loader import Loader
from goodfit.losses.softmax import Softmax
from goodfit.models.weights.cut import Cut
from goodfit.schedules.compose import compose
from goodfit.schedules.shapes import Constant
from goodfit.schedules.span import T_TOLERANCE
from goodfit.training.freezing import Phase

TENSOR_FIELDS = ("model", "optimizer", "average", "rank_trees")  # of the state
SOFTMAX, NO_AUGMENTATION, CONSTANT = Softmax(), Pipe(), Constant()


@dataclasses.dataclass
class State:
    """Everything that a checkpoint has to hold.

    `elapsed` is in seconds since the command started, over all sessions, of which `startup` passed before their first steps; `reserve`
    seconds of a budget in minutes are kept for the final evaluation, and `evaluation_seconds` went into those so far. `plateau_factor`,
    `manual_factor` and `rescue_factor` multiply the learning rate. `start_loss` is the training loss of a pretrained start,
    `recent_losses` are those of the steps since it was last compared with them. `history` holds the validation score of each
    evaluation, the last after step `evaluated_at`.
    `average_updates` counts the weights in the running average, the last of which were added at progress `averaged_at`. `snapshots` are
    the steps whose weights were kept, at the first `snapshots_taken` points of the plan. `bytes_sent` and `messages` count what each of
    several ranks has sent to train. While weights that differ by rank are saved, `rank_trees` has what is each rank's own.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    step: int = 0
    elapsed: float = 0.0
    startup: float = 0.0
    reserve: float = 0.0
    evaluation_seconds: float = 0.0
    plateau_factor: float = 1.0
    manual_factor: float = 1.0
    rescue_factor: float = 1.0
    start_loss: float | None = None
    recent_losses: list[Any] = dataclasses.field(default_factory=list)
    pieces: int = 1
    average_updates: int = 0
    averaged_at: float = 0.0
    evaluations: int = 0
    evaluated_at: int = -1
    history: list[float] = dataclasses.field(default_factory=list)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    snapshots: list[int] = dataclasses.field(default_factory=list)
    snapshots_taken: int = 0
    bytes_sent: int = 0
    messages: int = 0
    rank_trees: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @staticmethod
    def start(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None = None, pieces: int = 1) -> State:
        """The state before the first step; a running average starts as a copy of the model."""
        return State(model, optimizer, copy.deepcopy(model).eval().requires_grad_(False) if average else None, pieces=pieces)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and kept: the running average where there is one."""
        return self.average if self.average is not None else self.model

    @property
    def reaction_factor(self) -> float:
        """What multiplies the learning rate in reaction to what training shows."""
        return self.plateau_factor * self.rescue_factor

    def scalars(self) -> dict[str, Any]:
        """The fields that are plain values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in TENSOR_FIELDS}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training does, fixed before its first step.

    `augment` (Batch, Chance, t) -> Batch gives images of the model's `size`; `normalize` turns them into what the model takes. `evaluate`
    (model, whether it is the last time) -> scores, with the key "score" (higher is better) and whatever else is to be logged, of
    `evaluated_images` images; the final evaluation takes about as long as `final_passes` of these.
    `start` has the weights that training starts from where they are pretrained, `last_good` (state) -> the weights to go back to from worse
    ones, in place of them. `cut` says where the model is cut if its images are features of its frozen stages.
    `snapshots` are the values of t at which weights are kept besides the checkpoints. `parts` are the recipe's parts by seat, bound to the
    data; training asks there for rules such as "stop" and "plateau", so that a new kind of part needs no field of its own here.
    The `ranks` train together; with `sync_norms` their batch norms take their statistics from the images of all.
    """

    loss: Loss
    lengths: Lengths
    augment: Callable[[Batch, Chance, float], Batch]
    normalize: Callable[[Tensor], Tensor]
    schedule: Callable[[float], float]
    penalties: tuple[Penalty, ...] = ()
    average: Average | None = None
    trainable: tuple[Phase, ...] = ()
    clip: float = 0.0
    clip_value: float = 0.0
    seed: int = 0
    size: tuple[int, int] = (1, 1)
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    evaluate: Callable[[nn.Module, bool], dict[str, Any]] | None = None
    evaluate_every: Period | None = None
    evaluated_images: int = 0
    final_passes: int = 1
    save_every: Period | None = None
    snapshots: tuple[float, ...] = ()
    start: Mapping[str, Tensor] | None = None
    cut: Cut | None = None
    last_good: Callable[[State], Mapping[str, Tensor]] | None = None
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ranks: Ranks = ALONE
    sync_norms: bool = True

    def __post_init__(self) -> None:
        if getattr(self.average, "keeps_start", False) and self.start is None:
            raise UsageError(f'"{self.average}" averages with pretrained weights, and there are none: give --from, or another average.')

    @staticmethod
    def of(
        data: Dataset, loader: Loader, budget: str, loss: Loss = SOFTMAX, augment: Part = NO_AUGMENTATION, schedule: Part = CONSTANT
    ) -> Plan:
        """The plan for training on the loader's batches of open data, with parts or pipes of parts; all else has its default.

        Raises:
            UsageError: the budget does not read, or a part does not go with the data.
        """
        lengths = loader.lengths(budget)
        facts = data.facts(lengths)
        pipeline = Pipeline(pipe_parts(augment.bind(facts)), data.preprocess.size)  # type: ignore[arg-type]
        return Plan(
            data.task.with_loss(loss.bind(facts)),
            lengths,
            pipeline,
            data.preprocess.normalize,
            compose(schedule.bind(facts)),
            seed=loader.seed,
        )

    def t(self, state: State) -> float:
        """Progress in 0..1."""
        return self.lengths.t(state.step, state.elapsed, state.reserve, state.startup)

    def is_apart(self, t: float) -> bool:
        """Whether each rank moves by the gradient of its own images alone in a step that begins at progress t."""
        return self.merge_every > 0 and t >= self.parts["sync"].start - T_TOLERANCE

    @property
    def merge_every(self) -> int:
        """The steps from one merge of the ranks' weights to the next; 0 where they do not part."""
        return self.parts["sync"].every if self.ranks.size > 1 and "sync" in self.parts else 0

    def ranks_meet(self, step: int, t: float) -> bool:
        """Whether the ranks talk to each other between the step before and `step`, at progress t."""
        if not self.is_apart(t) or step % self.merge_every == 0 or self.lengths.timed:  # whose clock is rank 0's
            return True
        return any(command.step == step for command in pipe_parts(self.parts.get("steering", Pipe())))  # type: ignore[attr-defined]

    def network(self, model: nn.Module) -> nn.Module:
        """What runs on prepared images: the model, or, where they are features of frozen stages, what lies above these."""
        return self.cut.upper(model) if self.cut else model

    def noise_seed(self, step: int, piece: int) -> int:
        """The seed of the noise layers for one piece of a step."""
        return fold(fold(self.seed & MASK64, "noise", step), piece) >> 1

    def prepare(self, batch: Batch, t: float) -> Batch:
        """A training batch as the model sees it at progress t: on the device, augmented and normalized.

        Raises:
            UsageError: the batch has no chance.
        """
        if batch.chance is None:
            raise UsageError("Expected a training batch with its chance, as a Loader yields it, received one without: set Batch.chance.")
        augmented = self.augment(batch.to(self.device, non_blocking=True), batch.chance, t)
        return augmented.but(images=self.normalize(self.show(augmented.images, t)))

    def pixel_share(self, t: float) -> float:
        """The share of the pixels of its images that training shows at progress t."""
        height, width = self.parts["resolution"](self.size, t) if "resolution" in self.parts else self.size
        return height * width / (self.size[0] * self.size[1])

    def show(self, images: Tensor, t: float) -> Tensor:
        """Images [B, C, H, W] at the size at which training shows them at progress t."""
        resolution = self.parts.get("resolution")
        if resolution is None or self.cut:
            return images
        size = (images.shape[2], images.shape[3])
        if (smaller := resolution(size, t)) == size:
            return images
        if images.dtype == torch.uint8 and images.device.type != "cpu":  # where there is no such kernel
            images = images.float().div(255)
        return functional.interpolate(images, smaller, mode="bilinear", antialias=True)


class Batches(Protocol):
    """Where training batches come from: an endless stream from any step on; each carries its chance."""

    def stream(self, start: int) -> Iterator[Batch]: ...
