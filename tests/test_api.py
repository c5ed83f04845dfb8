"""Goodfit from Python: train with a recipe of text or of parts, load, predict, evaluate, and your own loop out of the pieces."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import goodfit
from goodfit.augment.crop import Crop
from goodfit.augment.flip import Flip
from goodfit.core.errors import DataError, UsageError
from goodfit.core.run import Run
from goodfit.losses.softmax import Softmax
from goodfit.models.linear import Linear
from goodfit.models.resnet import Resnet
from goodfit.optim.first_order import Adam, Sgd
from goodfit.recipe.source import open_images
from goodfit.schedules.shapes import Cosine
from goodfit.terminal.log import LoggingReporter
from goodfit.training.gradient import gradient
from tests.support.build import build_training
from tests.support.command import FAST

SMALL = goodfit.Recipe().but_text(FAST)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "model.safetensors")


def assert_equal(one: Run, other: Run) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_train_load_predict_evaluate(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = goodfit.train(photos, SMALL, out=tmp_path / "run", quiet=True)
    assert capfd.readouterr() == ("", ""), "quiet is quiet"
    assert isinstance(run, Run)
    assert run.path == tmp_path / "run"
    assert run.read("about.json")["state"] == "finished"
    image = photos / "red" / "000.png"
    for classifier in (goodfit.load(run), goodfit.load(run.path), goodfit.load(str(run.path))):
        found = classifier.predict([image, str(image), Image.open(image), np.asarray(Image.open(image))], top=2)
        assert len({(x.classes, tuple(round(p, 5) for p in x.probabilities)) for x in found}) == 1
        assert [x.name for x in found] == [str(image), str(image), str(image), "image"]
    scores = goodfit.evaluate(run)
    assert scores["images"] == run.read("about.json")["data"]["splits"]["validation"]
    assert scores == goodfit.evaluate(str(run.path))
    assert goodfit.evaluate(run, test=True)["images"] == run.read("about.json")["data"]["splits"]["test"]
    assert len(run.read("about.json")["openings"]) == 1


def test_train_tells_the_log_what_it_does_where_there_is_no_terminal(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "goodfit"):
        run = goodfit.train(str(photos), SMALL, out=str(tmp_path / "run"))
    assert capfd.readouterr() == ("", "")
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "goodfit"]
    assert sum("validation loss" in text and level == "INFO" for level, text in told) == len(run.log("evaluate")) == 2
    assert any(level == "DEBUG" and text.startswith("step ") for level, text in told)
    assert ("INFO", f"Run: {run.path}") in told


def test_warnings_of_a_quiet_call_are_logged_and_nothing_else(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "goodfit"):
        run = goodfit.train(photos, SMALL.but(optimizer="sgd(1e-9)"), out=tmp_path / "run", quiet=True)
    assert capfd.readouterr() == ("", "")
    assert {record.levelname for record in caplog.records if record.name == "goodfit"} == {"WARNING"}
    assert not any(record.getMessage().startswith("Warning") for record in caplog.records)
    caplog.clear()
    goodfit.evaluate(run, test=True)
    assert not caplog.records
    goodfit.evaluate(run, test=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "was opened 1 time before" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_a_program_that_sets_no_logging_up_prints_nothing(photos: Path, tmp_path: Path) -> None:
    code = "import goodfit, sys; goodfit.evaluate(goodfit.train(sys.argv[1], RECIPE, sys.argv[2]), test=True)"
    code = code.replace("RECIPE", "goodfit.Recipe(model='linear', size=16, budget='1 step', optimizer='sgd(1e-9)')")
    done = subprocess.run([sys.executable, "-c", code, photos, tmp_path / "run"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "goodfit"):
        LoggingReporter().say("a\nERROR:root:b", "Warning: 100 % of it")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "a\\nERROR:root:b"),
        ("WARNING", "100 % of it"),
    ]


def test_a_terminal_gets_progress(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with caplog.at_level(logging.INFO, "goodfit"):
        goodfit.train(photos, SMALL, out=tmp_path / "run")
        assert "Validation accuracy" in terminal.getvalue() and not caplog.records
        goodfit.train(photos, SMALL, out=tmp_path / "quiet", quiet=True)
    assert "quiet" not in terminal.getvalue()


def test_parts_as_objects_are_parts_as_text(photos: Path, tmp_path: Path) -> None:
    text = SMALL.but(model="linear", augment="flip | crop(2)", loss="softmax", optimizer="sgd(0.02, momentum=0.8)", schedule="cosine")
    objects = SMALL.but(
        model=Linear(), augment=Flip() | Crop(2), loss=Softmax(), optimizer=Sgd(0.02, momentum=0.8), schedule=Cosine()
    )  # fmt: skip
    one = goodfit.train(photos, text, out=tmp_path / "text", quiet=True)
    other = goodfit.train(photos, objects, out=tmp_path / "objects", quiet=True)
    assert_equal(one, other)
    assert goodfit.Recipe.from_toml(one.path / "recipe.toml") == goodfit.Recipe.from_toml(other.path / "recipe.toml")
    again = goodfit.train(photos, objects.but(budget="3 epochs"), out=other.path, resume="auto", quiet=True)
    assert again.read("about.json")["state"] == "finished", "objects are the same recipe as when the run began"


def test_a_resnet_object(photos: Path, tmp_path: Path) -> None:
    run = goodfit.train(photos, SMALL.but(model=Resnet(18), budget="1 steps", limit=6), out=tmp_path / "run", quiet=True)
    assert weights(run)["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert weights(run)["fc.weight"].shape == (3, 512)
    assert goodfit.Recipe.from_toml(run.path / "recipe.toml").model.startswith("resnet(18")


def test_recipe_with_all_fields_as_toml_and_back(tmp_path: Path) -> None:
    recipe = goodfit.Recipe(model=Resnet(34), optimizer=Adam(0.002), augment=Flip(0.25), use=("a.py",), validation=0.2, size="32x48")
    (tmp_path / "my.toml").write_text(recipe.to_toml(), encoding="utf-8")
    read = goodfit.Recipe.from_toml(tmp_path / "my.toml")
    assert read.plain() == recipe.plain()
    assert read.but(use=("a.py",)).to_toml() == recipe.to_toml()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modell": "linear"}, 'Unknown recipe key "modell". Did you mean "model"'),
        ({"model": 3}, "expected model to be"),
        ({"seed": 1.5}, "expected seed to be a whole number"),
        ({"seed": True}, "expected seed to be a whole number"),
        ({"limit": -1}, "expected limit to be a whole number from 0"),
        ({"budget": "soon"}, 'received "soon"'),
        ({"budget": 10}, "expected budget to be"),
        ({"use": "mine.py"}, "expected use to be"),
    ],
)
def test_wrong_recipes_are_refused_at_once(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        goodfit.Recipe().but(**changes)


@pytest.mark.parametrize("changes", [{"loss": Flip()}, {"model": Softmax()}, {"augment": Flip() | Softmax()}, {"optimizer": Linear()}])
def test_parts_in_the_wrong_seat_are_refused(photos: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="Expected a part of the kind"):
        goodfit.train(photos, SMALL.but(**changes), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_errors_are_of_their_kinds(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Expected the images to train on"):
        goodfit.train()
    with pytest.raises(DataError, match="found nothing there"):
        goodfit.train(tmp_path / "none", SMALL)
    with pytest.raises(UsageError, match="Expected a run folder"):
        goodfit.load(tmp_path)
    with pytest.raises(UsageError, match="Expected a run folder"):
        goodfit.evaluate(tmp_path)
    with pytest.raises(UsageError, match="auto or never"):
        goodfit.train(photos, SMALL, resume="always")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = goodfit.trian


def test_images_of_another_shape_than_the_recipe_knows(photos: Path, tmp_path: Path) -> None:
    """A crop larger than the image, more pieces than images, a batch larger than the data: all train."""
    recipe = SMALL.but(augment="crop(40) | flip(1.0) | erase(1.0)", pieces=50, batch_size=1000, limit=5, size=24)
    run = goodfit.train(photos, recipe, out=tmp_path / "run", quiet=True)
    assert all(np.isfinite(row["loss"]) for row in run.log("train"))


# ---- the levels below ----------------------------------------------------------------------------------------------------------------


def test_a_plain_module_and_a_plain_optimizer_by_name(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain_net_here.py").write_text(
        "import torch\n\nclass Net(torch.nn.Sequential):\n    def __init__(self, classes, channels, size):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(channels * size[0] * size[1], classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = SMALL.but(model="plain_net_here.Net", optimizer="torch.optim.RMSprop(lr=0.001)")
    run = goodfit.train(photos, recipe, out=tmp_path / "run", quiet=True)
    assert weights(run)["1.weight"].shape == (3, 768)
    assert goodfit.load(run).predict(photos / "red" / "000.png")[0].classes


def test_gradient_in_a_loop_of_ones_own(photos: Path) -> None:
    """The fourth level: build the parts, then call `gradient` and step in a plain for loop."""
    recipe = SMALL.but(data=str(photos), schedule="constant")
    data = open_images(recipe)
    built = build_training(recipe, data)
    model = built.state.model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = []
    for step in range(30):
        batch = built.loader.batch(step)
        images = built.plan.normalize(data.preprocess.center_crop(batch.images))
        optimizer.zero_grad()
        outcome = gradient(model, iter([batch.but(images=images)]), len(batch), Softmax())
        optimizer.step()
        losses.append(float(outcome.loss))
    assert losses[0] == pytest.approx(np.log(3), abs=0.5)
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    assert built.evaluator(model, data.rows("validation")).accuracy > 0.6
