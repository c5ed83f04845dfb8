"""The house stands on its floors: imports go down only, never sideways or in a circle, and nothing grows past what one can read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import goodfit

ROOT = Path(goodfit.__file__).parent
FLOORS = [
    {"core"},
    {"data", "augment", "layers", "losses", "optim", "schedules"},
    {"models"},
    {"training"},
    {"watch", "terminal"},
    {"recipe"},
    {"predict", "report"},
    {"runs"},
    {"study", "doctor"},
    {"cli", "api", "__init__", "__main__"},
]
LAZY = {"cli", "api", "__init__"}  # these may import our own inside a function, so that --help is instant
FILES = sorted(ROOT.rglob("*.py"))
# `but(**changes)` is the one name that may take them: it checks every key against the dataclass.
LINES, FUNCTION_LINES, PARAMETERS, METHODS = 300, 60, 8, 12


def place(module: str) -> str:
    """The package (or top-level module) of `goodfit.x.y`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of our own, as a full module name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names if alias.name.split(".")[0] == "goodfit")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "goodfit"):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                inner = ROOT.parent / Path(*f"{node.module}.{alias.name}".split("."))
                yield node, f"{node.module}.{alias.name}" if inner.is_dir() or inner.with_suffix(".py").is_file() else str(node.module)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_go_down(file: Path) -> None:
    own = place(module_of(file))
    for node, target in imports(ast.parse(file.read_text())):
        other = place(target)
        if other == own:
            continue
        assert floor(other) < floor(own) or {own, other} <= FLOORS[-1], f"line {node.lineno}: {own} imports {target}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nothing_of_ours_is_imported_inside_a_function(file: Path) -> None:
    if place(module_of(file)) in LAZY:
        return
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = [target for _, target in imports(function)]
            assert not inner, f"{function.name} imports {inner}"


def test_no_circles() -> None:
    edges = {module_of(file): {target for _, target in imports(ast.parse(file.read_text()))} - {module_of(file)} for file in FILES}
    edges = {name: targets for name, targets in edges.items() if place(name) not in LAZY}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in edges.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nothing_grows_past_what_one_can_read(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{node.name} is too long"
            assert node.args.kwarg is None or node.name == "but", f"{node.name} takes **{node.args.kwarg and node.args.kwarg.arg}"
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
            assert len(names) <= PARAMETERS, f"{node.name} takes {len(names)} parameters"
        elif isinstance(node, ast.ClassDef):
            methods = [x.name for x in node.body if isinstance(x, ast.FunctionDef) and not x.name.startswith("_")]
            assert len(methods) <= METHODS, f"{node.name} has {len(methods)} public methods"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_module_opens_with_a_sentence(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "no docstring"
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or place(module_of(file)) == "cli" or len(node.body) < 8, f"{node.name} has no docstring"
