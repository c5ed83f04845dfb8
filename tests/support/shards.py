"""Shards of small images: what stands in them, and the data that is read of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from goodfit.core.reporter import SilentReporter
from goodfit.data.dataset import Dataset
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from tests.support.data_files import png
from tests.support.photos import COLORS, picture

NAMES = sorted(COLORS)


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar of members, in their order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def record(number: int, form: str = "cls", side: int = 20) -> dict[str, bytes]:
    """An image and its label, whose class and content follow from the number."""
    name = NAMES[number % 3]
    label = name.encode() if form == "cls" else json.dumps({"label": name, "source": "test"}).encode()
    return {f"{number:06d}.png": png(picture(COLORS[name], number, side)), f"{number:06d}.{form}": label}


def records(numbers: Iterable[int], form: str = "cls") -> dict[str, bytes]:
    return {name: content for number in numbers for name, content in record(number, form).items()}


def make_shards(root: Path, shards: int = 6, each: int = 30) -> dict[str, bytes]:
    """Write shards 0.tar, 1.tar ... of records with numbers in a row, and return the content of each file."""
    root.mkdir(parents=True, exist_ok=True)
    contents = {f"{k}.tar": tar_of(records(range(k * each, (k + 1) * each))) for k in range(shards)}
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return contents


def open_stream(data: Path | str, **changes: object) -> Dataset:
    return open_images(Recipe(data=str(data), size=20).but(**changes), SilentReporter())


def numbers_of(images: np.ndarray) -> list[int]:
    """The numbers of images of `record` by their pixels."""
    return [BY_PIXELS[image.tobytes()] for image in images]


BY_PIXELS = {picture(COLORS[NAMES[number % 3]], number, 20).tobytes(): number for number in range(400)}
