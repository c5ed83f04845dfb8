"""A trained classifier as a program of torch.export (.pt2): preprocessing, network and probabilities, for torch without Goodfit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch.export import Dim

from goodfit.core.files import write_atomic
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.predict.export import (
    Exported,
    choose_file,
    describe_graph,
    explain_export_errors,
    largest_difference,
    predict_probabilities,
    refuse_difference,
    sample_images,
    silenced,
)
from goodfit.predict.graph import Graph
from goodfit.predict.predictor import load_predictor

PROGRAM_FILE = "model.pt2"
FACTS_FILE = "goodfit.json"  # inside the program: the classes and the task


def export_program(run: Run, path: Path | None, views: str, reporter: Reporter) -> Exported:
    """Write the classifier of a run or an ensemble as a program that `torch.export.load` reads, after comparing its answers with the
    classifier's own: images uint8 [N, H, W, C], upright, of any one size -> probabilities [N, K].

    Raises:
        UsageError: the file name or the views cannot be used.
        GoodfitError: a model is damaged, cannot be exported, or predicts something else once it is.
    """
    out = choose_file(run.path, path, PROGRAM_FILE)
    predictor = load_predictor(run, "cpu", views, reporter)
    graph = Graph(predictor).eval()
    images, facts = sample_images(graph), describe_graph(graph)
    expected = [predict_probabilities(predictor, batch) for batch in images]
    content = io.BytesIO()
    with explain_export_errors(run.path, "by torch.export"), silenced(), torch.no_grad():
        shapes = {"images": dict.fromkeys(range(3), Dim.DYNAMIC)}
        program = torch.export.export(graph, (torch.from_numpy(images[0]),), dynamic_shapes=shapes)
        torch.export.save(program, content, extra_files={FACTS_FILE: json.dumps(facts)})
        content.seek(0)
        loaded = torch.export.load(content).module()
        exported = [loaded(torch.from_numpy(batch)).numpy() for batch in images]
    difference = largest_difference(predictor, exported, expected)
    refuse_difference(run.path, graph.output, difference)
    write_atomic(out, content.getvalue())
    return Exported(out, facts["input"], facts["output"], difference)
