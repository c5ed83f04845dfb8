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

from goodfit import api
from goodfit.core.run import Run
from goodfit.report.page import render, write_report
from goodfit.report.plot import Plot, Scale
from tests.support.command import FAST, refused, train
from tests.support.command import goodfit as command
from tests.support.fake_run import Page, calibration_of, make_run
from tests.support.fake_study import WARNING, make_ensemble, make_folds, make_search
from tests.support.trees import changed, paths_of

Make = Callable[[Path], Run]
MAKES = {"ensemble": make_ensemble, "search": make_search, "folds": make_folds}
FILES = {"ensemble.json": "ensemble", "results.json": "search", "search.json": "search", "folds.json": "folds"}


def page_of(run: Run) -> Page:
    page = Page(write_report(run.path).read_text())
    assert page.open == []
    return page


def plots(page: Page) -> dict[str, list[tuple[str, dict[str, str | None]]]]:
    """The shapes of each plot, by its title."""
    titles = [text for name, text in page.texts if name == "h3"]
    groups: list[list[tuple[str, dict[str, str | None]]]] = []
    for name, attributes in page.elements:
        if name == "svg":
            groups.append([])
        elif groups and name in ("line", "polyline", "circle", "rect", "text"):
            groups[-1].append((name, attributes))
    return dict(zip([title for title in titles if title not in ("Failed", "Events")][-len(groups) :], groups, strict=True))


def shapes(group: list[tuple[str, dict[str, str | None]]], name: str, style: str) -> list[dict[str, str | None]]:
    return [attributes for kind, attributes in group if kind == name and attributes.get("class") == style]


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
    assert not [name for name, attributes in page.elements if "src" in attributes or (name in ("b", "i") and not attributes)]
    policy = str(next(a["content"] for _, a in page.elements if a.get("http-equiv")))
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("file", FILES)
def test_every_key_may_be_missing_or_of_another_kind(tmp_path: Path, file: str) -> None:
    run = MAKES[FILES[file]](tmp_path / "it")
    whole = run.read(file)
    for keys in paths_of(whole):
        for value in (..., "x", 7, -7, None, [1, None], {"a": "b"}):
            (run.path / file).write_text(json.dumps(changed(whole, keys, value)))
            render(run.path)
    for content in ("", "{", "[]", "\xff"):
        (run.path / file).write_bytes(content.encode("latin-1"))
        assert f"Not readable there: {file}." in page_of(run).visible()


