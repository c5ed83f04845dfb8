"""Ten canonical recipes, each a training of a second or two; `python -m tests.support.canonical` prints the digest of their weights.

Digests are equal for two checkouts on one machine. The fingerprints in tests/data/canonical.json, which
`--write` writes, are equal to rounding on any machine; write them anew only with a change that is meant to change what is trained.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

import goodfit
from tests.support.photos import make_photos

FINGERPRINTS = Path(__file__).parents[1] / "data" / "canonical.json"
SHARED: dict[str, object] = {
    "seed": 3, "workers": 1, "threads": 1, "device": "cpu", "precision": "fp32", "layout": "contiguous", "pieces": 1,
    "batch_size": 16, "budget": "2 epochs", "evaluate_every": "1 epoch", "augment": "none", "schedule": "cosine",
}  # fmt: skip

# name -> (data: digits or photos, what differs from SHARED). Old keys stay readable, so the plateau rule is written as it once was.
RECIPES: dict[str, tuple[str, dict[str, object]]] = {
    "linear": ("digits", {"model": "linear", "optimizer": "sgd(0.01, momentum=0.9, weight_decay=0.0005)"}),
    "convnet": (
        "photos",
        {
            "model": "convnet(8, act=gelu)", "augment": "flip | crop(2, border=reflect) | jitter(0.3, hue=0.1) | smooth(0.1)",
            "layout": "channels_last",
            "optimizer": "sgd(0.05, momentum=0.9, nesterov=True, weight_decay=0.0005)",
            "schedule": "warmup(0.2) | cosine", "size": 16, "precision": "bf16",
        },
    ),
    "mixing": (
        "photos",
        {
            "model": "convnet(8, act=gelu, drop=dropout(0.2))", "size": 16,
            "augment": "resized_crop(area=(0.25, 1.0)) | rotate(10, border=reflect) | mixup(alpha=0.2) | cutmix",
            "average": "ema(0.9)", "optimizer": "adamw(0.003)", "class_weights": "balanced", "clip": 1.0, "pieces": 2,
        },
    ),
    "plateau": (
        "digits",
        {
            "model": "mlp((32,), drop=dropout(0.5))", "penalty": "l2(0.0001) | l1", "brake": "plateau(patience=1)",
            "schedule": "constant", "optimizer": "rmsprop(0.02)", "budget": "4 epochs", "stop": "patience(3)",
        },
    ),
    "newton": ("digits", {"model": "linear", "optimizer": "newton(damping=0.01)", "batch_size": "all", "budget": "3 steps", "limit": 8}),
    "lbfgs": ("digits", {"model": "linear", "optimizer": "lbfgs", "batch_size": "all", "budget": "5 steps"}),
    "sam": (
        "photos",
        {"model": "convnet(8, act=gelu)", "optimizer": "sam(around=sgd(0.05, momentum=0.9, weight_decay=0.0005))",
         "augment": "ramp(rand_augment, start=0.2)", "size": 16},
    ),
    "cycles": (
        "photos",
        {
            "model": "resnet(20)", "optimizer": "sgd(0.05, momentum=0.9, weight_decay=0.0005)",
            "schedule": "sgdr(2, growth=1)", "average": "swa(0.3)", "snapshots": 2, "size": 16,
        },
    ),
    "transfer": (
        "photos",
        {
            "source": "convnet", "trainable": "head(0.5) | all", "rates": "layer_decay(0.5)", "optimizer": "adam(0.003)", "size": 16,
            "model": "convnet(8, act=gelu)", "sampler": "balanced", "views": "flip_pair",
        },
    ),
    "nearest": ("digits", {"model": "nearest(3)", "batch_size": "all", "budget": "1 epoch", "optimizer": "sgd", "schedule": "constant"}),
}  # fmt: skip


def digest(run: Path) -> str:
    """SHA-256 of the kept weights and of the last checkpoint's tensors."""
    content = hashlib.sha256((run / "model.safetensors").read_bytes())
    content.update(max((run / "checkpoints").glob("*.safetensors")).read_bytes())
    return content.hexdigest()


def train(name: str, photos: Path, folder: Path) -> Path:
    """Train one of the recipes in folder/name; "transfer" begins from folder/convnet, which must exist."""
    data, changes = RECIPES[name]
    values: dict[str, object] = {**SHARED, "limit": 20, "data": "digits" if data == "digits" else str(photos), **changes}
    if "source" in values:
        values["source"] = str(folder / str(values["source"]))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return goodfit.train(recipe=goodfit.Recipe.from_toml(file), out=folder / name, quiet=True).path


def fingerprint(run: Path) -> dict[str, float]:
    """The norm of each of the kept weights, in float64."""
    return {name: float(x.double().norm()) for name, x in sorted(load_file(run / "model.safetensors").items())}


def main() -> None:
    """Print a digest for each recipe, or write the fingerprints."""
    fingerprints = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos")
        for name in RECIPES:
            run = train(name, photos, Path(folder) / "runs")
            fingerprints[name] = fingerprint(run)
            print(f"{digest(run)}  {name}", flush=True)
    if "--write" in sys.argv:
        FINGERPRINTS.write_text(json.dumps(fingerprints, indent=1) + "\n")


if __name__ == "__main__":
    main()
