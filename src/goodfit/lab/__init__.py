"""The lecture's worked examples and claims, computed with the parts of a training, and the graph of anything torch computes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodfit.lab.catalog import list_lessons, run_lesson
    from goodfit.lab.claim import find_claim, read_claims
    from goodfit.lab.inquiry import inquire
    from goodfit.lab.laboratory import FULL, QUICK
    from goodfit.lab.tracing import trace

__all__ = ["FULL", "QUICK", "find_claim", "inquire", "list_lessons", "read_claims", "run_lesson", "trace"]

_MODULES = {
    "FULL": "laboratory", "QUICK": "laboratory", "find_claim": "claim", "inquire": "inquiry", "list_lessons": "catalog",
    "read_claims": "claim", "run_lesson": "catalog", "trace": "tracing",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that the list of lessons imports no torch."""
    if name in __all__:
        return getattr(importlib.import_module(f"goodfit.lab.{_MODULES[name]}"), name)
    raise AttributeError(f"module goodfit.lab has no attribute {name!r}")
