"""Published weights: their names, their download over a real connection to this machine; files of weights, whole, broken and malicious."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from goodfit.core.commit import write_together
from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.fetch import fetch
from goodfit.core.parts import spell
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.data.preprocess import Preprocess
from goodfit.models.weights import published as hub
from goodfit.models.weights.files import Weights, are_imagenet_classes, from_file, from_published, from_run
from goodfit.models.weights.published import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INCEPTION_MEAN_AND_STD,
    PUBLISHED,
    PublishedWeights,
    resolve_published,
)
from goodfit.models.weights.saved import SavedModel, format_model
from goodfit.models.weights.tensor_file import read_tensors
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.transfer.pretrained import _load_weights

KNOWN = load_catalog()
KEYS: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "data" / "torchvision_keys.json").read_text())


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"head.weight": torch.randn(40, 300, generator=generator), "head.bias": torch.randn(40, generator=generator)}


def equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


# ---- the table ---------------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert (
        resolve_published("resnet18:imagenet")
        == resolve_published("resnet18")
        == resolve_published("resnet18:imagenet1k_v1")
        == "resnet18:IMAGENET1K_V1"
    )
    assert resolve_published("resnet50:imagenet") == "resnet50:IMAGENET1K_V2"
    assert resolve_published("resnet50:IMAGENET1K_V1") == "resnet50:IMAGENET1K_V1"
    assert resolve_published("runs/pets") == resolve_published("photos:x") == ""
    with pytest.raises(UsageError, match=r'weights of resnet18 "IMAGENET1K_V2".*There is: imagenet, IMAGENET1K_V1'):
        resolve_published("resnet18:IMAGENET1K_V2")


def test_each_file_says_its_hash_and_is_named_once() -> None:
    assert all(len(about.checksum) == 8 and int(about.checksum, 16) for about in PUBLISHED.values())
    assert PUBLISHED["resnet18:IMAGENET1K_V1"].url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert len({about.file for about in PUBLISHED.values()}) == len(PUBLISHED)


@functools.cache
def shapes_of(model: str, size: int) -> dict[str, tuple[int, ...]]:
    part: Any = KNOWN.make(model, "model")
    with torch.device("meta"):
        return {key: tuple(x.shape) for key, x in part(1000, 3, (size, size)).state_dict().items()}


@pytest.mark.item("S185")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_model_of_published_weights_takes_torchvisions_tensors(name: str) -> None:
    """At any size: what depends on the size of the images stands behind a mean over windows."""
    about = PUBLISHED[name]
    found = [shapes_of(about.model, size) for size in (about.size, 96)]
    theirs = {key: tuple(shape) for key, shape in KEYS[name.partition(":")[0]] if not key.lower().startswith("aux")}
    assert found[0] == found[1]
    assert {key: shape for key, shape in found[0].items() if key in theirs or "num_batches" not in key} == theirs


def test_inception_nets_see_what_torchvision_makes_of_the_input() -> None:
    x = np.random.default_rng(0).random((5, 3))
    theirs = (x - IMAGENET_MEAN) / IMAGENET_STD * (np.array(IMAGENET_STD) / 0.5) + (
        np.array(IMAGENET_MEAN) - 0.5
    ) / 0.5  # transform_input of googlenet and inception_v3
    for name in ("googlenet:IMAGENET1K_V1", "inception_v3:IMAGENET1K_V1"):
        assert np.allclose((x - PUBLISHED[name].mean) / PUBLISHED[name].std, theirs, atol=1e-12)
    assert PUBLISHED["resnet18:IMAGENET1K_V1"].mean != INCEPTION_MEAN_AND_STD


def test_imagenets_classes_are_known_by_their_ids() -> None:
    ids = ["n01440764", *(f"n02{i:06d}" for i in range(998)), "n15075141"]
    assert are_imagenet_classes(ids) and Weights("", "", {}, imagenet=True).has_classes(ids)
    assert (
        not are_imagenet_classes(ids[:-1])
        and not are_imagenet_classes(list(reversed(ids)))
        and not are_imagenet_classes([*ids[:500], "cat", *ids[501:]])
    )
    assert not Weights("", "", {}).has_classes(ids)
    assert Weights("", "", {}, classes=("a", "b")).has_classes(["a", "b"]) and not Weights("", "", {}, classes=("a", "b")).has_classes(
        ["b", "a"]
    )


# ---- downloads ---------------------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves one file; `ranges` says whether it knows of them, `breaks` after how many bytes it hangs up; `asked` has the ranges."""

    content = b""
    ranges = True
    breaks = 0
    asked: list[str]


