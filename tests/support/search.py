"""A search over a hill in place of trainings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import Recipe

KNOWN = load_catalog()
BASE = Recipe(model="convnet(8)", optimizer="sgd(0.1)", augment="flip | crop(2)", schedule="cosine", budget="9 epochs", batch_size=8)
PEAK = (0.03, 0.5)  # where the hill is


def hill(recipe: Recipe, out: Path) -> float:
    """A training that is none: its accuracy has one peak over rate and momentum, and a little luck by the seed."""
    part: Any = make_parts(recipe, KNOWN)["optimizer"]
    height = math.exp(-(math.log10(part.lr / PEAK[0]) ** 2) - (part.momentum - PEAK[1]) ** 2)
    return 0.9 * height + 0.01 * math.sin(1000 * part.lr + recipe.seed)
