"""A trained classifier as an ONNX file that computes with 8-bit integers, and what that costs and gains, measured before it is written."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from torch import Tensor

from goodfit.core.errors import UsageError
from goodfit.core.figures import FIGURES
from goodfit.core.files import write_atomic
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset
from goodfit.predict.export import (
    Exported,
    Pixels,
    choose_file,
    explain_export_errors,
    make_onnx,
    open_session,
    silenced,
)
from goodfit.predict.images import ImagesFor
from goodfit.predict.predictor import Predictor, load_predictor, reorder_classes
from goodfit.recipe.recipe import Recipe

INT8_FILE = "model.int8.onnx"
CALIBRATION_IMAGES, MAX_SCORED_IMAGES = 256, 5000
BATCH, TURNS = 16, 7  # images that are timed together, and how often the two take turns
WEIGHTED = ("Conv", "Gemm", "MatMul")  # operations with weights
BETWEEN = ("Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")  # that compute with integers between those


@dataclasses.dataclass(frozen=True)
class Int8Exported(Exported):
    """An int8 file, and what it is worth on validation `images`: the figure of the `exact` model and its own (`int8`), the `speed` as a
    multiple of the exact file's, and the largest `difference` of its answers to these images from the exact file's.
    """

    images: int
    exact: float
    int8: float
    speed: float


class TrainingPixels(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The stored pixels of training images, in batches, for calibration."""

    def __init__(self, batches: Iterator[Pixels]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch as the model's input; None after the last."""
        return next(({"images": batch} for batch in self.batches), None)


def export_int8(run: Run, path: Path | None, views: str, reporter: Reporter) -> Int8Exported:
    """Write the classifier of a run as an ONNX file whose convolutions and matrix products compute with 8-bit integers.

    The ranges of activations are those of training images (static quantization, a scale for each channel of the weights); the figure is
    compared with the exact model's on validation images, and said before the file is written. Preprocessing and all else stay exact.

    Raises:
        UsageError: it is an ensemble, its views need more than the stored pixels, or the file name cannot be used.
        DataError: the images of the run are gone.
        GoodfitError: the model cannot be exported.
    """
    out = choose_file(run.path, path, INT8_FILE)
    predictor = load_predictor(run, "cpu", views, reporter)
    if len(predictor.members) > 1 or predictor.members[0].scales != (0,):
        raise UsageError(f'--int8 is for runs of one model and views of its stored pixels, such as center; "{run.path}" has others.')
    exact = make_onnx(predictor, run.path)
    data = ImagesFor(Recipe.of_run(run.path), reporter).prepare(predictor.members[0].preprocess)
    reporter.show_activity("quantizing")
    with explain_export_errors(run.path):
        batches = read_batches(data, data.spread_rows("train", CALIBRATION_IMAGES))
        proto = quantize(exact.proto, batches)
        sessions = [open_session(x.SerializeToString()) for x in (exact.proto, proto)]
    rows = data.spread_rows("validation", MAX_SCORED_IMAGES)
    answers = [answer(session, data, rows) for session in sessions]
    before, after = (measure_figure(predictor, x, data, rows) for x in answers)
    speed = compare_speed(sessions[0], sessions[1], next(read_batches(data, rows[:BATCH])))
    difference = float(np.abs(answers[0] - answers[1]).max())
    figure = FIGURES[predictor.task.name]
    reporter.clear_progress()
    reporter.say(
        f"With 8-bit integers: {figure.name} {figure.format(after)} on {count_of(len(rows), 'validation image')}, exactly"
        f" {figure.format(before)} ({figure.format_difference(after - before)}); {speed:.2f} times as fast."
    )
    write_atomic(out, proto.SerializeToString())
    return Int8Exported(out, exact.inputs, exact.outputs, difference, len(rows), before, after, speed)


def quantize(proto: Any, batches: Iterator[Pixels]) -> Any:
    """Quantize the network in a model that takes `images` uint8 [N, H, W, C]: ONNX Runtime folds batch norms into convolutions, then
    its quantizer puts 8-bit integers around operations with weights and what is between them.
    """
    with tempfile.TemporaryDirectory() as name, silenced():
        folded, quantized = Path(name, "folded.onnx"), Path(name, "quantized.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        quantization.quantize_static(
            str(folded), str(quantized), TrainingPixels(batches), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            nodes_to_quantize=network_nodes(onnx.load(folded).graph), activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        found = onnx.load(quantized)
    sort_nodes(found.graph)
    onnx.helper.set_model_props(found, {entry.key: entry.value for entry in proto.metadata_props} | {"precision": "int8"})
    return found


def sort_nodes(graph: Any) -> None:
    """Put the nodes of a graph into an order in which each follows what it needs, which the quantizer forgets for inner graphs."""
    nodes = list(graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    placed: dict[int, None] = {}
    waiting = list(reversed(range(len(nodes))))
    while waiting:
        place = waiting[-1]
        missing = {makers[name] for name in needed_names(nodes[place]) if name in makers} - placed.keys()
        if missing:
            waiting += missing
        else:
            placed[waiting.pop()] = None
    del graph.node[:]
    graph.node.extend(nodes[place] for place in placed)


def needed_names(node: Any) -> set[str]:
    """The names of the values that a node reads, by itself and in its inner graphs."""
    inner = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return set(node.input).union(*(needed_names(other) for graph in inner for other in graph.node))


def network_nodes(graph: Any) -> list[str]:
    """The names of the nodes to quantize: those with weights of the model, and those that lie between two of them."""
    weights = {tensor.name for tensor in graph.initializer if tensor.name.startswith("models.")}
    weighted = [node for node in graph.node if node.op_type in WEIGHTED and weights.intersection(node.input)]
    after = {name for node in weighted for name in node.output}
    for node in graph.node:  # they stand in an order in which each follows what it needs
        if after.intersection(node.input):
            after.update(node.output)
    before = {name for node in weighted for name in node.input}
    for node in reversed(graph.node):
        if before.intersection(node.output):
            before.update(node.input)
    between = [
        node for node in graph.node if node.op_type in BETWEEN and after.issuperset(node.output) and before.intersection(node.output)
    ]
    return [node.name for node in (*weighted, *between)]


def read_batches(data: Dataset, rows: Tensor) -> Iterator[Pixels]:
    """Yield the stored pixels uint8 [n, H, W, C] of some rows."""
    for piece in torch.split(rows, BATCH):
        yield data.pixels.read_exact(piece).numpy()


def answer(session: Any, data: Dataset, rows: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The answers [n, K] of a session for some rows."""
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in read_batches(data, rows)])


def measure_figure(predictor: Predictor, answers: Any, data: Dataset, rows: Tensor) -> float:
    """The figure of answers [n, K], in the predictor's order, for some rows."""
    ordered = reorder_classes(torch.from_numpy(answers), predictor.classes, data.classes)
    return data.task.summarize_answers(ordered, data.truth[rows])[data.task.figure.key]


def compare_speed(exact: Any, int8: Any, images: Pixels) -> float:
    """How many times as fast the second session is, by medians of turns on the same images."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(TURNS + 1):
        for place, session in enumerate((exact, int8)):
            began = time.perf_counter()
            session.run(None, {"images": images})
            seconds[place].append(time.perf_counter() - began)
    return statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:])
