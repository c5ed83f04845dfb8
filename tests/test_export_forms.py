"""Files beside the exact ONNX one, each read again: 8-bit ONNX, torch.export's program, and a folder for the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import load_file

import goodfit
from goodfit.core.run import Run
from goodfit.data.preprocess import Preprocess
from goodfit.predict import program, quantize
from goodfit.runs.hub_folder import describe_preprocessing
from tests.support.command import copied, refused
from tests.support.command import goodfit as command
from tests.test_export import BATCHES, photos_of, said_by

# ---- int8 ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(source: Path) -> tuple[Path, dict[str, float], str]:
    """The file of a run, what the command printed of it, and what it said."""
    said = command("export", source, "--int8", "--json")
    assert said.code == 0, said.err
    return source / "model.int8.onnx", json.loads(said.out), said.err


def test_int8_computes_with_integers_and_costs_what_is_said(source: Path, int8: tuple[Path, dict[str, float], str], photos: Path) -> None:
    file, found, err = int8
    model = onnx.load(file)
    onnx.checker.check_model(model)
    words = {entry.key: entry.value for entry in model.metadata_props}
    assert (words["precision"], json.loads(words["classes"])) == ("int8", list(goodfit.load(source).classes))
    session, right, exact = onnxruntime.InferenceSession(file), [], []
    names = [line["name"] for line in read_validation(source)]
    loaded = goodfit.load(source)
    for name in names:
        image = np.asarray(Image.open(photos / name).convert("RGB"))[None]
        (answers,) = session.run(None, {"images": image})
        right.append(loaded.classes[answers[0].argmax()] == Path(name).parent.name)
        exact.append(loaded.predict(photos / name)[0].label == Path(name).parent.name)
    assert (found["images"], found["int8"], found["exact"]) == (len(names), np.mean(right), np.mean(exact))
    assert 0 < found["difference"] < 0.2 and found["speed"] > 0
    points = 100 * (found["int8"] - found["exact"])
    assert f"({points:+.1f} points); {found['speed']:.2f} times as fast." in err
    assert file.stat().st_size > 0


def read_validation(run: Path) -> list[dict[str, str]]:
    """The names of the validation images of a run."""
    lines = (run / "splits.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return [{"name": row["path"]} for row in rows if row["split"] == "validation"]


def test_the_network_alone_is_quantized(int8: tuple[Path, dict[str, float], str]) -> None:
    """Each operation with weights reads 8-bit weights; the resize before it is as it was."""
    graph = onnx.load(int8[0]).graph
    made = {name: node for node in graph.node for name in node.output}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert weighted and all(made[name].op_type == "DequantizeLinear" for node in weighted for name in node.input[:2])
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert all(kinds[made[node.input[1]].input[0]] == TensorProto.INT8 for node in weighted)
    first = min(k for k, node in enumerate(graph.node) if node in weighted)
    taken = made[made[weighted[0].input[0]].input[0]].input[0]  # what is quantized for the first of them
    assert first > 0 and "QuantizeLinear" not in {made[name].op_type for name in before(made, taken)}


def before(made: dict[str, onnx.NodeProto], name: str) -> set[str]:
    """All that a value is computed of."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        value = waiting.pop()
        if value not in found and value in made:
            found.add(value)
            waiting += made[value].input
    return found


