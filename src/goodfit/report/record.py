"""Read the files of a run's folder; whatever is missing or damaged is simply absent."""

from __future__ import annotations

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any

from goodfit.core.figures import ACCURACY, Figure, figure_of
from goodfit.core.run import ENSEMBLE_FILE, Run
from goodfit.core.run_files import DamagedFile, get, read_json
from goodfit.core.toml import parse_toml

ANNEALED = 0.1  # share of its peak at or below which the learning rate has annealed


def as_number(value: object) -> float | None:
    """Return a finite number as float, and None for anything else (NaN, infinity, text)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def get_number(tree: object, *keys: str) -> float | None:
    """Return the finite number under nested keys, or None if there is none."""
    return as_number(get(tree, *keys))


def get_share(tree: object, *keys: str) -> float | None:
    """Return the number from 0 to 1 under nested keys, or None if there is none."""
    value = get_number(tree, *keys)
    return value if value is not None and 0 <= value <= 1 else None


def as_rows(value: object) -> list[dict[str, Any]]:
    """Return the dictionaries in a list; anything that is no list has none."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def as_texts(value: object) -> list[str]:
    """Return the items of a list as text; anything that is no list has none."""
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


def as_interval(value: object) -> tuple[float, float] | tuple[None, None]:
    """Return a pair of numbers (low, high), or two Nones for anything else."""
    match value:
        case [int() | float() as low, int() | float() as high] if low <= high:
            return float(low), float(high)
    return None, None


def half_width(low: float | None, high: float | None) -> float:
    """Half the width of an interval; 0 without one."""
    return (high - low) / 2 if low is not None and high is not None else 0.0


def as_items(value: object) -> list[tuple[str, Any]]:
    """Return the keys of a dictionary as text, with their values; anything that is no dictionary has none."""
    return [(str(key), inner) for key, inner in value.items()] if isinstance(value, dict) else []


