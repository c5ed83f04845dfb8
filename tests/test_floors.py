"""The house stands on its floors: imports go down only, never sideways or in a circle, and nothing grows past what one can read."""

from __future__ import annotations

import ast
from collections.abc import Callable, Container, Iterator
from functools import cache
from pathlib import Path

import pytest

import goodfit

ROOT = Path(goodfit.__file__).parent
FLOORS = (
    {"core"},
    {"data", "augment", "layers", "losses", "optim", "schedules"},
    {"models"},
    {"training"},
    {"inspection", "terminal"},
    {"recipe"},
    {"predict", "report"},
    {"runs"},
    {"study", "doctor", "lab", "serve"},
    {"board"},
    {"cli", "api", "__init__", "__main__"},
)
LAZY = {"cli", "api", "__init__"}  # these may import our own inside a function, so that --help is instant
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_PUBLIC_METHODS = 300, 60, 8, 12
# `but(**changes)` is the one name that may take keywords of any name: it checks every key against the dataclass.
ANY_KEYWORDS = {"but"}


# ---- reading -----------------------------------------------------------------------------------------------------------------------


@cache
def sources() -> dict[str, tuple[ast.Module, int]]:
    """The tree and the number of lines of every module of ours."""
    files = {module_name(file): file.read_text() for file in sorted(ROOT.rglob("*.py"))}
    return {name: (ast.parse(text), len(text.splitlines())) for name, text in files.items()}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The package (or top-level module) of `goodfit.x.y`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(name: str) -> int:
    return next((level for level, rooms in enumerate(FLOORS) if name in rooms), -1)


