"""Filling in the open fields of a recipe, with a record of each choice; parts are made from their text once."""

from __future__ import annotations

import dataclasses
from typing import Any

from goodfit.core.catalog import Catalog
from goodfit.core.forecast import Forecast
from goodfit.core.parts import Part
from goodfit.recipe.recipe import SEATS, Recipe


@dataclasses.dataclass(frozen=True)
class Choice:
    """A field that was left open: its chosen value, by which rule, on what evidence."""

    field: str
    value: str
    rule: str
    evidence: str


class Chooser:
    """Fills in the fields of a recipe that are "auto", keeping a record of each choice, and makes each part from its text once."""

    def __init__(self, recipe: Recipe, catalog: Catalog) -> None:
        self.recipe, self.catalog = recipe, catalog
        self.choices: list[Choice] = []
        self.forecast: Forecast | None = None  # where a choice was made by what it will reach
        self.seconds_per_image: float | None = None  # of a training step, where that was measured
        self._parts: dict[tuple[str, Any], Part] = {}

    def is_open(self, field: str) -> bool:
        """Whether a field is still "auto"."""
        return bool(getattr(self.recipe, field) == "auto")

    def has_open_fields(self) -> bool:
        """Whether any field is still "auto"."""
        return any(self.is_open(field.name) for field in dataclasses.fields(self.recipe))

    def set(self, field: str, value: Any) -> None:
        """Set an open field without a record."""
        if self.is_open(field):
            self.recipe = self.recipe.but(**{field: value})

    def choose(self, field: str, value: Any, rule: str, evidence: str) -> None:
        """Set an open field, and record the choice."""
        if self.is_open(field):
            self.set(field, value)
            text = ", ".join(f"{x:.4g}" for x in value) if isinstance(value, tuple) else str(value)
            self.choices.append(Choice(field, text, rule, evidence))

    def part(self, seat: str) -> Part | None:
        """The part in a seat; None while it is open.

        Raises:
            UsageError: the part or a setting is unknown or wrong.
        """
        text = getattr(self.recipe, seat)
        if text == "auto":
            return None
        if (seat, text) not in self._parts:
            self._parts[seat, text] = self.catalog.make(text, SEATS[seat])
        return self._parts[seat, text]

    def parts(self) -> dict[str, Part]:
        """The parts of all seats that are not open."""
        return {seat: part for seat in SEATS if (part := self.part(seat)) is not None}
