"""Writes what comes from the code: docs/parts.md, the file of cards, docs/recipe.md, the causes in docs/doctor.md: `make docs`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from goodfit.core import contracts
from goodfit.core.settings import settings_of, type_phrase
from goodfit.doctor.causes import BY_COMPONENT
from goodfit.doctor.rules import LOOK_ALIKES
from goodfit.recipe.cards import FILE, format_cards
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe, presets
from goodfit.study.search.defaults import make_cards

HERE = Path(__file__).parent
MADE = "<!-- Made by docs/make_parts.py from the code: change the sentence there, then run `make docs`. -->\n"
MADE_CAUSES = "<!-- The table is made by docs/make_parts.py from the doctor's causes and rules: run `make docs`. -->\n"
LINES = ("Helps", "Hurts", "Cost", "Source")  # of a card, after what the part does


def parts_page() -> str:
    """Every part with its settings and card, by kind."""
    known = load_catalog().cards()
    kinds = sorted({card["kind"] for card in known})
    menu = " · ".join(f"[{kind}](#{kind})" for kind in kinds)
    text = f"{MADE}# Parts\n\nEvery part there is, as `goodfit parts KIND` prints it. Defaults are in the spelling.\n\n{menu}\n"
    for kind in kinds:
        text += f"\n## {kind}\n\n{_plain(_seat(kind))}\n"
        text += "".join(_part(card) for card in known if card["kind"] == kind)
    return text


def recipe_page() -> str:
    """Every field of the recipe with its type, default and sentence; and the presets."""
    text = (
        f"{MADE}# The recipe\n\n"
        "What decides a training, one field a line. On the command line each is an option (`batch_size` is `--batch-size`), in Python an\n"
        'argument of `goodfit.Recipe`, in a file a TOML key. "auto" is chosen from the data and the machine, said before training starts,\n'
        "and written into the run's own recipe.toml. An unknown key is an error.\n\n"
    )
    sentences = {field.name: field.metadata["help"] for field in dataclasses.fields(Recipe) if field.metadata}
    for setting in settings_of(Recipe):
        default = json.dumps(list(setting.default) if isinstance(setting.default, tuple) else setting.default)
        text += f"- **`{setting.name}`** = `{default}`: {_plain(sentences[setting.name])} Type: {_plain(type_phrase(setting.hint))}.\n"
    text += "\n## Presets\n\n`--recipe NAME` starts from one; other options still win.\n"
    for name in presets():
        content = (resources.files("goodfit.recipe") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
        text += f"\n### {name}\n\n```toml\n{content}```\n"
    return text


def doctor_page() -> str:
    """The page of the doctor with its causes, and what each may be taken for."""
    text = (HERE / "doctor.md").read_text(encoding="utf-8").partition(MADE_CAUSES)[0] + MADE_CAUSES
    text += "\n| cause | component | what it is | not to be taken for |\n|---|---|---|---|\n"
    for component, causes in BY_COMPONENT.items():
        for cause, sentence in causes.items():
            others = "; ".join(f"{other}: {test}" for other, test in LOOK_ALIKES[cause].items())
            text += f"| {cause} | {component} | {sentence} | {_plain(others)} |\n"
    return text


def _seat(kind: str) -> str:
    """What a kind of part takes and gives, from its contract."""
    found = [cls for cls in vars(contracts).values() if isinstance(cls, type) and cls.__dict__.get("kind") == kind]
    return inspect.getdoc(found[0]) or "" if found else ""


def _part(card: dict[str, Any]) -> str:
    told, _, rest = card["card"].partition("\nHelps:")
    lines = "".join(
        f"- **{name}:** {_plain(' '.join(found.group(1).split()))}\n"
        for name in LINES
        if (found := re.search(rf"^{name}: (.*?)(?=^(?:{'|'.join(LINES)}): |\Z)", f"Helps:{rest}", re.DOTALL | re.MULTILINE))
    )
    types = "; ".join(f"`{s['name']}` {_plain(s['type'])}" for s in card["settings"])
    settings = f"- **Settings:** {types}.\n" if types else ""
    return f"\n### {card['name']} ({card['kind']})\n\n`{card['spelling']}`\n\n{_plain(told.strip())}\n\n{lines}{settings}"


def _plain(text: str) -> str:
    """Text whose stars and angle brackets mean themselves."""
    pieces = text.split("`")
    return "`".join(piece if i % 2 else re.sub(r"([*<])", r"\\\1", piece) for i, piece in enumerate(pieces))


def main() -> None:
    """Write the pages, and the cards as `goodfit parts` reads them."""
    made = {"parts.md": parts_page(), "recipe.md": recipe_page(), "doctor.md": doctor_page()}
    for path, text in (*((HERE / name, text) for name, text in made.items()), (FILE, format_cards(make_cards()))):
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
