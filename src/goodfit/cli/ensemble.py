"""goodfit ensemble: one classifier out of several runs, of a run's snapshots, or of folds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from goodfit.core.run import Run


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
        Print the folder, its models and its scores as JSON on stdout.
    device
        Where a soup is judged: auto, cpu, cuda, ...
    """
    from json import dumps

    from goodfit.report.page import write_report
    from goodfit.study.ensemble.make import ensemble as make
    from goodfit.terminal.reporter import Terminal

    voice = Terminal()
    run = make(runs, out, select, soup, final, device, voice)
    page = write_report(run.path)
    if json:
        print(dumps({"ensemble": str(run.path), **run.read("ensemble.json"), **run.read("scores.json")}))
        return
    for line in [*told(run), f"Report: {page}"]:
        voice.say(line)


def told(run: Run) -> list[str]:
    """The models with their weights, what they come to, and what that is worth."""
    from goodfit.core.words import percent
    from goodfit.terminal.tables import format_table

    content = run.read("ensemble.json")
    rows = [
        (percent(row["weight"], 0), percent(row["accuracy"], 2) if "accuracy" in row else "-", row["source"])
        for row in content["candidates"]
    ]
    lines = [format_table(rows, ">><", indent="  ")]
    scores = run.read("scores.json").get("validation")
    if scores:
        lines.append(f"Validation accuracy {percent(scores['accuracy'], 2)} ({scores['images']:,} images that every model validated on)")
        lines.append(f"  {gained(scores['gain'])}")
        if content["select"] == "greedy":
            lines.append("  The models were chosen by these images, so the gain is flattered: test images alone tell it.")
    else:
        lines.append("No image was validated by every model, as with folds: what they come to together, test images alone tell.")
    return [*lines, f"Ensemble: {run.path}", f'Its gain on the test images: goodfit evaluate "{run.path}" --test']


def gained(gain: dict[str, Any]) -> str:
    """The gain over the best single model in a sentence."""
    from goodfit.core.words import percent

    low, high = gain["interval"]
    p = f", p = {gain['p']:.3g}" if gain["p"] is not None else ""
    return (
        f"{100 * gain['difference']:+.2f} points over the best single model's {percent(gain['single'], 2)}"
        f" (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, the same images{p})"
    )
