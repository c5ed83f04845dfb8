"""A remark on a training: what its numbers show and what to do."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Remark:
    """What the numbers of a training show and what to do, in sentences, and the cause as the doctor calls it; empty where none is known."""

    evidence: str
    remedy: str = ""
    cause: str = ""
    may_be_noise: bool = False

    def __str__(self) -> str:
        return f"{self.evidence} {self.remedy}".rstrip()
