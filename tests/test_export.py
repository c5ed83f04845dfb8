"""Exported classifiers: pixels equal to Pillow's to the bit, probabilities equal to predict's, and what a file says of itself."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import goodfit
from goodfit.augment.views import CENTER_PLACE, CROP_PLACES, ImageView
from goodfit.core.errors import UsageError
from goodfit.core.fetch import hash_file
from goodfit.core.run import Run
from goodfit.data.multiscale import MAX_ASPECT_RATIO, decode_scaled
from goodfit.data.pillow_resize import resize_windows
from goodfit.data.preprocess import Aspect, Preprocess
from goodfit.models.weights.saved import WEIGHTS_FILE, write_config
from goodfit.predict import export as module
from goodfit.predict.graph import Graph
from goodfit.predict.predictor import Predictor
from goodfit.study.ensemble.assembly import make_ensemble
from tests.support.command import copied, refused, train
from tests.support.command import goodfit as command

SIZES = [(1, 1), (1, 40), (40, 1), (18, 21), (36, 42), (19, 21), (60, 20), (7, 5), (90, 100), (200, 37), (13, 200), (16, 300)]
BATCHES = [(1, 20, 20), (3, 41, 57), (1, 9, 8), (2, 70, 12), (1, 1, 1), (4, 18, 18)]  # images, height, width
CROPS = "five_crop((19,), average=logit)"


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels, the first two columns and rows black and white, whose edges make the filters overshoot."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    pixels[:, :2], pixels[:2] = 0, 255
    return pixels


def photos_of(n: int, height: int, width: int) -> np.ndarray:
    return np.stack([photo(height, width, seed=seed) for seed in range(n)])


class Plain(nn.Module):
    """A user's own net, a plain module."""

    def __init__(self, classes: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(images).relu().mean((2, 3)))
        return out


# ---- pixels ------------------------------------------------------------------------------------------------------------------------


def agree(preprocess: Preprocess, image: np.ndarray, scale: int) -> None:
    """Check that all windows of an image are cut out of Pillow's picture."""
    seen = torch.from_numpy(decode_scaled(preprocess, image, scale).copy())[None]
    found = resize_windows(preprocess, torch.from_numpy(image)[None], scale, CROP_PLACES)
    assert found.dtype == torch.uint8
    for place, pixels in zip(CROP_PLACES, found, strict=True):
        assert torch.equal(pixels, ImageView(scale, place).crop(seen, preprocess.size).permute(0, 3, 1, 2)), (
            image.shape,
            preprocess.box,
            place,
        )


@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [0, 16, 23])
def test_pixels_are_those_of_pillow(aspect: Aspect, channels: int, scale: int) -> None:
    """Larger, smaller, mixed and untouched; of both orders of the passes; with and without alpha."""
    rng = np.random.default_rng(scale + channels)
    drawn = [(int(h), int(w)) for h, w in rng.integers(1, 120, (25, 2))]
    for number, (height, width) in enumerate([*SIZES, *drawn]):
        box = (18, 21) if number % 2 else (16, 17)
        agree(Preprocess((16, 17), box, channels, aspect), photo(height, width, channels, number), scale)


def test_pixels_of_the_middle_of_a_panorama() -> None:
    preprocess, image = Preprocess((16, 16), (18, 18)), photo(20, 20 * MAX_ASPECT_RATIO + 33)
    assert decode_scaled(preprocess, image, 16).shape[1] == 16 * MAX_ASPECT_RATIO
    agree(preprocess, image, 16)


def test_a_batch_is_its_images() -> None:
    preprocess, images = Preprocess((16, 16), (18, 18)), torch.from_numpy(photos_of(3, 50, 31))
    both = resize_windows(preprocess, images, 0, [CENTER_PLACE])
    assert torch.equal(both, torch.cat([resize_windows(preprocess, image[None], 0, [CENTER_PLACE]) for image in images], dim=1))


class Seen(nn.Module):
    """The windows themselves, as a graph."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Tensor:
        return resize_windows(self.preprocess, images, 0, CROP_PLACES)


@pytest.mark.slow
def test_pixels_of_a_traced_graph_are_those_of_pillow() -> None:
    """In ONNX Runtime, whose sines and sums are its own."""
    preprocess = Preprocess((16, 17), (18, 21), 4, "crop")
    model = module.trace(Seen(preprocess), torch.from_numpy(photo(40, 30, 4)[None]))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for number, (height, width) in enumerate(SIZES):
        image = torch.from_numpy(photo(height, width, 4, number)[None])
        assert np.array_equal(session.run(None, {"images": image.numpy()})[0], resize_windows(preprocess, image, 0, CROP_PLACES).numpy())


# ---- files -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain module that looks twice and is calibrated, the same from another seed, and a linear model of another shape."""
    root = tmp_path_factory.mktemp("exports")
    for name, seed in (("plain", "0"), ("again", "1")):
        assert train(photos, root / name, model="tests.test_export.Plain", size="16", views="flip_pair", seed=seed).code == 0
    assert train(photos, root / "linear", size="12x14", aspect="pad", loss="mse").code == 0
    Run(root / "plain").update("config.json", {"temperature": 1.7})
    return root


