"""The rules by which the doctor names causes: one function for each cause, by topic."""

from __future__ import annotations

from goodfit.doctor.finding import Rule
from goodfit.doctor.rules import classes, inputs, labels, modes, rates, regularization, schedule, splits, system

RULES: tuple[Rule, ...] = (
    *labels.RULES, *classes.RULES, *inputs.RULES, *splits.RULES, *modes.RULES, *rates.RULES, *schedule.RULES, *regularization.RULES,
    *system.RULES,
)  # fmt: skip
