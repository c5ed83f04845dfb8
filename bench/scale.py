"""Ranks by simulation: how efficient 1 to 1,000 processes of one training are, where that breaks, and what local steps buy.

The time of a step and the loopback network are measured here; jitter, stragglers, failures and networks between machines are assumed, and
said. Efficiency is images a second over so many times those of one rank that waits for nobody.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing

from goodfit.core.device import configure_torch, cpu_name
from goodfit.losses.softmax import Softmax
from goodfit.models.resnet import Resnet

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
EVERY = (1, 4, 16)  # local steps between two averagings; 1 is averaging gradients in each step
BYTES_OF_FLOAT = 4
SMALL, REPEATS = 1024, 20  # floats of a message that shows the latency; how often it is timed
DRAWS = 400  # steps, or rounds of local steps, that are simulated


@dataclasses.dataclass(frozen=True)
class Network:
    """Between ranks: seconds until a message arrives, and bytes a second of one link."""

    latency: float
    bandwidth: float

    def all_reduce_seconds(self, ranks: int, n_bytes: float) -> float:
        """The time of a ring all-reduce, in which each rank sends 2 (N - 1) pieces of 1 / N of the bytes.

        Source: Patarasuk & Yuan 2009.
        """
        return 2 * (ranks - 1) * (self.latency + n_bytes / ranks / self.bandwidth)


NETWORKS = {
    "10 Gbit/s Ethernet": Network(50e-6, 1.25e9),
    "100 Gbit/s InfiniBand": Network(5e-6, 12.5e9),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What a rank does: `seconds` for its images of a step, after which `n_bytes` are reduced.

    The time of a step varies by a lognormal factor of the deviation `jitter`; a share `stragglers` of them takes `slow` times as long. A
    rank fails once in `mtbf` seconds on average; a checkpoint takes `save` seconds, a restart `restart`.
    """

    seconds: float
    n_bytes: float
    jitter: float
    stragglers: float
    slow: float
    mtbf: float
    save: float
    restart: float

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """The times of steps."""
        times = self.seconds * rng.lognormal(-(self.jitter**2) / 2, self.jitter, shape)
        return np.where(rng.random(shape) < self.stragglers, self.slow, 1.0) * times

    @property
    def alone(self) -> float:
        """The mean time of a step of one rank that waits for nobody."""
        return self.seconds * (1 + self.stragglers * (self.slow - 1))


def simulate(job: Job, network: Network, ranks: int, every: int, rng: np.random.Generator) -> float:
    """The efficiency of ranks that wait for one another after `every` steps, failures aside."""
    rounds = max(1, DRAWS // every)
    slowest = job.draw(rng, (rounds, every, ranks)).sum(1).max(1).mean()
    return float(every * job.alone / (slowest + network.all_reduce_seconds(ranks, job.n_bytes)))


def availability(job: Job, ranks: int) -> tuple[float, float]:
    """The share of the time that is not lost to checkpoints, repeated steps and restarts, and the best seconds between two checkpoints.

    Source: Young 1974; Daly 2006 (first order).
    """
    between = job.mtbf / ranks
    interval = math.sqrt(2 * job.save * between)
    lost = job.save / interval + (interval / 2 + job.restart) / between
    return max(0.0, 1 - lost), interval


# ---- what is measured here -----------------------------------------------------------------------------------------------------------


def measure_step(images: int, side: int) -> tuple[float, float]:
    """The seconds of a training step of resnet(18) on one thread, and the bytes of its gradients."""
    configure_torch(1)
    net, batch = Resnet(18)(10, 3, (side, side)), torch.randn(images, 3, side, side)
    targets, times = torch.eye(10)[torch.arange(images) % 10], []
    for _ in range(4):
        began = time.perf_counter()
        Softmax()(net(batch), targets).mean().backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - began)
    return min(times), BYTES_OF_FLOAT * sum(p.numel() for p in net.parameters())


