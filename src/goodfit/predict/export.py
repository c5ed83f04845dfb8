"""A trained classifier as one ONNX file that needs neither Goodfit nor torch: preprocessing, model and probabilities in one graph."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """A predictor as an ONNX model, before it is written: its proto, its inputs and outputs in words, and the largest difference of its
    answers from the predictor's.
    """

    proto: Any
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
    out = choose_file(folder, path, ONNX_FILE)
    model = make_onnx(load_predictor(folder, "cpu", views, reporter), folder)
    write_atomic(out, model.proto.SerializeToString())
    return Exported(out, model.inputs, model.outputs, model.difference)


def choose_file(folder: Path, path: str | Path | None, default: str) -> Path:
    """The file to write: `path`, else the default one in the folder of the run; both end alike.

    Raises:
        UsageError: there is no run, or `path` ends otherwise.
    """
    out = Path(path) if path else Run.open(folder).path / default
    if out.suffix != Path(default).suffix:
        raise UsageError(f'Expected the file to end in {Path(default).suffix}, received "{out}".')
    return out


def make_onnx(predictor: Predictor, folder: Path) -> OnnxModel:
    """Trace a predictor into an ONNX model, and compare its answers with the predictor's.

    Raises:
        UsageError: its views cannot be exported.
        GoodfitError: it cannot be exported, or predicts something else once it is.
    """
    graph = Graph(predictor).eval()
    weight_bytes = sum(x.nbytes for x in graph.state_dict().values())
    if weight_bytes > MAX_WEIGHT_BYTES:
        raise GoodfitError(
            f'The weights of "{folder}" are {format_bytes(weight_bytes)}, and an ONNX file holds 2 GB: export members of it alone.'
        )
    images = sample_images(graph)
    expected = [predict_probabilities(predictor, batch) for batch in images]  # before tracing, which then finds what layers cache
    metadata = describe_graph(graph)
    with explain_export_errors(folder):
        proto = with_metadata(trace(graph, torch.from_numpy(images[0])), metadata)
        session = open_session(proto.SerializeToString())
        exported = [session.run(None, {"images": batch})[0] for batch in images]
    difference = largest_difference(predictor, exported, expected)
    refuse_difference(folder, graph.output, difference)
    return OnnxModel(proto, metadata["input"], metadata["output"], difference)


def describe_graph(graph: Graph) -> dict[str, str]:
    """What a file says of its graph: the classes and the task as JSON, the version of Goodfit, and its input and output in words."""
    predictor = graph.predictor
    return {
        "classes": json.dumps(predictor.classes),
        "goodfit": version("goodfit"),
        "input": f"images: uint8 [N, H, W, {graph.channels}], {JPEG_COLORSPACES[graph.channels]}, upright, of any one size",
        "output": f"{graph.output}: float32 [N, {len(predictor.classes)}], in the order of the classes in the file's metadata",
        # with the thresholds of labels, the intervals of numbers:
        **({"task": json.dumps(plain_task(predictor.task))} if predictor.task.name != "classes" else {}),
    }


Answers = Sequence[NDArray[np.float32]]  # [n, K] for each batch


def largest_difference(predictor: Predictor, exported: Answers, expected: Answers) -> float:
    """The largest difference of two answers to batches of images; of numbers, in their standard deviations."""
    scale = np.asarray(getattr(predictor.task, "std", ()) or 1.0)
    return max(float((np.abs(one - other) / scale).max()) for one, other in zip(exported, expected, strict=True))


def refuse_difference(folder: Path, output: str, difference: float) -> None:
    """Refuse a file whose answers are not the run's.

    Raises:
        GoodfitError: they differ by more than rounding.
    """
    if not difference <= PROBABILITY_TOLERANCE:
        raise GoodfitError(
            f'The exported model of "{folder}" differs from the run: their {output} are up to {difference:.2g} apart,'
            f" {PROBABILITY_TOLERANCE:g} is allowed; nothing was written."
        )


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
def explain_export_errors(folder: Path, form: str = "as ONNX") -> Iterator[None]:
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
            f'The model of "{folder}" computes something that cannot be written {form} ({reason}): it predicts with Goodfit alone.'
        ) from error


def trace(graph: Graph, images: Tensor) -> Any:
    """Trace a graph that takes `images` [N, H, W, C], of any N, H and W, into an ONNX model."""
    shapes = {"images": {0: "N", 1: "H", 2: "W"}}
    return trace_module(graph, images, graph.output, shapes)


def trace_module(module: nn.Module, images: Tensor, output: str, shapes: dict[str, dict[int, str]]) -> Any:
    """Trace a module of one input, `images`, with the names of the dimensions that may differ, into an ONNX model."""
    with silenced():
        program = torch.onnx.export(
            module, (images,), input_names=["images"], output_names=[output], dynamic_shapes=shapes, dynamo=True, verbose=False
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


def open_session(content: bytes) -> Any:
    """A session of ONNX Runtime on the CPU, which logs nothing, and whose threads sleep between runs.

    They spin by default, which takes the cores from whatever else has work meanwhile: decoding, another process.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
