"""Every patch of the doctor is a recipe that builds, and changes what its cause is about."""

from __future__ import annotations

import functools

import pytest

from goodfit.core.reporter import SilentReporter
from goodfit.doctor.causes import COMPONENT_OF
from goodfit.doctor.finding import Finding
from goodfit.doctor.patches import PATCHES, Trained, make_patch, with_patch
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.recipe import Recipe

ASKED = Recipe().but_text(
    {
        "data": "digits",
        "model": "mlp((32, 16), act=sigmoid, drop=dropout(0.5), norm=none, init=gaussian(0.0001))",
        "optimizer": "sgd(0.5, momentum=0.99, weight_decay=0.1)",
        "schedule": "constant",
        "budget": "2 epochs",
        "batch_size": "8",
        "clip": "0.001",
        "loss": "svm",
        "penalty": "l2(0.1)",
        "stop": "patience(1)",
        "precision": "bf16",
        "augment": "crop(3)",
        "sampler": "balanced",
        "mean": "(100.0,)",
        "std": "(0.01,)",
        "size": "8",
    }
)


@functools.cache
def prepared() -> Prepared:
    return prepare(ASKED, SilentReporter())


@pytest.mark.parametrize("cause", sorted(PATCHES))
def test_patch_builds(cause: str) -> None:
    before = prepared()
    patch = make_patch(cause, Trained(before.recipe, before.parts))
    assert cause in COMPONENT_OF
    if cause == "frozen_by_mistake":
        assert patch == {}  # nothing is frozen here
        return
    assert patch, f"{cause} changes nothing of a recipe that has what it is about"
    recipe = before.recipe.but_text(patch)
    assert recipe != before.recipe
    prepare(recipe, SilentReporter())


def test_more_augmentation_is_added_to_what_there_is() -> None:
    before = prepared()

    def patched(augment: str) -> dict[str, str]:
        parts = {**before.parts, "augment": load_catalog().make(augment, "augment")}
        return make_patch("overfitting", Trained(before.recipe, parts))

    added = patched("flip | jitter(0.3)")["augment"]
    assert added.startswith("flip(") and "| jitter(0.3" in added and added.count("erase(") == 1
    assert patched("erase") == {}


def test_rate_is_that_of_the_trial() -> None:
    before = prepared()
    patch = make_patch("lr_too_high", Trained(before.recipe, before.parts, rate_factor=0.01))
    assert "sgd(lr=0.005" in patch["optimizer"] or "sgd(0.005" in patch["optimizer"]


def test_rate_of_a_part_within_a_part() -> None:
    before = prepare(ASKED.but(optimizer="sam(around=sgd(0.5, momentum=0.99))"), SilentReporter())
    patch = make_patch("lr_too_low", Trained(before.recipe, before.parts))
    assert "sgd(5.0" in patch["optimizer"] or "lr=5.0" in patch["optimizer"]


def test_cause_without_a_field() -> None:
    before = prepared()
    assert make_patch("label_noise", Trained(before.recipe, before.parts)) == {}


def test_a_found_rate_reaches_the_recipe() -> None:
    before = prepared()
    found = Finding("lr_too_low", 0.9, "evidence", "remedy", rate_factor=40.0)
    patch = with_patch(found, Trained(before.recipe, before.parts)).patch
    assert "sgd(lr=20.0" in patch["optimizer"] or "sgd(20.0" in patch["optimizer"]
