"""`goodfit predict` and `goodfit.load(run).predict` on every kind of image and on what is none."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import goodfit as package
from goodfit.core.errors import UsageError
from goodfit.data import opening
from goodfit.predict.predictor import Classifier, Predictor
from tests.support.command import goodfit, refused, train
from tests.support.photos import picture


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a run"
    assert train(photos, out, optimizer="sgd(0.002)").code == 0
    return out


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return package.load(run)


@pytest.fixture
def image(photos: Path) -> Path:
    return photos / "red" / "000.png"


def said_json(*words: str | Path) -> list[dict[str, object]]:
    said = goodfit("predict", *words, "--json")
    assert said.code == 0, said
    rows: list[dict[str, object]] = json.loads(said.out)
    return rows


def test_files_folders_and_patterns_mean_the_same(photos: Path, run: Path, tmp_path: Path) -> None:
    files = sorted((photos / "red").glob("00*.png"))
    folder = tmp_path / "a folder" / "deeper"
    folder.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    (folder / "notes.txt").write_text("no image by its name")
    plain = [(row["classes"], row["probabilities"]) for row in said_json(run, *files)]
    for words in ((folder,), (folder.parent,), (f"{folder}/*.png",), (f"{tmp_path}/**/*.png",), (files[0], f"{folder}/00[1-9].png")):
        rows = said_json(run, *words)
        assert [Path(str(row["name"])).name for row in rows] == [file.name for file in files]
        for row, (classes, probabilities) in zip(rows, plain, strict=True):
            assert row["classes"] == classes
            assert np.allclose(np.array(row["probabilities"], dtype=float), np.array(probabilities, dtype=float), atol=1e-6)


def test_a_name_with_brackets_is_a_file_first(run: Path, image: Path, tmp_path: Path) -> None:
    shutil.copyfile(image, tmp_path / "a[1].png")
    shutil.copyfile(image, tmp_path / "a1.png")
    assert [row["name"] for row in said_json(run, tmp_path / "a[1].png")] == [str(tmp_path / "a[1].png")]


@pytest.mark.parametrize(("top", "n"), [("1", 1), ("2", 2), ("99", 3)])
def test_top(run: Path, image: Path, top: str, n: int) -> None:
    row = said_json(run, image, "--top", top)[0]
    probabilities = np.array(row["probabilities"], dtype=float)
    assert len(row["classes"]) == len(probabilities) == n  # type: ignore[arg-type]
    assert (np.diff(probabilities) <= 0).all()
    assert n < 3 or probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_csv_and_plain_say_what_json_says(run: Path, photos: Path) -> None:
    files = sorted((photos / "blue").iterdir())[:3]
    rows = said_json(run, *files)
    table = list(csv.DictReader(io.StringIO(goodfit("predict", run, *files, "--csv").out)))
    assert [(r["name"], r["class"], float(r["probability"])) for r in table] == [
        (row["name"], c, p)
        for row in rows
        for c, p in zip(row["classes"], row["probabilities"], strict=True)  # type: ignore[call-overload]
    ]
    lines = goodfit("predict", run, *files).out.splitlines()
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(f"{row['name']}: {row['classes'][0]} ")  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "Expected images to predict"),
        (("nothere.jpg",), 3, 'found no image at "nothere.jpg"'),
        (("nothere*.jpg",), 3, 'found no image at "nothere*.jpg"'),
        (("EMPTY",), 3, "found no image at"),
        (("IMAGE", "nothere.jpg"), 3, 'found no image at "nothere.jpg"'),
        (("IMAGE", "--top", "0"), 2, "Expected --top to be 1 or more, received 0"),
        (("IMAGE", "--top", "x"), 2, '"x" into int'),
        (("IMAGE", "--json", "--csv"), 2, "one of --json and --csv"),
        (("IMAGE", "--device", "nowhere"), 2, 'The device "nowhere" is not there'),
    ],
)
def test_refuses(run: Path, image: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    places = {"IMAGE": str(image), "EMPTY": str(tmp_path)}
    refused(goodfit("predict", run, *(places.get(word, word) for word in words)), code, said)


@pytest.fixture
def broken(tmp_path: Path) -> list[Path]:
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    return [tmp_path / name for name in ("text.jpg", "empty.png", "bomb.png")]


def test_broken_images_among_good_ones(run: Path, image: Path, broken: list[Path]) -> None:
    """They are said in their places; the good ones are the same as without them."""
    alone = said_json(run, image)[0]
    said = goodfit("predict", run, broken[0], image, broken[1], image, broken[2], "--json")
    assert said.code == 0
    assert said.err == f"goodfit: 3 of 5 images cannot be read; {broken[0]}: it is not an image, or its format is not supported.\n"
    rows = json.loads(said.out)
    assert [row["name"] for row in rows] == [str(x) for x in (broken[0], image, broken[1], image, broken[2])]
    assert [bool(row["problem"]) for row in rows] == [not row["classes"] for row in rows] == [True, False, True, False, True]
    assert "bomb" in rows[4]["problem"]
    assert rows[1]["classes"] == alone["classes"]
    table = list(csv.DictReader(io.StringIO(goodfit("predict", run, broken[2], image, "--csv", "--top", "1").out)))
    assert [(row["class"], row["probability"] == "") for row in table] == [("", True), (alone["classes"][0], False)]  # type: ignore[index]
    assert "bomb" in table[0]["problem"]


def test_all_broken_is_an_error(run: Path, broken: list[Path]) -> None:
    said = goodfit("predict", run, *broken, "--json")
    assert said.code == 3
    assert [row["name"] for row in json.loads(said.out)] == [str(file) for file in broken]
    assert said.sentence == f"goodfit: Not one image can be read; {broken[0]}: it is not an image, or its format is not supported."


def test_a_file_that_cannot_be_read(run: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(image, tmp_path / "locked.png")
    real = opening.read_file

    def read(path: Path) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(opening, "read_file", read)
    said = goodfit("predict", run, tmp_path / "locked.png", image)
    assert said.code == 0
    assert "locked.png: it cannot be read (Permission denied)." in said.err


# ---- kinds of images ---------------------------------------------------------------------------------------------------------------


def probabilities(predictor: Predictor, image: object) -> np.ndarray:
    found = predictor.predict(image, top=9)
    assert len(found) == 1
    assert not found[0].problem
    return np.array([dict(zip(found[0].classes, found[0].probabilities, strict=True))[name] for name in predictor.classes])


def test_every_way_to_hand_over_an_image_is_the_same(predictor: Predictor, image: Path, tmp_path: Path) -> None:
    """Path, text, bytes, file, Pillow image, array, RGBA that is opaque, and the same image turned with its EXIF orientation."""
    expected = probabilities(predictor, image)
    pixels = np.asarray(Image.open(image))
    opaque = Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]))
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, 1)))  # orientation 6: to be turned a quarter clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    float_pixels = pixels.astype(np.float32) / 255
    content = image.read_bytes()
    at_end = io.BytesIO()
    at_end.write(content)
    files = (io.BytesIO(content), at_end, image.open("rb"), image.open("rb", buffering=0), bytearray(content), memoryview(content))
    for same in (str(image), content, *files, Image.open(image), pixels, opaque, float_pixels):
        assert np.allclose(probabilities(predictor, same), expected, atol=1e-6), same
    turned.save(tmp_path / "turned.tif", exif=exif)
    ways = [way(tmp_path / name) for name in ("turned.png", "turned.tif") for way in (Path, Image.open)]
    for same in ways:  # resized before it is turned: to rounding
        assert np.allclose(probabilities(predictor, same), expected, atol=1e-3), same
    plain = Image.fromarray(np.asarray(turned))
    assert not np.allclose(probabilities(predictor, plain), expected, atol=1e-2), "without the tag it is another picture"


def test_gray_and_sixteen_bits(predictor: Predictor, tmp_path: Path) -> None:
    gray = picture((90, 90, 90), 7)[..., 0]
    expected = probabilities(predictor, np.dstack([gray] * 3))
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for same in (gray, gray[..., None], tmp_path / "gray.png", tmp_path / "deep.png", gray.astype(np.uint16) * 257):
        assert np.allclose(probabilities(predictor, same), expected, atol=1e-6)


def test_members_that_differ_in_normalization_alone_share_the_decoding(
    predictor: Predictor, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (member,) = predictor.members
    other = dataclasses.replace(member, preprocess=member.preprocess.but(mean=tuple(x + 0.1 for x in member.preprocess.mean)))
    decoded = []
    monkeypatch.setattr(Classifier, "decode", lambda self, source, real=Classifier.decode: decoded.append(source) or real(self, source))
    (both,) = Predictor((member, other), (0.5, 0.5), predictor.classes).predict(image, 99)
    assert decoded == [image]
    predictions = [Predictor((x,), (1.0,), x.classes).predict(image, 99)[0] for x in (member, other)]
    alone = [dict(zip(p.classes, p.probabilities, strict=True)) for p in predictions]
    assert alone[0] != alone[1]
    for name, x in zip(both.classes, both.probabilities, strict=True):
        assert x == pytest.approx((alone[0][name] + alone[1][name]) / 2, abs=1e-6)


def test_many_at_once_and_none(predictor: Predictor, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    assert len(files) > 64, "more than a batch"
    found = predictor.predict(files, top=1)
    assert [x.name for x in found] == [str(file) for file in files]
    for place in (0, 63, 64, len(files) - 1):
        alone = predictor.predict(files[place], top=1)[0]
        assert (alone.classes, alone.probabilities) == (found[place].classes, pytest.approx(found[place].probabilities, abs=1e-5))
    assert predictor.predict([]) == []
    assert [x.name for x in predictor.predict(iter([np.zeros((5, 9, 3), np.uint8), files[0]]))] == ["image", str(files[0])]


@pytest.mark.parametrize(
    "wrong",
    [
        *(np.zeros(shape, np.uint8) for shape in ((5, 5, 2), (7,), (), (0, 4))),
        *(np.zeros((4, 4), complex), np.linspace(-1, 1, 16).reshape(4, 4), np.full((4, 4), -1)),
        *(Path("nowhere.png"), Path(), "", "/dev/zero", "null\0.png", b"text", b"", io.BytesIO(b"text"), io.BytesIO()),
    ],
)
def test_what_is_no_image_has_a_problem(predictor: Predictor, image: Path, wrong: object) -> None:
    bad, good = predictor.predict([wrong, image])
    assert bad.problem
    assert not bad.classes
    assert good.classes


@pytest.mark.parametrize("wrong", [None, 3, 3.5, {"image": "a.png"}, [None], [3], [torch.zeros(3, 4, 4)], [["a.png"]]])
def test_what_cannot_be_meant_is_refused(predictor: Predictor, wrong: object) -> None:
    name = type(wrong[0] if isinstance(wrong, list) else wrong).__name__
    with pytest.raises(UsageError, match=f"Expected a path, file, PIL image or array to predict, received a {name}"):
        predictor.predict(wrong)


def test_a_file_open_as_text_is_refused(predictor: Predictor, image: Path) -> None:
    for wrong in (image.open(encoding="utf-8"), io.StringIO("text")):
        with pytest.raises(UsageError, match="open in binary mode"):
            predictor.predict(wrong)


def test_files_are_read_once_and_named(predictor: Predictor, image: Path) -> None:
    """Also by members that prepare them differently, and if they cannot go back to their start."""

    class Stream(io.BytesIO):
        def seek(self, place: int, whence: int = 0) -> int:
            raise io.UnsupportedOperation

    (member,) = predictor.members
    other = dataclasses.replace(member, preprocess=member.preprocess.but(aspect="pad"))
    both = Predictor((member, other), (0.5, 0.5), predictor.classes)
    expected = both.predict(image)[0]
    found = both.predict([Stream(image.read_bytes()), image.open("rb"), Image.open(image)])
    assert [x.name for x in found] == ["image", str(image), str(image)]
    assert [x.probabilities for x in found] == [expected.probabilities] * 3


def test_one_pillow_image_that_comes_often_is_loaded_by_one_thread(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    expected = predictor.predict(tmp_path / "a.png")[0]
    for found in predictor.predict([Image.open(tmp_path / "a.png")] * 8):
        assert found.problem == "" and found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_a_batch_of_images_in_one_array(predictor: Predictor, photos: Path) -> None:
    """[N, H, W, 3] is N images."""
    files = sorted((photos / "green").iterdir())[:3]
    stack = np.stack([np.asarray(Image.open(file)) for file in files])
    assert [x.probabilities for x in predictor.predict(stack)] == [x.probabilities for x in predictor.predict(files)]
