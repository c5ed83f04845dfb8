"""Yields batches in an order that depends on seed and epoch only; threads read ahead, and their number changes nothing."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from goodfit.core.batch import Batch, make_targets
from goodfit.core.chance import Chance
from goodfit.core.progress import Length, Lengths
from goodfit.data.dataset import Dataset
from goodfit.data.pixels import Pixels, Rows
from goodfit.data.sampler import Shuffle

BATCHES_AHEAD = 2  # kept ready for each reading thread
MAX_EAGER_BYTES = 2**28  # of a batch's images; those of a larger batch are read slice by slice, each time a slice is taken
MAX_CACHED_ORDERS = 2  # at the end of an epoch the next one is already being read
SHUFFLE = Shuffle()


class TrainingPixels(Protocol):
    """Where training images come from: prepared boxes, or crops cut from the originals; `shape` is (N, H, W, C)."""

    shape: tuple[int, int, int, int]

    def read_for_training(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        """Read uint8 [n, H, W, C] for int64 rows [n], which are at `places` [n] in the order of an epoch; safe to call from any thread."""


class EpochOrder(Protocol):
    """What orders the training images of an epoch, as a `Sampler` does."""

    def length(self, labels: Tensor) -> int:
        """The images of an epoch, by the labels of the training images."""

    def __call__(self, labels: Tensor, chance: Chance) -> Tensor:
        """int64 [length]: the places among the training images, in their order."""


class Loader:
    """Batches of the training images, in an order that a sampler chooses for each epoch.

    `labels` [N] int64 are of all rows of `pixels`, `rows` are those to train on. The last batch of an epoch may be short, but a single
    image left over joins the batch before it, since a batch of one has no batch statistics. If one batch holds the whole epoch, the order
    of the first epoch stays, so that sums over it round the same at every step.

    `rows_ahead` may be set to a function (images of a batch) -> the slices of it that this process will take: only their images are then
    read ahead, the others where they are taken.
    """

    def __init__(
        self,
        pixels: TrainingPixels,
        labels: Tensor,
        rows: Rows,
        classes: int,
        batch_size: int,
        seed: int,
        workers: int = 1,
        sampler: EpochOrder = SHUFFLE,
    ) -> None:
        self.pixels, self.labels, self.rows, self.classes = pixels, labels, torch.as_tensor(rows), classes
        self.batch_size, self.seed, self.workers, self.sampler = batch_size, seed, workers, sampler
        self.epoch_images = n = sampler.length(labels[self.rows])
        self.epoch_steps = max(-(-n // batch_size) - (n % batch_size == 1), min(n, 1))
        self.rows_ahead: Callable[[int], Iterable[slice]] | None = None
        self._orders: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    @staticmethod
    def of(data: Dataset, batch_size: int, seed: int = 0, workers: int = 1) -> Loader:
        """Shuffled batches of the training images of open data."""
        return Loader(data.pixels, data.labels, data.rows("train"), len(data.classes), batch_size, seed, workers)

    def lengths(self, budget: str) -> Lengths:
        """Lengths in steps of these batches under a budget such as "30 epochs".

        Raises:
            UsageError: the text is no budget.
        """
        return Lengths(self.epoch_steps, self.epoch_images / self.epoch_steps, Length.read(budget))

    def order(self, epoch: int) -> Tensor:
        """The rows in the order of an epoch."""
        epoch = 0 if self.batch_size == self.epoch_images else epoch
        with self._lock:
            order = self._orders.get(epoch)
            if order is None:
                chance = Chance.of(self.seed, torch.arange(len(self.rows)), "order", epoch)
                order = self.rows[self.sampler(self.labels[self.rows], chance)]
                self._orders[epoch] = order
                while len(self._orders) > MAX_CACHED_ORDERS:
                    del self._orders[next(iter(self._orders))]
            return order

    def places(self, step: int) -> tuple[int, Tensor]:
        """The epoch of a step, and the batch's positions [B] int64 in the order of that epoch."""
        epoch, within = divmod(step, self.epoch_steps)
        end = (within + 1) * self.batch_size if within + 1 < self.epoch_steps else self.epoch_images
        return epoch, torch.arange(within * self.batch_size, end)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from the start of training, with its chance."""
        epoch, places = self.places(step)
        rows = self.order(epoch)[places]
        chance = Chance.for_epoch(self.seed, "augment", epoch, places, rows)
        batch = LazyBatch.of(self.pixels, make_targets(self.labels[rows], self.classes), rows, chance)
        if len(rows) * math.prod(self.pixels.shape[1:]) > MAX_EAGER_BYTES:
            return batch
        return batch[:] if self.rows_ahead is None else batch.read_ahead(self.rows_ahead(len(rows)))

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from step `start` on, without end; close (or drop) the generator to stop the threads."""
        if not self.workers:
            while True:
                yield self.batch(start)
                start += 1
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="goodfit-read")
        pending: deque[Future[Batch]] = deque()
        try:
            while True:
                while len(pending) < BATCHES_AHEAD * self.workers:
                    self.order(self.places(start)[0])  # here, since in a reader torch would start a second set of OpenMP threads
                    pending.append(pool.submit(self.batch, start))
                    start += 1
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class LazyBatch(Batch):
    """A batch, such as one of all training images, whose pixels are read when a slice of it is taken; its `images` have no storage.

    `ahead` has the pixels that are read already, by the start and stop of their slice.
    """

    pixels: TrainingPixels = dataclasses.field(kw_only=True)
    ahead: Mapping[tuple[int, int], Tensor] = dataclasses.field(default_factory=dict, kw_only=True)

    @staticmethod
    def of(pixels: TrainingPixels, targets: Tensor, rows: Tensor, chance: Chance) -> LazyBatch:
        """Make the batch of the rows at the places of their chance; nothing is read yet."""
        images = torch.empty(len(rows), *pixels.shape[1:], dtype=torch.uint8, device="meta").permute(0, 3, 1, 2)
        return LazyBatch(images, targets, rows, chance, pixels=pixels)

    def read_ahead(self, slices: Iterable[slice]) -> LazyBatch:
        """The same batch with the pixels of some slices read."""
        return dataclasses.replace(self, ahead={(rows.start, rows.stop): self._read(rows) for rows in slices})

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        assert self.chance is not None
        images = self.ahead.get((rows.start, rows.stop)) if isinstance(rows, slice) else None
        images = self._read(rows) if images is None else images
        return Batch(images.permute(0, 3, 1, 2), self.targets[rows], self.ids[rows], self.chance[rows])

    def _read(self, rows: slice | Tensor) -> Tensor:
        """uint8 [n, H, W, C]."""
        assert self.chance is not None
        chance = self.chance[rows]
        return self.pixels.read_for_training(self.ids[rows], chance.places, chance.epoch)


def iterate_batches(pixels: Pixels, labels: Tensor, rows: Rows, classes: int, batch_size: int) -> Iterator[Batch]:
    """Yield the rows once, in order, with exact pixels, for evaluation."""
    for ids in torch.split(torch.as_tensor(rows), batch_size):
        yield Batch(pixels.read_exact(ids).permute(0, 3, 1, 2), make_targets(labels[ids], classes), ids)
