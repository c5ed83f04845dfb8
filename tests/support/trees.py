"""The values inside a tree of dictionaries and lists, one at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest

VALUES = (..., "x", 7, -7, None, [1, None], {"a": "b"})  # ...: dropped
all_values = pytest.mark.parametrize("values", [2, pytest.param(len(VALUES), marks=pytest.mark.slow)])


def some_values(keys: tuple[Any, ...], number: int) -> Iterator[Any]:
    """So many of VALUES, which of them changes from key to key; the slow tests take all."""
    first = zlib.crc32(repr(keys).encode())
    return (VALUES[(first + k) % len(VALUES)] for k in range(number))


def paths_of(tree: object) -> list[tuple[Any, ...]]:
    """The keys down to every value, of lists the first item only."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))[:1] if isinstance(tree, list) else []
    return [path for key, value in items for path in ((key,), *((key, *rest) for rest in paths_of(value)))]


def changed(tree: Any, keys: tuple[Any, ...], value: object) -> Any:
    copy = tree.copy()
    if len(keys) > 1:
        copy[keys[0]] = changed(tree[keys[0]], keys[1:], value)
    elif value is ...:
        del copy[keys[0]]
    else:
        copy[keys[0]] = value
    return copy
