"""What the pages say is true: their commands are understood, their files are there, the made pages are as made now.

That their code runs is in test_doc_blocks.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import goodfit
from goodfit.cli import NOUNS, VERBS, application
from goodfit.cli.options import assemble
from goodfit.core.parts import spell
from goodfit.recipe.cards import PACKAGES
from goodfit.recipe.parts import load_catalog, make_parts
from tests.support.augment_laws import LAWS_OF_PARTS, LAWS_OF_PIPES, batch, chance
from tests.support.items import read_items
from tests.support.pages import PAGES, ROOT, blocks, read, table_commands


def commands(page: str) -> list[str]:
    """The commands of a page, in blocks and as cells of tables."""
    return [command for block in blocks(page, "console", "bash") for command, _ in block.commands] + table_commands(page)


def anchors(page: Path) -> set[str]:
    """What links to headings of a page say, as GitHub and the site have it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part that CONTRIBUTING.md shows, in a file of its own."""
    (block,) = blocks("CONTRIBUTING.md", "python")
    file = tmp_path_factory.mktemp("mine") / "my_parts.py"
    file.write_text(block.text)
    return file


# ---- code ----------------------------------------------------------------------------------------------------------------------


def test_the_third_level_is_what_a_person_types_by_hand() -> None:
    (text,) = [block.text for block in blocks("docs/python.md", "python") if "goodfit.fit(" in block.text]
    lines = [line for line in text.splitlines() if line]
    assert len(lines) <= 12
    assert sum(line.startswith(("import ", "from ")) for line in lines) <= 6
    assert "fit(" in lines[-1]


def test_the_part_of_the_guide_has_a_card_and_a_text(example: Path) -> None:
    known = load_catalog([str(example)])
    assert "negative" not in load_catalog().kinds["augment"], "the example has become a part: show another"
    (card,) = [card for card in known.cards() if card["name"] == "negative"]
    assert (card["kind"], card["spelling"]) == ("augment", "negative(p=0.1)")
    assert all(f"\n{line}: " in card["card"] for line in ("Helps", "Hurts", "Cost", "Source"))
    for text in ("negative", "negative(0.2)", "crop(2) | negative(0.3)"):
        part = known.make(text, "augment")
        assert spell(part) == text
        assert known.make(spell(part, full=True), "augment") == part


def test_the_part_of_the_guide_trains_and_predicts(example: Path, photos: Path, tmp_path: Path) -> None:
    changes = {"use": (str(example),), "augment": "crop(2) | negative(0.2)", "model": "convnet(4)", "size": 16}
    recipe = goodfit.Recipe(budget="1 epoch", precision="fp32", layout="channels_last", threads=1).but(**changes)
    run = goodfit.train(photos, recipe, out=tmp_path / "run", quiet=True)
    assert str(goodfit.Recipe.from_toml(run.path / "recipe.toml").augment).endswith("| negative(0.2)")
    assert (run.path / "use" / "00-my_parts.py").read_text() == example.read_text()
    assert goodfit.load(run).predict(next((photos / "red").iterdir()))[0].classes


def test_the_part_of_the_guide_keeps_the_laws(example: Path) -> None:
    catalog = load_catalog([str(example)])
    for law in (*LAWS_OF_PIPES, *LAWS_OF_PARTS):
        for channels in (1, 3, 4):
            law(catalog, "negative", channels)


def test_the_part_of_the_guide_turns_colors_and_leaves_alpha(example: Path) -> None:
    part: Any = load_catalog([str(example)]).make("negative(1.0)", "augment")
    before = batch(channels=4).images
    after = part(batch(channels=4), chance(), 0.5).images
    assert ((after[:, :3].int() + before[:, :3].int()) == 255).all()
    assert (after[:, 3] == before[:, 3]).all()


# ---- commands ------------------------------------------------------------------------------------------------------------------


def test_quickstart_is_the_first_make_command_and_test_the_second() -> None:
    made = re.findall(r"^\s*(make .*)$", read("README.md"), re.MULTILINE)
    assert made[:2] == ["make quickstart", "make test"]
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"(?:^    |`)make ([a-z-]+)", read(page), re.MULTILINE):
            assert target in targets, f"{page}: make {target}"


@pytest.mark.parametrize(
    ("page", "command"), [(page, command) for page in PAGES for command in commands(page) if command.startswith("goodfit ")]
)
def test_every_command_is_understood(page: str, command: str, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(example.parent)
    words = shlex.split(command)
    assert words[0] == "goodfit"
    function, bound, _ = application().parse_args(words[1:], exit_on_error=False, print_error=False)
    assert words[1] in VERBS and function.__name__ in (words[1], *NOUNS.get(words[1], ()))
    if function.__name__ == "train":
        given = bound.arguments
        shorts = given.get("shorts")
        if shorts is not None and shorts.recipe.startswith("runs/"):
            shorts = dataclasses.replace(shorts, recipe="")
        options = given.get("options")
        recipe = assemble(given.get("data", ""), shorts, options and dataclasses.replace(options, fork=None))
        assert make_parts(recipe, load_catalog(recipe.use))
    if function.__name__ == "parts":
        known = load_catalog(bound.arguments.get("use") or [])
        assert bound.arguments["kind_or_name"] in {word for kind, named in known.kinds.items() for word in (kind, *named)}


def test_every_verb_is_shown() -> None:
    shown = {command.split()[1] for command in commands("README.md")}
    assert shown == set(VERBS)


# ---- files ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_file_named_is_there(page: str) -> None:
    text = read(page)
    for link in re.findall(r"\]\((?!#|http)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", text):
        assert anchor in anchors((ROOT / page).parent / link if link else ROOT / page), f"{link}#{anchor}"
    roots = (ROOT, ROOT / "src" / "goodfit", ROOT / "bench")
    for path in re.findall(r"`([a-z_/]+(?:/|\.py))(?:[ `:])", text):
        assert any((root / path).exists() for root in roots) or path in IN_EXAMPLES, path


IN_EXAMPLES = (
    "train/",
    "val/",
    "valid/",
    "validation/",
    "test/",
    "seg_train/",
    "test_set/",
    "use/",
    "my_parts.py",
    "src/goodfit/augment/negative.py",
)


def test_the_map_shows_every_package_and_every_bench() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "goodfit").glob("*/__init__.py")}
    for page in ("README.md", "docs/design.md"):
        assert not {name for name in packages if f"{name}/" not in read(page)}, page
    assert not {path.name for path in (ROOT / "bench").glob("*.py") if f"`{path.name}" not in read("bench/README.md")}
    assert {package.partition(".")[0] for package in PACKAGES} <= packages


def test_the_run_folder_holds_what_the_readme_says(photos: Path, tmp_path: Path) -> None:
    recipe = goodfit.Recipe(model="linear", budget="1 epoch", size=16, augment="flip", precision="fp32", layout="channels_last", threads=1)
    run = goodfit.train(photos, recipe, out=tmp_path / "run", quiet=True)
    there = {path.name for path in run.path.iterdir()}
    section = read("README.md").partition("## What a run folder holds")[2].partition("## ")[0]
    assert not {name for name in there if name not in section and not name.endswith(".lock")}
    for name in re.findall(r"[a-z]+\.(?:toml|json|csv|jsonl|html|safetensors)\b", section):
        assert name in there


def test_the_readme_is_short_and_has_its_place_for_figures() -> None:
    assert len(read("README.md").splitlines()) < 260
    assert "## Measured" in read("README.md")


def test_the_license_is_whole() -> None:
    text = read("LICENSE")
    assert text.lstrip().startswith("Apache License") and "END OF TERMS AND CONDITIONS" in text


# ---- made pages ----------------------------------------------------------------------------------------------------------------


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return load_script(ROOT / "docs" / "make_parts.py")


def test_the_page_of_benchmarks_is_as_made_from_its_figures() -> None:
    page = load_script(ROOT / "bench" / "tables.py").benchmarks_page()
    assert page.count("\n## ") > 1 and read("docs/benchmarks.md") == page, "run `make docs`"


def test_the_page_of_the_lectures_is_as_made_and_has_every_item() -> None:
    maker = load_script(ROOT / "docs" / "make_lecture.py")
    assert read("docs/lecture.md") == maker.lecture_page(), "run `make docs`"
    named = [item for topics in maker.read_themes().values() for topic in topics for item in maker.expand_items(topic[1])]
    assert sorted(named) == [item for item, kind in read_items().items() if kind != "out"]


@pytest.mark.parametrize(
    ("page", "make"), [("docs/parts.md", "parts_page"), ("docs/recipe.md", "recipe_page"), ("docs/doctor.md", "doctor_page")]
)
def test_made_pages_are_as_made_now(maker: ModuleType, page: str, make: str) -> None:
    assert read(page) == getattr(maker, make)(), f"{page} is not what the code says now: run `make docs` and look at the difference."


def test_the_page_of_parts_has_every_part_and_its_card(maker: ModuleType) -> None:
    text = maker.parts_page()
    for card in load_catalog().cards():
        assert f"`{card['spelling']}`" in text
        assert text.count(f"\n### {card['name']} ({card['kind']})\n") == 1  # what a link to the card leads to
    assert all(text.count(f"- **{line}:**") == len(load_catalog().cards()) for line in ("Helps", "Hurts", "Cost", "Source"))


def test_the_page_of_the_recipe_has_every_field_and_preset(maker: ModuleType) -> None:
    text = maker.recipe_page()
    for name in goodfit.Recipe().plain():
        assert text.count(f"**`{name}`**") == 1
    for preset in goodfit.recipe.recipe.presets():
        assert f"### {preset}\n" in text
