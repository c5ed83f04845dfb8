"""Forks that a page begins: `goodfit train --fork` in a process of its own, which goes on when the board ends."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodfit.board.alerts import Alert
from goodfit.board.notes import NOTES_FILE
from goodfit.core.checkpoint_files import saved_steps
from goodfit.core.dotted_names import dotted_names
from goodfit.core.errors import GoodfitError, Interrupted, Terminated, UsageError, unknown_name
from goodfit.core.escapes import escape_controls
from goodfit.core.files import explain_write_errors
from goodfit.core.run import is_run
from goodfit.core.trust import current_trust
from goodfit.core.words import list_some
from goodfit.recipe.cards import read_cards, refuse_unknown_parts, top_names
from goodfit.recipe.recipe import Recipe

LR = "lr"  # the setting of the optimizer, as --lr sets it
FIELDS = (  # of the recipe that a page may change: parts, numbers and lengths; none names files, devices or code
    "optimizer", "schedule", "budget", "augment", "batch_size", "loss", "penalty", "average", "plateau", "stop", "trainable", "rates",
    "resolution", "sampler", "clip", "clip_value", "seed", "evaluate_every", "save_every",
)  # fmt: skip
HELP = {LR: "The peak learning rate."} | {f.name: f.metadata["help"] for f in dataclasses.fields(Recipe) if f.name in FIELDS}
MAX_FORKS = 3  # that train at a time
MAX_NAME_BYTES, MAX_VALUE_LENGTH = 120, 2000
NAME = re.compile(r"\w[\w+-]*(\.[\w+-]+)*")
LOG_SUFFIX = ".fork.log"  # of the file beside the runs that has what the process prints
LAST_BYTES = 8192  # of that file, in which its last line is looked for
FINE_CODES = (0, Interrupted.exit_code, Terminated.exit_code)


@dataclasses.dataclass(frozen=True)
class Fork:
    """A fork that was started: the key of the run that it goes on from, and its process."""

    origin: str
    process: subprocess.Popen[bytes]


class Forks:
    """The forks that this board has started in its folder of runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trust = current_trust().to_options()
        self._forks: dict[str, Fork] = {}  # by name: those that train, and those that ended badly
        self._lock = threading.Lock()

    def start(self, origin: str, run: Path, step: Any, values: Mapping[str, Any], name: Any) -> list[str]:
        """Start a fork of the run with the key `origin` in the folder `name`, and return its command; its output goes to `name`.fork.log.

        Args:
            step: of the checkpoint; None for the last.
            values: texts by the field of the recipe, or "lr".

        Raises:
            UsageError: there is no such checkpoint, or a field, a value or the name is not one that a page may give.
            GoodfitError: as many train already as may, or the file cannot be written.
        """
        if step is not None and (type(step) is not int or step not in saved_steps(run / "checkpoints")):
            raise UsageError(f"Expected a step of which there is a checkpoint, received {step!r}: open the dialog again.")
        options = read_options(Recipe.of_run(run), values)
        place = str(run) if step is None else f"{run}@{step}"
        with self._lock:
            out = self._check_name(name)
            running = [fork for fork in self._forks.values() if fork.process.poll() is None]
            if len(running) >= MAX_FORKS:
                raise GoodfitError(f"Expected at most {MAX_FORKS} forks that train at a time: wait until one has ended, or stop it.")
            command = [sys.executable, "-P", "-m", "goodfit", "train", "--fork", place, *options, "--out", str(out), *self._trust]
            log = self.root / f"{out.name}{LOG_SUFFIX}"
            with explain_write_errors(log):
                log.unlink(missing_ok=True)
                with log.open("xb") as output:  # which follows no link
                    process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                    )
            self._forks[out.name] = Fork(origin, process)
        return command

    def _check_name(self, name: Any) -> Path:
        """The folder of a new run of this name."""
        if (
            not isinstance(name, str) or not NAME.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES
            or name == NOTES_FILE or name.endswith(LOG_SUFFIX)
        ):  # fmt: skip
            raise UsageError("Expected a name of letters, digits and . _ - + for the new run, received another.")
        if is_run(self.root):
            raise UsageError("Expected a board of a folder of runs to fork one in, but this is the board of one run.")
        fork = self._forks.get(name)
        if os.path.lexists(self.root / name) or (fork and fork.process.poll() is None):
            raise UsageError(f'There is something of the name "{name}" already: choose another.')
        return self.root / name

    def alerts(self) -> list[Alert]:
        """An alert for each fork that ended badly: of its run, or of that which it was to go on from where it has none."""
        with self._lock:
            codes = {name: fork.process.poll() for name, fork in self._forks.items()}
            self._forks = {name: fork for name, fork in self._forks.items() if codes[name] not in FINE_CODES}
            ended = [(name, fork, codes[name]) for name, fork in self._forks.items()]
        return [
            Alert(
                name if is_run(self.root / name) else fork.origin, "error", f"fork {name}",
                f'The fork "{name}" {describe_end(self.root / f"{name}{LOG_SUFFIX}", code)}', f"Its output is in {name}{LOG_SUFFIX}.",
            )
            for name, fork, code in ended
            if code is not None
        ]  # fmt: skip


