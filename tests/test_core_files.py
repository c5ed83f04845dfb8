"""Files, run folders and the machine: nothing half written, a full disk in one sentence, the log whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from goodfit.core import files, memory, run
from goodfit.core.device import (
    autocast,
    describe_machine,
    free_memory,
    is_out_of_memory,
    memory_format,
    physical_cores,
    seed_noise,
    select_device,
)
from goodfit.core.errors import DataError, Diverged, GoodfitError, Interrupted, Terminated, UsageError, did_you_mean, unknown_name
from goodfit.core.run import Run, list_runs
from goodfit.core.run_files import DamagedFile
from goodfit.core.words import count_of, format_bytes, format_duration, format_percent, list_some


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- files ------------------------------------------------------------------------------------------------------------------------


class Full:
    """A file on a disk that is full after a few bytes."""

    def __init__(self, file: Any, error: int) -> None:
        self.file, self.error = file, error

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: Any) -> int:
        self.file.write(content[:3])
        self.file.flush()
        raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called, makes every file opened for writing fail with an error number."""
    opened = Path.open

    def fill(error: int) -> None:
        def open_full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            file = opened(path, mode, *rest, **named)
            return Full(file, error) if set(mode) & set("wa") else file

        monkeypatch.setattr(Path, "open", open_full)

    return fill


@pytest.mark.parametrize(
    ("error", "said"), [(errno.ENOSPC, "No space is left"), (errno.EDQUOT, "No space is left"), (errno.EROFS, "cannot be written")]
)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, full_disk: Any, error: int, said: str) -> None:
    files.write_atomic(tmp_path / "a.json", "the old content")
    full_disk(error)
    with pytest.raises(GoodfitError, match=said) as caught:
        files.write_atomic(tmp_path / "a.json", "the new content")
    assert caught.value.exit_code == 1
    assert str(tmp_path / "a.json") in str(caught.value)
    assert (tmp_path / "a.json").read_text() == "the old content"
    assert names(tmp_path) == ["a.json"]


