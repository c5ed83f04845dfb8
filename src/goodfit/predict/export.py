"""A trained classifier as one ONNX file that needs neither Goodfit nor torch: preprocessing, model and probabilities in one graph."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.files import write_atomic
from goodfit.core.fitted_task import plain_task
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.words import format_bytes
from goodfit.data.decode import JPEG_COLORSPACES
from goodfit.predict.graph import Graph
from goodfit.predict.predictor import Predictor, load_predictor

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  what torch writes ONNX with
except ImportError as error:
    raise UsageError('goodfit export needs the extra: pip install "goodfit[export]".') from error

ONNX_FILE = "model.onnx"
MAX_WEIGHT_BYTES = 2**31 - 2**24  # a protobuf file ends at 2^31
PROBABILITY_TOLERANCE = 1e-5  # between the probabilities of the file and of the run
Pixels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Exported:
    """An ONNX file: its `path`, its inputs and outputs in words, and the largest difference of its probabilities from the run's."""

    path: Path
    inputs: str
    outputs: str
    difference: float


def export(run: str | Path | Run, path: str | Path | None = None, views: str = "", reporter: Reporter | None = None) -> Exported:
    """Write the classifier of a run or an ensemble as one ONNX file (default: model.onnx in its folder), after comparing its answers with
    the classifier's own; with other `views` than its own, if given.

    Raises:
        UsageError: there is no run, it has no finished model yet, or the file name or the views cannot be used.
        GoodfitError: a model is damaged, cannot be exported, or predicts something else once it is.
    """
    folder = run.path if isinstance(run, Run) else Path(run)
    out = Path(path) if path else Run.open(folder).path / ONNX_FILE
    if out.suffix != ".onnx":
        raise UsageError(f'Expected the file to end in .onnx, received "{out}".')
    predictor = load_predictor(folder, "cpu", views, reporter)
    graph = Graph(predictor).eval()
    weight_bytes = sum(x.nbytes for x in graph.state_dict().values())
    if weight_bytes > MAX_WEIGHT_BYTES:
        raise GoodfitError(
            f'The weights of "{folder}" are {format_bytes(weight_bytes)}, and an ONNX file holds 2 GB: export members of it alone.'
        )
    images = sample_images(graph)
    expected = [predict_probabilities(predictor, batch) for batch in images]  # before tracing, which then finds what layers cache
    inputs = f"images: uint8 [N, H, W, {graph.channels}], {JPEG_COLORSPACES[graph.channels]}, upright, of any one size"
    outputs = f"{graph.output}: float32 [N, {len(predictor.classes)}], in the order of the classes in the file's metadata"
    metadata = {"classes": json.dumps(predictor.classes), "goodfit": version("goodfit"), "input": inputs, "output": outputs}
    if predictor.task.name != "classes":
        metadata["task"] = json.dumps(plain_task(predictor.task))  # with the thresholds of labels, the intervals of numbers
    with explain_export_errors(folder):
        content = with_metadata(trace(graph, torch.from_numpy(images[0])), metadata).SerializeToString()
        exported = run_onnx(content, images)
    scale = np.asarray(getattr(predictor.task, "std", ()) or 1.0)  # of numbers, whose differences are in their deviations
    difference = max(float((np.abs(one - other) / scale).max()) for one, other in zip(exported, expected, strict=True))
    if not difference <= PROBABILITY_TOLERANCE:
        raise GoodfitError(
            f'The exported model of "{folder}" differs from the run: their {graph.output} are up to {difference:.2g} apart,'
            f" {PROBABILITY_TOLERANCE:g} is allowed; nothing was written."
        )
    write_atomic(out, content)
    return Exported(out, inputs, outputs, difference)


def sample_images(graph: Graph) -> list[Pixels]:
    """Random images [n, H, W, C]: larger than a stored box, smaller, and three times as high as wide."""
    high, wide = graph.predictor.members[0].preprocess.box
    shapes = [(2, 2 * high + 1, wide + 3), (1, high // 2 + 1, wide // 2 + 2), (1, 3 * max(high, wide), wide)]
    chances = [Chance.of(0, torch.arange(n), "export", place) for place, (n, _, _) in enumerate(shapes)]
    pairs = zip(chances, shapes, strict=True)
    return [x.integers(0, 256, h * w * graph.channels).view(n, h, w, -1).to(torch.uint8).numpy() for x, (n, h, w) in pairs]


def predict_probabilities(predictor: Predictor, images: Pixels) -> NDArray[np.float32]:
    """The probabilities [n, K] of `predict`, in the order of the classes."""
    predictions = predictor.predict(images, top=len(predictor.classes))
    rows = [dict(zip(p.classes, p.probabilities, strict=True)) for p in predictions]
    return np.array([[row[name] for name in predictor.classes] for row in rows], dtype=np.float32)


@contextlib.contextmanager
def explain_export_errors(folder: Path) -> Iterator[None]:
    """Turn into one sentence what the exporter or the runtime raises; their many parts raise anything.

    Raises:
        GoodfitError: the model cannot be exported.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].split(". ")[0].rstrip(".:")
        raise GoodfitError(
            f'The model of "{folder}" computes something that cannot be written as ONNX ({reason}): it predicts with Goodfit alone.'
        ) from error


def trace(graph: Graph, images: Tensor) -> Any:
    """Trace a graph that takes `images` [N, H, W, C], of any N, H and W, into an ONNX model."""
    shapes = {"images": {0: "N", 1: "H", 2: "W"}}
    with silenced():
        program = torch.onnx.export(
            graph, (images,), input_names=["images"], output_names=[graph.output], dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppress the exporter's prints, warnings and logs, which are meant for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def with_metadata(model: Any, metadata: dict[str, str]) -> Any:
    """An ONNX model with this metadata in place of the exporter's notes, which contain paths of this disk."""
    strip_notes(model.graph)
    model.producer_name, model.producer_version = "goodfit", metadata["goodfit"]
    onnx.helper.set_model_props(model, metadata)
    return model


def strip_notes(graph: Any) -> None:
    """Remove the exporter's notes from a graph and from those inside it."""
    graph.ClearField("value_info")
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                strip_notes(attribute.g)


def run_onnx(content: bytes, images: list[Pixels]) -> list[NDArray[np.float32]]:
    """The probabilities that ONNX Runtime computes for each batch of images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"images": batch})[0] for batch in images]
