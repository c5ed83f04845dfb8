"""How a patient measures its accuracy: in which mode, with which noise, and whether the number is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.doctor.course import clean_labels
from goodfit.doctor.patient import Patient
from goodfit.doctor.sample import Pass
from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import untouched
from goodfit.inspection.operations import OperationTrace

MAX_EVALUATED_IMAGES = 1024


@dataclasses.dataclass(frozen=True)
class EvaluationSigns:
    """An evaluation of the patient's own, on some validation batches, called twice.

    - `accuracy`, `again`: what it said the first and the second time; `honest`: the share of images that the network gets right in
      evaluation mode; `images`: of how many.
    - `in_training_mode`: whether the network was told to train; `norm_in_training`: whether a batch norm took statistics of the batch.
    - `dropout`: the highest rate of a dropout at work. `passes`: how often the network was called.
    - `of_other_weights`: whether others than the network's were evaluated, such as an average of them.
    """

    accuracy: float
    again: float
    honest: float
    images: int
    in_training_mode: bool
    norm_in_training: bool
    dropout: float
    passes: int
    of_other_weights: bool


def examine_evaluation(patient: Patient, model: nn.Module, validation: Pass) -> EvaluationSigns:
    """Let a patient evaluate a network on validation batches and watch it do so; the network and all random numbers stay as they are."""
    batches = _first_batches(validation)
    modes: list[bool] = []
    are_own: list[bool] = []
    state = [p.detach().clone() for p in model.parameters()]

    def look(module: nn.Module, inputs: Any) -> None:
        modes.append(module.training)
        if not are_own:
            are_own.append(all(torch.equal(p, value) for p, value in zip(module.parameters(), state, strict=True)))

    hook = model.register_forward_pre_hook(look)
    try:
        with untouched(model), keep_chance():
            model.train()
            with OperationTrace(model) as traced:
                accuracy = float(patient.evaluate(model, batches))
            model.train()
            again = float(patient.evaluate(model, batches))
    finally:
        hook.remove()
        with torch.no_grad():
            for p, value in zip(model.parameters(), state, strict=True):
                p.copy_(value)
    return EvaluationSigns(
        accuracy,
        again,
        measure_honest_accuracy(model, batches, patient.classes),
        sum(len(labels) for _, labels in batches),
        any(modes),
        any(operation.training for operation in traced.of_kind("norm")),
        max((operation.rate for operation in traced.of_kind("dropout")), default=0.0),
        len(modes),
        are_own != [True],
    )


def measure_honest_accuracy(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], classes: int) -> float:
    """The share of images that a network in evaluation mode gets right."""
    right = n = 0
    with untouched(model), keep_chance(), torch.no_grad():
        model.eval()
        for images, labels in batches:
            found: Any = model(images)
            right += int((found.argmax(1) == clean_labels(labels, classes)).sum())
            n += len(labels)
    return right / max(n, 1)


def _first_batches(validation: Pass) -> list[tuple[Tensor, Tensor]]:
    """The first validation batches, up to a number of images."""
    batches, n = [], 0
    for images, labels in validation.batches():
        batches.append((images, labels))
        if (n := n + len(labels)) >= MAX_EVALUATED_IMAGES:
            break
    return batches
