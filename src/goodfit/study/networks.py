"""Accounts of networks that are given by a part, a dotted name or a run folder: one in detail, or several to compare."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from goodfit.core.errors import UsageError, first_line
from goodfit.core.parts import Part
from goodfit.core.settings import parse_size
from goodfit.models.anatomy.account import Account, account_for
from goodfit.models.anatomy.lecture import LECTURE_ERRATA, PUBLISHED_ERRORS
from goodfit.models.anatomy.memory import measure_training_step
from goodfit.predict.predictor import load_classifier
from goodfit.recipe.parts import MODEL_ERRORS, load_catalog, make_model
from goodfit.training.noise import evaluating

LECTURE_CLASSES, LECTURE_CHANNELS, LECTURE_SIZES = 1000, 3, ((224, 224), (227, 227))  # of the lecture's counts
MIN_PASSES, MAX_PASSES, MIN_SECONDS = 2, 100, 0.5  # of a measurement of speed, after the first pass
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """What networks are made for: classes, channels, size ("224" or "128x96") and images at once; `use` are files of the user's parts."""

    classes: int = 1000
    channels: int = 3
    size: str = "224"
    batch: int = 1
    use: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its name, its part (None where it comes from a run), and the classes and images it is made for."""

    name: str
    part: Part | None
    module: nn.Module
    classes: int
    channels: int
    size: tuple[int, int]

    def account(self, batch: int) -> Account:
        """Account for its layers.

        Raises:
            UsageError: it does not take such images.
        """
        try:
            return account_for(self.module, self.channels, self.size, batch)
        except (*MODEL_ERRORS, NotImplementedError) as error:
            shape = f"{self.channels}x{self.size[0]}x{self.size[1]}"
            raise UsageError(f'The model "{self.name}" does not take images of {shape}: {first_line(error)}.') from error

    def look_up(self, table: Mapping[str, T]) -> T | None:
        """The entry for this network in a table by model text, however the text is spelled."""
        catalog = load_catalog()
        return next((value for text, value in table.items() if catalog.make(text, "model") == self.part), None)


def find_network(model: str, options: NetworkOptions) -> Network:
    """Make the network of a part or dotted name on the meta device, or load that of a run folder.

    Raises:
        UsageError: there is no such model, or the run has none yet.
    """
    if os.path.isfile(Path(model) / "recipe.toml"):  # noqa: PTH113  where a Path fails: the text of a part may be too long for a path
        trained = load_classifier(model, "cpu")
        return Network(model, None, trained.model, len(trained.classes), trained.preprocess.channels, trained.preprocess.size)
    part, size = load_catalog(options.use).make(model, "model"), parse_size(options.size)
    with torch.device("meta"):
        module = make_model(part, options.classes, options.channels, size)
    return Network(model, part, module, options.classes, options.channels, size)


def describe_network(model: str, options: NetworkOptions, optimizer: str) -> tuple[Account, list[str]]:
    """Account for a network, with the memory of a training step with that optimizer, and notes on what is unknown or the lecture says."""
    network = find_network(model, options)
    account, notes = network.account(options.batch), []
    optimizer_part: Any = load_catalog(options.use).make(optimizer, "optimizer")
    try:
        step = measure_training_step(network.module, network.channels, network.size, options.batch, optimizer_part)
        account = account.with_step_memory(step)
    except (*MODEL_ERRORS, NotImplementedError, UsageError) as error:
        notes.append(f"The memory of a training step is unknown: {first_line(error)}.")
    is_lectures = (network.classes, network.channels) == (LECTURE_CLASSES, LECTURE_CHANNELS) and network.size in LECTURE_SIZES
    if is_lectures and (erratum := network.look_up(LECTURE_ERRATA)):
        notes.append(erratum)
    return account, notes


def compare_networks(models: Sequence[str], options: NetworkOptions) -> tuple[dict[str, Account], dict[str, tuple[float, float]]]:
    """Account for several networks; returns the accounts, and the published top-1 and top-5 errors of those that have some, by name."""
    networks = [find_network(model, options) for model in models]
    accounts = {network.name: network.account(options.batch) for network in networks}
    return accounts, {network.name: errors for network in networks if (errors := network.look_up(PUBLISHED_ERRORS))}


def measure_speed(model: str, options: NetworkOptions) -> float:
    """How many images a second a network answers on this machine's processor: the best of some passes over a batch, after one to warm up.

    Raises:
        UsageError: there is no such model, or it does not take such images.
    """
    network = find_network(model, options)
    module = network.module
    if network.part is not None:  # that was made where nothing is computed
        module = make_model(network.part, network.classes, network.channels, network.size)
    images = torch.randn(options.batch, network.channels, *network.size, generator=torch.Generator().manual_seed(0))
    seconds: list[float] = []
    with torch.no_grad(), evaluating(module):
        while len(seconds) <= MIN_PASSES or (sum(seconds[1:]) < MIN_SECONDS and len(seconds) < MAX_PASSES):
            began = time.perf_counter()
            module(images)
            seconds.append(time.perf_counter() - began)
    return options.batch / min(seconds[1:])
