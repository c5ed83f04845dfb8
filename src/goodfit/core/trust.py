"""Which code of a user's own may run: what is known on this machine because its user named it here once, and else what --trust lets run.

Names and files of code stand in recipes and run folders, which may come from anyone. What the user names himself, on a command line or in a
program, runs, and is remembered in a file of his: names with the place they are imported from, files by their SHA-256.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from goodfit.core.errors import UsageError
from goodfit.core.words import list_some

REGISTER_FILE = "known_code.jsonl"  # in the user's folder of settings: a line for each name and file
DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class UntrustedCode(UsageError):
    """A recipe or run that was not made here names code, and the user has not said that he trusts it."""


@dataclasses.dataclass(frozen=True)
class Trust:
    """What may run besides the code that is known here.

    `words` are the user's own, of a command line or a program: names and files in them run. `is_given` lets the files and classes of
    others run, too, and `packages` also the functions of those packages.
    """

    words: tuple[str, ...] = ()
    is_given: bool = False
    packages: frozenset[str] = frozenset()

    def names(self, name: str) -> bool:
        """Whether a dotted name stands in the words."""
        return any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", word) for word in self.words)

    def names_file(self, file: Path) -> bool:
        """Whether a file is one of the words, or the value of one like --use=FILE."""
        places = {place for word in self.words for place in (word, word.partition("=")[2]) if place}
        return any(_resolve(place) == _resolve(file) for place in places)


_trust: ContextVar[Trust] = ContextVar("trust", default=Trust())  # noqa: B039  it is frozen
_known_now: set[tuple[str, str]] = set()  # of this process, where the file of the register cannot be written


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
    with use_trust(dataclasses.replace(_trust.get(), is_given=True, packages=_trust.get().packages | set(packages))):
        yield


@contextlib.contextmanager
def trust_words(words: Iterable[object]) -> Iterator[None]:
    """Take what a program passes as the user's own words within the block."""
    with use_trust(dataclasses.replace(_trust.get(), words=(*_trust.get().words, *map(str, words)))):
        yield


def dotted_names(text: str) -> list[str]:
    """The dotted names in the text of a part, such as torch.optim.Adadelta in "sam(torch.optim.Adadelta(lr=0.5))"."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # which makes no part
    found = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [name for name in dict.fromkeys(found) if not any(other.startswith(f"{name}.") for other in found)]


def require_trust(where: str, names: Iterable[str], files: Iterable[Path] = ()) -> None:
    """Refuse code that is not known here, that the user has not named, and that --trust does not let run; and always Python's own library.

    Raises:
        UntrustedCode: there is some; the sentence lists all of it.
        UsageError: a name is of Python's own library.
    """
    trust, names = _trust.get(), list(dict.fromkeys(names))
    if own := [name for name in names if name.partition(".")[0] in sys.stdlib_module_names]:
        raise UsageError(f'"{own[0]}" is of Python\'s own library, of which nothing is taken as a part.')
    if trust.is_given:
        return
    unknown = [f"{file} (SHA-256 {_hash(file)[:16]})" for file in files if not (trust.names_file(file) or _is_known(_file_key(file)))]
    unknown += [name for name in names if not (trust.names(name) or _is_known(_name_key(name)))]
    if unknown:
        raise UntrustedCode(
            f"{where} would run code that was not named on this machine before: {list_some(unknown, 5)}. Look at it, and if you trust it,"
            " repeat the command with --trust; in Python, use goodfit.trust_code()."
        )


def require_named_package(name: str) -> None:
    """Refuse a function that neither the user has named, nor is of a package that --trust=PACKAGE names, nor is known here.

    Raises:
        UntrustedCode: it is none of them.
    """
    trust, package = _trust.get(), name.partition(".")[0]
    if not (trust.names(name) or package in trust.packages or _is_known(_name_key(name))):
        raise UntrustedCode(
            f'"{name}" is a function, and of code from elsewhere those run only if their package is named: --trust={package}.'
        )


def remember_name(name: str) -> None:
    """Remember a name that was allowed to run, with the place it is imported from."""
    _remember(_name_key(name), name)


def remember_file(file: Path) -> None:
    """Remember the content of a file that was allowed to run."""
    _remember(_file_key(file), file.name)


# ---- what is known here ----------------------------------------------------------------------------------------------------------


def _name_key(name: str) -> tuple[str, str]:
    return name, _import_place(name)


def _file_key(file: Path) -> tuple[str, str]:
    return "sha256", _hash(file)


def _resolve(place: str | Path) -> Path:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a word that is no path
        return Path(place).expanduser().resolve()
    return Path(place)


def _hash(file: Path) -> str:
    with contextlib.suppress(OSError):  # one that is gone is refused where it is read
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return ""


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
    return key in _known_now or key in _read_register()


def _read_register() -> set[tuple[str, str]]:
    known = set[tuple[str, str]]()
    file = _register_file()
    with contextlib.suppress(OSError):
        for line in file.read_bytes().split(b"\n") if file else ():
            with contextlib.suppress(ValueError, RecursionError):  # a torn line is not known
                match json.loads(line):
                    case [str(name), str(value), *_]:
                        known.add((name, value))
    return known


def _remember(key: tuple[str, str], remark: str) -> None:
    if _is_known(key):
        return
    _known_now.add(key)
    file = _register_file()
    with contextlib.suppress(OSError):  # a folder that cannot be written: known while this process lasts
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as opened:
                opened.write(f"\n{json.dumps([*key, remark])}")  # a line of its own after one that a kill has torn
