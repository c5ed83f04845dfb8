"""Who a server lets in, and whom it cuts off: hosts, origins, tokens, and clients that are slow on purpose."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import goodfit
from goodfit.core.errors import UsageError
from goodfit.serve import connections
from goodfit.serve.listening import open_address
from goodfit.serve.options import ServeOptions, read_token
from tests.support.command import goodfit as command
from tests.support.command import refused
from tests.support.photos import COLORS, picture
from tests.support.process import wait_until
from tests.support.server import ask, connect, serving, start_server

TOKEN = "a-token-of-32-characters-0123456"
POST = "POST /predict HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def predictor(source: Path) -> Any:
    return goodfit.load(source)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from PIL import Image

    file = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(picture(COLORS["red"], 1)).save(file)
    return file.read_bytes()


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    content = b""
    try:
        while piece := connection.recv(65536):
            content += piece
    except ConnectionResetError:
        pass
    return content


# ---- who may ask ---------------------------------------------------------------------------------------------------------------------


def test_other_hosts_and_origins_are_refused_on_loopback(predictor: Any, image: bytes) -> None:
    with serving(predictor) as (url, server):
        place = url.removeprefix("http://")
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", place):
            assert ask(url, "/model", headers={"Host": host}).status == 200
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::2]"):
            answer = ask(url, body=image, headers={"Host": host})
            assert (answer.status, answer.json["kind"]) == (403, "wrong_host"), host
        with connect(url, "GET /model HTTP/1.0\r\n\r\n") as connection:
            assert b" 403 " in read_all(connection)
        assert ask(url, body=image, headers={"Origin": url}).status == 200
        for origin in ("http://evil.example", "null", f"http://evil.example/{place}"):
            assert ask(url, body=image, headers={"Origin": origin}).json["kind"] == "wrong_origin"
    assert (server.metrics.errors["wrong_host"], server.metrics.errors["wrong_origin"], server.metrics.images) == (6, 3, 1)


def test_a_token_is_needed_where_there_is_one(predictor: Any, image: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with serving(predictor, token_file=file, host="0.0.0.0") as (wide, _):
        url = wide.replace("0.0.0.0", "127.0.0.1")
        for given in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer", "Bearer ü"):
            for path in ("/predict", "/model", "/metrics", "/nothing"):
                answer = ask(url, path, image if path == "/predict" else None, {"Authorization": given.encode("latin-1")})  # type: ignore[dict-item]
                assert (answer.status, answer.json["kind"], answer.headers["www-authenticate"]) == (401, "wrong_token", "Bearer")
        for path in ("/health", "/docs", "/openapi.json"):
            assert ask(url, path).status == 200
        for given in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
            answer = ask(url, body=image, headers={"Authorization": given, "Host": "any.example"})
            assert answer.status == 200
        document = ask(url, "/openapi.json").json
        assert document["security"] == [{"token": []}] and document["paths"]["/health"]["get"]["security"] == []
        assert 'name="token"' in ask(url, "/docs").body.decode()


def test_other_addresses_need_a_token(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(command("serve", source, "--host", "0.0.0.0", "--port", "0"), 2, "Expected a token", "--token-file", "GOODFIT_TOKEN")
    (tmp_path / "short").write_text("short-secret")
    said = command("serve", source, "--token-file", tmp_path / "short")
    refused(said, 2, "16 or more")
    assert "short-secret" not in said.err
    refused(command("serve", source, "--token-file", tmp_path / "none"), 2, "cannot be read: No such file")
    monkeypatch.setenv("GOODFIT_TOKEN", TOKEN)
    process, url = start_server(tmp_path / "served", source, "--host", "0.0.0.0")
    monkeypatch.delenv("GOODFIT_TOKEN")
    near = url.replace("0.0.0.0", "127.0.0.1")
    assert [ask(near, "/model", headers={"Authorization": f"Bearer {given}"}).status for given in (TOKEN, TOKEN[1:])] == [200, 401]
    process.send_signal(15)
    assert process.wait() == 143
    assert "Warning: requests and the token travel unencrypted" in process.err
    assert TOKEN not in process.err + process.out


def test_tokens_are_read_from_files_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token(None) == ""
    monkeypatch.setenv("GOODFIT_TOKEN", f" {TOKEN} ")
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-of-a-file\n")
    assert read_token(tmp_path / "token") == f"{TOKEN}-of-a-file"
    (tmp_path / "token").write_text("two words of more than 16 letters")
    with pytest.raises(UsageError, match="punctuation marks in"):
        read_token(tmp_path / "token")


def test_addresses_that_cannot_be_taken(source: Path) -> None:
    with open_address(ServeOptions(port=0)).listener as listener:
        listener.listen()
        refused(command("serve", source, "--port", str(listener.getsockname()[1])), 2, "cannot be listened at", "--port")
    refused(command("serve", source, "--host", "no.such.host.invalid"), 2, "Expected --host")
    for option, value in (("--port", "70000"), ("--batch", "0"), ("--latency", "soon"), ("--latency", "11s"), ("--reject-below", "2")):
        refused(command("serve", source, option, value), 2, f"Expected {option}")
    refused(command("serve", source, "--engine", "onnx", "--device", "cuda"), 2, "--engine onnx computes on the CPU")
    assert [ServeOptions(latency=text).latency_seconds for text in ("10ms", "0.5 s", "0ms", ".25s")] == [0.01, 0.5, 0, 0.25]


# ---- slow clients --------------------------------------------------------------------------------------------------------------------


def test_clients_that_send_too_slowly_are_cut_off(predictor: Any, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STAGE_SECONDS", {"headers": 0.3, "body": 0.3, "idle": 0.3})
    starts = ["", "POST /pre", POST, f"{POST}Content-Length: 100\r\n\r\nabc", f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"]
    with serving(predictor) as (url, server):
        slow = [connect(url, start) for start in starts * 40]
        assert ask(url, body=image).status == 200, "among them one that is not slow"
        answers = [read_all(connection) for connection in slow]
        for connection in slow:
            connection.close()
        with connect(url, f"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n{POST}") as again:  # slow from its second request on
            content = read_all(again)
        with connect(url, f"{POST}Content-Length: 30000000\r\n\r\nabc") as refused_early:  # and then sends nothing
            early = read_all(refused_early)
        with connect(url, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as idle:
            assert read_all(idle).count(b"HTTP/1.1 ") == 1
    assert b" 413 " in early and b" 408 " not in early
    assert all(b" 408 " in answer and b'"kind": "slow_client"' in answer for answer in answers)
    assert b" 200 " in content and b" 408 " in content
    assert server.metrics.errors["slow_client"] == len(slow) + 2
    assert server.metrics.errors["disconnected"] == 2 * 40, "the app has let go of those that sent a part of their body"


def test_of_too_many_connections_the_slowest_go(predictor: Any, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    with serving(predictor) as (url, server):
        slow = [connect(url, POST) for _ in range(50)]
        assert ask(url, body=image).status == 200
        wait_until(lambda: server.metrics.errors["too_many_connections"] >= 30)
        assert read_all(slow[0]) == b""
        slow[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            slow[-1].recv(1)
        for connection in slow:
            connection.close()


def test_answers_are_sent_at_once(predictor: Any) -> None:
    """Without TCP_NODELAY each answer waits for 40 ms."""
    with serving(predictor) as (url, server), connect(url, POST):
        wait_until(lambda: bool(server.server_state.connections))
        (connection,) = server.server_state.connections
        place = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert place.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_without_the_extra(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for module in ("goodfit.serve.server", "goodfit.serve.listening"):
        monkeypatch.delitem(sys.modules, module)
    refused(command("serve", source), 2, 'pip install "goodfit[serve]"')


def test_headers_are_limited(predictor: Any) -> None:
    with serving(predictor) as (url, server), connect(url, "GET /health HTTP/1.1\r\n") as connection:
        for k in range(40):
            try:
                connection.sendall(f"X-{k}: {'a' * 1000}\r\n".encode())
            except OSError:
                break
            time.sleep(0.001)
        answer = read_all(connection)
    assert (b" 431 " in answer or answer == b"") and server.metrics.errors["headers_too_large"] == 1


def test_what_follows_a_chunked_body_is_not_kept(predictor: Any, image: bytes) -> None:
    trailers = "".join(f"X-{k}: a\r\n" for k in range(2000))
    body = f"{len(image):x}\r\n".encode() + image + b"\r\n0\r\n" + trailers.encode() + b"\r\n"
    with serving(predictor) as (url, server), connect(url, f"{POST}Transfer-Encoding: chunked\r\n\r\n") as connection:
        connection.sendall(body)
        content = b""
        while b"}]" not in content:
            content += connection.recv(65536)
        (kept,) = server.server_state.connections
        assert len(kept.headers) == 2, "Host and Transfer-Encoding"  # type: ignore[union-attr]
    head, _, answer = content.partition(b"\r\n\r\n")
    assert b" 200 " in head and json.loads(answer)[0]["problem"] == ""


@pytest.mark.thorough
def test_many_slow_clients_of_a_process_do_not_stop_it(source: Path, image: bytes, tmp_path: Path) -> None:
    """A thousand of them, with headers that do not end."""
    process, url = start_server(tmp_path / "served", source)
    slow = [connect(url, POST) for _ in range(1000)]
    answers = [ask(url, body=image) for _ in range(5)]
    assert {answer.status for answer in answers} == {200}
    process.send_signal(15)
    assert process.wait(30) == 143, "nor keep it from its end"
    for connection in slow:
        connection.close()
