"""The order of an epoch over shards: shuffled shards in a few lanes, and in each lane the images of some shards at a time are mixed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from goodfit.core.chance import Chance, fold

MAX_LANES = 8  # so many ranks each have shards of their own
MAX_WINDOW = 4  # shards of a lane


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How many `lanes` of shards a batch is filled from, and of how many shards of a lane, its `window`, the images are mixed."""

    lanes: int
    window: int

    @staticmethod
    def within(slots: int) -> Mixing:
        """The widest mixing for which `slots` shards may be on the machine at once: those that are mixed, and as many that follow."""
        lanes = next((n for n in (MAX_LANES, MAX_LANES // 2, MAX_LANES // 4) if 2 * n <= slots), 1)
        return Mixing(lanes, min(MAX_WINDOW, max(1, slots // (2 * lanes))))

    @property
    def shards(self) -> int:
        """The shards that are mixed at a time."""
        return self.lanes * self.window


@dataclasses.dataclass(frozen=True, eq=False)
class ShardShuffle:
    """Every training image once an epoch; a function of chance alone, so that any place of it can be computed without those before.

    The shards are shuffled, and their images in that order are cut into as many lanes of equal length. In a lane the images of `window`
    shards at a time are mixed. A batch takes as many images of each lane, give or take one, lane by lane: ranks, which have consecutive
    blocks of each batch, read the shards of their own lanes, whatever their number, and the order does not depend on it.

    `shards` [n] int64 are those of the training images, in ascending order; `follow` is told for each shard of an epoch which come next.
    """

    shards: Tensor
    batch_size: int
    mixing: Mixing
    follow: Callable[[Mapping[int, Sequence[int]]], None]

    def length(self, labels: Tensor) -> int:
        return len(labels)

    def __call__(self, labels: Tensor, chance: Chance) -> Tensor:
        """int64 [n]: the places among the training images, in the order of an epoch."""
        n, lanes = len(self.shards), self.mixing.lanes
        numbers, sizes = torch.unique_consecutive(self.shards, return_counts=True)
        order = Chance(fold(chance.key, "shards"), numbers).permutation()
        turn = torch.empty_like(order)
        turn[order] = torch.arange(len(order))  # of each shard, by its place among `numbers`
        turns = turn.repeat_interleave(sizes)
        sequence = turns.argsort(stable=True)  # the images, shard by shard
        turns = turns[sequence]
        lengths = (n + torch.arange(lanes)) // lanes
        lane = torch.arange(lanes).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        first_turn = turns[starts.clamp(max=max(n - 1, 0))]
        window = (turns - first_turn[lane]) // self.mixing.window
        visits = torch.unique_consecutive(lane * len(numbers) + turns).tolist()  # by each lane of each shard, in their order
        self.follow(self._following(numbers[order].tolist(), first_turn.tolist(), visits))
        draws = Chance(fold(chance.key, "window"), sequence).bits()[:, 0]
        mixed = draws.argsort(stable=True)
        group = (lane * (len(numbers) + 1) + window)[mixed]
        sequence = sequence[mixed[group.argsort(stable=True)]]
        # Image j of lane l is that of step (lanes (j + 1) - l - 1) // batch_size: so these numbers are 0 to n - 1, each once.
        step = (lanes * (torch.arange(n) - starts[lane] + 1) - lane - 1) // self.batch_size
        return sequence[step.argsort(stable=True)]

    def _following(self, order: Sequence[int], first_turns: Sequence[int], visits: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """For each shard those of the next window of its lane; nothing for one that two lanes read, at different times."""
        windows: dict[tuple[int, int], list[int]] = {}
        for visit in visits:
            lane, turn = divmod(visit, len(order))
            windows.setdefault((lane, (turn - first_turns[lane]) // self.mixing.window), []).append(order[turn])
        count = Counter(itertools.chain.from_iterable(windows.values()))
        return {
            shard: tuple(windows.get((lane, window + 1), ()))
            for (lane, window), members in windows.items()
            for shard in members
            if count[shard] == 1
        }
