"""The rule of weights that should learn and do not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from goodfit.doctor.examination import PREFLIGHT_IMAGES, Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import untouched

FROZEN_SHARE = 0.15  # of the numbers of random weights, or of their layers
PERTURBATION = 0.1  # of each number of a weight, to see whether the scores depend on it


def find_frozen_by_mistake(exam: Examination) -> Finding | None:
    """Weights that are random, and on which the scores depend, have not moved since the start, and something keeps them from it."""
    now, start = dict(exam.course.replay.model.named_parameters()), dict(exam.start_model.named_parameters())
    has_moved = any(not torch.equal(p.detach(), start[name].detach()) for name, p in now.items() if name in start)
    if exam.course.is_broken or (not has_moved and exam.course.taken < exam.steps):
        return None  # before anything has moved, who can tell? a training that adds up many batches makes its first update late
    names = [layer.name for layer in exam.network.layers if layer.name in exam.random_parameters and layer.name in now]
    still = [name for name in names if torch.equal(now[name].detach(), start[name].detach())]
    frozen = {name: now[name] for name in still if needs_learning(exam, now[name])}
    numbers = sum(w.numel() for w in frozen.values()) / max(sum(now[name].numel() for name in names), 1)
    if not frozen or max(numbers, len(frozen) / len(names)) < FROZEN_SHARE:
        return None
    reasons = [why for why, is_so in reasons_to_rest(exam, frozen).items() if is_so]
    if not reasons:
        return None
    return Finding(
        "frozen_by_mistake",
        0.95,
        f"{len(frozen)} of {len(names)} layers of random weights, {100 * numbers:.0f} % of their numbers, have not moved after"
        f" {exam.course.taken} steps: {' and '.join(reasons)}.",
        "Give the optimizer all parameters, with requires_grad on and no detach or no_grad behind them.",
    )


def needs_learning(exam: Examination, weight: Tensor) -> bool:
    """Whether the scores depend on a weight, so that it does not rest because of dead units behind it."""
    model, images = exam.course.replay.model, exam.sample.train.spread(PREFLIGHT_IMAGES)[0]
    with untouched(model), keep_chance(), torch.no_grad():
        model.train()
        torch.manual_seed(0)
        before, kept = model(images).float(), weight.detach().clone()
        weight.mul_(1 + PERTURBATION * torch.randn(weight.shape))
        torch.manual_seed(0)
        after = model(images).float()
        weight.copy_(kept)
    return float((after - before).abs().max()) > 0


def reasons_to_rest(exam: Examination, weights: Mapping[str, Tensor]) -> dict[str, bool]:
    """Why weights may not move: which of the usual reasons hold for most of them. A gradient too small to count is none."""
    groups = exam.course.replay.optimizer.param_groups
    given = {id(p): group.get("lr", 1.0) for group in groups for p in group["params"]}
    steps = [s for s in exam.course.dissected.values() if s.updates]
    n = len(weights) / 2
    return {
        "requires_grad is off": sum(not w.requires_grad for w in weights.values()) > n,
        "the optimizer does not have them": sum(id(w) not in given for w in weights.values()) > n,
        "their rate is 0": any(given.values()) and sum(given.get(id(w)) == 0 for w in weights.values()) > n,
        "no gradient reaches them": len(find_detached(exam, weights)) > n,
        "no update is made": not sum(record.updates for record in exam.course.records),
        "their gradient is zero when the update is made": bool(steps) and all(s.applied_norm == 0 < s.fresh_norm for s in steps),
    }


def find_detached(exam: Examination, weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that require a gradient and that the loss knows nothing of."""
    model, (images, labels) = exam.course.replay.model, exam.sample.train.spread(PREFLIGHT_IMAGES)
    asked = {name: w for name, w in weights.items() if w.requires_grad}
    with untouched(model), keep_chance(), torch.enable_grad():
        model.train()
        loss = exam.patient.loss(model(images), labels)
        if not asked or not loss.requires_grad:
            return list(asked)
        gradients = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
    return [name for name, gradient in zip(asked, gradients, strict=True) if gradient is None]


RULES = tuple(
    Rule(
        "frozen_by_mistake",
        stage,
        find_frozen_by_mistake,
        {
            "dead_relu": "there the scores do not depend on the weights that rest",
            "a frozen pretrained trunk": "there weights are not random",
        },
    )
    for stage in (Stage.EARLY, Stage.END)
)
