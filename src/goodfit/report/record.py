"""The record of a run, read from its folder, with whatever is missing or damaged simply absent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodfit.core.run import ENSEMBLE_FILE, Run


def at(tree: object, *keys: str) -> Any:
    """The value under nested keys, None where a key is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def finite(value: object) -> float | None:
    """A finite number as float; None for anything else (NaN, infinity, text, nothing)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def number(tree: object, *keys: str) -> float | None:
    """The finite number under nested keys, None where there is none."""
    return finite(at(tree, *keys))


def share(tree: object, *keys: str) -> float | None:
    """The number from 0 to 1 under nested keys, None where there is none."""
    value = number(tree, *keys)
    return value if value is not None and 0 <= value <= 1 else None


def rows(value: object) -> list[dict[str, Any]]:
    """The dictionaries of a list; anything else counts as no rows."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """The items of a list as text; anything else counts as none."""
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


def items(value: object) -> list[tuple[str, Any]]:
    """The keys of a dictionary as text, with their values; anything else counts as none."""
    return [(str(key), inner) for key, inner in value.items()] if isinstance(value, dict) else []


class Files:
    """The files of a folder as dictionaries: empty where they are missing, and where they do not read, which `damaged` then names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def json(self, file: str) -> dict[str, Any]:
        """The content of a JSON file."""
        path = self.folder / file
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (ValueError, OSError):
            found = None
        if not isinstance(found, dict):
            self.damaged.append(file)
            return {}
        return found

    def toml(self, file: str) -> tuple[str, dict[str, Any]]:
        """The text of a TOML file, and its content."""
        text = ""
        try:
            text = (self.folder / file).read_text(encoding="utf-8")
            return text, tomllib.loads(text)
        except FileNotFoundError:
            return "", {}
        except (ValueError, OSError):
            self.damaged.append(file)
            return text, {}

    def source(self, what: str, version: object = "") -> str:
        """The sentence that says what a page was made from."""
        by = f" by Goodfit {version}" if version else ""
        damaged = f" Not readable there: {', '.join(dict.fromkeys(self.damaged))}." if self.damaged else ""
        return f"Made from the {what} {self.name}{by}.{damaged}"


@dataclasses.dataclass(frozen=True)
class Record:
    """What the folder of a run or an ensemble says: its files as dictionaries, its log by kind of line, and the files it was read from.
    `ensemble` is None for a run, which is what tells them apart.
    """

    run: Run
    recipe: dict[str, Any]
    recipe_text: str
    about: dict[str, Any]
    scores: dict[str, Any]
    config: dict[str, Any]
    ensemble: dict[str, Any] | None
    worst: list[dict[str, Any]]
    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    files: Files

    @property
    def state(self) -> str:
        """`running`, `finished`, `stopped early`, `interrupted`, `terminated`, `diverged`, `failed`; empty where none was written."""
        return str(at(self.about, "state") or "")

    @property
    def shown(self) -> str:
        """The split whose confusions and classes are shown: validation, else test; empty without scores."""
        return next((split for split in ("validation", "test") if at(self.scores, split)), "")

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps an epoch, where the log's steps (counted from 1) and whole epochs (from 0) tell it to one in a hundred."""
        pairs = [(step - 1, epoch) for x in self.train if (step := number(x, "step")) and (epoch := number(x, "epoch")) is not None]
        most = min((before // epoch for before, epoch in pairs if epoch > 0), default=None)
        least = max((before // (epoch + 1) for before, epoch in pairs if epoch >= 0), default=0.0) + 1
        return most if most is not None and 0 <= most - least <= 0.01 * most else None

    @property
    def majority(self) -> float | None:
        """The accuracy of always answering the most common class."""
        return number(self.about, "data", "majority")

    @property
    def model(self) -> str:
        """The model as it was asked for or chosen, which is shorter than the recipe's full spelling; empty where unknown."""
        asked = at(self.about, "asked", "model")
        chosen = next((row.get("value") for row in rows(at(self.about, "choices")) if row.get("field") == "model"), None)
        return str(chosen or (asked if asked != "auto" else None) or self.recipe.get("model") or "")

    def when(self, step: object) -> str:
        """A moment of training in words: `epoch 3.5`, else `step 1,200`."""
        count, per_epoch = finite(step), self.steps_per_epoch
        if count is None:
            return "an unknown step"
        return f"epoch {count / per_epoch:.1f}" if per_epoch else f"step {count:,.0f}"


def read_record(run: Run) -> Record:
    """Read the folder of a run or an ensemble."""
    files = Files(run.path)
    recipe_text, recipe = files.toml("recipe.toml")
    ensemble = files.json(ENSEMBLE_FILE) if (run.path / ENSEMBLE_FILE).is_file() else None
    lines = _log(run)
    kinds = {kind: [line for line in lines if line.get("kind") == kind] for kind in ("train", "evaluate", "event")}
    return Record(
        run, recipe, recipe_text, files.json("about.json"), files.json("scores.json"), files.json("config.json"), ensemble,
        rows(files.json("worst.json").get("images")), kinds["train"], kinds["evaluate"], kinds["event"], files,
    )  # fmt: skip


def _log(run: Run) -> list[dict[str, Any]]:
    """The lines of the log that are whole; a run cut off while writing leaves a torn one."""
    path, lines = run.path / "log.jsonl", []
    for text in path.read_bytes().decode(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return rows(lines)
