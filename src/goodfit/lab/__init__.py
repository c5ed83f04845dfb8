"""The lecture's worked examples, computed with the parts of a training, and the computational graph of anything torch computes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodfit.lab.catalog import list_lessons, run_lesson
    from goodfit.lab.tracing import trace

__all__ = ["list_lessons", "run_lesson", "trace"]

_MODULES = {"trace": "tracing"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that the list of lessons imports no torch."""
    if name in __all__:
        return getattr(importlib.import_module(f"goodfit.lab.{_MODULES.get(name, 'catalog')}"), name)
    raise AttributeError(f"module goodfit.lab has no attribute {name!r}")
