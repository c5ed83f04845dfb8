"""Parts and their text: a part is a frozen dataclass; `make` reads one from text, `spell` writes it back, nothing is evaluated."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from goodfit.core.errors import UsageError, one_of
from goodfit.core.settings import check_settings, many, settings_of
from goodfit.core.words import a

USED = "goodfit_use_"  # modules made from the files given with --use
PIPED = ("augment", "penalty", "schedule", "probe", "trainable")  # kinds whose seat takes several parts, one after the other


class Part(ABC):  # noqa: B024  each kind adds its own abstract __call__
    """One exchangeable piece of training: its fields are its settings, its `__call__` is its action.

    Subclasses are frozen dataclasses. The name is the class name in snake_case (a trailing underscore dropped). `first | second`
    makes a pipe. The docstring is the part's card.
    """

    kind: ClassVar[str] = "part"

    def __post_init__(self) -> None:
        check_settings(self, name_of(self))

    def __or__(self, other: Part) -> Pipe:
        return Pipe((*steps(self), *steps(other)))

    def __str__(self) -> str:
        return spell(self)

    def bind(self, facts: Any) -> Self:
        """The part made ready for this data (`contracts.Facts`), once, at build; by default its parts are."""
        inner = {name: value.bind(facts) for name, value in vars(self).items() if isinstance(value, Part)}
        return dataclasses.replace(self, **inner) if inner else self  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True)
class Pipe(Part):
    """Parts one after the other; the empty pipe is spelled `none`."""

    kind: ClassVar[str] = "pipe"
    parts: tuple[Part, ...] = ()

    def bind(self, facts: Any) -> Pipe:
        return Pipe(tuple(part.bind(facts) for part in self.parts))


@dataclasses.dataclass(frozen=True)
class Foreign(Part):
    """The user's own class or function, by dotted name, with the settings it is to be called with."""

    kind: ClassVar[str] = "foreign"
    path: str = ""
    arguments: tuple[object, ...] = ()
    settings: tuple[tuple[str, object], ...] = ()

    def __call__(self, *first: object) -> Any:
        """Call it, with what its seat gives first."""
        target = _import_dotted(self.path)
        try:
            inspect.signature(target).bind(*first, *self.arguments, **dict(self.settings))
        except TypeError as error:
            raise UsageError(f'"{self}" cannot be called: {error}.') from error
        except ValueError:  # a built-in that does not tell its signature
            pass
        return target(*first, *self.arguments, **dict(self.settings))

    def knowing(self, facts: Mapping[str, object]) -> Foreign:
        """The same, with those of `facts` (classes, channels, size, ...) that its signature names and its settings leave open.

        A function that takes keywords, but names no classes, is given `num_classes`, and where it is timm's `in_chans` too.
        """
        target = _import_dotted(self.path)
        try:
            wanted = inspect.signature(target).parameters
        except (TypeError, ValueError) as error:
            raise UsageError(f'"{self}" cannot be called: {error}.') from error
        names = set(wanted)
        keywords = inspect.isfunction(target) and any(x.kind is x.VAR_KEYWORD for x in wanted.values())
        if keywords and not names & {"classes", "num_classes"}:
            names |= {"num_classes", "in_chans"} if self.path.partition(".")[0] == "timm" else {"num_classes"}
        return dataclasses.replace(self, settings=tuple({**{k: v for k, v in facts.items() if k in names}, **dict(self.settings)}.items()))


def snake_case(name: str) -> str:
    """`ResizedCrop` -> `resized_crop`, `None_` -> `none`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().rstrip("_")


def name_of(part: Part | type[Part]) -> str:
    """The word a part is written with; a part from a package of the user's own is written with its dotted name."""
    cls = part if isinstance(part, type) else type(part)
    ours = cls.__module__.partition(".")[0] == "goodfit" or cls.__module__.startswith(USED)
    return snake_case(cls.__name__) if ours else f"{cls.__module__}.{cls.__qualname__}"


def steps(part: Part) -> tuple[Part, ...]:
    """The parts of a pipe; a single part is a pipe of one."""
    return part.parts if isinstance(part, Pipe) else (part,)


# ---- writing -------------------------------------------------------------------------------------------------------------------


