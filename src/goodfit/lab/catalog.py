"""The lessons there are, in the lecture's order; their titles are read without importing them, which would import torch."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from importlib import resources
from typing import TYPE_CHECKING

from goodfit.core.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from goodfit.lab.lesson import Lesson

PACKAGE = "goodfit.lab.lessons"
NAMES = (
    "scores", "losses", "nearest", "backprop", "affine", "two_layer", "svm_gradient", "descent", "regression", "taylor", "conditioning",
    "optimizers", "workers", "perceptron", "approximation", "saturation", "initialization", "batch_norm", "dropout", "elastic_net",
    "fitting", "convolution", "small_filters", "memory",
)  # fmt: skip


def list_lessons() -> dict[str, str]:
    """The title of each lesson by its name, in the lecture's order."""
    return {name: _read_title(name) for name in NAMES}


def run_lesson(name: str) -> Lesson:
    """Compute a lesson: it takes a second, those that train some more.

    Raises:
        UsageError: there is no such lesson.
    """
    if name not in NAMES:
        raise UsageError(unknown_name("lesson", name, NAMES))
    lesson: Lesson = importlib.import_module(f"{PACKAGE}.{name}").teach()
    return dataclasses.replace(lesson, name=name, title=_read_title(name))


def _read_title(name: str) -> str:
    """The first line of a lesson's file."""
    source = (resources.files(PACKAGE) / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