class FolderReader:
    """Reads the files of a folder as dictionaries. A missing file is empty; so is a damaged one, whose name is added to `damaged`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def read_json(self, file: str) -> dict[str, Any]:
        """Return the content of a JSON file."""
        try:
            return read_json(self.folder / file)
        except DamagedFile:
            self.damaged.append(file)
            return {}

    def read_log(self) -> list[dict[str, Any]]:
        """Return the rows of the log."""
        try:
            return Run(self.folder).log()
        except DamagedFile:
            self.damaged.append("log.jsonl")
            return []

    def read_toml(self, file: str) -> tuple[str, dict[str, Any]]:
        """Return the text of a TOML file, and its content."""
        text = ""
        try:
            text = (self.folder / file).read_text(encoding="utf-8")
            return text, parse_toml(text)
        except FileNotFoundError:
            return "", {}
        except (ValueError, OSError):
            self.damaged.append(file)
            return text, {}

    def describe_source(self, kind: str, version: object = "") -> str:
        """Return the sentence that names the folder a page was made from, and its damaged files; `kind` says what folder it is."""
        by = f" by Goodfit {version}" if version else ""
        damaged = f" Files that could not be read: {', '.join(dict.fromkeys(self.damaged))}." if self.damaged else ""
        return f"Made from the {kind} {self.name}{by}.{damaged}"


@dataclasses.dataclass(frozen=True)
class Record:
    """The folder of a run or an ensemble: its files as dictionaries, its log by kind of line, and the reader of its files.

    `ensemble` is None for a run; `figure` is that of its task.
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
    files: FolderReader
    figure: Figure = ACCURACY

    @property
    def state(self) -> str:
        """`running`, `finished`, `stopped early`, `interrupted`, `terminated`, `diverged`, `failed`; empty if none was written."""
        return str(get(self.about, "state") or "")

    @property
    def shell_path(self) -> str:
        """The path of the folder as a shell takes it; not that of a link, such as runs/latest, which may lead elsewhere soon."""
        path = self.run.path
        if path.is_symlink():
            path = path.parent / path.readlink()
        return shlex.quote(str(path if path.name else path.resolve()))

    @property
    def split(self) -> str:
        """The split whose classes and mistakes are shown: validation if it has scores, else test; empty without scores."""
        return next((split for split in ("validation", "test") if get(self.scores, split)), "")

    @property
    def headline_split(self) -> str:
        """The split whose accuracy is the run's: test if it was opened, else validation."""
        return "test" if get(self.scores, "test") else "validation"

    @property
    def last_step(self) -> float | None:
        """The last step in the log."""
        return max((step for line in (*self.train, *self.evaluations) if (step := get_number(line, "step")) is not None), default=None)

    @property
    def validation_accuracies(self) -> dict[float, float]:
        """The validation accuracy (or the figure of another task) of each evaluation while training, by step, in order."""
        read = get_share if self.figure.is_share else get_number
        pairs = ((get_number(line, "step"), read(line, "validation", self.figure.key)) for line in self.evaluations)
        return dict(sorted((step, accuracy) for step, accuracy in pairs if step is not None and accuracy is not None))

    @property
    def best_step(self) -> float | None:
        """The step of the best evaluation, of equals the last."""
        accuracies = self.validation_accuracies
        return max(accuracies, key=lambda step: (accuracies[step], step), default=None)

    def falls_clearly(self, before: float, after: float) -> bool:
        """Whether the validation accuracy after a step is below that after another by more than noise, as far as that is known."""
        images = get_number(self.scores, "validation", "images") or get_number(self.about, "data", "splits", "validation")
        accuracies = self.validation_accuracies
        return bool(images) and self.figure.is_clearly_below(accuracies[after], accuracies[before], max(1, int(images or 1)))

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps per epoch, if the steps of the log (counted from 1) and its whole epochs (from 0) determine it within one percent."""
        pairs = [(step - 1, epoch) for x in self.train if (step := get_number(x, "step")) and (epoch := get_number(x, "epoch")) is not None]
        most = min((before // epoch for before, epoch in pairs if epoch > 0), default=None)
        least = max((before // (epoch + 1) for before, epoch in pairs if epoch >= 0), default=0.0) + 1
        return most if most is not None and 0 <= most - least <= 0.01 * most else None

    @property
    def majority_accuracy(self) -> float | None:
        """The accuracy of always answering the most common class."""
        return get_number(self.about, "data", "majority")

    @property
    def model(self) -> str:
        """The model as the user or auto wrote it, which is shorter than the recipe's full spelling; empty if unknown."""
        asked = get(self.about, "asked", "model")
        chosen = next((row.get("value") for row in as_rows(get(self.about, "choices")) if row.get("field") == "model"), None)
        return str(chosen or (asked if asked != "auto" else None) or self.recipe.get("model") or "")

    def describe_step(self, step: object) -> str:
        """Describe a step as `epoch 3.5`, or as `step 1,200` if the steps per epoch are unknown."""
        count, per_epoch = as_number(step), self.steps_per_epoch
        if count is None:
            return "an unknown step"
        return f"epoch {count / per_epoch:.1f}" if per_epoch else f"step {count:,.0f}"


def read_record(run: Run) -> Record:
    """Read the folder of a run or an ensemble."""
    files = FolderReader(run.path)
    recipe_text, recipe = files.read_toml("recipe.toml")
    ensemble = files.read_json(ENSEMBLE_FILE) if (run.path / ENSEMBLE_FILE).is_file() else None
    lines = files.read_log()
    kinds = {kind: [line for line in lines if line.get("kind") == kind] for kind in ("train", "evaluate", "event")}
    return Record(
        run, recipe, recipe_text, files.read_json("about.json"), files.read_json("scores.json"), files.read_json("config.json"), ensemble,
        as_rows(files.read_json("worst.json").get("images")), kinds["train"], kinds["evaluate"], kinds["event"], files, figure_of(recipe),
    )  # fmt: skip


def has_annealed(record: Record) -> bool:
    """Whether the learning rate has fallen to a small share of its peak, till when accuracy rises as a rule."""
    rates = [rate for line in record.train if (rate := get_number(line, "lr")) is not None]
    return bool(rates) and rates[-1] <= ANNEALED * max(rates)
