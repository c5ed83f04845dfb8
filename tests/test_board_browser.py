"""The board in a real browser: `make test-browser`."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.files import lock
from goodfit.core.run import LOCK_FILE, STEERING_FOLDER, Run
from tests.support.browser import find_browser, read_axe, run_board
from tests.support.fake_run import log_lines, make_run
from tests.support.fake_study import make_folds

playwright = pytest.importorskip("playwright.sync_api", reason="the extra dev has it")
pytestmark = pytest.mark.slow
EVIL = "<img src=x onerror=document.body.id='broken'>"
WAIT = 20_000  # milliseconds for what takes torch in another process
VIEWS = (
    "#/", "#/alerts", "#/run/live", "#/run/live/mistakes", "#/run/colors/images", "#/run/live/doctor", "#/run/live/recipe",
    "#/run/live/data", "#/ask/colors", "#/lecture/race", "#/lecture/net", "#/lecture/convolution",
)  # fmt: skip
DROPPED = """bytes => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
  return data;
}"""
FOCUSED = """() => {
  const node = document.activeElement;
  return node.getAttribute("aria-label") || node.innerText || node.labels?.[0]?.innerText || node.tagName;
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """A run that trains now, ones that have finished, diverged and can answer, folds, and one with names that would be HTML."""
    root = tmp_path_factory.mktemp("home") / "runs"
    for name in ("live", "other", "lost"):
        make_run(root / name, steps=600)
    Run(root / "live").update("about.json", {"state": "running", "started": "2026-09-01T00:00:00"})
    Run(root / "lost").update("about.json", {"state": "diverged"})
    causes = [{"cause": "lr_too_high", "confidence": 0.9, "evidence": f"The loss rose. {EVIL}", "remedy": "Lower it.", "patch": {}}]
    Run(root / "lost").write("findings.json", {"verdict": "fault", "causes": causes})
    make_folds(root / "folds")
    make_run(root / EVIL.replace("/", ""), names=(EVIL, "b"), worst=2, steps=60)
    shutil.copytree(source, root / "colors")
    return root


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with run_board(root) as (url, _), lock(root / "live" / LOCK_FILE):
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, url: str) -> Iterator[Any]:
    """Opens a view; at the end the console must hold no error, and nothing may have been asked of another host."""
    with contextlib.ExitStack() as stack:
        troubles: list[str] = []

        def open_view(view: str = "#/", width: int = 1280, scheme: str = "light", language: str = "en-US") -> Any:
            context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, locale=language)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(WAIT)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
            page.on(
                "request", lambda request: troubles.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None
            )
            page.goto(url + view)
            page.wait_for_selector("main h1")
            return page

        open_view.troubles = troubles  # type: ignore[attr-defined]  # what a test provokes, it takes out
        yield open_view
        assert not troubles


def names_of(page: Any) -> list[str]:
    return page.locator("table.runs tbody th a, table.runs tbody th > span:first-child").all_inner_texts()


def wait_for(page: Any, text: str) -> None:
    page.get_by_text(text).first.wait_for()


def test_the_list_is_sorted_filtered_and_tagged(open_page: Any, root: Path) -> None:
    page = open_page()
    assert names_of(page)[:2] == ["colors", "live"] and len(names_of(page)) == 6
    page.get_by_role("button", name="Run", exact=True).click()
    names = names_of(page)
    assert names == sorted(names, key=str.lower) and page.locator("th[aria-sort=ascending]").inner_text().startswith("Run")
    page.get_by_label("Filter").fill("diverged resnet")
    assert names_of(page) == ["lost"]
    page.get_by_label("Filter").fill("")
    page.get_by_label("State").select_option("running")
    assert names_of(page) == ["live"]
    page.get_by_label("State").select_option("")
    page.get_by_label("Tags of other", exact=True).click()
    page.keyboard.type("best, for Ann")
    page.keyboard.press("Enter")
    page.locator(".tag", has_text="for Ann").wait_for()
    assert json.loads((root / "board.json").read_text())["tags"]["other"] == ["best", "for Ann"]
    page.get_by_role("combobox", name="Tag", exact=True).select_option("best")
    assert names_of(page) == ["other"]


def test_a_study_shows_its_runs(open_page: Any) -> None:
    page = open_page()
    page.get_by_label("Show the runs of folds").click()
    assert {"fold-1", "fold-2", "fold-3"} <= set(names_of(page))
    assert page.get_by_label("Show the runs of folds").evaluate("node => node === document.activeElement")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="folds", exact=True).click()
    report = opened.value
    report.get_by_role("link", name="fold-1").first.click()
    report.get_by_text("What this means").wait_for()
    assert report.url.endswith("/report/folds/fold-1/report.html") and report.evaluate("origin") == "null"


