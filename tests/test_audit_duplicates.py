"""Near duplicates: found whatever was done to a picture, and no two pictures of one kind taken for one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from goodfit.doctor.audit.near_duplicates import find_exact_pairs, find_near_duplicates
from tests.support.digits import read_digits

Images = NDArray[np.uint8]


def make_scenes(n: int, side: int = 96, seed: int = 0) -> Images:
    """Pictures of random colored discs and bars on a textured ground: [n, side, side, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    scenes = np.empty((n, side, side, 3), dtype=np.uint8)
    for image in scenes:
        ground = rng.uniform(60, 200, 3) + 20 * np.sin(rng.uniform(5, 40) * x + rng.uniform(5, 40) * y)[..., None]
        for _ in range(12):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.04, 0.2)
            shape = np.hypot(x - cx, y - cy) < r if rng.random() < 0.5 else (abs(x - cx) < r) & (abs(y - cy) < r / 3)
            ground[shape] = rng.uniform(0, 255, 3)
        image[:] = np.clip(ground + rng.normal(0, 3, ground.shape), 0, 255)
    return scenes


def change(image: Images, kind: str) -> Images:
    """A near duplicate of an image, of the same size."""
    picture, side = Image.fromarray(image), image.shape[0]
    if kind == "crop":
        picture = picture.crop((4, 2, side - 6, side - 8)).resize((side, side), Image.Resampling.BILINEAR)
    elif kind == "turn":
        picture = picture.rotate(4, Image.Resampling.BILINEAR)
    elif kind == "mirror":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif kind == "encode":
        file = io.BytesIO()
        picture.resize((side // 2, side // 2)).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=40)
        picture = Image.open(file)
    elif kind == "brighter":
        return np.clip(image.astype(float) * 0.8 + 20, 0, 255).astype(np.uint8)
    return np.asarray(picture)


@pytest.mark.parametrize("kind", ["crop", "turn", "mirror", "encode", "brighter"])
def test_changed_pictures_are_found_and_no_others(kind: str) -> None:
    scenes = make_scenes(60)
    copies = np.stack([change(image, kind) for image in scenes[:12]])
    found = find_near_duplicates(np.concatenate([scenes, copies]))
    pairs = set(map(tuple, found.pairs.tolist()))
    wanted = {(k, 60 + k) for k in range(12)}
    assert len(pairs & wanted) >= 11, kind
    assert not pairs - wanted, kind
    assert not found.is_exact.any()


def test_equal_bytes_are_found_first_and_blank_images_are_no_picture() -> None:
    scenes = make_scenes(20, side=32)
    blank = np.full((3, 32, 32, 3), 255, dtype=np.uint8)
    images = np.concatenate([scenes, scenes[3:5], scenes[3:4], blank])
    assert find_exact_pairs(images[:23]).tolist() == [[3, 20], [4, 21], [3, 22]]
    found = find_near_duplicates(images[:23])
    assert found.is_exact.sum() == len(found.pairs) == 3
    assert [group.tolist() for group in found.groups()] == [[3, 20, 22], [4, 21]]
    assert find_near_duplicates(images).pairs.max() < 23


def test_noise_on_tiny_images_is_found_by_its_distance_to_what_others_have() -> None:
    digits, _ = read_digits(600)
    assert len(find_near_duplicates(digits).pairs) <= 1, "digits of one class are not duplicates"
    noisy = np.clip(digits[:40] + np.random.default_rng(0).normal(0, 4, digits[:40].shape), 0, 255).astype(np.uint8)
    pairs = set(map(tuple, find_near_duplicates(np.concatenate([digits, noisy])).pairs.tolist()))
    assert len(pairs & {(k, 600 + k) for k in range(40)}) >= 30
    assert len(pairs - {(k, 600 + k) for k in range(40)}) <= 1


def test_drawings_that_vary_in_place_and_size_alone_are_no_duplicates() -> None:
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:32, :32]
    images = np.full((400, 32, 32, 1), 40, dtype=np.uint8)
    for image in images:
        image[np.hypot(x - rng.uniform(8, 24), y - rng.uniform(8, 24)) < rng.uniform(3, 8)] = rng.integers(100, 255)
    assert len(find_near_duplicates(images).pairs) <= 4  # of 400, by chance in nearly one place


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_images_have_no_near_duplicates(n: int) -> None:
    assert not len(find_near_duplicates(make_scenes(3, side=16)[:n]).pairs)
    assert not find_near_duplicates(make_scenes(3, side=16)[:n]).groups()
