"""goodfit report: the story of a run or a study as one HTML file."""

from __future__ import annotations

from pathlib import Path


def report(folder: Path, /) -> None:
    """Write the report of a run, an ensemble, a search or folds anew, finished or not, and print its path.

    It needs neither the data nor a network.

    Parameters
    ----------
    folder
        The folder, such as runs/latest or that of goodfit search --out.
    """
    from goodfit.report.page import write_report
    from goodfit.terminal.streams import print_lines

    print_lines(str(write_report(folder)))
