"""The report renders from the run folder alone, tells what is in it, and breaks on nothing that a run can leave behind."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import goodfit
from goodfit.core.run import Run
from goodfit.report.charts import MAX_POINTS, Points, embed_json, smooth, thin
from goodfit.report.gap import Gap, describe_gap, measure_gap
from goodfit.report.interpretation import describe_end, interpret_run
from goodfit.report.markup import NBSP, Html, tag
from goodfit.report.page import write_report
from goodfit.report.pages.run import render_run
from goodfit.report.record import read_record
from goodfit.report.sections.worst import embed_picture
from tests.support.fake_run import Page, gradient_picture, log_lines, make_run, replace_log


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "20260802-animals")


def line_of(chart: dict[str, Any], label: str) -> dict[str, Any]:
    return next(series for series in chart["series"] if series["label"] == label)


# ---- the file as a whole -------------------------------------------------------------------------------------------------------


def test_report_is_written_without_torch_or_numpy(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from goodfit.report.page import write_report\n"
        f"print(write_report(Path({str(run.path)!r}))); print(sorted({{'torch', 'numpy', 'PIL'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(run.path / "report.html"), "[]"]
    assert (run.path / "report.html").read_text().startswith("<!doctype html>")


def test_page_is_well_formed_and_loads_nothing(run: Run) -> None:
    text = render_run(run.path)
    page = Page(text)
    assert page.open == []
    for name, attributes in page.elements:
        for key in ("src", "href", "srcset", "data", "poster", "action"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#")), (name, attributes)
        assert not any(key.startswith("on") for key in attributes)
    styles = "".join(text for name, text in page.texts if name == "style")
    assert "@import" not in styles and "url(" not in styles
    scripts = "".join(text for name, text in page.texts if name == "script")
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(|sendBeacon", scripts)
    policy = next(a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)


def test_scripts_are_the_ones_the_policy_allows(run: Run) -> None:
    page = Page(render_run(run.path))
    policy = str(next(a["content"] for name, a in page.elements if a.get("http-equiv")))
    scripts = [text for name, text in page.texts if name == "script" and not text.startswith("{")]
    assert len(scripts) == 2
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_menu_leads_to_sections_that_are_there(run: Run) -> None:
    page = Page(render_run(run.path))
    anchors = {attributes["id"] for name, attributes in page.elements if name == "section"}
    links = {str(attributes["href"])[1:] for name, attributes in page.elements if name == "a"}
    assert links == anchors >= {"curves", "confusion", "classes", "worst", "recipe", "data", "openings", "timing", "machine"}


def test_writing_again_replaces_the_file(run: Run) -> None:
    first = write_report(run.path).read_text()
    run.update("about.json", {"state": "interrupted"})
    assert "interrupted" in write_report(run.path).read_text() and "interrupted" not in first
    assert not list(run.path.glob(".*partial"))


# ---- escaping ------------------------------------------------------------------------------------------------------------------


def test_nothing_of_the_run_becomes_markup(tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="a()">&'
    run = make_run(tmp_path / "run", (evil, "b'\"<b>", "c"))
    about = run.read("about.json")
    about["data"] |= {"name": evil, "notes": [evil], "broken": {evil: evil}, "digest": evil}
    run.write(
        "about.json", about | {"command": evil, "openings": [{"time": evil, "command": evil}], "versions": {evil: evil}, "state": evil}
    )
    (run.path / "recipe.toml").write_text(f"model = {json.dumps(evil)}\n")
    run.append([{"kind": "event", "step": 3, "text": evil}])
    run.append([{"kind": "train", "step": 2400, "loss": 1.0, "update_ratio": {evil: 0.001}}])
    page = Page(render_run(run.path))
    assert page.open == []
    assert len([name for name, _ in page.elements if name == "img"]) == 12 + 2  # the worst errors' own, and right answers
    assert not [a for name, a in page.elements if "onerror" in a]
    assert not [text for name, text in page.texts if name == "script" and text.startswith("alert")]
    assert page.visible().count("<script>alert(1)</script>") >= 8


def test_chart_data_cannot_end_its_element() -> None:
    text = embed_json({"label": "</script><!--&"})
    assert text.count("<") == 2 and "&" not in text
    assert Page(text).texts == [("script", r'{"label":"\u003c/script\u003e\u003c!--\u0026"}')]


def test_tag_escapes_all_but_markup() -> None:
    assert (
        tag("p.a.b", "<&>", Html("<i>"), None, 3, attrs={"title": '"', "id": None}) == '<p class="a b" title="&quot;">&lt;&amp;&gt;<i>3</p>'
    )


# ---- what it says --------------------------------------------------------------------------------------------------------------


def test_numbers_shown_are_those_of_the_scores(run: Run) -> None:
    text = Page(render_run(run.path)).visible()
    scores = run.read("scores.json")["validation"]
    low, high = scores["interval"]
    assert f"{100 * scores['accuracy']:.1f} %" in text
    assert f"interval {100 * low:.1f} % to {100 * high:.1f} %" in text
    assert "99.1 %" in text and "1,000 images" in text
    for row, line in zip(scores["classes"], scores["confusion"], strict=True):
        assert re.search(rf"{row['name']} {100 * row['accuracy']:.1f} % 100 ", text)
        assert re.search(rf"{row['name']} " + " ".join(str(n) for n in line), text)
    wrong = sum(map(sum, scores["confusion"])) - sum(scores["confusion"][k][k] for k in range(10))
    assert f"{wrong} of 1,000 images were taken for another class" in text


def test_an_opened_test_split_gives_the_headline(run: Run) -> None:
    scores = run.read("scores.json")
    run.update("scores.json", {"test": scores["validation"] | {"accuracy": 0.7654, "interval": [0.72, 0.81], "images": 500}})
    assert "not opened" in Page(render_run(run.path)).visible().lower()
    run.update("about.json", {"openings": [{"time": "2026-08-02T11:00", "command": "goodfit evaluate --test"}] * 2})
    text = Page(render_run(run.path)).visible()
    assert re.search(r"76\.5 % accuracy on test , 500 images", text)
    assert "Opened 2 times" in text and "opened 2 times: every change" in text and "not opened" not in text.lower()


@pytest.mark.item("S006")
def test_gap_is_that_of_the_kept_weights(run: Run) -> None:
    run.update("scores.json", {"kept": 1000})
    record = read_record(run)
    line = next(e for e in record.evaluations if e["step"] == 1000)
    gap = measure_gap(record)
    assert gap is not None and gap.size == pytest.approx(line["clean_train"]["accuracy"] - line["validation"]["accuracy"])
    assert (
        f"gap between clean training accuracy and validation is {100 * gap.size:.0f} points: overfitting"
        in Page(render_run(run.path)).visible()
    )


@pytest.mark.parametrize("kept", [None, 17, 2400, "x"])
def test_gap_is_that_of_the_last_evaluation_where_the_kept_weights_have_none(run: Run, kept: object) -> None:
    run.update("scores.json", {"kept": kept})  # the best one, at step 2200, is of no matter
    record = read_record(run)
    line, gap = record.evaluations[-1], measure_gap(record)
    assert gap is not None and gap.size == pytest.approx(line["clean_train"]["accuracy"] - line["validation"]["accuracy"])


STATES = {
    "running": "still running",
    "stopped early": "stopped early",
    "interrupted": "was interrupted",
    "terminated": "by a signal",
    "diverged": "stopped being finite",
    "failed": "with an error",
}


@pytest.mark.parametrize("state", ["finished", *STATES])
def test_each_end_of_a_run_is_said(run: Run, state: str) -> None:
    run.update("about.json", {"state": state})
    record = read_record(run)
    said = " ".join(interpret_run(record))
    assert "is not recorded" not in said and STATES.get(state, "") in said
    assert bool(describe_end(record)) == (state not in ("finished", "diverged"))


@pytest.mark.item("S136")
def test_seconds_and_what_they_cost_are_shown_as_given(run: Run) -> None:
    run.update("about.json", {"seconds": {"startup": 2.0, "training": 3700.0, "evaluation": 22.0}})
    text = Page(render_run(run.path)).visible()
    assert "in 1 h 01 min" in text and re.search(r"Training 1 h 01 min 99 %", text) and "Total 1 h 02 min" in text
    assert "EUR" not in text
    (run.path / "recipe.toml").write_text((run.path / "recipe.toml").read_text().replace("12 epochs", "2 EUR at 1.50/h"))
    assert re.search(r"Total 1 h 02 min\s+Cost 1.55 of 2 EUR", Page(render_run(run.path)).visible())


@pytest.mark.item("S006", "S133")
@pytest.mark.parametrize(
    ("train", "validation", "noise", "said"),
    [
        (0.99, 0.80, 0.02, "19 points: overfitting. Stronger augmentation"),
        (0.90, 0.83, 0.02, "7.0 points: some overfitting"),
        (0.90, 0.87, 0.01, "3.0 points: little overfitting."),
        (0.90, 0.885, 0.0, "no clear sign of overfitting. The errors are made on training images too"),
        (0.99, 0.985, 0.0, "are 0.5 points apart: no clear sign of overfitting."),
        (0.90, 0.80, 0.12, "are 10 points apart, which so few validation images cannot tell from no difference."),
        (0.80, 0.90, 0.02, "unusual"),
    ],
)
def test_gap_is_said_with_care(train: float, validation: float, noise: float, said: str) -> None:
    assert said in str(describe_gap(Gap(train, validation, noise))).replace(NBSP, " ")
    assert ("larger model" in str(describe_gap(Gap(train, validation, noise)))) == (train == 0.90 and validation == 0.885)


def test_trend_tells_overconfidence_from_decline_and_from_growth(run: Run) -> None:
    def said(losses: list[float], accuracies: list[float], end_rate: float = 1.0) -> str:
        pairs = zip(losses, accuracies, strict=True)
        lines = [{"kind": "evaluate", "step": 100 * (k + 1), "validation": {"loss": a, "accuracy": b}} for k, (a, b) in enumerate(pairs)]
        rates = [{"kind": "train", "step": 100 * k, "lr": rate} for k, rate in ((1, 0.5), (2, 1.0), (5, end_rate))]
        replace_log(run, [*rates, *lines])
        return " ".join(interpret_run(read_record(run)))

    assert "overconfident" in said([1, 0.5, 0.5, 0.6, 0.7], [0.5, 0.8, 0.8, 0.8, 0.8])
    declined = said([1, 0.5, 0.5, 0.6, 0.7], [0.5, 0.8, 0.8, 0.78, 0.75])
    assert "ended 5.0 points below its best" in declined.replace(NBSP, " ") and "overconfident" not in declined
    rising = [1, 0.8, 0.6, 0.5, 0.4], [0.5, 0.6, 0.7, 0.75, 0.8]
    assert "still rising" in said(*rising) and "still rising" in said(*rising, end_rate=0.2)
    assert "still rising" not in said(*rising, end_rate=0.1), "under a rate that anneals it is the rule"
    assert "did not clearly fall" in said([1, 0.5, 0.5, 0.6, 0.7], [0.5, 0.8, 0.8, 0.8, 0.79]), "by no more than noise of 1,000 images"
    assert not re.search("overconfident|below its best|rising", said([1, 0.5, 0.41, 0.4, 0.4], [0.5, 0.8, 0.85, 0.855, 0.855]))


def test_a_model_no_better_than_the_majority_is_called_so(run: Run) -> None:
    run.update("about.json", {"data": run.read("about.json")["data"] | {"majority": 0.9}})
    assert 'no better than always answering "frog" (90.0 %)' in Page(render_run(run.path)).visible()
    accuracy = run.read("scores.json")["validation"]["accuracy"]
    run.update("about.json", {"data": run.read("about.json")["data"] | {"majority": accuracy - 0.005}})
    assert "not clearly better than always answering" in Page(render_run(run.path)).visible()


def test_auto_choices_show_rule_and_evidence(run: Run) -> None:
    text = Page(render_run(run.path)).visible()
    assert re.search(r"batch_size 128 auto at least 30 steps an epoch, and fits memory \(4,400 images", text)
    assert re.search(r"optimizer sgd\(0\.1, momentum=0\.9, nesterov=True\) schedule", text)


# ---- charts --------------------------------------------------------------------------------------------------------------------


def test_charts_hold_the_log(run: Run) -> None:
    charts = Page(render_run(run.path)).charts()
    assert set(charts) == {"Loss", "Accuracy", "Learning rate", "Gradient norm", "Update to weight ratio", "Reliability", "Reject option"}
    validation = line_of(charts["Accuracy"], "validation")
    lines = [line for line in log_lines() if line["kind"] == "evaluate"]
    assert validation["x"] == [line["step"] for line in lines]
    assert validation["y"] == pytest.approx([line["validation"]["accuracy"] for line in lines], rel=1e-5)
    assert charts["Loss"]["perEpoch"] == 200
    assert all(len(series["x"]) == len(series["y"]) <= 1000 for chart in charts.values() for series in chart["series"])


@pytest.mark.parametrize(("every", "known"), [(1, 37), (2, 37), (25, None)])
def test_steps_per_epoch_are_read_from_whole_epochs(run: Run, every: int, known: int | None) -> None:
    replace_log(run, [{"kind": "train", "step": step, "epoch": (step - 1) // 37} for step in range(1, 150, every)])
    assert read_record(run).steps_per_epoch == known
    replace_log(run, [{"kind": "train", "step": step, "epoch": 0} for step in range(1, 30)])
    assert read_record(run).steps_per_epoch is None


def test_numbers_that_are_not_finite_become_gaps(run: Run) -> None:
    lines = log_lines()
    for line in lines[-500:]:
        line |= {"loss": math.nan, "accuracy": None, "grad_norm": math.inf, "lr": "fast", "update_ratio": {"a": math.nan}}
        if "validation" in line:
            line |= {"validation": {"loss": math.nan, "accuracy": None}, "clean_train": None}
    replace_log(run, lines)
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # torn by a kill
    page = Page(render_run(run.path))
    loss = line_of(page.charts()["Loss"], "train, as logged")
    assert loss["y"][-1] is None and loss["y"][0] is not None
    assert "nan" not in page.visible().lower().replace("finance", "")


def test_a_spike_is_kept_and_makes_the_axis_logarithmic(run: Run) -> None:
    lines = log_lines()
    lines[1234]["loss"] = 1e6
    replace_log(run, lines)
    loss = Page(render_run(run.path)).charts()["Loss"]
    assert loss["log"] and max(y for y in line_of(loss, "train, as logged")["y"] if y is not None) == 1e6


def test_thinning_keeps_ends_extremes_and_gaps() -> None:
    points: Points = [(k, math.sin(k / 500)) for k in range(50_000)]
    points[777], points[40_001], points[9_000] = (777, 99.0), (40_001, -99.0), (9_000, None)
    few = thin(points)
    assert len(few) <= MAX_POINTS and few == sorted(few, key=lambda p: p[0])
    assert {points[0], points[777], points[9_000], points[40_001], points[-1]} <= set(few)
    assert thin(points[:500]) == points[:500]


def test_running_mean_is_a_mean_of_what_is_there() -> None:
    points: Points = [(k, float(k)) for k in range(100)]
    points[50] = (50, None)
    mean = smooth(points, share=0.1)
    assert mean[50][1] is None and mean[20] == (20, 20.0)
    assert mean[48][1] == pytest.approx(sum(k for k in range(43, 54) if k != 50) / 10)


# ---- pictures ------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S186")
def test_worst_errors_carry_their_pictures(run: Run) -> None:
    page = Page(render_run(run.path))
    images = [attributes for name, attributes in page.elements if name == "img"]
    assert len(images) == 12 + 2
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] and image["width"] == "32" for image in images)
    assert [image["alt"] for image in images[-2:]] == ["airplane", "bird"], "right answers, to compare them with"
    assert "could not be read any more" not in page.visible()
    worst = run.read("worst.json")
    run.write("worst.json", worst | {"images": [row | {"original": k > 2} for k, row in enumerate(worst["images"])]})
    assert "3 originals could not be read any more: their pictures are what the model saw." in Page(render_run(run.path)).visible()


def test_augmentation_is_shown_by_its_pictures(run: Run) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(gradient_picture(0)).decode()}"
    cells = [{"picture": uri, "caption": caption} for caption in ("cat", "cat 0.91", "cat 0.60, dog 0.40")]
    run.write("augment.json", {"rows": [cells, [{"picture": "https://example.org/a.png", "caption": "x"}], [], 3]})
    page = Page(render_run(run.path))
    shown = [attributes["alt"] for name, attributes in page.elements if name == "img" and "draw" in str(attributes["alt"])]
    assert shown == ["cat 0.91, draw 1", "cat 0.60, dog 0.40, draw 2"]
    text = page.visible()
    assert "cat, original" in text and "cat 0.60, dog 0.40" in text and "cat 0.91" not in text, "mixed targets are named, smoothed ones not"
    assert all(str(attributes["src"]).startswith("data:image/") for name, attributes in page.elements if name == "img")


def test_pictures_of_the_network_are_pictures_and_text_alone(run: Run) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(gradient_picture(0)).decode()}"
    cells = [{"picture": uri, "caption": "<u>cat</u>"}, {"picture": "https://example.org/a.png", "caption": "x"}, 3]
    legend = [["<i>dog</i>", "#0a0b0c"], ["y", "url(https://example.org)"], ["z"]]
    sheets = [{"title": "Weights", "text": "<u>Text</u>", "layout": "cards", "rows": [cells, 4], "legend": legend}]
    units = [{"layer": "<s>conv</s>", "activation": "relu", "units": 8, "dead": 0.25, "saturated": None}]
    run.write("look.json", {"sheets": sheets, "units": units, "layers": {"unit_images": 9}})
    page = Page(render_run(run.path))
    assert page.open == [] and not {"u", "s"} & {name for name, _ in page.elements}
    text = page.visible()
    assert all(words in text for words in ("<u>cat</u>", "<u>Text</u>", "<i>dog</i>", "<s>conv</s>", "1 layer of 1 has dead", "9 images"))
    assert "Saturated" not in text.replace("Dead and saturated", ""), "no activation of the network is bounded"
    styles = [str(attributes.get("style")) for name, attributes in page.elements if name == "i"]
    assert "background:#0a0b0c" in styles and not any("example" in style for style in styles)
    assert all(str(attributes["src"]).startswith("data:image/") for name, attributes in page.elements if name == "img")


# ---- commands and settings -----------------------------------------------------------------------------------------------------


def test_commands_name_the_run_as_a_shell_takes_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run of 'mine' `x`")
    commands = [text for name, text in Page(render_run(run.path)).texts if name == "code" and text.startswith("goodfit ")]
    words = [shlex.split(command) for command in commands if command.split()[1] in ("evaluate", "predict")]
    assert len(words) >= 3 and all(str(run.path) in line for line in words), commands


def test_defaults_are_folded_away(run: Run) -> None:
    (run.path / "recipe.toml").write_text(goodfit.Recipe(data="photos", batch_size=64).to_toml())
    run.update("about.json", {"choices": [{"field": "batch_size", "value": 64, "rule": "it fits", "evidence": "2 GB"}]})
    shown, _, folded = Page(render_run(run.path)).visible().partition("settings, which are at their defaults")
    recipe = shown[shown.index("Chosen by auto, because") :]
    assert "data photos" in recipe and "batch_size 64 auto it fits (2 GB)" in recipe and "clip_value" not in recipe
    assert "clip_value" in folded


def test_pictures_come_from_the_run_folder_only(run: Run) -> None:
    (run.path.parent / "secret.png").write_bytes((run.path / "worst" / "00.png").read_bytes())
    (run.path / "worst" / "01.png").write_text("no picture")
    assert embed_picture(run.path, "../secret.png") is None and embed_picture(run.path, str(run.path.parent / "secret.png")) is None
    assert embed_picture(run.path, "worst/01.png") is embed_picture(run.path, "") is None
    assert embed_picture(run.path, "worst/00.png") is not None
    (run.path / "worst" / "02.png").unlink()
    assert Page(render_run(run.path)).visible().count("no picture") == 3, "one of them is a right answer too"


# ---- many classes --------------------------------------------------------------------------------------------------------------


def test_two_hundred_classes_stay_readable(tmp_path: Path) -> None:
    names = tuple(f"species {k:03}" for k in range(200))
    run = make_run(tmp_path / "run", names)
    text = render_run(run.path)
    page = Page(text)
    assert "heat" not in {c for _, a in page.elements for c in str(a.get("class")).split()}
    assert "The 15 weakest of 200 classes" in page.visible() and "All 200 classes" in page.visible()
    n, truth, predicted = max(
        (n, -i, -j) for i, line in enumerate(run.read("scores.json")["validation"]["confusion"]) for j, n in enumerate(line) if i != j
    )
    assert f"{names[-truth]} taken for {names[-predicted]} {n} {n} %" in page.visible()
    assert len(text) < 800_000


def test_table_headings_say_what_they_head(run: Run) -> None:
    heads = [attributes for name, attributes in Page(render_run(run.path)).elements if name == "th"]
    assert len(heads) > 50 and all(attributes.get("scope") in ("row", "col") for attributes in heads)
