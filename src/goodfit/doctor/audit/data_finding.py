"""What the audit finds: a sentence with its numbers, how bad it is, and the images that show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from goodfit.data.index import IntArray

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # what makes scores or models wrong, what may, and what is good to know
MAX_NAMED = 200  # groups of images that are listed by name


@dataclasses.dataclass(frozen=True)
class DataFinding:
    """Something about the data: the `check` that found it, its `severity`, a `sentence` of at most 60 words (what, the evidence in numbers,
    what to do), the `numbers` by name, and `groups` of images that show it by their places, the worst first, each with a `captions` text.

    `total` is how many groups there are, of which some are listed.
    """

    check: str
    severity: Severity
    sentence: str
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    groups: tuple[tuple[int, ...], ...] = ()
    captions: tuple[str, ...] = ()
    total: int = 0

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """The finding with the `names` of its images in the place of their rows."""
        return {
            "check": self.check, "severity": self.severity, "sentence": self.sentence, "numbers": dict(self.numbers),
            "groups": [[names[place] for place in group] for group in self.groups], "captions": list(self.captions), "total": self.total,
        }  # fmt: skip


def list_groups(groups: Sequence[IntArray] | IntArray) -> tuple[tuple[int, ...], ...]:
    """The first groups of places, or places that are each one, as tuples."""
    return tuple(tuple(int(x) for x in (group if hasattr(group, "__len__") else [group])) for group in groups[:MAX_NAMED])


def sort_findings(findings: Sequence[DataFinding]) -> list[DataFinding]:
    """The findings in order of their severity, those of one severity as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
