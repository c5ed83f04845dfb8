"""A recipe's parts, made from their text, and the network of its model part; the one place that knows where parts live."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from goodfit.core.batch import one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Sync
from goodfit.core.device import is_out_of_memory
from goodfit.core.errors import UsageError, first_line
from goodfit.core.memory import available_memory
from goodfit.core.parts import ExternalPart, Part, spell
from goodfit.core.run import Run, part_files
from goodfit.core.words import format_bytes
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.losses.scores import split_outputs
from goodfit.recipe.cards import PACKAGES
from goodfit.recipe.recipe import SEATS, Recipe
from goodfit.training.noise import evaluating

MODEL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)  # what a network raises on images it does not take


def load_catalog(use: Iterable[str | Path] = ()) -> Catalog:
    """All our parts, and those of the user's files."""
    catalog = Catalog([f"goodfit.{package}" for package in PACKAGES])
    for file in use:
        catalog.use(file)
    return catalog


def load_run_catalog(run: Run, recipe: Recipe) -> Catalog:
    """All our parts, and those of the run's copies of the user's files.

    Raises:
        UntrustedCode: there are such files, or dotted names in the recipe, that may not run here; the sentence lists them all.
    """
    files = part_files(run)
    recipe.require_trust(f'"{run.path}"', files)
    return load_catalog(files)


def make_parts(recipe: Recipe, catalog: Catalog) -> dict[str, Part]:
    """Make the recipe's part for each seat from its text; seats that are still "auto" are left out.

    Raises:
        UsageError: a part or setting is unknown or wrong.
    """
    return {seat: catalog.make(getattr(recipe, seat), kind) for seat, kind in SEATS.items() if getattr(recipe, seat) != "auto"}


def make_model(part: Any, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """Make the network of a model part.

    A class of another package gets those of classes, channels and size that its signature names, by our names, timm's or torchvision's.

    Raises:
        UsageError: the part makes no nn.Module, or its weights do not fit into the memory that is free.
    """
    facts: dict[str, Any] = {
        **dict.fromkeys(("classes", "num_classes"), classes),
        **dict.fromkeys(("channels", "in_chans", "in_channels"), channels),
        **dict.fromkeys(("size", "img_size"), size),
    }
    with within_memory(part):
        model = part.with_facts(facts)() if isinstance(part, ExternalPart) else part(classes, channels, size)
    if not isinstance(model, nn.Module):
        raise UsageError(f'Expected "{part}" to make a torch nn.Module, received a {type(model).__name__}.')
    return model


@contextlib.contextmanager
def within_memory(part: Any) -> Iterator[None]:
    """Stop the making of a network within the block as soon as its weights need more memory than is free.

    Memory is taken when weights are drawn, not when they are allocated: it stops before the system ends the process.

    Raises:
        UsageError: they do.
    """
    available, taken = available_memory(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal taken
        taken += parameter.nbytes if parameter is not None and parameter.device.type == "cpu" else 0
        if taken > available:
            raise MemoryError

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, TypeError, ArithmeticError, MemoryError) as error:
        is_absurd = isinstance(error, OverflowError) or "overflow" in str(error).lower()  # sizes that are no numbers of 64 bits
        if not (is_out_of_memory(error) or is_absurd):
            raise
        raise UsageError(
            f'The weights of "{part}" need more than the {format_bytes(available)} of memory that are free: choose a smaller model, or'
            " another --size."
        ) from error
    finally:
        hook.remove()


@torch.no_grad()
def check_model(part: Part, data: Dataset) -> None:
    """Try a model of the user's own on one black image, before anything is measured with it.

    Raises:
        UsageError: it does not take such an image, or does not return a score for each class.
    """
    if not isinstance(part, ExternalPart) and type(part).__module__.startswith("goodfit."):
        return
    classes, shape = len(data.classes), (data.preprocess.channels, *data.preprocess.size)
    model = make_model(part, classes, shape[0], data.preprocess.size).eval()
    try:
        scores = split_outputs(model(torch.zeros(1, *shape)))[0]
    except MODEL_ERRORS as error:
        raise UsageError(f'The model "{part}" does not take images of {"x".join(map(str, shape))}: {first_line(error)}.') from error
    received = list(getattr(scores, "shape", [type(scores).__name__]))
    if received != [1, classes]:
        raise UsageError(f'Expected the model "{part}" to return scores of shape [1, {classes}] for one image, received {received}.')


def check_task(recipe: Recipe, parts: Mapping[str, Part]) -> None:
    """Refuse what makes no sense for the task of a recipe.

    Raises:
        UsageError: a part or a setting is for other tasks.
    """
    task = recipe.task
    for part in (inner for outer in parts.values() for inner in walk_parts(outer)):
        if task not in part.tasks:
            others = " and ".join(part.tasks)
            raise UsageError(f'"{spell(part)}" is for {others}, not for --task {task}: choose another {part.kind}.')
    if task != "classes" and recipe.class_weights not in ("none", ""):
        raise UsageError(f"class_weights are for classes, not for --task {task}: leave them out.")


def refuse_other_tasks(task: str, what: str) -> None:
    """Refuse another task than classes, for something that knows these alone.

    Raises:
        UsageError: it is one.
    """
    if task != "classes":
        raise UsageError(f"{what} knows images of one class each so far, received --task {task}.")


def walk_parts(part: Part) -> Iterator[Part]:
    """Yield a part, and the parts inside it."""
    yield part
    for value in vars(part).values():
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Part):
                yield from walk_parts(inner)


