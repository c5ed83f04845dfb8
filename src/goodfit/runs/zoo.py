"""A model zoo of one's own: a folder of trained weights to start from or predict with, each with a card; without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goodfit.core.commit import committed, write_together
from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.escapes import plain_name
from goodfit.core.fetch import hash_file
from goodfit.core.figures import FIGURES
from goodfit.core.files import copy_file, measure_folder
from goodfit.core.run import ENSEMBLE_FILE, Run, list_runs, part_files, require_free_folder
from goodfit.core.run_files import format_json, get
from goodfit.recipe.recipe import Recipe
from goodfit.runs.listing import has_model

CARD_FILE = "card.json"
MODEL_FILES = ("model.safetensors", "config.json")


def add_to_zoo(run: Run, zoo: Path, license_text: str, name: str = "") -> Run:
    """Copy the model of a finished run into a zoo, and write its card: what it is, what it was trained on, how good it is, its license.

    The entry is a run folder of its own, without images, predictions, log and paths of this machine: `--from` and `predict` take it.

    Raises:
        UsageError: there is no license, the name is none or taken, or the run has no model of its own.
        GoodfitError: the model is damaged, or the zoo cannot be written.
    """
    name = name or run.name
    if not license_text.strip():
        raise UsageError('Expected --license, under which others may use the weights, such as "CC BY 4.0", received none.')
    if name != Path(name).name or name != plain_name(name) or name.startswith("."):
        raise UsageError(f'Expected --name to be the name of a folder, such as pets, received "{name}".')
    if (run.path / ENSEMBLE_FILE).exists():
        raise UsageError(f'Expected a run of one model, received "{run.path}", which has several: add its members.')
    if not has_model(run):
        raise GoodfitError(f'The run "{run.path}" has no model that reads: train it to its end, or restore a copy of it.')
    require_free_folder(entry := zoo / name)
    about, config, recipe = run.read("about.json"), run.read("config.json", "model", "label_names", "use"), Recipe.of_run(run.path)
    scores = run.scores.get("validation", {})
    figures = {key: scores[key] for key in (*(figure.key for figure in FIGURES.values()), "interval", "images") if key in scores}
    data = get(about, "data", "name") or Path(recipe.data).name
    facts: dict[str, Any] = {
        key: about[key] for key in ("goodfit", "started", "finished", "state", "parameters", "multiply_adds") if key in about
    }
    digests = {key: value for key in ("digest", "split_digest", "splits") if (value := get(about, "data", key)) is not None}
    card = {
        "license": license_text.strip(), "model": config["model"], "data": data, "classes": config["label_names"],
        "training_images": get(about, "data", "splits", "train"), "validation_images": scores.get("images"),
        **{key: value for key, value in figures.items() if key != "images"},
        "weights_sha256": hash_file(committed(run.path / "model.safetensors")),
    }  # fmt: skip
    for file in part_files(run, config["use"]):
        copy_file(file, entry / "use" / file.name)
    contents = {file: committed(run.path / file).read_bytes() for file in MODEL_FILES}
    contents["scores.json"] = format_json("scores.json", {"validation": figures})
    contents["about.json"] = format_json("about.json", {**facts, "data": {"name": data, **digests}})
    contents[CARD_FILE] = format_json(CARD_FILE, card)
    public = recipe.but(data=data, source="", use=tuple(f"use/{file}" for file in config["use"]))
    contents["recipe.toml"] = public.to_toml().encode()
    entry.mkdir(parents=True, exist_ok=True)
    write_together(entry, contents)
    return Run(entry)


def list_zoo(zoo: Path) -> list[dict[str, Any]]:
    """A row for each entry of a zoo, by name, with its card; its state is "damaged" where its weights are not those of the card.

    Raises:
        DataError: there is no such folder.
    """
    if not zoo.is_dir():
        raise DataError(f'Expected a model zoo at "{zoo}", found no folder.')
    return [describe_entry(run) for run in sorted(list_runs(zoo), key=lambda run: run.name) if (run.path / CARD_FILE).is_file()]


def describe_entry(entry: Run) -> dict[str, Any]:
    """The row of one entry of a zoo."""
    row: dict[str, Any] = {"path": str(entry.path), "state": "damaged", "bytes": measure_folder(entry.path)}
    try:
        card = entry.read(CARD_FILE, "license", "model", "data", "classes", "weights_sha256")
        is_whole = has_model(entry) and hash_file(committed(entry.path / "model.safetensors")) == card["weights_sha256"]
    except (GoodfitError, OSError):
        return row
    return {**row, "state": "ready" if is_whole else "damaged", **card}
