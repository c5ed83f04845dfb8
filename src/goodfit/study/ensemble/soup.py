"""Model soups: one model whose weights are the mean of several models' weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.recipe.build import build
from goodfit.recipe.parts import load_run_catalog, make_parts
from goodfit.recipe.recipe import Recipe
from goodfit.training.batch_statistics import recompute_statistics, statistics_images
from goodfit.training.freezing import phase_at


@torch.no_grad()
def average_weights(models: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of some models, summed in float64; counters are the first model's.

    Source: Wortsman et al. 2022 (model soups); Izmailov et al. 2018 for weights along one run.
    """
    sums: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    n = 0
    for n, tensors in enumerate(models, start=1):
        first = first or dict(tensors)
        for name, x in tensors.items():
            if x.is_floating_point():
                sums[name] = x.to(torch.float64, copy=True) if n == 1 else sums[name].add_(x.double())
    return {name: (sums[name] / n).to(x.dtype) if name in sums else x.clone() for name, x in first.items()}


class NormRecalibrator:
    """Recomputes the batch statistics of averaged weights, from the training images of a run as its last steps saw them."""

    def __init__(self, run: Run, recipe: Recipe, data: Dataset, device: torch.device) -> None:
        recipe = recipe.but(device=str(device), snapshots=0, average="none", penalty="none")
        self.training = build(recipe, make_parts(recipe, load_run_catalog(run, recipe)), data)

    def recalibrate(self, model: nn.Module) -> None:
        """Replace the running statistics of the model's batch norms, if it has any (see `recompute_statistics`)."""
        plan = self.training.plan
        phase = phase_at(plan.trainable, 1.0)
        recompute_statistics(model, statistics_images(plan, self.training.loader, 1.0), phase.fixed if phase else ())
