"""Predictions over HTTP, by real servers on loopback: equal to predict's, within limits, counted, described, and stopped in order."""

from __future__ import annotations

import io
import json
import re
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

import goodfit
from goodfit.core.run import Run
from goodfit.predict.onnx_network import use_onnx
from goodfit.serve.server import read_facts
from tests.support.command import goodfit as command
from tests.support.command import train
from tests.support.process import wait_until
from tests.support.server import ask, ask_form, serving, start_server
from tests.support.tasks import make_label_folder, make_number_folder, words_of


def encode(pixels: np.ndarray, kind: str = "png") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def noise(seed: int, height: int = 40, width: int = 33) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = [(f"{k}.{kind}", encode(noise(k, 20 + 7 * k % 50, 18 + 11 * k % 60), kind)) for k, kind in enumerate(["png", "jpeg", "webp"] * 14)]


class SlowNet(nn.Module):
    """A user's own net that takes its time for each batch."""

    def __init__(self, classes: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            time.sleep(0.5)
        out: Tensor = self.head(images.mean((2, 3)))
        return out


class Gate:
    """A predictor that computes only when its gate is open, and remembers how many images it decoded."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.open, self.decoded, self.fails = predictor, threading.Event(), 0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.predictor, name)

    def decode(self, image: Any) -> Any:
        self.decoded += 1
        return self.predictor.decode(image)

    def answers(self, decoded: Any) -> Tensor:
        assert self.open.wait(30)
        if self.fails:
            raise RuntimeError("no such luck\nmore")
        answers: Tensor = self.predictor.answers(decoded)
        return answers


@pytest.fixture(scope="module")
def predictor(source: Path) -> Any:
    """Of a convnet with a batch norm, in views, with a temperature."""
    Run(source).update("config.json", {"temperature": 1.7})
    return goodfit.load(source, views="flip_pair")


@pytest.fixture(scope="module")
def url(predictor: Any, source: Path) -> Iterator[str]:
    with serving(predictor, read_facts(Run(source)), max_bytes=200_000, max_pixels=10_000, queue=48, reject_below=0.4) as (url, _):
        yield url


def assert_same(found: list[dict[str, Any]], wanted: list[Any]) -> None:
    """The same answers, their numbers within 1e-5."""
    assert len(found) == len(wanted)
    for row, prediction in zip(found, wanted, strict=True):
        plain = json.loads(json.dumps(prediction.plain()))
        assert set(row) - {"rejected"} == set(plain)
        for key, value in plain.items():
            if key != "name":
                assert_close(row[key], value)


def assert_close(found: Any, wanted: Any) -> None:
    if isinstance(wanted, float):
        assert abs(found - wanted) <= 1e-5 * max(1, abs(wanted))
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        assert_close(list(found.values()), list(wanted.values()))
    elif isinstance(wanted, list) and wanted and not isinstance(wanted[0], str):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    else:
        assert found == wanted


# ---- answers -------------------------------------------------------------------------------------------------------------------------


def test_a_process_answers_as_predict(source: Path, tmp_path: Path) -> None:
    """One image as it is, the names of a form, and the exit code of a stop."""
    files = [tmp_path / name for name, _ in IMAGES[:3]]
    for file, (_, content) in zip(files, IMAGES, strict=False):
        file.write_bytes(content)
    wanted = json.loads(command("predict", source, *files, "--json", "--top", "2").out)
    process, url = start_server(tmp_path / "served", source)
    form = ask_form(url, IMAGES[:3], "/predict?top=2").json
    assert [row["name"] for row in form] == [name for name, _ in IMAGES[:3]]
    for found, row in zip(form, wanted, strict=True):
        assert_close({**found, "name": row["name"]}, row)
    (alone,) = ask(url, "/predict?top=2", IMAGES[0][1]).json
    assert_close({**alone, "name": wanted[0]["name"]}, wanted[0])
    process.send_signal(signal.SIGINT)
    assert (process.wait(), process.err) == (130, "goodfit: Stopped; 2 requests answered, those under way too.\n")


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_answers_are_the_same_in_whatever_batch(predictor: Any, source: Path, engine: str) -> None:
    """Many clients at a time, with one image or several each."""
    served = use_onnx(predictor, Run(source)) if engine == "onnx" else predictor
    wanted = predictor.predict([content for _, content in IMAGES], top=2)
    groups = [range(k, min(k + 1 + k % 3, len(IMAGES))) for k in range(0, len(IMAGES), 3)]
    with serving(served, batch=8, queue=1000) as (url, server), ThreadPoolExecutor(14) as clients:
        answers = list(clients.map(lambda group: ask_form(url, [IMAGES[k] for k in group], "/predict?top=2"), groups))
    assert {answer.status for answer in answers} == {200}
    for group, answer in zip(groups, answers, strict=True):
        assert_same(answer.json, [wanted[k] for k in group])
    sizes = server.metrics.batch_images
    assert sizes.sum == sum(map(len, groups)) > sum(sizes.counts) and not any(sizes.counts[4:])


@pytest.mark.parametrize("task", ["labels", "numbers"])
def test_labels_and_numbers(task: str, tmp_path: Path) -> None:
    folder = (make_label_folder if task == "labels" else make_number_folder)(tmp_path / "data", 60)
    said = command("train", folder, "--task", task, *words_of({"budget": "2 epochs"}), "--out", tmp_path / "run")
    assert said.code == 0, said.err
    images = [(f"{k}.png", (folder / f"{k}.png").read_bytes()) for k in range(4)]
    loaded = goodfit.load(tmp_path / "run")
    with serving(loaded) as (url, _):
        answer, model, described = ask_form(url, images), ask(url, "/model").json, ask(url, "/openapi.json").json
    assert_same(answer.json, loaded.predict([content for _, content in images]))
    assert (model["task"]["name"], model["classes"]) == (task, list(loaded.classes))
    check(answer.json, described["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"], described)


def test_a_broken_image_among_others_has_a_problem(url: str, predictor: Any) -> None:
    answer = ask_form(url, [IMAGES[0], ("b.png", b"none"), IMAGES[2]])
    assert answer.status == 200
    assert_same([answer.json[0], answer.json[2]], predictor.predict([IMAGES[0][1], IMAGES[2][1]]))
    assert answer.json[1] == {
        "name": "b.png", "label": "", "probability": 0.0, "classes": [], "probabilities": [], "rejected": False,
        "problem": "it is not an image, or its format is not supported",
    }  # fmt: skip
    assert [row["rejected"] for row in answer.json] == [row["probability"] < 0.4 and not row["problem"] for row in answer.json]


# ---- batches -------------------------------------------------------------------------------------------------------------------------


def test_images_collect_while_a_batch_is_computed_and_the_queue_is_bounded(predictor: Any) -> None:
    gate = Gate(predictor)
    with serving(gate, batch=4, queue=6, latency="0ms") as (url, server), ThreadPoolExecutor(6) as clients:
        first = clients.submit(ask, url, body=IMAGES[0][1])
        wait_until(lambda: server.metrics.batch_images.sum == 1)  # it is computed alone
        others = [clients.submit(ask, url, body=IMAGES[k][1]) for k in range(1, 6)]
        wait_until(lambda: gate.decoded == 6)
        full = ask(url, body=IMAGES[6][1])
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        assert "6 places" in full.error
        assert "goodfit_queue_images 6\n" in ask(url, "/metrics").body.decode()
        gate.open.set()
        answers = [job.result() for job in (first, *others)]
        assert ask(url, body=IMAGES[6][1]).status == 200
    assert [answer.status for answer in answers] == [200] * 6
    counts = dict(zip(server.metrics.batch_images.bounds, server.metrics.batch_images.counts, strict=False))
    assert (counts[1], counts[4]) == (3, 1), "1, then 4 and 1, then the last"
    assert server.metrics.errors["queue_full"] == 1


def test_an_image_does_not_wait_for_one_that_takes_long_to_decode(predictor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, slow = Gate(predictor), threading.Event()
    gate.open.set()

    def decode(content: bytes) -> Any:
        assert content != b"slow" or slow.wait(30)
        return predictor.decode(IMAGES[0][1])

    monkeypatch.setattr(gate, "decode", decode)
    monkeypatch.setattr("goodfit.serve.service.check_pixels", lambda content, most: None)
    monkeypatch.setattr("goodfit.serve.service.physical_cores", lambda: 2)
    with serving(gate, latency="30ms") as (url, server), ThreadPoolExecutor(2) as clients:
        late = clients.submit(ask, url, body=b"slow")
        wait_until(lambda: server.metrics.images_under_way == 1)
        assert ask(url, body=IMAGES[0][1]).status == 200
        assert not late.done()
        slow.set()
        assert late.result().status == 200


def test_a_model_that_fails_fails_that_request_alone(predictor: Any, capfd: pytest.CaptureFixture[str]) -> None:
    gate = Gate(predictor)
    gate.open.set()
    with serving(gate) as (url, server):
        gate.fails = True
        answer = ask_form(url, IMAGES[:2])
        gate.fails = False
        assert ask(url, body=IMAGES[0][1]).status == 200
    assert (answer.status, answer.json["kind"], server.metrics.images_under_way) == (500, "failed", 0)
    assert capfd.readouterr().err == "goodfit: A request failed (RuntimeError: no such luck).\n"


# ---- limits --------------------------------------------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, with pixels of a few rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def test_bytes_are_limited(url: str) -> None:
    for body in (bytes(200_001), iter([bytes(150_000)] * 2)):  # with its length ahead, and in chunks
        answer = ask(url, body=body)
        assert (answer.status, answer.json["kind"]) == (413, "too_large")
        assert answer.error == "Expected a request of 200 kB or less, received more."
    large = ask_form(url, [("a.png", bytes(150_000)), ("b.png", bytes(60_000))])
    assert (large.status, large.json["kind"]) == (413, "too_large")
    many = ask_form(url, [("a.png", IMAGES[0][1][:200])] * 49)
    assert (many.status, "48" in many.error) == (422, True), many.body


@pytest.mark.parametrize("content", [bomb(101, 100), bomb(60_000, 60_000), encode(noise(0, 101, 100), "jpeg")])
def test_too_many_pixels_are_refused_before_they_are_decoded(predictor: Any, content: bytes) -> None:
    gate = Gate(predictor)
    with serving(gate, max_pixels=10_000) as (url, _):
        answer = ask(url, body=content)
    assert (answer.status, answer.json["kind"], gate.decoded) == (422, "no_image", 0)
    assert re.search(r"than 10,000 pixels|bomb", answer.error)


def test_memory_for_all_requests_is_limited(predictor: Any) -> None:
    """Of 16 times the largest request; what ended is given back."""
    gate = Gate(predictor)
    size = len(IMAGES[0][1])
    with serving(gate, max_bytes=size, queue=100) as (url, _), ThreadPoolExecutor(16) as clients:
        held = [clients.submit(ask, url, body=IMAGES[0][1]) for _ in range(16)]
        wait_until(lambda: gate.decoded == 16)
        answer = ask(url, body=IMAGES[0][1])
        gate.open.set()
        assert {job.result().status for job in held} == {200}
        assert ask(url, body=IMAGES[0][1]).status == 200
    assert (answer.status, answer.json["kind"], "retry-after" in answer.headers) == (503, "memory_full", True)


def test_requests_that_are_none(url: str) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=a"}
    for body, headers in ((b"", {}), (b"x", {"Content-Type": "multipart/form-data"}), (b"no", form)):
        answer = ask(url, body=body, headers=headers)
        assert answer.status == 422, answer.body
        assert answer.error.endswith(".")
    for top in ("0", "-1", "x", "1" * 20, "%D9%A3"):
        assert ask(url, f"/predict?top={top}", IMAGES[0][1]).json["kind"] == "wrong_top"
    missing, wrong = ask(url, "/nothing"), ask(url, "/predict", method="DELETE")
    assert (missing.status, wrong.status, wrong.headers["allow"]) == (404, 405, "POST")
    assert "/predict, /model" in missing.error


# ---- what a server says of itself ----------------------------------------------------------------------------------------------------


def check(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Check a value against a schema, as far as our schemas go; other keywords fail."""
    if "$ref" in schema:
        *_, kind, name = schema["$ref"].split("/")
        check(value, document["components"][kind][name], document)
        return
    assert set(schema) <= {"type", "items", "properties", "required", "additionalProperties", "enum", "minimum", "maximum"}, schema
    kinds = {"array": list, "object": dict, "string": str, "number": (int, float), "boolean": bool}
    assert isinstance(value, kinds[schema["type"]]), (value, schema)
    assert value in schema.get("enum", [value])
    if schema["type"] == "array":
        for item in value:
            check(item, schema["items"], document)
    if schema["type"] == "number":
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if schema["type"] == "object":
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        assert set(schema.get("required", ())) <= set(value)
        for key, item in value.items():
            if key in properties or isinstance(others, dict):
                check(item, properties.get(key, others), document)
            else:
                assert others is True, key


def test_answers_are_as_openapi_describes_them(url: str) -> None:
    document = ask(url, "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    answers = {
        ("/predict", "post"): [ask_form(url, [*IMAGES[:3], ("b.png", b"none")]), ask(url, body=b"none"), ask(url, body=bytes(200_001)),
                               ask(url, body=IMAGES[0][1], headers={"Host": "evil.example"})],
        ("/model", "get"): [ask(url, "/model")], ("/health", "get"): [ask(url, "/health")], ("/metrics", "get"): [ask(url, "/metrics")],
        ("/openapi.json", "get"): [ask(url, "/openapi.json")], ("/docs", "get"): [ask(url, "/docs")],
    }  # fmt: skip
    assert set(answers) == {(path, method) for path, methods in document["paths"].items() for method in methods}
    for (path, method), given in answers.items():
        for answer in given:
            content = document["paths"][path][method]["responses"][str(answer.status)]["content"]
            ((media, described),) = content.items()
            assert answer.headers["content-type"].partition(";")[0] == media
            check(answer.json if media == "application/json" else answer.body.decode(), described["schema"], document)
    assert [answer.status for answer in answers["/predict", "post"]] == [200, 422, 413, 403]


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    answer = ask(url, "/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(rb"https?://|\bsrc=|\bhref=|@import|url\(", answer.body)
    for path in ask(url, "/openapi.json").json["paths"]:
        assert f"{path}</code></h2>".encode() in answer.body


def test_the_model_is_described(url: str, predictor: Any, source: Path) -> None:
    model, scores = ask(url, "/model").json, Run(source).scores["validation"]
    assert (model["name"], model["classes"], model["reject_below"]) == (source.name, list(predictor.classes), 0.4)
    assert model["temperatures"] == [1.7]
    assert model["validation"]["accuracy"] == scores["accuracy"]
    assert model["rejection"] == scores["calibration"]["rejection"]


def parse_metrics(text: str) -> dict[str, float]:
    """Samples by name and labels, by the rules of the text format: a type before its samples, whole lines, no sample twice."""
    samples: dict[str, float] = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert re.fullmatch(r"# HELP [a-z_:][a-z0-9_:]* [^\n]+", line)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("counter", "gauge", "histogram") and name not in kinds
            kinds[name] = kind
        else:
            match = re.fullmatch(r'([a-z_:][a-z0-9_:]*)(\{(?:[a-z_]+="[^"\\\n]*",?)*\})? (\S+)', line)
            assert match, line
            base = match[1] if match[1] in kinds else re.sub("_(bucket|sum|count)$", "", match[1])
            assert base in kinds and (kinds[base] == "histogram") == (base != match[1]), line
            assert match[1] + (match[2] or "") not in samples
            samples[match[1] + (match[2] or "")] = float(match[3])
    for name in (name for name, kind in kinds.items() if kind == "histogram"):
        buckets = [(match[1], value) for key, value in samples.items() if (match := re.fullmatch(rf'{name}_bucket{{le="(.*)"}}', key))]
        bounds = [float(bound) for bound, _ in buckets]
        assert bounds == sorted(bounds) and bounds[-1] == float("inf")
        assert [value for _, value in buckets] == sorted(value for _, value in buckets)
        assert buckets[-1][1] == samples[f"{name}_count"]
    return samples


def test_metrics_count_what_was_answered(predictor: Any) -> None:
    with serving(predictor) as (url, _):
        ask_form(url, [*IMAGES[:3], ("b.png", b"none")])
        ask(url, body=IMAGES[0][1])
        ask(url, body=b"none")
        ask(url, "/a/path/of/any/name")
        answer = ask(url, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = parse_metrics(answer.body.decode())
    assert found['goodfit_requests_total{path="/predict",status="200"}'] == 2
    assert found['goodfit_requests_total{path="/predict",status="422"}'] == 1
    assert found['goodfit_requests_total{path="other",status="404"}'] == 1
    assert (found["goodfit_images_total"], found['goodfit_errors_total{kind="broken_image"}']) == (6, 2)
    assert (found["goodfit_batch_images_sum"], found["goodfit_request_seconds_count"], found["goodfit_queue_images"]) == (4, 3, 0)
    assert 0 < found["goodfit_request_seconds_sum"] < 30


# ---- the end -------------------------------------------------------------------------------------------------------------------------


def test_a_stop_in_the_middle_of_a_request_answers_it(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "slow"
    assert train(photos, run, model="tests.test_serve.SlowNet", budget="1 step").code == 0
    process, url = start_server(tmp_path / "served", run, "--trust")
    with ThreadPoolExecutor(1) as client:
        under_way = client.submit(ask, url, body=IMAGES[0][1])
        wait_until(lambda: "goodfit_queue_images 1\n" in ask(url, "/metrics").body.decode())
        process.send_signal(signal.SIGTERM)
        assert under_way.result().status == 200
    assert process.wait() == 143
    assert re.fullmatch(r"goodfit: Stopped; \d+ requests answered, those under way too\.\n", process.err)
    with pytest.raises(ConnectionRefusedError):
        ask(url, "/health")
