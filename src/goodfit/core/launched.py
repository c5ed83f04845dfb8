"""What a launcher, torchrun or our own, tells a process of a training that it has started; torch is not needed for it."""

from __future__ import annotations

import os
from pathlib import Path

from goodfit.core.errors import GoodfitError, Interrupted, RankLost, Terminated

LAUNCH, RESTARTS, EXPLAINED = "GOODFIT_LAUNCH", "GOODFIT_RESTARTS", "GOODFIT_EXPLAINED"  # set by our own launcher
JOINED = "GOODFIT_JOINED"  # the number of the process that has met others


def is_launched() -> bool:
    """Whether this process is one of several that train together."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that reports: rank 0, or the only one."""
    return not is_launched() or os.environ["RANK"] == "0"


def processes_here() -> int:
    """How many processes of the training run on this machine, and share its cores."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if is_launched() else 1


def launch_id() -> str:
    """The name of the launch, which is the same after a restart; empty where there is none."""
    return os.environ.get(LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID", "") if is_launched() else ""


def is_restarted() -> bool:
    """Whether the processes were started again after one was lost."""
    return is_launched() and int(os.environ.get(RESTARTS) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def mark_joined() -> None:
    """Note that this process has met the others of its training."""
    os.environ[JOINED] = str(os.getpid())


def leave_if_joined(code: int) -> None:
    """End this process at once if it has met others: a thread of their connection that still runs would abort an end in good order.

    What it said must be written out by then.
    """
    if os.environ.get(JOINED) == str(os.getpid()):
        os._exit(code)


def claim_explanation(error: GoodfitError) -> bool:
    """Whether this process is the first of those on its machine to explain why the training ends; always, if it is the only one.

    A stop by a signal is explained by rank 0, which knows what is saved; the end of another process by our launcher, where it has one.
    """
    if not is_launched():
        return True
    if isinstance(error, RankLost) and EXPLAINED in os.environ:
        return False
    if isinstance(error, (Interrupted, Terminated)) and not is_first():
        return False
    named, of_torch = os.environ.get(EXPLAINED), os.environ.get("TORCHELASTIC_ERROR_FILE")  # .../ATTEMPT/LOCAL_RANK/error.json
    file = Path(named) if named else Path(of_torch).parent.parent / "explained" if of_torch else None
    if file is None or not file.parent.is_dir():
        return True
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
