"""Ranks: the processes that train one model together, and what they send each other; one process alone sends nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from goodfit.core.chance import MIXING_BLOCK
from goodfit.core.errors import GoodfitError, RankLost, first_line

T = TypeVar("T")
POLL_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Share:
    """What one rank computes of a piece of a batch: the `rows` of the batch, those of the whole `piece`, and how many ranks compute the
    same rows, so that each counts for 1 / `copies`.
    """

    piece: slice
    rows: slice
    copies: int = 1

    @property
    def is_part(self) -> bool:
        """Whether other ranks compute the rest of the piece."""
        return self.rows != self.piece


@dataclasses.dataclass
class Wait:
    """Since when, by the monotonic clock, this process is in a collective; None while it is in none."""

    since: float | None = None


@dataclasses.dataclass
class Traffic:
    """What this process sent to sum tensors over the ranks: `bytes_sent`, as a ring sends them, in so many `messages`, or rounds.

    It receives as many. In a ring of n ranks each sends every number 2 (n - 1) / n times.
    """

    bytes_sent: int = 0
    messages: int = 0


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The number of this process, from 0, among the `size` that train together.

    The methods that sum, broadcast and gather must be called by all of them, in the same order; with a size of 1 they do nothing. Sums are
    equal on all ranks, bit for bit. `post` and `wait_for` leave notes in the `store` where the processes have met.

    Raises:
        RankLost: by every method that communicates, when another rank is gone.
        GoodfitError: by the same, when another rank does not answer in time.
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None
    wait: Wait = dataclasses.field(default_factory=Wait, compare=False)
    traffic: Traffic = dataclasses.field(default_factory=Traffic, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that decides, reports and writes."""
        return self.rank == 0

    def share(self, piece: slice) -> Share:
        """The share of this rank in a piece of a batch: whole blocks, in the order of the ranks.

        Every rank has at least one block; a piece that has not enough of them is computed by all ranks, each alone.
        """
        blocks = -(-(piece.stop - piece.start) // MIXING_BLOCK)
        if blocks < self.size:
            return Share(piece, piece, self.size)
        first, end = (piece.start + rank * blocks // self.size * MIXING_BLOCK for rank in (self.rank, self.rank + 1))
        return Share(piece, slice(first, min(end, piece.stop)))

    def split(self, items: Sequence[T]) -> Sequence[T]:
        """The part of this rank of some items, in the order of the ranks; it may be empty."""
        first, end = (rank * len(items) // self.size for rank in (self.rank, self.rank + 1))
        return items[first:end]

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; all travel together."""
        self._replace(tensors, self._all_reduce)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of rank 0; all travel together."""
        self._replace(tensors, lambda flat: dist.broadcast(flat, 0))

    def broadcast_numbers(self, *numbers: float) -> tuple[float, ...]:
        """The numbers of rank 0, as float64."""
        if self.size == 1:
            return numbers
        values = torch.tensor(numbers, dtype=torch.float64)
        with self._collective():
            dist.broadcast(values, 0)
        return tuple(values.tolist())

    def broadcast_object(self, value: T) -> T:
        """The value of rank 0, which must pickle; what the others pass does not matter."""
        if self.size == 1:
            return value
        box = [value if self.is_first else None]
        with self._collective():
            dist.broadcast_object_list(box, 0)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in their order, on rank 0; an empty list on the others."""
        if self.size == 1:
            return [value]
        box: list[Any] | None = [None] * self.size if self.is_first else None
        with self._collective():
            dist.gather_object(value, box, 0)
        return box or []

    def post(self, key: str, value: str = "") -> None:
        """Leave a note for the other ranks."""
        if self.store is not None:
            with explain_lost_rank():
                self.store.set(key, value)

    def wait_for(self, keys: Sequence[str], seconds: float) -> list[str]:
        """Wait until there is a note under each key, and return them; an empty list where they have not all come in time.

        A signal is received meanwhile, other than in the collectives.
        """
        assert self.store is not None
        end = time.monotonic() + seconds
        with explain_lost_rank():
            while not self.store.check(list(keys)):
                if time.monotonic() > end:
                    return []
                time.sleep(POLL_SECONDS)
            return [self.store.get(key).decode() for key in keys]

    def _all_reduce(self, flat: Tensor) -> None:
        dist.all_reduce(flat)
        self.traffic.bytes_sent += flat.nbytes * 2 * (self.size - 1) // self.size
        self.traffic.messages += 1

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        """What all ranks do together within the block."""
        self.wait.since = time.monotonic()
        try:
            with explain_lost_rank():
                yield
        finally:
            self.wait.since = None

    def _replace(self, tensors: Iterable[Tensor], communicate: Callable[[Tensor], object]) -> None:
        """Replace the tensors by what comes of a collective on their numbers, those of each type in one vector."""
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors if self.size > 1 else ():
            by_type.setdefault(tensor.dtype, []).append(tensor.detach())
        for group in by_type.values():
            flat = torch.cat([x.reshape(-1) for x in group])
            with self._collective():
                communicate(flat)
            for tensor, part in zip(group, torch.split(flat, [x.numel() for x in group]), strict=True):
                tensor.copy_(part.view(tensor.shape))


ALONE = Ranks()


@contextlib.contextmanager
def explain_lost_rank() -> Iterator[None]:
    """Turn the error of a failed communication into one that says what it means.

    Raises:
        RankLost: another process closed its connection.
        GoodfitError: another process did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:  # gloo, NCCL and the store have no common class of their own
        if "timed out" in str(error).lower():
            raise GoodfitError(f"Another process of this training does not answer ({first_line(error)}).") from error
        raise RankLost("Another process of this training ended.") from error
