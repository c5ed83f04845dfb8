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
from torch import Tensor, nn

from goodfit.core.chance import Chance
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.files import write
from goodfit.core.run import Run
from goodfit.core.words import size
from goodfit.data.decode import JPEG_COLORSPACES
from goodfit.predict.ensemble import Ensemble, load_any
from goodfit.predict.graph import Graph
from goodfit.predict.predictor import Classifier

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  what torch writes ONNX with
except ImportError as error:
    raise UsageError('goodfit export needs the extra: pip install "goodfit[export]".') from error

FILE = "model.onnx"
LARGEST = 2**31 - 2**24  # bytes of weights: a protobuf file ends at 2^31
TOLERANCE = 1e-5  # between the probabilities of the file and of the run
Pixels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Exported:
    """An ONNX file: its `path`, what it takes and gives, in words, and how far its probabilities were from the run's at most."""

    path: Path
    inputs: str
    outputs: str
    difference: float


def export(run: str | Path | Run, path: str | Path | None = None, views: str = "") -> Exported:
    """Write the classifier of a run or an ensemble as one ONNX file (default: model.onnx in its folder), after comparing its answers with
    the classifier's own; with other `views` than its own, if given.

    Raises:
        UsageError: there is no run, it has no finished model yet, or the file or the views do not go.
        GoodfitError: a model is damaged, cannot be exported, or answers otherwise once it is.
    """
    folder = run.path if isinstance(run, Run) else Path(run)
    out = Path(path) if path else Run.open(folder).path / FILE
    if out.suffix != ".onnx":
        raise UsageError(f'Expected the file to end in .onnx, received "{out}".')
    classifier = load_any(folder, "cpu", views)
    graph = Graph(classifier).eval()
    weighs = sum(x.nbytes for x in graph.state_dict().values())
    if weighs > LARGEST:
        raise GoodfitError(f'The weights of "{folder}" are {size(weighs)}, and an ONNX file holds 2 GB: export members of it alone.')
    pictures = samples(graph)
    expected = [answers(classifier, some) for some in pictures]  # before tracing, which then finds what layers keep for later
    inputs = f"images: uint8 [N, H, W, {graph.channels}], {JPEG_COLORSPACES[graph.channels]}, upright, of any one size"
    outputs = f"probabilities: float32 [N, {len(classifier.classes)}], in the order of the classes in the file's metadata"
    words = {"classes": json.dumps(classifier.classes), "goodfit": version("goodfit"), "input": inputs, "output": outputs}
    with in_a_sentence(folder):
        content = described(traced(graph, torch.from_numpy(pictures[0])), words).SerializeToString()
        found = asked(content, pictures)
    difference = max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))
    if not difference <= TOLERANCE:
        raise GoodfitError(
            f'The exported model of "{folder}" answers otherwise: its probabilities are up to {difference:.2g} from the run\'s,'
            f" {TOLERANCE:g} is allowed; nothing was written."
        )
    write(out, content)
    return Exported(out, inputs, outputs, difference)


def samples(graph: Graph) -> list[Pixels]:
    """Random images [n, H, W, C]: larger than a stored box, smaller, and three times as high as wide."""
    high, wide = graph.members[0].preprocess.box
    shapes = [(2, 2 * high + 1, wide + 3), (1, high // 2 + 1, wide // 2 + 2), (1, 3 * max(high, wide), wide)]
    chances = [Chance.of(0, torch.arange(n), "export", place) for place, (n, _, _) in enumerate(shapes)]
    drawn = zip(chances, shapes, strict=True)
    return [x.integers(0, 256, h * w * graph.channels).view(n, h, w, -1).to(torch.uint8).numpy() for x, (n, h, w) in drawn]


def answers(classifier: Classifier | Ensemble, images: Pixels) -> NDArray[np.float32]:
    """Probabilities [n, K] that `predict` gives, in the order of the classes."""
    found = classifier.predict(images, top=len(classifier.classes))
    rows = [dict(zip(p.classes, p.probabilities, strict=True)) for p in found]
    return np.array([[row[name] for name in classifier.classes] for row in rows], dtype=np.float32)


@contextlib.contextmanager
def in_a_sentence(folder: Path) -> Iterator[None]:
    """Say what the exporter or the runtime cannot do with a model; they hand on whatever their many parts raise."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].split(". ")[0].rstrip(".:")
        raise GoodfitError(
            f'The model of "{folder}" computes something that does not go into an ONNX file ({reason}): it predicts with Goodfit alone.'
        ) from error


def traced(graph: nn.Module, images: Tensor) -> Any:
    """A graph that takes `images` [N, H, W, C], of any N, H and W, as an ONNX model."""
    shapes = {"images": {0: "N", 1: "H", 2: "W"}}
    with silence():
        program = torch.onnx.export(
            graph, (images,), input_names=["images"], output_names=["probabilities"], dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without the exporter's prints, warnings and logs, which speak to those who work on it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def described(model: Any, words: dict[str, str]) -> Any:
    """An ONNX model with words in its metadata in place of the exporter's notes, which tell where code lies on this disk."""
    bare(model.graph)
    model.producer_name, model.producer_version = "goodfit", words["goodfit"]
    onnx.helper.set_model_props(model, words)
    return model


def bare(graph: Any) -> None:
    """Take the exporter's notes off a graph and off those inside it."""
    graph.ClearField("value_info")
    for thing in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        thing.ClearField("metadata_props")
        thing.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                bare(attribute.g)


def asked(content: bytes, pictures: list[Pixels]) -> list[NDArray[np.float32]]:
    """What ONNX Runtime makes of each batch of images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"images": some})[0] for some in pictures]
