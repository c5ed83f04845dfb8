"""Pictures of a run's network: what is drawn of which images, for any network, and where it goes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor, nn

from goodfit.core.run import Run
from goodfit.data.preprocess import Preprocess
from goodfit.inspection.embedding import lay_out_neighbors, project_principal
from goodfit.inspection.layer_spread import measure_units
from goodfit.losses.softmax import Softmax
from goodfit.predict.predictor import Classifier
from goodfit.runs import finish
from goodfit.runs.look import FILE, ImageSample, LookOptions, draw_look
from goodfit.runs.net_pictures import LabeledImages, draw_activations, draw_evidence, draw_plane, draw_weights, normalize
from goodfit.terminal.paint import AGAINST, FOR, paint_gray, paint_heat, paint_mosaic, paint_weights, square_up
from tests.support.command import goodfit, refused, train

HOSTILE = '<img src=x onerror="alert(1)">&'


def classifier_of(model: nn.Module, classes: int = 3, size: int = 16, channels: int = 3) -> Classifier:
    pre = Preprocess((size, size), (size, size), channels, mean=(0.4,) * channels, std=(0.25,) * channels)
    return Classifier(model, tuple(f"class {k}" for k in range(classes)), pre, Softmax(), torch.device("cpu"))


def images_of(n: int = 8, size: int = 16, channels: int = 3) -> LabeledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)
    return LabeledImages(pixels, tuple(f"{k}.png" for k in range(n)), tuple(k % 3 for k in range(n)))


# ---- painting --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S151")
def test_weights_are_painted_around_gray_each_by_its_own_largest() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)
    for pixels, weight in zip(paint_weights(weights), weights, strict=True):
        expected = 127.5 + 127.5 * weight.transpose(1, 2, 0) / np.abs(weight).max()
        assert np.abs(pixels - expected).max() <= 0.5 + 1e-4
    assert (paint_weights(np.zeros((1, 1, 2, 2), np.float32))[0] == 128).all()
    assert [paint_weights(np.ones((1, c, 2, 2), np.float32))[0].shape[2] for c in (1, 3, 4, 7)] == [1, 3, 3, 1]


def test_heat_is_red_above_zero_and_blue_below() -> None:
    pixels, values = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), np.float32)
    values[0, 0], values[3, 3] = 2, -1
    painted = paint_heat(pixels, values).astype(float)
    np.testing.assert_allclose(painted[0, 0], 0.25 * 100 + 0.75 * np.array(FOR), atol=1)
    np.testing.assert_allclose(painted[3, 3], 0.625 * 100 + 0.375 * np.array(AGAINST), atol=1)
    assert (painted[1:3, 1:3] == 100).all()


def test_tiles_and_vectors_lie_row_by_row() -> None:
    tiles = [np.full((2, 2, 1), 10 * k, np.uint8) for k in range(5)]
    mosaic = paint_mosaic(tiles)
    side = (len(mosaic[0]) + 2) // 2  # two columns and three rows
    assert [int(mosaic[side // 2 + side * (k // 2), side // 2 + side * (k % 2), 0]) for k in range(6)] == [0, 10, 20, 30, 40, 255]
    assert square_up(np.array([1, 2, 3, 4, 5], np.float32)).tolist() == [[1, 2, 3], [4, 5, 1], [1, 1, 1]]
    gray = paint_gray(np.arange(16, dtype=np.float32).reshape(4, 4))
    assert (gray[0, 0, 0], gray[3, 3, 0]) == (0, 255) and (np.diff(gray.flatten().astype(int)) >= 0).all()
    assert (paint_gray(np.zeros((2, 2), np.float32)) == 0).all()


# ---- measuring -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S186")
def test_the_plane_is_that_of_the_principal_components() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)) @ np.diag([5, 3, 1, 1, 1, 1])
    points, shown = project_principal(features.astype(np.float32))
    centered = features - features.mean(0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    expected = centered @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-4)
    assert shown == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-5)
    assert PCA(2).fit(features).explained_variance_ratio_.sum() == pytest.approx(shown, rel=1e-5)
    assert project_principal(np.ones((6, 1), np.float32))[0].tolist() == [[0, 0]] * 6


@pytest.mark.item("S186")
def test_tsne_keeps_neighbors_and_repeats() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(15, 8)) + 20 * k for k in range(3)]).astype(np.float32)
    points = lay_out_neighbors(features)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) // 15 == np.arange(45) // 15).all()
    assert np.array_equal(points, lay_out_neighbors(features))
    assert lay_out_neighbors(features[:5]).shape == (5, 2)


def test_dead_and_saturated_units_are_counted() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10), nn.Tanh(), nn.Linear(10, 3))
    with torch.no_grad():
        net[0].bias[:2], net[0].bias[2:] = -1e6, 2.0  # type: ignore[index, operator]
        net[3].weight.mul_(1e4)  # type: ignore[operator]
    relu, tanh = measure_units(net, torch.rand(6, 3, 16, 16))
    assert (relu.layer, relu.activation, relu.units, relu.saturated) == ("0.weight", "relu", 8, None)
    assert relu.dead == 2 / 8
    assert tanh.activation == "tanh" and tanh.dead == 0 and tanh.saturated is not None and tanh.saturated > 0.9


# ---- sheets ----------------------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A residual net of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        return self.head((x + self.block(x)).relu_().mean((2, 3)))


class Tokens(nn.Module):
    """Patches as tokens, without a convolution; its head is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(48, 5), nn.Bilinear(5, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        pooled = self.embed(patches).relu().mean(1)
        return self.out(pooled, pooled)


class Steps(nn.Module):
    """No layers, and no derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, :3] > 0).float()


NETS: dict[str, tuple[Any, dict[str, int]]] = {  # how many pictures each sheet has in its first row
    "residual": (Residual, {"weights": 1, "evidence": 4, "activations": 6, "plane": 2}),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), {"weights": 3, "evidence": 3, "activations": 0, "plane": 2}),
    "mlp": (
        lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(768, 7), nn.ReLU()), nn.Linear(7, 3)),
        {"weights": 1, "evidence": 3, "activations": 2, "plane": 2},
    ),
    "convolutions alone": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        {"weights": 1, "evidence": 4, "activations": 5, "plane": 0},
    ),
    "steps": (Steps, {"weights": 0, "evidence": 0, "activations": 0, "plane": 0}),
    "tokens": (Tokens, {"weights": 0, "evidence": 3, "activations": 2, "plane": 2}),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.item("S015", "S151", "S186")
def test_any_module_is_drawn_or_it_is_said_why_not(name: str) -> None:
    torch.manual_seed(0)
    make, expected = NETS[name]
    classifier, images = classifier_of(make().eval()), images_of()
    sample = ImageSample(len(images.names), lambda: images)
    with torch.no_grad():
        predicted = classifier.model(normalize(classifier, images.pixels)).argmax(1).tolist()
    right = LabeledImages(images.pixels, images.names, tuple(predicted))
    look = draw_look(classifier, right, sample, LookOptions())
    drawn = {sheet.name: len(sheet.rows[0]) if sheet.rows else 0 for sheet in look.sheets}
    assert drawn == expected
    assert all(sheet.text.endswith(".") for sheet in look.sheets)
    evidence = next(sheet for sheet in look.sheets if sheet.name == "evidence")
    assert ("No module of this network is a convolution" in evidence.text) == (name in ("linear", "mlp", "tokens"))
    assert ("no derivative" in evidence.text) == (name == "steps")
    assert [image["predicted"] for image in look.images] == [f"class {k}" for k in predicted]
    wrong = LabeledImages(images.pixels, images.names, tuple((k + 1) % 3 for k in predicted))
    again = next(sheet for sheet in draw_look(classifier, wrong, sample, LookOptions()).sheets if sheet.name == "evidence")
    more = again.rows[0][expected["evidence"] :] if again.rows else []
    assert [cell.caption.rpartition(" for ")[2] for cell in more] == [f"class {(predicted[0] + 1) % 3}"] * len(more)
    assert bool(more) == bool(again.rows)


def test_for_a_wrong_answer_the_last_pictures_are_for_its_label() -> None:
    torch.manual_seed(0)
    classifier, images = classifier_of(Residual().eval()), images_of(6)
    labels = torch.nn.functional.one_hot(torch.tensor(images.labels), 3).float()
    of_labels = draw_evidence(classifier, images, labels, "block", "grad_cam").rows
    of_answers = draw_evidence(classifier, images, labels.roll(1, 1), "block", "grad_cam").rows
    for row, right in zip(of_answers, of_labels, strict=True):
        assert len(row) == 6 and len(right) == 4
        assert np.array_equal(row[4].pixels, right[2].pixels) and np.array_equal(row[5].pixels, right[3].pixels)
        assert not np.array_equal(row[3].pixels, row[5].pixels)


@pytest.mark.item("S015")
def test_templates_are_the_effect_of_pixels_on_the_scores() -> None:
    """A pixel that is raised by a step changes the score of a class in proportion to its template, whatever the channel's deviation."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)).eval()
    classifier, images = classifier_of(net), images_of(1)
    uneven = Classifier(net, classifier.classes, classifier.preprocess.but(std=(0.1, 0.2, 0.4)), Softmax(), torch.device("cpu"))
    sheet = draw_weights(uneven, normalize(uneven, images.pixels))
    assert sheet.layout == "cards" and [cell.caption for cell in sheet.rows[0]] == list(classifier.classes)
    pixels = (images.pixels / 255).double()
    net.requires_grad_(False)
    base, effects = net(uneven.preprocess.normalize(pixels))[0], []
    for channel, y, x in ((0, 3, 4), (1, 3, 4), (2, 9, 0)):
        moved = pixels.clone()
        moved[0, channel, y, x] += 0.5
        effects.append(float((net(uneven.preprocess.normalize(moved))[0] - base)[1]))
    painted = [int(sheet.rows[0][1].pixels[y, x, channel]) - 127.5 for channel, y, x in ((0, 3, 4), (1, 3, 4), (2, 9, 0))]
    largest = float((net[1].weight[1].view(3, 256) / torch.tensor([[0.1], [0.2], [0.4]])).abs().max())  # type: ignore[index, union-attr]
    np.testing.assert_allclose(painted, 127.5 * np.array(effects) / 0.5 / largest, atol=0.6)


def test_the_pictures_of_images_are_the_pixels_the_model_sees() -> None:
    classifier, images = classifier_of(Residual().eval()), images_of(2)
    sheet = draw_activations(classifier, images, ["block"])
    for place, row in enumerate(sheet.rows):
        assert np.array_equal(row[0].pixels, images.pixels[place].permute(1, 2, 0).numpy())
        maps = classifier.model.get_submodule("block")(classifier.model.get_submodule("stem")(normalize(classifier, images.pixels)).relu())
        channel = int(row[1].caption.removeprefix("channel "))
        assert channel == int(maps[place].std((1, 2)).argmax())
        assert np.unravel_index(row[1].pixels[:, :, 0].argmin(), (16, 16)) == np.unravel_index(int(maps[place, channel].argmin()), (16, 16))


def test_points_have_the_colors_of_the_legend_and_errors_a_ring() -> None:
    torch.manual_seed(0)
    classifier, images = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()), images_of(12)
    sheet = draw_plane(classifier, images, has_time=False)
    assert len(sheet.rows[0]) == 1 and [name for name, _ in sheet.legend] == ["class 0", "class 1", "class 2"]
    found = {"#{:02x}{:02x}{:02x}".format(*color) for color in np.unique(sheet.rows[0][0].pixels.reshape(-1, 3), axis=0).tolist()}
    assert {color for _, color in sheet.legend} <= found and "#141414" in found, "and the ink of the rings"
    assert not draw_plane(classifier, images_of(4)).rows