def test_what_lies_between_weights_is_quantized_too() -> None:
    """A residual sum and a pool; a sum before the first weights and one after the last are not."""
    floats = [helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0]) for name in ("models.0.a", "models.0.b", "other")]
    nodes = [
        helper.make_node("Add", ["images", "other"], ["x"], "early"),
        helper.make_node("MatMul", ["x", "other"], ["y"], "resize"),
        helper.make_node("Conv", ["y", "models.0.a"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Add", ["r", "c"], ["s"], "sum"),
        helper.make_node("Sigmoid", ["s"], ["t"], "sigmoid"),
        helper.make_node("Gemm", ["t", "models.0.b"], ["g"], "last"),
        helper.make_node("Add", ["g", "other"], ["late"], "late"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "late")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], floats)
    assert quantize.network_nodes(graph) == ["first", "last", "relu", "sum"]


def test_int8_refusals(source: Path, tmp_path: Path) -> None:
    refused(command("export", source, "--int8", "--views", "ten_crop((20,))"), 2, "--int8 is for runs of one model")
    refused(command("export", source, "--int8", "--pt2", "a.pt2"), 2, "Expected one of --onnx")
    refused(command("export", source, "--int8", "--onnx", tmp_path / "a.bin"), 2, "Expected the file to end in .onnx")


# ---- a program of torch --------------------------------------------------------------------------------------------------------------


def test_a_program_answers_as_predict(source: Path, tmp_path: Path) -> None:
    """In plain torch, for batches of one and of several images of many sizes; and it says its classes."""
    said = command("export", source, "--pt2", tmp_path / "net.pt2", "--views", "flip_pair")
    assert (said.code, said.err) == (0, ""), said
    assert said.out.startswith(str(tmp_path / "net.pt2")) and "of the run's" in said.out
    facts = {"goodfit.json": ""}
    net = torch.export.load(tmp_path / "net.pt2", extra_files=facts).module()
    loaded = goodfit.load(source, views="flip_pair")
    assert json.loads(json.loads(facts["goodfit.json"])["classes"]) == list(loaded.classes)
    for n, height, width in BATCHES:
        images = photos_of(n, height, width)
        found = net(torch.from_numpy(images)).detach().numpy()
        assert found.shape == (n, len(loaded.classes))
        assert np.abs(found - said_by(loaded, images)).max() < 1e-5, (n, height, width)


def fail() -> None:
    raise RuntimeError("no such luck\nmore")


def test_a_program_that_answers_otherwise_is_not_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "predict_probabilities", lambda predictor, images: np.zeros((len(images), 3), np.float32))
    refused(command("export", source, "--pt2", tmp_path / "net.pt2"), 1, "differs from the run", "nothing was written")
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: fail())
    refused(command("export", source, "--pt2", tmp_path / "net.pt2"), 1, "cannot be written by torch.export (no such luck)")
    refused(command("export", source, "--pt2", tmp_path / "net.bin"), 2, "Expected the file to end in .pt2")
    assert not list(tmp_path.iterdir())


# ---- a folder for the hub ------------------------------------------------------------------------------------------------------------


def test_a_hub_folder_predicts_and_tells_its_scores(source: Path, photos: Path, tmp_path: Path) -> None:
    assert command("evaluate", source, "--test").code == 0
    folder = tmp_path / "hub" / "colors"
    said = command("export", source, "--hub", folder, "--license", "CC BY 4.0")
    assert (said.code, said.out.strip()) == (0, str(folder)), said.err
    images = sorted(photos.rglob("*.png"))[:5]
    for one, other in zip(goodfit.load(folder).predict(images), goodfit.load(source).predict(images), strict=True):
        assert one == other
    weights, own = load_file(folder / "model.safetensors"), load_file(source / "model.safetensors")
    assert weights.keys() == own.keys() and all(torch.equal(weights[key], own[key]) for key in own)
    card, scores = ModelCard.load(folder / "README.md"), Run(source).scores
    data = card.data.to_dict()
    assert (data["license"], data["pipeline_tag"], data["library_name"]) == ("cc-by-4.0", "image-classification", "goodfit")
    assert card.data.model_name == "colors"
    assert [(x.dataset_split, x.metric_type, x.metric_value) for x in card.data.eval_results] == [
        (split, "accuracy", scores[split]["accuracy"]) for split in ("validation", "test")
    ]
    for split in ("validation", "test"):
        low, high = scores[split]["interval"]
        figures = " to ".join(f"{100 * end:.1f} %" for end in (low, high))
        assert f"| {split} | {scores[split]['images']} | {100 * scores[split]['accuracy']:.1f} % | {figures} |" in card.text
    assert 'model = "convnet(4' in card.text and "blue, green, red" in card.text
    for file in folder.rglob("*"):
        assert not file.is_file() or str(tmp_path.parent.parent).encode() not in file.read_bytes(), file
    refused(command("export", source, "--hub", folder, "--license", "MIT"), 2, "is not empty: choose another")


def test_a_card_without_test_scores_says_so(source: Path, tmp_path: Path) -> None:
    run = copied(source, tmp_path / "run")
    Run(run).write("scores.json", {"validation": Run(source).scores["validation"]})
    assert command("export", run, "--hub", tmp_path / "hub", "--license", "Ask me: first").code == 0
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert "The test images were not opened." in card.text and "| test |" not in card.text
    assert (card.data.to_dict()["license"], card.data.to_dict()["license_name"]) == ("other", "Ask me: first")
    refused(command("export", run, "--hub", tmp_path / "other"), 2, "Expected --license")
    refused(command("export", run, "--license", "MIT"), 2, "Expected --license beside --hub alone")


def test_the_preprocessing_is_told_under_the_names_of_image_processors() -> None:
    shown = describe_preprocessing(Preprocess((16, 17), (18, 21), 3, "crop", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).to_dict())
    assert shown["size"] == {"height": 18, "width": 21} and shown["crop_size"] == {"height": 16, "width": 17}
    assert shown["do_center_crop"] and Image.Resampling(shown["resample"]) is Image.Resampling.HAMMING
    assert (shown["image_mean"], shown["image_std"], shown["rescale_factor"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 1 / 255)
