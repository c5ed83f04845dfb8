"""The model of a run as a folder in the layout of the Hugging Face Hub, with a model card made from what the run recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.figures import FIGURES
from goodfit.core.files import write_atomic
from goodfit.core.run import Run
from goodfit.core.run_files import get
from goodfit.core.words import count_of, format_percent, list_some
from goodfit.recipe.recipe import Recipe
from goodfit.runs.zoo import add_to_zoo

CARD_FILE, PREPROCESSOR_FILE = "README.md", "preprocessor_config.json"
KNOWN_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0", "openrail")
PILLOW_HAMMING = 5
SHOWN_CLASSES = 20


def write_hub_folder(run: Run, folder: Path, license_text: str) -> Run:
    """Write a folder that can be uploaded as it is: the files of a zoo's entry, which `predict` and `--from` take, with README.md, the
    model card, and preprocessor_config.json, the preprocessing under the names of Transformers' image processors.

    Raises:
        UsageError: there is no license, the folder is taken, or the run has no model of its own.
        GoodfitError: the model is damaged, or the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f'Expected --hub to be a new folder, and "{folder}" is not empty: choose another.')
    entry = add_to_zoo(run, folder.resolve().parent, license_text, folder.resolve().name)
    preprocess = entry.read("config.json", "preprocess")["preprocess"]
    write_atomic(entry.path / PREPROCESSOR_FILE, json.dumps(describe_preprocessing(preprocess), indent=2).encode() + b"\n")
    write_atomic(entry.path / CARD_FILE, format_card(run, entry).encode())
    return entry


def describe_preprocessing(preprocess: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing of config.json under the names that Transformers' image processors use."""
    _, *size = preprocess["input_size"]
    height, width = preprocess["box_size"]
    return {
        "do_resize": True, "size": {"height": height, "width": width}, "resample": PILLOW_HAMMING, "crop_mode": preprocess["crop_mode"],
        "do_center_crop": [height, width] != size, "crop_size": {"height": size[0], "width": size[1]}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": preprocess["mean"], "image_std": preprocess["std"],
    }  # fmt: skip


def format_card(run: Run, entry: Run) -> str:
    """The model card, in Markdown with the header in YAML that the Hub reads."""
    card, config, scores = entry.read("card.json"), entry.read("config.json"), run.scores
    task = get(config, "task", "name") or "classes"
    name = entry.name
    return "\n".join([
        "---", *_format_header(card, task, scores, name), "---", f"# {name}", "",
        f"An image model that answers {task}: {list_some(card['classes'], SHOWN_CLASSES)}. Trained with Goodfit.", "",
        "## Data", "", *_describe_data(run, card), "",
        "## Scores", "", *_format_scores(scores, task), "",
        "## How to use it", "", *_describe_use(card, config), "",
        "## Limits", "", *_describe_limits(card, task, scores), "",
        "## Recipe", "", "```toml", Recipe.of_run(entry.path).to_toml().strip(), "```", "",
    ])  # fmt: skip


def _format_header(card: dict[str, Any], task: str, scores: dict[str, Any], name: str) -> list[str]:
    """The lines of YAML; what is quoted is JSON, which YAML reads."""
    key = re.sub(r"\s+", "-", card["license"].lower())
    license_lines = [f"license: {key}"] if key in KNOWN_LICENSES else ["license: other", f"license_name: {json.dumps(card['license'])}"]
    kind = "image-classification" if task != "numbers" else "image-regression"
    lines = [*license_lines, "library_name: goodfit", "tags:", f"- {kind}", "- goodfit"]
    lines += [f"pipeline_tag: {kind}"] if task != "numbers" else []
    figure, data = FIGURES[task], json.dumps(card["data"])
    results = [
        f"  - task: {{type: {kind}}}\n    dataset: {{name: {data}, type: {data}, split: {split}}}\n"
        f"    metrics:\n    - {{type: {figure.key}, value: {scores[split][figure.key]!r}}}"
        for split in ("validation", "test")
        if get(scores, split, figure.key) is not None
    ]
    return [*lines, *(["model-index:", f"- name: {json.dumps(name)}", "  results:", *results] if results else [])]


def _describe_data(run: Run, card: dict[str, Any]) -> list[str]:
    data = get(run.read("about.json"), "data") or {}
    splits = get(data, "splits") or {}
    parts = ", ".join(f"{count_of(n, 'image')} for {'training' if split == 'train' else split}" for split, n in splits.items() if n)
    lines = [f"{card['data']}: {parts or 'the split is not recorded'}."]
    if counts := get(data, "counts"):
        train = {name: row[0] for name, row in counts.items()}
        least, most = min(train, key=train.__getitem__), max(train, key=train.__getitem__)
        lines.append(f"Of the classes in training, {least} has the fewest images ({train[least]:,}) and {most} the most ({train[most]:,}).")
    return [*lines, *get(data, "notes")] if get(data, "notes") else lines


def _format_scores(scores: dict[str, Any], task: str) -> list[str]:
    figure = FIGURES[task]
    rows = [f"| split | images | {figure.name} | 95 % interval |", "|---|---|---|---|"]
    for split in ("validation", "test"):
        if (value := get(scores, split, figure.key)) is not None:
            ends = get(scores, split, "interval")
            interval = f"{figure.format(ends[0])} to {figure.format(ends[1])}" if ends else "-"
            rows.append(f"| {split} | {scores[split].get('images', 0):,} | {figure.format(value)} | {interval} |")
    if "test" not in scores:
        rows += ["", "The test images were not opened. Choices were made by the validation images, so their figure is a little too good."]
    return rows


def _describe_use(card: dict[str, Any], config: dict[str, Any]) -> list[str]:
    shown = "goodfit predict FOLDER photo.jpg\ngoodfit serve FOLDER\ngoodfit train your-photos/ --from FOLDER"
    code = " It names code of its own, in `use/`: look at it, and add --trust." if config["use"] else ""
    return [
        f"With Goodfit and this folder, without the data it was trained on.{code}", "", "```bash", shown, "```", "",
        "`model.safetensors` is the state of the network, `config.json` what it is built of, `preprocessor_config.json` how images become"
        f" its input. SHA-256 of the weights: `{card['weights_sha256']}`.",
    ]  # fmt: skip


def _describe_limits(card: dict[str, Any], task: str, scores: dict[str, Any]) -> list[str]:
    lines = [f"- It knows pictures such as those of {card['data']}; how well it does on others was not measured."]
    if task == "classes":
        lines.append("- Whatever a picture shows, one of its classes is the answer: it does not say that it is none of them.")
        rows = [row for row in get(scores, "validation", "classes") or [] if row.get("images")]
        if rows:
            worst = min(rows, key=lambda row: row["recall"])
            share = format_percent(worst["recall"])
            lines.append(f"- It finds {worst['name']} least often: {share} of {count_of(worst['images'], 'validation image')}.")
    error = get(scores, "validation", "calibration", "ece")
    if error is not None:
        lines.append(f"- Its probabilities are {format_percent(error)} from how often it is right, in the mean, on validation images.")
    return lines
