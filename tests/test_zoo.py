"""A model zoo of one's own: weights of a run with a card, given to others, who start from them; no path of the first machine goes along."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from goodfit.core.run import Run
from tests.support.command import goodfit, refused, train
from tests.support.photos import make_photos

PARTS = '''
from torch import nn

class Small(nn.Module):
    """A linear net of one's own."""
    def __init__(self, classes, size):
        super().__init__()
        self.head = nn.Linear(3 * size[0] * size[1], classes)
    def forward(self, x):
        return self.head(x.flatten(1))
'''


@pytest.fixture
def zoo(source: Path, tmp_path: Path) -> Path:
    """A zoo with the weights of that run, where another person has put it."""
    said = goodfit("zoo", tmp_path / "mine", "--add", source, "--license", "CC BY 4.0", "--name", "primary")
    assert said.code == 0, said
    return (tmp_path / "mine").rename(tmp_path / "theirs")


@pytest.mark.item("S183")
def test_weights_of_a_zoo_are_listed_with_their_card(source: Path, zoo: Path, photos: Path) -> None:
    (row,) = json.loads(goodfit("zoo", zoo, "--json").out)
    scores, about = Run(source).scores["validation"], Run(source).read("about.json")
    assert (row["path"], row["state"], row["license"]) == (str(zoo / "primary"), "ready", "CC BY 4.0")
    assert (row["data"], row["classes"]) == (photos.name, ["blue", "green", "red"])
    assert (row["accuracy"], row["interval"]) == (scores["accuracy"], scores["interval"])
    assert (row["training_images"], row["validation_images"]) == (about["data"]["splits"]["train"], scores["images"])
    assert row["model"].startswith("convnet(4") and row["bytes"] > 10_000
    assert row["weights_sha256"] == hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    table = goodfit("zoo", zoo).out
    assert all(word in table for word in (str(zoo / "primary"), "convnet", "CC BY 4.0", f"{100 * row['accuracy']:.1f} %", "ready"))


@pytest.mark.item("S183")
def test_another_person_starts_from_them_and_predicts_with_them(source: Path, zoo: Path, photos: Path, tmp_path: Path) -> None:
    """Without the run they are from: one epoch from them teaches what one from scratch does not."""
    others = make_photos(tmp_path / "others", each=24)
    (others / "red").rename(others / "rouge")
    words = {"model": "convnet(4)", "budget": "1 epoch", "optimizer": "sgd(0.05)"}
    said = train(others, tmp_path / "with", "--from", zoo / "primary", **words, trainable="head")
    assert said.code == 0, said
    assert train(others, tmp_path / "without", **words).code == 0
    pretrained, fresh = (Run(tmp_path / name).scores["validation"]["loss"] for name in ("with", "without"))
    assert pretrained < 0.8 * fresh
    card = Run(zoo / "primary").read("card.json")
    assert Run(tmp_path / "with").read("about.json")["source"]["sha256"] == card["weights_sha256"]
    image = photos / "blue" / "000.png"
    assert goodfit("predict", zoo / "primary", image, "--json").out == goodfit("predict", source, image, "--json").out


@pytest.mark.item("S183")
def test_nothing_of_the_first_machine_goes_along(source: Path, zoo: Path, photos: Path) -> None:
    files = [file for file in (zoo / "primary").rglob("*") if file.is_file()]
    names = {file.name for file in files if not file.name.startswith(".")}
    assert names == {"about.json", "card.json", "config.json", "model.safetensors", "recipe.toml", "scores.json"}
    for file in files:
        content = file.read_bytes()
        assert not any(str(path).encode() in content for path in (photos, source, photos.parent, Path.cwd())), file
    assert "machine" not in Run(zoo / "primary").read("about.json")


@pytest.mark.item("S183")
def test_damage_is_listed_and_refused(zoo: Path, photos: Path, tmp_path: Path) -> None:
    whole = zoo / "primary"
    for name, damage in (("swapped", swap_weights), ("edited", edit_card), ("stripped", remove_config)):
        damage(Path(shutil.copytree(whole, zoo / name)))
    states = {Path(row["path"]).name: row["state"] for row in json.loads(goodfit("zoo", zoo, "--json").out)}
    assert states == {"primary": "ready", "swapped": "damaged", "edited": "damaged", "stripped": "damaged"}
    refused(train(photos, tmp_path / "run", "--from", zoo / "swapped"), 1, "its checksum differs")


def swap_weights(entry: Path) -> None:
    tensors = load_file(entry / "model.safetensors")
    save_file({name: torch.zeros_like(x) for name, x in tensors.items()}, entry / "model.safetensors")


def remove_config(entry: Path) -> None:
    (entry / "config.json").unlink()


def edit_card(entry: Path) -> None:
    text = (entry / "card.json").read_text()
    (entry / "card.json").write_text(text.replace("CC BY 4.0", "CC0 1.0"))


def test_weights_of_another_card_are_damaged(zoo: Path) -> None:
    """Whole in themselves, but not those that the card says are so good."""
    other = Run(Path(shutil.copytree(zoo / "primary", zoo / "other")))
    other.update("card.json", {"weights_sha256": "0" * 64})
    assert [row["state"] for row in json.loads(goodfit("zoo", zoo, "--json").out)] == ["damaged", "ready"]


def test_parts_of_ones_own_go_along(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_nets.py").write_text(PARTS)
    assert train(photos, tmp_path / "run", "--use", "my_nets.py", model="my_nets.Small").code == 0
    assert goodfit("zoo", "zoo", "--add", "run", "--license", "CC0").code == 0
    assert [file.read_text() for file in Path("zoo/run/use").iterdir()] == [PARTS]
    Path("my_nets.py").unlink()
    shutil.rmtree("run")
    said = goodfit("predict", "zoo/run", photos / "blue" / "000.png", "--trust")
    assert said.code == 0, said


def test_what_a_zoo_does_not_take(source: Path, zoo: Path, tmp_path: Path) -> None:
    add = ("zoo", zoo, "--add", source)
    refused(goodfit(*add), 2, "Expected --license", "received none")
    refused(goodfit(*add, "--license", "CC0", "--name", "primary"), 2, "is not empty")
    for name in ("../out", "a/b", ".hidden"):
        refused(goodfit(*add, "--license", "CC0", "--name", name), 2, "the name of a folder", name)
    refused(goodfit("zoo", zoo, "--license", "CC0"), 2, "beside --add")
    refused(goodfit("zoo", zoo, "--add", tmp_path / "none", "--license", "CC0"), 2, "Expected a run folder")
    refused(goodfit("zoo", tmp_path / "none"), 3, "Expected a model zoo")
    unfinished = Path(shutil.copytree(source, tmp_path / "unfinished"))
    (unfinished / "model.safetensors").unlink()
    refused(goodfit("zoo", zoo, "--add", unfinished, "--license", "CC0"), 1, "no model that reads")
    assert [path.name for path in zoo.iterdir()] == ["primary"]
