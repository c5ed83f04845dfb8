"""Runs the doctor on case files, each in a process of its own, and keeps its lines; what has a line is not run again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCTOR = (sys.executable, "-m", "goodfit", "doctor")
MAX_SECONDS = 900  # of one case
SILENT: dict[str, Any] = {"verdict": "healthy", "component": None, "causes": [], "alarm": False, "steps": 0, "trial_steps": 0}


def run_doctor(folder: Path, lines: Path, command: Sequence[str] = DOCTOR) -> None:
    """Run the doctor on every case file of a folder that has no line yet.

    Args:
        folder: of the case files.
        lines: the JSON lines; a case on which the doctor fails gets a silent one that holds the error.
        command: to which the case file and `--json` are added.
    """
    done = {Path(line["case"]).name for line in read_lines(lines)}
    cases = [path for path in sorted(folder.glob("case_*.py")) if path.name not in done]
    for number, path in enumerate(cases, 1):
        line = examine(path, command)
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{number}/{len(cases)} {path.name}: {line['verdict']} {[cause['cause'] for cause in line['causes'][:1]]}", flush=True)


def examine(path: Path, command: Sequence[str] = DOCTOR) -> dict[str, Any]:
    """What the doctor says of one case file."""
    started = time.perf_counter()
    try:
        done = subprocess.run([*command, str(path), "--json"], capture_output=True, text=True, timeout=MAX_SECONDS, check=False)
        line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        line = {**SILENT, "error": f"no answer after {MAX_SECONDS} s"}
    except (IndexError, ValueError):
        line = {**SILENT, "error": done.stderr[-500:]}
    return {"seconds": time.perf_counter() - started, **line, "case": path.name}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, none if there is no file."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
