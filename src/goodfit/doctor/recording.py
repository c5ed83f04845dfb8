"""What a watched loop has shown: the batches of its first epoch, the network as it was at the start, and which images it is followed by."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.doctor.patient import Batches
from goodfit.doctor.sample import MAX_AGAIN, MAX_TRAIN_IMAGES, Pass
from goodfit.inspection.chance import keep_all_chance
from goodfit.inspection.dissection import untouched

MAX_BYTES = 256_000_000  # of recorded images
MAX_IMAGES_OF_NO_EPOCH = 512  # recorded where it is not known when an epoch ends
MAX_VALIDATION_IMAGES = 1024
MIN_PROBE_IMAGES, MAX_PROBE_IMAGES = 64, 256  # in between, as many as a batch has
IMAGES_PER_CLASS = 20  # below, a sample that was cut short says nothing about classes
Probe = tuple[Tensor, Tensor]


class NotSeen(RuntimeError):
    """A rule asks for something that a watched loop does not show; its cause could not be tested."""


@dataclasses.dataclass(eq=False)
class Recording:
    """What a watched loop has shown. `batches` are the first ones of the first epoch, on the CPU, and `next_batches` those of the second;
    `has_epochs` says that the loop tells where one starts and ends, and `epoch_length` how many batches it has, 0 if that is not known;
    `start` and `start_optimizer` are copies of the network and its optimizer on the CPU, and `frozen` the names of the parts that are in
    evaluation mode though the network is not.
    """

    classes: int = 0
    start: nn.Module | None = None
    start_optimizer: torch.optim.Optimizer | None = None
    frozen: tuple[str, ...] = ()
    batches: list[Probe] = dataclasses.field(default_factory=list)
    next_batches: list[Probe] = dataclasses.field(default_factory=list)
    seconds: float = 0.0  # of waiting for them
    has_epochs: bool = False
    epoch_length: int = 0
    epochs: int = 0  # that are over
    is_cut: bool = False
    train_probe: Probe | None = None
    validation: Pass | None = None
    bytes: int = 0  # of all that is kept
    _images: int = 0
    _updates: list[int] = dataclasses.field(default_factory=list)  # of the weights before each batch

    def add(self, images: Tensor, labels: Tensor, seconds: float, updates: int) -> None:
        """Keep a batch of the first epoch or the second, as long as there is room; there were so many updates of the weights before it."""
        is_next = self.epochs == 1 and sum(len(known) for _, known in self.next_batches) < MAX_AGAIN
        if not is_next and (self.epochs or self.is_cut):
            return
        limit = MAX_TRAIN_IMAGES if self.has_epochs else MAX_IMAGES_OF_NO_EPOCH
        has_room = self.bytes + 4 * images.numel() <= MAX_BYTES and (is_next or self._images < limit)
        if self.batches and not has_room:
            self.is_cut |= not is_next
            return
        batch = images.detach().to("cpu", torch.float32, copy=True), labels.detach().to("cpu", copy=True)
        self.bytes += sum(x.nbytes for x in batch)
        if is_next:
            self.next_batches.append(batch)
            return
        self.batches.append(batch)
        self._updates.append(updates)
        self.seconds += seconds
        self._images += len(images)

    @property
    def tensors(self) -> int:
        """How many tensors are kept."""
        return 2 * len(self.batches) + 2 * len(self.next_batches)

    def copy_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep copies of the network and of its optimizer as they are now."""
        start, own = copy.deepcopy((model, optimizer))
        self.start, self.start_optimizer = start.cpu().float(), own
        for state in own.state.values():
            state.update({name: x.cpu() for name, x in state.items() if isinstance(x, Tensor)})
        self.frozen = tuple(name for name, module in model.named_modules() if model.training and not module.training)

    def fix_train_probe(self) -> Probe:
        """The training images by which the loop is followed: from the first call on, those that had been recorded then."""
        if self.train_probe is None:
            n = max(MIN_PROBE_IMAGES, min(MAX_PROBE_IMAGES, len(self.batches[0][1])))
            self.train_probe = self.all_batches.spread(n)
        return self.train_probe

    @property
    def all_batches(self) -> Pass:
        """The recorded batches, wherever the epoch ends."""
        images, labels = zip(*self.batches, strict=True)
        is_whole = self.has_epochs and self.epochs > 0 and not self.is_cut
        return Pass(torch.cat(images), torch.cat(labels), tuple(map(len, labels)), self.seconds, is_whole)

    def read_epoch(self) -> Pass:
        """The first epoch, or its start.

        Raises:
            NotSeen: the loop does not say where an epoch ends, or too little of it was kept to say something about its classes.
        """
        if not self.has_epochs:
            raise NotSeen("Where an epoch ends is known if the loop iterates over watch.epoch(loader).")
        found = self.all_batches
        if not found.is_whole and len(found) < min(MAX_TRAIN_IMAGES, IMAGES_PER_CLASS * self.classes):
            raise NotSeen(f"Only {len(found)} training images of the first epoch have been kept.")
        return found

    def read_updates(self) -> list[Probe]:
        """The recorded batches, those up to the same update of the weights joined."""
        joined: dict[int, list[Probe]] = {}
        for batch, updates in zip(self.batches, self._updates, strict=True):
            joined.setdefault(updates, []).append(batch)
        return [(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])) for parts in joined.values()]

    def read_next_epoch(self) -> Pass:
        """The start of the second epoch.

        Raises:
            NotSeen: the loop has not shown it.
        """
        if not self.next_batches:
            raise NotSeen("A watched loop has not shown a second epoch.")
        images, labels = zip(*self.next_batches, strict=True)
        return Pass(torch.cat(images), torch.cat(labels), tuple(map(len, labels)), 0.0, False)


def read_validation(batches: Batches, limit: int) -> Pass:
    """Read the user's validation batches; no generator of random numbers is left otherwise than it was."""
    with keep_all_chance():
        return Pass.read(batches, limit)


def count_classes(model: nn.Module, images: Tensor) -> int:
    """How many scores a network gives an image, by its output for the first two of a batch.

    Raises:
        UsageError: its output is no matrix of scores.
    """
    with untouched(model), keep_all_chance(), torch.no_grad():
        model.eval()
        output: Any = model(images[:2])
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 2:
        found = f"one of shape {list(shape)}" if shape else f"a {type(output).__name__}"
        raise UsageError(f"Expected the watched network to return scores of shape [B, K] for images [B, C, H, W], received {found}.")
    return int(shape[1])


def count_labels(labels: Tensor) -> int:
    """How many classes the labels [B] or [B, K] of a batch show."""
    return labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1


def require_batch(images: object, labels: object) -> None:
    """Refuse what is no batch.

    Raises:
        UsageError: the images are no tensor [B, ...], or there is not one label for each.
    """
    if not isinstance(images, Tensor) or images.ndim < 2 or not len(images):
        raise UsageError(f"Expected images as a tensor [B, C, H, W], received {_describe(images)}.")
    if not isinstance(labels, Tensor) or labels.ndim not in (1, 2) or len(labels) != len(images):
        raise UsageError(f"Expected labels as a tensor [{len(images)}], received {_describe(labels)}.")


def _describe(thing: object) -> str:
    if isinstance(thing, Tensor):
        return f"a tensor {list(thing.shape)}"
    return f"a {type(thing).__name__}" + (f" of {len(thing)}" if isinstance(thing, list | tuple) else "")


def length_of(batches: Iterable[Any]) -> int:
    """How many batches a loader says it has; 0 where it does not say."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return 0
