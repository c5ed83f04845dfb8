"""Decides which code that a recipe or run names may run on this machine.

Recipes and run folders may come from anyone, and name code: by dotted names, and by files of parts. It runs if the user named it himself
(in options of a command, or in the recipe of a program), if it ran here before, or if --trust lets it. What ran is remembered in a file of
the user's: a name, or the call of a function, with the place it is imported from; a file by its SHA-256.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from goodfit.core.dotted_names import dotted_calls, name_of_call
from goodfit.core.errors import UsageError
from goodfit.core.words import list_some

REGISTER_FILE = "known_code.jsonl"  # in the user's folder of settings: a line for each name, call and file
KNOWN_VARIABLE = "GOODFIT_KNOWN_CODE"  # of the environment: what a command that starts others knows
OF_TORCH = ("torch.nn", "torch.optim")
CODE_LOADERS = ("torch.hub",)  # whose functions fetch code and run it: what they fetch may change, so they are never known


class UntrustedCode(UsageError):
    """A recipe or run that was not made here names code, and the user has not said that he trusts it."""


@dataclasses.dataclass(frozen=True)
class Trust:
    """What --trust lets run: with `allows_classes` the files and classes of others, and the functions of the `packages` or modules."""

    allows_classes: bool = False
    packages: frozenset[str] = frozenset()

    def to_options(self) -> list[str]:
        """The options of a command that say the same."""
        packages = [f"--trust={','.join(sorted(self.packages))}"] if self.packages else []
        return packages or (["--trust"] if self.allows_classes else [])


_trust: ContextVar[Trust] = ContextVar("trust", default=Trust())  # noqa: B039  it is frozen
_known_now: set[tuple[str, str]] = set()  # in this process: what the user named in it, and what ran in it


@contextlib.contextmanager
def use_trust(trust: Trust) -> Iterator[None]:
    """Let what `trust` says decide within the block."""
    before = _trust.set(trust)
    try:
        yield
    finally:
        _trust.reset(before)


@contextlib.contextmanager
def trust_code(*packages: str) -> Iterator[None]:
    """Let the code of recipes and runs from elsewhere run within the block, as --trust does; functions only of the `packages` named."""
    with use_trust(dataclasses.replace(_trust.get(), allows_classes=True, packages=_trust.get().packages | set(packages))):
        yield


def trust_own_code(texts: Iterable[str], files: Iterable[str | Path] = ()) -> None:
    """Let the code run, as long as this process lasts, that the user himself named in texts of parts, and files of parts as they are now.

    Raises:
        UsageError: a text is too long for a part.
    """
    calls = [call for text in texts for call in dotted_calls(text)]
    _known_now.update(_name_key(name) for call in calls for name in (call, name_of_call(call)))
    _known_now.update(map(_content_key, _read_files(files).values()))


def current_trust() -> Trust:
    """What --trust lets run now."""
    return _trust.get()


def known_code_environment() -> dict[str, str]:
    """The variable of the environment by which a command that this process starts knows what is known here."""
    return {KNOWN_VARIABLE: json.dumps(sorted(_known_now | _read_environment()))}


def require_trust(where: str, names: Iterable[str], files: Iterable[str | Path] = ()) -> None:
    """Refuse code that is not known here, that the user has not named, and that --trust does not let run; and always Python's own library.

    Raises:
        UntrustedCode: there is some; the sentence lists all of it.
        UsageError: a name is of Python's own library.
    """
    _require_known(where, names, _read_files(files))


def require_file_trust(file: Path, content: bytes) -> None:
    """Refuse the content of a file of parts as `require_trust` does.

    Raises:
        UntrustedCode: it is not known here, and neither named nor trusted.
    """
    _require_known("This", [], {str(file): content})


def _require_known(where: str, names: Iterable[str], contents: Mapping[str, bytes]) -> None:
    names = list(dict.fromkeys(names))
    if of_python := [name for name in names if name.partition(".")[0] in sys.stdlib_module_names]:
        raise UsageError(f'"{of_python[0]}" is of Python\'s own library, of which nothing is taken as a part.')
    if _trust.get().allows_classes:
        return
    keys = {file: _content_key(content) for file, content in contents.items()}
    unknown = [f"{file} (SHA-256 {key[1][:16]})" for file, key in keys.items() if not _is_known(key)]
    unknown += [name for name in names if not (_comes_with_torch(name) or _is_known(_name_key(name)))]
    if unknown:
        raise UntrustedCode(
            f"{where} would run code that was not named on this machine before: {list_some(unknown, 5)}. Look at it, and if you trust it,"
            " repeat the command with --trust; in Python, use goodfit.trust_code()."
        )


def _comes_with_torch(name: str) -> bool:
    """Whether a name is of torch's own networks and optimizers, which run nothing of others; what calls a function is asked for besides."""
    return any(_is_within(name, package) for package in OF_TORCH) and not _import_place(name)