def test_what_would_begin_after_the_limit_is_left_out() -> None:
    classifier, images = classifier_of(Residual().eval()), images_of()
    look = draw_look(classifier, images, ImageSample(10**6, lambda: pytest.fail("they are not even read")), LookOptions(), limit=0.0)
    assert [sheet.name for sheet in look.sheets] == ["weights"] and look.units == ()
    dear = ImageSample(500, lambda: pytest.fail("they would take too long to read"), seconds=60.0)
    assert {sheet.name for sheet in draw_look(classifier, images, dear, LookOptions(), limit=3600.0).sheets} == {
        "weights",
        "evidence",
        "activations",
    }


# ---- the verb --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short training on photos, one class of which has a name that would be markup."""
    folder = tmp_path_factory.mktemp("look")
    shutil.copytree(photos, folder / "photos")
    (folder / "photos" / "red").rename(folder / "photos" / HOSTILE.replace("/", ""))
    assert train(folder / "photos", folder / "run", model="convnet(4)").code == 0
    return Run(folder / "run")


def test_a_finished_run_has_pictures_of_its_weights_in_its_report(run: Run) -> None:
    sheets = run.read(FILE)["sheets"]
    assert sheets[0]["name"] == "weights" and sheets[0]["rows"][0][0]["picture"].startswith("data:image/png")
    page = (run.path / "report.html").read_text()
    assert 'id="look"' in page and sheets[0]["rows"][0][0]["picture"] in page
    assert "The training had no time to draw more" in page and f"goodfit look {run.path}" in page


