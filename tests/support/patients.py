"""Patients for the doctor's tests: a small training on digits that learns well, and the same with one part put in place of another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Verdict
from goodfit.doctor.patient import PatientSource, make_patient

BATCH, STEPS, CLASSES = 32, 160, 10


@functools.cache
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Digits as uint8 [N, 8, 8, 1]: 1,200 to train on and 597 to validate on."""
    data = load_digits()
    images, labels = (data.images * 15.9).astype(np.uint8)[..., None], data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    return {"train": (images[:1200], labels[:1200]), "validation": (images[1200:], labels[1200:])}


def prepare(images: np.ndarray) -> Tensor:
    """Images [N, H, W, C] as a network gets them: [N, C, H, W], mean about 0, standard deviation about 1."""
    return (torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255 - 0.3) / 0.37


def iterate(split: str, size: int, order: np.ndarray | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = digits()[split]
    order = np.arange(len(labels)) if order is None else order
    for i in range(0, len(order) - size + 1 if split == "train" else len(order), size):
        rows = order[i : i + size]
        yield prepare(images[rows]), torch.from_numpy(labels[rows].copy())


def convnet(act: type[nn.Module] = nn.ReLU, width: int = 16, classes: int = CLASSES, norm: bool = True) -> nn.Sequential:
    """Two convs, the second at stride 2, and a linear head."""

    def block(enter: int, leave: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(enter, leave, 3, stride, 1), *([nn.BatchNorm2d(leave)] if norm else []), act()]

    return nn.Sequential(*block(1, width, 1), *block(width, 2 * width, 2), nn.Flatten(), nn.Linear(2 * width * 16, classes))


def plain_net() -> nn.Sequential:
    """The same without norms."""
    return convnet(norm=False)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mlp(*between: nn.Module, width: int = 32) -> nn.Sequential:
    """Linear layers with something between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    enter = 64
    for module in between:
        layers += [nn.Linear(enter, width), module]
        enter = width
    return nn.Sequential(*layers, nn.Linear(enter, 10))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    value = loss(model(images), labels)
    value.backward()
    optimizer.step()
    return value.detach()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Any) -> float:
    model.eval()
    right = n = 0
    for images, labels in batches:
        right += int((model(images).argmax(1) == labels).sum())
        n += len(labels)
    return right / n


def parts(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """The dictionary of a healthy case, with some parts changed."""

    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iterate("train", BATCH, np.random.default_rng((seed, epoch)).permutation(1200))

    return {
        "classes": CLASSES, "steps": STEPS, "model": convnet, "loss": F.cross_entropy, "train": train,
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4),
        "schedule": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), "schedule_every": "step",
        "validation": lambda: iterate("validation", 200), "step": step, "evaluate": evaluate, "raw": digits(), **changes,
    }  # fmt: skip


def patient(seed: int = 0, **changes: Any) -> PatientSource:
    """A healthy patient, with some parts changed."""
    return PatientSource("digits", seed, lambda: make_patient(parts(seed, **changes), "digits"))


# ---- what the doctor says of them ----------------------------------------------------------------------------------------------------


def find_causes(exam: Examination, rules: Sequence[Rule]) -> dict[str, Finding]:
    """What some rules find in a patient as far as it has been followed, by cause."""
    found = [rule.find(exam) for rule in rules]
    return {finding.cause: finding for finding in found if finding is not None}


def first_cause(**changes: Any) -> str | None:
    """The cause that the doctor names first by all rules, of a patient with some parts changed; None without an alarm."""
    verdict = diagnose(patient(**changes))
    return verdict.findings[0].cause if verdict.alarm else None


def names(verdict: Verdict) -> list[str]:
    """The material causes of a verdict, most likely first."""
    return [finding.cause for finding in verdict.findings if finding.is_material]