def test_another_failure_is_not_hidden(tmp_path: Path, full_disk: Any) -> None:
    full_disk(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.write_atomic(tmp_path / "a.json", "x")
    assert names(tmp_path) == []


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.atomic_writer(tmp_path / "sub" / "a.bin") as file:
        file.write(b"half")
        raise KeyError
    assert names(tmp_path / "sub") == []


def test_writes_are_synced_before_they_take_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(files.os, "fsync", lambda handle, sync=os.fsync: (order.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to, replace=Path.replace: (order.append("replace"), replace(self, to))[1])
    files.write_atomic(tmp_path / "a", b"\x00\xff")
    assert order == ["fsync", "replace", "fsync"]
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GoodfitError, match="cannot be written"):
        files.write_atomic(tmp_path / "file" / "a", "x")


def test_cache_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOODFIT_CACHE", "/here")
    assert files.cache_folder() == Path("/here")
    monkeypatch.delenv("GOODFIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert files.cache_folder() == Path("/there/goodfit")


# ---- the run folder ---------------------------------------------------------------------------------------------------------------

ROWS = [
    {"kind": "train", "step": 1, "loss": 2.5},
    {"kind": "evaluate", "step": 1},
    {"kind": "train", "step": 2, "loss": None},
    {"kind": "event", "step": 2, "text": "é\u2028\n"},
]


def test_the_log_keeps_its_lines_and_drops_a_torn_one(tmp_path: Path) -> None:
    one = Run.new(tmp_path / "one", "x")
    assert one.log() == []
    one.append(ROWS[:2])
    one.append(ROWS[2:])
    assert one.log() == ROWS
    assert one.log("train") == [ROWS[0], ROWS[2]]
    whole = (one.path / "log.jsonl").read_text()
    for torn in range(1, len(whole.splitlines(keepends=True)[-1])):
        (one.path / "log.jsonl").write_text(whole[:-torn])
        assert one.log() == ROWS[: 3 + (torn == 1)]


def test_the_log_is_cut_back(tmp_path: Path) -> None:
    one = Run.new(tmp_path / "one", "x")
    one.append(ROWS)
    with (one.path / "log.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    one.cut_log(1)
    assert (one.path / "log.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in ROWS[:2])
    one.append(ROWS[2:])
    assert one.log() == ROWS


def test_json_files_of_a_run(tmp_path: Path) -> None:
    one = Run.new(tmp_path / "one", "x")
    assert one.read("about.json") == {}
    one.write("about.json", {"a": 1, "b": [1.5, None]})
    one.update("about.json", {"a": 2})
    assert one.read("about.json") == {"a": 2, "b": [1.5, None]}
    assert files.measure_folder(one.path) == sum(f.stat().st_size for f in (tmp_path / "one").iterdir() if f.is_file()) > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"), (b'{"state": "fini', "Unterminated string"), (b"[1]", "expected an object, found list"),
        (b"null", "expected an object, found NoneType"), (b"\xff" * 9, "it is no text"), (b"[" * 100_000, "recursion"),
        (b'{"state": 3}', "its state is not what was written"), (b'{"data": {"digest": 1}}', "its data.digest is not what was written"),
        (b'{"state": "finished"}', "it has no data.digest"), (b"{}", "it is empty"), (None, "it is gone"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_read_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """With what to do, and what works without it."""
    if content is not None:
        (tmp_path / "about.json").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"restore a copy of it, or train anew .* work without it") as error:
        Run(tmp_path).read("about.json", "data.digest")
    assert str(error.value).startswith(f'"{tmp_path / "about.json"}" does not read (')
    assert reason in str(error.value)


def test_any_change_of_a_json_file_is_noticed(tmp_path: Path) -> None:
    """Of a value, of a name, and the content of another file; what is without a checksum, as in earlier versions, is read."""
    run, content = Run(tmp_path), {"temperature": 1.5, "model": "linear", "é": [None, 1e-30, {"x": True}]}
    run.write("config.json", content)
    text = (tmp_path / "config.json").read_bytes()
    for old, new in ((b"1.5", b"1.6"), (b"model", b"mobel"), (b"1e-30", b"1e-31"), (b"true", b"false"), (b"linear", b"linnet")):
        (tmp_path / "config.json").write_bytes(text.replace(old, new))
        with pytest.raises(DamagedFile, match="its checksum differs; if you changed it by hand, remove its line"):
            run.read("config.json")
    (tmp_path / "scores.json").write_bytes(text)
    with pytest.raises(DamagedFile, match="its checksum differs"):
        run.read("scores.json")
    (tmp_path / "config.json").write_text(json.dumps(json.loads(text), indent=4))
    assert run.read("config.json") == content, "spaces are no values"
    (tmp_path / "config.json").write_text(json.dumps({**content, "temperature": 2}))
    assert run.read("config.json")["temperature"] == 2


def test_a_full_disk_under_the_log(tmp_path: Path, full_disk: Any) -> None:
    one = Run.new(tmp_path / "one", "x")
    full_disk(errno.ENOSPC)
    with pytest.raises(GoodfitError, match=r"No space is left to write .*log\.jsonl"):
        one.append(ROWS)


def test_new_runs_have_folders_of_their_own_and_latest_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.time, "strftime", lambda form: "20260101-000000")
    made = [Run.new(None, "digits", tmp_path / "runs") for _ in range(3)]
    assert [one.name for one in made] == ["20260101-000000-digits", "20260101-000000-digits-1", "20260101-000000-digits-2"]
    latest = tmp_path / "runs" / "latest"
    made[2].point_latest()
    assert latest.resolve() == made[2].path.resolve()
    made[0].point_latest()
    assert latest.resolve() == made[0].path.resolve()
    assert all(one.checkpoints.is_dir() for one in made)
    assert not [name for name in names(tmp_path / "runs") if name.startswith(".")]


def test_latest_of_the_users_own_is_left(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    Run.new(tmp_path / "one", "x").point_latest()
    assert not (tmp_path / "latest").is_symlink()


def test_out_must_be_a_new_or_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = Run.new(tmp_path / "empty", "x")
    Run.new(tmp_path / "empty", "x")  # one that was killed before it was written down is no obstacle
    (run.path / "recipe.toml").write_text("")
    with pytest.raises(UsageError, match="is not empty: choose another --out"):
        Run.new(tmp_path / "empty", "x")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match=r"Expected a folder for the run at .*, found a file"):
        Run.new(tmp_path / "file", "x")
    with pytest.raises(GoodfitError, match="cannot be written"):
        Run.new(tmp_path / "file" / "inside", "x")
    with pytest.raises(GoodfitError, match="cannot be written"):
        Run.new(None, "x", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_runs_are_listed_oldest_first_and_named_when_one_is_missing(tmp_path: Path) -> None:
    for place, name in enumerate(("c", "a", "b")):
        one = Run.new(tmp_path / name, "x")
        (one.path / "recipe.toml").write_text("")
        os.utime(one.path / "recipe.toml", (1000 + place, 1000 + place))
    Run.new(tmp_path / "unborn", "x")
    assert [one.name for one in list_runs(tmp_path)] == ["c", "a", "b"]
    assert Run.open(tmp_path / "a").name == "a"
    with pytest.raises(UsageError, match=r"Expected a run folder at .*nothing.*There is: .*c, .*a, .*b\."):
        Run.open(tmp_path / "nothing")


# ---- the machine ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuda:99", "warp", "mps:3", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=f'The device "{name}" is not there: '):
        select_device(name)


def test_choose() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("auto").type in ("cuda", "mps", "cpu")


def test_out_of_memory_is_recognized() -> None:
    told = [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried",
        "can't allocate memory",
        "DefaultCPUAllocator failed",
        "not enough memory: you tried",
    ]
    assert all(is_out_of_memory(RuntimeError(text)) for text in told)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value), "torch's own"


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast(precision: str, dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.Linear(4, 2)(torch.randn(3, 4)).dtype == dtype
    assert torch.nn.Linear(4, 2)(torch.randn(3, 4)).dtype == torch.float32


def test_noise_is_seeded_as_by_torch() -> None:
    seed_noise(11, torch.device("cpu"))
    found = torch.rand(5)
    torch.manual_seed(11)
    assert torch.equal(found, torch.rand(5))


def test_the_machine_is_known() -> None:
    known = describe_machine(torch.device("cpu"))
    assert 1 <= physical_cores() == known["cores"]
    assert known["device"] == "cpu"
    assert known["gpu"] is None
    assert json.loads(json.dumps(known)) == known
    assert 0 < free_memory(torch.device("cpu")) <= known["memory_gb"] * 1.1e9
    assert memory_format("channels_last") is torch.channels_last
    assert memory_format("contiguous") is torch.contiguous_format


# ---- errors and words -------------------------------------------------------------------------------------------------------------


def test_exit_codes() -> None:
    kinds = (GoodfitError, UsageError, DataError, Diverged, Interrupted, Terminated)
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 130, 143]


def test_suggestions() -> None:
    assert did_you_mean("momentun", ["lr", "momentum"]) == ' Did you mean "momentum"?'
    assert did_you_mean("zzz", ["lr", "momentum"]) == ""
    assert unknown_name("part", "zzz", ["a", "b"]) == 'Unknown part "zzz". There is: a, b.'


def test_words() -> None:
    assert [count_of(1, "image"), count_of(1200, "class", "classes")] == ["1 image", "1,200 classes"]
    assert [format_bytes(512), format_bytes(1.5e6), format_bytes(20e9), format_bytes(3e12)] == ["512 B", "1.5 MB", "20 GB", "3000 GB"]
    assert [format_duration(x) for x in (0.42, 12, 60, 200, 3600, 7500)] == [
        "0.42 s",
        "12 s",
        "1 min",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
    assert format_percent(0.985) == "98.5 %"
    assert [list_some(list("abc")), list_some(list("abcdefg"))] == ["a, b, c", "a, b, c, d, e and 2 more"]


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("resnet18", ["resnet", "vgg"], "resnet(18)"),
        ("SGD", ["adam", "sgd"], "sgd"),
        ("OneCycle", ["one_cycle", "cosine"], "one_cycle"),
        ("hinge", ["softmax", "svm"], "svm"),
        ("learning_rate", ["lr", "momentum"], "lr"),
        ("learning_rate", ["optimizer", "model"], "optimizer"),
        ("cosin", ["cosine", "step"], "cosine"),
        ("vgg16_bn", ["vgg", "resnet"], "vgg"),
        ("xyz", ["cosine", "step"], ""),
    ],
)
def test_what_is_meant_by_another_name(word: str, known: list[str], meant: str) -> None:
    assert did_you_mean(word, known) == (f' Did you mean "{meant}"?' if meant else "")


def test_files_that_were_read_are_no_used_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a container's limit; the system drops them from memory when it is asked for more."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in (("max", "9000"), ("current", "8900"), ("stat", "anon 700\ninactive_file 8000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.available_memory() == 9000 - 900
    memory.check_memory(8100, "x")
    with pytest.raises(DataError, match=r"needs 8\.1 kB of memory"):
        memory.check_memory(8101, "x")
