"""Examine a folder of case files: a process and a time limit for each, and what is known already is not examined again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from goodfit.core.errors import DataError

RESULTS_FILE = "doctor.jsonl"
MAX_CASE_SECONDS = 900.0


def examine_folder(
    folder: Path, seed: int, jobs: int, limit: float = MAX_CASE_SECONDS, warn: Callable[[str], None] = lambda line: None
) -> Iterator[dict[str, Any]]:
    """Examine every case file of a folder; yields the doctor's answers as they come.

    They are kept in `doctor.jsonl` in the folder and taken from there if neither the case, nor a Python file beside it, nor the doctor has
    changed since.

    Raises:
        DataError: there are no case files.
    """
    cases = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    if not cases:
        raise DataError(f"Expected case files (*.py) in {folder}, found none.")
    shared = hash_files(tuple(cases))
    known = read_results(folder / RESULTS_FILE)
    keys = {case: hashlib.sha256(f"{case.name} {seed} {shared} {hash_program()}".encode()).hexdigest()[:16] for case in cases}
    yield from (known[keys[case]] for case in cases if keys[case] in known)
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(examine_in_process, case, seed, limit): case for case in cases if keys[case] not in known}
        try:
            for done in as_completed(running):
                answer = done.result()
                if "error" in answer:  # another time it may work
                    yield answer
                    continue
                try:
                    with (folder / RESULTS_FILE).open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"key": keys[running[done]], "answer": answer}) + "\n")
                except OSError as error:
                    warn(f"The answer is not kept for another time: {folder / RESULTS_FILE}: {error.strerror}.")
                yield answer
        finally:
            pool.shutdown(cancel_futures=True)


def examine_in_process(case: Path, seed: int, limit: float) -> dict[str, Any]:
    """Examine one case file in a process of its own, on one thread; a case that fails or takes too long is one of unknown cause."""
    command = [sys.executable, "-m", "goodfit", "doctor", str(case), "--seed", str(seed), "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
        )
        if done.returncode == 0:
            answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return answer
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"It took longer than {limit:.0f} s."
    except (ValueError, IndexError):
        reason = "The doctor's answer was no JSON."
    return {
        "case": case.name, "seed": seed, "verdict": "unknown", "component": None, "causes": [], "alarm": False, "steps": 0,
        "trial_steps": 0, "seconds": 0.0, "ruled_out": [], "error": reason,
    }  # fmt: skip


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The answers kept in a file, by key; a torn last line is passed over."""
    answers = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            answers[row["key"]] = row["answer"]
        except (ValueError, KeyError, TypeError):
            continue
    return answers


def hash_files(files: tuple[Path, ...]) -> str:
    """A hash of the content of some files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def hash_program() -> str:
    """A hash of this program."""
    return hash_files(tuple(sorted(Path(__file__).parents[1].rglob("*.py"))))
