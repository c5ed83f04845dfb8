"""Scores as lines of text: those of a run, of an ensemble, of an advised transfer."""

from __future__ import annotations

from typing import Any

from goodfit.core.figures import ACCURACY, Figure, figure_of, find_figure
from goodfit.core.words import count_of, format_percent
from goodfit.terminal.tables import format_table

SHOWN_COVERAGES = (0.95, 0.9, 0.8, 0.5)  # shares of the images, the surest first, whose accuracy is shown


def format_scores(scores: dict[str, Any], split: str) -> list[str]:
    """Format the scores of a run or an ensemble on a split."""
    figure = figure_of(scores)
    low, high = map(figure.format, scores["interval"])
    lines = [
        f"{split} {figure.name} {figure.format(scores[figure.key])} (95 % interval {low} to {high}, {scores['images']:,} images)",
        f"  {SUMMARIES[figure.key](scores)}",
    ]
    if gain := scores.get("gain"):
        lines.append(f"  {format_gain(gain, figure)}")
    lines += _format_calibration(scores["calibration"])
    if viewed := scores.get("viewed"):
        lines += [f"  by {viewed['spelling']}:", _format_row("center crop alone", viewed["center"])]
        lines += [_format_row(count_of(row["views"], "view"), row) for row in viewed["views"]]
    if noise := scores.get("marginalized"):
        lines += ["  by noisy passes:", _format_row("without noise", noise["deterministic"])]
        lines += [_format_row(count_of(row["passes"], "noisy pass", "noisy passes"), row) for row in noise["passes"]]
    return [*lines, *OUTPUT_TABLES[figure.key](scores).split("\n")]


def _summarize_classes(scores: dict[str, Any]) -> str:
    low, high = map(format_percent, scores["balanced_interval"])
    top = f" top-5 {format_percent(scores['top5'])}," if len(scores["classes"]) > 5 else ""
    f1 = f" F1 {format_share(scores['f1'])}," if "f1" in scores else ""  # which runs of earlier versions have not
    return f"balanced accuracy {format_percent(scores['balanced_accuracy'])} ({low} to {high}),{f1}{top} loss {scores['loss']:.4f}"


def _summarize_labels(scores: dict[str, Any]) -> str:
    low, high = map(format_percent, scores["exact_interval"])
    exact = f"all labels right for {format_percent(scores['exact_match'])} of images ({low} to {high})"
    return f"{exact}, F1 {format_share(scores['f1'])}, loss {scores['loss']:.4f}"


def _summarize_numbers(scores: dict[str, Any]) -> str:
    return f"RMSE {scores['rmse']:.4g}, MAE {scores['mae']:.4g}, loss {scores['loss']:.4f}"


def _format_classes(scores: dict[str, Any]) -> str:
    """Each class with its accuracy, which is its recall, and where they are known its precision and F1."""
    rows = scores["classes"]
    names = [f"{row['name']} ({row['images']:,} images)" for row in rows]
    accuracies = [format_percent(row["accuracy"]) if row["images"] else "-" for row in rows]
    if not all("f1" in row for row in rows):
        return format_table(zip(accuracies, names, strict=True), "><", indent="  ")
    others = [(format_share(row["precision"]), format_share(row["f1"])) for row in rows]
    cells = [(recall, *other, name) for recall, other, name in zip(accuracies, others, names, strict=True)]
    return format_table(cells, ">>><", ("recall", "precision", "F1", "class"), indent="  ")


def _format_labels(scores: dict[str, Any]) -> str:
    keys = ("average_precision", "f1", "precision", "recall")
    rows = [
        (*(format_share(row[key]) for key in keys), f"{row['threshold']:.3f}", f"{row['name']} ({row['images']:,} images)")
        for row in scores["labels"]
    ]
    return format_table(rows, ">>>>><", ("AP", "F1", "precision", "recall", "threshold", "label"), indent="  ")


def _format_numbers(scores: dict[str, Any]) -> str:
    rows = [
        (
            f"{row['r2']:.3f}",
            *(f"{row[key]:.4g} ({' to '.join(f'{x:.4g}' for x in row[f'{key}_interval'])})" for key in ("rmse", "mae")),
            f"{row['deviation']:.4g}", row["name"],
        )
        for row in scores["numbers"]
    ]  # fmt: skip
    return format_table(rows, ">>>><", ("R2", "RMSE", "MAE", "deviation", "number"), indent="  ")


