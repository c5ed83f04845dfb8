"""The recipe that a run is trained by, and the catalog of its parts, as its folder has them."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.catalog import Catalog
from goodfit.core.run import Run, part_files
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe, recorded_recipe


def trained_recipe(folder: Path) -> Recipe:
    """The recipe that a run is trained by, from its about.json where that has it: recipe.toml may have been edited since.

    Raises:
        UsageError: it does not read.
    """
    recorded = recorded_recipe(folder)
    return Recipe().but(**recorded) if recorded else Recipe.of_run(folder)


def load_run_catalog(run: Run, recipe: Recipe) -> Catalog:
    """All our parts, and those of the run's copies of the user's files.

    Raises:
        UntrustedCode: there are such files, or dotted names in the recipe, that may not run here; the sentence lists them all.
    """
    files = part_files(run)
    recipe.require_trust(f'"{run.path}"', files)
    return load_catalog(files)
