"""Test-time views: windows cut by hand with Pillow and NumPy, means in float64, and one answer from evaluate and predict."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import goodfit as package
from goodfit.augment.views import ImageView
from goodfit.core.run import Run
from goodfit.data.multiscale import decode_scaled as at_scale
from goodfit.data.opening import BrokenImage
from goodfit.data.preprocess import Preprocess
from goodfit.losses.binary import Binary
from goodfit.losses.softmax import Softmax
from goodfit.predict.views import Viewer
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.training.evaluate import running_means
from tests.support.command import goodfit, refused, train
from tests.support.photos import COLORS, picture
from tests.support.predict import center_probabilities

KNOWN = load_catalog()
SPECS = [
    "center",
    "flip_pair",
    "five_crop",
    "ten_crop",
    "ten_crop((16, 20, 25), average=logit)",
    "multi_scale",
    "multi_scale((19,), flips=False)",
]


def views(text: str, size: tuple[int, int] = (16, 16), box: tuple[int, int] = (18, 18)) -> tuple[ImageView, ...]:
    part: Any = KNOWN.make(text, "views")
    found: tuple[ImageView, ...] = part(size, box)
    return found


class Counting(nn.Module):
    """A linear model on pixels that counts the images it is shown, for square windows of one size."""

    def __init__(self, side: int, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 3 * side * side, generator=torch.Generator().manual_seed(seed)) / side)
        self.shown = 0

    def forward(self, images: Tensor) -> Tensor:
        self.shown += len(images)
        return images.contiguous().flatten(1) @ self.weight.T


def viewer(text: str, model: nn.Module, size: int = 16, box: int = 18, loss: Any = None) -> Viewer:
    pre = Preprocess((size, size), (box, box), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return Viewer(model, KNOWN.make(text, "views"), pre, loss or Softmax(), torch.device("cpu"))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# ---- where the views lie -----------------------------------------------------------------------------------------------------------


@pytest.mark.item("S118")
def test_resnets_test_has_fifty_views_and_two_of_the_ten_at_the_models_own_size() -> None:
    all_views = views("ten_crop((224, 256, 384, 480, 640))", (224, 224), (256, 256))
    assert len(all_views) == 50
    for scale, distinct in ((224, 2), (256, 10), (384, 10), (480, 10), (640, 10)):
        own = [view for view in all_views if view.scale == scale]
        assert len(own) == 10
        windows = {(view.window((scale, scale), (224, 224)), view.mirrored) for view in own}
        assert len(windows) == distinct
        end = scale - 224
        corners = {(y, x, 224, 224) for y in (0, end) for x in (0, end)} | {(end // 2, end // 2, 224, 224)}
        assert windows == {(corner, mirrored) for corner in corners for mirrored in (False, True)}
    wide = {(view.window((224, 300), (224, 224)), view.mirrored) for view in all_views if view.scale == 224}
    assert {window[1] for window, _ in wide} == {0, 38, 76}, "a photo that is not square has corners of its own at 224, too"
    assert len(wide) == 6


def test_the_order_begins_with_the_center() -> None:
    assert views("ten_crop")[:2] == views("flip_pair") == (*views("center"), ImageView(mirrored=True))
    assert views("five_crop") == views("ten_crop")[::2]
    assert views("five_crop((20, 24))") == (*views("five_crop(scales=(20,))"), *views("five_crop((24,))"))
    places = [view.window((30, 31), (16, 16))[:2] for view in views("five_crop")]
    assert places == [(7, 7), (0, 0), (0, 15), (14, 0), (14, 15)]
    assert [view.scale for view in views("multi_scale", box=(256, 256))] == [224, 224, 256, 256, 288, 288], "VGG's S - 32, S, S + 32"
    assert [view.mirrored for view in views("multi_scale((9,), flips=False)")] == [False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ten_crop((20, 12))", "ten_crop: expected scales of 16 pixels or more, as the model's size needs, received 12"),
        ("five_crop((0,))", "expected scales to be a tuple of a whole number from 1, received"),
        ("ten_crop(average=median)", 'expected average to be "probability" or "logit"'),
        ("ten_crops", 'Did you mean "ten_crop"'),
        ("flip_pair | ten_crop", "Expected one views, received"),
    ],
)
def test_refuses(text: str, said: str) -> None:
    with pytest.raises(package.core.errors.UsageError, match=said):
        views(text)


# ---- pictures at a scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (33, 47), (50, 50), (9, 12)])
@pytest.mark.parametrize("scale", [16, 25, 64])
def test_the_whole_image_at_a_scale_is_pillows(height: int, width: int, scale: int) -> None:
    pixels = photo(height, width)
    pre = Preprocess((16, 16), (18, 18))
    found = at_scale(pre, png(pixels), scale)
    short = min(height, width)
    high, wide = round(height * scale / short), round(width * scale / short)
    assert found.shape == (high, wide, 3) and min(high, wide) == scale
    shrinks = Image.Resampling.HAMMING if scale <= short else Image.Resampling.BICUBIC
    expected = np.asarray(Image.fromarray(pixels).resize((wide, high), shrinks))
    assert np.array_equal(found, expected)
    for same in (pixels, Image.fromarray(pixels)):
        assert np.array_equal(at_scale(pre, same, scale), found)


def test_a_square_image_at_the_boxs_scale_is_the_stored_box() -> None:
    pre = Preprocess((16, 16), (18, 18))
    for seed, side in enumerate((18, 40, 7)):
        data = png(photo(side, side, seed))
        assert np.array_equal(at_scale(pre, data, 18), pre.decode(data))
        assert np.array_equal(at_scale(pre, data, 0), pre.decode(data))


def test_a_larger_scale_has_the_originals_detail() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    pre = Preprocess((16, 16), (18, 18))
    fine = at_scale(pre, png(stripes), 64)
    assert np.array_equal(fine, stripes)
    box = np.asarray(Image.fromarray(pre.decode(png(stripes))).resize((64, 64), Image.Resampling.BICUBIC))
    assert box.std() < 30 < fine.std(), "the box has lost the stripes"


def test_files_jpeg_orientation_and_other_shapes(tmp_path: Path) -> None:
    pre = Preprocess((16, 16), (18, 18))
    image = Image.fromarray(np.asarray(Image.fromarray(photo(8, 12)).resize((240, 160), Image.Resampling.BICUBIC)))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("plain.jpg", {}), ("turned.jpg", {"exif": exif})):
        image.save(tmp_path / name, quality=95, subsampling=0, **options)
        upright = image if name == "plain.jpg" else image.rotate(-90, expand=True)
        for scale in (20, 100):
            found = at_scale(pre, tmp_path / name, scale)
            long = round(1.5 * scale)
            assert found.shape == ((scale, long, 3) if name == "plain.jpg" else (long, scale, 3))
            expected = np.asarray(upright.resize(found.shape[1::-1], Image.Resampling.HAMMING))
            assert np.abs(found.astype(int) - expected).mean() < 3
            assert at_scale(pre, Image.open(tmp_path / name), scale).shape == found.shape
    assert at_scale(pre, photo(10, 2000), 20).shape == (20, 160, 3), "of a panorama the middle"
    tall = Preprocess((32, 16), (32, 16))
    assert at_scale(tall, photo(50, 50), 20).shape == (40, 40, 3), "it covers 40x20, the model's shape"
    for aspect in ("pad", "stretch"):
        assert at_scale(pre.but(aspect=aspect), photo(40, 60), 25).shape == (25, 25, 3)
    padded = at_scale(pre.but(aspect="pad"), np.full((40, 80, 3), 200, np.uint8), 24)
    assert np.array_equal(np.flatnonzero(padded.any((1, 2))), np.arange(6, 18))


@pytest.mark.parametrize(
    "wrong", [b"text", b"", np.zeros((5, 5, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(3), Path("nowhere.png")]
)
def test_what_is_no_image_is_broken(wrong: Any) -> None:
    with pytest.raises(BrokenImage):
        at_scale(Preprocess((16, 16), (18, 18)), wrong, 20)


# ---- the mean --------------------------------------------------------------------------------------------------------------------


def by_hand(text: str, model: Counting, pre: Preprocess, source: bytes) -> np.ndarray:
    """Logits [V, K] float64 of ten or five crops at each scale, in order, from Pillow's pixels and NumPy's slices."""
    weight = model.weight.detach().double().numpy()
    logits = []
    side = pre.size[0]
    for scale in KNOWN.make(text, "views").scales or (0,):  # type: ignore[attr-defined]
        image = at_scale(pre, source, scale)
        x = (image.astype(np.float64) / 255 - pre.mean) / pre.std
        down, right = image.shape[0] - side, image.shape[1] - side
        for top, left in ((down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)):
            crop, ways = x[top : top + side, left : left + side], (1, -1) if text.startswith("ten") else (1,)
            logits += [weight @ crop[:, ::way].transpose(2, 0, 1).ravel() for way in ways]
    return np.stack(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


@pytest.mark.item("S115", "S118")
@pytest.mark.parametrize("text", ["ten_crop", "five_crop", "ten_crop((16, 20, 31))", "five_crop((24,))"])
@pytest.mark.parametrize("average", ["probability", "logit"])
def test_the_mean_over_views_is_numpys(text: str, average: str) -> None:
    sources = [png(photo(*shape, seed)) for seed, shape in enumerate([(30, 45), (20, 20), (45, 30), (30, 45), (17, 90)])]
    text = f"{text[:-1]}, average={average})" if text.endswith(")") else f"{text}(average={average})"
    model = Counting(16)
    shown = viewer(text, model)
    pictures = {view.scale: [at_scale(shown.preprocess, x, view.scale) for x in sources] for view in shown.views}
    hand = np.stack([by_hand(text, model, shown.preprocess, x) for x in sources])  # [N, V, K]
    assert hand.shape[1] == len(shown.views)
    found = shown.probabilities(pictures.__getitem__)
    assert found.dtype == torch.float32
    expected = softmax(hand).mean(1) if average == "probability" else softmax(hand.mean(1))
    assert np.abs(found.numpy() - expected).max() < 1e-5
    other = softmax(hand.mean(1)) if average == "probability" else softmax(hand).mean(1)
    assert np.abs(found.numpy() - other).max() > 1e-3, "the two spaces differ"
    for n, mean in shown.means(pictures.__getitem__):
        part = softmax(hand[:, :n]).mean(1) if average == "probability" else hand[:, :n].mean(1)
        assert np.abs(mean.numpy() - part).max() < 1e-4


def test_probabilities_are_what_the_loss_says_they_are() -> None:
    model = Counting(16)
    source = png(photo(30, 30))
    for average in ("probability", "logit"):
        shown = viewer(f"ten_crop(average={average})", model, loss=Binary())
        logits = by_hand("ten_crop", model, shown.preprocess, source)

        def sigmoids(x: np.ndarray) -> np.ndarray:
            s = 1 / (1 + np.exp(-x))
            return np.asarray(s / s.sum(-1, keepdims=True))

        expected = sigmoids(logits).mean(0) if average == "probability" else sigmoids(logits.mean(0))
        found = shown.probabilities(lambda scale, shown=shown: [shown.preprocess.decode(source)])  # type: ignore[misc]
        assert np.abs(found[0].numpy() - expected).max() < 1e-5


@pytest.mark.item("S118")
def test_equal_windows_are_computed_once_and_weigh_as_often_as_they_occur() -> None:
    square, wide = png(photo(40, 40)), png(photo(40, 70))
    for text, source, distinct in (
        ("ten_crop((16, 20, 24, 30, 40))", square, 2 + 4 * 10),
        ("ten_crop((16,))", wide, 6),
        ("ten_crop((16, 16, 20))", square, 2 + 10),
        ("five_crop((16,))", square, 1),
    ):
        model = Counting(16)
        shown = viewer(text, model)
        found = shown.probabilities(lambda scale, shown=shown, source=source: [at_scale(shown.preprocess, source, scale)])  # type: ignore[misc]
        assert model.shown == distinct, text
        expected = softmax(by_hand(text, model, shown.preprocess, source)).mean(0)
        assert np.abs(found[0].numpy() - expected).max() < 1e-5, text


def test_a_center_that_is_known_is_not_computed_again() -> None:
    model = Counting(16)
    shown = viewer("flip_pair", model)
    pictures = torch.randint(0, 256, (3, *shown.preprocess.box, 3), dtype=torch.uint8).numpy()
    *_, (_, whole) = shown.means(lambda scale: pictures)
    assert model.shown == 6
    center = shown.scores(ImageView().crop(torch.from_numpy(pictures), shown.preprocess.size).permute(0, 3, 1, 2))
    model.shown = 0
    *_, (_, mean) = shown.means(lambda scale: pictures, center)
    assert model.shown == 3 and torch.equal(mean, whole)


def test_running_means_ask_no_further_than_they_say() -> None:
    asked: list[int] = []

    def answers() -> Any:
        for i in range(11):
            asked.append(i)
            yield torch.tensor([float(i)])

    for n, mean in running_means(answers(), 11):
        assert len(asked) == n
        assert mean.item() == (n - 1) / 2
    assert [n for n, _ in running_means(answers(), 11)] == [1, 2, 4, 8, 11]
    assert [n for n, _ in running_means(iter([torch.ones(1)]), 1)] == [1]


def test_multi_scale_is_the_net_on_the_whole_image() -> None:
    torch.manual_seed(0)
    net = make_model(KNOWN.make("convnet(4)", "model"), 3, 3, (16, 16)).train()
    shown = viewer("multi_scale((16, 20))", net)
    shown.check()
    sources = [png(photo(30, 45)), png(photo(40, 30)), png(photo(60, 90, 3))]
    found = shown.probabilities(lambda scale: [at_scale(shown.preprocess, x, scale) for x in sources])
    assert net.training, "the mode it came in"
    net.eval()
    for source, p in zip(sources, found, strict=True):
        answers = []
        for scale in (16, 20):
            x = (at_scale(shown.preprocess, source, scale).astype(np.float64) / 255 - shown.preprocess.mean) / shown.preprocess.std
            for way in (1, -1):
                image = torch.from_numpy(x[:, ::way].transpose(2, 0, 1).copy()).float()[None]
                answers.append(net(image).softmax(1).detach().double().numpy()[0])
        assert np.abs(np.mean(answers, axis=0) - p.numpy()).max() < 1e-5


# ---- evaluate and predict ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in three classes, of many shapes, with a test split."""
    root = tmp_path_factory.mktemp("views") / "shapes"
    rng = np.random.default_rng(5)
    for split, each in (("train", 24), ("test", 6)):
        for k, (name, color) in enumerate(COLORS.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(each):
                high, wide = rng.integers(20, 40, 2)
                pixels = picture(color, 100 * k + i + (split == "test") * 1000, 40)[:high, :wide]
                Image.fromarray(pixels).save(folder / f"{i:02d}.{'png' if i % 2 else 'jpg'}")
    return root


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("views-runs") / "run"
    assert train(shapes, out, model="convnet(4, drop=dropout(0.5))", optimizer="sgd(0.02, momentum=0.9)", budget="3 epochs").code == 0
    return out


def held_out(run: Path, split: str) -> list[tuple[str, str]]:
    """(name, class) of a split's images."""
    with (run / "splits.csv").open() as file:
        return [(row["path"], Path(row["path"]).parent.name) for row in csv.DictReader(file) if row["split"] == split]


@pytest.mark.item("S115")
@pytest.mark.parametrize("spec", SPECS)
def test_evaluate_is_predict(run: Path, shapes: Path, spec: str) -> None:
    scores = json.loads(goodfit("evaluate", run, "--views", spec, "--json").out)
    images = held_out(run, "validation")
    said = goodfit("predict", run, *(shapes / name for name, _ in images), "--views", spec, "--json")
    assert said.code == 0, said
    p = [dict(zip(row["classes"], row["probabilities"], strict=True)) for row in json.loads(said.out)]
    right = [max(own, key=own.__getitem__) == truth for own, (_, truth) in zip(p, images, strict=True)]
    loss = -np.mean([np.log(own[truth]) for own, (_, truth) in zip(p, images, strict=True)])
    assert scores["images"] == len(images) == 12
    assert scores["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
    assert scores["loss"] == pytest.approx(loss, abs=2e-5)
    if spec == "center":
        assert "viewed" not in scores
        return
    viewed = scores["viewed"]
    n = len(views(spec))
    assert [row["views"] for row in viewed["views"]] == sorted({1, *(2**k for k in range(1, 7) if 2**k < n), n})
    assert viewed["views"][-1]["accuracy"] == scores["accuracy"]
    assert viewed["views"][-1]["log_loss"] == pytest.approx(scores["loss"], abs=1e-6)
    times = [row["milliseconds"] for row in viewed["views"]]
    assert times == sorted(times) and times[0] > 0 and viewed["center"]["milliseconds"] > 0
    by_center = package.load(run).predict([shapes / name for name, _ in images])
    alone = [dict(zip(x.classes, x.probabilities, strict=True)) for x in by_center]
    assert viewed["center"]["log_loss"] == pytest.approx(
        -np.mean([np.log(own[truth]) for own, (_, truth) in zip(alone, images, strict=True)]), abs=2e-5
    )
    if not views(spec)[0].scale:
        assert viewed["views"][0]["log_loss"] == pytest.approx(viewed["center"]["log_loss"], abs=1e-6), "the first view is the center"
    assert KNOWN.make(viewed["spelling"], "views") == KNOWN.make(spec, "views")


def test_the_center_is_the_stored_boxs_middle_bit_for_bit(run: Path, shapes: Path) -> None:
    predictor = package.load(run)
    classifier = predictor.members[0]
    files = [shapes / name for name, _ in held_out(run, "validation")]
    boxes = torch.from_numpy(np.stack([classifier.preprocess.decode(file) for file in files])).permute(0, 3, 1, 2)
    expected = center_probabilities(classifier, boxes)
    found = predictor.predict(files)
    for own, prediction in zip(expected, found, strict=True):
        assert dict(zip(prediction.classes, prediction.probabilities, strict=True)) == dict(
            zip(classifier.classes, own.tolist(), strict=True)
        )


def test_evaluate_prints_the_table_and_opens_the_test_split(run: Path) -> None:
    said = goodfit("evaluate", run, "--test", "--views", "ten_crop((16, 20))")
    assert said.code == 0 and said.out.startswith("Test accuracy ")
    lines = [line.strip() for line in said.out.splitlines()]
    at = lines.index("by ten_crop((16, 20)):")
    names = ["center crop alone", "1 view", "2 views", "4 views", "8 views", "16 views", "20 views"]
    assert [line.partition(":")[0] for line in lines[at + 1 : at + 8]] == names
    assert all("accuracy" in line and "log loss" in line and line.endswith(" ms an image") for line in lines[at + 1 : at + 8])
    assert len(Run(run).read("about.json")["openings"]) == 1
    assert Run(run).read("scores.json")["test"]["viewed"]["spelling"] == "ten_crop((16, 20))"
    own = Run(run).read("scores.json")["validation"]
    both = json.loads(goodfit("evaluate", run, "--views", "flip_pair", "--marginalize", "2", "--json").out)
    assert Run(run).read("scores.json")["validation"] == own, "other views than its own are no score of the run"
    assert both["marginalized"]["deterministic"]["log_loss"] == pytest.approx(both["viewed"]["center"]["log_loss"], abs=1e-9)


def test_the_recipes_views_are_kept_with_the_model(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    spec = "ten_crop((16, 20), average=logit)"
    assert train(shapes, run, views=spec).code == 0
    kept = Run(run).read("scores.json")["validation"]
    assert kept["viewed"]["spelling"] == spec.replace("logit", "'logit'")
    again = json.loads(goodfit("evaluate", run, "--json").out)
    assert {key: again[key] for key in ("accuracy", "loss", "confusion")} == {key: kept[key] for key in ("accuracy", "loss", "confusion")}
    assert again["viewed"]["views"][-1]["views"] == 20
    center = json.loads(goodfit("evaluate", run, "--views", "center", "--json").out)
    assert center["loss"] == pytest.approx(again["viewed"]["center"]["log_loss"], abs=1e-5)
    assert center["loss"] == pytest.approx(Run(run).log("evaluate")[-1]["validation"]["loss"], abs=1e-5), (
        "training is watched by the center"
    )
    file = shapes / held_out(run, "validation")[0][0]
    own, named, plain = (goodfit("predict", run, file, "--json", *more).out for more in ((), ("--views", spec), ("--views", "center")))
    assert own == named != plain
    config = Run(run).read("config.json")
    assert KNOWN.make(config.pop("views"), "views") == KNOWN.make(spec, "views")
    Run(run).write("config.json", config)
    assert goodfit("predict", run, file, "--json").out == plain, "a run of an earlier version has the center"


def test_arrays_are_seen_at_larger_scales_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    images = np.clip(rng.integers(0, 200, (80, 12, 12)) + labels[:, None, None] * 50, 0, 255).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    run = tmp_path / "run"
    assert train(tmp_path / "data.npz", run, size="12").code == 0
    predictor = package.load(run, views="ten_crop((12, 14))")
    classifier = predictor.members[0]
    assert classifier.preprocess.box == (12, 12)
    found = predictor.predict(list(images[:3]))
    weight, bias = (classifier.model.head.get_parameter(name).detach().double().numpy() for name in ("weight", "bias"))  # type: ignore[union-attr]
    mean, std = classifier.preprocess.mean[0], classifier.preprocess.std[0]
    for image, prediction in zip(images[:3], found, strict=True):
        larger = np.asarray(Image.fromarray(image).resize((14, 14), Image.Resampling.BICUBIC))
        crops = [image] * 5 + [larger[y : y + 12, x : x + 12] for y, x in ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))]
        logits = [weight @ ((c[:, ::way] / 255 - mean) / std).ravel() + bias for c in crops for way in (1, -1)]
        expected = dict(zip(classifier.classes, softmax(np.stack(logits)).mean(0), strict=True))
        assert dict(zip(prediction.classes, prediction.probabilities, strict=True)) == pytest.approx(expected, abs=1e-5)
    scores = json.loads(goodfit("evaluate", run, "--views", "ten_crop((12, 14))", "--json").out)
    assert scores["viewed"]["views"][-1]["views"] == 20


def test_what_does_not_go_with_the_model_is_said_first(run: Path, shapes: Path, tmp_path: Path) -> None:
    file = next((shapes / "test" / "red").iterdir())
    for verb in (("evaluate", run), ("predict", run, file)):
        refused(goodfit(*verb, "--views", "ten_crop((8,))"), 2, "expected scales of 16 pixels or more", "received 8")
        refused(goodfit(*verb, "--views", "ten_crap"), 2, 'Did you mean "ten_crop"')
    refused(
        train(shapes, tmp_path / "none", views="five_crop((20, 15))"), 2, "five_crop: expected scales of 16 pixels or more", "received 15"
    )
    assert not (tmp_path / "none").exists(), "before anything is trained"
    assert train(shapes, tmp_path / "flat").code == 0
    words = ('"multi_scale" shows the model whole images of any size', "use ten_crop, or a model that pools its last map")
    refused(goodfit("evaluate", tmp_path / "flat", "--views", "multi_scale"), 2, *words)
    refused(goodfit("predict", tmp_path / "flat", file, "--views", "multi_scale"), 2, *words)
    refused(train(shapes, tmp_path / "none", views="multi_scale"), 2, *words)
    assert not (tmp_path / "none").exists(), "before anything is trained"


def test_broken_images_among_good_ones_at_scales(run: Path, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("text")
    file = next((shapes / "test" / "red").iterdir())
    said = goodfit("predict", run, tmp_path / "text.jpg", file, tmp_path / "text.jpg", "--views", "ten_crop((16, 20))", "--json")
    assert said.code == 0 and "2 of 3 images cannot be read" in said.err
    rows = json.loads(said.out)
    assert [bool(row["problem"]) for row in rows] == [True, False, True]
    assert rows[1] == json.loads(goodfit("predict", run, file, "--views", "ten_crop((16, 20))", "--json").out)[0]
