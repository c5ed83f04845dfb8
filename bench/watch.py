"""What goodfit.watch costs a plain training loop: the same steps with it and without, in turns, in CPU time and by the clock.

The goal is at most 2 % after the first 50 steps, dear looks included. Those first steps cost more, once: nine of them are taken apart and
five looks are taken. Weights are compared at the end: they must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodfit
from goodfit.core.device import cpu_name
from goodfit.doctor.observer import INTERVAL
from goodfit.recipe.parts import load_catalog

NETS = {"mlp": "mlp((256, 256))", "small": "convnet(8)", "convnet": "convnet(16)", "resnet": "resnet(18)"}
EARLY = INTERVAL + 1  # steps; the last of the first looks is before step 50


class Loop:
    """A plain loop over random images, one step at a time, and what each took: seconds of the processor and of the clock."""

    def __init__(self, net: nn.Module, is_watched: bool) -> None:
        self.net = net
        self.optimizer = torch.optim.SGD(net.parameters(), 0.02, 0.9, weight_decay=5e-4)
        self.watch: Any = goodfit.watch(net, self.optimizer) if is_watched else None
        self.processor: list[float] = []
        self.clock: list[float] = []
        self.outside: list[float] = []  # seconds of the processor outside of the block that is the loop's own

    def take_step(self, images: Tensor, labels: Tensor) -> None:
        clock, processor = time.perf_counter(), time.process_time()
        with self.watch.step(images, labels) if self.watch else plain() as step:
            inside = time.process_time()
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            step.loss = loss
            inside = time.process_time() - inside
        self.processor.append(time.process_time() - processor)
        self.outside.append(self.processor[-1] - inside)
        self.clock.append(time.perf_counter() - clock)


class Step:
    """Takes a loss, as a step of the watch does."""

    loss: Any = None


@contextlib.contextmanager
def plain() -> Iterator[Step]:
    yield Step()


def main() -> None:
    """Run both loops in turns and print what the watch costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="convnet")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    net: nn.Module = load_catalog().make(NETS[arguments.net], "model")(10, 3, (32, 32))  # type: ignore[operator]
    loops = [Loop(copy.deepcopy(net), False), Loop(copy.deepcopy(net), True)]
    for step in range(arguments.steps):
        images, labels = torch.randn(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,))
        for loop in loops if step % 2 else loops[::-1]:
            loop.take_step(images, labels)
    report(loops, arguments)


def report(loops: list[Loop], arguments: argparse.Namespace) -> None:
    """Print the comparison."""
    bare, watched = loops
    equal = all(torch.equal(a, b) for a, b in zip(bare.net.state_dict().values(), watched.net.state_dict().values(), strict=True))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    name = f"{NETS[arguments.net]}, batch {arguments.batch} of 32x32, {arguments.threads} thread(s), {arguments.steps} steps"
    print(f"{name}; torch {torch.__version__}, {cpu_name()}, load {load} on {os.cpu_count()} cores")
    rows = watched.watch.signals
    dear = {row["step"] for row in rows if "update_ratio" in row or "dead" in row}
    for kind in ("processor", "clock"):
        a, b = (getattr(loop, kind) for loop in loops)
        passive = [i for i in range(EARLY, len(a)) if i not in dear]
        step = statistics.median(a)
        added = statistics.median(b[i] - a[i] for i in passive)
        early, later = sum(b[:EARLY]) / sum(a[:EARLY]), sum(b[EARLY:]) / sum(a[EARLY:])
        extra = {i: (b[i] - a[i]) / step for i in sorted(dear)}
        apart = statistics.median(extra[i] for i in (1, 2, 3, 4))
        looks = statistics.median(extra[i] for i in (5, 10, 20, 35))
        print(
            f"{kind:<9} step {1e3 * step:.1f} ms; passive step {added / step:+.2%} (median of pairs); after step {EARLY - 1}"
            f" {later - 1:+.2%} in all (goal at most +2 %), {sum(i >= EARLY for i in dear)} dear looks; first {EARLY} steps"
            f" x{early:.2f}: a step taken apart costs {apart:.1f} steps more, a look {looks:.1f}"
        )
    own = [watched.outside[i] for i in range(EARLY, len(watched.outside)) if i not in dear]
    share = sum(own) / sum(bare.processor[EARLY:])
    print(f"outside of the loop's own block: {1e3 * statistics.fmean(own):.3f} ms a passive step, {share:.2%}")
    print(f"weights equal to the last bit: {equal}")


if __name__ == "__main__":
    main()