SUMMARIES = {"accuracy": _summarize_classes, "mean_average_precision": _summarize_labels, "r2": _summarize_numbers}
OUTPUT_TABLES = {"accuracy": _format_classes, "mean_average_precision": _format_labels, "r2": _format_numbers}


def format_share(share: float | None) -> str:
    """Format a share as a percentage, or a dash where there was nothing to divide by."""
    return "-" if share is None else format_percent(share)


def describe_fitted(calibration: dict[str, Any]) -> str:
    """What a calibration fits to the validation images, in words."""
    if "temperature" in calibration:
        return f"temperature {calibration['temperature']:.2f}"
    return f"intervals of ± {', '.join(f'{half:.4g}' for half in calibration['half_widths'])}"


def _format_row(name: str, row: dict[str, Any]) -> str:
    cost = f", {row['milliseconds']:.2f} ms an image" if "milliseconds" in row else ""
    figure = find_figure(row)
    loss = f"{figure.loss_key.replace('_', ' ')} {row[figure.loss_key]:.4f}"
    return f"    {name}: {figure.name} {figure.format(row[figure.key])}, {loss}{cost}"


def _format_calibration(calibration: dict[str, Any]) -> list[str]:
    """How well the probabilities are calibrated, and what withholding the least sure answers gains."""
    if "half_widths" in calibration:
        if not calibration["half_widths"]:
            return []
        shares = ", ".join(
            f"{format_percent(share)} within {half:.4g}"
            for share, half in zip(calibration["coverage"], calibration["half_widths"], strict=True)
        )
        return [
            f"  of the true numbers {shares} of the predicted ones; the intervals are to hold {format_percent(calibration['level'], 0)}"
        ]
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


def format_gain(gain: dict[str, Any], figure: Figure = ACCURACY) -> str:
    """Format the lead of an ensemble over its best single model as a sentence."""
    low, high = (figure.format_signed(x, 2) for x in gain["interval"])
    p = f", p = {gain['p']:.3g}" if gain["p"] is not None else ""
    return (
        f"{figure.format_difference(gain['difference'], 2)} over the best single model's {figure.format(gain['single'], 2)}"
        f" (95 % interval {low} to {high}, the same images{p})"
    )


def format_ensemble(path: str, content: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    """Format the models of an ensemble with their weights, its scores, and its lead over the best of them."""
    figure = figure_of((content.get("task") and {"task": content["task"]["name"]}) or {})
    rows = [(format_percent(row["weight"], 0), figure.format(row.get(figure.key), 2), row["source"]) for row in content["candidates"]]
    lines = format_table(rows, ">><", indent="  ").split("\n")
    if validation := scores.get("validation"):
        images = f"{validation['images']:,} images that every model validated on"
        lines.append(f"Validation {figure.name} {figure.format(validation[figure.key], 2)} ({images})")
        lines.append(f"  {format_gain(validation['gain'], figure)}")
        if content["select"] == "greedy":
            lines.append("  The models were chosen by these images, so the lead is flattered: only test images show the real one.")
    else:
        lines.append(f"No image was validated by every model, as with folds: only test images show the {figure.name} of all together.")
    return [*lines, f"Ensemble: {path}", f'Against its best single model on the test images: goodfit evaluate "{path}" --test']


def format_seeds(result: dict[str, Any]) -> str:
    """Format the result of training with several seeds as a sentence; empty where nothing was trained."""
    figure = figure_of(result)
    if not result[figure.plural]:
        return ""
    mean, error = figure.format(result[figure.key], 2), figure.format(result["standard_error"], 2)
    return f"Validation {figure.name} {mean} ± {error} (mean and standard error of {len(result[figure.plural])} seeds)."


def format_folds(result: dict[str, Any]) -> str:
    """Format the result of cross-validation."""
    figure, whole = figure_of(result), result["out_of_fold"]
    mean, deviation = figure.format(result[figure.key], 2), figure.format(result["deviation"], 2)
    low, high = map(figure.format, whole["interval"])
    return (
        f"Validation {figure.name} {mean} ± {deviation} (mean and standard deviation of {len(result[figure.plural])} folds); of all"
        f" {whole['images']:,} images, each by the model that was not trained on it, {figure.format(whole[figure.key], 2)}"
        f" (95 % interval {low} to {high}).\nFolds: {result['folder']}\nReport: {result['report']}"
    )
