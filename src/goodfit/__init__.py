"""Goodfit trains image classifiers that fit, and says why when they do not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodfit.api import evaluate, load, train
    from goodfit.predict.export import export
    from goodfit.recipe.recipe import Recipe

# Threads that spin while they wait make a busy machine many times slower; it must be said before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
__all__ = ["Recipe", "evaluate", "export", "load", "train"]


def __getattr__(name: str) -> Any:
    """Hand on `train`, `load`, `evaluate`, `export` and `Recipe` when they are asked for: importing goodfit imports no torch."""
    if name == "Recipe":
        from goodfit.recipe.recipe import Recipe

        return Recipe
    if name == "export":
        from goodfit.predict.export import export

        return export
    if name in __all__:
        from goodfit import api

        return getattr(api, name)
    raise AttributeError(f"module goodfit has no attribute {name!r}")
