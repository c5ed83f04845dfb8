"""The rules by which the doctor names causes: one function for each cause, by topic."""

from __future__ import annotations

from goodfit.doctor.finding import Rule
from goodfit.doctor.rules import modes, rates, regularization, schedule, system

RULES: tuple[Rule, ...] = (*modes.RULES, *system.RULES, *regularization.RULES, *schedule.RULES, *rates.RULES)
