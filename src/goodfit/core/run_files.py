"""The files of a run folder as they are read back: whether one is what was written, and what to do where it is not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from goodfit.core.commit import committed
from goodfit.core.errors import GoodfitError, first_line
from goodfit.core.fetch import hash_file
from goodfit.core.files import write_atomic

CHECKSUM_KEY = "sha256"  # of every JSON file that a run writes: the hash of its name and its other values

# What to do about a file of a run that does not read, and what works without it.
REMEDIES = {
    "about.json": "restore a copy of it, or train anew with another --out; predict, export, report and runs work without it",
    "recipe.toml": "restore a copy of it, or train with --resume auto, which writes it anew from about.json",
    "log.jsonl": "restore a copy of it, or remove it; only the curves of the run are lost",
    "scores.json": 'remove it and run "goodfit evaluate", which writes it anew; predict, export and report work without it',
    "predictions.npz": 'remove it, and "goodfit evaluate" writes it anew; an ensemble is made again',
    "config.json": "remove it and train with --resume auto, which writes it anew from the last checkpoint, or restore a copy of it",
    "ensemble.json": 'make the ensemble again with "goodfit ensemble", or restore a copy of it',
    "baselines.json": 'remove it and run "goodfit compare RUN --baselines", which writes it anew',
    "model.safetensors": "restore a copy of it; a run with checkpoints writes it anew with --resume auto, an ensemble is made again",
    "start.safetensors": "restore a copy of it, or train anew with another --out",
    "lever": "restore a copy of it, or remove it, and the learning rate is not changed there",
    "use": "it was changed or damaged: restore it from the file that it was copied from",
    "snapshots": "restore a copy of it, or remove all files of its step to leave it out",
    "folds.json": "remove it and train with the same --folds and --resume auto, which keeps the folds that are finished",
}


class DamagedFile(GoodfitError):
    """A file of a run folder does not read, or has not what was written: the sentence says which, why and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        remedy = REMEDIES.get(path.name) or REMEDIES.get(path.parent.name) or "restore a copy of it"
        super().__init__(f'"{path}" does not read ({reason}): {remedy}.')


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_digest(value: object) -> bool:
    return _is_text(value) and re.fullmatch(r"[0-9a-f]{1,128}", str(value)) is not None


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _are_numbers(value: object) -> bool:
    return isinstance(value, (dict, list)) and all(map(is_number, value.values() if isinstance(value, dict) else value))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_file_names(value: object) -> bool:
    return _are_texts(value) and all(Path(name).name == name for name in value)  # type: ignore[attr-defined]


def _are_texts_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_positive(value: object) -> bool:
    return is_number(value) and 0 < value < math.inf


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _are_numbers(value)


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_object, value))


def _is_communication(value: object) -> bool:
    return _are_numbers(value) and isinstance(value, dict) and value.keys() == {"processes", "bytes_sent", "messages"}


# The values that others than the report read, which takes whatever there is; one that is there is of this shape.
SHAPES: dict[str, dict[str, Callable[[object], bool]]] = {
    "about.json": {
        "state": _is_text, "asked": _is_object, "recipe": _is_object, "seconds": _are_numbers, "openings": _are_objects, "data": _is_object,
        "data.digest": _is_digest, "data.split_digest": _is_digest, "data.splits": _are_numbers, "forecast": _is_object,
        "files": _are_texts_by_name, "recipe_sha256": _are_texts, "communication": _is_communication,
    },
    "scores.json": {
        "validation": _is_object, "validation.accuracy": is_number, "validation.mean_average_precision": is_number,
        "validation.r2": is_number, "validation.interval": _is_interval, "validation.images": is_number,
        "validation.calibration": _is_object, "validation.calibration.temperature": _is_positive,
        "snapshots": _are_objects,
    },
    "config.json": {
        "model": _is_text, "loss": _is_text, "views": _is_text, "label_names": _are_texts, "preprocess": _is_object, "use": _are_file_names,
        "temperature": _is_positive, "files": _are_texts_by_name, "task": _is_object,
    },
    "ensemble.json": {
        "classes": _are_texts, "members": _are_objects, "candidates": _are_objects, "single": _is_object, "single.path": _is_text,
        "tests_seen": is_number, "select": _is_text, "task": _is_object,
    },
    "folds.json": {
        "state": _is_text, "folds": is_number, "asked": _is_object, "runs": _are_texts, "accuracies": _are_numbers,
        "mean_average_precisions": _are_numbers, "r2s": _are_numbers, "task": _is_text,
        "deviation": is_number, "seconds": is_number, "out_of_fold": _is_object,
    },
    "card.json": {
        "license": _is_text, "model": _is_text, "data": _is_text, "classes": _are_texts, "weights_sha256": _is_digest,
        "accuracy": is_number, "mean_average_precision": is_number, "r2": is_number,
    },
    "baselines.json": {"rows": _are_objects, "of": _is_text},
}  # fmt: skip


