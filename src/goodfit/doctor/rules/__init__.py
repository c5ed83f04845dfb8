"""The rules by which the doctor names causes: one function for each cause, by topic."""

from __future__ import annotations

from goodfit.doctor.finding import Rule
from goodfit.doctor.rules import capacity, depth, frozen, initial, losses, modes, structure, updates

RULES: tuple[Rule, ...] = (
    *modes.RULES, *structure.RULES, *initial.RULES, *depth.RULES, *capacity.RULES, *updates.RULES, *frozen.RULES, *losses.RULES,
)  # fmt: skip
