"""What the audit finds: a sentence with its numbers, how bad it is, and the images that show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # what makes scores or models wrong, what may, and what is good to know


@dataclasses.dataclass(frozen=True)
class DataFinding:
    """Something about the data: the `check` that found it, its `severity`, a `sentence` of at most 60 words (what, the evidence in numbers,
    what to do), the `numbers` by name, and `groups` of images that show it by their names, the worst first, each with a text in `captions`
    or none.
    """

    check: str
    severity: Severity
    sentence: str
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    captions: tuple[str, ...] = ()


def sort_findings(findings: Sequence[DataFinding]) -> list[DataFinding]:
    """The findings in order of their severity, those of one severity as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
