"""Goodfit trains image classifiers that fit, and says why when they do not."""

from __future__ import annotations

import importlib
import os

TYPE_CHECKING = False  # as in typing, whose import would take time in which Ctrl-C is not heard yet
if TYPE_CHECKING:
    from typing import Any

    from goodfit.api import evaluate, load, train, watch
    from goodfit.core.trust import trust_code
    from goodfit.predict.export import export
    from goodfit.recipe.recipe import Recipe
    from goodfit.recipe.source import open_images
    from goodfit.training.loop import fit

# Threads that spin for long while they wait make a busy machine many times slower, those that sleep at once lose a third of small steps; it
# must be said before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

__version__ = "0.1.0"
__all__ = ["Recipe", "evaluate", "export", "fit", "load", "open_images", "train", "trust_code", "watch"]

_MODULES = {
    "Recipe": "recipe.recipe",
    "export": "predict.export",
    "fit": "training.loop",
    "open_images": "recipe.source",
    "trust_code": "core.trust",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that importing goodfit imports no torch."""
    if name == "lab":
        return importlib.import_module("goodfit.lab")
    if name in __all__:
        return getattr(importlib.import_module(f"goodfit.{_MODULES.get(name, 'api')}"), name)
    raise AttributeError(f"module goodfit has no attribute {name!r}")
