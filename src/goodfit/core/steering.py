"""Commands for a training that is running, which another process leaves in a folder of its run; torch is not needed to send them."""

from __future__ import annotations

import math
from pathlib import Path

from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.files import explain_write_errors, lock, remove, write_atomic
from goodfit.core.run import PAUSE_FILE, STEERING_FOLDER, Run, is_busy
from goodfit.core.run_files import write_json

PAUSE, CONTINUE, STOP = PAUSE_FILE, "continue", "stop"  # which change nothing of the result; the first and last are files of the folder
SENTENCES = {  # what comes of each command
    "lr": "The learning rate of {run} will be multiplied by {factor:g} at its next step.",
    "snapshot": "The weights of {run} at its next step will be kept as a snapshot.",
    "finish": "{run} will end at its next step: its model is evaluated, kept and reported.",
    PAUSE: "{run} will save and wait at its next step: goodfit steer {run} --continue goes on.",
    CONTINUE: "{run} goes on.",
    STOP: "{run} will save and stop at its next step: --resume auto continues it.",
}
LOCK, CLOSED = ".lock", "closed"  # in the folder; the second is there once no more commands are read
RECORDED = ("lr", "snapshot", "finish")  # by the recipe, as they change what comes of the training; sent as numbered files


def send(run: Run, command: str, factor: float | None = None) -> str:
    """Ask a training that is running for something before its next step; returns what will happen, in a sentence.

    `command` is one of RECORDED, "lr" with the `factor` of the learning rate, or pause, continue or stop.

    Raises:
        UsageError: the run is not running, there is no such command, or it makes no sense now.
    """
    if command not in SENTENCES:
        raise UsageError(unknown_name("command", command, list(SENTENCES)))
    if (factor is None) == (command == "lr"):
        raise UsageError(f"Expected a factor beside the command lr alone, received {factor} beside {command}.")
    if factor is not None and not 0 < factor < math.inf:
        raise UsageError(f"Expected the factor of the learning rate to be above 0, received {factor:g}.")
    require_running(run)
    folder = run.path / STEERING_FOLDER
    if command in (PAUSE, CONTINUE) and (folder / PAUSE).exists() != (command == CONTINUE):
        raise UsageError(f'Expected "{run.path}" {"not to be paused, but it is" if command == PAUSE else "to be paused, but it is not"}.')
    post(folder, command, factor)
    return SENTENCES[command].format(run=run.path, factor=factor)


def post(folder: Path, command: str, factor: float | None = None) -> None:
    """Leave a letter with a command in a folder, or, to continue, take that away which asks for a pause.

    Raises:
        UsageError: the training reads no more letters.
    """
    with explain_write_errors(folder), lock(folder / LOCK):
        if (folder / CLOSED).exists():
            raise UsageError(f'The training of "{folder.parent}" has taken its last step: it is scored now.')
        if command in RECORDED:
            number = max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=-1) + 1
            write_json(folder / f"{number:04d}.json", {"command": command, **({"factor": factor} if factor is not None else {})})
        elif command == CONTINUE:
            remove(folder / PAUSE)
        else:
            write_atomic(folder / command, "")


def clear_letters(run: Run) -> None:
    """Remove what asked a process that is gone to wait or to stop, before another goes on with its run."""
    for name in (PAUSE, STOP, CLOSED):
        remove(run.path / STEERING_FOLDER / name)


def require_running(run: Run) -> None:
    """Refuse to steer a run that is not trained now.

    Raises:
        UsageError: it is not.
    """
    if (state := run.read("about.json", "state")["state"]) != "running":
        raise UsageError(f'Expected "{run.path}" to be a run that is training now, but it is {state}.')
    if is_busy(run) is False:
        raise UsageError(f'Expected "{run.path}" to be a run that is training now, but its process was killed: --resume auto continues it.')
