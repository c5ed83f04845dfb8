"""The board answers its own page alone, changes nothing of a run, and says what is wrong once."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import json
import math
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import goodfit.board.page
from goodfit.board.alerts import SEVERITIES, STATE_ALERTS, Webhook
from goodfit.board.notes import NOTES_FILE, Notes
from goodfit.board.page import list_languages, read_asset
from goodfit.board.run_index import RunIndex
from goodfit.board.watcher import MAX_CLIENTS, Client, Watcher, to_json
from goodfit.core.errors import UsageError
from goodfit.core.files import lock
from goodfit.core.predictions import Predictions
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import FINISHED_STATES, LOCK_FILE, STEERING_FOLDER, Run
from goodfit.core.run_files import read_json
from goodfit.predict.predictor import load_predictor
from tests.support.board import Asked, open_board
from tests.support.fake_run import make_run
from tests.support.fake_study import make_folds

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name, steps=120)
    return tmp_path / "runs"


@pytest.fixture
def asked(root: Path) -> Iterator[Asked]:
    with open_board(root) as asked:
        yield asked


def hash_files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- who may ask -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8642"}, 200),
        ({"Host": "[::1]:8642"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://127.0.0.1:8642"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_only_the_boards_own_page_reads(asked: Asked, headers: dict[str, str], status: int) -> None:
    assert asked.client.get("/api/runs", headers=headers).status_code == status


def test_a_link_from_elsewhere_opens_the_page(asked: Asked) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (
        asked.client.get("/", headers=headers).status_code == asked.client.get("/report/a/report.html", headers=headers).status_code == 200
    )
    assert asked.client.get("/api/runs", headers=headers).status_code == 403
    assert asked.client.get("/", headers=headers | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert asked.client.get("/", headers=headers | {"Sec-Fetch-Mode": "cors"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/api/tags?run=a", "/api/ask?run=a", "/api/lecture/race", "/api/steer?run=a", "/api/fork?run=a", "/login"]
)
@pytest.mark.parametrize("headers", [{}, {"X-Board-Token": "x"}, {"X-Board-Token": "é"}, {"Origin": "http://evil.example"}])
def test_nothing_changes_without_the_token_of_the_page(asked: Asked, path: str, headers: dict[str, str]) -> None:
    headers = {key: value.encode("latin-1") for key, value in headers.items()}
    assert asked.client.post(path, json={"tags": ["x"]}, headers=headers).status_code == 403
    other = headers | {"X-Board-Token": asked.page_token, "Origin": "http://evil.example"}
    assert asked.client.post(path, json={"tags": ["x"]}, headers=other).status_code == 403
    assert not (asked.board.index.root / NOTES_FILE).exists()


def test_a_board_that_others_reach_asks_for_its_token(root: Path) -> None:
    with open_board(root, hosts=None, token="correct horse battery") as asked:
        assert asked.client.get("/api/runs").status_code == asked.client.get("/api/events").status_code == 401
        assert "correct horse" not in asked.client.get("/").text
        assert asked.client.get("/static/board.js").status_code == 200
        assert asked.client.get("/static/../api/runs").status_code == asked.client.get("/report/a/report.html").status_code == 401
        assert asked.post("/login", {"token": "wrong"}).status_code == 401 and not asked.client.cookies
        assert asked.client.get("/api/runs", headers={"Cookie": "goodfit-board=x"}).status_code == 401
        assert asked.post("/login", {"token": "correct horse battery"}).status_code == 200
        cookie = asked.post("/login", {"token": "correct horse battery"}).headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "correct" not in cookie
        assert len(asked.get("/api/runs")["rows"]) == 2


def test_answers_may_not_be_framed_nor_load_anything_from_elsewhere(asked: Asked) -> None:
    policy = asked.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
    page = asked.client.get("/").text
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    assert asked.client.get("/static/board.js").headers["content-type"].startswith("text/javascript")
    for name in ("app.py", "..%2Fapp.py", "none.js", "report.js", ""):
        assert asked.client.get(f"/static/{name}").status_code in (404, 422)


@pytest.mark.parametrize("key", ["../outside", "..", "/etc", "c"])
@pytest.mark.parametrize(
    "path", ["/api/curves", "/api/sections", "/api/alerts", "/api/differences", "/api/images", "/api/pictures", "/api/fork"]
)
def test_no_path_leads_out_of_the_folder(asked: Asked, path: str, key: str) -> None:
    answer = asked.client.get(path, params={"run": key})
    assert answer.status_code == 422 and "Expected the name of a run" in answer.json()["error"]
    assert asked.client.get(f"/report/{key}/report.html").status_code in (404, 422)


# ---- reading ------------------------------------------------------------------------------------------------------------------------


def test_the_board_reads_and_changes_nothing_of_a_run(asked: Asked, root: Path) -> None:
    before = hash_files(root)
    rows = asked.get("/api/runs")["rows"]
    assert [row["key"] for row in rows] == ["b", "a"] and rows[0]["tags"] == []
    curves = asked.get("/api/curves", run=["a", "b"], name="loss", x="epoch", smoothing="0.1")
    assert [(one["run"], {curve["split"] for curve in one["curves"]}) for one in curves] == [
        (key, {"train", "raw", "validation", "clean_train"}) for key in "ab"
    ]
    names = "headline,confusion,classes,worst,doctor,recipe,data,openings,timing,machine,look,augmentation"
    sections = {row["name"]: row["html"] for row in asked.get("/api/sections", run="a", names=names)}
    assert {"headline", "confusion", "worst", "recipe", "timing", "machine"} <= sections.keys()
    assert asked.client.get("/report/a/report.html").status_code == 200
    assert hash_files(root) == before


def test_a_report_is_made_anew_and_cannot_reach_the_board(asked: Asked, root: Path) -> None:
    (root / "a" / "report.html").write_text("<script>fetch('/api/runs')</script>")
    answer = asked.client.get("/report/a/report.html")
    assert "fetch(" not in answer.text and "Goodfit report" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox") and "allow-same-origin" not in policy


def test_names_stay_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / EVIL.replace("/", ""), names=(EVIL, "b"), worst=2)
    run.update("about.json", {"data": {**run.read("about.json")["data"], "name": EVIL}})
    with open_board(tmp_path) as asked:
        row = asked.get("/api/runs")["rows"][0]
        names = "headline,confusion,classes,worst,recipe,data,machine"
        pieces = asked.get("/api/sections", run=row["key"], names=names)
        assert len(pieces) >= 5 and any("&lt;img src=x" in piece["html"] for piece in pieces)
        assert not any("<img src=x" in piece["html"] for piece in pieces)


def test_odd_values_of_one_run_do_not_hide_the_others(root: Path) -> None:
    """Values that JSON of Python has and browsers do not read, other shapes, and a log that no reader expects."""
    (root / "a" / "about.json").write_text('{"state": "running", "seconds": {"x": Infinity, "y": "z"}, "data": [], "started": 3}')
    (root / "a" / "scores.json").write_text('{"validation": {"accuracy": NaN, "interval": [-Infinity, 1], "confusion": 1, "classes": {}}}')
    (root / "a" / "log.jsonl").write_text(
        '{"kind": "event", "step": NaN, "text": []}\n{"kind": "train", "step": 1e999, "t": -Infinity}\n' * 3
    )
    (root / "a" / "findings.json").write_text('{"causes": [{"cause": 1, "confidence": NaN, "patch": []}, 2]}')
    with open_board(root) as asked:
        rows = {row["key"]: row for row in asked.get("/api/runs")["rows"]}
        assert rows.keys() == {"a", "b"} and (rows["a"]["value"], rows["a"]["interval"], rows["a"]["seconds"]) == (None, [None, 1.0], None)
        for path in ("/api/curves", "/api/alerts", "/api/differences"):
            asked.get(path, run=["a"], name="loss")
    assert to_json([math.nan, {"x": math.inf, "y": 1.5}]) == '[null, {"x": null, "y": 1.5}]'


def test_a_run_on_which_a_reader_stumbles_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(row: dict[str, Any], folder: Path) -> list[Any]:
        return [] if row["key"] == "b" else list(iter([1], 2))  # type: ignore[call-overload]

    monkeypatch.setattr("goodfit.board.watcher.collect", stumble)
    assert [(alert.run, alert.evidence) for alert in look(root).snapshot.alerts] == [("a", "Files of this run do not read (TypeError).")]


def test_what_tells_runs_apart(asked: Asked, root: Path) -> None:
    recipe = (root / "b" / "recipe.toml").read_text().replace("batch_size = 128", "batch_size = 64")
    (root / "b" / "recipe.toml").write_text(recipe)
    found = asked.get("/api/differences", run=["a", "b"])
    assert found["differences"] == [{"field": "batch_size", "values": ["128", "64"]}]
    costs = found["costs"][0]
    assert costs["machine"] == "AMD EPYC 9354" and costs["time, training"] == "89 %"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/curves", {"run": "a", "points": "x"}),
        ("/api/curves", {"run": "a", "points": "nan"}),
        ("/api/curves", {"run": "a", "x": "y"}),
        ("/api/curves", {"run": ["a"] * 30}),
        ("/api/sections", {"run": "a", "names": "nothing"}),
        ("/api/images", {"run": "a", "order": "best"}),
        ("/api/differences", {}),
        ("/comparison", {"run": ["a"] * 0}),
    ],
)
def test_odd_questions_get_one_sentence(asked: Asked, path: str, query: dict[str, Any]) -> None:
    answer = asked.client.get(path, params=query)
    assert answer.status_code in (422, 500) and answer.json()["error"].endswith(".")


# ---- tags and alerts -----------------------------------------------------------------------------------------------------------------


def test_tags_are_kept_beside_the_runs(asked: Asked, root: Path) -> None:
    before = hash_files(root)
    assert asked.post("/api/tags", {"tags": [" best  one ", "best one", "", EVIL]}, run="a").json() == {"tags": ["best one", EVIL]}
    assert {row["key"]: row["tags"] for row in asked.get("/api/runs")["rows"]} == {"a": ["best one", EVIL], "b": []}
    for wrong in ({"tags": ["x" * 41]}, {"tags": [str(k) for k in range(13)]}, {"tags": "x"}, [], {}):
        assert asked.post("/api/tags", wrong, run="a").status_code == 422
    assert asked.post("/api/tags", {"tags": ["x"]}, run="../a").status_code == 422
    assert asked.post("/api/tags", {"tags": []}, run="a").json() == {"tags": []}
    others = {str(root / NOTES_FILE), str(root / ".board.lock")}
    assert {path: sha for path, sha in hash_files(root).items() if path not in others} == before


def test_a_damaged_file_of_tags_is_named_and_not_written_over(asked: Asked, root: Path) -> None:
    (root / NOTES_FILE).write_text("{")
    asked.client.portal.call(asked.board.watcher.refresh)  # type: ignore[union-attr]
    assert NOTES_FILE in asked.get("/api/runs")["problem"]
    assert asked.post("/api/tags", {"tags": ["x"]}, run="a").status_code == 500
    assert (root / NOTES_FILE).read_text() == "{"


def look(root: Path) -> Watcher:
    index = RunIndex(root)
    watcher = Watcher(index, Notes(index.root))
    watcher.publish(watcher.look())
    return watcher


def test_alerts_by_state_and_by_the_doctor(root: Path) -> None:
    Run(root / "a").update("about.json", {"state": "diverged"})
    causes = [
        {
            "cause": "lr_too_high",
            "confidence": 0.9,
            "evidence": "The loss rose.",
            "remedy": "Lower it.",
            "patch": {"optimizer": "sgd(0.01)"},
        },
        {"cause": "few_images", "confidence": 0.3, "evidence": "There are 12.", "remedy": ""},
    ]
    Run(root / "b").write("findings.json", {"verdict": "fault", "causes": causes})
    found = [(alert.run, alert.severity, alert.cause, alert.remedy) for alert in look(root).snapshot.alerts]
    assert found == [
        ("a", "error", "diverged", ""),
        ("b", "warning", "lr_too_high", 'Lower it. optimizer = "sgd(0.01)"'),
        ("b", "note", "few_images", ""),
    ]


def test_a_training_that_goes_wrong_is_an_alert_while_it_runs(root: Path) -> None:
    rows = [
        {"kind": "train", "step": k, "t": k / 100, "epoch": 0, "loss": 2.3 * (1.5**k), "lr": 1.0, "grad_norm": 1.0} for k in range(1, 60)
    ]
    (root / "a" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "a" / "scores.json").unlink()
    assert not look(root).snapshot.alerts
    Run(root / "a").update("about.json", {"state": "running"})
    alerts = look(root).snapshot.alerts
    assert alerts and alerts[0].severity == "warning" and "learning rate is likely too high" in alerts[0].remedy


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes what a webhook sends; the first request of each alert fails."""

    received: list[dict[str, Any]]
    refused: set[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_first = body["id"] not in self.refused
        self.refused.add(body["id"])
        if not is_first:
            self.received.append(body)
        self.send_response(500 if is_first else 200)
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        pass


def test_the_webhook_gets_each_new_alert_once(root: Path) -> None:
    Hook.received, Hook.refused = [], set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"

    def watch() -> tuple[Watcher, Webhook]:
        index = RunIndex(root)
        hook = Webhook(url, Notes(index.root), SilentReporter())
        return Watcher(index, hook.notes, hook), hook

    try:
        Run(root / "a").update("about.json", {"state": "failed"})  # before the board watches
        watcher, hook = watch()
        watcher.look()
        Run(root / "b").update("about.json", {"state": "diverged"})
        watcher.look()
        watcher.look()
        hook.wait()
        expected = ["b", "error", "diverged"]
        assert [[body["run"], body["severity"], body["cause"]] for body in Hook.received] == [expected]
        again, hook = watch()  # another board, later
        again.look()
        hook.wait()
        assert len(Hook.received) == 1
    finally:
        server.shutdown()
        server.server_close()
    for wrong in ("ftp://x", "file:///etc/passwd", "x", "http://"):
        with pytest.raises(UsageError, match="Expected --webhook"):
            Webhook(wrong, Notes(root), SilentReporter())


# ---- events -------------------------------------------------------------------------------------------------------------------------


async def next_change(events: Any) -> dict[str, Any]:
    async for text in events:
        if text.startswith("event: change"):
            return json.loads(text.partition("data: ")[2])
    raise AssertionError("no change came")


def test_a_page_is_told_what_changes_and_no_more(root: Path) -> None:
    async def follow() -> None:
        watcher = look(root)
        events = watcher.follow()
        assert (await anext(events)).startswith("retry")
        watcher.publish(watcher.look())
        assert not next(iter(watcher._clients)).changed.is_set()
        with (root / "a" / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"kind": "event", "step": 9, "text": "x"}\n')
        watcher.publish(watcher.look())
        assert await next_change(events) == {"rows": [], "gone": [], "grown": ["a"], "alerts": None}
        Run(root / "a").update("about.json", {"state": "failed"})
        shutil.rmtree(root / "b")
        watcher.publish(watcher.look())
        change = await next_change(events)
        assert ([row["key"] for row in change["rows"]], change["gone"], len(change["alerts"])) == (["a"], ["b"], 1)
        await events.aclose()
        assert not watcher._clients

    asyncio.run(follow())


def test_a_page_that_does_not_listen_costs_no_more_the_longer_it_does_not(root: Path) -> None:
    async def ignore() -> None:
        watcher = look(root)
        events = watcher.follow()
        await anext(events)
        for k in range(30):
            Run(root / "a").update("about.json", {"state": f"state {k}"})
            watcher.publish(watcher.look())
        change = await next_change(events)
        assert [row["state"] for row in change["rows"]] == ["state 29"]
        await events.aclose()

    asyncio.run(ignore())


def test_open_pages_are_limited(asked: Asked) -> None:
    asked.board.watcher._clients |= {Client() for _ in range(MAX_CLIENTS)}
    answer = asked.client.get("/api/events")
    assert answer.status_code == 503 and answer.headers["retry-after"]


# ---- asking -------------------------------------------------------------------------------------------------------------------------


def test_a_run_answers_an_image_as_predict_does(source: Path, photos: Path, tmp_path: Path) -> None:
    """Its bytes, and a validation image by its name; with the map of its evidence and the training images nearest to it."""
    shutil.copytree(source, tmp_path / "colors")
    shutil.copytree(source, tmp_path / "again")
    make_run(tmp_path / "empty")
    image = next(photos.rglob("*.png"))
    with open_board(tmp_path) as asked:
        given = asked.post("/api/ask", image.read_bytes(), run=["colors", "empty"]).json()["answers"]
        expected = load_predictor(source, "cpu").predict(image)[0]
        prediction = given[0]["prediction"]
        assert prediction["classes"] == list(expected.classes)
        assert prediction["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
        assert given[0]["cam"].startswith("data:image/") and len(given[0]["near"]) == 6
        assert given[0]["near"][0]["likeness"] >= given[0]["near"][-1]["likeness"] > 0.5
        assert given[1]["problem"]
        kept = Predictions.read(source / "predictions.npz")
        assert kept is not None
        named = asked.post("/api/ask", {}, run="colors", name=str(kept.names[0])).json()
        assert named["truth"] == kept.classes[kept.labels[0]]
        assert named["answers"][0]["prediction"]["label"] == kept.classes[kept.predicted[0]]
        (picture,) = asked.get("/api/pictures", run="colors", name=str(kept.names[0]))
        assert picture["picture"].startswith("data:image/")
        for body, query in ((b"no image", {"run": "colors"}), (image.read_bytes(), {}), (b"", {"run": "colors", "name": "/etc/passwd"})):
            answer = asked.post("/api/ask", body, **query)
            assert answer.status_code in (422, 500) and answer.json()["error"].endswith(".")
        assert "Goodfit comparison" in asked.client.get("/comparison", params={"run": ["colors", "again"]}).text
        race = asked.post("/api/lecture/race", {"surface": "ravine", "start": [-4, 1], "lr": 0.05, "steps": 50}).json()
        assert {racer["name"] for racer in race["racers"]} == {"sgd", "momentum", "adagrad", "rmsprop", "adam"}
        path = race["racers"][0]["path"]
        assert path[1] == pytest.approx([-4 - 0.05 * -4, 1 - 0.05 * 20 * 1])  # w - lr gradient, of (w0² + 20 w1²) / 2
        assert asked.post("/api/lecture/nothing", {}).status_code == 422


def test_studies_have_their_report(tmp_path: Path) -> None:
    make_folds(tmp_path / "folds")
    with open_board(tmp_path) as asked:
        page = asked.client.get("/report/folds/report.html")
        assert page.status_code == 200 and 'href="fold-1/report.html"' in page.text
        assert asked.client.get("/report/folds/fold-1/report.html").status_code == 200


def test_a_training_that_runs_is_steered(tmp_path: Path) -> None:
    """By the letters that `goodfit steer` leaves; one that does not run is refused."""
    run = make_run(tmp_path / "a", steps=60)
    with open_board(tmp_path) as asked:
        assert asked.post("/api/steer", {"command": "pause"}, run="a").status_code == 422
        run.update("about.json", {"state": "running"})
        with lock(run.path / LOCK_FILE):
            assert "multiplied by 0.1" in asked.post("/api/steer", {"command": "lr", "factor": 0.1}, run="a").json()["said"]
            assert read_json(run.path / STEERING_FOLDER / "0000.json") == {"command": "lr", "factor": 0.1}
            assert asked.post("/api/steer", {"command": "pause"}, run="a").status_code == 200
            assert asked.get("/api/runs")["rows"][0]["state"] == "paused"
            assert asked.post("/api/steer", {"command": "continue"}, run="a").status_code == 200
            for wrong in ({"command": "lr"}, {"command": "lr", "factor": "x"}, {"command": "lr", "factor": 0}, {"command": "../x"}, {}):
                answer = asked.post("/api/steer", wrong, run="a")
                assert answer.status_code == 422 and ("factor" not in wrong or "factor of the learning rate" in answer.json()["error"])
        assert [row["state"] for row in asked.get("/api/runs")["rows"]] == ["running"]


# ---- languages ----------------------------------------------------------------------------------------------------------------------


def test_each_language_has_every_text_of_the_scripts_and_its_places() -> None:
    """The texts are found where they are translated, t("..."), and in the tables of titles: of views, tabs and columns."""
    static = Path(goodfit.board.page.__file__).parent / "static"
    scripts = "\n".join(file.read_text(encoding="utf-8") for file in static.glob("*.js"))
    texts = set(re.findall(r'\bt\("([^"]+)"', scripts)) | set(re.findall(r'button\("([^"]+)"', scripts))
    texts |= set(re.findall(r': \["([A-Z][^"]+)"', scripts)) | set(re.findall(r'\["\w+", "([A-Z][^"]+)", \(', scripts))
    texts |= {sentence for _, sentence in STATE_ALERTS.values()} | {*SEVERITIES, *STATE_ALERTS, *FINISHED_STATES, "running", "paused"}
    assert len(texts) > 120
    for file in static.glob("lang-*.json"):
        words = json.loads(file.read_text(encoding="utf-8"))
        assert sorted(texts - words.keys()) == []
        assert [text for text, other in words.items() if sorted(re.findall(r"{\w+}", text)) != sorted(re.findall(r"{\w+}", other))] == []
    with_korean = read_asset("lang-ko.json")
    assert with_korean[1] == "application/json" and list_languages() == ["en", "ko"]
