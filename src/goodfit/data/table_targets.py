"""Reads what tables say of each image: its class, its labels (a list in one column, or 0 and 1 in several), or its numbers."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from goodfit.core.errors import DataError
from goodfit.core.figures import TaskName
from goodfit.core.words import list_some
from goodfit.data.labels import encode_labels
from goodfit.data.table import COLUMN_NAMES, Table
from goodfit.data.targets import Answers, encode_label_lists, make_answers

SEPARATORS = (";", "|", ",", " ")  # of labels in one cell: the first that stands in any cell
WORDS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}  # of a column that says whether an image has a label
ROW_COLUMNS = {"id", "index", "imageid", "row"}  # names, without spaces, "_" and "-", of columns that count the rows


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """What is read of each image: its class, labels or numbers, from these `columns` where any are named."""

    task: TaskName = "classes"
    columns: tuple[str, ...] = ()

    @property
    def required_columns(self) -> tuple[str, ...]:
        return ("label",) if self.task == "classes" else ()

    @property
    def needs(self) -> str:
        """What every image needs, in words."""
        return "both" if self.task == "classes" else f"it beside its {self.task}"

    def are_in(self, table: Table) -> bool:
        """Whether a table has the columns, so that it is no list of images without answers."""
        return bool(table.has_column("label") if self.task == "classes" else find_columns(table, self))


CLASSES = TargetSpec()


def read_table_answers(tables: Sequence[Table], spec: TargetSpec, place: str) -> Answers:
    """Read what some tables say of each of their images, one table after the other.

    Raises:
        DataError: a column is missing, a cell is empty or no number, or the tables differ in their columns.
    """
    if spec.task == "classes":
        labels = [cell for table in tables for cell in _read_classes(table)]
        return Answers("classes", *encode_labels(labels, place))
    columns = [find_columns(table, spec) for table in tables]
    names = [tables[0].names[k] for k in columns[0]]
    for table, found in zip(tables, columns, strict=True):
        if not found:
            raise DataError(_explain_missing(table, spec))
        if [table.names[k] for k in found] != names:
            raise DataError(f'"{table.path}" and "{tables[0].path}" differ in their columns of {spec.task}: name those to read.')
    if spec.task == "labels" and len(names) == 1 and not all(_fits(t, k[0], _is_word) for t, k in zip(tables, columns, strict=True)):
        return _read_lists([cell.strip() for t, found in zip(tables, columns, strict=True) for cell in t.cells(found[0])], place)
    rows = [row for table, found in zip(tables, columns, strict=True) for row in _read_rows(table, found, spec)]
    note = f"Read the {spec.task} {list_some(names, 10)}{_name_others(tables[0], columns[0])}."
    return make_answers(spec.task, names, np.array(rows, dtype=np.float64).reshape(len(rows), -1), (note,))


def find_columns(table: Table, spec: TargetSpec) -> list[int]:
    """Find the places of the columns of labels or numbers: those that are named, else one named label or so, else all that can be.

    A column can be if its cells are, but for empty ones, which reading refuses by their line, and if it does not only count the rows.

    Raises:
        DataError: a column that is named is not there.
    """
    if spec.columns:
        missing = [name for name in spec.columns if name.strip().lower() not in table.header]
        if missing:
            found = list_some(list(table.names), 10)
            raise DataError(f'Expected the columns {list_some(list(spec.columns))} in "{table.path}", found: {found}.')
        return [table.header.index(name.strip().lower()) for name in spec.columns]
    if (named := table.find_column("label")) is not None:
        return [named]
    fits = _is_word if spec.task == "labels" else _is_number
    return [k for k in _find_others(table) if _fits(table, k, fits) and not _counts_rows(table, k)]


def _find_others(table: Table) -> list[int]:
    """Find the places of the columns that are not of paths, labels, splits or groups."""
    known, split = {table.find_column(name) for name in COLUMN_NAMES}, table.splits()[1]
    return [k for k, name in enumerate(table.header) if k not in known and (not split or name != split)]


def _read_classes(table: Table) -> list[str]:
    labels = [cell.strip() for cell in table.column("label")]
    if line := next((line for (line, _), label in zip(table.rows, labels, strict=True) if not label), 0):
        raise DataError(f'Line {line} of "{table.path}" has no label: every image needs both.')
    return labels


def _read_lists(cells: Sequence[str], place: str) -> Answers:
    """Read cells such as "cat;dog" or ["cat", "dog"], in which an empty one has no label."""
    if any(cell[0] + cell[-1] == "[]" for cell in cells if cell):
        lists = [_read_bracketed(cell, place) if cell else [] for cell in cells]
        return encode_label_lists(lists, (), place, ("Labels are lists in brackets.",))
    separator = next((mark for mark in SEPARATORS if any(mark in cell for cell in cells)), "")
    lists = [[word.strip() for word in cell.split(separator)] if separator else [cell] for cell in cells]
    if separator == " ":
        _refuse_phrases([cell.split() for cell in cells], place)
    named = {";": "semicolons", "|": "bars", ",": "commas", " ": "spaces", "": "nothing, for each image has one"}[separator]
    return encode_label_lists([[word for word in words if word] for words in lists], (), place, (f"Labels are separated by {named}.",))


def _read_bracketed(cell: str, place: str) -> list[str]:
    """Read the labels of a list as JSON or Python writes it."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = read(cell)
            is_split = not re.search(r"""["']\s+["']""", cell)  # NumPy writes ['a' 'b'], which Python would read as one word
            if is_split and isinstance(found, list) and all(isinstance(label, str | int) for label in found):
                return [word for label in found if (word := str(label).strip())]
    raise DataError(f'Expected each list of labels in {place} to be written as ["cat", "dog"], as some are, found {cell[:80]}.')


