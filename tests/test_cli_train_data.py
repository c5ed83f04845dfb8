"""`goodfit train` on data that is not what training needs: the right exit code, one sentence, nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodfit.core.run import Run
from tests.support.command import goodfit, refused, train
from tests.support.photos import make_photos, picture


def some_photos(root: Path, photos: Path, **each: int) -> Path:
    """A folder with the first few photos of some classes."""
    for name, n in each.items():
        (root / name).mkdir(parents=True)
        for file in sorted((photos / name).iterdir())[:n]:
            shutil.copyfile(file, root / name / file.name)
    return root


def test_missing_path_names_what_is_near(photos: Path, tmp_path: Path) -> None:
    some_photos(tmp_path / "photos", photos, red=1)
    refused(train(tmp_path / "photoz", tmp_path / "run"), 3, "photoz", "found nothing there", f"Did you mean {tmp_path / 'photos'}?")
    assert not (tmp_path / "run").exists()


def test_no_data_at_all() -> None:
    refused(goodfit("train"), 2, "Expected the images to train on")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(train(tmp_path / "empty", tmp_path / "run"), 3, "Expected one folder per class", "found nothing to train on")
    assert not (tmp_path / "run").exists()


def test_class_without_images(photos: Path, tmp_path: Path) -> None:
    data = some_photos(tmp_path / "data", photos, red=4, blue=4)
    (data / "void").mkdir()
    refused(train(data, tmp_path / "run"), 3, str(data / "void"), "has no images")


def test_one_class(photos: Path, tmp_path: Path) -> None:
    refused(train(some_photos(tmp_path / "data", photos, red=4), tmp_path / "run"), 3, "at least two classes", "found one: red")


def test_classes_that_differ_by_case(photos: Path, tmp_path: Path) -> None:
    data = some_photos(tmp_path / "data", photos, red=4, blue=4)
    shutil.copytree(data / "red", data / "Red")
    if len(list(data.iterdir())) < 3:
        pytest.skip("this file system does not tell names by their case")
    refused(train(data, tmp_path / "run"), 3, '"Red" and "red"', "differ only by case")


@pytest.mark.parametrize("each", [{"red": 1, "blue": 1, "green": 1}, {"red": 2, "blue": 1}, {"red": 2, "blue": 2}])
def test_too_few_images_to_hold_any_out(photos: Path, tmp_path: Path, each: dict[str, int]) -> None:
    data = some_photos(tmp_path / "data", photos, **each)
    refused(train(data, tmp_path / "run"), 3, "too few images to hold some out for validation", "3 good ones or more")
    assert not (tmp_path / "run").exists()


def test_three_images_a_class_are_enough(photos: Path, tmp_path: Path) -> None:
    said = train(some_photos(tmp_path / "data", photos, red=3, blue=3), tmp_path / "run", batch_size="1000")
    assert said.code == 0, said
    assert "2 train, 2 validation, 2 test images" in said.err
    assert len(Run(tmp_path / "run").log("train")) == 2, "fewer images than a batch: an epoch is one step"


def test_validation_zero_needs_validation_images(photos: Path, tmp_path: Path) -> None:
    refused(train(photos, tmp_path / "run", validation="0"), 2, "validation = 0 takes none", "give a share such as 0.15")
    data = tmp_path / "data"
    some_photos(data / "train", photos, red=4, blue=4)
    some_photos(data / "validation", photos, red=2, blue=2)
    assert train(data, tmp_path / "run", validation="0").code == 0, "images of its own are all it needs"


def test_every_file_broken(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "data" / name / f"{i}.jpg").write_text("text, not an image")
    refused(train(tmp_path / "data", tmp_path / "run"), 3, "All 6 images are broken", "blue/0.jpg", "it is not an image")
    assert not (tmp_path / "run").exists()


def test_some_broken_are_named_counted_and_left_out(tmp_path: Path) -> None:
    data = make_photos(tmp_path / "data", each=8)
    half = (data / "red" / "000.png").read_bytes()
    (data / "red" / "000.png").write_bytes(half[: len(half) // 2])
    (data / "red" / "note.jpg").write_text("text, not an image")
    (data / "blue" / "nothing.png").write_bytes(b"")
    Image.new("1", (30_000, 30_000)).save(data / "green" / "bomb.png")
    (data / "green" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    said = train(data, tmp_path / "run")
    assert said.code == 0, said
    assert "5 broken images left out: blue/nothing.png (" in said.err
    broken = Run(tmp_path / "run").read("about.json")["data"]["broken"]
    assert set(broken) == {"red/000.png", "red/note.jpg", "blue/nothing.png", "green/bomb.png", "green/gone.png"}
    assert "decompression bomb" in broken["green/bomb.png"]
    listed = (tmp_path / "run" / "splits.csv").read_text()
    assert len(listed.splitlines()) == 1 + 24 - 1
    assert not any(name in listed for name in broken)


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_photos(tmp_path / "data", each=6)
    from goodfit.data import store

    read = store.FileStore.read

    def denied(self: store.FileStore, row: int) -> bytes:
        if self.files[row].name == "red/003.png":
            raise PermissionError(13, "Permission denied")
        return bytes(read(self, row))

    monkeypatch.setattr(store.FileStore, "read", denied)
    said = train(data, tmp_path / "run")
    assert said.code == 0, said
    assert "1 broken image left out: red/003.png (it cannot be read (Permission denied))" in said.err


def test_all_of_a_class_broken(tmp_path: Path) -> None:
    data = make_photos(tmp_path / "data", each=6)
    for file in (data / "red").iterdir():
        file.write_text("text")
    refused(train(data, tmp_path / "run"), 3, "No training image is left for red")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_gray_and_transparent_images_end_to_end(tmp_path: Path, mode: str, channels: int) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for k, name in enumerate(("dark", "light")):
        (data / name).mkdir(parents=True)
        for i in range(8):
            image = picture((90 * k + 60,) * 3, 100 * k + i) // (2 - k)
            pixels = image[..., 0] if mode == "L" else np.dstack([image, np.full((20, 20), 200 - i, np.uint8)])
            Image.fromarray(pixels).save(data / name / f"{i}.png")
    said = train(data, run, model="convnet(4)", augment="flip | crop(2) | jitter(0.2)")
    assert said.code == 0, said
    assert Run(run).read("config.json")["preprocess"]["input_size"] == [channels, 16, 16]
    assert json.loads(goodfit("evaluate", run, "--json").out)["images"] == 2
    for image in (data / "dark" / "0.png", make_photos(tmp_path / "color", each=1) / "red" / "000.png"):
        assert len(json.loads(goodfit("predict", run, image, "--json").out)[0]["classes"]) == 2
    assert goodfit("report", run).code == 0


NAMES = ["two words", "käse_日本", 'it\'s "quoted"', "<script>alert(1)</script>".replace("/", "_"), "a,b;c", "[red]"]


def test_strange_class_names_and_folders_with_spaces(tmp_path: Path) -> None:
    data, run = tmp_path / "my data", tmp_path / "my runs" / "run one"
    for k, name in enumerate(NAMES):
        (data / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(picture((40 * k, 255 - 40 * k, 90), 10 * k + i)).save(data / name / f"{i} a.png")
    said = train(data, run)
    assert said.code == 0, said
    scores = json.loads(goodfit("evaluate", run, "--json").out)
    assert [row["name"] for row in scores["classes"]] == sorted(NAMES)
    said = goodfit("predict", run, data, "--csv", "--top", "1")
    assert said.code == 0
    assert goodfit("evaluate", run).code == 0, "names with [brackets] are said as they are"
    page = Path(goodfit("report", run).out.strip()).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "käse_日本" in page


@pytest.mark.parametrize("size", ["12x9", "9x12", "48", "1"])
@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
def test_every_shape_trains_and_predicts(photos: Path, tmp_path: Path, size: str, aspect: str) -> None:
    said = train(photos, tmp_path / "run", size=size, aspect=aspect, budget="1 steps", limit="6")
    assert said.code == 0, said
    height, width = (int(x) for x in (size.split("x") * 2)[:2])
    assert Run(tmp_path / "run").read("config.json")["preprocess"]["input_size"] == [3, height, width]
    assert goodfit("predict", tmp_path / "run", photos / "red" / "000.png").out.count("%") == 3


def test_splits_of_a_run_are_taken_again(photos: Path, tmp_path: Path) -> None:
    """--validation with the splits.csv of a run gives the same splits, whatever the seed."""
    assert train(photos, tmp_path / "first").code == 0
    said = train(photos, tmp_path / "second", validation=str(tmp_path / "first" / "splits.csv"), split_seed="7")
    assert said.code == 0, said
    digests = [Run(tmp_path / name).read("about.json")["data"]["split_digest"] for name in ("first", "second")]
    assert digests[0] == digests[1]
    assert train(photos, tmp_path / "third", split_seed="7").code == 0
    assert Run(tmp_path / "third").read("about.json")["data"]["split_digest"] != digests[0]


def test_wrong_validation_files(photos: Path, tmp_path: Path) -> None:
    refused(train(photos, tmp_path / "run", validation="none.csv"), 2, "a share from 0 to 1 or a CSV file", '"none.csv"')
    refused(train(photos, tmp_path / "run", validation="1.5"), 2, "a share from 0 to 1")
    wrong = tmp_path / "wrong.csv"
    for text, said in (
        ("name,split\na,train\n", "Expected the columns path and split"),
        ("path,split\nred/000.png,trian\n", "expected a split of train, validation, test"),
        ("path,split\nother/000.png,train\n", "names none of the images"),
        ("", "found: nothing"),
        ("path,split\nred/000.png,train\n", "too few images"),
    ):
        wrong.write_text(text)
        refused(train(photos, tmp_path / "run", validation=str(wrong)), 3, said)
    wrong.write_bytes(b"\xff\xfe\x00path")
    refused(train(photos, tmp_path / "run", validation=str(wrong)), 3, "cannot be read as a table")
    assert not (tmp_path / "run").exists()
