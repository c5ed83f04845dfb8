"""The report renders whatever a run can leave behind: nothing, half of it, or files that do not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goodfit.core.run import Run
from goodfit.report.pages.run import render_run
from tests.support.fake_run import Page, log_lines, make_run, replace_log
from tests.support.trees import all_values, changed, paths_of, some_values

PICTURE = {"picture": "data:image/png;base64,", "caption": "cat"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "20260802-animals", steps=240)


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    page = Page(render_run(tmp_path))
    assert page.open == [] and page.charts() == {}
    text = page.visible()
    assert "accuracy not measured" in text and "No training step was logged." in text and "Not opened." in text


@pytest.mark.parametrize("state", ["running", "interrupted", "stopped early", "diverged", "failed"])
def test_an_unfinished_run_renders_what_it_has(run: Run, state: str) -> None:
    (run.path / "scores.json").unlink()
    (run.path / "worst.json").unlink()
    run.write("about.json", {"state": state})
    replace_log(run, log_lines()[:700])
    page = Page(render_run(run.path))
    text = page.visible()
    assert "at epoch 3.5" in text and state.split(maxsplit=1)[0] in text
    assert "validation accuracy so far, at epoch 3.0" in text
    assert {"Loss", "Accuracy"} <= set(page.charts())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"data": 3, "seconds": [1], "versions": "x", "choices": {"a": 1}, "images": {}}']
)
@pytest.mark.parametrize("file", ["about.json", "scores.json", "worst.json", "augment.json", "look.json", "config.json", "ensemble.json"])
def test_damaged_files_are_named_and_do_no_harm(run: Run, file: str, content: str) -> None:
    (run.path / file).write_text(content)
    page = Page(render_run(run.path))
    assert page.open == []
    assert ("Files that could not be read: " + file in page.visible()) == (not content.startswith('{"'))


@all_values
def test_every_key_may_be_missing_or_of_another_kind(run: Run, values: int) -> None:
    """Each value of each file in turn is dropped, and replaced by text, a number, null, a list and a dictionary."""
    replace_log(run, log_lines(24, 12))
    run.write("augment.json", {"rows": [[PICTURE] * 2] * 2})
    sheet = {"name": "plane", "title": "x", "text": "y", "layout": "large", "rows": [[PICTURE]], "legend": [["cat", "#012345"]]}
    units = [{"layer": "x", "activation": "tanh", "units": 3, "dead": 0.5, "saturated": 0.1}]
    run.write("look.json", {"sheets": [sheet], "units": units, "layers": {"unit_images": 9}})
    for file in ("about.json", "scores.json", "worst.json", "augment.json", "look.json"):
        whole = run.read(file)
        for keys in paths_of(whole):
            for value in some_values(keys, values):
                (run.path / file).write_text(json.dumps(changed(whole, keys, value)))
                render_run(run.path)
        run.write(file, whole)


@all_values
def test_log_lines_may_be_of_any_shape(run: Run, values: int) -> None:
    """Each value of a training and of an evaluation line in turn, as above, and lines that are no dictionaries."""
    lines = log_lines(24, 12)
    for place in (0, next(k for k, line in enumerate(lines) if line["kind"] == "evaluate")):
        for keys in paths_of(lines[place]):
            for value in some_values(keys, values):
                replace_log(run, [*lines[:place], changed(lines[place], keys, value), *lines[place + 1 :]])
                render_run(run.path)
    (run.path / "log.jsonl").write_bytes(b"3\nnull\n[]\n{}\n\xff\xfe\n")
    assert "No training step was logged." in Page(render_run(run.path)).visible()
