"""Several processes of one training: started here by torch's elastic launcher, or by torchrun on any number of machines."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from goodfit.core.errors import GoodfitError, Terminated, first_line
from goodfit.core.launched import EXPLAINED, LAUNCH, RESTARTS, is_launched, mark_joined
from goodfit.core.ranks import ALONE, Ranks
from goodfit.core.reporter import Reporter
from goodfit.core.words import count_of
from goodfit.runs.watchdog import Watchdog

START_TIMEOUT = timedelta(seconds=float(os.environ.get("GOODFIT_START_TIMEOUT", "300")))  # until all processes have come
STEP_TIMEOUT = timedelta(seconds=float(os.environ.get("GOODFIT_STEP_TIMEOUT", "600")))  # that one may let the others wait; the watchdog's
MAX_SAME_TIME_SECONDS = 5  # between two processes of which one ended for the other's sake; the launcher waits for 30 s until it kills
SHUTDOWN_SECONDS = 300  # that the processes have to end a step and save after Ctrl-C


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Meet the other processes of the training that a launcher has started, within the block; alone where it has started none.

    Raises:
        GoodfitError: they did not all come.
    """
    if not is_launched():
        yield ALONE
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=START_TIMEOUT)))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun's own store outlives a restart, and so do notes in it
            store = PrefixStore(f"attempt{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=2 * STEP_TIMEOUT)
    except RuntimeError as error:
        seconds = START_TIMEOUT.total_seconds()
        raise GoodfitError(
            f"Expected {size} processes to meet at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {seconds:g} s;"
            f" rank {rank} did not find them all ({first_line(error)}): see whether each was started and reaches that address."
        ) from error
    mark_joined()
    ranks = Ranks(rank, size, store)
    watchdog = Watchdog(ranks, STEP_TIMEOUT.total_seconds())
    watchdog.start()
    try:
        yield ranks
    finally:
        watchdog.stop()
        dist.destroy_process_group()


def launch(processes: int, restarts: int, reporter: Reporter) -> int:
    """Start this command again in so many processes, and wait for their end; returns their exit code.

    Where one is killed, all are started again, at most `restarts` times, and go on from the last checkpoint. Ctrl-C and SIGTERM are
    passed on to all.
    """
    elastic = _import_launcher()
    name = uuid.uuid4().hex
    for restart in range(restarts + 1):
        with tempfile.TemporaryDirectory(prefix="goodfit-") as folder:
            explained = Path(folder) / "explained"
            os.environ |= {LAUNCH: name, RESTARTS: str(restart), EXPLAINED: str(explained), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
            config = elastic.LaunchConfig(
                1, 1, processes, run_id=name, rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
                shutdown_timeout=SHUTDOWN_SECONDS, logs_specs=elastic.DefaultLogsSpecs(log_dir=folder),
            )  # fmt: skip
            try:
                elastic.elastic_launch(config, sys.executable)("-m", "goodfit", *sys.argv[1:])
                return 0
            except elastic.SignalException as stopped:
                return 128 + int(stopped.sigval)
            except elastic.ChildFailedError as error:
                failures = error.failures
                is_explained = explained.exists()
        rank = find_killed({rank: (failure.exitcode, failure.timestamp) for rank, failure in failures.items()})
        if rank is None:
            code = exit_code_of(failure.exitcode for failure in failures.values())
            if not is_explained:
                raise GoodfitError(
                    f"Expected {processes} processes to train to the end, but one ended with exit code {code} and said nothing."
                )
            return code
        killed = f"Process {rank} of {processes} was killed by {signal.Signals(-failures[rank].exitcode).name}"
        if restart < restarts:
            reporter.say(f"{killed}: all start again and go on from the last checkpoint (restart {restart + 1} of {restarts}).")
    raise GoodfitError(f"{killed}, after {count_of(restarts, 'restart')}: the same command with --resume auto continues.")


def find_killed(failures: Mapping[int, tuple[int, float]]) -> int | None:
    """The rank that was killed by a signal, by the exit code of each and the time in seconds at which it was seen; None where an error came
    first, after which the launcher itself kills those who do not end.
    """
    first = min(at for _, at in failures.values())
    killed = (rank for rank, (code, at) in failures.items() if code < 0 and code != -signal.SIGTERM and at - first < MAX_SAME_TIME_SECONDS)
    return next(killed, None)


def exit_code_of(codes: Iterable[int]) -> int:
    """The exit code that says why several processes ended: that of an error rather than of the processes which lost or were sent away."""
    codes = set(codes)
    own = [code for code in codes if code > 0 and code not in (GoodfitError.exit_code, Terminated.exit_code)]
    return own[0] if own else GoodfitError.exit_code if GoodfitError.exit_code in codes else Terminated.exit_code


def _import_launcher() -> ModuleType:
    """Torch's elastic launcher, whose loggers are silent: what a person has to know, we say."""
    launcher = importlib.import_module("torch.distributed.launcher.api")
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return launcher
