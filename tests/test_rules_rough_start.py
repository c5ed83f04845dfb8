"""Rules of violent first steps from which a training recovers, and ends badly: told apart by what a trial of half of the steps gains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from goodfit.doctor.examination import Examination
from goodfit.doctor.replay import Change
from goodfit.doctor.rules import RULES, rough_start

STEPS = 200
LOWER, WARMED = Change(rate=rough_start.LOWER), Change(warmup=rough_start.WARMUP)


def examination(outcomes: dict[Change, tuple[float, float]], peak: float = 3.0, reached: float = 0.3, rates: Any = None) -> Examination:
    """A training whose loss rises from 2.3 to `peak` and which gets `reached` of its images right; the loss and accuracy of each trial."""
    losses = [2.3, peak, *[2.0] * (STEPS - 2)]
    rates = rates or [0.1] * STEPS
    looks = {
        step: SimpleNamespace(validation_loss=2.0, validation_accuracy=reached, train_accuracy=reached, weight_norm=1.0)
        for step in (0, STEPS // 2, STEPS)
    }
    course = SimpleNamespace(
        is_broken=False, taken=STEPS, looks=looks, records=[SimpleNamespace(loss=x, rate=rates[i]) for i, x in enumerate(losses)],
        dissected={0: SimpleNamespace(descent=0.5, applied_cosine=1.0, update_ratio=0.2)},
        replay=SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{"momentum": 0.9}])),
    )  # fmt: skip

    def trial(change: Change, steps: int) -> Any:
        loss, accuracy = outcomes.get(change, (2.0, reached))
        return SimpleNamespace(steps=steps, validation_loss=loss, validation_accuracy=accuracy)

    return cast(Examination, SimpleNamespace(course=course, steps=STEPS, planned_rates=tuple(rates), trial=trial))


def find(exam: Examination) -> dict[str, float]:
    """The causes that are named, with how sure each is."""
    return {found.cause: found.confidence for rule in rough_start.RULES if (found := rule.find(exam)) is not None}


def test_the_change_that_gains_more_is_the_cause() -> None:
    assert find(examination({LOWER: (1.5, 0.5), WARMED: (1.2, 0.6)})) == {"no_warmup": 0.8, "lr_too_high": 0.6}
    assert find(examination({LOWER: (1.2, 0.6), WARMED: (1.5, 0.5)})) == {"no_warmup": 0.5, "lr_too_high": 0.8}
    assert find(examination({LOWER: (1.2, 0.6)})) == {"lr_too_high": 0.8}
    assert find(examination({WARMED: (1.2, 0.6)})) == {"no_warmup": 0.8}


@pytest.mark.parametrize(
    ("peak", "reached", "outcome"),
    [(2.4, 0.3, (1.2, 0.6)), (3.0, 0.9, (0.2, 0.98)), (3.0, 0.3, (1.9, 0.6)), (3.0, 0.3, (1.2, 0.32))],
    ids=["calm", "ends well", "little loss", "few points"],
)
def test_what_is_calm_ends_well_or_gains_little_is_silent(peak: float, reached: float, outcome: tuple[float, float]) -> None:
    assert find(examination({LOWER: outcome, WARMED: outcome}, peak, reached)) == {}


def test_a_training_with_a_warm_up_is_never_told_to_warm_up() -> None:
    rising = [0.1 * min(1, (i + 1) / 20) for i in range(STEPS)]
    assert find(examination({LOWER: (1.5, 0.5), WARMED: (1.2, 0.6)}, rates=rising)) == {"lr_too_high": 0.8}


def test_the_doctor_asks_them() -> None:
    assert all(rule in RULES for rule in rough_start.RULES)
