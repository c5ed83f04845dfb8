"""goodfit evaluate: how good a run's classifier is on images it was not trained on."""

from __future__ import annotations

from goodfit.core.errors import refuse_more

MAX_PASSES = 10_000


def evaluate(
    run: str,
    /,
    *,
    test: bool = False,
    views: str = "",
    marginalize: int = 0,
    augment: str = "",
    calibrate: bool = False,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Score a run's classifier on its validation images, or once and for all on its test images.

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    test
        Open the test split. Each opening is logged in the run and shown in its report.
    views
        Views of each image whose answers are averaged, in place of the run's own: center, flip_pair, five_crop, ten_crop, multi_scale,
        such as "ten_crop((224, 256, 384))". Shows the accuracy and cost against the number of views beside those of the center crop.
    marginalize
        Also average the answers of this many passes with the model's noise layers (dropout and its like) at work, and show the
        accuracy against the number of passes beside that of the one pass without noise.
    augment
        With --marginalize: show each pass other draws of this augmentation, such as "flip | crop(4)"; "train" is that of the training.
        What mixes targets is left out.
    calibrate
        Store the temperature that makes the probabilities fit the validation images with the model; predict applies it from then on.
    json
        Print the scores as JSON on stdout.
    device
        auto, cpu, cuda, ...
    """
    refuse_more("--marginalize", marginalize, MAX_PASSES)
    from goodfit.core.run import Run

    Run.open(run)  # refused before torch is imported
    from goodfit import api
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.scores import format_scores
    from goodfit.terminal.streams import print_json, print_lines

    reporter = TerminalReporter()
    scores = api.evaluate(run, test, device, reporter, marginalize, views, calibrate, augment)
    if json:
        print_json(scores)
        return
    print_lines(*format_scores(scores, "Test" if test else "Validation"))
    if calibrate:
        print_lines(f"Stored with the model: temperature {scores['calibration']['temperature']:.2f}, which predict applies from now on.")
