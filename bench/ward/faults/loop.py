"""Faults of the loop, of the machine, and faults that the list of causes does not have."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from ..loop import Loss, Step, make_optimizer, measure_accuracy
from ..nets import weighted_layers
from ..patient import Batches, Patient
from .fault import UNLISTED, Fault

MEMORY: list[Any] = []  # what a leaking step never lets go


def _step(
    patient: Patient, prepare: Callable[[int, Optimizer], None] | None, change: Callable[[nn.Module, Optimizer], None] | None = None
) -> Patient:
    """A step with other ways to prepare (given the count of steps) and to change gradients before the optimizer uses them."""
    counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        number = counts[model] = counts.get(model, -1) + 1
        if prepare:
            prepare(number, optimizer)
        else:
            optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        if change:
            with torch.no_grad():
                change(model, optimizer)
        optimizer.step()
        return value.detach()

    return patient.but(step=step)


def keep_gradients(patient: Patient, severity: int) -> Patient:
    """Add up gradients over steps, for ten, for thirty, or for ever."""
    every = (10, 30, 10**9)[severity]
    return _step(patient, lambda number, optimizer: None if number % every else optimizer.zero_grad())


def go_uphill(patient: Patient, severity: int) -> Patient:
    """Turn the sign of the loss, of the update, or of the gradients of all layers but the last."""
    if severity == 0:

        def optimizer(model: nn.Module) -> Optimizer:
            made = make_optimizer(patient.rule, list(model.parameters()))
            for group in made.param_groups:
                group["maximize"] = True
            return made

        return patient.but(optimizer=optimizer)

    def turn(model: nn.Module, _: Optimizer) -> None:
        layers = weighted_layers(model)
        chosen = layers if severity == 2 or len(layers) == 1 else layers[:-1]
        for layer in chosen:
            for parameter in layer.parameters():
                if parameter.grad is not None:
                    parameter.grad.neg_()

    return _step(patient, None, turn)


def round_weights(patient: Patient, severity: int) -> Patient:
    """Keep the weights in so few bits that small updates are lost."""
    bits = (5, 4, 3)[severity]  # of the mantissa

    def cut(x: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        value = before(model, optimizer, loss, images, labels)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(cut(parameter))
        return value

    before = patient.step
    return patient.but(step=step)


def underflow(patient: Patient, severity: int) -> Patient:
    """Compute gradients in half precision after a division that sends most of them below its smallest number."""
    scale = (3e-6, 3e-7, 1e-7)[severity]

    def change(model: nn.Module, _: Optimizer) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_((parameter.grad * scale).half().float() / scale)

    return _step(patient, None, change)


def use_wrong_loss(patient: Patient, severity: int) -> Patient:
    """Use a loss for another task: squared error of scores, absolute error of probabilities, or likelihood without logarithm."""

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        target = functional.one_hot(labels.clamp(0, outputs.shape[1] - 1), outputs.shape[1]).float()
        if severity == 0:
            return functional.l1_loss(outputs.softmax(1), target)
        if severity == 1:
            return functional.mse_loss(outputs.sigmoid(), target) * 0.1
        return functional.nll_loss(outputs, labels)

    return patient.but(loss=loss)


def lose_state(patient: Patient, severity: int) -> Patient:
    """Make the optimizer forget its state every few steps, and with it the way its rate had fallen."""
    every = (10, 3, 1)[severity]

    def prepare(number: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        if number and number % every == 0:
            optimizer.state.clear()

    return _step(patient, prepare)


# ---- the machine -------------------------------------------------------------------------------------------------------------------


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
    threads = (8, 16, 32)[severity] * max(1, (os.cpu_count() or 1) // 2)

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


# ---- faults that the list does not have ----------------------------------------------------------------------------------------------


def stop_statistics(patient: Patient, severity: int) -> Patient:
    """Let batch norm hardly ever update what it uses in evaluation."""
    momentum = (3e-3, 1e-3, 0.0)[severity]

    def surgery(model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.momentum = momentum
        return model

    return patient.operate(surgery)


def raise_epsilon(patient: Patient, severity: int) -> Patient:
    """Divide by so large an epsilon that an adaptive optimizer hardly moves."""
    epsilon = (1.0, 10.0, 100.0)[severity]

    def optimizer(model: nn.Module) -> Optimizer:
        made = make_optimizer(patient.rule, model.parameters())
        for group in made.param_groups:
            group["eps"] = epsilon
        return made

    return patient.but(optimizer=optimizer)


def disturb_gradients(patient: Patient, severity: int) -> Patient:
    """Add noise far larger than the gradient."""
    factor = (10.0, 25.0, 60.0)[severity]

    def change(model: nn.Module, _: Optimizer) -> None:
        g = torch.Generator().manual_seed(int(1e6 * abs(float(next(model.parameters()).sum()))) % 2**31)
        for parameter in model.parameters():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=g)
                parameter.grad.add_(noise * factor * parameter.grad.norm() / parameter.numel() ** 0.5)

    return _step(patient, None, change)


def repeat_first_batches(patient: Patient, severity: int) -> Patient:
    """See only the first batches of the split in every epoch."""
    count = (3, 2, 1)[severity]

    def order(labels: Tensor, batch: int, g: torch.Generator) -> list[Tensor]:
        return list(islice(torch.arange(len(labels)).split(batch), count))

    return patient.but(order=order)


def count_wrongly(patient: Patient, severity: int) -> Patient:
    """Count an image as right if its class is among the best two, three or four."""

    def evaluate(model: nn.Module, batches: Batches) -> float:
        def tops() -> Iterator[tuple[Tensor, Tensor]]:
            yield from batches

        model.eval()
        right, count = 0, 0
        with torch.no_grad():
            for images, labels in tops():
                best = model(images).topk(severity + 2, 1).indices
                right += int((best == labels[:, None]).any(1).sum())
                count += len(labels)
        return right / max(1, count)

    return patient.but(evaluate=evaluate)


def evaluate_old_weights(patient: Patient, severity: int) -> Patient:
    """Measure an average of the weights that lags far behind."""
    decay = (0.99, 0.995, 0.999)[severity]
    averages: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
    before = patient.step

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        average = averages.setdefault(model, [p.detach().clone() for p in model.parameters()])
        value = before(model, optimizer, loss, images, labels)
        with torch.no_grad():
            for mean, parameter in zip(average, model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
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

    return patient.but(step=step, evaluate=evaluate)


def forget_weights(patient: Patient, severity: int) -> Patient:
    """Set a share of all weights to zero every few steps."""
    share, counts = (0.1, 0.2, 0.4)[severity], WeakKeyDictionary()
    before: Step = patient.step

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        value = before(model, optimizer, loss, images, labels)
        number = counts[model] = counts.get(model, 0) + 1
        if number % 5 == 0:
            g = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(torch.rand(parameter.shape, generator=g) >= share)
        return value

    return patient.but(step=step)


def _adaptive(patient: Patient) -> bool:
    return patient.rule.is_adaptive


def _batch_norm(patient: Patient) -> bool:
    return patient.net.norm == "batch"


FAULTS = (
    Fault("keep-gradients", "gradients_not_zeroed", keep_gradients),
    Fault("go-uphill", "wrong_sign", go_uphill),
    Fault("round-weights", "low_precision", round_weights),
    Fault("underflow", "low_precision", underflow),
    Fault("use-wrong-loss", "wrong_loss", use_wrong_loss),
    Fault("lose-state", "optimizer_state_lost", lose_state),
    Fault("wait-for-data", "data_starved", wait_for_data),
    Fault("start-threads", "threads_oversubscribed", start_threads),
    Fault("forget-seed", "nondeterministic", forget_seed),
    Fault("leak-memory", "memory_leak", leak_memory),
    Fault("stop-statistics", UNLISTED, stop_statistics, _batch_norm, component="evaluation"),
    Fault("raise-epsilon", UNLISTED, raise_epsilon, _adaptive, component="optimization"),
    Fault("disturb-gradients", UNLISTED, disturb_gradients, component="loop"),
    Fault("repeat-first-batches", UNLISTED, repeat_first_batches, component="data"),
    Fault("count-wrongly", UNLISTED, count_wrongly, component="evaluation"),
    Fault("evaluate-old-weights", UNLISTED, evaluate_old_weights, component="evaluation"),
    Fault("forget-weights", UNLISTED, forget_weights, component="loop"),
)
