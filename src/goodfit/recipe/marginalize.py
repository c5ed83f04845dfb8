"""The mean of noisy passes: train y = f(x, z), and at test average over z (the lecture's one pattern for all noise)."""

from __future__ import annotations

from typing import Any

from torch import nn

from goodfit.core.chance import MASK, fold
from goodfit.core.errors import UsageError
from goodfit.recipe.build import Judge
from goodfit.recipe.classifier import probabilities_of
from goodfit.training.evaluate import Answers, judged, mean_of_passes
from goodfit.training.noise import noise_layers


def needs_noise(model: nn.Module, passes: int) -> None:
    """Refuse to average passes of a model that has no noise.

    Raises:
        UsageError: `passes` is negative, or the model has no noise layer.
    """
    if passes < 0 or (passes and not noise_layers(model)):
        found = f"{passes}" if passes < 0 else "one that has no noise layer"
        raise UsageError(f"marginalize averages noisy passes, 1 or more, of a model trained with noise such as dropout; received {found}.")


def averaged(judge: Judge, model: nn.Module, answers: Answers, passes: int, seed: int) -> dict[str, Any]:
    """Accuracy and log loss of the mean of noisy passes by their number, and those of the deterministic `answers` to the same images."""

    def ask(place: int) -> Answers:
        return judge(model, answers.ids, seed=fold(seed & MASK, "marginalize", place))

    def probabilities(logits: Any) -> Any:
        return probabilities_of(judge.loss, logits)

    return {"deterministic": judged(probabilities(answers.logits), answers.labels), "passes": mean_of_passes(ask, passes, probabilities)}
