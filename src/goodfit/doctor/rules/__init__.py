"""The rules by which the doctor names causes: one function for each cause, by topic."""

from __future__ import annotations

from goodfit.doctor.finding import Rule
from goodfit.doctor.rules import augmentation, classes, images, inputs, labels, modes, splits

RULES: tuple[Rule, ...] = (
    *labels.RULES,
    *classes.RULES,
    *images.RULES,
    *splits.RULES,
    *inputs.RULES,
    *augmentation.RULES,
    *modes.RULES,
)
