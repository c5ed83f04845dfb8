"""The rules by which the doctor names causes: one function for each cause, by topic."""

from __future__ import annotations

from goodfit.doctor.finding import Rule
from goodfit.doctor.rules import classes, images, inputs, labels, modes, rates, regularization, schedule, splits, system

TOPICS = (labels, classes, images, splits, inputs, modes, rates, schedule, regularization, system)
RULES: tuple[Rule, ...] = tuple(rule for topic in TOPICS for rule in topic.RULES)