def reduce_on_loopback(rank: int, floats: int, folder: str) -> None:
    """One of two gloo processes: time all-reduces of a small and a large tensor; rank 0 writes the medians."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    medians = []
    for n in (SMALL, floats):
        values, times = torch.zeros(n), []
        for _ in range(REPEATS):
            torch.distributed.barrier()
            began = time.perf_counter()
            torch.distributed.all_reduce(values)
            times.append(time.perf_counter() - began)
        medians.append(statistics.median(times))
    torch.distributed.destroy_process_group()
    if rank == 0:
        (Path(folder) / "medians.json").write_text(json.dumps(medians))


def measure_loopback(n_bytes: float) -> Network:
    """The network between two processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(reduce_on_loopback, (int(n_bytes / BYTES_OF_FLOAT), folder), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
        small, large = json.loads((Path(folder) / "medians.json").read_text())
    latency = small / 2  # of a ring of two: 2 messages, one after the other
    return Network(latency, n_bytes / max(large - small, 1e-9))


# ---- all -----------------------------------------------------------------------------------------------------------------------------


def table(job: Job, network: Network, seed: int) -> str:
    """Efficiency by ranks and local steps, without failures and, for each averaging, with them."""
    lines = [f"  {'ranks':>6}" + "".join(f"{f'every {k}':>12}" for k in EVERY) + f"{'available':>12}{'checkpoint every':>18}"]
    for ranks in RANKS:
        rng = np.random.default_rng(seed)
        share, interval = availability(job, ranks)
        cells = "".join(f"{simulate(job, network, ranks, k, rng):12.1%}" for k in EVERY)
        lines.append(f"  {ranks:6}{cells}{share:12.1%}{f'{interval:,.0f} s':>18}")
    return "\n".join(lines)


def breaking_point(job: Job, network: Network, every: int, seed: int) -> int | None:
    """The fewest ranks with less than half of the efficiency of one; None if none of those simulated has."""
    return next((n for n in RANKS if simulate(job, network, n, every, np.random.default_rng(seed)) < 0.5), None)


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="of a rank in a step")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast a rank as a thread here, such as 200 for a GPU")
    parser.add_argument("--jitter", type=float, default=0.05, help="deviation of the time of a step, as a share")
    parser.add_argument("--stragglers", type=float, default=0.001, help="share of the steps that a rank is late in")
    parser.add_argument("--slow", type=float, default=5.0, help="times as long that those take")
    parser.add_argument("--mtbf", type=float, default=30.0, help="days between two failures of a rank")
    parser.add_argument("--save", type=float, default=5.0, help="seconds of a checkpoint")
    parser.add_argument("--restart", type=float, default=60.0, help="seconds of a restart")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    seconds, n_bytes = measure_step(asked.images, asked.side)
    job = Job(seconds / asked.speed, n_bytes, asked.jitter, asked.stragglers, asked.slow, asked.mtbf * 86400, asked.save, asked.restart)
    loopback = measure_loopback(n_bytes)
    print(f"resnet(18), {asked.images} images of {asked.side} pixels a rank: {1000 * seconds:.0f} ms a step on one thread of {cpu_name()},")
    print(f"here {1000 * job.seconds:.3g} ms; {n_bytes / 1e6:.1f} MB of gradients; torch {torch.__version__}")
    late = f"{job.stragglers:.1%} of the steps {job.slow:g} times as long"
    print(f"assumed: jitter {job.jitter:.0%}, {late}, a failure of a rank in {asked.mtbf:g} days")
    for name, network in {"loopback, measured": loopback, **NETWORKS}.items():
        print(f"\n{name}: {1e6 * network.latency:.0f} us, {network.bandwidth / 1e9:.2f} GB/s\n{table(job, network, asked.seed)}")
        for every in EVERY:
            ranks = breaking_point(job, network, every, asked.seed)
            print(f"  averaging every {every}: " + (f"below half at {ranks} ranks" if ranks else f"above half up to {RANKS[-1]} ranks"))


if __name__ == "__main__":
    main()