@contextlib.contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn into a `DamagedFile` whatever reading or parsing the file at `path` raises within the block.

    Raises:
        DamagedFile: the file does not read.
    """
    try:
        yield
    except GoodfitError:
        raise
    except OSError as error:
        raise DamagedFile(path, "it is gone" if isinstance(error, FileNotFoundError) else f"{error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DamagedFile(path, "it is no text") from error
    except Exception as error:  # parsers raise anything on bytes that nobody wrote
        raise DamagedFile(path, f"it has no {error}" if isinstance(error, KeyError) else first_line(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file, and check it where the file has a checksum; empty where there is no file.

    Raises:
        DamagedFile: it does not read, is no object, or its checksum differs.
    """
    if not (file := committed(path)).exists():
        return {}
    with explain_damage(path):
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, found {type(content).__name__}")
        if (checksum := content.pop(CHECKSUM_KEY, None)) is not None and checksum != hash_values(path.name, content):
            raise ValueError(f'its checksum differs; if you changed it by hand, remove its line "{CHECKSUM_KEY}"')
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object with its checksum to a JSON file, whole or not at all."""
    write_atomic(path, format_json(path.name, content))


def format_json(name: str, content: Mapping[str, Any]) -> bytes:
    """The content of the JSON file of that name with an object and its checksum."""
    return (json.dumps({**content, CHECKSUM_KEY: hash_values(name, content)}, indent=1) + "\n").encode()


def check_hash(path: Path, sha256: str | None) -> None:
    """Check that a file is the one with a SHA-256, if that is known.

    Raises:
        DamagedFile: it is not, or does not read.
    """
    if sha256 is not None:
        with explain_damage(path):
            if hash_file(committed(path)) != sha256:
                raise ValueError("its checksum differs")


def check_shape(path: Path, content: Mapping[str, Any], required: Sequence[str] = ()) -> None:
    """Check that the `required` values of a file are there, and that those that are there have the shape they are written in.

    Raises:
        DamagedFile: they have not.
    """
    shapes = SHAPES.get(path.name, {})
    for key in dict.fromkeys((*shapes, *required)):
        *outer, last = key.split(".")
        owner = get(content, *outer)
        is_there = isinstance(owner, Mapping) and last in owner
        if not is_there and key in required:
            raise DamagedFile(path, f"it has no {key}")
        if is_there and key in shapes and not shapes[key](owner[last]):
            raise DamagedFile(path, f"its {key} is not what was written")


def hash_values(name: str, content: Mapping[str, Any]) -> str:
    """SHA-256 of a file's name and of values as JSON holds them."""
    return hashlib.sha256(f"{name}\n{json.dumps(content)}".encode()).hexdigest()


def get(tree: object, *keys: str) -> Any:
    """Return the value under nested keys, or None if a key is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def is_row(value: object) -> bool:
    """Whether a value is a row of a log: an object with its kind and step."""
    return isinstance(value, dict) and _is_text(value.get("kind")) and is_number(value.get("step"))
