"""A run folder made by hand, realistic in every file, and a reader of the page that is made from it."""

from __future__ import annotations

import functools
import html.parser
import json
import math
import random
import re
import struct
import zlib
from pathlib import Path
from typing import Any

from goodfit.core.run import Run

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STEPS, EPOCHS = 2400, 12
RECIPE = """data = "photos/animals"
size = "32x32"
model = "resnet(18)"
augment = "flip | crop(4)"
loss = "softmax"
optimizer = "sgd(0.1, momentum=0.9, nesterov=True)"
schedule = "warmup(0.05) | cosine"
budget = "12 epochs"
batch_size = 128
clip = 1.0
seed = 0
precision = "float32"
device = "cpu"
evaluate_every = "1 epoch"
"""


def png(rgb: list[bytes], width: int) -> bytes:
    """A PNG file of rows of RGB bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rgb), 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rgb)))
        + chunk(b"IEND", b"")
    )


@functools.cache
def gradient_picture(seed: int, side: int = 32) -> bytes:
    """A small picture in soft colors."""
    draw = random.Random(seed)
    ends = [[draw.randrange(256) for _ in range(3)] for _ in range(4)]

    def pixel(u: float, v: float) -> bytes:
        weights = ((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v)
        return bytes(int(sum(w * end[c] for w, end in zip(weights, ends, strict=True))) for c in range(3))

    return png([b"".join(pixel(x / side, y / side) for x in range(side)) for y in range(side)], side)


def log_lines(steps: int = STEPS, epochs: int = EPOCHS) -> list[dict[str, Any]]:
    """A training that learns fast, then overfits."""
    draw, lines = random.Random(0), []
    for step in range(1, steps + 1):
        t = step / steps
        loss = 0.25 + 2.0 * math.exp(-6 * t) + draw.gauss(0, 0.06)
        lines.append(
            {
                "kind": "train",
                "step": step,
                "t": t,
                "epoch": (step - 1) * epochs // steps,
                "loss": loss,
                "accuracy": min(1, 0.93 - 0.8 * math.exp(-6 * t) + draw.gauss(0, 0.03)),
                "lr": 0.1 * min(t / 0.05, 0.5 * (1 + math.cos(math.pi * t))),
                "grad_norm": math.exp(draw.gauss(0.3 - t, 0.4)),
                "images_per_s": draw.gauss(3100, 90),
                "data_share": 0.04,
                "update_ratio": {f"stage{k}.conv": 1e-3 * (1 - 0.9 * t) * math.exp(draw.gauss(0.3 * k - 0.6, 0.1)) for k in range(5)},
            }
        )
        if step % (steps // epochs) == 0:
            scores = {
                "loss": 0.42 + 1.6 * math.exp(-7 * t) + 0.25 * max(0, t - 0.5),
                "accuracy": 0.827 - 0.6 * math.exp(-7 * t),
                "balanced_accuracy": 0.86,
            }
            clean = {"loss": 0.03 + 1.7 * math.exp(-6 * t), "accuracy": 0.99 - 0.7 * math.exp(-6 * t)}
            lines.append(
                {
                    "kind": "evaluate",
                    "step": step,
                    "t": t,
                    "elapsed": 400 * t,
                    "validation": scores,
                    "clean_train": clean,
                }
            )
    lines.insert(900, {"kind": "event", "step": 900, "text": "validation did not improve for 3 evaluations: learning rate halved"})
    return lines


@functools.cache
def _log_text(steps: int) -> str:
    return "".join(json.dumps(line) + "\n" for line in log_lines(steps))


def scores_of(names: tuple[str, ...], images: int = 100) -> dict[str, Any]:
    """Scores whose accuracy, classes and confusion agree."""
    draw, matrix = random.Random(1), []
    for truth in range(len(names)):
        row = [0] * len(names)
        for _ in range(images):
            other = (truth + draw.choice((1, 2, 2, 2, 5))) % len(names)
            row[truth if draw.random() < 0.8 + 0.15 * math.sin(truth) else other] += 1
        matrix.append(row)
    shares = [row[k] / images for k, row in enumerate(matrix)]
    mean = sum(shares) / len(shares)
    return {
        "accuracy": mean,
        "interval": [mean - 0.021, mean + 0.019],
        "top5": 0.9913,
        "loss": 0.5123,
        "balanced_accuracy": mean,
        "balanced_interval": [mean - 0.022, mean + 0.02],
        "images": images * len(names),
        "classes": [{"name": name, "images": images, "accuracy": share} for name, share in zip(names, shares, strict=True)],
        "confusion": matrix,
        "calibration": calibration_of(images * len(names)),
    }


def calibration_of(images: int) -> dict[str, Any]:
    """The calibration of an overconfident model."""
    bins = [{"images": images * n // 100, "confidence": c, "accuracy": c - 0.08} for n, c in ((10, 0.55), (20, 0.75), (70, 0.97))]
    shares = [k / 20 for k in range(20, 0, -1)]
    return {
        "temperature": 1.4142,
        "ece": 0.0801,
        "ece_after": 0.0123,
        "log_loss": 0.512,
        "log_loss_after": 0.467,
        "bins": bins,
        "rejection": [{"coverage": x, "below": 1.1234 - x, "accuracy": 0.99 - 0.17 * x} if x > 0.13 else {} for x in shares],
    }


def about_of(names: tuple[str, ...]) -> dict[str, Any]:
    """What the run says of itself, its data and its machine."""
    counts = {name: [400 + 13 * k % 90, 100, 50] for k, name in enumerate(names)}
    return {
        "goodfit": "0.1.0",
        "versions": {"torch": "2.13.0", "python": "3.11.2", "numpy": "2.4.0"},
        "machine": {"cpu": "AMD EPYC 9354", "cores": 2, "threads": 2, "memory_gb": 15.6, "gpu": None},
        "command": "goodfit train photos/animals --budget '12 epochs'",
        "started": "2026-08-02T10:15:00",
        "finished": "2026-08-02T10:23:10",
        "state": "finished",
        "seconds": {"startup": 2.1, "data": 11.4, "training": 431.0, "evaluation": 38.0},
        "data": {
            "name": "animals",
            "images": sum(map(sum, counts.values())),
            "classes": list(names),
            "counts": counts,
            "splits": {"train": sum(row[0] for row in counts.values()), "validation": 100 * len(names), "test": 50 * len(names)},
            "majority": 0.1,
            "digest": "8c4f0e1ab2d94bb6a1",
            "split_digest": "77aa0c1dd2e34f5566",
            "channels": 3,
            "box": [40, 40],
            "size": [32, 32],
            "notes": ["There was no validation split: 20 % of the training images, stratified, seed 0, were set aside."],
            "broken": {"animals/cat/cat_0991.jpg": "cut off after 3,120 bytes"},
            "mean": [0.491, 0.482, 0.447],
            "std": [0.247, 0.243, 0.262],
        },
        "choices": [
            {
                "field": "batch_size",
                "value": 128,
                "rule": "at least 30 steps an epoch, and fits memory",
                "evidence": "4,400 images, 2.1 GB of 15.6 GB",
            },
            {
                "field": "augment",
                "value": "flip | crop(4)",
                "rule": "photos are flipped, digits and text are not",
                "evidence": "3 channels, classes are words",
            },
        ],
        "openings": [],
        "parameters": 11173962,
    }


def make_run(folder: Path, names: tuple[str, ...] = NAMES, worst: int = 12, steps: int = STEPS) -> Run:
    """Write a finished run of so many steps into `folder`."""
    (folder / "worst").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(RECIPE)
    run = Run(folder)
    run.write("about.json", about_of(names))
    (folder / "log.jsonl").write_text(_log_text(steps))
    run.write("scores.json", {"validation": scores_of(names), "best": {"step": 2200, "score": 0.861, "metric": "accuracy"}, "kept": 2400})
    images = []
    for k in range(worst):
        (folder / "worst" / f"{k:02}.png").write_bytes(gradient_picture(k))
        truth, predicted = names[k % len(names)], names[(k + 2) % len(names)]
        images.append(
            {
                "file": f"worst/{k:02}.png",
                "name": f"photos/animals/{truth}/{truth}_{k:04}.jpg",
                "truth": truth,
                "predicted": predicted,
                "probability": 0.99 - 0.01 * k,
                "loss": 5.2 - 0.1 * k,
            }
        )
    right = [row | {"truth": names[k % len(names)], "predicted": names[k % len(names)]} for k, row in enumerate(images) if k in (0, 2)]
    run.write("worst.json", {"images": images, "right": right})
    return run


def replace_log(run: Run, lines: list[dict[str, Any]]) -> None:
    """Write a log of these lines, NaN and infinity spelled as JSON's readers in Python know them."""
    (run.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# ---- reading the page ----------------------------------------------------------------------------------------------------------

VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, text by element, and elements left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attrs)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def visible(self) -> str:
        return re.sub(r"\s+", " ", "".join(text + " " for name, text in self.texts if name not in ("script", "style")))

    def charts(self) -> dict[str, dict[str, Any]]:
        """The charts' data by title, read as strictly as a browser reads JSON."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        scripts = [text for name, text in self.texts if name == "script" and text.startswith('{"title"')]
        return {chart["title"]: chart for chart in (json.loads(text, parse_constant=refuse) for text in scripts)}
