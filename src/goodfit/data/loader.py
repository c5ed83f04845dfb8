"""Batches in an order that is a function of seed and epoch, read ahead by threads, the same for any number of them."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance
from goodfit.core.contracts import Sampler
from goodfit.data.pixels import Pixels, Rows
from goodfit.data.sampler import Shuffle

AHEAD = 2  # batches a reader keeps ready
LARGE = 2**28  # bytes of images; those of a larger batch are read piece by piece, each time a piece is asked for
ORDERS_KEPT = 2  # epochs: at the end of one the next is being read
SHUFFLE = Shuffle()


class Source(Protocol):
    """Where training images come from: prepared boxes, or crops cut from the originals; `shape` is (N, H, W, C)."""

    shape: tuple[int, int, int, int]

    def drawn(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        """uint8 [n, H, W, C] for int64 rows [n], which are at `places` [n] in the order of an epoch; safe to call from several threads."""


class Loader:
    """The training images, in the order that a sampler gives each epoch anew.

    `labels` [N] int64 for all rows of `pixels`; `rows` are those to train on. The last batch of an epoch may be short,
    but a single image left over joins the batch before it: alone it has no batch statistics. A batch of the epoch's length keeps the
    order of the first epoch, so that sums over it round the same at every step.
    """

    def __init__(
        self, pixels: Source, labels: Tensor, rows: Rows, classes: int, batch: int, seed: int, workers: int = 1, sampler: Sampler = SHUFFLE
    ) -> None:
        self.pixels, self.labels, self.rows, self.classes = pixels, labels, torch.as_tensor(rows), classes
        self.size, self.seed, self.workers, self.sampler = batch, seed, workers, sampler
        self.epoch_images = n = sampler.length(labels[self.rows])
        self.epoch_steps = max(-(-n // batch) - (n % batch == 1), min(n, 1))
        self._orders: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def order(self, epoch: int) -> Tensor:
        """The rows in the order of an epoch."""
        epoch = 0 if self.size == self.epoch_images else epoch
        with self._lock:
            order = self._orders.get(epoch)
            if order is None:
                chance = Chance.of(self.seed, torch.arange(len(self.rows)), "order", epoch)
                order = self.rows[self.sampler(self.labels[self.rows], chance)]
                self._orders[epoch] = order
                while len(self._orders) > ORDERS_KEPT:
                    del self._orders[next(iter(self._orders))]
            return order

    def places(self, step: int) -> tuple[int, Tensor]:
        """The epoch of a step, and the positions [B] int64 in its order."""
        epoch, within = divmod(step, self.epoch_steps)
        end = (within + 1) * self.size if within + 1 < self.epoch_steps else self.epoch_images
        return epoch, torch.arange(within * self.size, end)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from the start of training, with its chance."""
        epoch, places = self.places(step)
        rows = self.order(epoch)[places]
        chance = Chance.for_epoch(self.seed, "augment", epoch, places, rows)
        unread = Unread.of(self.pixels, one_hot(self.labels[rows], self.classes), rows, chance)
        return unread if len(rows) * math.prod(self.pixels.shape[1:]) > LARGE else unread[:]

    def stream(self, start: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end; close it (or let go of it) to stop the threads."""
        if not self.workers:
            while True:
                yield self.batch(start)
                start += 1
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="goodfit-read")
        waiting: deque[Future[Batch]] = deque()
        try:
            while True:
                while len(waiting) < AHEAD * self.workers:
                    waiting.append(pool.submit(self.batch, start))
                    start += 1
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Unread(Batch):
    """A batch, such as one of all training images, whose pixels are read when a slice of it is asked for; its own have no storage."""

    pixels: Source = dataclasses.field(kw_only=True)

    @staticmethod
    def of(pixels: Source, targets: Tensor, rows: Tensor, chance: Chance) -> Unread:
        """The batch of rows at the places of their chance; nothing is read."""
        images = torch.empty(len(rows), *pixels.shape[1:], dtype=torch.uint8, device="meta").permute(0, 3, 1, 2)
        return Unread(images, targets, rows, chance, pixels=pixels)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        assert self.chance is not None
        chance = self.chance[rows]
        images = self.pixels.drawn(self.ids[rows], chance.places, chance.epoch)
        return Batch(images.permute(0, 3, 1, 2), self.targets[rows], self.ids[rows], chance)


def sweep(pixels: Pixels, labels: Tensor, rows: Rows, classes: int, batch: int) -> Iterator[Batch]:
    """The rows once, in order, with exact pixels: for evaluation."""
    for piece in torch.split(torch.as_tensor(rows), batch):
        yield Batch(pixels.exact(piece).permute(0, 3, 1, 2), one_hot(labels[piece], classes), piece)
