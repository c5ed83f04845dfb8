"""Obeying the commands that another process sends to a running training (see `core.steering`), and those that its recipe holds."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.files import lock, remove, write_atomic
from goodfit.core.parts import Part, pipe_parts
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import WARNING
from goodfit.core.run_files import DamagedFile, explain_damage, read_json, write_json
from goodfit.core.steering import CLOSED, LOCK, PAUSE, RECORDED, STOP
from goodfit.core.words import count_of
from goodfit.training.rules.steering import Command, Finish, Lr, Snapshot

COMMANDS: dict[str, type[Command]] = dict(zip(RECORDED, (Lr, Snapshot, Finish), strict=True))
POLL_SECONDS = 0.2
SETTLED_NS = 100_000_000  # a folder that changed later than so long ago may change again within a tick of its clock


@dataclasses.dataclass(frozen=True)
class Orders:
    """What is wanted of a training before its next step: the factor of its learning rate, and whether to keep a snapshot, to end as by a
    stop rule, to stop where it is, to wait.
    """

    lr_factor: float = 1.0
    snapshot: bool = False
    finish: bool = False
    stop: bool = False
    pause: bool = False


def no_orders(step: int) -> Orders:
    """The orders of a training that nobody steers."""
    return Orders()


class Steering:
    """Reads the letters in a folder of a run, and the commands that its recipe has, before each step.

    A new command gets the step at which it is read, is recorded by `record`, and only then is its letter removed: whenever the process is
    killed, the resumed run obeys at the same step, and once. A letter that does not read changes nothing, and `warn` gets a sentence, once.
    """

    def __init__(
        self,
        folder: Path,
        commands: Iterable[Command] = (),
        record: Callable[[tuple[Command, ...]], None] = lambda commands: None,
        warn: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.folder, self.commands, self.record, self.warn = folder, tuple(commands), record, warn
        self.is_stopped = self.is_paused = False
        self._modified_ns = -1
        self._ignored: set[Path] = set()

    def __call__(self, step: int) -> Orders:
        """The orders before the step after `step`; reads the disk only when the folder has changed."""
        with contextlib.suppress(FileNotFoundError):
            modified = self.folder.stat().st_mtime_ns
            if modified != self._modified_ns:
                self._read(step)
                if time.time_ns() - modified > SETTLED_NS:
                    self._modified_ns = modified
        now = [command for command in self.commands if command.step == step]
        return Orders(
            math.prod(command.factor for command in self.commands if isinstance(command, Lr) and command.step <= step),
            any(isinstance(command, Snapshot) for command in now),
            any(isinstance(command, Finish) for command in now),
            self.is_stopped,
            self.is_paused,
        )

    def close(self) -> list[str]:
        """Read no more letters; returns a warning of those that came too late, if any did."""
        with lock(self.folder / LOCK):
            late = [path for path in (*self.folder.glob("*.json"), self.folder / PAUSE, self.folder / STOP) if path.exists()]
            for path in late:
                remove(path)
            write_atomic(self.folder / CLOSED, "")
        return [f"{WARNING}{count_of(len(late), 'command')} by hand came after the last step, too late."] if late else []

    def _read(self, step: int) -> None:
        """Adopt and record the commands of new letters, those for the next step."""
        with lock(self.folder / LOCK):
            letters = self._letters(step)
            if letters:
                known = Counter(self.commands) | Counter(command for _, command in letters)
                self.commands = tuple(sorted(known.elements(), key=lambda command: (command.step, str(command))))
                self.record(self.commands)
            for path, _ in letters:
                remove(path)
            if (self.folder / STOP).exists():
                remove(self.folder / STOP)
                self.is_stopped = True
            self.is_paused = (self.folder / PAUSE).exists()

    def _letters(self, step: int) -> list[tuple[Path, Command]]:
        """The letters that read, with their commands; those that had no step yet get one, in their file too."""
        letters = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                letter = read_json(path)
                with explain_damage(path):
                    command = command_of(letter, step)
            except DamagedFile as error:
                if path not in self._ignored:
                    self._ignored.add(path)
                    self.warn(f"{WARNING}{error} Until then it is ignored.")
                continue
            if "step" not in letter:
                while command in self.commands:  # the same, at the same step, of the run that this one repeats
                    command = dataclasses.replace(command, step=command.step + 1)
                write_json(path, {**letter, "step": command.step})
            letters.append((path, command))
        return letters


def command_of(letter: dict[str, Any], step: int) -> Command:
    """The command in a letter, for `step` where it names none.

    Raises:
        ValueError: it is none.
    """
    settings = {key: value for key, value in letter.items() if key not in ("command", "sha256")}
    name = letter.get("command", "lr")  # which earlier versions left out
    if name not in COMMANDS or (name == "lr") != ("factor" in settings):
        raise ValueError(f"expected one of the commands {', '.join(COMMANDS)}, lr with its factor, found {letter}")
    try:
        return COMMANDS[str(name)](**{"step": step, **settings})
    except (UsageError, TypeError) as error:
        raise ValueError(str(error)) from error


def commands_in(part: Part) -> tuple[Command, ...]:
    """The commands of a recipe's part or pipe.

    Raises:
        UsageError: there is another part among them.
    """
    commands: list[Command] = []
    for command in pipe_parts(part):
        if not isinstance(command, Command):
            raise UsageError(f'Expected the commands {", ".join(COMMANDS)} to steer by, received "{command}".')
        commands.append(command)
    return tuple(commands)


def agreed_orders(
    ranks: Ranks, step: int, steering: Callable[[int], Orders], halt: Callable[[], bool], on_pause: Callable[[bool], None]
) -> Orders:
    """Rank 0's orders, which all obey; during a pause it waits, and calls `on_pause`, with whether that is the first time."""
    is_first_time = True
    while True:
        own = steering(step)
        factor, *switches = ranks.broadcast_numbers(own.lr_factor, own.snapshot, own.finish, own.stop or halt(), own.pause)
        orders = Orders(factor, *map(bool, switches))
        if orders.stop or not orders.pause:
            return orders
        on_pause(is_first_time)
        is_first_time = False
        time.sleep(POLL_SECONDS)
