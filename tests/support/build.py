"""The training of a recipe on open data, with parts made from its text."""

from __future__ import annotations

from torch import nn

from goodfit.core.catalog import Catalog
from goodfit.data.dataset import Dataset
from goodfit.recipe.build import Training, build
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.recipe import Recipe


def build_training(recipe: Recipe, data: Dataset, catalog: Catalog | None = None, pretrained: nn.Module | None = None) -> Training:
    usual = {"resolution": "full", "views": "center", "loss": "softmax"}
    recipe = recipe.but(**{seat: text for seat, text in usual.items() if getattr(recipe, seat) == "auto"})
    return build(recipe, make_parts(recipe, catalog or load_catalog(recipe.use)), data, pretrained)
