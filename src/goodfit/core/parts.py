"""Parts and their text: a part is a frozen dataclass whose fields are its settings; `spell` writes it as text."""

from __future__ import annotations

import dataclasses
import inspect
import re
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from goodfit.core.errors import UsageError
from goodfit.core.settings import check_settings, settings_of
from goodfit.core.user_code import USER_MODULE_PREFIX, import_dotted


class Part(ABC):  # noqa: B024  each kind adds its own abstract __call__
    """One exchangeable piece of training: its fields are its settings, its `__call__` is its action.

    Subclasses are frozen dataclasses. The name is the class name in snake_case (a trailing underscore dropped). `first | second`
    makes a pipe. The docstring is the part's card.
    """

    kind: ClassVar[str] = "part"
    piped: ClassVar[bool] = False  # whether a recipe takes several of this kind, one after the other
    tasks: ClassVar[tuple[str, ...]] = ("classes", "labels", "numbers")  # that it makes sense for

    def __post_init__(self) -> None:
        check_settings(self, part_name(self))

    def __or__(self, other: Part) -> Pipe:
        return Pipe((*pipe_parts(self), *pipe_parts(other)))

    def __str__(self) -> str:
        return spell(self)

    def bind(self, facts: Any) -> Self:
        """Adapt the part to its data (`facts.Facts`), once, when training is built; by default the parts inside it are adapted."""
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
class ExternalPart(Part):
    """A class or function of another package, by dotted name, with the settings it is to be called with."""

    kind: ClassVar[str] = "external"
    path: str = ""
    arguments: tuple[object, ...] = ()
    settings: tuple[tuple[str, object], ...] = ()

    def __call__(self, *first: object) -> Any:
        """Call it with the arguments of its kind, then its own settings."""
        target = import_dotted(self.path)
        try:
            inspect.signature(target).bind(*first, *self.arguments, **dict(self.settings))
        except TypeError as error:
            raise UsageError(f'"{self}" cannot be called: {error}.') from error
        except ValueError:  # a built-in that does not tell its signature
            pass
        return target(*first, *self.arguments, **dict(self.settings))

    def with_facts(self, facts: Mapping[str, object]) -> ExternalPart:
        """Fill in those of `facts` (classes, channels, size, ...) that its signature names and its settings leave open.

        A function that takes any keyword but names no classes gets `num_classes`; one of timm's gets `in_chans` too.
        """
        target = import_dotted(self.path)
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError) as error:
            raise UsageError(f'"{self}" cannot be called: {error}.') from error
        names = set(parameters)
        takes_keywords = inspect.isfunction(target) and any(x.kind is x.VAR_KEYWORD for x in parameters.values())
        if takes_keywords and not names & {"classes", "num_classes"}:
            names |= {"num_classes", "in_chans"} if self.path.partition(".")[0] == "timm" else {"num_classes"}
        return dataclasses.replace(self, settings=tuple({**{k: v for k, v in facts.items() if k in names}, **dict(self.settings)}.items()))


def snake_case(name: str) -> str:
    """`ResizedCrop` -> `resized_crop`, `None_` -> `none`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().rstrip("_")


def part_name(part: Part | type[Part]) -> str:
    """The name a part is spelled with; a part from another package is spelled with its dotted name."""
    cls = part if isinstance(part, type) else type(part)
    ours = cls.__module__.partition(".")[0] == "goodfit" or cls.__module__.startswith(USER_MODULE_PREFIX)
    return snake_case(cls.__name__) if ours else f"{cls.__module__}.{cls.__qualname__}"


def pipe_parts(part: Part) -> tuple[Part, ...]:
    """The parts of a pipe, in order; a single part counts as a pipe of one."""
    return part.parts if isinstance(part, Pipe) else (part,)


def spell(value: object, full: bool = False) -> str:
    """Write a part or literal as text; `full` includes the settings that have their defaults."""
    match value:
        case Pipe(parts):
            return " | ".join(spell(part, full) for part in parts) or "none"
        case ExternalPart(path, arguments, settings):
            values = [spell(x, full) for x in arguments] + [f"{name}={spell(x, full)}" for name, x in settings]
            return f"{path}({', '.join(values)})"
        case Part():
            return _spell_part(value, full)
        case tuple():
            inner = ", ".join(spell(x, full) for x in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _spell_part(part: Part, full: bool) -> str:
    arguments = []
    for position, setting in enumerate(settings_of(type(part))):
        value = getattr(part, setting.name)
        if full or value != setting.default:
            text = spell(value, full)
            arguments.append(text if position == 0 else f"{setting.name}={text}")
    return f"{part_name(part)}({', '.join(arguments)})" if arguments else part_name(part)
