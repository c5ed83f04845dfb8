"""Rules of the system: waiting, threads, memory and repetition; each names its case and is silent on healthy trainings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.finding import Verdict
from goodfit.doctor.rules import system
from goodfit.doctor.system import count_cores, count_threads, measure_growth
from goodfit.inspection.memory import is_memory_exact, measure_memory
from tests.support.patients import BATCH, convnet, iterate, names, patient, step

pytestmark = pytest.mark.slow  # a training or several each; make test-slow runs them

STEPS = 60


def examine(**changes: Any) -> Verdict:
    return diagnose(patient(**{"steps": STEPS} | changes), system.RULES)


def shuffled(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iterate("train", BATCH, np.random.default_rng(epoch).permutation(1200))


# ---- repetition -------------------------------------------------------------------------------------------------------------------


def test_an_order_without_a_seed_is_named_before_the_first_step() -> None:
    verdict = examine(train=lambda epoch: iterate("train", BATCH, np.random.default_rng().permutation(1200)))
    assert names(verdict) == ["nondeterministic"] and verdict.steps == 0


def test_weights_without_a_seed_are_named() -> None:
    def model() -> nn.Module:
        net, rng = convnet(), np.random.default_rng()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.from_numpy(rng.normal(0, 0.01, p.shape)).float())
        return net

    assert names(examine(model=model)) == ["nondeterministic"]


def test_a_step_without_a_seed_is_named() -> None:
    def take(model: nn.Module, optimizer: Any, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.default_rng().normal(0, 0.1, tuple(images.shape))).float()
        return step(model, optimizer, loss, images + noise, labels)

    verdict = examine(step=take)
    assert names(verdict) == ["nondeterministic"]
    assert "losses of step 1" in verdict.findings[0].evidence


def test_noise_of_the_seeded_generator_is_silent() -> None:
    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in shuffled(epoch):
            yield images + 0.1 * torch.randn_like(images), labels

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10))

    assert not examine(train=train, model=model).alarm


# ---- threads ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("kept_threads")
def test_more_threads_than_cores_are_named() -> None:
    def model() -> nn.Module:
        torch.set_num_threads(4 * count_cores())
        return convnet()

    verdict = examine(model=model)
    assert names(verdict) == ["threads_oversubscribed"] and verdict.steps == 0


def test_threads_at_work_are_counted() -> None:
    def multiply(seconds: float) -> None:
        end, x = time.perf_counter() + seconds, np.random.default_rng(0).normal(size=(400, 400))
        while time.perf_counter() < end:
            np.sort(x, axis=0)  # numpy lets other threads run meanwhile

    with count_threads() as alone:
        multiply(0.2)
    with count_threads() as many, ThreadPoolExecutor(8) as pool:
        list(pool.map(multiply, [0.2] * 8))
    if not many.running:
        pytest.skip("this system does not tell the states of threads")
    assert many.usual >= 4 > alone.usual


# ---- waiting ----------------------------------------------------------------------------------------------------------------------


def waiting(seconds: float) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in shuffled(epoch):
            time.sleep(seconds)
            yield batch

    return train


def test_a_loader_that_sleeps_is_named() -> None:
    assert names(examine(train=waiting(0.03))) == ["data_starved"]


def test_a_loader_that_sleeps_a_little_is_silent() -> None:
    assert not examine(train=waiting(0.0002)).alarm


def test_a_loader_that_computes_the_same_images_slowly_is_named() -> None:
    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in shuffled(epoch):
            for _ in range(60):  # image by image, number by number
                sum(images.flatten().tolist())
            yield images, labels

    assert names(examine(train=train, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))) == ["data_starved"]


# ---- memory -----------------------------------------------------------------------------------------------------------------------


def keeping(make: Callable[[Tensor, Tensor], Any]) -> Callable[..., Tensor]:
    """A step that keeps something for ever."""
    kept: list[Any] = []

    def take(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step()
        kept.append(make(value, images))
        return value.detach()

    return take


@pytest.mark.skipif(not is_memory_exact(), reason="what is allocated is not counted here")
@pytest.mark.parametrize("make", [lambda loss, images: images.repeat(8, 1, 1, 1), lambda loss, images: np.repeat(images.numpy(), 8)])
def test_a_step_that_keeps_its_images_is_named(make: Any) -> None:
    verdict = examine(step=keeping(make))
    assert names(verdict) == ["memory_leak"] and verdict.steps == 50


def test_a_history_of_losses_is_silent() -> None:
    assert not examine(step=keeping(lambda loss, images: loss.detach())).alarm
    assert not examine(step=keeping(lambda loss, images: loss.item())).alarm


def test_a_cache_of_images_is_silent() -> None:
    cache: dict[int, Tensor] = {}

    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for i, (images, labels) in enumerate(shuffled(0)):
            yield cache.setdefault(i, images.clone()), labels

    assert not examine(train=train).alarm


@pytest.mark.skipif(not is_memory_exact(), reason="what is allocated is not counted here")
def test_memory_is_counted_to_the_kilobyte() -> None:
    before = measure_memory()
    kept = torch.zeros(1024, 1024)
    assert measure_memory() - before == pytest.approx(4.0, abs=0.1)
    assert kept.numel() == 1024**2


def test_growth_is_that_of_the_slowest_quarter() -> None:
    assert measure_growth([0.5 * i for i in range(50)]) == pytest.approx(0.5)
    assert measure_growth([float(min(i, 20)) for i in range(50)]) == 0.0


def test_a_healthy_training_is_silent() -> None:
    verdict = examine()
    assert verdict.kind == "healthy" and verdict.trial_steps <= 4
