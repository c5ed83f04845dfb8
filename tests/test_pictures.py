"""The pictures that a run keeps: its errors and right answers from the originals, and what augmentation makes of some images."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from goodfit.core.errors import Interrupted
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.runs import augmentation_preview
from goodfit.runs import train as train_module
from goodfit.runs.pictures import MAX_PNG_SIDE, PICTURE_SIDE, read_picture, surest_answers, write_picture
from tests.support.command import FAST, train


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large wide photos in two classes, stored as they lie, with an orientation that turns them upright."""
    root = tmp_path_factory.mktemp("turned")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for k in range(8):
            exif = Image.Exif()
            exif[0x0112] = 6
            pixels = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((500, 300), Image.Resampling.BICUBIC).save(root / name / f"{k}.jpg", exif=exif, quality=95)
    return root


def images_of(root: Path, **changes: object) -> Dataset:
    return open_images(Recipe(data=str(root)).but_text(FAST).but(**changes))


def test_a_picture_is_the_whole_original_upright(turned: Path) -> None:
    data = images_of(turned)
    for row in (0, 9):
        pixels, is_original = read_picture(data, row)
        with Image.open(turned / data.names[row]) as image:
            oracle = ImageOps.exif_transpose(image)
        assert oracle.size == (300, 500) and is_original and pixels is not None
        assert pixels.shape == (PICTURE_SIDE, round(300 * PICTURE_SIDE / 500), 3)
        expected = np.asarray(oracle.resize(pixels.shape[1::-1], Image.Resampling.HAMMING)).astype(float)
        assert np.abs(pixels - expected).mean() < 3, "but for the JPEG's scaled decoding"


def test_small_originals_are_kept_without_loss(photos: Path, tmp_path: Path) -> None:
    data = images_of(photos, size=64)
    pixels, _ = read_picture(data, 0)
    assert pixels is not None and max(pixels.shape) <= MAX_PNG_SIDE
    file = write_picture(Run(tmp_path), "worst/00", pixels)
    with Image.open(tmp_path / file) as kept, Image.open(photos / data.names[0]) as original:
        assert np.array_equal(np.asarray(kept), np.asarray(original.convert("RGB"))), "20 pixels of the file, not 64 of the model's"


def test_an_original_that_is_gone_is_replaced_by_what_the_model_saw(turned: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for file in turned.glob("*/*.jpg"):
        (root / file.parent.name).mkdir(exist_ok=True)
        (root / file.parent.name / file.name).write_bytes(file.read_bytes())
    for storage, is_kept in (("raw", True), ("files", False)):
        data = images_of(root, storage=storage)
        path = root / data.names[0]
        content = path.read_bytes()
        for damage in (b"", content[:200], b"\xff\xd8\xff\xe0junk"):
            path.write_bytes(damage)
            pixels, is_original = read_picture(data, 0)
            assert not is_original and (pixels is not None) == is_kept
            if pixels is not None:
                assert np.array_equal(pixels, data.pixels.read(torch.tensor([0]))[0].numpy())
        path.unlink()
        assert read_picture(data, 0)[1] is False
        path.write_bytes(content)


def test_right_answers_are_the_surest_of_their_class() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    labels[labels == 3] = 2  # nobody is of class 3
    expected = []
    for k in (2, 0, 3):
        rows = [row for row in range(200) if labels[row] == k == p[row].argmax()]
        expected += [max(rows, key=lambda row: p[row].max())] if rows else []
    assert surest_answers(torch.from_numpy(p), torch.from_numpy(labels), [2, 0, 3]) == expected and len(expected) == 2


def test_a_run_keeps_its_errors_and_right_answers(turned: Path, tmp_path: Path) -> None:
    assert train(turned, tmp_path / "run", validation="0.5").code == 0
    run = Run(tmp_path / "run")
    worst = run.read("worst.json")
    with np.load(run.path / "predictions.npz") as kept:
        predicted = dict(zip(kept["names"].tolist(), kept["classes"][kept["probabilities"].argmax(1)].tolist(), strict=True))
    assert worst["images"], "a linear model learns nothing here"
    for row in (*worst["images"], *worst["right"]):
        assert row["predicted"] == predicted[row["name"]] and row["truth"] == row["name"].partition("/")[0] and row["original"]
        assert (row["predicted"] == row["truth"]) == (row in worst["right"])
        with Image.open(run.path / row["file"]) as image:
            assert (image.format, image.size) == ("JPEG", (134, PICTURE_SIDE))
    losses = [row["loss"] for row in worst["images"]]
    assert losses == sorted(losses, reverse=True)
    assert (run.path / "report.html").read_text().count("data:image/jpeg;base64,") == len(worst["images"]) + len(worst["right"])


# ---- augmentation ----------------------------------------------------------------------------------------------------------------


def test_the_sheet_is_the_same_each_time_and_draws_from_no_stream(photos: Path, tmp_path: Path) -> None:
    prepared = prepare(Recipe(data=str(photos)).but_text({**FAST, "augment": "crop(2) | jitter | mixup | erase(1.0)"}))
    before = torch.get_rng_state()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        augmentation_preview.write_sheet(Run(tmp_path / name), prepared)
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "a" / "augment.json").read_bytes() == (tmp_path / "b" / "augment.json").read_bytes()
    rows = json.loads((tmp_path / "a" / "augment.json").read_text())["rows"]
    assert [len(row) for row in rows] == [1 + augmentation_preview.SHEET_DRAWS] * augmentation_preview.SHEET_IMAGES
    names = {row[0]["caption"] for row in rows}
    assert names == set(prepared.data.classes)
    for row in rows:
        contents = [base64.b64decode(cell["picture"].partition("base64,")[2]) for cell in row]
        assert len(set(contents)) == len(contents)
        for content in contents:
            with Image.open(io.BytesIO(content)) as image:
                assert image.size == (16, 16)


def test_without_augmentation_there_is_no_sheet(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run").code == 0
    assert not (tmp_path / "run" / "augment.json").exists()
    assert "Augmentation" not in (tmp_path / "run" / "report.html").read_text()


def test_a_resumed_run_keeps_its_sheet(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "fit", lambda *_: (_ for _ in ()).throw(Interrupted("enough")))
        assert train(photos, out, augment="flip").code == 130
    kept = (out / "augment.json").read_bytes()
    monkeypatch.setattr(augmentation_preview, "write_sheet", lambda *_: (tmp_path / "again").touch())
    assert train(photos, out, "--resume", "auto", augment="flip").code == 0
    assert (out / "augment.json").read_bytes() == kept and not (tmp_path / "again").exists()
    assert "Augmentation" in (out / "report.html").read_text()


def test_a_sheet_that_cannot_be_made_stops_no_training(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a part of the user's own")

    monkeypatch.setattr(augmentation_preview, "write_sheet", broken)
    assert train(photos, tmp_path / "run", augment="flip").code == 0
    assert Run(tmp_path / "run").read("about.json")["state"] == "finished"
