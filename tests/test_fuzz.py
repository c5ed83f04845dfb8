"""Fuzzing: whatever images, tables, arrays, recipes and parts say, the answer is a result or one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import io
import json
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from goodfit.core.errors import GoodfitError
from goodfit.core.parts import spell
from goodfit.data.opening import read_header
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from tests.support.command import FAST, goodfit

CATALOG = load_catalog()
OUTCOMES: Counter[str] = Counter()  # of all inputs: printed at the end


def inputs(n: int) -> Callable[[Any], Any]:
    """So many inputs, the same in every run."""
    return settings(
        max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@pytest.fixture(scope="module", autouse=True)
def _counts() -> Any:
    yield
    print("fuzzed:", sum(OUTCOMES.values()), dict(OUTCOMES))


def answer(kind: str, function: Callable[[], Any]) -> Any:
    """The result, or the sentence of the error; anything else is a failure of ours."""
    try:
        result = function()
    except GoodfitError as error:
        assert error.exit_code in (2, 3), error
        OUTCOMES[f"{kind} refused"] += 1
        return str(error)
    OUTCOMES[f"{kind} read"] += 1
    return result


# ---- images ------------------------------------------------------------------------------------------------------------------------


def encode(mode: str, file_format: str, size: tuple[int, int], orientation: int) -> bytes:
    rng = np.random.default_rng(size[0])
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "I;16": (), "1": (), "P": ()}[mode]
    pixels = rng.integers(0, 65536 if mode == "I;16" else 256, (size[1], size[0], *channels))
    image = Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.uint8))
    image = image.convert(mode) if mode in ("1", "P", "CMYK") else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, file_format, exif=exif) if file_format in ("JPEG", "PNG", "WEBP", "TIFF") else image.save(file, file_format)
    return file.getvalue()


FORMATS = [("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("P", "PNG"),
           ("1", "PNG"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("RGB", "BMP"), ("P", "GIF"), ("RGB", "TIFF"), ("I;16", "TIFF"), ("L", "TIFF"),
           ("RGB", "PPM")]  # fmt: skip

damage = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "zero"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4
)


def damaged(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, share, extra in changes:
        place = int(share * len(content))
        end = place + len(extra)
        if what == "cut":
            content = content[:place]
        elif what == "insert":
            content = content[:place] + extra + content[place:]
        else:
            patch = extra if what == "flip" else bytes(len(extra))
            content = content[:place] + patch[: max(0, len(content) - place)] + content[end:]
    return content


@inputs(700)
@given(st.sampled_from(FORMATS), st.integers(1, 24), st.integers(1, 24), st.integers(0, 9), damage, st.sampled_from([1, 3, 4]))
def test_images(kind: tuple[str, str], width: int, height: int, orientation: int, changes: list[Any], channels: int) -> None:
    content = damaged(encode(*kind, (width, height), orientation), changes)
    preprocess = Preprocess((8, 8), (10, 9), channels)
    header = answer("image header", lambda: read_header(io.BytesIO(content)))
    pixels = answer("image", lambda: preprocess.decode(content))
    if isinstance(pixels, np.ndarray):
        assert pixels.shape == (10, 9, channels) and pixels.dtype == np.uint8
    if not changes:
        upright = (height, width) if 5 <= orientation <= 8 and kind[1] in ("JPEG", "PNG", "WEBP", "TIFF") else (width, height)
        assert (header.width, header.height) == upright and isinstance(pixels, np.ndarray)


# ---- tables ------------------------------------------------------------------------------------------------------------------------

cell = st.one_of(
    st.sampled_from(["cat/0.png", "dog/1.png", "cat", "dog", "train", "test", "val", "", "nan", "1", "2.0", "/dev/zero", "..", "a\0b", "https://x/y.png"]),
    st.text(max_size=6),
)  # fmt: skip
header_cell = st.one_of(st.sampled_from(["path", "label", "split", "file_name", "class", "image", "target", "group"]), st.text(max_size=5))
header = st.one_of(st.just(["path", "label"]), st.just(["path", "label", "split"]), st.lists(header_cell, min_size=1, max_size=4))
good_row = st.tuples(
    st.sampled_from(["cat/0.png", "dog/1.png", "cat/2.png"]), st.sampled_from(["cat", "dog"]), st.sampled_from(["train", ""])
).map(list)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images in a folder, for tables to name."""
    folder = tmp_path_factory.mktemp("few")
    for k, name in enumerate(("cat", "dog") * 2):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), 40 * k, np.uint8)).save(folder / name / f"{k}.png")
    return folder


