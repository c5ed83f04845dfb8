"""The lecture's items, and the tests that are marked with them, read from the tests' own source."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def read_items() -> dict[str, str]:
    """The kind of each item: check, feature, claim, or out of scope."""
    items: dict[str, str] = json.loads((TESTS / "data" / "items.json").read_text())
    return items


def marks(source: str) -> Iterator[tuple[str, str]]:
    """(test, item) for each `@pytest.mark.item("S0xx", ...)` on a test function, or on a class or in a `pytest.param` of one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.startswith(("test_", "Test")):
            for decorator in node.decorator_list:
                yield from ((node.name, item) for call in ast.walk(decorator) for item in items_of(call))


def items_of(node: ast.AST) -> list[str]:
    """The items that a call of `pytest.mark.item` names; [] for any other node."""
    match node:
        case ast.Call(ast.Attribute(ast.Attribute(ast.Name("pytest"), "mark"), "item"), words):
            return [str(word.value) if isinstance(word, ast.Constant) else ast.unparse(word) for word in words]
    return []


@functools.cache
def read_tests_of_items() -> dict[str, list[str]]:
    """The tests of each item."""
    tests: dict[str, list[str]] = {}
    for file in sorted(TESTS.glob("test_*.py")):
        for test, item in marks(file.read_text()):
            tests.setdefault(item, []).append(f"{file.name}::{test}")
    return tests
