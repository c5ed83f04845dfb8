"""Auto against 20 random recipes of the same budget: how far is the training with no options behind the best of them?

Each random recipe draws model, optimizer, rate, decay, schedule, batch, augmentation and average from wide but sensible ranges. The
best is chosen by validation accuracy, as a person would; both are then compared on the test images.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import goodfit
from goodfit.core.device import cpu_name
from goodfit.core.errors import GoodfitError
from goodfit.recipe.recipe import Recipe

MODELS = [*(f"convnet({width}, act=gelu)" for width in (16, 24, 32, 48, 64)), "resnet(18)", "mlp", "mlp((512, 256))", "linear"]
PLACES = [
    "crop(2, border=reflect)",
    "crop(4, border=reflect)",
    "flip | crop(2, border=reflect)",
    "flip | crop(4, border=reflect)",
    "resized_crop(area=(0.35, 1.0))",
    "flip | resized_crop(area=(0.35, 1.0))",
    "flip",
]
EXTRAS = ["", "jitter(0.3)", "erase(0.25, area=(0.02, 0.2))", "mixup(0.2)", "cutmix(1.0)", "smooth(0.1)", "smooth(0.1)"]
SCHEDULES = ["warmup(0.05) | cosine", "one_cycle", "constant", "step(every=0.3, factor=0.1)", "cosine"]


def draw(rng: random.Random) -> dict[str, str]:
    """One random recipe."""
    name = rng.choice(["sgd", "sgd", "adam", "adamw"])
    rate = math.exp(rng.uniform(math.log(0.01), math.log(1.0))) * (1 if name == "sgd" else 0.01)
    decay = math.exp(rng.uniform(math.log(1e-5), math.log(1e-2)))
    momentum = ", momentum=0.9, nesterov=True" if name == "sgd" else ""
    extra = rng.choice(EXTRAS)
    return {
        "model": rng.choice(MODELS),
        "optimizer": f"{name}({rate:.3g}{momentum}, weight_decay={decay:.2g})",
        "schedule": rng.choice(SCHEDULES),
        "batch_size": str(rng.choice([32, 64, 128, 256])),
        "augment": " | ".join(word for word in (rng.choice(PLACES), extra) if word),
        "average": rng.choice(["none", "none", "ema(0.99)"]),
    }


def score(data: str, settings: dict[str, str], out: Path) -> dict[str, Any]:
    """Validation and test accuracy of a recipe; 0 where it cannot be trained."""
    started = time.time()
    try:
        run = goodfit.train(data, Recipe().but_text(settings), out=out, quiet=True)
        held_out, test = run.read("scores.json")["validation"]["accuracy"], goodfit.evaluate(run, test=True)["accuracy"]
    except GoodfitError as error:
        return {"validation": 0.0, "test": 0.0, "error": str(error), **settings}
    return {"validation": held_out, "test": test, "seconds": round(time.time() - started, 1), **settings}


def main() -> None:
    """Train auto and the random recipes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as for goodfit train")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write all trials to this file")
    parser.add_argument("settings", nargs="*", help="key=value of both, such as budget='30 s' limit=200 size=32")
    arguments = parser.parse_intermixed_args()
    common = {"budget": "30 s", "threads": "1", **dict(word.split("=", 1) for word in arguments.settings)}
    with tempfile.TemporaryDirectory() as folder:
        auto = score(arguments.data, common, Path(folder) / "auto")
        print(f"auto        validation {auto['validation']:.2%}  test {auto['test']:.2%}  {auto.get('seconds')} s", flush=True)
        trials = []
        for place in range(arguments.trials):
            trial = score(arguments.data, {**draw(random.Random(place)), **common}, Path(folder) / str(place))
            trials.append(trial)
            words = "  ".join(trial[key] for key in ("model", "optimizer", "schedule", "batch_size", "augment", "average"))
            print(f"random {place:3d}  validation {trial['validation']:.2%}  test {trial['test']:.2%}  {words}", flush=True)
    best = max(trials, key=lambda trial: trial["validation"])
    lead = best["test"] - auto["test"]
    print(f"\n{Path(arguments.data).name}, {common} on {cpu_name()}")
    print(f"best of {len(trials)} random recipes: test {best['test']:.2%}; auto: test {auto['test']:.2%}")
    print(f"auto is behind by {100 * lead:.1f} points (goal at most 2)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"auto": auto, "trials": trials}, indent=1))


if __name__ == "__main__":
    main()