def test_look_draws_errors_and_right_answers_and_shows_them_in_the_report(run: Run, tmp_path: Path) -> None:
    said = goodfit("look", run.path, "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {Path(file).name for file in found["files"]} == {"weights.png", "evidence.png", "activations.png", "plane.png", "look.html"}
    for file in found["files"]:
        assert Path(file).is_file()
        if file.endswith(".png"):
            Image.open(file).verify()
    about = json.loads((run.path / "about.json").read_text())
    assert {image["truth"] for image in found["images"]} <= set(about["data"]["classes"])
    right = [image["predicted"] == image["truth"] for image in found["images"]]
    assert right == sorted(right) and right[-1], "errors first, then right answers"
    page = (tmp_path / "out" / "look.html").read_text()
    assert HOSTILE not in page and "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;" in page
    report = (run.path / "report.html").read_text()
    assert HOSTILE not in report and "no time to draw more" not in report
    assert set(re.findall(r'src="(data:image[^"]*)"', page)) <= set(re.findall(r'src="(data:image[^"]*)"', report))


def test_images_are_drawn_from_the_run_alone(run: Run, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "moved")
    (tmp_path / "moved" / FILE).unlink()
    (tmp_path / "bad.png").write_bytes(b"no image")
    said = goodfit("look", tmp_path / "moved", photos / "blue", tmp_path / "bad.png", "--out", tmp_path / "out", "--layer", "head")
    assert said.code == 0, said.err
    assert "the first 24 are drawn" in said.err
    assert said.out.count("blue/") == 24 and "look.html" in said.out
    assert not (tmp_path / "moved" / FILE).exists(), "the report of a run is about its own images"
    few = goodfit("look", tmp_path / "moved", photos / "blue" / "000.png", tmp_path / "bad.png", "--out", tmp_path / "out")
    assert few.code == 0 and "bad.png cannot be read" in few.err
    assert "A map of images takes 5 of them or more." in few.out
    assert not (tmp_path / "out" / "plane.png").exists(), "that of other images is gone"


def test_what_cannot_be_looked_at_is_said_in_a_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    out = ("--out", tmp_path / "out")
    refused(goodfit("look", tmp_path, *out), 2, "run folder")
    refused(goodfit("look", run.path, tmp_path / "none", *out), 3, "no image at")
    refused(goodfit("look", run.path, tmp_path / "bad.png", *out), 3, "Not one image can be read")
    refused(goodfit("look", run.path, "--layer", "haed", *out), 2, 'layer "haed"', "head")
    refused(goodfit("look", run.path, "--cam", "cam", *out), 2, "cam")
    refused(goodfit("look", run.path, "--out", photos / "blue" / "000.png"), 1, "cannot be written")


def test_pictures_of_earlier_weights_do_not_stay(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(photos, tmp_path / "run").code == 0
    before = (tmp_path / "run" / FILE).read_bytes()
    assert train(photos, tmp_path / "run", "--resume", "auto", budget="3 epochs").code == 0
    assert (tmp_path / "run" / FILE).read_bytes() != before

    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(finish, "write_look", fail)
    said = train(photos, tmp_path / "run", "--resume", "auto", budget="4 epochs")
    assert said.code == 0 and "the pictures of the network could not be made: memory ran out" in said.err
    assert not (tmp_path / "run" / FILE).exists()
