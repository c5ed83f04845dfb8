"""goodfit evaluate: how good a run's classifier is on images it was not trained on."""

from __future__ import annotations

from typing import Any

ANSWERED = (0.95, 0.9, 0.8, 0.5)  # shares of the images that are answered, of which the accuracy is said


def evaluate(
    run: str,
    /,
    *,
    test: bool = False,
    views: str = "",
    marginalize: int = 0,
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
    calibrate
        Store the temperature that makes the probabilities fit the validation images with the model; predict applies it from then on.
    json
        Print the scores as JSON on stdout.
    device
        auto, cpu, cuda, ...
    """
    from json import dumps

    from goodfit import api
    from goodfit.terminal.reporter import Terminal

    voice = Terminal()
    scores = api.evaluate(run, test, device, voice, marginalize, views, calibrate)
    if json:
        print(dumps(scores))
        return
    for line in told(scores, "Test" if test else "Validation"):
        voice.say(line)


def told(scores: dict[str, Any], split: str) -> list[str]:
    """The scores as lines of text."""
    from goodfit.cli.ensemble import gained
    from goodfit.core.words import count, percent

    low, high = scores["interval"]
    balanced_low, balanced_high = scores["balanced_interval"]
    lines = [
        f"{split} accuracy {percent(scores['accuracy'])} (95 % interval {percent(low)} to {percent(high)}, {scores['images']:,} images)",
        f"  balanced accuracy {percent(scores['balanced_accuracy'])} ({percent(balanced_low)} to {percent(balanced_high)}),"
        f" top-5 {percent(scores['top5'])}, loss {scores['loss']:.4f}",
    ]

    def judged(name: str, row: dict[str, Any]) -> str:
        cost = f", {row['milliseconds']:.2f} ms an image" if "milliseconds" in row else ""
        return f"    {name}: accuracy {percent(row['accuracy'])}, log loss {row['log_loss']:.4f}{cost}"

    if gain := scores.get("gain"):
        lines.append(f"  {gained(gain)}")
    lines += calibrated(scores["calibration"])
    if viewed := scores.get("viewed"):
        lines += [f"  by {viewed['spelling']}:", judged("center crop alone", viewed["center"])]
        lines += [judged(count(row["views"], "view"), row) for row in viewed["views"]]
    if found := scores.get("marginalized"):
        lines += ["  by noisy passes:", judged("without noise", found["deterministic"])]
        lines += [judged(count(row["passes"], "noisy pass", "noisy passes"), row) for row in found["passes"]]
    for row in scores["classes"]:
        said = percent(row["accuracy"]) if row["images"] else "-"
        lines.append(f"  {said:>8}  {row['name']} ({row['images']:,} images)")
    return lines


def calibrated(found: dict[str, Any]) -> list[str]:
    """How well the probabilities are calibrated, and what withholding the least sure answers brings."""
    from goodfit.core.words import percent

    lines = [
        f"  calibration error {percent(found['ece'])}; at temperature {found['temperature']:.2f}, fitted to validation images,"
        f" {percent(found['ece_after'])} (log loss {found['log_loss']:.4f} and {found['log_loss_after']:.4f})"
    ]
    given = [row for row in found["rejection"] if any(abs(row["coverage"] - share) < 0.01 for share in ANSWERED)]
    said = [f"{percent(row['accuracy'])} of the surest {percent(row['coverage'], 0)} (calibrated p >= {row['below']:.2f})" for row in given]
    return lines + ([f"  right: {', '.join(said)}"] if said else [])
