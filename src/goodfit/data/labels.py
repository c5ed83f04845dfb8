"""Labels: from the values that a format has to class names and their numbers, and which values are no label."""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from goodfit.core.errors import DataError
from goodfit.core.words import count_of, list_some, natural_order
from goodfit.data.index import Index, IntArray
from goodfit.data.store import Array

MISSING_WORDS = frozenset(("nan", "na", "n/a", "n.a.", "null", "nil", "nat"))  # what tools write where a label is missing
CONTAINERS = (list, tuple, dict, set, frozenset, bytearray, np.ndarray)
_WHOLE = re.compile(r"-?\d{1,300}(\.0*)?")
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff]")


# ---- values ----------------------------------------------------------------------------------------------------------------------


def encode_labels(values: Sequence[Any] | Array, place: str) -> tuple[tuple[str, ...], IntArray]:
    """Turn the label values [N] of `place` (named in errors) into class names and int64 labels [N].

    Bytes are text; whole numbers, also as floats or as texts such as "10.0", are integers and sorted as such; other text is in natural
    order. What stands for a missing value becomes a class of its own here, which `check_classes` refuses.

    Raises:
        DataError: a value is a list or another thing that cannot be one label, or a fraction.
    """
    texts, rows = _find_distinct(values, place)
    are_whole = all(map(_WHOLE.fullmatch, texts))
    if are_whole:
        texts = [text.partition(".")[0] for text in texts]
    classes = sorted(set(texts), key=(lambda text: (int(text), text)) if are_whole else natural_order)
    position = {name: k for k, name in enumerate(classes)}
    return tuple(classes), np.array([position[text] for text in texts], dtype=np.int64)[rows]


def match_labels(values: Sequence[Any] | Array, classes: Sequence[str], place: str) -> IntArray:
    """Turn the label values [N] of `place` into their positions [N] among class names that the data lists: values are positions or names.

    Raises:
        DataError: a value is neither.
    """
    found, labels = encode_labels(values, place)
    numbers = {str(k): k for k in range(len(classes))}
    names = {name: k for k, name in enumerate(classes)}
    are_names = len(values) > 0 and isinstance(values[0], (str, bytes)) and all(name in names for name in found)
    positions = names if are_names else numbers
    unknown = [k for k, name in enumerate(found) if name not in positions]
    if unknown:
        n = int(np.isin(labels, unknown).sum())
        raise DataError(
            f"{place} has {count_of(n, 'label')} ({list_some([found[k] for k in unknown], 3)}) of no class: expected numbers from 0 to "
            f"{len(classes) - 1}, or the names that it lists ({list_some(list(classes), 3)}); leave out images without a label."
        )
    return np.array([positions[name] for name in found], dtype=np.int64)[labels]


def read_class_names(values: Any, place: str) -> tuple[str, ...]:
    """Read the class names that data lists.

    Raises:
        DataError: they are no list of names.
    """
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, (list, tuple)) or not values:
        raise DataError(f"Expected a list of class names in {place}, found {reprlib.repr(values)}.")
    return tuple(_to_text(value, place) for value in values)


def _find_distinct(values: Sequence[Any] | Array, place: str) -> tuple[list[str], IntArray]:
    """Find the distinct values, as texts, and for each value [N] its place among them."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "iubfSUO":
            raise _not_one_label(place, f"{values.dtype} {list(values.shape)}")
        if values.dtype.kind in "iubf":
            numbers, rows = np.unique(values, return_inverse=True)
            return [_to_text(number, place) for number in numbers.tolist()], rows.reshape(-1).astype(np.int64)
        values = values.tolist()
    if (container := next((value for value in values if isinstance(value, CONTAINERS)), None)) is not None:
        raise _not_one_label(place, reprlib.repr(container))
    position: dict[Any, int] = {}
    rows = np.array([position.setdefault(value, len(position)) for value in values], dtype=np.int64)
    return [_to_text(value, place) for value in position], rows


def _to_text(value: Any, place: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"Expected labels in {place} that are text in UTF-8, found {value[:20]!r}.") from error
    if isinstance(value, float) and not math.isnan(value):
        if not value.is_integer():
            raise DataError(f"Expected labels in {place} that are names or whole numbers, found {value:g}.")
        return str(int(value))
    if isinstance(value, CONTAINERS):
        raise DataError(f"Expected names in {place}, found {reprlib.repr(value)}.")
    return str(int(value)) if isinstance(value, bool) else str(value)


def _not_one_label(place: str, found: str) -> DataError:
    return DataError(
        f"Expected one label per image in {place}, found {found}: give each image the number or the name of one class "
        "(of one-hot labels, labels.argmax(1))."
    )


# ---- names -----------------------------------------------------------------------------------------------------------------------


def check_classes(index: Index, data: str) -> None:
    """Refuse labels that stand for a missing one, and classes that cannot be told apart.

    Raises:
        DataError: a class is named NaN, None, "" or the like, or -1 beside others than 1; or two have one name, or names that differ
            only in what cannot be seen, or by case.
    """
    seen: dict[str, str] = {}
    for k, name in enumerate(index.classes):
        looks = _visible_part(name)
        if _is_missing(looks) or (name == "-1" and set(index.classes) != {"-1", "1"}):
            rows = np.flatnonzero(index.labels == k)
            where = f", such as {index.names[rows[0]]}" if len(rows) else ""
            raise DataError(
                f'"{data}" has {count_of(len(rows), "image")} with the label "{name}"{where}: such a name usually marks a missing label; '
                "give them one, leave them out, or, if it is a class, give it another name."
            )
        if looks.lower() in seen:
            raise DataError(_explain_twins(seen[looks.lower()], name, data))
        seen[looks.lower()] = name


def _visible_part(name: str) -> str:
    """What a reader sees of a name: composed letters, single spaces of one kind and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", name)).split())


def _is_missing(looks: str) -> bool:
    word = looks.strip("<>()[]#!-")
    return not looks or word.lower() in MISSING_WORDS or word == "None"  # people name a class "none", Python writes "None"


def _explain_twins(first: str, second: str, data: str) -> str:
    if first == second:
        return f'"{data}" names two classes "{first}": give each a name of its own.'
    if first.lower() == second.lower():
        return f'The classes "{first}" and "{second}" in "{data}" differ only by case: rename or join them.'
    return (
        f'The classes {first!a} and {second!a} in "{data}" look the same '
        "(they differ only in spaces, invisible characters or the form of their letters): rename or join them."
    )
