"""Scores as lines of text: those of a run, of an ensemble, of an advised transfer."""

from __future__ import annotations

from typing import Any

from goodfit.core.words import count_of, format_percent
from goodfit.terminal.tables import format_table

SHOWN_COVERAGES = (0.95, 0.9, 0.8, 0.5)  # shares of the images, the surest first, whose accuracy is shown


def format_scores(scores: dict[str, Any], split: str) -> list[str]:
    """Format the scores of a run or an ensemble on a split."""
    low, high = map(format_percent, scores["interval"])
    balanced_low, balanced_high = map(format_percent, scores["balanced_interval"])
    top = f" top-5 {format_percent(scores['top5'])}," if len(scores["classes"]) > 5 else ""
    lines = [
        f"{split} accuracy {format_percent(scores['accuracy'])} (95 % interval {low} to {high}, {scores['images']:,} images)",
        f"  balanced accuracy {format_percent(scores['balanced_accuracy'])} ({balanced_low} to {balanced_high}),"
        f"{top} loss {scores['loss']:.4f}",
    ]
    if gain := scores.get("gain"):
        lines.append(f"  {format_gain(gain)}")
    lines += _format_calibration(scores["calibration"])
    if viewed := scores.get("viewed"):
        lines += [f"  by {viewed['spelling']}:", _format_row("center crop alone", viewed["center"])]
        lines += [_format_row(count_of(row["views"], "view"), row) for row in viewed["views"]]
    if noise := scores.get("marginalized"):
        lines += ["  by noisy passes:", _format_row("without noise", noise["deterministic"])]
        lines += [_format_row(count_of(row["passes"], "noisy pass", "noisy passes"), row) for row in noise["passes"]]
    classes = [
        (format_percent(row["accuracy"]) if row["images"] else "-", f"{row['name']} ({row['images']:,} images)")
        for row in scores["classes"]
    ]
    return [*lines, *format_table(classes, "><", indent="  ").split("\n")]


def _format_row(name: str, row: dict[str, Any]) -> str:
    cost = f", {row['milliseconds']:.2f} ms an image" if "milliseconds" in row else ""
    return f"    {name}: accuracy {format_percent(row['accuracy'])}, log loss {row['log_loss']:.4f}{cost}"


def _format_calibration(calibration: dict[str, Any]) -> list[str]:
    """How well the probabilities are calibrated, and what withholding the least sure answers gains."""
    before, after = format_percent(calibration["ece"]), format_percent(calibration["ece_after"])
    scaled = "no temperature helps" if calibration["log_loss_after"] >= calibration["log_loss"] else "a temperature helps"
    lines = [
        f"  calibration error {before}, log loss {calibration['log_loss']:.4f}; {scaled}: on images that it was not fitted to, {after} and"
        f" {calibration['log_loss_after']:.4f} (fitted to all validation images it is {calibration['temperature']:.2f})"
    ]
    shown = [row for row in calibration["rejection"] if any(abs(row["coverage"] - share) < 0.01 for share in SHOWN_COVERAGES)]
    parts = [
        f"{format_percent(row['accuracy'])} of the surest {format_percent(row['coverage'], 0)} (calibrated p >= {row['below']:.2f})"
        for row in shown
    ]
    return lines + ([f"  right: {', '.join(parts)}"] if parts else [])


def format_gain(gain: dict[str, Any]) -> str:
    """Format the lead of an ensemble over its best single model as a sentence."""
    low, high = gain["interval"]
    p = f", p = {gain['p']:.3g}" if gain["p"] is not None else ""
    return (
        f"{100 * gain['difference']:+.2f} points over the best single model's {format_percent(gain['single'], 2)}"
        f" (95 % interval {100 * low:+.2f} to {100 * high:+.2f}, the same images{p})"
    )


def format_ensemble(path: str, content: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    """Format the models of an ensemble with their weights, its scores, and its lead over the best of them."""
    rows = [
        (format_percent(row["weight"], 0), format_percent(row["accuracy"], 2) if "accuracy" in row else "-", row["source"])
        for row in content["candidates"]
    ]
    lines = format_table(rows, ">><", indent="  ").split("\n")
    if validation := scores.get("validation"):
        images = f"{validation['images']:,} images that every model validated on"
        lines.append(f"Validation accuracy {format_percent(validation['accuracy'], 2)} ({images})")
        lines.append(f"  {format_gain(validation['gain'])}")
        if content["select"] == "greedy":
            lines.append("  The models were chosen by these images, so the lead is flattered: only test images show the real one.")
    else:
        lines.append("No image was validated by every model, as with folds: only test images show the accuracy of all together.")
    return [*lines, f"Ensemble: {path}", f'Against its best single model on the test images: goodfit evaluate "{path}" --test']


def format_seeds(result: dict[str, Any]) -> str:
    """Format the result of training with several seeds as a sentence; empty where nothing was trained."""
    if not result["accuracies"]:
        return ""
    mean, error = format_percent(result["accuracy"], 2), format_percent(result["standard_error"], 2)
    return f"Validation accuracy {mean} ± {error} (mean and standard error of {len(result['accuracies'])} seeds)."


def format_folds(result: dict[str, Any]) -> str:
    """Format the result of cross-validation."""
    mean, deviation = format_percent(result["accuracy"], 2), format_percent(result["deviation"], 2)
    whole = result["out_of_fold"]
    low, high = map(format_percent, whole["interval"])
    return (
        f"Validation accuracy {mean} ± {deviation} (mean and standard deviation of {len(result['accuracies'])} folds); of all"
        f" {whole['images']:,} images, each by the model that was not trained on it, {format_percent(whole['accuracy'], 2)}"
        f" (95 % interval {low} to {high}).\nFolds: {result['folder']}\nReport: {result['report']}"
    )
