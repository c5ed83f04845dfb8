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

from goodfit.core.errors import UsageError, one_of
from goodfit.core.files import cache_home, writing
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.data.preprocess import Preprocess
from goodfit.data.store import hash_fields
from goodfit.models.weights.stages import head, stages
from goodfit.training.noise import evaluating

HEAD = "head"  # the name of the place where the head takes in what is before it
PIXELS = 256 * 64 * 64  # a batch has at most so many, and 256 images

Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """A net on its device, what it is called, and how images come to it."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    device: torch.device

    @functools.cached_property
    def digest(self) -> str:
        """A hash of how the net is built and of its weights and buffers, without its head: no feature depends on that."""
        name, last = head(self.model)
        words: list[str | bytes] = [str(self.model).replace(str(last), "")]
        for key, x in self.model.state_dict().items():
            if not key.startswith(f"{name}."):
                words += [key, str(x.dtype), x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()]
        return hash_fields(*words)


def places(model: nn.Module) -> list[str]:
    """Where features can be taken: the stages, first to last, then "head", which stands for what the head takes in."""
    return [*(stage.name for stage in stages(model)), HEAD]


def pooled(output: Any) -> Tensor:
    """A stage's output as vectors [B, D] in float32: maps [B, D, H, W] and tokens [B, T, D] by their mean."""
    x: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    x = x.detach().float()
    return x.mean((2, 3)) if x.ndim == 4 else x.mean(1) if x.ndim == 3 else x.flatten(1)


class Listener:
    """Takes down, while a model runs, what comes out of some of its stages and what goes into its head."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """Listen at places; `heard` has the vectors of the last images.

        Raises:
            UsageError: a place is not there.
        """
        self.heard: dict[str, Tensor] = {}
        modules = {stage.name: stage.modules[-1] for stage in stages(model)}
        for name in names:
            if name not in (*modules, HEAD):
                raise UsageError(one_of("stage", name, [*modules, HEAD]))
        self._handles = [
            head(model)[1].register_forward_pre_hook(lambda module, inputs: self._hear(HEAD, inputs))
            if name == HEAD
            else model.get_submodule(modules[name]).register_forward_hook(functools.partial(self._leaves, name))
            for name in names
        ]

    def _leaves(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._hear(name, output)

    def _hear(self, name: str, output: Any) -> None:
        self.heard[name] = pooled(output)  # at once, before a later layer works in place

    def leave(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()


def features(
    net: Net, data: Dataset, rows: Tensor, names: Sequence[str], progress: Progress = lambda done, total: None
) -> dict[str, Vectors]:
    """The features [n, D] float32 of rows [n] of the data, by place; mapped into memory from the cache, where they are kept.

    They are kept by the weights, the images, their rows, the preprocessing and the place; all that are missing come of one pass, of
    whose images `progress` hears (done, total).

    Raises:
        UsageError: a place is not there, or the net does not take such images.
        GoodfitError: no space is left.
    """
    about = (net.digest, data.digest, json.dumps(net.preprocess.to_dict()), rows.numpy().tobytes())
    files = {name: cache_home() / "features" / f"{hash_fields(*about, name)}.npy" for name in names}
    missing = {name: file for name, file in files.items() if not file.is_file()}
    if missing:
        compute(net, data, rows, missing, progress)
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


@torch.no_grad()
def compute(net: Net, data: Dataset, rows: Tensor, files: dict[str, Path], progress: Progress) -> None:
    """Write the features of rows, by place, to .npy files, batch by batch."""
    pre, done = net.preprocess, 0
    size = max(1, min(256, PIXELS // (pre.box[0] * pre.box[1])))
    listener = Listener(net.model, list(files))
    try:
        with contextlib.ExitStack() as stack, evaluating(net.model):
            opened = {name: stack.enter_context(writing(file)) for name, file in files.items()}
            for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), size):
                run(net, batch.images)
                for name, file in opened.items():
                    append(file, listener.heard[name].cpu().numpy(), len(rows) if not done else 0)
                done += len(batch)
                progress(done, len(rows))
    finally:
        listener.leave()


def run(net: Net, images: Tensor) -> None:
    """One forward pass on stored images [B, C, H, W].

    Raises:
        UsageError: the net does not take images of that shape.
    """
    there = net.preprocess.normalize(net.preprocess.center_crop(images.to(net.device)))
    try:
        net.model(there)
    except RuntimeError as error:
        if "memory" in str(error):
            raise
        shape, reason = "x".join(map(str, there.shape[1:])), str(error).splitlines()[0].rstrip(".")
        raise UsageError(f'"{net.name}" does not take images of {shape}: {reason}.') from error


def append(file: BinaryIO, vectors: Vectors, total: int) -> None:
    """Add vectors [B, D] to an .npy file; the first call says in `total` how many rows there will be, later ones 0."""
    if total:
        about = {"descr": vectors.dtype.str, "fortran_order": False, "shape": (total, vectors.shape[1])}
        np.lib.format.write_array_header_1_0(file, about)
    file.write(np.ascontiguousarray(vectors).tobytes())
