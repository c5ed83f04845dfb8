"""The recipe that a run is trained by, as its folder has it, and whether its recipe.toml is what was written."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from goodfit.core.errors import UsageError, first_line
from goodfit.core.fetch import hash_file
from goodfit.core.files import write_atomic
from goodfit.core.run import Run, is_run, part_files
from goodfit.core.words import list_some
from goodfit.recipe.recipe import Recipe, recorded_recipe

RECIPE_HASHES = "recipe_sha256"  # in about.json: of each recipe.toml that a run has written


def trained_recipe(folder: Path) -> Recipe:
    """The recipe that a run is trained by, from its about.json where that has it.

    Raises:
        UsageError: it does not read.
    """
    recorded = recorded_recipe(folder)
    return Recipe().but(**recorded).as_read() if recorded else Recipe.of_run(folder)


def read_recipe(source: str) -> Recipe:
    """Read a recipe or preset; that of a run has the run's copies of the user's parts, for what they were copied from may have changed.

    Raises:
        UsageError: as `Recipe.from_toml`.
    """
    recipe, folder = Recipe.from_toml(source), Path(source).parent
    kept = part_files(Run(folder)) if recipe.use and is_run(folder) else []
    return dataclasses.replace(recipe, use=tuple(map(str, kept))) if len(kept) == len(recipe.use) else recipe


def split_fork(text: str) -> tuple[Path, str]:
    """The run and the step of RUN@STEP; the step is empty where there is none."""
    place, _, step = text.rpartition("@") if not is_run(Path(text)) else (text, "", "")
    return Path(place or text), step if place else ""


def has_parts_of(about: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether the files of parts of a recipe hold what those of the run with this about.json did when it began."""
    kept = [sha256 for file, sha256 in sorted(about.get("files", {}).items()) if file.startswith("use/")]  # those of its weights come last
    files = [Path(file) for file in recipe.use]
    return all(file.is_file() for file in files) and [hash_file(file) for file in files] == kept[: len(files)]


def hash_recipe(recipe: Recipe) -> str:
    """The SHA-256 of a recipe as recipe.toml holds it."""
    return hashlib.sha256(recipe.to_toml().encode(errors="backslashreplace")).hexdigest()


def record_recipe(run: Run, recipe: Recipe, more: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write the recipe that a run is trained by from now on into its about.json, with `more`, then into recipe.toml."""
    hashes = list(dict.fromkeys([*run.read("about.json").get(RECIPE_HASHES, ()), hash_recipe(recipe)]))
    run.update("about.json", {**more, "recipe": recipe.plain(), RECIPE_HASHES: hashes})
    write_atomic(run.path / "recipe.toml", recipe.to_toml())


def check_recipe_file(run: Run) -> list[str]:
    """Check that a run's recipe.toml is one that it has written, before it goes on; returns a warning where it is damaged.

    About.json has the recipe, and the hash of each that the run was trained by: a kill may leave the one from before.

    Raises:
        UsageError: it was edited; the sentence says in which fields.
    """
    path, about = run.path / "recipe.toml", run.read("about.json")
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in about.get(RECIPE_HASHES, ()):
        return []
    if not (recorded := recorded_recipe(run.path)):
        return []  # of an earlier version, which has the recipe in recipe.toml alone
    before = Recipe().but(**recorded).plain()
    try:
        found = Recipe.from_toml(path)
    except UsageError as error:
        return [f'Warning: "{path}" is damaged ({first_line(error)}): the run goes on by the recipe in its about.json.']
    if changed := [key for key, value in found.plain().items() if key in found.read_keys and value != before[key]]:
        raise UsageError(
            f'"{path}" was changed since its run was started ({list_some(changed)}), but a run goes on by the recipe it was started with:'
            f' restore it, or remove it to have it written anew, or train what it says by --recipe "{path}" with another --out.'
        )
    missing = [key for key in recorded if key not in found.read_keys]
    return [f'Warning: "{path}" is damaged (it has no {list_some(missing)}): the run goes on by the recipe in its about.json.'] * bool(
        missing
    )