def check_sync(recipe: Recipe, parts: Mapping[str, Any]) -> None:
    """Refuse what does not go with weights that several processes move alone and average.

    Raises:
        UsageError: batch norms are to be synchronized, or the optimizer needs all images in each step.
    """
    sync = parts["sync"]
    if not isinstance(sync, Sync):
        raise UsageError(f'Expected a part of the kind sync, received "{sync}": derive yours from goodfit.core.contracts.Sync.')
    if sync.every == 0:
        return
    if recipe.sync_norms is True:
        raise UsageError(
            f'Under sync "{spell(sync)}" each process computes its steps alone, so its batch norms cannot take their statistics from the'
            " images of all: leave sync_norms out, or give --set sync_norms=false."
        )
    if getattr(parts.get("optimizer"), "full_batch", False):
        raise UsageError(
            f'"{spell(parts["optimizer"])}" needs all training images in each step, and under sync "{spell(sync)}" each process has its own'
            " alone: leave sync out, or choose an optimizer such as sgd."
        )


def check_resolution(part: Any, model: nn.Module, preprocess: Preprocess) -> None:
    """Try a model on one black image of the size at which training shows the first ones.

    Raises:
        UsageError: it takes none smaller than its own.
    """
    height, width = part(preprocess.size, 0.0)
    if (height, width) != preprocess.size:
        own = next(model.parameters(), torch.empty(0))
        try:
            with torch.no_grad(), evaluating(model):
                model(torch.zeros(1, preprocess.channels, height, width, device=own.device))
        except MODEL_ERRORS as error:
            raise UsageError(
                f'"{spell(part)}" shows the model images of {height}x{width}, which it does not take ({first_line(error)}):'
                " use --resolution full, or a model that pools its last map, such as convnet, swift or resnet."
            ) from error


def check_loss(loss: Any, classes: int) -> None:
    """Try a loss of the user's own on two examples.

    Raises:
        UsageError: it does not return one number per example.
    """
    logits = torch.zeros(2, classes)
    try:
        received = list(loss(logits, one_hot(torch.zeros(2), classes)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f'The loss "{loss}" does not take scores and targets of shape [B, {classes}]: {first_line(error)}.') from error
    if received != [2]:
        expected = "to return one number per example, of shape [B]"
        raise UsageError(f'Expected the loss "{loss}" {expected}, received shape {received} for 2 examples.')


def with_parts_spelled(recipe: Recipe, parts: Mapping[str, Part]) -> Recipe:
    """The recipe with every part spelled out, all settings included."""
    return recipe.but(**{seat: spell(part, full=True) for seat, part in parts.items()})


def refuse_second_lr(optimizer: str, lr: float, use: Iterable[str]) -> None:
    """Refuse a learning rate beside an optimizer whose text gives it another one.

    Raises:
        UsageError: it does.
    """
    part: Any = None if optimizer == "auto" else load_catalog(use).make(optimizer, "optimizer")
    if getattr(part, "lr", lr) not in (lr, getattr(type(part), "lr", lr)):
        raise UsageError(f'Expected one learning rate, received --lr {lr:g} and that of "{optimizer}".')


def with_lr(recipe: Recipe, lr: float | None) -> Recipe:
    """The recipe with its optimizer's peak learning rate replaced; `None` leaves it.

    Raises:
        UsageError: the optimizer has no lr.
    """
    if lr is None:
        return recipe
    if recipe.optimizer == "auto":
        return recipe.but(optimizer=f"sgd({lr!r}, momentum=0.9, nesterov=True, weight_decay=0.0005)")
    part = load_catalog(recipe.use).make(recipe.optimizer, "optimizer")
    if not hasattr(part, "lr"):
        raise UsageError(f'"{part}" has no setting lr to replace: write its rate into --optimizer.')
    return recipe.but(optimizer=spell(dataclasses.replace(part, lr=lr)))  # type: ignore[type-var]
