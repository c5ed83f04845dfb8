"""Features: what the stages of a trained net put out for images, as vectors, computed once and kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.core.catalog import Part, spell
from goodfit.core.errors import UsageError, one_of
from goodfit.core.files import cache_home, writing
from goodfit.core.run import Run, used
from goodfit.core.weights import is_norm
from goodfit.data.dataset import Dataset
from goodfit.data.loader import sweep
from goodfit.data.preprocess import Preprocess
from goodfit.data.store import hashed
from goodfit.models.stages import head, stages
from goodfit.recipe.build import catalog, make_model
from goodfit.recipe.classifier import load_run
from goodfit.training.noise import evaluating

HEAD = "head"  # the name of what the head takes in
PIXELS = 256 * 64 * 64  # of a batch, at most, and 256 images
SETTLING = 256  # images that a net of random weights takes its batch statistics from

Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """A net that has learned something, and how images come to it: `part` makes the same net anew, for `classes` classes."""

    name: str
    model: nn.Module
    part: Part
    classes: int
    preprocess: Preprocess
    device: torch.device

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the architecture and of every weight and buffer."""
        words: list[str | bytes] = [spell(self.part, full=True)]
        for name, x in self.model.state_dict().items():
            words += [name, str(x.dtype), x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()]
        return hashed(*words)

    def seeing(self, data: Dataset) -> Preprocess:
        """How the net sees the images of a data set: as they were packed, with the mean and std that the net has learned with.

        Raises:
            UsageError: the images have another number of channels than the net takes.
        """
        if data.preprocess.channels != self.preprocess.channels:
            raise UsageError(
                f'Expected images of {self.preprocess.channels} channels for "{self.name}", received {data.preprocess.channels}.'
            )
        return data.preprocess.but(mean=self.preprocess.mean, std=self.preprocess.std)

    def fresh(self, data: Dataset, seed: int = 0) -> Net:
        """The same net with random weights; its batch statistics, if it has any, are those of training images of `data`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make_model(self.part, self.classes, self.preprocess.channels, self.preprocess.size)
        model = model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        net = dataclasses.replace(self, name=f"{self.name}, random", model=model)
        train = data.rows("train")
        settle(net, data, train[torch.linspace(0, len(train) - 1, min(SETTLING, len(train))).long()])
        return net


def of_run(path: str | Path, device: str = "auto") -> Net:
    """The net of a finished run.

    Raises:
        UsageError: there is no run, or it has no finished model yet.
        GoodfitError: its model is damaged.
    """
    run = Run.open(path)
    classifier = load_run(run.path, device)
    part = catalog(used(run)).make(run.read("config.json")["model"], "model")
    return Net(run.name, classifier.model, part, len(classifier.classes), classifier.preprocess, classifier.device)


@torch.no_grad()
def settle(net: Net, data: Dataset, rows: Tensor) -> None:
    """Replace the batch statistics of a net by those of rows of the data."""
    norms: list[Any] = [m for m in net.model.modules() if is_norm(m) and getattr(m, "running_mean", None) is not None]
    if not norms:
        return
    before = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the mean over all batches
        m.train()
    for batch in sweep(data.pixels, data.labels, rows, len(data.classes), SETTLING):
        pre = net.seeing(data)
        net.model(pre.normalize(pre.center(batch.images.to(net.device))))
    for m, momentum in zip(norms, before, strict=True):
        m.momentum = momentum
        m.eval()


def places(model: nn.Module) -> list[str]:
    """Where features can be taken: the stages, first to last, and "head", which is what the head takes in."""
    return [*(stage.name for stage in stages(model)), HEAD]


def pooled(output: Any) -> Tensor:
    """A stage's output as vectors [B, D] in float32: maps [B, D, H, W] and tokens [B, T, D] by their mean."""
    x: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    x = x.float()
    return x.mean((2, 3)) if x.ndim == 4 else x.mean(1) if x.ndim == 3 else x.flatten(1)


class Listener:
    """Takes down, while a model runs, what comes out of some of its stages and goes into its head."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.heard: dict[str, Tensor] = {}
        self.handles = []
        modules = {stage.name: stage.modules[-1] for stage in stages(model)}
        for name in names:
            if name == HEAD:
                self.handles.append(head(model)[1].register_forward_pre_hook(self._enters))
            else:
                self.handles.append(model.get_submodule(modules[name]).register_forward_hook(functools.partial(self._leaves, name)))

    # Pooled at once, before a later layer may work in place.
    def _enters(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.heard[HEAD] = pooled(inputs)

    def _leaves(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.heard[name] = pooled(output)

    def leave(self) -> None:
        for handle in self.handles:
            handle.remove()


def features(net: Net, data: Dataset, rows: Tensor, names: Sequence[str], progress: Progress = lambda done, total: None) -> dict[str, Vectors]:
    """The features [n, D] float32 of rows [n] of the data, by place; memory-mapped from the cache, where they are kept for the next time.

    They are kept by the weights, the images, their rows, the preprocessing and the place; all that are missing come of one pass.

    Raises:
        UsageError: a place is not there, or the net does not take such images.
        GoodfitError: no space is left.
    """
    known = places(net.model)
    for name in names:
        if name not in known:
            raise UsageError(one_of("stage", name, known))
    seen = json.dumps(net.seeing(data).to_dict())
    about = (net.digest, data.digest, seen, rows.numpy().tobytes())
    files = {name: cache_home() / "features" / f"{hashed(*about, name)}.npy" for name in names}
    missing = {name: file for name, file in files.items() if not file.is_file()}
    if missing:
        compute(net, data, rows, missing, progress)
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


@torch.no_grad()
def compute(net: Net, data: Dataset, rows: Tensor, files: dict[str, Path], progress: Progress) -> None:
    """Write the features of rows, by place, batch by batch, to .npy files."""
    pre = net.seeing(data)
    batch_size = max(1, min(256, PIXELS // (pre.box[0] * pre.box[1])))
    listener = Listener(net.model, list(files))
    done = 0
    try:
        with contextlib.ExitStack() as stack, evaluating(net.model):
            open_files = {name: stack.enter_context(writing(file)) for name, file in files.items()}
            for batch in sweep(data.pixels, data.labels, rows, len(data.classes), batch_size):
                listener.heard.clear()
                run(net, pre.normalize(pre.center(batch.images.to(net.device))))
                for name, file in open_files.items():
                    append(file, listener.heard[name].cpu().numpy(), len(rows) if not done else 0)
                done += len(batch)
                progress(done, len(rows))
    finally:
        listener.leave()


def run(net: Net, images: Tensor) -> None:
    """One forward pass.

    Raises:
        UsageError: the net does not take images of that shape.
    """
    try:
        net.model(images)
    except RuntimeError as error:
        if "memory" in str(error):
            raise
        shape, reason = "x".join(map(str, images.shape[1:])), str(error).splitlines()[0].rstrip(".")
        raise UsageError(f'"{net.name}" does not take images of {shape}: {reason}.') from error


def append(file: BinaryIO, vectors: Vectors, total: int) -> None:
    """Add vectors [B, D] to an .npy file; the first call says how many rows there will be in `total`, later ones 0."""
    if total:
        np.lib.format.write_array_header_1_0(
            file, {"descr": vectors.dtype.str, "fortran_order": False, "shape": (total, vectors.shape[1])}
        )
    file.write(np.ascontiguousarray(vectors).tobytes())
