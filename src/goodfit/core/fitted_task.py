"""What of a task is fitted to validation images, and how a task is kept with its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from goodfit.core.label_scores import MIDDLE
from goodfit.core.task import TASKS, Labels, Task

FITTED = ("thresholds", "half_widths")  # of labels, of numbers


def unfitted_task(task: Task) -> Task:
    """The task without what is fitted to answers."""
    fitted = {field.name: () for field in dataclasses.fields(task) if field.name in FITTED}
    return dataclasses.replace(task, **fitted) if fitted else task


def deployed_task(task: Task) -> Task:
    """The task as a model answers by it: labels without thresholds of their own are given from the middle on."""
    if isinstance(task, Labels) and not task.thresholds:
        return dataclasses.replace(task, thresholds=(MIDDLE,) * len(task.outputs))
    return task


def plain_task(task: Task) -> dict[str, Any]:
    """A task for JSON, without its outputs; `read_task` reads it."""
    values = {field.name: list(getattr(task, field.name)) for field in dataclasses.fields(task) if field.name != "outputs"}
    return {"name": task.name, **values}


def temper_task(task: Task, temperature: float) -> Task:
    """The task for answers that are scaled by a temperature, which the thresholds of labels are scaled by, too."""
    if temperature == 1 or not isinstance(task, Labels) or not task.thresholds:
        return task
    thresholds = task.to_answers(task.to_logits(torch.tensor(task.thresholds, dtype=torch.float64)) / temperature)
    return dataclasses.replace(task, thresholds=tuple(thresholds.tolist()))


def read_task(content: Mapping[str, Any] | None, outputs: Sequence[str]) -> Task:
    """Read the task that `plain_task` wrote; classes where there is none, as of runs before there were others.

    Raises:
        KeyError, TypeError: it is none.
    """
    content = content or {"name": "classes"}
    values = {key: tuple(map(float, value)) for key, value in content.items() if key != "name"}
    return TASKS[content["name"]](tuple(outputs), **values)
