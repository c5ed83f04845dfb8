"""The one place where names and files in a recipe become code: each is imported only if it may run here, and only if it can be a part."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from goodfit.core.dotted_names import DOTTED_NAME
from goodfit.core.errors import UsageError
from goodfit.core.trust import remember_content, remember_name, require_call_trust, require_file_trust, require_trust

USER_MODULE_PREFIX = "goodfit_use_"  # modules made from the files given with --use
# Classes that may be called by dotted name, each by its module and name: torch need not be imported to tell, nor our own parts.
BASES_OF_PARTS = {("torch.nn.modules.module", "Module"), ("torch.optim.optimizer", "Optimizer"), ("goodfit.core.parts", "Part")}


def import_dotted(path: str) -> Any:
    """The class or function that a dotted name such as `torch.optim.Adadelta` stands for.

    A class is an nn.Module, an Optimizer or a Part; a function is of the package that its name begins with. Nothing of Python's own
    library is taken. Whether a function may be called with its arguments, `allow_call` decides.

    Raises:
        UntrustedCode: it is not known here and comes from elsewhere.
        UsageError: it does not import, or can be no part.
    """
    package = path.partition(".")[0]
    if not DOTTED_NAME.fullmatch(path):
        raise UsageError(f'Expected a dotted name such as torch.optim.Adadelta, received "{path}".')
    if not _is_of_file(path):
        require_trust("This", [path])
    module, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's own module may fail in any way
        raise UsageError(f'"{path}" does not import: {type(error).__name__}: {error}.') from error
    if inspect.isclass(target):
        if not BASES_OF_PARTS & {(cls.__module__, cls.__name__) for cls in target.__mro__}:
            raise UsageError(f'Expected "{path}" to be an nn.Module, an Optimizer, a Part or a function, received another class.')
    elif not inspect.isroutine(target):
        raise UsageError(f'Expected "{path}" to be a class or function, received a {type(target).__name__}.')
    elif (home := str(target.__module__).partition(".")[0]) != package:
        raise UsageError(f'Expected "{path}" to be a function of {package}, received one of {home}.')
    if not _is_of_file(path):
        remember_name(path)
    return target


def allow_call(function: Any, call: str) -> None:
    """Let a function that `import_dotted` gave be called, spelled with its arguments as `call`: known with some, it is not with others.

    Raises:
        UntrustedCode: it may not run here.
    """
    if not _is_of_file(call):
        require_call_trust(call, str(function.__module__))
        remember_name(call)


def _is_of_file(path: str) -> bool:
    """Whether a dotted name is of a file of parts, which was allowed to run."""
    package = path.partition(".")[0]
    return package.startswith(USER_MODULE_PREFIX) and package in sys.modules


def import_file(file: str | Path) -> ModuleType:
    """The module of a user's Python file with parts, imported once for each content.

    Raises:
        UntrustedCode: its content is not known here and comes from elsewhere.
        UsageError: there is no such file, or it does not import.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f'Expected a Python file with your parts at "{path}", found none.')
    if path.suffix != ".py":
        raise UsageError(f'Expected a Python file with your parts, named "{path.stem}.py" or the like, received "{path}".')
    try:
        content = path.read_bytes()  # once: what is checked, run and remembered is the same
    except OSError as error:
        raise UsageError(f'Your parts in "{path}" do not read: {error.strerror}.') from error
    require_file_trust(path, content)
    name = f"{USER_MODULE_PREFIX}{hashlib.sha256(content).hexdigest()[:12]}"
    if name not in sys.modules:
        sys.modules[name] = module = ModuleType(name)
        module.__file__ = str(path)
        try:
            exec(compile(content, str(path), "exec"), module.__dict__)  # what was read, and no compiled file that may lie beside it
        except Exception as error:
            del sys.modules[name]
            raise UsageError(f'Your parts in "{path}" do not import: {type(error).__name__}: {error}.') from error
    remember_content(content, path.name)
    return sys.modules[name]
