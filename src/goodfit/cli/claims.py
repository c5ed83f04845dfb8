"""goodfit lab claims: what the lectures claim, held to the test on images."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from goodfit.core.errors import UsageError

if TYPE_CHECKING:
    from goodfit.lab.claim import Claim
    from goodfit.lab.inquiry import Finding
    from goodfit.lab.laboratory import Extent

DATA = ("cifar10", "fashion_mnist")
PAGE = "claims.html"


def claims(
    item: str = "",
    /,
    *,
    quick: bool = False,
    full: bool = False,
    data: list[str] | None = None,
    out: Path = Path("claims"),
    workers: Annotated[int, Parameter(show_default=False)] = 0,
    json: bool = False,
) -> None:
    """Hold what the lectures claim to the test: each claim is an experiment on images, whose verdict a rule gives that was written before.

    Without an item and --quick or --full, the claims are listed. An experiment is repeated with several seeds, each is written down in the
    folder as it ends, and a command that was killed goes on where it was. The page claims.html has the curves.

    Parameters
    ----------
    item
        A claim, such as S052, tried as by --quick; without one, all of them.
    quick
        On at most 400 images of a class, for minutes: all claims take less than half an hour on two cores.
    full
        On all images, for ten times as many steps and with more seeds: hours.
    data
        Images, as for goodfit train (default: cifar10 and fashion_mnist). All but the first serve claims about several data sets alone.
    out
        The folder of the experiments and the page.
    workers
        Processes, of one thread each (default: one for each core).
    json
        Print what was found, or the list, as JSON on stdout.
    """
    from goodfit.lab.claim import find_claim, read_claims

    check_options(quick and full, out, workers)
    chosen = [find_claim(item)] if item else list(read_claims().values())
    if not (item or quick or full):
        print_list(chosen, json)
        return
    from goodfit.core.signals import stop_error
    from goodfit.lab.laboratory import FULL, QUICK
    from goodfit.terminal.claims import format_finding
    from goodfit.terminal.streams import print_json, print_lines

    try:
        found = try_claims(chosen, FULL if full else QUICK, data or [*DATA], out, workers, show=not (json or item))
    except KeyboardInterrupt as error:
        raise stop_error(error, f'Stopped; the experiments so far are kept in "{out}", and the same command goes on.') from error
    contents = [finding.to_dict() for finding in found]
    if json:
        print_json(contents[0] if item else contents)
    elif item:
        print_lines(*format_finding(contents[0], [dataclasses.asdict(chart) for chart in found[0].charts()]), "", f"Page: {out / PAGE}")
    else:
        counts = Counter(finding.verdict for finding in found).most_common()
        print_lines("", "; ".join(f"{verdict}: {count}" for verdict, count in counts), "", f"Page: {out / PAGE}")


def check_options(both: bool, out: Path, workers: int) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: that is so; the sentence says what.
    """
    if both:
        raise UsageError("Expected --quick or --full, received both.")
    if workers < 0:
        raise UsageError(f"Expected --workers to be 1 or more, received {workers}.")
    if out.exists() and not out.is_dir():
        raise UsageError(f'Expected --out to be a folder, received the file "{out}".')


def print_list(chosen: list[Claim], json: bool) -> None:
    """Print what the claims say."""
    from goodfit.terminal.streams import print_json, print_lines
    from goodfit.terminal.tables import format_table

    if json:
        print_json([{"item": claim.item, "topic": claim.topic, "slide": claim.slide} for claim in chosen])
    else:
        print_lines(*format_table([(claim.item, claim.slide) for claim in chosen], "<<").split("\n"))


def try_claims(chosen: list[Claim], extent: Extent, data: list[str], out: Path, workers: int, show: bool) -> list[Finding]:
    """What was found of the claims, in their order; shows each as it is found, those without a verdict too, and writes the page anew.

    Raises:
        UsageError: none of the claims has a verdict.
    """
    from goodfit.core.device import physical_cores
    from goodfit.core.files import write_atomic
    from goodfit.lab.claim import RULE
    from goodfit.lab.inquiry import Finding, Untried, inquire
    from goodfit.report.pages.claims import render_claims
    from goodfit.terminal.claims import format_result
    from goodfit.terminal.streams import SPINNER, print_lines, print_message

    found: list[Finding] = []
    untried: list[Untried] = []
    SPINNER.show(f"experimenting on {', '.join(data)}")
    for result in inquire(chosen, data, extent, out, workers or physical_cores()):
        if isinstance(result, Finding):
            found = sorted([*found, result], key=lambda finding: chosen.index(finding.claim))
            if show:
                print_lines(format_result(result.to_dict()))
        else:
            untried.append(result)
            if len(chosen) > 1:
                print_message(f"{result.claim.item} has no verdict on these images: {result.reason}")
        reasons = [(one.claim.item, one.claim.slide, one.reason) for one in untried]
        write_atomic(out / PAGE, render_claims([(one.to_dict(), one.charts()) for one in found], reasons, RULE))
        SPINNER.show(f"experimenting on {', '.join(data)}, {len(chosen) - len(found) - len(untried)} of {len(chosen)} claims left")
    if not found:
        raise UsageError(untried[0].reason)
    return found
