"""The machine: device, threads, precision, memory and its description."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from goodfit.core.errors import UsageError
from goodfit.core.launched import processes_here
from goodfit.core.memory import available_memory


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, else any other accelerator there is, else the CPU.

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        if reason.startswith("Expected one of"):  # torch's list of every device type there ever was
            reason = "expected auto, cpu, cuda, cuda:1, mps or another that torch knows"
        raise UsageError(f'The device "{name}" is not there: {reason}.') from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; who wants speed takes bf16
    if device.type == "meta":
        raise UsageError('The device "meta" holds no numbers: expected auto, cpu, cuda, cuda:1, mps or another that computes.')
    return device


def physical_cores() -> int:
    """Physical cores this process may use; several processes of one training share those of a machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed) // processes_here())


def configure_torch(threads: int) -> None:
    """Set up torch: the number of compute threads, deterministic kernels, and an allocator that keeps freed pages."""
    torch.set_num_threads(threads)
    torch._C._set_deterministic_algorithms(True, warn_only=True)  # torch.use_deterministic_algorithms also imports the compiler: a second
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that fills every new tensor
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _keep_freed_pages()


def uses_glibc() -> bool:
    """Whether memory is allocated by glibc."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def release_freed_pages() -> None:
    """Return to the system what is free now: for when blocks of other sizes will be needed than before."""
    if uses_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _keep_freed_pages() -> None:
    """Tell glibc not to return big blocks to the system: page faults cost a third of a large batch's step."""
    if not uses_glibc():
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for option, value in ((mmap_threshold, 2**30), (trim_threshold, 2**31 - 1), (top_pad, 2**26)):
        mallopt(option, value)


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Run the forward pass in bfloat16 where it is safe; nothing under fp32."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def memory_format(layout: str) -> torch.memory_format:
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed the generators that noise layers draw from (the default one directly: `torch.manual_seed` costs eighty times more)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def free_memory(device: torch.device) -> int:
    """The bytes of memory that are free now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    texts = ("out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def cpu_name() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a run records of the machine."""
    return {
        "cpu": cpu_name(),
        "cores": physical_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
