"""Faults of the machine: slow data, too many threads, chance without a seed, memory that is never let go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.ward.faults.fault import Fault
from bench.ward.loop import Loss
from bench.ward.nets import weighted_layers
from bench.ward.patient import Batches, Patient

MEMORY: list[Any] = []  # what a leaking step never lets go


def wait_for_data(patient: Patient, severity: int) -> Patient:
    """Take long to fetch each batch."""
    seconds = (0.05, 0.1, 0.2)[severity]

    def feed(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in batches:
            time.sleep(seconds)
            yield pair

    return patient.but(feed=feed)


def start_threads(patient: Patient, severity: int) -> Patient:
    """Compute with far more threads than there are cores."""
    threads = (2, 3, 4)[severity] * (os.cpu_count() or 1)

    def feed(batches: Batches) -> Batches:
        torch.set_num_threads(threads)
        return batches

    return patient.but(feed=feed)


def forget_seed(patient: Patient, severity: int) -> Patient:
    """Draw from a source without a seed: the order, the weights, or both."""

    def feed(batches: Batches) -> Batches:
        held = list(batches)
        order = torch.randperm(len(held), generator=_unseeded()).tolist()
        return [held[k] for k in order]

    def surgery(model: nn.Module) -> nn.Module:
        torch.manual_seed(int.from_bytes(os.urandom(4)))
        for layer in weighted_layers(model):
            layer.reset_parameters()
        return model

    patient = patient.but(feed=feed) if severity != 1 else patient
    return patient.operate(surgery) if severity else patient


def _unseeded() -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(os.urandom(7)))


def leak_memory(patient: Patient, severity: int) -> Patient:
    """Keep the loss with its graph, or the gradients, of every step."""
    before = patient.step

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        if severity == 0:  # the gradients
            value = before(model, optimizer, loss, images, labels)
            MEMORY.append([p.grad.clone() for p in model.parameters() if p.grad is not None] + [images])
            return value
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward(retain_graph=True)
        optimizer.step()
        MEMORY.append(value)
        return value if severity == 2 else value.detach()

    return patient.but(step=step)


FAULTS = (
    Fault("wait-for-data", "data_starved", wait_for_data),
    Fault("start-threads", "threads_oversubscribed", start_threads),
    Fault("forget-seed", "nondeterministic", forget_seed),
    Fault("leak-memory", "memory_leak", leak_memory),
)
