"""Try a remedy on a run, and train by it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.words import format_percent
from goodfit.doctor.examination import Examination, Trial
from goodfit.doctor.finding import spell_patch
from goodfit.doctor.run_examination import RunDiagnosis
from goodfit.doctor.run_patient import make_run_source
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.recipe import Recipe

MIN_STEPS = 20  # of each training that is compared


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What a change of the recipe does to the first steps of a training: the same steps without it and with it, on the same images."""

    patch: Mapping[str, Any]
    without: Trial
    with_it: Trial

    def to_json(self) -> dict[str, Any]:
        return {
            "patch": dict(self.patch),
            "steps": self.without.steps,
            "without": {"loss": self.without.validation_loss, "accuracy": self.without.validation_accuracy},
            "with": {"loss": self.with_it.validation_loss, "accuracy": self.with_it.validation_accuracy},
        }

    def describe(self) -> str:
        """The comparison in a sentence."""
        fields = spell_patch(self.patch)
        before, after = self.without, self.with_it
        return (
            f"Tried: {before.steps} steps with {fields} reach {format_percent(after.validation_accuracy)} of validation images"
            f" (loss {after.validation_loss:.3g}), as many without it {format_percent(before.validation_accuracy)}"
            f" (loss {before.validation_loss:.3g})."
        )


def try_remedy(diagnosis: RunDiagnosis, reporter: Reporter, share: float) -> Remedy | None:
    """Train some of a run's steps anew, without and with the patch of the first finding that has one; None where none has."""
    patch = choose_patch(diagnosis)
    if not patch:
        return None
    steps = diagnosis.planned_steps
    tried = max(MIN_STEPS, round(share * steps))
    changed = prepare_patched(diagnosis.prepared, patch, reporter)
    reporter.show_activity("trying the remedy")
    without, with_it = (
        Examination(make_run_source(prepared, "remedy", steps)).trial(steps=tried) for prepared in (diagnosis.prepared, changed)
    )
    return Remedy(patch, without, with_it)


def choose_patch(diagnosis: RunDiagnosis) -> Mapping[str, Any]:
    """The fields that the most likely finding with a patch changes."""
    return next((finding.patch for finding in diagnosis.verdict.findings if finding.is_material and finding.patch), {})


def patch_recipe(recipe: Recipe, patch: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields changed."""
    return recipe.but_text({name: str(value) for name, value in patch.items()})


def prepare_patched(prepared: Prepared, patch: Mapping[str, Any], reporter: Reporter) -> Prepared:
    """Prepare the training of a recipe with some fields changed, from the same start."""
    return prepare(patch_recipe(prepared.recipe, patch), reporter, start=prepared.training.plan.start)


def patched_recipe(diagnosis: RunDiagnosis) -> Recipe:
    """The recipe of a diagnosed run with the remedy.

    Raises:
        UsageError: nothing was found that a field of the recipe can change.
    """
    if not (patch := choose_patch(diagnosis)):
        raise UsageError("Expected a finding whose remedy is a change of the recipe, found none: nothing is applied.")
    return patch_recipe(diagnosis.prepared.recipe, patch)


def next_free_folder(run: Run) -> Path:
    """The folder for a run with the remedy: beside the run, with its name and "-fixed"."""
    names = itertools.chain(["fixed"], (f"fixed-{i}" for i in itertools.count(2)))
    return next(path for ending in names if not (path := run.path.with_name(f"{run.path.resolve().name}-{ending}")).exists())