@inputs(300)
@given(
    header, st.lists(st.one_of(good_row, good_row, st.lists(cell, max_size=5)), max_size=5), st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]), st.one_of(st.just([]), damage),
)  # fmt: skip
def test_tables(few: Path, header: list[str], rows: list[list[str]], separator: str, encoding: str, changes: list[Any]) -> None:
    text = "\n".join(separator.join(row) for row in [header, *rows])
    (few / "table.csv").write_bytes(damaged(text.encode(encoding, "replace"), changes))
    index = answer("table", lambda: index_images(str(few / "table.csv")))
    if not isinstance(index, str):
        assert len(index.labels) == len(index.names) and set(index.labels.tolist()) <= set(range(len(index.classes)))


@inputs(200)
@given(
    st.lists(st.tuples(st.sampled_from(["cat/0.png", "cat/2.png", "dog/1.png", "dog/3.png"]), st.text(min_size=1, max_size=4))),
    st.booleans(),
)
def test_good_tables(few: Path, rows: list[tuple[str, str]], quoted: bool) -> None:
    """Any text is a label, or is refused for what it is."""
    import csv

    with (few / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL).writerows([("path", "label"), *rows])
    index = answer("good table", lambda: index_images(str(few / "table.csv")))
    if not isinstance(index, str):
        assert [index.classes[k] for k in index.labels] == [label.strip() for _, label in rows]


# ---- arrays ------------------------------------------------------------------------------------------------------------------------

good_shape = st.tuples(st.integers(2, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 4]))
shapes = st.one_of(good_shape, st.lists(st.integers(0, 5), max_size=5).map(tuple))
kinds = st.sampled_from(["uint8", "uint8", "bool", "int8", "uint16", "int32", "float32", "float64", "complex64", "U3", "S3", "object"])
scales = st.sampled_from([0.0, 0.1, 1.0, 100.0, 1e6, 1e30])


