"""The rules by which the doctor names causes: one function for each cause, by topic."""

from __future__ import annotations

from goodfit.doctor.finding import Rule
from goodfit.doctor.rules import (
    augmentation,
    capacity,
    classes,
    depth,
    frozen,
    images,
    initial,
    inputs,
    labels,
    losses,
    modes,
    rates,
    regularization,
    rough_start,
    schedule,
    splits,
    structure,
    system,
    updates,
)

TOPICS = (
    labels, classes, images, splits, inputs, augmentation, modes, structure, initial, depth, capacity, updates, frozen, losses, system,
    regularization, schedule, rates, rough_start,
)  # fmt: skip
RULES: tuple[Rule, ...] = tuple(rule for topic in TOPICS for rule in topic.RULES)


def read_look_alikes() -> dict[str, dict[str, str]]:
    """What each cause may be taken for, and the test that tells the two apart, by all of its rules."""
    found: dict[str, dict[str, str]] = {}
    for rule in RULES:
        found.setdefault(rule.cause, {}).update(rule.look_alikes)
    return found


LOOK_ALIKES = read_look_alikes()
