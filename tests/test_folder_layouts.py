"""Folders as people have them: those that would be misread are refused with the way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from goodfit.core.errors import DataError
from goodfit.data.folder import find_images
from goodfit.data.sources import index_images
from tests.support.command import goodfit, refused
from tests.support.photos import make_photos


def refusal(data: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        index_images(str(data))
    return str(caught.value)


@pytest.mark.parametrize("inside", ["", "train"])
def test_one_folder_too_deep(inside: str, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos" / "photos" / inside, each=2)
    text = refusal(tmp_path / "photos")
    assert f'did you mean "{tmp_path / "photos" / "photos"}"?' in text if not inside else "photos" in text
    assert len(index_images(str(tmp_path / "photos" / "photos"))) == 6


def test_a_class_with_folders_inside_is_a_class(tmp_path: Path) -> None:
    for folder in ("train/cat/tabby", "train/cat/siamese", "train/dog", "val/cat/tabby", "val/cat/siamese"):
        make_photos(tmp_path / folder, each=1)
    assert index_images(str(tmp_path)).classes == ("cat", "dog")


@pytest.mark.parametrize("target", ["train", "train/red"])
def test_a_link_to_images_read_before(target: str, tmp_path: Path) -> None:
    make_photos(tmp_path / "train", each=2)
    if target == "train":
        (tmp_path / "val").symlink_to("train")
    else:
        (tmp_path / "val").mkdir()
        (tmp_path / "val" / "red").symlink_to(tmp_path / "train" / "red")
    assert "one folder under two names" in refusal(tmp_path)


@pytest.mark.parametrize("names", [("images", "labels"), ("JPEGImages", "Annotations"), ("train/images", "train/labels")])
def test_data_for_object_detection(names: tuple[str, str], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", each=1)
    images, boxes = (tmp_path / "yolo" / name for name in names)
    images.parent.mkdir(parents=True)
    (tmp_path / "photos" / "red").rename(images)
    boxes.mkdir()
    (boxes / "000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert "object detection" in refusal(tmp_path / "yolo")


@pytest.mark.parametrize("place", ["metadata.csv", "train/metadata.csv"])
def test_a_table_beside_loose_images_is_named(place: str, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "elsewhere" / "photos", each=2)
    folders = ["train", "valid", "test"] if place.startswith("train") else [""]
    data = tmp_path / "data"
    for name, color in zip(folders, ("red", "blue", "green"), strict=False):
        shutil.copytree(photos / color, data / name)
    table = data / place
    table.write_text("file_name,label\n000.png,red\n")
    assert f"If {table} lists images and labels, name it as the data." in refusal(data)


def test_archives_and_patterns(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK\3\4")
    assert "unpack it first" in refusal(tmp_path / "photos.zip")
    assert f'did you mean "{photos}"?' in refusal(f"{photos}/*")
    refused(goodfit("train", f"{photos}/*", "--dry"), 3, "received the pattern")


def test_a_class_that_validation_lacks_is_told(tmp_path: Path) -> None:
    make_photos(tmp_path / "train", each=8)
    make_photos(tmp_path / "val", each=3)
    for path in (tmp_path / "val" / "green").iterdir():
        path.unlink()
    said = goodfit("train", tmp_path, "--dry", "--size", "16", "--model", "linear", "--epochs", "1")
    assert said.code == 0 and "No validation image is of green" in said.err


def test_prediction_walks_as_training_does(photos: Path, tmp_path: Path) -> None:
    data = make_photos(tmp_path / "photos", each=12)
    (data / "red" / "notes.txt").write_text("no image")
    (data / "red" / ".hidden.png").write_bytes(b"")
    (data / "__MACOSX").mkdir()
    (data / "__MACOSX" / "000.png").write_bytes(b"")
    (data / "red" / "folder.png").mkdir()
    (data / "red" / "000.png").rename(data / "red" / "folder.png" / "000.png")
    expected = set(index_images(str(data)).names)
    for place in (str(data), f"{data}/*", f"{data}/**", f"{data}/*/*"):
        assert {path.relative_to(data).as_posix() for path in find_images([place])} == expected, place
    for k in (2, 10):
        (data / "blue" / f"{k:03d}.png").rename(data / "blue" / f"{k}.png")
    names = [path.name for path in find_images([f"{data}/blue/*.png"])]
    assert names.index("2.png") < names.index("10.png")