def describe_forking(run: Path) -> dict[str, Any]:
    """What a page offers to fork a run by: the "steps" of its checkpoints, and the "fields" with their value and help.

    Raises:
        UsageError: its recipe does not read, or it has no checkpoint.
    """
    if not (steps := saved_steps(run / "checkpoints")):
        raise UsageError("This run has no checkpoint to fork from.")
    plain = Recipe.of_run(run).plain()
    rate = find_rate(str(plain["optimizer"]))
    values = ({LR: rate} if rate else {}) | {field: str(plain[field]) for field in FIELDS}
    return {"steps": steps, "fields": [{"name": field, "value": value, "help": HELP[field]} for field, value in values.items()]}


def find_rate(optimizer: str) -> str:
    """The learning rate in the text of an optimizer, or its default; empty where it has none, as where it is in a part within."""
    cards = [card for card in read_cards() or [] if card["kind"] == "optimizer" and top_names(optimizer) == [card["name"]]]
    names = [setting["name"] for card in cards for setting in card["settings"]]
    if LR not in names:
        return ""
    call = ast.parse(optimizer.strip(), mode="eval").body
    given = dict(zip(names, call.args, strict=False)) if isinstance(call, ast.Call) else {}
    given |= {str(keyword.arg): keyword.value for keyword in call.keywords} if isinstance(call, ast.Call) else {}
    default = next(str(setting["default"]) for setting in cards[0]["settings"] if setting["name"] == LR)
    return ast.unparse(given[LR]) if LR in given else default


def read_options(recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
    """The options of `goodfit train` by which a recipe is changed to these texts.

    Raises:
        UsageError: a field is none that a page may change, or a value is none of its field, or names code.
    """
    for field, text in values.items():
        if field not in HELP:
            raise UsageError(unknown_name("field", field, HELP))
        if not (isinstance(text, str) and text.strip() and text.isprintable() and len(text) <= MAX_VALUE_LENGTH):
            raise UsageError(f"Expected a value of up to {MAX_VALUE_LENGTH} characters for {field}, received another.")
    if {LR, "optimizer"} <= values.keys():
        raise UsageError("Expected one of the learning rate and the optimizer, received both: write the rate into the optimizer.")
    texts = {field: text.strip() for field, text in values.items() if field != LR}
    changed = recipe.but_text(texts)
    if names := [name for field in texts for name in dotted_names(str(getattr(changed, field)))]:
        raise UsageError(f"Expected parts of goodfit parts, received code of another package: {list_some(names)}. Fork it in a terminal.")
    refuse_unknown_parts(changed)
    options = [word for field, text in texts.items() for word in ("--set", f"{field}={text}")]
    return [*options, "--lr", repr(read_rate(values[LR]))] if LR in values else options


def read_rate(text: str) -> float:
    """A learning rate.

    Raises:
        UsageError: it is none.
    """
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(text)) < math.inf:
            return rate
    raise UsageError(f'Expected a learning rate above 0, received "{text}".')


def describe_end(log: Path, code: int) -> str:
    """How a process ended that did not end well: the last line it has printed, or the signal that has killed it."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"was killed by {name}."
    lines: list[str] = []
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing.")
    return f"ended with exit code {code}: {escape_controls(last.removeprefix('goodfit: '))}"
