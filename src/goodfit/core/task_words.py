"""What a task answers in words, and which answers are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.core.label_scores import MIDDLE
from goodfit.core.task import Classes, Labels, Task

MIN_NAMED_SHARE = 0.05  # of a mixed target


def describe_answer(task: Task, answer: Tensor) -> str:
    """An answer [K] in words: the likeliest class, the labels that are given, or the numbers."""
    if isinstance(task, Classes):
        return task.outputs[int(answer.argmax())]
    if isinstance(task, Labels):
        return ", ".join(task.chosen(answer.tolist())) or "no label"
    return ", ".join(f"{name} {x:.4g}" for name, x in zip(task.outputs, answer.tolist(), strict=True))


def describe_truth(task: Task, truth: Tensor) -> str:
    """The truth for one image in words."""
    return task.outputs[int(truth)] if isinstance(task, Classes) else describe_answer(task, truth)


def describe_target(task: Task, target: Tensor) -> tuple[list[str], bool]:
    """A target [K] in words, the largest share first, and whether it is one class alone, which a picture of it shows."""
    if not isinstance(task, (Classes, Labels)):
        return [describe_truth(task, task.to_truth(target[None].cpu())[0])], False
    order = [k for k in target.argsort(descending=True, stable=True).tolist() if target[k] >= MIN_NAMED_SHARE]
    words = [task.outputs[k] + (f" {target[k]:.2f}" if target[k] < 1 else "") for k in order]
    return words, isinstance(task, Classes) and not (len(order) > 1 or target[order[0]] < 1)


def find_wrong(task: Task, answers: Tensor, truth: Tensor) -> Tensor:
    """Whether each answer [N, K] is wrong, bool [N]; of labels by their thresholds, of numbers all but those that are met."""
    if isinstance(task, Classes):
        return answers.argmax(1) != truth
    if isinstance(task, Labels):
        thresholds = torch.tensor(task.thresholds or (MIDDLE,) * len(task.outputs), dtype=answers.dtype)
        return ((answers >= thresholds) != (truth > MIDDLE)).any(1)
    return (answers != truth).any(1)
