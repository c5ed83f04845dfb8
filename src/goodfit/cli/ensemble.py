"""goodfit ensemble: one classifier out of several runs, of a run's snapshots, or of folds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def ensemble(
    *runs: str,
    out: Path | None = None,
    select: Literal["all", "greedy"] = "all",
    soup: Literal["", "uniform", "greedy"] = "",
    final: bool = False,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Average the probabilities of several trained models, or their weights. The folder that is made is evaluated and predicts as a run.

    Parameters
    ----------
    runs
        Run folders: copies with other seeds, other recipes; folders of runs, as of train --seeds or --folds. Of a run with snapshots
        (train --snapshots) those are taken; one of them alone is named by its file. Of a run with an average, such as ema, its averaged
        weights are.
    out
        Folder of the ensemble (default: runs/<time>-ensemble).
    select
        all, or greedy: add the model that helps validation most, again and again, with replacement, and keep the best bag.
    soup
        Average the weights into one model, as fast as one: uniform, or greedy: from the best on, those that do not hurt validation. For
        models alike in all but their weights, from one start: fine-tuned from the same weights, or snapshots.
    final
        Take the final model of runs with snapshots, too.
    json
        Print the folder's path, its scores and what its ensemble.json says of its models as JSON on stdout.
    device
        Where a soup is judged: auto, cpu, cuda, ...
    """
    from goodfit.report.page import write_report
    from goodfit.study.ensemble.assembly import make_ensemble
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.scores import format_ensemble
    from goodfit.terminal.streams import print_json, print_lines

    reporter = TerminalReporter()
    run = make_ensemble(runs, out, select, soup, final, device, reporter)
    page = write_report(run.path)
    if json:
        print_json({"path": str(run.path), "scores": run.scores, **run.read("ensemble.json")})
        return
    print_lines(*format_ensemble(str(run.path), run.read("ensemble.json"), run.scores), f"Report: {page}")
