"""The catalog: every part there is by kind and name, and how a part is made from its text; nothing in the text is evaluated."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parts import ExternalPart, Part, Pipe, part_name, pipe_parts, spell
from goodfit.core.settings import settings_of, takes_many, type_phrase
from goodfit.core.user_code import allow_call, import_dotted, import_file
from goodfit.core.words import with_article


class Catalog:
    """Every part there is: `kinds[kind][name]` is its class. `user_modules` are the names of the modules of the user's files."""

    def __init__(self, packages: Iterable[str] = ()) -> None:
        self.kinds: dict[str, dict[str, type[Part]]] = {}
        self.user_modules: list[str] = []
        for package in packages:
            for module in _import_modules(package):
                self.add(module)

    def add(self, module: ModuleType) -> None:
        """Add the concrete parts that a module defines."""
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Part) and cls.__module__ == module.__name__ and not inspect.isabstract(cls):
                self.kinds.setdefault(cls.kind, {})[part_name(cls)] = cls

    def use(self, file: str | Path) -> None:
        """Add the parts of a user's Python file; they replace ours of the same name.

        Raises:
            UntrustedCode: its content is not known here and comes from elsewhere.
            UsageError: there is no such file, or it does not import.
        """
        module = import_file(file)
        self.add(module)
        self.user_modules.append(module.__name__)

    def make(self, text: str | Part, kind: str) -> Part:
        """Make the part (or pipe) of `kind` that `text` spells; a part is returned as it is.

        Raises:
            UsageError: the text is no part, or a name or setting is unknown or of the wrong type; the sentence lists what there is.
        """
        if isinstance(text, Part):
            return self._checked(text, kind)
        try:
            return self._checked(self._part(ast.parse(text.strip(), mode="eval").body, kind), kind)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            excerpt = text if len(text) < 200 else f"{text[:200]} ..."
            decimals = re.search(r"\d+,\d+", text)
            hint = f", and {decimals[0].replace(',', '.')} for {decimals[0]}" if decimals else ""
            raise UsageError(
                f'"{excerpt}" does not read as {with_article(kind)}: expected a form like name(setting=value) | name{hint}.'
            ) from error

    def is_piped(self, kind: str) -> bool:
        """Whether parts of a kind may stand one after the other, as in `flip | crop(4)`."""
        return any(cls.piped for cls in self.kinds.get(kind, {}).values())

    def cards(self) -> list[dict[str, Any]]:
        """One dictionary for each part: kind, name, spelling, summary (its first sentence), card (its docstring) and settings."""
        cards = []
        for kind in sorted(self.kinds):
            for name, cls in sorted(self.kinds[kind].items()):
                card = inspect.getdoc(cls) or ""
                settings = [{"name": s.name, "type": type_phrase(s.hint), "default": _spell_default(s.default)} for s in settings_of(cls)]
                arguments = ", ".join("{name}={default}".format(**s) for s in settings)
                spelling = f"{part_name(cls)}({arguments})" if settings else part_name(cls)
                summary = card.split("\n")[0]
                cards.append({"kind": kind, "name": name, "spelling": spelling, "summary": summary, "card": card, "settings": settings})
        return cards

    def _checked(self, part: Part, kind: str) -> Part:
        """The part, if it is of this kind; a pipe only of kinds that are piped."""
        if isinstance(part, Pipe) and not self.is_piped(kind):
            raise UsageError(f'Expected one {kind}, received "{spell(part)}".')
        for step in pipe_parts(part):
            if step.kind not in (kind, ExternalPart.kind):
                raise UsageError(f'Expected a part of the kind {kind}, received "{spell(step)}", of the kind {step.kind}.')
        return part

    def _part(self, node: ast.expr, kind: str) -> Part:
        match node:
            case ast.BinOp(left, ast.BitOr(), right):
                return self._part(left, kind) | self._part(right, kind)
            case ast.Call(function, arguments, keywords):
                return self._call(function, arguments, keywords, kind)
            case ast.Name() | ast.Attribute() | ast.Constant(None):
                return self._call(node, [], [], kind)
        row = " | ".join(map(ast.unparse, node.elts)) if isinstance(node, ast.Tuple) and self.is_piped(kind) else ""
        hint = f': parts in a row are written "{row}"' if row else ""
        raise UsageError(f'Expected the name of {with_article(kind)}, received "{ast.unparse(node)}"{hint}.')

    def _call(self, function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword], kind: str) -> Part:
        name = "none" if isinstance(function, ast.Constant) else ast.unparse(function)
        if any(isinstance(x, ast.Starred) for x in arguments) or any(k.arg is None for k in keywords):
            raise UsageError(f'"{name}" takes its settings one by one, not by * or **.')
        named = {str(k.arg): k.value for k in keywords}
        twice = [str(k.arg) for k in keywords if k.value is not named[str(k.arg)]]
        if twice:
            raise UsageError(f'{name} received the setting "{twice[0]}" twice.')
        parts = self.kinds.get(kind, {})
        if name not in parts:
            if name == "none":
                return Pipe()
            if "." in name:
                return self._external(name, arguments, named)
            raise UsageError(unknown_name(kind, name, sorted(parts)))
        return self._build(parts[name], name, arguments, named)

    def _build(self, cls: type[Part], name: str, arguments: list[ast.expr], named: dict[str, ast.expr]) -> Part:
        settings = {setting.name: setting for setting in settings_of(cls)}
        if arguments and takes_many(next(iter(settings.values()), None)) and not isinstance(arguments[0], (ast.Tuple, ast.List)):
            arguments = [ast.Tuple(arguments)]  # ten_crop(224, 256) for ten_crop((224, 256))
        if len(arguments) > len(settings):
            raise UsageError(f"{name} takes {len(settings)} settings ({', '.join(settings)}), received {len(arguments)}.")
        given = dict(zip(settings, arguments, strict=False))
        for key, node in named.items():
            if key not in settings:
                raise UsageError(unknown_name(f"setting of {name}", key, settings))
            if key in given:
                raise UsageError(f'{name} received the setting "{key}" twice.')
            given[key] = node
        return cls(**{key: self._value(node, settings[key].kind) for key, node in given.items()})

    def _external(self, path: str, arguments: list[ast.expr], named: dict[str, ast.expr]) -> Part:
        target = import_dotted(path)
        if isinstance(target, type) and issubclass(target, Part):
            return self._build(target, path, arguments, named)
        values = tuple(self._value(node, "") for node in arguments)
        part = ExternalPart(path, values, tuple((key, self._value(node, "")) for key, node in named.items()))
        if not isinstance(target, type):
            allow_call(target, spell(part))
        return part

    def _value(self, node: ast.expr, kind: str) -> object:
        """A literal, or a part where the setting holds one of some kind."""
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


def _spell_default(value: object) -> str:
    return "required" if value is dataclasses.MISSING else spell(value)


def _import_modules(package: str) -> Iterator[ModuleType]:
    """A package and the modules directly inside it."""
    root = importlib.import_module(package)
    yield root
    for info in pkgutil.iter_modules(getattr(root, "__path__", ())):
        yield importlib.import_module(f"{package}.{info.name}")
