"""Commands and functions in several processes of one training, as torchrun would start them; and how far apart their weights are."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.reporter import SilentReporter
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.runs.launch import joined_ranks
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.state import Plan
from tests.support.process import Forked, start_command


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def environment_of(rank: int, size: int, port: int, **more: str) -> Iterator[None]:
    """The environment that torchrun gives to a process of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    values = {key: str(value) for key, value in numbers.items()}
    with mock.patch.dict(os.environ, {**values, "MASTER_ADDR": "127.0.0.1", **more}):
        yield


def start_ranks(size: int, folder: Path, *words: str | Path, started: int | None = None, **more: str) -> list[Forked]:
    """Start `goodfit WORDS` in so many processes of one training, or only the first `started` of them; in one, as without a launcher."""
    port, processes = free_port(), []
    for rank in range(size if started is None else started):
        with environment_of(rank, size, port, **more):
            processes.append(start_command(folder / f"rank{rank}", *words))
    return processes


def call_ranks(size: int, folder: Path, function: Callable[..., object], *arguments: Any) -> None:
    """Call a function of a test in so many processes of one training, and wait for their good end."""
    port, processes = free_port(), []
    for rank in range(size):
        with environment_of(rank, size, port):
            processes.append(Forked(folder / f"rank{rank}", function, *arguments))
    for process in processes:
        assert process.wait(600) == 0, process.err


def train_in_ranks(ranks: int, data: str | Path, out: Path, *more: str, **changes: str) -> Path:
    """Train the fast recipe, some of its fields changed, in so many processes; returns the run."""
    options = [word for key, value in changes.items() for word in (f"--{key.replace('_', '-')}", value)]
    processes = start_ranks(ranks, out.parent / f"{out.name}-output", "train", data, "--out", out, *options, *more)
    for process in processes:
        assert process.wait() == 0, process.err
    return out


def weight_distance(one: Path, other: Path) -> float:
    """The distance of two runs' kept weights and statistics, relative to their norm."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    x, y = (torch.cat([tensors[name].double().flatten() for name in a if tensors[name].is_floating_point()]) for tensors in (a, b))
    return float((x - y).norm() / x.norm())


# ---- the training loop alone, in float64 ------------------------------------------------------------------------------------------

EXACT = {
    "data": "digits", "size": "16", "augment": "flip | crop(2) | rotate(10) | mixup(0.3)", "optimizer": "sgd(0.05, momentum=0.9)",
    "budget": "8 steps", "batch_size": "72", "limit": "16", "model": "convnet(4)", "schedule": "cosine", "pieces": "1",
    "precision": "fp32", "layout": "channels_last", "threads": "1", "evaluate_every": "1 epoch",
}  # fmt: skip


def fit_exactly(folder: Path, cases: dict[str, dict[str, str]], sync_norms: bool = True) -> None:
    """Run the loop of each case in float64 as one of the ranks of the environment; its losses and weights go to folder/CASE-RANK."""
    with joined_ranks() as ranks:
        for name, changes in cases.items():
            torch.set_default_dtype(torch.float64)
            try:
                prepared = prepare(Recipe().but_text({**EXACT, **changes}), SilentReporter())
            finally:
                torch.set_default_dtype(torch.float32)
            plan, rows = prepared.training.plan, []
            syncs = sync_norms and prepared.recipe.sync_norms is True
            training = dataclasses.replace(prepared.training, plan=in_double(plan)).among(ranks, syncs)
            training.state.model.double()
            fit(training.state, training.loader, training.plan, training.watch, MetricLog((rows.extend,)))
            tensors = {key: x.contiguous() for key, x in training.state.eval_model.state_dict().items()}
            tensors["losses"] = torch.tensor([row["loss"] for row in rows if row["kind"] == "train"], dtype=torch.float64)
            save_file(tensors, folder / f"{name}-{ranks.rank}.safetensors")


def in_double(plan: Plan) -> Plan:
    """The plan without evaluation, with images and targets in float64."""

    def augment(batch: Batch, chance: Chance, t: float) -> Batch:
        batch = plan.augment(batch, chance, t)
        return batch.but(targets=batch.targets.double())

    return dataclasses.replace(plan, evaluate=None, augment=augment, normalize=lambda images: plan.normalize(images).double())


def exact_results(size: int, folder: Path, cases: dict[str, dict[str, str]], sync_norms: bool = True) -> list[dict[str, dict[str, Tensor]]]:
    """The losses and weights of each case, by rank, after training in so many processes."""
    folder.mkdir(parents=True)
    call_ranks(size, folder, fit_exactly, folder, cases, sync_norms)
    return [{name: load_file(folder / f"{name}-{rank}.safetensors") for name in cases} for rank in range(size)]