def require_call_trust(call: str, module: str) -> None:
    """Refuse the call of a function, as spelled, that is not known with these arguments, nor of a package that --trust=PACKAGE names.

    `module` is where the function is defined. Those that fetch code run only where --trust names their own module.

    Raises:
        UntrustedCode: it may not run.
    """
    name = name_of_call(call)
    loader = next((loader for loader in CODE_LOADERS if _is_within(name, loader) or _is_within(module, loader)), "")
    named = [package for package in _trust.get().packages if _is_within(package, loader or package)]
    if any(_is_within(place, package) for package in named for place in (name, module)):
        return
    if loader:
        raise UntrustedCode(
            f'"{name}" is of {loader}, which fetches code from elsewhere and runs it: that needs --trust={loader}; in Python,'
            f' goodfit.trust_code("{loader}").'
        )
    if not _is_known(_name_key(call)):
        raise UntrustedCode(
            f'"{call[:200]}" calls a function, and of code from elsewhere those run only if their package is named:'
            f" --trust={name.partition('.')[0]}."
        )


def _is_within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def remember_name(name: str) -> None:
    """Remember a name, or the call of a function as spelled, that was allowed to run, with the place it is imported from."""
    _remember(_name_key(name), name)


def remember_content(content: bytes, name: str) -> None:
    """Remember the content of a file that was allowed to run; `name` is for who reads the register."""
    _remember(_content_key(content), name)


def is_known_content(content: bytes) -> bool:
    """Whether a content was remembered here, or is of a file that the user named."""
    return _is_known(_content_key(content))


# ---- what is known here ----------------------------------------------------------------------------------------------------------


def _name_key(name: str) -> tuple[str, str]:
    return name, _import_place(name)


def _read_files(files: Iterable[str | Path]) -> dict[str, bytes]:
    """The contents of files by path; one that does not read is left out, and refused where it is imported."""
    contents = {}
    for file in map(Path, files):
        with contextlib.suppress(OSError):
            if file.is_file():  # and no pipe or device
                contents[str(file)] = file.read_bytes()
    return contents


def _content_key(content: bytes) -> tuple[str, str]:
    return "sha256", hashlib.sha256(content).hexdigest()


def _import_place(name: str) -> str:
    """The file that the package of a name is imported from; empty for what is installed, wherever that is."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return ""
    place = (spec.origin or next(iter(spec.submodule_search_locations or ()), "")) if spec else ""
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages()}
    return "" if not place or any(Path(place).is_relative_to(folder) for folder in installed) else str(Path(place).resolve())


def _register_file() -> Path | None:
    """The file of what is known here; None for a user without a home folder."""
    with contextlib.suppress(RuntimeError):
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return folder / "goodfit" / REGISTER_FILE
    return None


def _is_known(key: tuple[str, str]) -> bool:
    return key in _known_now or key in _read_environment() or key in _read_register()


def _read_register() -> set[tuple[str, str]]:
    known = set[tuple[str, str]]()
    file = _register_file()
    with contextlib.suppress(OSError):
        for line in file.read_bytes().split(b"\n") if file else ():
            with contextlib.suppress(ValueError, RecursionError):  # a torn line is not known
                known |= _read_keys([json.loads(line)])
    return known


def _read_environment() -> set[tuple[str, str]]:
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        return _read_keys(json.loads(os.environ.get(KNOWN_VARIABLE, "[]")))
    return set()


def _read_keys(rows: Iterable[object]) -> set[tuple[str, str]]:
    return {(row[0], row[1]) for row in rows if isinstance(row, list) and len(row) >= 2 and all(isinstance(x, str) for x in row[:2])}


def _remember(key: tuple[str, str], remark: str) -> None:
    _known_now.add(key)
    if key in _read_register():
        return
    file = _register_file()
    with contextlib.suppress(OSError):  # a folder that cannot be written: known while this process lasts
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as opened:
                opened.write(f"\n{json.dumps([*key, remark])}")  # a line of its own after one that a kill has torn
