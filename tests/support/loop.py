"""Trainings with plain torch things: batches from a list, a net of two layers, a plan, and the rows that `fit` writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance
from goodfit.core.progress import Length, Lengths, Period
from goodfit.losses.softmax import Softmax
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.state import Plan, State

K = 3


@dataclasses.dataclass
class Listed:
    """Batches from a plain list, over and over; `epoch_steps` of them make an epoch."""

    batches: list[Batch]
    begun: list[int] = dataclasses.field(default_factory=list)

    def stream(self, start: int) -> Iterator[Batch]:
        self.begun.append(start)
        while True:
            yield self.batch(start)
            start += 1

    def batch(self, step: int) -> Batch:
        """The batch of a step, with its chance."""
        epoch, within = divmod(step, len(self.batches))
        first, batch = sum(map(len, self.batches[:within])), self.batches[within]
        return batch.but(chance=Chance.for_epoch(0, "augment", epoch, torch.arange(first, first + len(batch)), batch.ids))


def listed(sizes: tuple[int, ...] = (16, 16, 16, 16, 7)) -> Listed:
    generator = torch.Generator().manual_seed(0)
    made, start = [], 0
    for n in sizes:
        labels = torch.randint(0, K, (n,), generator=generator)
        images = torch.randn(n, 2, 3, 3, generator=generator) + labels[:, None, None, None]
        made.append(Batch(images, one_hot(labels, K), torch.arange(start, start + n)))
        start += n
    return Listed(made)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, K))


def plan(budget: str = "4 epochs", every: str = "", **changes: Any) -> Plan:
    lengths = Lengths(5, 16, Length.read(budget))
    if every:
        changes["evaluate_every"] = Period(Length.read(every, "length"), lengths)
    defaults: dict[str, Any] = {"schedule": lambda t: 1.0, "augment": lambda batch, chance, t: batch, "normalize": lambda images: images}
    return Plan(**{"loss": Softmax(), "lengths": lengths, **defaults, **changes})


def sgd(model: nn.Module, lr: float = 0.1) -> State:
    return State.start(model, torch.optim.SGD(model.parameters(), lr=lr))


def run(state: State, used: Plan, source: Listed | None = None, **named: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    log = MetricLog((rows.extend,))
    fit(state, source or listed(), used, log=log, **named)
    return rows


def told(rows: list[dict[str, Any]], key: str, kind: str = "train") -> list[Any]:
    return [row[key] for row in rows if row["kind"] == kind]


def normed(seed: int = 0, inputs: int = 18, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes))


def noisy_digits() -> tuple[Listed, Tensor, Tensor]:
    """600 digits of which a fifth have a wrong label, in batches of 20, and the rest with their labels."""
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None] / 16
    y = torch.from_numpy(found.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:600], order[600:]
    said = torch.where(torch.rand(len(y), generator=torch.Generator().manual_seed(1)) < 0.2, (y + 1) % 10, y)
    made = [Batch(x[rows], one_hot(said[rows], 10), rows) for rows in train.split(20)]
    return Listed(made), x[test], y[test]