def _refuse_phrases(lists: Sequence[Sequence[str]], place: str) -> None:
    """Refuse lists of words in which one never stands without another beside it, such as "traffic light".

    Raises:
        DataError: there is such a word.
    """
    beside: dict[str, set[str]] = {}
    for words in lists:
        for k, word in enumerate(words):
            near = {*words[max(k - 1, 0) : k], *words[k + 1 : k + 2]}
            beside[word] = beside.get(word, near) & near
    if phrase := next(((word, min(near)) for word, near in beside.items() if near), None):
        raise DataError(
            f'In {place} "{phrase[0]}" never stands without "{phrase[1]}" beside it, which may be one label of two words: '
            'separate the labels by ";".'
        )


def _read_rows(table: Table, columns: Sequence[int], spec: TargetSpec) -> list[list[float]]:
    """Read a number from each cell, 0 or 1 for labels."""
    rows = []
    for line, cells in table.rows:
        texts = [cells[k].strip() if k < len(cells) else "" for k in columns]
        values = [WORDS.get(text.lower(), math.nan) if spec.task == "labels" else _to_number(text) for text in texts]
        wrong = next((k for k, value in enumerate(values) if not math.isfinite(value)), None)
        if wrong is not None:
            kind = "0 or 1" if spec.task == "labels" else "a number"
            raise DataError(f'Line {line} of "{table.path}": expected {kind} for {table.names[columns[wrong]]}, found "{texts[wrong]}".')
        rows.append(values)
    return rows


def _to_number(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    return math.nan


def _is_word(text: str) -> bool:
    return text.lower() in WORDS


def _is_number(text: str) -> bool:
    return math.isfinite(_to_number(text))


def _fits(table: Table, place: int, is_fit: Callable[[str], bool]) -> bool:
    """Whether the cells of a column that are not empty fit, and there are any."""
    texts = [text for cell in table.cells(place) if (text := cell.strip())]
    return bool(texts) and all(map(is_fit, texts))


def _counts_rows(table: Table, place: int) -> bool:
    """Whether a column counts the rows: it has 0 ... N - 1 or 1 ... N in order, no name, or whole numbers and a name such as id."""
    values, n = [_to_number(cell) for cell in table.cells(place)], len(table.rows)
    is_count = n > 2 and values in ([*range(n)], [*range(1, n + 1)])  # two rows of 0 and 1 may be of a label
    is_whole = all(_to_number(cell).is_integer() for cell in table.cells(place) if cell.strip())
    name = re.sub(r"[\s_-]", "", table.header[place])
    return is_count or not name or (is_whole and name in ROW_COLUMNS)


def _name_others(table: Table, columns: Sequence[int]) -> str:
    """Say which columns are left out; empty where none is."""
    others = [k for k in _find_others(table) if k not in columns]
    names = [(table.names[k] or "without a name") + " (counts the rows)" * _counts_rows(table, k) for k in others]
    return f"; left out the columns {list_some(names)} (--targets names those to read)" if others else ""


def _explain_missing(table: Table, spec: TargetSpec) -> str:
    kind = "with labels (a list such as cat;dog, or a column of 0 and 1 for each)" if spec.task == "labels" else "of numbers"
    found = list_some([name[:40] for name in table.names], 10) or "nothing"
    fits = _is_word if spec.task == "labels" else _is_number
    counts = [table.names[k] for k in _find_others(table) if table.names[k] and _fits(table, k, fits) and _counts_rows(table, k)]
    hint = f"; what only counts the rows, {list_some(counts)}, is read if --targets names it" if counts else ""
    return f'Expected columns {kind} in the first line of "{table.path}", found: {found}{hint}.'
