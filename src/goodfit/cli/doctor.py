"""goodfit doctor: name the cause of a bad training."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Annotated, cast

from cyclopts import Parameter

from goodfit.core.errors import UsageError, refuse_more

MAX_JOBS = 256  # processes


def doctor(
    target: Path,
    /,
    *,
    trials: Annotated[bool, Parameter(name="--try")] = False,
    budget: str = "15%",
    apply: bool = False,
    seed: int = 0,
    limit: float = 900.0,
    jobs: int = 1,
    json: bool = False,
) -> None:
    """Say what is wrong with a training: the cause, its evidence, what to change. It says so if nothing is wrong, or if it does not know.

    Parameters
    ----------
    target
        A run folder, a case file (a Python module with a function case(seed)), or a folder of case files.
    trials
        Of a run: confirm by trials, short trainings with one thing changed, and try the remedy.
    budget
        Of a run: the share of its steps that trials may take.
    apply
        Of a run: write the recipe with the remedy, and train by it in a new run beside it.
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
    refuse_more("--jobs", jobs, MAX_JOBS)
    if not target.exists():
        raise UsageError(f"Expected a run folder, a case file or a folder of case files, found nothing at {target}.")
    from goodfit.terminal.streams import print_message

    if (target / "recipe.toml").is_file():
        _diagnose_run(target, trials, budget, apply, json)
        return
    if target.is_dir():
        from goodfit.doctor.case_folder import examine_folder

        for answer in examine_folder(target, seed, jobs, limit, print_message):
            _print_answer(answer, json)
        return
    _diagnose_case(target, seed, json)


def _diagnose_case(file: Path, seed: int, json: bool) -> None:
    """Examine a case file and print what is found."""
    import contextlib

    from goodfit.doctor.diagnose import diagnose
    from goodfit.doctor.patient import read_case_file
    from goodfit.doctor.wording import describe_verdict
    from goodfit.terminal.streams import MESSAGES, print_lines

    with contextlib.redirect_stdout(cast(IO[str], MESSAGES)):  # where a case prints something itself
        verdict = diagnose(read_case_file(file, seed))
    if json:
        _print_answer(verdict.to_json(file.name, seed), json)
    else:
        print_lines(*describe_verdict(verdict))


def _diagnose_run(folder: Path, trials: bool, budget: str, apply: bool, json: bool) -> None:
    """Examine a run, print what is found, and train by the remedy if that is asked."""
    share = read_share(budget)
    from goodfit.core.run import Run
    from goodfit.doctor.remedy import next_free_folder, patched_recipe, try_remedy
    from goodfit.doctor.run_examination import diagnose_run
    from goodfit.doctor.wording import describe_verdict
    from goodfit.report.page import write_report
    from goodfit.runs.train import RunOptions, train
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_json, print_lines

    run, reporter = Run.open(folder), TerminalReporter()
    diagnosis = diagnose_run(run, reporter, share if trials else 0.0)
    remedy = try_remedy(diagnosis, reporter, share) if trials else None
    if json:
        print_json(diagnosis.to_json(run) | ({"tried": remedy.to_json()} if remedy else {}))
    else:
        print_lines(*describe_verdict(diagnosis.verdict), *([remedy.describe()] if remedy else []))
    write_report(run.path)
    if apply:
        train(patched_recipe(diagnosis), RunOptions(next_free_folder(run), reporter=reporter))


def read_share(text: str) -> float:
    """Read "15%" or "0.15" as a share.

    Raises:
        UsageError: it is neither, or not within 0 and 1.
    """
    try:
        share = float(text.rstrip("% ")) / (100 if "%" in text else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f'Expected --budget as a share such as 15%, received "{text}".')
    return share


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