def own_imports(tree: ast.AST, modules: Container[str]) -> Iterator[tuple[int, str]]:
    """The line and the full module name of every import of our own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "goodfit")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "goodfit"):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in modules else str(node.module)


# ---- rules: each yields what breaks it -----------------------------------------------------------------------------------------------

Modules = dict[str, tuple[ast.Module, int]]


def upward_or_sideways(modules: Modules) -> Iterator[str]:
    """A room imports from the floors below its own and from itself; the rooms of one floor are siblings."""
    for name, (tree, _) in modules.items():
        own = room(name)
        for line, target in own_imports(tree, modules):
            other = room(target)
            if own == other or {own, other} <= FLOORS[-1]:
                continue
            if floor(other) >= floor(own):
                way = "sideways" if floor(other) == floor(own) else "up"
                yield f"{name}:{line}: {own} imports {way} from {target}"


def inside_functions(modules: Modules) -> Iterator[str]:
    for name, (tree, _) in modules.items():
        if room(name) not in LAZY:
            for function in ast.walk(tree):
                if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    for line, target in own_imports(function, modules):
                        yield f"{name}:{line}: {function.name} imports {target}"


def circles(modules: Modules) -> Iterator[str]:
    edges = {name: {target for _, target in own_imports(tree, modules)} - {name} for name, (tree, _) in modules.items()}
    edges = {name: targets for name, targets in edges.items() if room(name) not in LAZY}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for target in edges.get(name, ()):
                yield from visit(target, (*path, name))
            done.add(name)

    for name in edges:
        yield from visit(name, ())


def too_large(modules: Modules) -> Iterator[str]:
    for name, (tree, lines) in modules.items():
        if lines > MAX_FILE_LINES:
            yield f"{name}: {lines} lines"
        for node in ast.walk(tree):
            place = f"{name}:{getattr(node, 'lineno', 0)}: {getattr(node, 'name', '')}"
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    yield f"{place} has {length} lines"
                if node.args.kwarg is not None and node.name not in ANY_KEYWORDS:
                    yield f"{place} takes **{node.args.kwarg.arg}"
                arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                parameters = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
                if len(parameters) > MAX_PARAMETERS:
                    yield f"{place} takes {len(parameters)} parameters"
            elif isinstance(node, ast.ClassDef):
                methods = [x.name for x in node.body if isinstance(x, ast.FunctionDef) and not x.name.startswith("_")]
                if len(methods) > MAX_PUBLIC_METHODS:
                    yield f"{place} has {len(methods)} public methods"


def without_docstring(modules: Modules) -> Iterator[str]:
    """Every module opens with a sentence; so does a public class or function of some length, but for the verbs of the command line."""
    for name, (tree, _) in modules.items():
        if not ast.get_docstring(tree):
            yield f"{name}: no docstring"
        for node in tree.body:
            public = isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node) and len(node.body) >= 8 and room(name) != "cli":
                yield f"{name}:{node.lineno}: {node.name} has no docstring"


def without_encoding(modules: Modules) -> Iterator[str]:
    """Text files are UTF-8 whatever the locale."""
    for name, (tree, _) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "encoding" not in {k.arg for k in node.keywords}:
                opens = node.func.attr == "open" and [ast.unparse(x) for x in node.args] in (["'a'"], ["'w'"], ["'r'"])
                if opens or node.func.attr in ("read_text", "write_text"):
                    yield f"{name}:{node.lineno}: {node.func.attr} without an encoding"


def printed_elsewhere(modules: Modules) -> Iterator[str]:
    """Text leaves through `terminal.streams` alone, where names are escaped and streams may fail."""
    for name, (tree, _) in modules.items():
        for node in ast.walk(tree) if name != "goodfit.terminal.streams" else ():
            if isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in ("print", "sys.stdout", "sys.stderr"):
                yield f"{name}:{node.lineno}: {ast.unparse(node)}"


def rooms_without_a_floor(modules: Modules) -> Iterator[str]:
    rooms = {room(name) for name in modules}
    known = set().union(*FLOORS)
    yield from (f"the room {name} stands on no floor" for name in sorted(rooms - known))
    yield from (f"the room {name} of FLOORS does not exist" for name in sorted(known - rooms))
    yield from (f"{name} stands on two floors" for name in sorted(known) if sum(name in floor for floor in FLOORS) > 1)


RULES: tuple[Callable[[Modules], Iterator[str]], ...] = (
    upward_or_sideways, inside_functions, circles, too_large, without_docstring, without_encoding, printed_elsewhere,
    rooms_without_a_floor,
)  # fmt: skip


# ---- tests -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_nothing_breaks(rule: Callable[[Modules], Iterator[str]]) -> None:
    assert list(rule(sources())) == []


@pytest.mark.parametrize(
    ("rule", "name", "source", "says"),
    [
        (upward_or_sideways, "goodfit.core.x", "from goodfit.data import y", "core imports up from goodfit.data.y"),
        (upward_or_sideways, "goodfit.inspection.x", "import goodfit.terminal.y", "inspection imports sideways from goodfit.terminal.y"),
        (upward_or_sideways, "goodfit.report.x", "from goodfit.predict.y import z", "report imports sideways from goodfit.predict.y"),
        (inside_functions, "goodfit.core.x", "def f():\n    from goodfit.core import y", "f imports goodfit.core"),
        (circles, "goodfit.core.x", "from goodfit.core.y import a", "goodfit.core.y -> goodfit.core.x -> goodfit.core.y"),
        (too_large, "goodfit.core.x", "def f(a, b, c, d, e, f, g, h, i): ...", "f takes 9 parameters"),
        (too_large, "goodfit.core.x", "def f(**more): ...", "f takes **more"),
        (too_large, "goodfit.core.x", "def f():\n" + "    0\n" * 60, "f has 61 lines"),
        (too_large, "goodfit.core.x", "class C:\n" + "".join(f"    def f{k}(self): ...\n" for k in range(13)), "C has 13 public methods"),
        (without_docstring, "goodfit.core.x", "x = 1", "no docstring"),
        (without_encoding, "goodfit.core.x", "path.read_text()", "read_text without an encoding"),
        (without_encoding, "goodfit.core.x", "path.open('a')", "open without an encoding"),
        (printed_elsewhere, "goodfit.cli.x", "print(1)", "goodfit.cli.x:1: print"),
        (printed_elsewhere, "goodfit.cli.x", "import sys\nsys.stderr.write('')", "goodfit.cli.x:2: sys.stderr"),
        (rooms_without_a_floor, "goodfit.attic.x", "", "the room attic stands on no floor"),
        (rooms_without_a_floor, "goodfit.core.x", "", "the room augment of FLOORS does not exist"),
    ],
)
def test_each_rule_notices(rule: Callable[[Modules], Iterator[str]], name: str, source: str, says: str) -> None:
    others = {other: (ast.parse(text), 1) for other, text in {
        "goodfit.core.y": '"""."""\nimport goodfit.core.x', "goodfit.data.y": "", "goodfit.terminal.y": "", "goodfit.predict.y": "",
    }.items()}  # fmt: skip
    assert any(says in broken for broken in rule({**others, name: (ast.parse(source), 1)}))


def test_long_files_are_noticed() -> None:
    assert list(too_large({"goodfit.core.x": (ast.parse(""), 301)})) == ["goodfit.core.x: 301 lines"]
