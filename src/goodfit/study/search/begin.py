"""Begins a search in a folder, and joins one of a database from a folder of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from goodfit.core.errors import UsageError
from goodfit.core.files import write_atomic
from goodfit.core.run import SEARCH_FILE, make_dated_folder
from goodfit.core.run_files import write_json
from goodfit.core.trust import remember_content
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.database import STORAGE_FILE, DatabaseStorage, read_record
from goodfit.study.search.plan import BASE_FILE, SearchPlan
from goodfit.study.search.search import Search, code_of
from goodfit.study.search.space import Space
from goodfit.study.search.trial_recipe import recipe_of_trial

SEARCHES = Path("searches")


def begin_search(folder: Path | None, plan: SearchPlan, base: Recipe, url: str = "") -> Search:
    """Begin a new search in a folder, else in `searches/<time>`; its trials are kept there, or in the database at `url`.

    Raises:
        UsageError: the folder or its name in the database is taken, or the space or method does not go with the recipe.
    """
    if folder and folder.exists() and (not folder.is_dir() or any(file.name != SEARCH_FILE for file in folder.iterdir())):
        raise UsageError(f'"{folder}" is not empty: choose another --out, or continue that search by --resume.')
    catalog = load_catalog(base.use)
    space = Space.read(plan.space, catalog)
    if plan.method in ("grid", "halving") and not plan.trials:
        raise UsageError(f"Expected --trials with --method {plan.method}, which plans all its trials at the start.")
    recipe_of_trial(base, space, {axis.name: axis.value_at(0.5) for axis in space.axes}, catalog, is_own=True)
    storage = DatabaseStorage(url) if url else None
    folder = folder or make_dated_folder(SEARCHES)
    if storage:
        storage.create_study(folder)
        storage.publish(dataclasses.asdict(plan), base.to_toml())
    folder.mkdir(parents=True, exist_ok=True)
    plan.write(folder)
    write_atomic(folder / BASE_FILE, base.to_toml())
    if storage:
        write_json(folder / STORAGE_FILE, storage.record())
    remember_content(code_of(plan, Recipe.from_toml(folder / BASE_FILE)), folder.name)
    return Search(folder, storage)


def resume_search(folder: Path, url: str = "") -> Search:
    """Open the search in a folder, to continue it or to help with it. With the `url` of a database, `folder` may be the name of a search
    there alone: its folder on this machine is then `searches/NAME`.

    Of a search in a database the plan and the recipe are fetched anew.

    Raises:
        UsageError: there is no such search, or the folder is that of another.
    """
    if url and not folder.exists() and folder.parent == Path():
        folder = SEARCHES / folder
    record = read_record(folder)
    if not url and not record:
        return Search(folder)
    if not record and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f'Expected a folder of a search in a database, or none, at "{folder}", received one with other files: a search that keeps its'
            " trials in its folder is continued without --storage."
        )
    storage = DatabaseStorage(url or str(record["url"]))
    storage.load_study(folder, str(record.get("study", folder.name)))
    if record and record.get("id") != storage.record()["id"]:
        raise UsageError(
            f'Expected the search of "{folder}" in {storage.url}, found another of that name: continue it in a folder of its own,'
            " as by --resume another/NAME."
        )
    plan, base = storage.fetch()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SEARCH_FILE, plan)
    write_atomic(folder / BASE_FILE, base)
    write_json(folder / STORAGE_FILE, storage.record())
    return Search(folder, storage)
