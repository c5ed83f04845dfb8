"""Options, recipes and paths that nobody means: one sentence or a plan, never a traceback, and within a time limit."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

from goodfit.core.errors import UsageError
from goodfit.core.toml import MAX_KEY_PARTS, parse_toml
from goodfit.recipe import parts
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.recipe.recipe import Recipe
from tests.support.command import FAST, goodfit, refused, train

LIMIT = 20  # seconds for each case; most take a tenth of one
SAMPLES = 40  # that are tried by default

FIELDS = [field for field in Recipe.__dataclass_fields__ if field not in ("data", "use", "device")]
VALUES = (
    "1e300", "1e999", "-1", "nan", "0", "1e-320", "9" * 400, "9" * 5000, str(2**63), str(10**18), "(" * 3000 + ")" * 3000, "[" * 3000,
    "x" * 5000, "/dev/zero", "PIPE", "1e300 epochs", "1e18 steps", "\x1b[2J", "mlp((99999999999999999999,))", "resnet(99999999999)",
    "rotate(1e308)", "crop(99999999999999999999)", "sgd(1e308)", "ema(0.99999999999999999999)",
)  # fmt: skip
CASES = list(itertools.product(FIELDS, VALUES))


@contextlib.contextmanager
def time_limit(case: object) -> Iterator[None]:
    """Fail where the block takes longer."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"{case} takes longer than {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_option(photos: Path, pipe: Path, field: str, value: str) -> int:
    """The exit code of a plan with one field of the recipe set to a value."""
    options = {**FAST, field: value.replace("PIPE", str(pipe))}
    names = {"source": "from"}
    words = [f"--{names.get(key, key.replace('_', '-'))}={text}" for key, text in options.items()]
    with time_limit((field, value[:40])):
        said = goodfit("train", photos, "--dry", *words)
    assert said.code in (0, 1, 2, 3) and "Traceback" not in said.err, (field, value[:40], said)
    assert said.code == 0 or said.sentence.startswith("goodfit: "), (field, value[:40], said)
    assert "\x1b" not in said.err
    return said.code


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_some_options(photos: Path, pipe: Path) -> None:
    ends = Counter(try_option(photos, pipe, *case) for case in random.Random(0).sample(CASES, SAMPLES))
    print(f"{SAMPLES} of {len(CASES)} cases, by exit code: {dict(ends)}")
    assert ends[2] and set(ends) <= {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("field", FIELDS)
def test_all_options(photos: Path, pipe: Path, field: str) -> None:
    ends = Counter(try_option(photos, pipe, field, value) for value in VALUES)
    print(f"{field}: {dict(ends)}")


@pytest.mark.parametrize(
    "schedule",
    [
        "sgdr(growth=1e308)", "sgdr(1000000000)", "sgdr(period=1e-320)", "sgdr(period=1e-9)", "cyclic(1e-320)", "cyclic(1e-9)",
        "sgdr(99999, growth=1.1)",
    ],
)  # fmt: skip
def test_schedules_of_cycles_without_end(photos: Path, schedule: str) -> None:
    with time_limit(schedule):
        refused(goodfit("train", photos, "--dry", "--schedule", schedule, "--size", "16"), 2)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "DATA", "--seeds", "1001", "--dry"), ("train", "DATA", "--folds", "9" * 21, "--dry"), ("lr", "DATA", "--steps", "9" * 21),
        ("show", "DATA", "--augment", "flip", "--draws", "9" * 12), ("show", "DATA", "--augment", "flip", "--images", "1001"),
        ("evaluate", "run", "--marginalize", "9" * 21), ("doctor", "DATA", "--jobs", "3000"), ("search", "DATA", "--workers", "3000"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_numbers_by_which_a_command_has_no_end(photos: Path, words: tuple[str, ...]) -> None:
    with time_limit(words):
        refused(
            goodfit(*(str(photos) if word == "DATA" else word for word in words)),
            2,
            f"Expected {words[-2 - (words[-1] == '--dry')]} to be",
            "or less",
        )


# ---- recipes -----------------------------------------------------------------------------------------------------------------------

HOSTILE_TOML = {
    "nested arrays": ("x = " + "[" * 100_000, "nested too deeply"),
    "a key of many parts": ("x." * 50_000 + "y = 1", f"more than {MAX_KEY_PARTS} parts"),
    "a table of many parts": ("[" + "x . " * 50_000 + "y]", f"more than {MAX_KEY_PARTS} parts"),
    "a key of many parts in a table in a line": ('t = {a = """b""""", ' + "x." * 50_000 + "y = 1}", f"more than {MAX_KEY_PARTS} parts"),
    "blanks alone": (" " * 60_000 + "!", "Invalid statement"),
    "blanks in a key": ("x" + " " * 60_000 + "!", "Expected '='"),
    "a string that does not end": ('x = """' + '\\"""' * 15_000 + "\\", "Unescaped"),
    "a quoted key of many parts": ('"a b". ' * 50_000 + "y = 1", f"more than {MAX_KEY_PARTS} parts"),
    "a number of many digits": ("seed = " + "9" * 10_000, "Exceeds the limit"),
    "inline tables": ("x = " + "{a = " * 50_000, "nested too deeply"),
    "no text": ("\udcff", "utf-8"),
    "control characters": ("model = 'a\x00\x1b[2J'", "not TOML"),
}


@pytest.mark.parametrize("kind", HOSTILE_TOML)
def test_hostile_recipes(tmp_path: Path, kind: str) -> None:
    text, says = HOSTILE_TOML[kind]
    (tmp_path / "r.toml").write_text(text, errors="surrogateescape")
    with time_limit(kind):
        said = goodfit("train", "digits", "--recipe", tmp_path / "r.toml", "--dry")
    refused(said, 2, says)
    assert "\x1b" not in said.err and "\x00" not in said.err


def test_what_is_read_of_toml_is_what_stands_there() -> None:
    """Lines of dots inside of strings and comments are no keys."""
    floats, dots = ", ".join(["0.5"] * 1000), "a." * 50
    text = f'x = [\n{floats}\n]\n"a.b.c" = "{dots}"\nversions.torch.cuda = 1\n# don\'t """ {dots}\n'
    text += f'basic = """\n{dots}\n\\"""\n{dots}"""""\nliteral = \'\'\'\n{dots}\n"""\n\'\'\' # it\'s\n'
    assert parse_toml(text) == {
        "x": [0.5] * 1000,
        "a.b.c": dots,
        "versions": {"torch": {"cuda": 1}},
        "basic": f'{dots}\n"""\n{dots}""',
        "literal": f'{dots}\n"""\n',
    }


# ---- paths -------------------------------------------------------------------------------------------------------------------------

LONG_NAME, LONG_PATH = "x" * 300, "/".join(["x" * 100] * 60)


@pytest.mark.parametrize("long", [LONG_NAME, LONG_PATH])
def test_paths_that_are_too_long(photos: Path, tmp_path: Path, long: str) -> None:
    place = tmp_path / long
    refused(train(photos, place), 1, "cannot be written (File name too long); choose another folder")
    refused(train(photos, place / "inside", "--resume", "auto"), 1, "too long")
    refused(goodfit("train", place, "--dry"), 3, "File name too long")
    for words in (
        ("train", photos, "--recipe", place, "--dry"), ("train", photos, "--from", place, "--dry"), ("evaluate", place),
        ("predict", place, photos), ("report", place), ("runs", place), ("show", photos, "--out", place, "--augment", "flip"),
        ("train", photos, "--validation", place, "--dry"), ("train", photos, "--use", place, "--dry"), ("audit", photos, "--html", place),
        ("train", photos, "--folds", "3", "--groups", place, "--dry"), ("compare", place, place), ("ensemble", place, place),
        ("search", photos, "--out", place, "--trials", "1"),
    ):  # fmt: skip
        with time_limit(words):
            said = goodfit(*words)
        assert said.code in (1, 2, 3) and "Traceback" not in said.err and said.sentence.startswith("goodfit: "), (words[:2], said)


def test_pipes_and_devices_as_any_path(photos: Path, tmp_path: Path, pipe: Path) -> None:
    for place in (pipe, Path("/dev/zero"), Path("/dev/stdin")):
        for words in (
            ("train", place, "--dry"), ("train", photos, "--recipe", place, "--dry"), ("train", photos, "--from", place, "--dry"),
            ("train", photos, "--validation", place, "--dry"), ("train", photos, "--use", place, "--dry"), ("evaluate", place),
            ("train", photos, "--folds", "3", "--groups", place, "--dry"), ("predict", place, photos), ("report", place), ("audit", place),
            ("search", photos, "--space", f"{place}", "--trials", "1"), ("train", photos, "--out", place),
        ):  # fmt: skip
            with time_limit(words):
                said = goodfit(*words)
            assert said.code in (1, 2, 3) and "Traceback" not in said.err and said.sentence.startswith("goodfit: "), (words, said)


# ---- models that do not fit ----------------------------------------------------------------------------------------------------------


class Sized:
    """A network of the user's own with so many numbers, in blocks."""

    kind = "model"

    def __init__(self, blocks: int, each: int, made: list[int]) -> None:
        self.blocks, self.each, self.made = blocks, each, made

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        layers = nn.ModuleList()
        for _ in range(self.blocks):
            layers.append(nn.Linear(self.each, 1, bias=False))
            self.made.append(self.each)
        return layers


def test_a_model_is_stopped_before_its_weights_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "available_memory", lambda: 10_000)
    made: list[int] = []
    with pytest.raises(UsageError, match=r"The weights of .* need more than the 10 kB of memory that are free: choose a smaller model"):
        make_model(Sized(100, 1000, made), 3, 3, (8, 8))
    assert len(made) == 2, "the third does not fit, and no other is made"
    assert len(list(make_model(Sized(2, 1000, []), 3, 3, (8, 8)).parameters())) == 2
    nn.Linear(100_000, 1)  # what is made elsewhere is not counted


@pytest.mark.parametrize("text", ["mlp((1000000000, 1000000000))", "mlp((99999999999999999999, 10))", f"mlp(({2**62}, 10))"])
def test_models_of_no_machine(text: str) -> None:
    with pytest.raises(UsageError, match=r"need more than the .* of memory that are free"):
        make_model(load_catalog().make(text, "model"), 3, 3, (8, 8))


def test_other_errors_of_a_model_are_its_own() -> None:
    def fail(*_: object) -> nn.Module:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        make_model(fail, 3, 3, (8, 8))
    assert torch.nn.modules.module._global_parameter_registration_hooks == {}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "Memory ran out: choose a smaller --model"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "Memory ran out"),
        (RuntimeError("can't start new thread"), "no more threads: choose fewer --workers"),
    ],
)
def test_a_machine_that_has_no_more_to_give(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("goodfit.recipe.prepare.build", fail)
    refused(train(photos, tmp_path / "run"), 1, says)
