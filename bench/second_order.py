"""L-BFGS, BFGS and Newton against SGD on a linear softmax of the digits: wall time to the same training loss, each through the same loop.

Then what a step costs against the number of weights. The loss is that of all training images with the penalty, fp32, one
process; SGD's time does not count the evaluations of that loss.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from goodfit.core.device import cpu_name
from goodfit.recipe.build import Training, build
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.loop import fit

LAYOUT = {
    "channels": 1,
    "model": "linear",
    "augment": "none",
    "penalty": "l2(0.001)",
    "precision": "fp32",
    "layout": "contiguous",
}
REST = {"threads": 1, "device": "cpu", "probes": "none", "workers": 0, "evaluate_every": "1.0", "save_every": "1 h"}
FULL = ["lbfgs", "bfgs", "newton(exact=3000)", "newton(exact=0)"]
SGD = "sgd({}, momentum=0.9, nesterov=True, weight_decay=0)"
STOCHASTIC = [(SGD.format(lr), "constant", 100_000) for lr in (0.01, 0.03, 0.1)] + [(SGD.format(0.1), "cosine", n) for n in (1000, 4000)]
CHECKS = 20  # steps of SGD between two looks at the loss


def made(optimizer: str, batch: int | str, schedule: str = "constant", steps: int = 100_000, size: int = 16) -> Training:
    """A training that is ready for its first step."""
    recipe = Recipe().but(
        **LAYOUT, **REST, size=size, data="digits", optimizer=optimizer, batch_size=batch, schedule=schedule, budget=f"{steps} steps"
    )
    data = open_images(recipe)
    return build(recipe, make_parts(recipe, load_catalog()), data)


def loss_now(built: Training) -> float:
    """The mean loss over all training images, and the penalty."""
    rows = built.loader.rows
    answers = built.evaluator(built.state.model, rows)
    return float(answers.losses.double().mean()) + sum(float(p(built.state.model).detach()) for p in built.plan.penalties)


def race(built: Training, goal: float, every: int, limit: float) -> tuple[float | None, int, float]:
    """Seconds of training until the loss is at most `goal` (None when it never was), the steps, and the last loss."""
    seconds, total = 0.0, built.plan.lengths.total_steps
    while (loss := loss_now(built)) > goal and built.state.step < total and seconds < limit:
        seconds += timed(built, every)
    return (seconds if loss <= goal else None), built.state.step, loss


def timed(built: Training, steps: int) -> float:
    """Seconds that so many steps take."""
    stop = built.state.step + steps
    started = time.perf_counter()
    fit(built.state, built.loader, built.plan, halt=lambda: built.state.step >= stop)
    return time.perf_counter() - started


def costs(sides: tuple[int, ...] = (4, 8, 16, 20)) -> None:
    """Milliseconds of a step against the number of weights N: Newton's N x N Hessian and its factors, BFGS's N x N matrix, L-BFGS's few
    vectors.
    """
    print("\nmilliseconds a step, all images (median of 5 after 2 steps), and the numbers kept between steps:")
    print(f"  {'weights N':>10}" + "".join(f"{name:>24}" for name in ("newton(exact=10000)", "bfgs", "lbfgs")))
    for side in sides:
        cells = []
        for optimizer in ("newton(exact=10000)", "bfgs", "lbfgs"):
            built = made(optimizer, "all", size=side)
            taken = [timed(built, 1) for _ in range(7)]
            values = [x for state in built.state.optimizer.state_dict()["state"].values() for x in state.values()]
            kept = sum(t.numel() for x in values for t in (x if isinstance(x, list) else [x]) if isinstance(t, torch.Tensor))
            cells.append(f"{1e3 * statistics.median(taken[2:]):10.1f} {kept:>13,}")
        parameters = sum(p.numel() for p in built.state.model.parameters())
        print(f"  {parameters:>10,}" + "".join(cells), flush=True)


def main() -> None:
    """Find the optimum with L-BFGS, then time everyone on the way to within shares of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds one training may take")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    best = made("lbfgs", "all", steps=400)
    race(best, -1.0, 400, 120)
    least = loss_now(best)
    print(f"linear softmax on the digits, {len(best.loader.rows):,} images, least loss {least:.6f}, on {cpu_name()}")
    for share in (0.1, 0.01, 0.001):
        goal = least * (1 + share)
        print(f"\nto within {share:.1%} of it ({goal:.5f}), median of {arguments.repeats}:")
        rows = [(x, "all", "constant", 100_000, 1) for x in FULL] + [(x, 128, schedule, n, CHECKS) for x, schedule, n in STOCHASTIC]
        for optimizer, batch, schedule, steps, every in rows:
            runs = [race(made(optimizer, batch, schedule, steps), goal, every, arguments.limit) for _ in range(arguments.repeats)]
            times = [seconds for seconds, _, _ in runs if seconds is not None]
            said = f"{statistics.median(times):7.3f} s" if times else f"not reached (loss {runs[0][2]:.5f})"
            print(f"  {optimizer:<54} {schedule:<8} {said:>12}  {runs[0][1]:>6,} steps", flush=True)
    costs()


if __name__ == "__main__":
    main()