def array(shape: tuple[int, ...], kind: str, seed: int, scale: float) -> np.ndarray:
    """Numbers of one sign with an even seed, now and then one that is not finite."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, shape) * scale if seed % 2 else rng.random(shape) * scale
    if seed % 7 == 0 and np.size(values) and kind.startswith("float"):
        values = np.where(np.arange(np.size(values)).reshape(shape) == 0, (np.nan, np.inf, -np.inf)[seed % 3], values)
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(values).astype(kind))


@inputs(300)
@given(shapes, kinds, st.integers(0, 99), scales, st.one_of(st.none(), shapes), kinds, st.booleans(), st.one_of(st.just([]), damage))
def test_arrays(
    few: Path, shape: tuple[int, ...], kind: str, seed: int, scale: float, y_shape: tuple[int, ...] | None, y_kind: str, split: bool,
    changes: list[Any],
) -> None:  # fmt: skip
    n = shape[0] if shape else 0
    y = np.arange(n) % 2 if y_shape is None else array(y_shape, y_kind, seed + 1, 2)
    names = ("x_train", "y_train") if split else ("images", "labels")
    file = io.BytesIO()
    np.savez(file, **dict(zip(names, (array(shape, kind, seed, scale), y), strict=True)))
    (few / "arrays.npz").write_bytes(damaged(file.getvalue(), changes))
    index = answer("arrays", lambda: index_images(str(few / "arrays.npz")))
    if not isinstance(index, str):
        answer("pixels of arrays", lambda: index.store.read(0))


@inputs(200)
@given(shapes, kinds, st.integers(0, 99), scales)
def test_single_arrays(shape: tuple[int, ...], kind: str, seed: int, scale: float) -> None:
    pixels = answer("array", lambda: Preprocess((4, 4), (4, 4)).decode(array(shape, kind, seed, scale)))
    assert isinstance(pixels, str) or (pixels.shape == (4, 4, 3) and pixels.dtype == np.uint8)


@inputs(200)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(-300, 70000),
    st.floats(0, 70000),
    st.sampled_from(["uint8", "uint16", "int32", "float32"]),
)
def test_no_value_is_clipped(height: int, width: int, low: float, span: float, kind: str) -> None:
    """Of an array that is taken, every value is its own level, to rounding."""
    values = np.linspace(low, low + span, height * width * 3).reshape(height, width, 3)
    values = np.clip(values, 0, 255) if kind == "uint8" else np.clip(values, 0, 65535) if kind == "uint16" else values
    pixels = answer("values", lambda: Preprocess((height, width), (height, width)).decode(values.astype(kind)))
    if not isinstance(pixels, str):
        assert min(np.abs(values.astype(kind) * factor - pixels).max() for factor in (255, 1, 255 / 65535)) <= 0.51


# ---- recipes and parts -------------------------------------------------------------------------------------------------------------

NAMES = sorted({name for names in CATALOG.kinds.values() for name in names})
scalar = st.one_of(
    st.integers(-5, 300), st.floats(allow_nan=True), st.booleans(), st.none(),
    st.sampled_from(["auto", "none", "all", "10 min", "5 epochs", "reflect"]), st.text(string.printable, max_size=8),
)  # fmt: skip


def expressions(names: list[str]) -> st.SearchStrategy[str]:
    """Parts of these names with settings that may be right, wrong or no settings at all."""
    settings_of = {name: [f.name for f in dataclasses.fields(part)] for kind in CATALOG.kinds.values() for name, part in kind.items()}
    value = st.one_of(
        scalar.map(repr), st.floats(0, 1).map(repr), st.sampled_from(NAMES), st.lists(scalar.map(repr)).map(lambda x: f"({', '.join(x)},)")
    )
    part = st.sampled_from(names).flatmap(
        lambda name: st.dictionaries(st.sampled_from([*settings_of[name], "x"]), value, max_size=2).map(
            lambda chosen: f"{name}({', '.join(f'{key}={text}' for key, text in chosen.items())})"
        )
    )
    plain = st.one_of(st.sampled_from(names), part, st.tuples(st.sampled_from(names), value).map(lambda x: f"{x[0]}({x[1]})"))
    return st.one_of(plain, plain, st.tuples(plain, plain).map(" | ".join), value)


@inputs(400)
@given(st.sampled_from(sorted(CATALOG.kinds)).flatmap(lambda kind: st.tuples(st.just(kind), expressions(sorted(CATALOG.kinds[kind])))))
def test_parts(asked: tuple[str, str]) -> None:
    kind, text = asked
    part = answer("part", lambda: CATALOG.make(text, kind))
    if not isinstance(part, str):
        assert CATALOG.make(spell(part), kind) == part or "nan" in spell(part)


expression = expressions(NAMES)


@inputs(300)
@given(st.dictionaries(st.sampled_from([*Recipe.__dataclass_fields__, "lever", "x"]), st.one_of(scalar, expression), max_size=2))
def test_recipes(values: dict[str, Any]) -> None:
    answer("recipe", lambda: Recipe().but(**values))
    answer("recipe as text", lambda: Recipe().but_text({key: str(value) for key, value in values.items()}))


@inputs(100)
@given(st.dictionaries(st.sampled_from([*Recipe.__dataclass_fields__, "x"]), scalar, max_size=3), damage)
def test_recipe_files(few: Path, values: dict[str, Any], changes: list[Any]) -> None:
    text = "".join(f"{key} = {json.dumps(value) if value is not None else 'none'}\n" for key, value in values.items())
    (few / "recipe.toml").write_bytes(damaged(text.encode(), changes))
    answer("recipe file", lambda: Recipe.from_toml(str(few / "recipe.toml")))


# ---- the command line ---------------------------------------------------------------------------------------------------------------


of_seat = [st.tuples(st.just(kind), expressions(sorted(CATALOG.kinds[kind]))) for kind in ("augment", "optimizer", "loss", "schedule")]
option = st.one_of(*of_seat, st.tuples(st.sampled_from(sorted(FAST)), st.one_of(scalar.map(str), expression)))


@inputs(40)
@given(st.lists(option, min_size=1, max_size=2))
def test_command_lines(photos: Path, changes: list[tuple[str, str]]) -> None:
    options = [word for key, value in {**FAST, **dict(changes)}.items() for word in (f"--{key.replace('_', '-')}", value)]
    said = goodfit("train", photos, "--dry", *options)
    OUTCOMES[f"exit {said.code}"] += 1
    assert said.code in (0, 2, 3) and "Traceback" not in said.err, said
    assert said.code == 0 or said.err.count("\ngoodfit: ") + said.err.startswith("goodfit: ") == 1, said
