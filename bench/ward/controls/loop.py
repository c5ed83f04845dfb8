"""Healthy variations of the loss, the step and the evaluation."""

from __future__ import annotations

import dataclasses
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bench.ward.controls.control import Control
from bench.ward.loop import Loss
from bench.ward.patient import Patient
from bench.ward.steps import clip_gradients, evaluate_average


def smooth_labels(patient: Patient) -> Patient:
    """Label smoothing of 0.1."""
    return patient.but(loss=lambda outputs, labels: functional.cross_entropy(outputs, labels, label_smoothing=0.1))


def mix_images(patient: Patient) -> Patient:
    """Mixup."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        share, order = float(torch.distributions.Beta(0.3, 0.3).sample()), torch.randperm(len(images))
        optimizer.zero_grad()
        outputs = model(share * images + (1 - share) * images[order])
        value = share * loss(outputs, labels) + (1 - share) * loss(outputs, labels[order])
        value.backward()
        optimizer.step()
        return value.detach()

    return patient.but(step=step)


def clip_at_one(patient: Patient) -> Patient:
    """Gradients clipped at a norm of 1."""
    return clip_gradients(patient, 1.0)


def accumulate_parts(patient: Patient) -> Patient:
    """Gradients added up over the parts of a batch, each in its share."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for part, targets in zip(images.chunk(2), labels.chunk(2), strict=True):
            value = loss(model(part), targets) * (len(part) / len(images))
            value.backward()
            total += value.detach()
        optimizer.step()
        return total

    return patient.but(step=step)


def accumulate_steps(patient: Patient) -> Patient:
    """Gradients added up over two batches of half the size, then one step of the optimizer."""
    counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        counts[model] = counts.get(model, 0) + 1
        value = loss(model(images), labels)
        (value / 2).backward()
        if counts[model] % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return value.detach()

    schedule = dataclasses.replace(patient.schedule, every="epoch")
    return patient.but(step=step, schedule=schedule, batch=max(8, patient.batch // 2), steps=round(1.5 * patient.steps))


def compute_in_bfloat16(patient: Patient) -> Patient:
    """Forward and loss in bfloat16 by autocast, weights in float32."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images)
        value = loss(outputs.float(), labels)
        value.backward()
        optimizer.step()
        return value.detach()

    return patient.but(step=step)


def average_weights(patient: Patient) -> Patient:
    """Evaluation of an average of the weights over the last steps."""
    return evaluate_average(patient, 0.2)


def end_in_log_softmax(patient: Patient) -> Patient:
    """A model that gives log probabilities to the likelihood."""
    ended = patient.operate(lambda model: nn.Sequential(model, nn.LogSoftmax(1)))
    return ended.but(loss=functional.nll_loss)


CONTROLS = (
    Control("smooth-labels", smooth_labels),
    Control("mix-images", mix_images),
    Control("clip-at-one", clip_at_one),
    Control("accumulate-parts", accumulate_parts),
    Control("accumulate-steps", accumulate_steps),
    Control("compute-in-bfloat16", compute_in_bfloat16),
    Control("evaluate-average", average_weights),
    Control("end-in-log-softmax", end_in_log_softmax),
)