def test_a_folder_that_is_none_of_these(tmp_path: Path) -> None:
    refused(command("report", tmp_path), 2, f'Expected the folder of a run, an ensemble, a search or folds at "{tmp_path}", found none.')


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Scale("", 0.0, 1.0), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Scale("", 0.93, 1.0), [0.94, 0.96, 0.98, 1.0]),
        (Scale("", 1e-4, 1.0, log=True), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (Scale("", 0.004, 0.2, log=True), [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]),
        (Scale("", 0.011, 0.013, log=True), [0.011, 0.0115, 0.012, 0.0125, 0.013]),
        (Scale("", 3.0, 3.0), [3.0]),
    ],
)
def test_ticks_are_round_and_lie_on_the_axis(axis: Scale, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_a_logarithmic_axis_has_equal_factors_at_equal_distances() -> None:
    axis = Scale("", 1e-3, 10, log=True)
    assert [axis.place(x) for x in (1e-3, 1e-2, 1e-1, 1, 10)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    drawn = Plot(axis, Scale("", 0.0, 1.0))
    drawn.dot(0.1, 0.5, "<here>", "ink")
    assert "&lt;here&gt;" in drawn.figure("", "")


# ---- calibration ---------------------------------------------------------------------------------------------------------------


def test_calibration_is_told_and_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.write("config.json", {"temperature": 1.4142})
    page = page_of(run)
    text = page.visible()
    found = calibration_of(1000)
    sure = sum(row["images"] * row["confidence"] for row in found["bins"]) / 1000
    assert f"was {100 * sure:.1f} % sure on average and right {100 * sure - 8:.1f} % of the time: overconfident" in text
    assert "A temperature of 1.41, fitted to validation images, brings the expected calibration error from 8.0 % to 1.2 %." in text
    assert "It is stored with the model" in text and "--calibrate" not in text
    assert re.search(r"Log loss 0\.512 0\.467", text) and re.search(r"Expected calibration error 8\.0 % 1\.2 %", text)
    assert "83.7 % of the other answers would be right instead of 82.0 %: goodfit predict RUN --reject-below 0.223" in text
    drawn = plots(page)
    dots = shapes(drawn["Reliability"], "circle", "accent")
    areas = [float(str(dot["r"])) ** 2 for dot in dots]
    assert len(dots) == len(shapes(drawn["Reliability"], "polyline", "whisker")) == 3
    assert areas[1] / areas[2] == pytest.approx(20 / 70, rel=0.05), "areas go by the images"
    for dot, line in zip(dots, shapes(drawn["Reliability"], "polyline", "whisker"), strict=True):
        low, high = (float(point.split(",")[1]) for point in str(line["points"]).split())
        assert high < float(str(dot["cy"])) < low, "a whisker goes around its dot"
    assert len(shapes(drawn["Reject option"], "circle", "accent")) == 18


@pytest.mark.parametrize(
    ("stored", "said"), [(None, "It is not stored with the model: goodfit evaluate RUN --calibrate"), (2.0, "Another one, 2.00, is stored")]
)
def test_a_temperature_that_is_not_the_models_is_said(tmp_path: Path, stored: float | None, said: str) -> None:
    run = make_run(tmp_path / "run")
    run.write("config.json", {} if stored is None else {"temperature": stored})
    text = page_of(run).visible()
    assert said in text and "--reject-below 0.223 , once this temperature is stored" in text


def test_a_temperature_that_gains_nothing_is_no_gain(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    scores = run.read("scores.json")["validation"]
    scores["calibration"]["ece_after"] = 0.11
    run.update("scores.json", {"validation": scores})
    assert "would move the expected calibration error from 8.0 % to 11.0 %, which is no gain" in page_of(run).visible()
    del scores["calibration"]
    run.update("scores.json", {"validation": scores})
    assert "calibration" not in page_of(run).visible().lower()


# ---- ensembles -----------------------------------------------------------------------------------------------------------------


def test_an_ensemble_tells_its_models_and_its_gain(tmp_path: Path) -> None:
    page = page_of(make_ensemble(tmp_path / "e"))
    text = page.visible()
    assert "The mean of the probabilities of a greedy choice among 3 models, of 10 classes." in text
    gain = "1.2 points ahead of the best single model (95 % interval +0.20 to +3.10 points, the same images, McNemar's p = 0.012)."
    assert f"On validation it is {gain}" in text
    assert "so the gain is flattered" in text and "Validation, the best single model 80.1 %" in text
    assert "../c/model.safetensors 61.20 % 0.600 left out" in text and "../b<i>/model.safetensors 79.00 % 0.600 25.0 %" in text
    anchors = {str(attributes["id"]) for name, attributes in page.elements if name == "section"}
    assert {"ensemble", "calibration", "confusion"} <= anchors
    assert not anchors & {"curves", "recipe", "timing", "worst"}, "those are of one model"
    for alien in ("Seen by the model at", "Images to train on", "--reject-below", "resnet(18)", "training report", "8 min"):
        assert alien not in text, alien
    assert "untouched" in text


def test_test_images_that_other_models_saw_are_said(tmp_path: Path) -> None:
    text = page_of(make_ensemble(tmp_path / "e", tests_seen=17, kind="soup", select="uniform")).visible()
    assert "17 test images had a part in training some of the models: there is no honest test score." in text
    assert "17 images of it had a part" in text and "untouched" not in text and "flattered" not in text
    assert "A soup: one model with the mean of the weights of 3 models" in text


# ---- searches ------------------------------------------------------------------------------------------------------------------


def test_a_search_tells_what_it_found(tmp_path: Path) -> None:
    page = page_of(make_search(tmp_path / "s"))
    text = page.visible()
    for said in (
        "animals",
        "14 trials of 2 epochs, drawn at random, the later ones more finely",
        "the best 2 trained anew with 2 fresh seeds",
        "validation accuracy , mean of 2 fresh seeds ± 1.00 points standard error",
        "Of the 12 points that the winner was ahead of the median trial in the search, 2.0 points did not come again with fresh seeds.",
        "The first two are 1.0 points apart with fresh seeds, which so few seeds cannot tell from none.",
        "1 trial failed and 1 trial diverged.",
        "coarse/0001 85.00 % ± 1.00 86.00 %, 84.00 % 87.00 % +2.00",
        "lr 81 % model 12 % optimizer.momentum 7 %",
        f"goodfit train --recipe {tmp_path / 's' / 'winner.toml'}",
        'optimizer = "sgd(0.96)"',
        "coarse/0009 : out of <i>memory",
        "The other 1 trial",
        "Time of all trainings 42 s",
        "one_of(convnet(8), '<b>net')",
        "model Median accuracy Best Trials convnet(8) 75.00 % 90.00 % 6 <b>net 69.00 % 87.00 % 7",
    ):
        assert said in text, said
    assert text.count(WARNING) == 2, "above, and under its plot"
    assert "Of the 12 points" in text and "85.0 %" in text


def test_a_search_draws_each_number_with_stages_and_ranges(tmp_path: Path) -> None:
    drawn = plots(page_of(make_search(tmp_path / "s")))
    assert list(drawn) == ["lr", "optimizer.momentum"]
    rates = drawn["lr"]
    coarse, fine = shapes(rates, "circle", "ink"), shapes(rates, "circle", "accent")
    assert (len(coarse), len(fine)) == (7, 5)
    assert len(shapes(rates, "circle", "ring")) == len(shapes(rates, "text", "cross")) == 1
    places = sorted(float(str(dot["cx"])) for dot in (*coarse, *fine))
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert max(steps) - min(steps) < 0.25, "halves at equal distances: the axis is logarithmic"
    (edge,), (wash,) = shapes(rates, "rect", "edge"), shapes(rates, "rect", "wash")
    ends = [float(str(band["x"])) + float(str(band["width"])) for band in (edge, wash)]
    assert ends[1] > ends[0] and float(str(wash["x"])) > float(str(edge["x"])), "the fine range goes beyond the coarse one"


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
        and "all came again, and 1.0 points more, with fresh seeds" in text
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
    assert "Time ended the search, with 13 trials done; goodfit search --resume" in text and "had not ended" not in text
    run.write("results.json", results | {"over": True, "timed_out": False})
    text = page_of(run).visible()
    assert "--resume" not in text and "ended the search" not in text


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
        assert any(said in text for said in (f"as the trial {names[0]} reads them", f"Those of {names[0]} alone"))
        for said in ("Always answering the most common class", "Nearest training image", "Linear softmax on pixels"):
            assert f"{said} 31.0 % 28.0 % to 34.0 %" in text, said
        (run.path / names[0] / "baselines.json").write_text("[")
        text = page_of(run).visible()
        assert f"Not readable there: {names[0]}/baselines.json." in text
        assert ("Linear softmax" in text) == (len(names) > 1)


# ---- folds ---------------------------------------------------------------------------------------------------------------------


def test_folds_tell_each_and_all(tmp_path: Path) -> None:
    run = make_folds(tmp_path / "f")
    page = page_of(run)
    text = page.visible()
    assert re.search(r"80\.0 % validation accuracy , mean of the folds ± 5\.0 points standard deviation", text)
    assert "Of all 3,000 images together, 80.1 % were recognized (95 % interval 78.7 % to 81.5 %)." in text
    assert "fold-2 80.0 % 75.0 % to 85.0 % 1,000 8 min 2 s" in text
    assert "Each fold has a model of its own" in text and "--reject-below" not in text
    assert [attributes["href"] for name, attributes in page.elements if name == "a"][-1] == "fold-1/report.html"
    run.write("folds.json", {"folds": 3, "state": "running", "asked": {"data": "photos/animals"}})
    (run.path / "fold-3" / "recipe.toml").unlink()
    (run.path / "fold-2" / "scores.json").write_text("{")
    text = page_of(run).visible()
    assert (
        "running" in text
        and "not all folds are trained yet" in text
        and "fold-3" not in text
        and "Not readable there: fold-2/scores.json." in text
    )


# ---- for real ------------------------------------------------------------------------------------------------------------------

QUICK = [word for key, value in FAST.items() if key != "budget" for word in (f"--{key.replace('_', '-')}", value)]
QUICK += ["--each", "1 epoch", "--full", "1 epoch", "--space", "lr=log(0.001, 0.1)"]


def test_a_search_that_is_stopped_leaves_its_page(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, run_recipe = itertools.count(), train.train

    def stopping(*given: Any) -> Run | None:
        if next(trained) == 2:
            done = [row["state"] for row in Run(tmp_path / "s").read("results.json")["trials"]]
            assert done.count("done") == 2, "written after each trial, for a kill leaves no time"
            raise KeyboardInterrupt
        return run_recipe(*given)

    monkeypatch.setattr(api, "run_recipe", stopping)
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
        assert said.code == 0 and f"Report: {folder / 'report.html'}" in said.err, said.err
    pages = {name: Page((folder / "report.html").read_text()) for name, (_, folder) in made.items()}
    assert "the best single model" in pages["Models"].visible() and "of 2 models" in pages["Models"].visible()
    assert len(shapes(plots(pages["Ranking"])["lr"], "circle", "accent")) == 2
    links = [str(attributes["href"]) for name, attributes in pages["Ranking"].elements if name == "a"]
    assert "coarse/0000/report.html" in links
    (tmp_path / "e" / "report.html").unlink()
    assert command("evaluate", tmp_path / "e").code == 0 and (tmp_path / "e" / "report.html").is_file()
    for folder in ("e", "f", "s"):
        assert command("report", tmp_path / folder).out == f"{tmp_path / folder / 'report.html'}\n"