def spell(value: object, full: bool = False) -> str:
    """The text of a part or literal; `full` also writes the settings that have their defaults."""
    match value:
        case Pipe(parts):
            return " | ".join(spell(part, full) for part in parts) or "none"
        case Foreign(path, arguments, settings):
            words = [spell(x, full) for x in arguments] + [f"{name}={spell(x, full)}" for name, x in settings]
            return f"{path}({', '.join(words)})"
        case Part():
            return _spell_part(value, full)
        case tuple():
            inner = ", ".join(spell(x, full) for x in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _spell_part(part: Part, full: bool) -> str:
    words = []
    for place, setting in enumerate(settings_of(type(part))):
        value = getattr(part, setting.name)
        if full or value != setting.default:
            text = spell(value, full)
            words.append(text if place == 0 else f"{setting.name}={text}")
    return f"{name_of(part)}({', '.join(words)})" if words else name_of(part)


# ---- reading -------------------------------------------------------------------------------------------------------------------


class Catalog:
    """Every part there is, by kind and name."""

    def __init__(self, packages: Iterable[str] = ()) -> None:
        self.kinds: dict[str, dict[str, type[Part]]] = {}
        for package in packages:
            for module in _modules(package):
                self.add(module)

    def add(self, module: ModuleType) -> None:
        """Take in the concrete parts a module defines."""
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Part) and cls.__module__ == module.__name__ and not inspect.isabstract(cls):
                self.kinds.setdefault(cls.kind, {})[name_of(cls)] = cls

    def use(self, file: str | Path) -> None:
        """Take in the parts of a user's Python file; they win over ours of the same name."""
        path = Path(file)
        if not path.is_file():
            raise UsageError(f'Expected a Python file with your parts at "{path}", found none.')
        module_name = f"{USED}{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, path)
            assert spec is not None and spec.loader is not None
            sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[module_name]
                raise UsageError(f'Your parts in "{path}" do not import: {type(error).__name__}: {error}.') from error
        self.add(sys.modules[module_name])

    def make(self, text: str | Part, kind: str) -> Part:
        """The part (or pipe) of `kind` that `text` spells; a part is returned as it is.

        Raises:
            UsageError: the text is no part, or a name or setting is unknown or of the wrong type; the sentence lists what there is.
        """
        if isinstance(text, Part):
            return _seated(text, kind)
        try:
            return _seated(self._part(ast.parse(text.strip(), mode="eval").body, kind), kind)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = text if len(text) < 200 else f"{text[:200]} ..."
            raise UsageError(f'"{said}" does not read as {a(kind)}: expected a form like name(setting=value) | name.') from error

    def _part(self, node: ast.expr, kind: str) -> Part:
        match node:
            case ast.BinOp(left, ast.BitOr(), right):
                return self._part(left, kind) | self._part(right, kind)
            case ast.Call(function, arguments, keywords):
                return self._call(function, arguments, keywords, kind)
            case ast.Name() | ast.Attribute() | ast.Constant(None):
                return self._call(node, [], [], kind)
        raise UsageError(f'Expected the name of {a(kind)}, received "{ast.unparse(node)}".')

    def _call(self, function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword], kind: str) -> Part:
        name = "none" if isinstance(function, ast.Constant) else ast.unparse(function)
        if any(isinstance(x, ast.Starred) for x in arguments) or any(k.arg is None for k in keywords):
            raise UsageError(f'"{name}" takes its settings one by one, not by * or **.')
        named = {str(k.arg): k.value for k in keywords}
        twice = [str(k.arg) for k in keywords if k.value is not named[str(k.arg)]]
        if twice:
            raise UsageError(f'{name} received the setting "{twice[0]}" twice.')
        known = self.kinds.get(kind, {})
        if name not in known:
            if name == "none":
                return Pipe()
            if "." in name:
                return self._foreign(name, arguments, named)
            raise UsageError(one_of(kind, name, sorted(known)))
        return self._own(known[name], name, arguments, named)

    def _own(self, cls: type[Part], name: str, arguments: list[ast.expr], named: dict[str, ast.expr]) -> Part:
        settings = {setting.name: setting for setting in settings_of(cls)}
        if arguments and many(next(iter(settings.values()), None)) and not isinstance(arguments[0], (ast.Tuple, ast.List)):
            arguments = [ast.Tuple(arguments)]  # ten_crop(224, 256) for ten_crop((224, 256))
        if len(arguments) > len(settings):
            raise UsageError(f"{name} takes {len(settings)} settings ({', '.join(settings)}), received {len(arguments)}.")
        given = dict(zip(settings, arguments, strict=False))
        for key, node in named.items():
            if key not in settings:
                raise UsageError(one_of(f"setting of {name}", key, settings))
            if key in given:
                raise UsageError(f'{name} received the setting "{key}" twice.')
            given[key] = node
        return cls(**{key: self._value(node, settings[key].kind) for key, node in given.items()})

    def _foreign(self, path: str, arguments: list[ast.expr], named: dict[str, ast.expr]) -> Part:
        target = _import_dotted(path)
        if isinstance(target, type) and issubclass(target, Part):
            return self._own(target, path, arguments, named)
        values = tuple(self._value(node, "") for node in arguments)
        return Foreign(path, values, tuple((key, self._value(node, "")) for key, node in named.items()))

    def _value(self, node: ast.expr, kind: str) -> object:
        """A literal, or a part when the setting wants one of some kind."""
        match node:
            case ast.Tuple(elements) | ast.List(elements):
                return tuple(self._value(x, kind) for x in elements)
            case ast.Name(word) if not kind:
                return word  # a bare word where text is expected: crop(4, border=edge)
            case ast.Name() | ast.Call() | ast.Attribute() | ast.BinOp(op=ast.BitOr()) if kind:
                return self._part(node, kind)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError) as error:
            raise UsageError(f'Expected a number, text or part, received "{ast.unparse(node)}".') from error


def _seated(part: Part, kind: str) -> Part:
    """The part, when the seat of its kind can take it."""
    if isinstance(part, Pipe) and kind not in PIPED:
        raise UsageError(f'Expected one {kind}, received "{spell(part)}".')
    for step in steps(part):
        if step.kind not in (kind, "foreign"):
            raise UsageError(f'Expected a part of the kind {kind}, received "{spell(step)}", of the kind {step.kind}.')
    return part


def _modules(package: str) -> Iterator[ModuleType]:
    root = importlib.import_module(package)
    yield root
    for info in pkgutil.iter_modules(getattr(root, "__path__", ())):
        yield importlib.import_module(f"{package}.{info.name}")


def _import_dotted(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's own module may fail in any way
        raise UsageError(f'"{path}" does not import: {type(error).__name__}: {error}.') from error
