"""goodfit compare: where runs differ, and whether the difference could be luck."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.errors import UsageError


def compare(
    *runs: str,
    baseline: str = "",
    html: Path | None = None,
    baselines: bool = False,
    json: bool = False,
) -> None:
    """Say which run is best, or that none is; accuracy on the same validation images with paired intervals, recipes, curves, cost.

    All are compared with all, while they are few; copies that differ in their seed count as one. It needs neither the data nor a network.

    Parameters
    ----------
    runs
        Run folders; a folder of folds (of train --folds) counts as one, a folder of runs (of train --seeds) as all of them.
    baseline
        Compare each with this one of the runs alone, by its folder or its short name.
    html
        Also write the comparison as one HTML file.
    baselines
        Compute the nearest neighbor and the linear softmax for the first run if it has none yet; this needs its data.
    json
        Print the comparison as JSON on stdout.
    """
    if not runs:
        raise UsageError("Expected runs to compare, such as runs/a runs/b, received none.")
    from goodfit.study.compare import compare_runs, read_entries
    from goodfit.terminal.comparison import format_comparison
    from goodfit.terminal.streams import SPINNER, print_json, print_lines

    entries = read_entries(runs)
    if baselines:
        SPINNER.show("loading PyTorch")
        from goodfit.core.run import Run
        from goodfit.runs.baselines import update_baselines

        path = entries[0].path
        update_baselines(Run(next(iter(sorted(path.glob("fold-*/")))) if (path / "folds.json").is_file() else path))
        entries = read_entries(runs)
    result = compare_runs(entries, baseline)
    if html:
        from goodfit.core.files import write_atomic
        from goodfit.report.pages.comparison import render_comparison

        write_atomic(html, render_comparison(result))
    if json:
        print_json(result)
        return
    print_lines(*format_comparison(result))
    if html:
        print_lines(f"Comparison: {html}")
