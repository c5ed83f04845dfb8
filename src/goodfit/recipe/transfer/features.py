"""Features: the outputs of a trained net's stages as vectors, computed once and kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.core.cached import CachedWriter, cached_writer, is_cached
from goodfit.core.errors import UsageError, first_line, unknown_name
from goodfit.core.files import atomic_writer, cache_folder
from goodfit.data.dataset import Dataset
from goodfit.data.index import SplitName
from goodfit.data.loader import iterate_batches
from goodfit.data.preprocess import Preprocess
from goodfit.data.store import hash_fields
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.training.evaluate import eval_batch_size
from goodfit.training.noise import evaluating

VECTORS_PER_WRITE = 1000
HEAD = "head"  # the place whose features are the input of the head

Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNet:
    """A net on its device, with its name and the preprocessing of its images."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    device: torch.device

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the net's structure, weights and buffers, without its head: no feature depends on that."""
        name, last = find_head(self.model)
        content: list[str | bytes] = [str(self.model).replace(str(last), "")]
        for key, x in self.model.state_dict().items():
            if not key.startswith(f"{name}."):
                content += [key, str(x.dtype), x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()]
        return hash_fields(*content)

    def prepare(self, images: Tensor) -> Tensor:
        """Stored images uint8 [B, C, H, W] as the net takes them, on its device."""
        return self.preprocess.normalize(self.preprocess.center_crop(images.to(self.device)))

    @contextlib.contextmanager
    def explaining_shapes(self) -> Iterator[None]:
        """Turn a failed forward pass within the block into one sentence.

        Raises:
            UsageError: the net does not take images of its preprocessing's size.
        """
        try:
            yield
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            shape = "x".join(map(str, (self.preprocess.channels, *self.preprocess.size)))
            raise UsageError(f'"{self.name}" does not take images of {shape}: {first_line(error)}.') from error


def feature_places(model: nn.Module) -> list[str]:
    """The places features can be taken from: the stages, first to last, then "head", which stands for the input of the head."""
    return [*(stage.name for stage in find_stages(model)), HEAD]


def pool_features(output: Any) -> Tensor:
    """Turn a stage's output into vectors [B, D] in float32: maps [B, D, H, W] and tokens [B, T, D] by their mean.

    Raises:
        UsageError: it is no tensor, nor begins with one.
    """
    x = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(x, Tensor):
        raise UsageError(f"Expected a stage to put out a tensor, or a tuple that begins with one, found a {type(x).__name__}.")
    x = x.detach().float()
    return x.mean((2, 3)) if x.ndim == 4 else x.mean(1) if x.ndim == 3 else x.flatten(1)


class FeatureHooks:
    """Records, while a model runs, the outputs of some of its stages and the input of its head."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """Hook into some places; `features` then holds the vectors of the last images.

        Raises:
            UsageError: there is no such place.
        """
        self.features: dict[str, Tensor] = {}
        modules = {stage.name: stage.modules[-1] for stage in find_stages(model)}
        for name in names:
            if name not in (*modules, HEAD):
                raise UsageError(unknown_name("stage", name, [*modules, HEAD]))
        self._handles = [
            find_head(model)[1].register_forward_pre_hook(lambda module, inputs: self._record(HEAD, inputs))
            if name == HEAD
            else model.get_submodule(modules[name]).register_forward_hook(functools.partial(self._record_output, name))
            for name in names
        ]

    def _record_output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._record(name, output)

    def _record(self, name: str, output: Any) -> None:
        self.features[name] = pool_features(output)  # at once, before a later layer works in place

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def compute_features(
    net: FeatureNet, data: Dataset, rows: Tensor, names: Sequence[str], progress: Progress = lambda done, total: None
) -> dict[str, Vectors]:
    """Compute the features [n, D] float32 of rows [n] of the data, by place; returned as memory maps of the cache, where they are kept.

    The cache knows them by weights, images, rows, preprocessing and place; all that are missing are computed in one pass, which calls
    `progress(done, total)`.

    Raises:
        UsageError: there is no such place, it has no output of its own, or the net does not take such images.
        GoodfitError: no space is left.
    """
    key = (net.digest, data.digest, json.dumps(net.preprocess.to_dict()), rows.numpy().tobytes())
    files = {name: cache_folder() / "features" / f"{hash_fields(*key, name)}.npy" for name in names}
    missing = {name: file for name, file in files.items() if not is_cached(file)}
    if missing:
        _fill_cache(net, data, rows, missing, progress)
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


@torch.no_grad()
def _fill_cache(net: FeatureNet, data: Dataset, rows: Tensor, files: dict[str, Path], progress: Progress) -> None:
    """Write the features of rows, by place, to .npy files, batch by batch."""
    pre, done = net.preprocess, 0
    hooks = FeatureHooks(net.model, list(files))
    try:
        with contextlib.ExitStack() as stack, evaluating(net.model):
            opened = {name: stack.enter_context(cached_writer(file)) for name, file in files.items()}
            for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), eval_batch_size(*pre.box)):
                with net.explaining_shapes():
                    net.model(net.prepare(batch.images))
                if silent := sorted(opened.keys() - hooks.features.keys()):
                    raise UsageError(f'"{net.name}" never runs {silent[0]} as a whole, so that it has no output.')
                for name, file in opened.items():
                    append_array(file, hooks.features[name].cpu().numpy(), (len(rows),))
                done += len(batch)
                progress(done, len(rows))
    finally:
        hooks.remove()


def append_array(file: CachedWriter, array: NDArray[Any], outer: tuple[int, ...]) -> None:
    """Append an array [B, ...] to an .npy file of the shape [*outer, ...]; the first writes the header too."""
    if not file.tell():
        write_header(file, array, outer)
    file.write(np.ascontiguousarray(array).tobytes())


def write_header(file: IO[bytes] | CachedWriter, array: NDArray[Any], outer: tuple[int, ...]) -> None:
    """Write the header of an .npy file of the shape [*outer, ...] that will hold arrays [B, ...] like this one."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": (*outer, *array.shape[1:])}
    np.lib.format.write_array_header_1_0(file, header)


def save_features(net: FeatureNet, data: Dataset, stage: str, out: Path, splits: Sequence[SplitName]) -> tuple[int, ...]:
    """Write features [N, D] float32, labels [N], names [N], splits [N] and classes [K] to an .npz file; returns (N, D).

    The features go from the cache to the file piece by piece.

    Raises:
        UsageError: there is no such stage.
        GoodfitError: the file cannot be written.
    """
    rows_of_splits = [data.rows(split) for split in splits]
    vectors = [compute_features(net, data, rows, [stage])[stage] for rows in rows_of_splits if len(rows)]
    rows = torch.cat(rows_of_splits)
    small = {
        "labels": data.truth[rows].numpy(),
        "names": np.array([data.names[row] for row in rows.tolist()]),
        "splits": np.repeat(np.array(splits), [len(rows) for rows in rows_of_splits]),
        "classes": np.array(data.classes),
    }
    with atomic_writer(out) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as member:
            write_header(member, vectors[0], (len(rows),))
            for array in vectors:
                for start in range(0, len(array), VECTORS_PER_WRITE):
                    member.write(array[start : start + VECTORS_PER_WRITE].tobytes())
        for name, values in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values)
    return len(rows), *vectors[0].shape[1:]
