"""Healthy controls: the settings as they are, and variations that look odd but are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bench.ward.images import Split
from bench.ward.loop import Loss, Rule, Schedule, make_optimizer, measure_accuracy
from bench.ward.nets import last_linear
from bench.ward.patient import Batches, Patient
from bench.ward.settings import CNN, CNN_BN, COSINE, MOVES, SHIFT, Setting
from bench.ward.transforms import Warp, add_noise, chain, jitter, to_float, to_uint8


def _any(patient: Patient) -> bool:
    return True


def _hidden(patient: Patient) -> bool:
    return patient.net.family != "linear"


def _pretrained(patient: Patient) -> bool:
    return patient.surgery is not Patient.surgery


def _color(patient: Patient) -> bool:
    return patient.is_color


def _large(patient: Patient) -> bool:
    return len(patient.splits.train) > 60 * patient.splits.classes


def _sgd(patient: Patient) -> bool:
    return not patient.rule.is_adaptive and not _pretrained(patient)


def _relu(patient: Patient) -> bool:
    return _hidden(patient) and patient.net.act == "relu" and not _pretrained(patient)


@dataclasses.dataclass(frozen=True)
class Control:
    """A healthy variation.

    Attributes:
        name: unlike any other.
        change: makes the variation of a healthy patient.
        fits: whether a patient can have it.
        is_comparable: whether it should do as well as the patient it comes from; a harder task cannot.
    """

    name: str
    change: Callable[[Patient], Patient]
    fits: Callable[[Patient], bool] = _any
    is_comparable: bool = True


# ---- loss and step -----------------------------------------------------------------------------------------------------------------


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

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(images), labels)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.detach()

    return patient.but(step=step)


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

    return patient.but(step=step, batch=max(8, patient.batch // 2), steps=round(1.5 * patient.steps))


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


def evaluate_average(patient: Patient) -> Patient:
    """Evaluation of an average of the weights over the last steps."""
    averages: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        value = before(model, optimizer, loss, images, labels)
        with torch.no_grad():
            for mean, parameter in zip(
                averages.setdefault(model, [p.clone() for p in model.parameters()]), model.parameters(), strict=True
            ):
                mean.lerp_(parameter, 0.2)
        return value

    def evaluate(model: nn.Module, batches: Batches) -> float:
        held = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for parameter, mean in zip(model.parameters(), averages.get(model, held), strict=True):
                parameter.copy_(mean)
            accuracy = measure_accuracy(model, batches)
            for parameter, value in zip(model.parameters(), held, strict=True):
                parameter.copy_(value)
        return accuracy

    before = patient.step
    return patient.but(step=step, evaluate=evaluate)


def end_in_log_softmax(patient: Patient) -> Patient:
    """A model that gives log probabilities to the likelihood."""
    ended = patient.operate(lambda model: nn.Sequential(model, nn.LogSoftmax(1)))
    return ended.but(loss=functional.nll_loss)


# ---- data --------------------------------------------------------------------------------------------------------------------------


def augment_strongly(patient: Patient) -> Patient:
    """Strong augmentation, under which training is harder than validation."""
    return patient.but(augment=chain(Warp(shift=0.1, scale=0.8, rotate=15), jitter(0.3), add_noise(0.08)))


def keep_pixels_to_one(patient: Patient) -> Patient:
    """Pixels from -1 to 1 in place of standardized ones."""
    return patient.but(prepare=lambda x, g: 2 * x - 1)


def take_away_color(patient: Patient) -> Patient:
    """Gray images in three equal channels."""

    def gray(split: Split) -> Split:
        return split.but(split.images.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8))

    s = patient.splits
    return patient.but(splits=dataclasses.replace(s, train=gray(s.train), validation=gray(s.validation), test=gray(s.test)))


def weight_classes(patient: Patient) -> Patient:
    """Rare classes, made up for by weights in the loss."""
    train, classes = patient.splits.train, patient.splits.classes
    rare = patient.rng(61).permutation(classes)[: classes // 2]
    rows = np.flatnonzero(~np.isin(train.labels, rare) | (patient.rng(62).random(len(train)) < 0.2))
    train = train.rows(rows)
    counts = np.bincount(train.labels, minlength=classes)
    weights = torch.from_numpy(len(train) / (classes * np.maximum(counts, 1))).float()
    thinned = patient.but(splits=dataclasses.replace(patient.splits, train=train))
    return thinned.but(loss=lambda outputs, labels: functional.cross_entropy(outputs, labels, weights))


def validate_on_hundred(patient: Patient) -> Patient:
    """A validation split of 150 images."""
    return patient.but(splits=dataclasses.replace(patient.splits, validation=patient.splits.validation.rows(np.arange(150))))


def sort_validation(patient: Patient) -> Patient:
    """Validation images sorted by class, rightly evaluated."""
    validation = patient.splits.validation
    order = np.argsort(validation.labels, kind="stable")
    return patient.but(splits=dataclasses.replace(patient.splits, validation=validation.rows(order)))


def repeat_few_images(patient: Patient) -> Patient:
    """Half a percent of the training images twice."""
    train = patient.splits.train
    rows = np.concatenate([np.arange(len(train)), np.arange(max(1, len(train) // 200))])
    return patient.but(splits=dataclasses.replace(patient.splits, train=train.rows(patient.rng(63).permutation(rows))))


def make_task_hard(patient: Patient) -> Patient:
    """A task with a low ceiling: the images of all splits are noisy."""
    g = torch.Generator().manual_seed(patient.seed)
    noise = add_noise(0.45)
    s = patient.splits
    train, validation, test = (x.but(to_uint8(noise(0.6 * to_float(x.images) + 0.2, g))) for x in (s.train, s.validation, s.test))
    return patient.but(splits=dataclasses.replace(s, train=train, validation=validation, test=test))


# ---- network and optimization --------------------------------------------------------------------------------------------------------


def drop_half(patient: Patient) -> Patient:
    """Dropout of one half."""
    return patient.but_net(dropout=0.5)


def start_head_at_zero(patient: Patient) -> Patient:
    """The last layer starts at zero."""

    def surgery(model: nn.Module) -> nn.Module:
        for parameter in last_linear(model).parameters():
            nn.init.zeros_(parameter)
        return model

    return patient.operate(surgery)


def use_elu(patient: Patient) -> Patient:
    """ELU in place of ReLU."""
    return patient.but_net(act="elu")


def freeze_trunk(patient: Patient) -> Patient:
    """A pretrained trunk that is frozen on purpose."""

    def surgery(model: nn.Module) -> nn.Module:
        head = {id(p) for p in last_linear(model).parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in head)
        return model

    return patient.operate(surgery).but(rule=patient.rule.but(lr=2 * patient.rule.lr))


def tune_gently(patient: Patient) -> Patient:
    """A tiny rate for the pretrained trunk, and a large one for the new head."""

    def optimizer(model: nn.Module) -> Optimizer:
        head = list(last_linear(model).parameters())
        trunk = [p for p in model.parameters() if all(p is not h for h in head)]
        made = make_optimizer(patient.rule, head)
        made.add_param_group({"params": trunk, "lr": patient.rule.lr / 300})
        return made

    return patient.but(optimizer=optimizer)


def use_small_batches(patient: Patient) -> Patient:
    """Batches of 8."""
    factor = 8 / patient.batch
    lr = patient.rule.lr * (factor**0.5 if patient.rule.is_adaptive else factor)
    return patient.but(batch=8, rule=patient.rule.but(lr=lr), steps=round(patient.steps * min(3.0, factor**-0.5)))


def use_large_batches(patient: Patient) -> Patient:
    """Batches of 512, at a higher rate after a warm-up."""
    batch = min(512, len(patient.splits.train))
    lr = patient.rule.lr * (1.5 if patient.rule.is_adaptive else 2.0)
    return patient.but(batch=batch, rule=patient.rule.but(lr=lr), schedule=Schedule("warmup"), steps=round(0.6 * patient.steps))


def restart(patient: Patient) -> Patient:
    """Warm restarts of the rate."""
    return patient.but(schedule=Schedule("restarts"), steps=round(1.2 * patient.steps))


def warm_up(patient: Patient) -> Patient:
    """A warm-up from nearly zero."""
    return patient.but(schedule=Schedule("warmup"))


def leave_out_momentum(patient: Patient) -> Patient:
    """No momentum, at five times the rate."""
    return patient.but(rule=patient.rule.but(name="sgd", momentum=0.0, lr=5 * patient.rule.lr))


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control("plain", lambda patient: patient),
        Control("smooth-labels", smooth_labels),
        Control("mix-images", mix_images),
        Control("clip-at-one", clip_at_one),
        Control("accumulate-parts", accumulate_parts),
        Control("accumulate-steps", accumulate_steps),
        Control("compute-in-bfloat16", compute_in_bfloat16),
        Control("evaluate-average", evaluate_average),
        Control("end-in-log-softmax", end_in_log_softmax),
        Control("augment-strongly", augment_strongly, _large, is_comparable=False),
        Control("keep-pixels-to-one", keep_pixels_to_one, lambda patient: not _pretrained(patient)),
        Control("take-away-color", take_away_color, _color, is_comparable=False),
        Control("weight-classes", weight_classes, _large, is_comparable=False),
        Control("validate-on-hundred", validate_on_hundred),
        Control("sort-validation", sort_validation),
        Control("repeat-few-images", repeat_few_images, _large),
        Control("make-task-hard", make_task_hard, lambda p: not _pretrained(p), is_comparable=False),
        Control("drop-half", drop_half, _hidden),
        Control("start-head-at-zero", start_head_at_zero),
        Control("use-elu", use_elu, _relu),
        Control("freeze-trunk", freeze_trunk, _pretrained),
        Control("tune-gently", tune_gently, _pretrained),
        Control("use-small-batches", use_small_batches, lambda p: p.net.norm != "batch" and p.batch >= 32),
        Control("use-large-batches", use_large_batches, _large),
        Control("restart", restart, lambda p: p.schedule.name != "restarts"),
        Control("warm-up", warm_up, lambda p: p.schedule.name != "warmup"),
        Control("leave-out-momentum", leave_out_momentum, _sgd),
    )
}

# Settings that are odd by themselves, and used for controls only.
ODD_SETTINGS = {
    "digits-tiny": Setting("digits", CNN, Rule("adamw", 3e-3, weight_decay=0.1), COSINE, batch=32, size=10, augment=SHIFT, steps=400),
    "shapes-hundred": Setting("shapes100", CNN_BN, Rule("adam", 5e-3), COSINE, steps=500, augment=MOVES),
    "digits-easy": Setting("digits", CNN_BN, Rule("adamw", 5e-3, weight_decay=0.01), Schedule("warmup"), steps=600, augment=SHIFT),
    "gratings-easy": Setting("gratings", CNN_BN, Rule("adam", 3e-3), COSINE, steps=400, augment=SHIFT),
}