def test_curves_grow_while_a_run_trains(open_page: Any, root: Path) -> None:
    page = open_page("#/run/live")
    plot = page.locator("figure.chart", has_text="Loss").locator(".plot")
    page.wait_for_function("() => document.querySelector('.plot')?.getAttribute('aria-label')?.includes('→')")
    before = plot.get_attribute("aria-label")
    rows = [row | {"step": 600 + row["step"], "loss": 7.25} for row in log_lines(60, 2) if row["kind"] == "train"]
    with (root / "live" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write("".join(json.dumps(row) + "\n" for row in rows))
    page.wait_for_function("before => document.querySelector('.plot').getAttribute('aria-label') !== before", arg=before)
    assert "7.25" in plot.get_attribute("aria-label")
    rows = [{"kind": "event", "step": 661, "text": "something happened"}]
    with (root / "live" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(rows[0]) + "\n")
    wait_for(page, "something happened")


def test_runs_lie_over_one_another_and_a_drag_zooms(open_page: Any) -> None:
    page = open_page()
    for name in ("live", "other", "lost"):
        page.get_by_label(f"Show the curves of {name}").set_checked(True)
    wait_for(page, "What tells them apart")
    plot = page.locator("figure.chart .plot").first
    page.wait_for_function("() => document.querySelector('.plot').getAttribute('aria-label').includes('other')")
    assert all(f"{name}, validation" in plot.get_attribute("aria-label") for name in ("live", "other", "lost"))
    for label in ("log y", "log x"):
        page.get_by_label(label).check()
    page.get_by_role("combobox", name="By", exact=True).select_option("elapsed")
    page.get_by_role("combobox", name="By", exact=True).select_option("epoch")
    page.get_by_label("log x").uncheck()
    page.wait_for_timeout(1200)
    box = plot.locator(".u-over").bounding_box()
    with page.expect_request(lambda request: "from=" in request.url) as asked:
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 60, steps=4)
        page.mouse.up()
    low, high = (float(x) for x in re.findall(r"(?:from|to)=([\d.]+)", asked.value.url))
    assert 0 < low < high < 12
    page.get_by_role("button", name="Show all").click()


def test_alerts_have_their_severity_and_stay_text(open_page: Any) -> None:
    page = open_page("#/alerts")
    assert page.locator(".alert").first.get_attribute("class") == "alert error"
    assert page.locator(".alert.warning").first.inner_text().count("<img") == 1
    assert page.locator(".count-badge").inner_text() == "2" and page.title().startswith("Alerts")


def test_names_that_look_like_html_stay_text(open_page: Any) -> None:
    page = open_page()
    page.get_by_label("Filter").fill("img")
    page.get_by_role("link", name=EVIL.replace("/", "")).click()
    for tab in ("Mistakes", "Data and machine", "Recipe", "Curves"):
        page.get_by_role("link", name=tab, exact=True).click()
        page.wait_for_selector(".piece")
    assert page.locator("img[src=x]").count() == 0 and page.evaluate("document.body.id") == ""


def test_an_image_is_dropped_and_answered(open_page: Any, photos: Path) -> None:
    page = open_page("#/ask/colors")
    file = next((photos / "red").glob("*.png"), None) or next(photos.rglob("*.png"))
    data = page.evaluate_handle(DROPPED, list(file.read_bytes()))
    page.dispatch_event(".drop", "drop", {"dataTransfer": data})
    page.wait_for_selector(".answer .bar-row")
    assert page.locator(".answer .bar-row").count() == 3
    assert page.locator(".evidence img").count() == 2 and page.locator(".answer .thumbs img").count() == 6
    page.get_by_label("Reject below").fill("1")
    assert page.locator(".said").inner_text().startswith("Not sure enough")
    page.wait_for_selector(".thumb")
    page.locator(".thumb").first.click()
    page.wait_for_function("() => document.querySelector('.said')?.textContent.includes('labeled')")


def test_images_are_found(open_page: Any) -> None:
    page = open_page("#/run/colors/images")
    page.get_by_label("Order").select_option("name")
    page.wait_for_function("() => document.querySelectorAll('.frame img').length > 3")
    page.get_by_role("searchbox", name="Name").fill("no such name")
    wait_for(page, "0 images")


def test_the_lecture_is_played_with(open_page: Any) -> None:
    page = open_page("#/lecture/race")
    wait_for(page, "momentum:")
    page.get_by_label("Learning rate").fill("0.3")
    wait_for(page, "left the picture")
    page.get_by_role("link", name="A net in the plane").click()
    wait_for(page, "of the points right")
    page.get_by_role("link", name="Convolution").click()
    wait_for(page, "= 6.")
    field = page.get_by_role("application")
    field.focus()
    page.keyboard.press("ArrowRight")
    assert "column 2" in field.get_attribute("aria-label")


