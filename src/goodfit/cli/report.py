"""goodfit report: the run's story as one HTML file."""

from __future__ import annotations


def report(run: str, /) -> None:
    """Write the report of a run anew, finished or not, and print its path. It needs neither the data nor a network.

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    """
    from goodfit.core.run import Run
    from goodfit.report.page import write_report

    print(write_report(Run.open(run)))
