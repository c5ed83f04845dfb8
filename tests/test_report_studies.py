"""The pages of studies: what a search, an ensemble, folds and a calibration came to, from their folders alone, whole or damaged."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.run import Run
from goodfit.report.page import render_report, write_report
from goodfit.study.search import run as search_run
from tests.support.command import FAST, refused, train
from tests.support.command import goodfit as command
from tests.support.fake_run import Page, calibration_of, make_run
from tests.support.fake_study import WARNING, make_ensemble, make_folds, make_search
from tests.support.trees import all_values, changed, paths_of, some_values

Make = Callable[[Path], Run]
MAKES = {"ensemble": make_ensemble, "search": make_search, "folds": make_folds}
FILES = {"ensemble.json": "ensemble", "results.json": "search", "search.json": "search", "folds.json": "folds"}


def page_of(run: Run) -> Page:
    page = Page(write_report(run.path).read_text())
    assert page.open == []
    return page


def series_of(chart: dict[str, Any], label: str) -> dict[str, Any]:
    return next(series for series in chart["series"] if series["label"] == label)


# ---- all of them ---------------------------------------------------------------------------------------------------------------


def test_pages_are_made_without_a_library(tmp_path: Path) -> None:
    folders = [make(tmp_path / kind).path for kind, make in MAKES.items()]
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'numpy', 'PIL', 'optuna'))\n"
        "from pathlib import Path; from goodfit.report.page import write_report\n"
        f"for folder in {list(map(str, folders))!r}: print(write_report(Path(folder)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(folder / "report.html") for folder in folders]


@pytest.mark.parametrize("kind", MAKES)
def test_pages_load_nothing_and_lead_where_there_is_something(tmp_path: Path, kind: str) -> None:
    run = MAKES[kind](tmp_path / "it")
    page = page_of(run)
    links = {str(attributes["href"]) for name, attributes in page.elements if name == "a"}
    anchors = {attributes["id"] for name, attributes in page.elements if name == "section"}
    assert {link[1:] for link in links if link.startswith("#")} == anchors
    assert all((run.path / link).is_file() for link in links if not link.startswith("#"))
    assert not [name for name, attributes in page.elements if name in ("b", "i") and not attributes]
    assert all(str(attributes["src"]).startswith("data:") for _, attributes in page.elements if "src" in attributes)
    policy = str(next(a["content"] for _, a in page.elements if a.get("http-equiv")))
    assert "default-src 'none'" in policy


@all_values
@pytest.mark.parametrize("file", FILES)
def test_every_key_may_be_missing_or_of_another_kind(tmp_path: Path, file: str, values: int) -> None:
    run = MAKES[FILES[file]](tmp_path / "it")
    whole = run.read(file)
    for keys in paths_of(whole):
        for value in some_values(keys, values):
            (run.path / file).write_text(json.dumps(changed(whole, keys, value)))
            render_report(run.path)
    for content in ("", "{", "[]", "\xff"):
        (run.path / file).write_bytes(content.encode("latin-1"))
        assert f"Files that could not be read: {file}." in page_of(run).visible()


def test_a_folder_that_is_none_of_these(tmp_path: Path) -> None:
    refused(command("report", tmp_path), 2, f'Expected the folder of a run, an ensemble, a search or folds at "{tmp_path}", found none.')


# ---- calibration ---------------------------------------------------------------------------------------------------------------


def test_calibration_is_told_and_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.write("config.json", {"temperature": 1.4142})
    page = page_of(run)
    text = page.visible()
    found = calibration_of(1000)
    sure = sum(row["images"] * row["confidence"] for row in found["bins"]) / 1000
    assert f"was {100 * sure:.1f} % sure on average and right {100 * sure - 8:.1f} % of the time: overconfident" in text
    assert "A temperature of 1.41, fitted to validation images, lowers the expected calibration error from 8.0 % to 1.2 %." in text
    assert "It is stored with the model" in text and "--calibrate" not in text
    assert re.search(r"Log loss 0\.512 0\.467", text) and re.search(r"Expected calibration error 8\.0 % 1\.2 %", text)
    assert f"83.7 % of the other answers would be right instead of 82.0 %: goodfit predict {run.path} --reject-below 0.223" in text
    charts = page.charts()
    dots, intervals = (series_of(charts["Reliability"], label) for label in ("bins", "95 % interval"))
    assert dots["x"] == [0.55, 0.75, 0.97] and dots["y"] == pytest.approx([0.47, 0.67, 0.89])
    assert (dots["radii"][1] / dots["radii"][2]) ** 2 == pytest.approx(20 / 70, rel=0.05), "areas go by the images"
    assert dots["notes"][0] == "100 images: 55.0\u00a0% sure, 47.0\u00a0% right"
    for place, y in enumerate(dots["y"]):
        low, high, gap = intervals["y"][3 * place : 3 * place + 3]
        assert low < y < high and gap is None, "an interval goes around its dot"
    curve = series_of(charts["Reject option"], "accuracy")
    assert len(curve["x"]) == len(curve["notes"]) == 18 and curve["x"] == sorted(curve["x"])
    assert any("reject below 0.223" in note for note in curve["notes"])
    labels = [str(a["aria-label"]) for _, a in page.elements if a.get("role") == "img"]
    assert any(label.startswith("Reliability on validation: 47") for label in labels)


@pytest.mark.parametrize(
    ("stored", "said"),
    [(None, "not stored with the model: goodfit evaluate {run} --calibrate"), (2.0, "Another one, 2.00, is stored")],
)
def test_a_temperature_that_is_not_the_models_is_said(tmp_path: Path, stored: float | None, said: str) -> None:
    run = make_run(tmp_path / "run")
    run.write("config.json", {} if stored is None else {"temperature": stored})
    text = page_of(run).visible()
    assert said.format(run=run.path) in text and "--reject-below 0.223 , once this temperature is stored" in text


def test_a_temperature_that_gains_nothing_is_no_gain(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    scores = run.read("scores.json")["validation"]
    scores["calibration"]["ece_after"] = 0.11
    run.update("scores.json", {"validation": scores})
    assert "would change the expected calibration error from 8.0 % to 11.0 %, which is no gain" in page_of(run).visible()
    del scores["calibration"]
    run.update("scores.json", {"validation": scores})
    assert "calibration" not in page_of(run).visible().lower()


# ---- ensembles -----------------------------------------------------------------------------------------------------------------


def test_an_ensemble_tells_its_models_and_its_gain(tmp_path: Path) -> None:
    page = page_of(make_ensemble(tmp_path / "e"))
    text = page.visible()
    assert "The mean of the probabilities of a greedy choice among 3 models, of 10 classes." in text
    gain = "1.2 points ahead of the best single model (95 % interval +0.20 to +3.10 points, on the same images, McNemar's p = 0.012)."
    assert f"On validation it is {gain}" in text
    assert "so the gain is biased upward" in text and "Validation, the best single model 80.1 %" in text
    assert "../c/model.safetensors 61.20 % 0.600 left out" in text and "../b<i>/model.safetensors 79.00 % 0.600 25.0 %" in text
    anchors = {str(attributes["id"]) for name, attributes in page.elements if name == "section"}
    assert {"ensemble", "calibration", "confusion"} <= anchors
    assert not anchors & {"curves", "recipe", "timing", "worst"}, "those are of one model"
    for alien in ("Seen by the model at", "Training images", "--reject-below", "resnet(18)", "training report", "8 min"):
        assert alien not in text, alien
    assert "untouched" in text


def test_test_images_that_other_models_saw_are_said(tmp_path: Path) -> None:
    text = page_of(make_ensemble(tmp_path / "e", tests_seen=17, kind="soup", select="uniform")).visible()
    assert "Some of the models were trained on 17 test images, so there is no honest test score." in text
    assert "trained on 17 images of it" in text and "untouched" not in text and "biased" not in text
    assert "A soup: one model with the mean of the weights of 3 models" in text


# ---- searches ------------------------------------------------------------------------------------------------------------------


def test_a_search_tells_what_it_found(tmp_path: Path) -> None:
    page = page_of(make_search(tmp_path / "s"))
    text = page.visible()
    for said in (
        "animals",
        "14 trials of 2 epochs, drawn at random, the later ones from narrower ranges",
        "the best 2 retrained with 2 fresh seeds",
        "validation accuracy , mean of 2 fresh seeds ± 1.00 points standard error",
        "Of the 12 points by which the winner led the median trial in the search, 2.0 points vanished with fresh seeds.",
        "The first two are 1.0 points apart with fresh seeds, which so few seeds cannot tell from no difference.",
        "1 trial failed and 1 trial diverged.",
        "coarse/0001 85.00 % ± 1.00 86.00 %, 84.00 % 87.00 % +2.00",
        "lr 81 % model 12 % optimizer.momentum 7 %",
        f"goodfit train --recipe {tmp_path / 's' / 'winner.toml'}",
        'optimizer = "sgd(0.96)"',
        "coarse/0009 : out of <i>memory",
        "The other 1 trial",
        "Total training time 42 s",
        "one_of(convnet(8), '<b>net')",
        "model Median accuracy Best Trials convnet(8) 75.00 % 90.00 % 6 <b>net 69.00 % 87.00 % 7",
    ):
        assert said in text, said
    assert text.count(WARNING) == 2, "above, and under its plot"
    assert "Of the 12 points" in text and "85.0 %" in text


def test_a_search_draws_each_number_with_stages_and_ranges(tmp_path: Path) -> None:
    charts = page_of(make_search(tmp_path / "s")).charts()
    assert list(charts) == ["lr", "optimizer.momentum"]
    rates = charts["lr"]
    coarse, fine, winner, lost = (series_of(rates, label) for label in ("coarse", "fine", "winner", "diverged"))
    assert [(s["style"], len(s["x"])) for s in (coarse, fine, winner, lost)] == [("ink", 7), ("accent", 5), ("ring", 1), ("cross", 1)]
    assert (winner["x"], winner["y"], winner["notes"]) == ([0.48], [0.87], ["coarse/0001: lr 0.48, 87.00\u00a0%"])
    assert lost["y"][0] < min(fine["y"]) and lost["notes"] == ["coarse/0008: lr 0.99, diverged"]
    assert rates["logX"] and not charts["optimizer.momentum"]["logX"]
    assert rates["ranges"] == [
        {"low": 1e-4, "high": 1.0, "label": "range of coarse"},
        {"low": 0.01, "high": 4.0, "label": "range of fine"},
    ]
    assert rates["xRange"][0] < 1e-4 and rates["xRange"][1] > 4.0, "nothing lies on the edge"


def test_a_search_that_goes_on_or_was_not_retrained_says_so(tmp_path: Path) -> None:
    run = make_search(tmp_path / "s")
    results = run.read("results.json")
    run.update("results.json", {"finalists": [], "lead": None, "luck": None})
    text = page_of(run).visible()
    assert "of the best trial, not retrained" in text and "so some of its lead is luck" in text and "had not ended" not in text
    results["trials"][-1]["state"] = "waiting"
    run.write("results.json", results | {"luck": -0.01, "lead": 0.03})
    text = page_of(run).visible()
    assert (
        "The search had not ended, with 13 trials done; goodfit search --resume" in text
        and "all remained, and 1.0 points more came, with fresh seeds" in text
    )
    for file in ("results.json", "winner.toml", "base.toml"):
        (run.path / file).unlink()
    text = page_of(run).visible()
    assert "No results were written yet" in text and "If the search was killed, goodfit search --resume" in text and "no trial" not in text


def test_how_a_search_ended_is_told_by_what_was_written_and_not_by_its_trials(tmp_path: Path) -> None:
    """A trial that time stopped waits, and between two stages none does."""
    run = make_search(tmp_path / "s")
    results = run.read("results.json")
    run.write("results.json", results | {"over": False, "timed_out": False})
    assert "The search had not ended, with 13 trials done; goodfit search --resume" in page_of(run).visible()
    results["trials"][-1]["state"] = "waiting"
    run.write("results.json", results | {"over": True, "timed_out": True})
    text = page_of(run).visible()
    assert "The search ran out of time, with 13 trials done; goodfit search --resume" in text and "had not ended" not in text
    run.write("results.json", results | {"over": True, "timed_out": False})
    text = page_of(run).visible()
    assert "--resume" not in text and "out of time" not in text


def test_baselines_are_on_every_page(tmp_path: Path) -> None:
    """Of a search those of the first trial that has some which read; of folds those of the first."""
    row = {"accuracy": 0.31, "interval": [0.28, 0.34], "judged": 1000, "trained": 300}
    found = {"images": 1000, "rows": [{"name": name, **row} for name in ("majority class", "nearest neighbor", "linear softmax")]}
    for run, names in ((make_search(tmp_path / "s"), ("coarse/0001", "fine/0000")), (make_folds(tmp_path / "f"), ("fold-1",))):
        for name in names:
            (run.path / name).mkdir(parents=True, exist_ok=True)
            Run(run.path / name).write("baselines.json", found)
            Run(run.path / name).update("about.json", {"data": {"splits": {"train": 300}}})
        text = page_of(run).visible()
        assert any(said in text for said in (f"as trial {names[0]} reads them", f"Those of {names[0]} only"))
        for said in ("Always answering the most common class", "Nearest training image", "Linear softmax on pixels"):
            assert f"{said} 31.0 % 28.0 % to 34.0 %" in text, said
        below = {**row, "accuracy": 0.99, "interval": [0.98, 1.0]}
        Run(run.path / names[0]).write("baselines.json", {**found, "rows": [{"name": "nearest neighbor", **below}]})
        assert "points below a baseline: nearest training image, 99.0 %" in page_of(run).visible().replace("\xa0", " ")
        (run.path / names[0] / "baselines.json").write_text("[")
        text = page_of(run).visible()
        assert f"Files that could not be read: {names[0]}/baselines.json." in text
        assert ("Linear softmax" in text) == (len(names) > 1)


# ---- folds ---------------------------------------------------------------------------------------------------------------------


def test_folds_tell_each_and_all(tmp_path: Path) -> None:
    run = make_folds(tmp_path / "f")
    page = page_of(run)
    text = page.visible()
    assert re.search(r"80\.0 % validation accuracy , mean of the folds ± 5\.0 points standard deviation", text)
    assert "Of all 3,000 images together, 80.1 % were recognized (95 % interval 78.7 % to 81.5 %)." in text
    assert "fold-2 80.0 % 75.0 % to 85.0 % 1,000 8 min 2 s" in text
    assert "Each fold has its own model" in text and "--reject-below" not in text
    assert [attributes["href"] for name, attributes in page.elements if name == "a"][-1] == "fold-1/report.html"
    assert "Over all folds, " in text and " of 3,000 images were taken for another class." in text
    losses = sorted((row["loss"] for k in (1, 2, 3) for row in Run(run.path / f"fold-{k}").read("worst.json")["images"]), reverse=True)
    titles = [str(attributes["title"]) for name, attributes in page.elements if attributes.get("class") == "dim name"]
    assert len(losses) == 18 and [float(title.rpartition("loss ")[2]) for title in titles[:18]] == pytest.approx(losses)
    pictures = [attributes["alt"] for name, attributes in page.elements if name == "img"]
    assert len(pictures) == 18 + 2 and pictures[-2:] == ["bird", "airplane"], "one right answer of each class, though three folds have one"
    run.write("folds.json", {"folds": 3, "state": "running", "asked": {"data": "photos/animals"}})
    (run.path / "fold-3" / "recipe.toml").unlink()
    (run.path / "fold-2" / "scores.json").write_text("{")
    text = page_of(run).visible()
    assert (
        "running" in text
        and "not all folds are trained yet" in text
        and "fold-3" not in text
        and "Files that could not be read: fold-2/scores.json." in text
    )


# ---- for real ------------------------------------------------------------------------------------------------------------------

QUICK = [word for key, value in FAST.items() if key != "budget" for word in (f"--{key.replace('_', '-')}", value)]
QUICK += ["--each", "1 epoch", "--full", "1 epoch", "--space", "lr=log(0.001, 0.1)"]


def test_a_search_that_is_stopped_leaves_its_page(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, train_trial = itertools.count(), search_run.train

    def stop_at_the_third(*given: Any) -> Run | None:
        if next(started) == 2:
            done = [row["state"] for row in Run(tmp_path / "s").read("results.json")["trials"]]
            assert done.count("done") == 2, "written after each trial, for a kill leaves no time"
            raise KeyboardInterrupt
        return train_trial(*given)

    monkeypatch.setattr(search_run, "train", stop_at_the_third)
    assert command("search", photos, *QUICK, "--trials", "4", "--out", tmp_path / "s").code == 130
    text = Page((tmp_path / "s" / "report.html").read_text()).visible()
    assert "The search had not ended, with 2 trials done; goodfit search --resume" in text and "not retrained" in text


def test_the_commands_write_their_pages(photos: Path, tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    for seed in ("0", "1"):
        assert train(photos, tmp_path / seed, seed=seed).code == 0
    made["Models"] = command("ensemble", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "e"), tmp_path / "e"
    made["Out"] = train(photos, tmp_path / "f", "--folds", "2"), tmp_path / "f"
    made["Ranking"] = command("search", photos, *QUICK, "--trials", "4", "--keep", "1", "--out", tmp_path / "s"), tmp_path / "s"
    for said, folder in made.values():
        assert said.code == 0 and f"Report: {folder / 'report.html'}" in said.err + said.out, said.err
    pages = {name: Page((folder / "report.html").read_text()) for name, (_, folder) in made.items()}
    assert "the best single model" in pages["Models"].visible() and "of 2 models" in pages["Models"].visible()
    assert len(series_of(pages["Ranking"].charts()["lr"], "fine")["x"]) == 2
    links = [str(attributes["href"]) for name, attributes in pages["Ranking"].elements if name == "a"]
    assert "coarse/0000/report.html" in links
    (tmp_path / "e" / "report.html").unlink()
    assert command("evaluate", tmp_path / "e").code == 0 and (tmp_path / "e" / "report.html").is_file()
    for folder in ("e", "f", "s"):
        assert command("report", tmp_path / folder).out == f"{tmp_path / folder / 'report.html'}\n"