def test_the_keyboard_alone_reaches_everything(open_page: Any) -> None:
    page = open_page()
    page.get_by_label("Show the curves of live").wait_for()
    reached = []
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    text = "\n".join(reached)
    expected = (
        "Skip to the content", "Runs", "Alerts", "Ask", "Lecture", "Filter", "State", "Started", "Show the curves of live", "Loss", "By",
        "Smoothing", "log y",
    )  # fmt: skip
    assert [name for name in expected if name not in text] == []
    page.keyboard.press("Home")
    page.get_by_role("link", name="live", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("nav.tabs")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_board_that_others_reach_asks_for_its_token(chromium: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", steps=60)
    (tmp_path / "token").write_text("correct-horse-battery")
    with run_board(tmp_path / "runs", "--host", "0.0.0.0", "--token-file", str(tmp_path / "token")) as (url, _):
        page = chromium.new_page()
        page.goto(url.replace("0.0.0.0", "127.0.0.1"))
        for token, shown in (("wrong", "This is not the token"), ("correct-horse-battery", "1 of 1 runs")):
            page.get_by_label("Token of this board").fill(token)
            page.get_by_role("button", name="Open").click()
            wait_for(page, shown)
        page.reload()
        wait_for(page, "1 of 1 runs")
        page.close()


def test_the_page_speaks_the_readers_language(open_page: Any) -> None:
    page = open_page(language="ko-KR")
    page.get_by_role("link", name="묻기", exact=True).wait_for()
    assert page.evaluate("document.documentElement.lang") == "ko"
    page.get_by_label("언어").select_option("en")
    page.get_by_role("link", name="Alerts").wait_for()


def test_a_training_is_steered_from_its_page(open_page: Any, root: Path) -> None:
    page = open_page("#/run/live")
    page.get_by_label("Factor of the learning rate").select_option("0.5")
    page.get_by_role("button", name="Change").click()
    wait_for(page, "will be multiplied by 0.5")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Pause").wait_for()
    assert [file.name for file in (root / "live" / STEERING_FOLDER).glob("[!.]*")] == ["0000.json"]


def test_a_run_is_forked_with_another_rate(open_page: Any, root: Path, axe: str) -> None:
    """The dialog tells what is refused or ends badly; what was started comes into the list, and its log begins as that of the other run."""
    page = open_page("#/run/colors/recipe", width=390)
    page.get_by_role("button", name="Fork").click()
    dialog = page.get_by_role("dialog", name="Fork colors")
    rate = dialog.get_by_label("Value of Learning rate")
    assert rate.input_value() == "0.05"
    rate.fill("0.02")
    dialog.get_by_role("button", name="Change another setting").click()
    dialog.get_by_label("Setting").last.select_option("clip")
    dialog.get_by_label("Value of clip").fill("-1")
    dialog.get_by_label("Name of the new run").fill("slower")
    dialog.get_by_role("button", name="Start").click()
    wait_for(page, "expected clip to be a number")
    assert "422" in open_page.troubles.pop()
    page.evaluate(axe)
    found = page.evaluate("axe.run(document.querySelector('dialog'), {resultTypes: ['violations']})")["violations"]
    assert [violation["id"] for violation in found if violation["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    step = min(int(file.stem) for file in (root / "colors" / "checkpoints").glob("*.safetensors"))
    dialog.get_by_label("Setting").last.select_option("schedule")
    dialog.get_by_label("Value of schedule").fill("constant | cosine")
    dialog.get_by_role("button", name="Start").click()
    dialog.get_by_text("constant takes the whole budget").wait_for(timeout=4 * WAIT)
    dialog.get_by_role("button", name="Leave it as it is").last.click()
    dialog.get_by_label("Checkpoint").select_option(f"step {step}")
    dialog.get_by_role("button", name="Start").click()
    page.get_by_role("link", name="Open slower").click(timeout=4 * WAIT)
    page.get_by_text("finished", exact=True).wait_for(timeout=4 * WAIT)
    page.get_by_role("link", name="Runs", exact=True).first.click()
    page.get_by_role("link", name="slower", exact=True).wait_for()
    rows = [row for row in Run(root / "colors").log() if row["step"] <= step]
    assert Run(root / "slower").log()[: len(rows)] == rows
    rates, others = (
        {row["step"]: row["lr"] for row in Run(root / name).log("train") if row["step"] > step} for name in ("slower", "colors")
    )
    assert rates == pytest.approx({at: 0.4 * rate for at, rate in others.items()})
    shutil.rmtree(root / "slower")  # other tests count the runs


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1920, "light")])
def test_every_view_fits_and_passes_axe(open_page: Any, axe: str, scheme: str, width: int) -> None:
    """No sideways scrolling; and no finding of axe-core that is serious or worse."""
    page = open_page(width=width, scheme=scheme)
    for view in VIEWS:
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_timeout(900)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad = [
            (v["id"], [node["html"][:160] for node in v["nodes"]][:3])
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert bad == [], (view, bad)


@pytest.fixture(scope="module")
def axe() -> str:
    return read_axe()
