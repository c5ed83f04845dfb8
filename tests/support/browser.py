"""A board in its own process, and a real browser before it, with axe-core."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
IS_REQUIRED = os.environ.get("GOODFIT_BROWSER") == "required"  # as `make test-browser` says: then nothing is skipped


def miss(what: str) -> None:
    """Skip a test for what is missing, or fail where it is required."""
    (pytest.fail if IS_REQUIRED else pytest.skip)(f"{what}: make test-browser installs it")


def find_browser() -> str:
    """The program of a browser."""
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        miss(f"none of {', '.join(BROWSERS)} is on the PATH")
    return str(path)


def read_axe() -> str:
    """The script of axe-core, as a package for tests has it."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@contextlib.contextmanager
def run_board(root: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL and process of `goodfit board`."""
    command = [sys.executable, "-m", "goodfit", "board", str(root), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, process.stderr.read() if process.stderr else ""
        yield found[0], process
    finally:
        process.kill()
        process.communicate()