def said_by(classifier: Any, images: np.ndarray) -> np.ndarray:
    """Probabilities [n, K] of predict, in the order of the classes."""
    found = classifier.predict(images, top=len(classifier.classes))
    return np.array([[dict(zip(p.classes, p.probabilities, strict=True))[name] for name in classifier.classes] for p in found])


def same(file: Path, classifier: Any) -> None:
    """Check a file against predict on batches of one and of several images of many sizes."""
    session = onnxruntime.InferenceSession(file)
    for n, height, width in BATCHES:
        images = photos_of(n, height, width)
        (found,) = session.run(None, {"images": images})
        assert (found.dtype, found.shape) == (np.float32, (n, len(classifier.classes)))
        assert np.abs(found - said_by(classifier, images)).max() < 1e-5, (n, height, width)


@pytest.fixture(scope="module")
def single(runs: Path) -> Path:
    """The file of a run, by the command line."""
    said = command("export", runs / "plain", "--views", CROPS, "--json")
    assert (said.code, said.err) == (0, ""), said
    result, file = json.loads(said.out), runs / "plain" / "model.onnx"
    assert set(result) == {"path", "inputs", "outputs", "difference"}
    assert result["path"] == str(file)
    assert result["difference"] < 1e-5
    return file


@pytest.mark.thorough
def test_the_file_of_a_run_answers_as_predict(runs: Path, single: Path) -> None:
    """A plain module by five crops of whole images whose shape the graph finds out itself, the mean of their logits, and a temperature."""
    same(single, goodfit.load(runs / "plain", views=CROPS))


def test_the_file_says_what_it_is(runs: Path, single: Path) -> None:
    model = onnx.load(single)
    onnx.checker.check_model(model)
    words = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(words["classes"]) == list(goodfit.load(runs / "plain").classes)
    assert words["goodfit"] == goodfit.__version__
    assert words["input"].startswith("images: uint8 [N, H, W, 3], RGB, upright")
    (taken,), (given,) = model.graph.input, model.graph.output
    assert [(x.name, x.type.tensor_type.elem_type) for x in (taken, given)] == [
        ("images", onnx.TensorProto.UINT8),
        ("probabilities", onnx.TensorProto.FLOAT),
    ]
    assert [d.dim_param or d.dim_value for x in (taken, given) for d in x.type.tensor_type.shape.dim] == ["N", "H", "W", 3, "N", 3]
    assert not any(node.domain for node in model.graph.node)
    content = single.read_bytes()
    assert b"stack_trace" not in content
    assert b".py" not in content
    assert [path.name for path in single.parent.glob("*onnx*")] == ["model.onnx"]


def make_mixed_ensemble(runs: Path, out: Path) -> Run:
    """Members of other sizes, aspects, losses, views, temperatures, weights and orders of classes."""
    made = make_ensemble([runs / "plain", runs / "linear"], out)
    content = made.read("ensemble.json")
    one, other = content["members"]
    turned = Run(made.path / other["path"])
    turned.update("config.json", {"label_names": turned.read("config.json")["label_names"][::-1], "temperature": 0.6})
    save_file({name: x.flip(0).contiguous() for name, x in load_file(turned.path / WEIGHTS_FILE).items()}, turned.path / WEIGHTS_FILE)
    write_config(turned, turned.read("config.json"))
    one["weight"], other["weight"], other["sha256"] = 2 / 3, 1 / 3, hash_file(turned.path / WEIGHTS_FILE)
    made.write("ensemble.json", content)
    return made


def assert_graph_answers_as_predict(graph: Graph, predictor: Any) -> None:
    for n, height, width in BATCHES:
        images = photos_of(n, height, width)
        with torch.no_grad():
            assert np.abs(graph(torch.from_numpy(images)).numpy() - said_by(predictor, images)).max() < 1e-5


def test_the_graph_of_an_ensemble_answers_as_predict(runs: Path, tmp_path: Path) -> None:
    ensemble = goodfit.load(make_mixed_ensemble(runs, tmp_path / "made"))
    graph = Graph(ensemble)
    assert len(graph.models) == 2
    assert_graph_answers_as_predict(graph, ensemble)