class Reply(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        content, start = self.server.content, 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.breaks or None])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of the published weights "tiny:V1"."""
    file = io.BytesIO()
    torch.save(some_tensors(), file)
    there = Server(("127.0.0.1", 0), Reply)
    there.content, there.asked = file.getvalue(), []
    checksum = hashlib.sha256(there.content).hexdigest()
    monkeypatch.setitem(PUBLISHED, "tiny:V1", PublishedWeights(f"tiny-{checksum[:8]}.pth", "linear", 50.0, 90.0, 16, 18))
    monkeypatch.setattr(hub, "BASE_URL", f"http://127.0.0.1:{there.server_port}/")
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield there
    there.shutdown()
    thread.join()
    there.server_close()


class Sentences(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


def place() -> Path:
    return Path(os.environ["GOODFIT_CACHE"]) / "downloads" / "weights" / PUBLISHED["tiny:V1"].file


def test_published_weights_are_fetched_once(server: Server) -> None:
    reporter = Sentences()
    for _ in range(2):
        weights = _load_weights("tiny:imagenet", reporter)
        assert equal(weights.tensors, some_tensors())
    assert server.asked == [""] and reporter.sentences == [f"Fetching {PUBLISHED['tiny:V1'].url}"]
    assert (weights.name, weights.model, weights.size, weights.mean, weights.std) == (
        "tiny:V1",
        "linear",
        (16, 16),
        IMAGENET_MEAN,
        IMAGENET_STD,
    )
    assert weights.sha256 == hashlib.sha256(server.content).hexdigest() and "50.0 %" in weights.accuracy
    assert not place().with_name(f"{place().name}.part").exists()


def test_a_download_that_broke_off_goes_on(server: Server) -> None:
    server.breaks = 20_000
    with pytest.raises(DataError, match=r"connection closed with [\d,]+ bytes missing; 20,000 bytes have arrived and are kept") as error:
        from_published("tiny:V1", print)
    assert str(place()) in str(error.value) and not place().exists()
    server.breaks = 0
    assert equal(from_published("tiny:V1", print).tensors, some_tensors())
    assert server.asked == ["", "bytes=20000-"]


def test_a_server_without_ranges_sends_all_again(server: Server) -> None:
    place().parent.mkdir(parents=True)
    place().with_name(f"{place().name}.part").write_bytes(b"x" * 1000)
    server.ranges = False
    assert equal(from_published("tiny:V1", print).tensors, some_tensors())
    assert server.asked == ["bytes=1000-"]


def test_a_part_that_is_too_long_is_fetched_anew(server: Server) -> None:
    place().parent.mkdir(parents=True)
    place().with_name(f"{place().name}.part").write_bytes(server.content + b"x")
    assert equal(from_published("tiny:V1", print).tensors, some_tensors())
    assert server.asked == [f"bytes={len(server.content) + 1}-", ""]


def test_a_wrong_hash_is_refused(server: Server) -> None:
    server.content = server.content[:-1] + b"?"
    for _ in range(2):
        with pytest.raises(DataError, match=rf'"{place()}" is damaged \(SHA-256 \w+, expected \w+\): remove it'):
            from_published("tiny:V1", print)
    place().unlink()
    place().with_name(f"{place().name}.part").write_bytes(b"from another file")
    with pytest.raises(DataError, match="is damaged"):
        from_published("tiny:V1", print)


def test_offline_says_where_to_put_the_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "BASE_URL", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(DataError, match=r"cannot be fetched .*refused.*put that file at") as error:
        from_published("tiny:V1", print)
    assert str(place()) in str(error.value) and "\n" not in str(error.value)
    place().write_bytes(server.content)
    assert equal(from_published("tiny:V1", print).tensors, some_tensors())


def test_a_server_that_does_not_know_the_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reply, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(DataError, match=r"cannot be fetched \(Not Found\)"):
        fetch(f"http://127.0.0.1:{server.server_port}/x", tmp_path / "x", "", "sha256", print)


def test_a_file_of_a_published_name_is_that_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / PUBLISHED["tiny:V1"].file
    path.write_bytes(server.content)
    weights = from_file(path)
    assert (weights.name, weights.model, server.asked) == (str(path), "linear", [])
    path.write_bytes(server.content + b"x")
    with pytest.raises(DataError, match="is not the published file of that name"):
        from_file(path)


# ---- files -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt"])
def test_files_of_tensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(some_tensors(), path)
    else:
        torch.save(some_tensors(), path)
    weights = from_file(path)
    assert equal(weights.tensors, some_tensors()) and weights.name == str(path)
    assert (weights.model, weights.size, weights.mean, weights.classes) == ("", (), (), ())
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("old", [False, True])
def test_what_training_scripts_put_around_them(old: bool, tmp_path: Path) -> None:
    path, optimizer = tmp_path / "a.pth", {"state": {0: {"step": torch.zeros(())}}, "lr": 0.1}
    torch.save({"epoch": 3, "state_dict": some_tensors(), "optimizer": optimizer}, path, _use_new_zipfile_serialization=not old)
    file = read_tensors(path)
    assert equal(file.tensors, some_tensors()) and (file.keys, file.others, file.is_sorted) == (("state_dict",), (), False)


@pytest.mark.parametrize(
    ("content", "keys", "others"),
    [
        ({"model_state_dict": "raw", "loss": 0.3}, ("model_state_dict",), ()),
        ({"model": "raw", "ema": {"decay": 0.999}}, ("model",), ()),
        ({"model": "raw", "model_ema": "averaged"}, ("model_ema",), ("model",)),
        ({"state_dict": "raw", "state_dict_ema": "averaged", "arch": "net"}, ("state_dict_ema",), ("state_dict",)),
        ({"model": {"state_dict": "raw"}}, ("model", "state_dict"), ()),
        ({"ema": {"module": "averaged", "updates": 7}, "model": "raw"}, ("ema", "module"), ("model",)),
    ],
)
def test_where_the_tensors_lie(content: Any, keys: tuple[str, ...], others: tuple[str, ...], tmp_path: Path) -> None:
    """An averaged net is taken before the last one, and a key without tensors is none."""
    tensors = {"raw": some_tensors(), "averaged": {name: x + 1 for name, x in some_tensors().items()}}

    def filled(value: Any) -> Any:
        return {key: filled(x) for key, x in value.items()} if isinstance(value, dict) else tensors.get(value, value)

    torch.save(filled(content), tmp_path / "a.pth")
    file = read_tensors(tmp_path / "a.pth")
    assert (file.keys, file.others) == (keys, others)
    assert equal(file.tensors, tensors["averaged" if "averaged" in str(content) else "raw"])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo evil",)


@pytest.mark.parametrize("old", [False, True])
def test_nothing_but_tensors_is_unpickled(old: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for what, said in (
        (Evil(), r"holds code \((posix|nt)\.system\)"),
        (nn.Linear(2, 2), r"holds code \(torch\.nn\.modules\.linear\.Linear\)"),
    ):
        torch.save({"head.weight": what}, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(DataError, match=said) as error:
            from_file(tmp_path / "a.pth")
        assert "\n" not in str(error.value) and "state_dict()" in str(error.value)
    assert "evil" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pth", b"", "cannot be read as weights"),
        ("a.pth", b"not weights at all", "so it is not opened"),
        ("a.pth", b"PK\x03\x04 torn", "cannot be read as weights"),
        ("a.safetensors", b"", "cannot be read as weights"),
        ("a.safetensors", b"x" * 100, "cannot be read as weights"),
        ("a.onnx", b"x", r"ends in \.safetensors, \.pth, \.pt, received"),
        ("a.pth", {}, "Expected tensors by name in .* received none"),
        ("a.pth", [1, 2], "received a list"),
        ("a.pth", {"weight": 3.0}, "received a float at 'weight'"),
        ("a.pth", {1: torch.zeros(2)}, "received a Tensor at 1"),
    ],
)
def test_other_files(name: str, content: Any, said: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(DataError, match=said) as error:
        from_file(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_truncated_file(tmp_path: Path) -> None:
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        if path.suffix == ".pth":
            torch.save(some_tensors(), path)
        else:
            save_file(some_tensors(), path)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(DataError, match="cannot be read as weights"):
            from_file(path)


def test_no_such_weights(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r'resnet18:imagenet; found nothing at "resnet81:imagenet"\. Did you mean "resnet18"\? Published are'
    ):
        _load_weights("resnet81:imagenet", SilentReporter())
    with pytest.raises(UsageError, match="Expected a run folder at"):
        _load_weights(str(tmp_path), SilentReporter())


# ---- the kept model of a run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved_run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    (run.path / "use").mkdir(parents=True)
    (run.path / "use" / "parts.py").write_text("")
    parts = {seat: KNOWN.make(text, seat) for seat, text in (("model", "linear"), ("loss", "softmax"), ("views", "center"))}
    preprocess = Preprocess((4, 5), (6, 7), 3, "pad", 65535, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    write_together(run.path, format_model(run, nn.Linear(60, 2), parts, ["cat", "dog"], preprocess))
    return run


def test_a_saved_model_reads_as_it_was_written(saved_run: Run) -> None:
    saved = SavedModel.read(saved_run)
    assert (saved.classes, saved.model, saved.temperature) == (("cat", "dog"), spell(KNOWN.make("linear", "model"), full=True), 1.0)
    assert saved.preprocess == Preprocess((4, 5), (6, 7), 3, "pad", 65535, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert saved.use_files == (saved_run.path / "use" / "parts.py",)
    assert saved.tensors["weight"].shape == (2, 60)
    assert saved.sha256 == hashlib.sha256((saved_run.path / "model.safetensors").read_bytes()).hexdigest()
    saved_run.update("config.json", {"temperature": 1.5})
    assert SavedModel.read(saved_run).temperature == 1.5
    saved_run.write("scores.json", {"validation": {"accuracy": 0.875}})
    weights = from_run(saved_run, print)
    assert (weights.classes, weights.size, weights.mean) == (("cat", "dog"), (4, 5), (0.1, 0.2, 0.3))
    assert weights.accuracy == "87.5 % on its own validation images"


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", "zz"), ("model.safetensors", None), ("config.json", "{"), ("config.json", "[1]")]
)
def test_a_damaged_saved_model(saved_run: Run, name: str, content: str | None) -> None:
    if content is None:
        (saved_run.path / name).unlink()
    else:
        (saved_run.path / name).write_text(content)
    with pytest.raises(GoodfitError, match=f'"{saved_run.path / name}" does not read'):
        SavedModel.read(saved_run)


def test_a_run_without_a_saved_model(saved_run: Run) -> None:
    (saved_run.path / "config.json").unlink()
    with pytest.raises(UsageError, match="has no model yet: train it to its end"):
        SavedModel.read(saved_run)
    saved_run.write("ensemble.json", {"members": []})
    with pytest.raises(UsageError, match="Expected one model, received the ensemble"):
        SavedModel.read(saved_run)
