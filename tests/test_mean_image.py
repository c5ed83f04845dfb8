"""The mean image as what is taken off: of the training images alone, kept with the model, the same in training and prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from goodfit.core.errors import UsageError
from goodfit.core.run import Run
from goodfit.data.index import SplitName
from goodfit.data.preprocess import Preprocess
from goodfit.predict.predictor import load_classifier
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from tests.support.command import goodfit, train


@pytest.mark.item("S007")
def test_a_mean_image_is_that_of_the_training_images_alone_and_leaves_their_mean_zero(photos: Path) -> None:
    data = open_images(Recipe(data=str(photos), size="12x16", mean="image"))
    pre = data.preprocess

    def read(split: SplitName) -> Tensor:
        return pre.center_crop(torch.from_numpy(np.asarray(data.pixels.read_exact(data.rows(split)))).permute(0, 3, 1, 2))

    train = read("train")
    mean = train.double().mean(0) / 255
    expected = (train.double() / 255 - mean) / torch.tensor(pre.std, dtype=torch.float64)[:, None, None]
    normalized = pre.normalize(train)
    assert (normalized - expected).abs().max() < 2e-6
    assert normalized.double().mean(0).abs().max() < 1e-6, "at every place"
    assert pre.normalize(read("validation")).double().mean(0).abs().max() > 0.01
    assert pre.but(mean_image=b"").normalize(train).double().mean(0).abs().max() > 0.01, "the channels' mean leaves what is left"
    assert Preprocess.from_dict(json.loads(json.dumps(pre.to_dict()))) == pre
    smaller = pre.normalize(train[:, :, ::2, ::2].contiguous())
    assert smaller.shape[2:] == (6, 8) and smaller.double().mean(0).abs().max() < 0.5
    for wrong in ("AAAA", "?", "AADAfw=="):
        with pytest.raises(UsageError, match=r"mean_image|base64|padding|alphabet"):
            Preprocess.from_dict({**pre.to_dict(), "mean_image": wrong})


@pytest.mark.item("S007")
def test_a_run_keeps_its_mean_image(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run", mean="image", model="convnet(4)").code == 0
    kept = Preprocess.from_dict(json.loads((tmp_path / "run" / "config.json").read_text())["preprocess"])
    assert kept == open_images(Recipe.of_run(tmp_path / "run")).preprocess and kept.mean_image
    scores = goodfit("evaluate", tmp_path / "run", "--json")
    assert json.loads(scores.out)["accuracy"] == Run(tmp_path / "run").scores["validation"]["accuracy"]
    predicted = json.loads(goodfit("predict", tmp_path / "run", photos / "blue" / "000.png", "--json").out)[0]
    later = train(photos, tmp_path / "later", "--from", tmp_path / "run", model="convnet(4)", trainable="all")
    assert later.code == 0 and "takes a mean image off" in later.err, later.err
    classifier = load_classifier(tmp_path / "run", "cpu")
    pixels = torch.from_numpy(kept.decode(photos / "blue" / "000.png").copy()).permute(2, 0, 1)[None]
    values = kept.center_crop(pixels).double() / 255 - torch.from_numpy(
        np.frombuffer(kept.mean_image, "<f4").reshape(16, 16, 3).astype(np.float64)
    ).permute(2, 0, 1)
    normalized = (values - torch.tensor(kept.mean)[:, None, None]) / torch.tensor(kept.std)[:, None, None]
    with torch.no_grad():
        expected = classifier.model.double()(normalized).softmax(1)
    assert predicted["probability"] == pytest.approx(float(expected.max()), abs=1e-5)