@pytest.mark.slow
def test_the_file_of_an_ensemble_answers_as_predict(runs: Path, tmp_path: Path) -> None:
    made = make_mixed_ensemble(runs, tmp_path / "made")
    said = command("export", made.path, "--onnx", tmp_path / "new" / "both.onnx")
    assert (said.code, said.err, said.out.count("\n")) == (0, "", 1), said
    for words in (
        str(tmp_path / "new" / "both.onnx"),
        "images: uint8 [N, H, W, 3], RGB",
        "probabilities: float32 [N, 3]",
        "of the run's",
    ):
        assert words in said.out
    same(tmp_path / "new" / "both.onnx", goodfit.load(made))


@pytest.mark.parametrize("views", ["center", "five_crop", "ten_crop((16, 20), average=logit)"])
def test_the_graph_of_a_soup_is_that_of_one_model(runs: Path, tmp_path: Path, views: str) -> None:
    soup = goodfit.load(make_ensemble([runs / "plain", runs / "again"], tmp_path / "made", soup="uniform"), views=views)
    graph = Graph(soup)
    assert len(graph.models) == 1
    assert_graph_answers_as_predict(graph, soup)


# ---- refusals ----------------------------------------------------------------------------------------------------------------------


def test_refusals(runs: Path, tmp_path: Path) -> None:
    run = runs / "plain"
    refused(command("export", tmp_path / "none"), 2, "Expected a run folder")
    refused(command("export", run, "--onnx", tmp_path / "model.bin"), 2, "Expected the file to end in .onnx, received")
    refused(command("export", run, "--views", "ten_crops"), 2, 'Did you mean "ten_crop"')
    refused(command("export", run, "--views", "multi_scale"), 2, "shows the model whole images", "--views center")
    bare = copied(run, tmp_path / "bare")
    (bare / "config.json").unlink()
    refused(command("export", bare), 2, "has no model yet")
    damaged = copied(run, tmp_path / "damaged")
    (damaged / WEIGHTS_FILE).write_bytes(b"no weights")
    refused(command("export", damaged), 1, "does not read")
    made = make_ensemble([run, runs / "linear"], tmp_path / "made")
    (made.path / "members" / "01" / WEIGHTS_FILE).write_bytes(b"no weights")
    refused(command("export", made.path), 1, "is not the one that the ensemble was made of")
    assert not (made.path / "model.onnx").exists()


def test_members_of_other_channels_are_refused(runs: Path) -> None:
    one = goodfit.load(runs / "plain").members[0]
    gray = dataclasses.replace(one, preprocess=one.preprocess.but(channels=1))
    with pytest.raises(UsageError, match="members that take the same channels, found 1 and 3"):
        Graph(Predictor((one, gray), (0.5, 0.5), one.classes))


def test_weights_beyond_what_a_file_holds_are_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WEIGHT_BYTES", 100)
    refused(command("export", runs / "linear"), 1, "an ONNX file holds 2 GB")


def test_a_model_that_the_exporter_cannot_do_is_said_in_a_sentence(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        print("a long story")
        raise RuntimeError("on many\nlines") from ValueError("No ONNX function found for sort_of.\nMore")

    monkeypatch.setattr(torch.onnx, "export", fail)
    refused(command("export", runs / "linear"), 1, "computes something that cannot be written as ONNX (No ONNX function found for sort_of)")
    monkeypatch.setattr(module, "trace", lambda *_: onnx.ModelProto())
    refused(command("export", runs / "linear"), 1, "computes something that cannot be written as ONNX (")
    assert not (runs / "linear" / "model.onnx").exists()


def test_a_file_that_answers_otherwise_is_not_written(runs: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "trace", lambda *_: onnx.load(single))
    assert goodfit.export(Run(runs / "plain"), tmp_path / "same.onnx", CROPS).difference < 1e-5
    other = copied(runs / "plain", tmp_path / "other")
    Run(other).update("config.json", {"temperature": 1.0})
    refused(command("export", other, "--onnx", tmp_path / "other.onnx"), 1, "differs from the run", "nothing was written")
    assert not (tmp_path / "other.onnx").exists()
    (tmp_path / "taken").write_text("a file")
    refused(
        command("export", runs / "plain", "--views", CROPS, "--onnx", tmp_path / "taken" / "a.onnx"),
        1,
        "cannot be written",
        "choose another folder",
    )


def test_without_the_extra(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "goodfit.predict.export")
    refused(command("export", runs / "plain"), 2, 'pip install "goodfit[export]"')
