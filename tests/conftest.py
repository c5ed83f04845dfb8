"""What all tests share: one thread, a cache of their own, and a folder of small photos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test asks for more threads, they do not spin beside the other workers
os.environ["NO_COLOR"] = "1"

import pytest
import torch

from goodfit.core.trust import trust_code
from tests.support.command import train
from tests.support.photos import make_photos

torch.set_num_threads(1)
# No test cuts the power; the order of syncing and renaming is tested by itself. Where the disk is slow, waiting for it takes a minute.
os.fsync = lambda handle: None


def pytest_runtest_setup() -> None:
    """One thread, whatever the test before has set: more of them than there are free cores wait for each other."""
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what slow tests counted: kills, damages, cases."""
    for report in terminalreporter.getreports("passed"):
        if "slow" in report.keywords and report.capstdout.strip():
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {report.capstdout.strip().splitlines()[-1]}")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches and settings of this run's own, which go with its other files."""
    for name in ("GOODFIT_CACHE", "TORCHINDUCTOR_CACHE_DIR", "XDG_CONFIG_HOME"):
        os.environ[name] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def trust() -> Iterator[None]:
    """Tests are programs that trust what they make; a command decides by its own words (`tests/test_trust.py`)."""
    with trust_code("tests"):
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run on red, green and blue."""
    out = tmp_path_factory.mktemp("source") / "colors"
    said = train(photos, out, model="convnet(4)", optimizer="sgd(0.05)", budget="3 epochs")
    assert said.code == 0, said
    return out
