"""The record of a run, read from its folder, with whatever is missing or damaged simply absent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from goodfit.core.run import Run


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


def rows(value: object) -> list[dict[str, Any]]:
    """The dictionaries of a list; anything else counts as no rows."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """The items of a list as text; anything else counts as none."""
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run folder says: its files as dictionaries, its log by kind of line, and the names of files that do not read."""

    run: Run
    recipe: dict[str, Any]
    recipe_text: str
    about: dict[str, Any]
    scores: dict[str, Any]
    worst: list[dict[str, Any]]
    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    damaged: tuple[str, ...]

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
    """Read a run folder; files that are there but do not read are named in `damaged`."""
    damaged: list[str] = []

    def content(file: str) -> dict[str, Any]:
        try:
            found: Any = run.read(file)
        except (ValueError, OSError):
            found = None
        if not isinstance(found, dict):
            damaged.append(file)
            return {}
        return found

    recipe_text, recipe = "", {}
    try:
        recipe_text = (run.path / "recipe.toml").read_text()
        recipe = tomllib.loads(recipe_text)
    except (ValueError, OSError):
        damaged.append("recipe.toml")
    lines = _log(run)
    kinds = {kind: [line for line in lines if line.get("kind") == kind] for kind in ("train", "evaluate", "event")}
    return Record(
        run, recipe, recipe_text, content("about.json"), content("scores.json"), rows(content("worst.json").get("images")),
        kinds["train"], kinds["evaluate"], kinds["event"], tuple(damaged),
    )  # fmt: skip


def _log(run: Run) -> list[dict[str, Any]]:
    """The lines of the log that are whole; a run cut off while writing leaves a torn one."""
    path, lines = run.path / "log.jsonl", []
    for text in path.read_bytes().decode(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return rows(lines)
