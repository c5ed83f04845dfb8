"""The cards of our parts, kept in a file so that they can be listed without importing torch, which takes seconds."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parts import Part
from goodfit.recipe.recipe import SEATS, Recipe

PACKAGES = ("augment", "layers", "losses", "optim", "schedules", "models", "training.rules", "inspection.probes", "data.sampler")
CARD_FILES = ("core/catalog", "core/contracts", "core/parts", "core/settings", "study/search/defaults", "study/search/space")
FILE = Path(__file__).with_name("cards.json")  # made by docs/make_parts.py
ROOT = FILE.parent.parent


def read_cards() -> list[dict[str, Any]] | None:
    """The cards in the file; None where it is of other code than there is, as while parts are being written."""
    try:
        content = json.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return list(content["cards"]) if content["code"] == digest_code() else None


def refuse_unknown_parts(recipe: Recipe) -> None:
    """Refuse a recipe that names a part which there is not, as far as that can be told without torch.

    Raises:
        UsageError: it does.
    """
    cards = [] if recipe.use else read_cards() or []
    for seat, kind in SEATS.items() if cards else ():
        known = [card["name"] for card in cards if card["kind"] == kind]
        for name in top_names(getattr(recipe, seat)):
            if name not in (*known, "auto", "none"):
                raise UsageError(unknown_name(kind, name, known))


def top_names(text: str | Part) -> list[str]:
    """The names of the parts in a row that a text spells; those of other packages, with a dot, and what does not read are left out."""
    try:
        node = ast.parse(str(text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        names.append(node.right)
        node = node.left
    functions = [step.func if isinstance(step, ast.Call) else step for step in (node, *reversed(names))]
    return [function.id for function in functions if isinstance(function, ast.Name)]


def format_cards(cards: list[dict[str, Any]]) -> str:
    """The content of the file."""
    return json.dumps({"code": digest_code(), "cards": cards}, indent=0, ensure_ascii=False) + "\n"


def digest_code() -> str:
    """A hash of the code that cards are made from: the files of parts, and those that say what a part, a setting and a card are, and
    what a search draws."""
    folders = [ROOT / package.replace(".", "/") for package in PACKAGES]
    files = [file for folder in folders for file in (folder.glob("*.py") if folder.is_dir() else [folder.with_suffix(".py")])]
    files += [ROOT / f"{name}.py" for name in CARD_FILES]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()
