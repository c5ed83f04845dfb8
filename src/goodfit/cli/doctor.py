"""goodfit doctor: name the cause of a bad training."""

from __future__ import annotations

from pathlib import Path
from typing import IO, cast

from goodfit.core.errors import UsageError


def doctor(target: Path, /, *, seed: int = 0, limit: float = 900.0, jobs: int = 1, json: bool = False) -> None:
    """Say what is wrong with a training: the cause, its evidence, what to change. It says so if nothing is wrong, or if it does not know.

    Parameters
    ----------
    target
        A run folder, a case file (a Python module with a function case(seed)), or a folder of case files.
    seed
        The seed of a case.
    limit
        Seconds that one case of a folder may take.
    jobs
        Cases of a folder that are examined at the same time.
    json
        Print each answer as a line of JSON on stdout.
    """
    if limit <= 0 or jobs < 1:
        raise UsageError(f"Expected --limit above 0 and --jobs of 1 or more, received {limit:g} and {jobs}.")
    if not target.exists():
        raise UsageError(f"Expected a run folder, a case file or a folder of case files, found nothing at {target}.")
    from goodfit.terminal.streams import print_message

    if target.is_dir():
        from goodfit.doctor.case_folder import examine_folder

        for answer in examine_folder(target, seed, jobs, limit, print_message):
            _print_answer(answer, json)
        return
    import contextlib

    from goodfit.doctor.diagnose import diagnose
    from goodfit.doctor.patient import read_case_file
    from goodfit.doctor.wording import describe_verdict
    from goodfit.terminal.streams import MESSAGES, print_lines

    with contextlib.redirect_stdout(cast(IO[str], MESSAGES)):  # where a case prints something itself
        verdict = diagnose(read_case_file(target, seed))
    if json:
        _print_answer(verdict.to_json(target.name, seed), json)
    else:
        print_lines(*describe_verdict(verdict))


def _print_answer(answer: dict[str, object], as_json: bool) -> None:
    """One answer as a line."""
    from goodfit.terminal.streams import print_json, print_lines

    if as_json:
        print_json(answer)
        return
    causes = answer["causes"]
    assert isinstance(causes, list)
    named = ", ".join(f"{row['cause']} ({100 * row['confidence']:.0f} %)" for row in causes[:3])
    print_lines(f"{answer['case']}: {answer['verdict']}{f': {named}' if named else ''}")
