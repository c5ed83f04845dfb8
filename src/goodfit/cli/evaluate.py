"""goodfit evaluate: how good a run's classifier is on images it was not trained on."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def evaluate(
    run: str,
    /,
    *,
    test: Annotated[bool, Parameter(negative="")] = False,
    marginalize: int = 0,
    json: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
) -> None:
    """Score a run's classifier on its validation images, or once and for all on its test images.

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    test
        Open the test split. Each opening is logged in the run and shown in its report.
    marginalize
        Also average the answers of this many passes with the model's noise layers (dropout and its like) at work, and show the
        accuracy against the number of passes beside that of the one pass without noise.
    json
        Print the scores as JSON on stdout.
    device
        auto, cpu, cuda, ...
    """
    from json import dumps

    from goodfit import api
    from goodfit.core.words import count, percent
    from goodfit.watch.voice import Terminal

    voice = Terminal()
    scores = api.evaluate(run, test, device, voice, marginalize)
    if json:
        print(dumps(scores))
        return
    low, high = scores["interval"]
    balanced_low, balanced_high = scores["balanced_interval"]
    voice.say(
        f"{'Test' if test else 'Validation'} accuracy {percent(scores['accuracy'])}"
        f" (95 % interval {percent(low)} to {percent(high)}, {scores['images']:,} images)"
    )
    voice.say(
        f"  balanced accuracy {percent(scores['balanced_accuracy'])} ({percent(balanced_low)} to {percent(balanced_high)}),"
        f" top-5 {percent(scores['top5'])}, loss {scores['loss']:.4f}"
    )
    if marginalize:
        rule = scores["marginalized"]["deterministic"]
        voice.say(f"  without noise: accuracy {percent(rule['accuracy'])}, log loss {rule['log_loss']:.4f}")
        for row in scores["marginalized"]["passes"]:
            voice.say(f"  {count(row['passes'], 'noisy pass', 'noisy passes')}: {percent(row['accuracy'])}, log loss {row['log_loss']:.4f}")
    for row in scores["classes"]:
        said = percent(row["accuracy"]) if row["images"] else "-"
        voice.say(f"  {said:>8}  {row['name']} ({row['images']:,} images)")
