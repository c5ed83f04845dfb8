"""Folders of studies made by hand: an ensemble, a search and folds, as the commands leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goodfit.core.run import Run
from tests.support.fake_run import NAMES as RUN_NAMES
from tests.support.fake_run import calibration_of, make_run, scores_of

NAMES = ("lr", "optimizer.momentum", "model")
RANGES = {
    "coarse": [
        {"name": "lr", "law": "log", "low": 1e-4, "high": 1.0, "choices": []},
        {"name": "optimizer.momentum", "law": "uniform", "low": 0.0, "high": 0.99, "choices": []},
        {"name": "model", "law": "one_of", "low": 0.0, "high": 0.0, "choices": ["convnet(8)", "<b>net"]},
    ],
    "fine": [
        {"name": "lr", "law": "log", "low": 0.01, "high": 4.0, "choices": []},
        {"name": "optimizer.momentum", "law": "uniform", "low": 0.3, "high": 0.7, "choices": []},
        {"name": "model", "law": "one_of", "low": 0.0, "high": 0.0, "choices": ["convnet(8)"]},
    ],
}
WARNING = "The best lr of 0.96 lies at the upper edge of log(0.0001, 1): the range is extended to 4."


def make_ensemble(folder: Path, **content: Any) -> Run:
    """Three models of one greedy choice, one of them left out; `content` is written over that of ensemble.json."""
    run = make_run(folder, worst=0)
    for file in ("log.jsonl", "worst.json"):
        (folder / file).unlink()
    scores = run.read("scores.json")["validation"]
    gain = {"single": 0.801, "difference": 0.0123, "interval": [0.002, 0.031], "only_one": 30, "only_other": 18, "p": 0.0123}
    run.write("scores.json", {"validation": scores | {"gain": gain}})
    candidates = [
        {"source": f"../{name}/model.safetensors", "sha256": "00", "weight": weight, "accuracy": accuracy, "log_loss": 0.6}
        for name, weight, accuracy in (("a", 0.75, 0.801), ("b<i>", 0.25, 0.79), ("c", 0.0, 0.612))
    ]
    said = {"kind": "average", "select": "greedy", "classes": list("abcdefghij"), "tests_seen": 0, "members": [], "candidates": candidates}
    run.write("ensemble.json", said | content)
    return run


def trial(stage: str, place: int, values: tuple[float, float, str], value: float | None, why: str = "") -> dict[str, Any]:
    """A trial as results.json has it."""
    return {
        "stage": stage, "place": place, "run": f"{stage}/{place:04d}", "values": dict(zip(NAMES, values, strict=True)),
        "state": "failed" if value is None else "done", "value": value, "why": why, "seconds": 3.0,
    }  # fmt: skip


def make_search(folder: Path) -> Run:
    """A search with thirteen trials that are done, one of which diverged, one that failed, and two that were trained anew."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    space = {"lr": "log(1e-4, 1)", "optimizer.momentum": "uniform(0, 0.99)", "model": "one_of(convnet(8), '<b>net')"}
    plan = {"method": "fine", "trials": 14, "each": "2 epochs", "full": "2 epochs", "keep": 2, "copies": 2, "seed": 5}
    run.write("search.json", {"space": space, **plan})
    (folder / "base.toml").write_text('data = "photos/animals"\n')
    (folder / "winner.toml").write_text('data = "photos/animals"\noptimizer = "sgd(0.96)"\n')
    done = [
        trial("coarse" if k < 7 else "fine", k % 7, (0.96 * 0.5**k, 0.05 * k, ("convnet(8)", "<b>net")[k % 2]), 0.9 - 0.03 * k)
        for k in range(12)
    ]
    lost = trial("coarse", 8, (0.99, 0.9, "<b>net"), 0.0, "diverged: the loss is not finite")
    failed = trial("coarse", 9, (0.5, 0.1, "<b>net"), None, "out of <i>memory")
    finals = [
        {"trial": "coarse/0001", "score": 0.87, "fresh": [0.86, 0.84], "mean": 0.85, "error": 0.01, "luck": 0.02},
        {"trial": "coarse/0000", "score": 0.9, "fresh": [0.83, 0.85], "mean": 0.84, "error": 0.01, "luck": 0.06},
    ]
    run.write("results.json", {
        "winner": {"trial": "coarse/0001", "values": done[1]["values"], "retrained": True}, "finalists": finals, "lead": 0.12, "luck": 0.02,
        "ranking": [row["run"] for row in (*done, lost)], "importance": {"lr": 0.81, "model": 0.12, "optimizer.momentum": 0.07},
        "ranges": RANGES, "warnings": [WARNING], "trials": [*done, lost, failed],
    })  # fmt: skip
    return run


def make_folds(folder: Path) -> Run:
    """Three folds that are finished."""
    folder.mkdir(parents=True, exist_ok=True)
    accuracies = []
    for k in (1, 2, 3):
        fold = make_run(folder / f"fold-{k}", worst=3 * k)
        scores = fold.read("scores.json")["validation"] | {"accuracy": 0.7 + 0.05 * k, "interval": [0.65 + 0.05 * k, 0.75 + 0.05 * k]}
        fold.update("scores.json", {"validation": scores})
        accuracies.append(scores["accuracy"])
    (folder / "fold-1" / "report.html").write_text("")
    whole = {
        **scores_of(RUN_NAMES, 300),
        "images": 3000,
        "accuracy": 0.8012,
        "interval": [0.7867, 0.8149],
        "calibration": calibration_of(3000),
    }
    run = Run(folder)
    run.write("folds.json", {
        "folds": 3, "state": "finished", "asked": {"data": "photos/animals", "model": "auto", "limit": 0}, "accuracies": accuracies,
        "accuracy": 0.8, "deviation": 0.05, "standard_error": 0.0289, "out_of_fold": whole, "seconds": 1446.0,
    })  # fmt: skip
    return run
