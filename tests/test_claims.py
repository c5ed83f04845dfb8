"""The lectures' claims: the rule of their verdicts, each experiment on digits, and the notebook that survives a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scipy import stats

from goodfit.lab.claim import Claim, Effect, Replicate, find_claim, read_claims
from goodfit.lab.inquiry import Finding, inquire, judge
from goodfit.lab.laboratory import BASE, Extent, Laboratory, curve, running_mean
from goodfit.lab.notebook import FILE, Notebook, Page
from goodfit.report.pages.claims import render_claims
from goodfit.terminal.claims import format_finding, format_result
from tests.support.command import goodfit as command
from tests.support.items import read_items
from tests.support.photos import make_photos

TINY = Extent("tiny", 120, 0.05, 0)
INFINITY = math.inf
# What an experiment must show even when it is this short, on digits: bounds (low, high) of its effects, in their order.
SHOWS: dict[str, tuple[tuple[float, float], ...]] = {
    "S003": ((-1, 1), (-1, 1)),
    "S008": ((1.2, INFINITY), (1, INFINITY)),
    "S017": ((100, INFINITY), (0.7, 1)),
    "S026": ((0.99, 1), (0.8, 1), (-1, 1), (-1, 1)),
    "S027": ((0, 1),),
    "S049": ((100, INFINITY), (0.9, 1), (0, INFINITY)),
    "S052": ((0.2, 20), (0.2, 20)),
    "S053": ((1, 1), (0.1, 1)),
    "S058": ((-1, 1), (-1, 1), (-1, 1)),
    "S060": ((1000, INFINITY), (1000, INFINITY), (0.5, 1), (0.2, 1), (0.1, 1)),
    "S064": ((0, 1),),
    "S069": ((0.1, 1000), (2, INFINITY), (-1, 1)),
    "S077": ((-0.2, 1),),
    "S085": ((-1, 0.2),),
    "S088": ((-1, 1),),
    "S093": ((0.1, INFINITY), (0.1, 10)),
    "S102": ((-1, 1), (-1, 1)),
    "S111": ((0, 1), (-0.2, 0.2), (-1, 1)),
    "S122": ((-1, 1), (-1, 1)),
    "S123": ((-0.2, 1),),
    "S125": ((-0.2, 1), (-1, 1)),
    "S127": ((-0.2, 1),),
    "S129": ((3, 3), (-1, 1)),
    "S134": ((-0.2, 1), (0, 1), (0, 1)),
    "S146": ((49 / 27, 49 / 27), (0.1, 10), (-1, 1)),
    "S149": ((0.2, 5), (0.2, 5)),
    "S170": ((8, 8), (1.70, 1.71), (0.1, 10)),
    "S172": ((0.8, 1.5), (0.9, 2)),
    "S175": ((-1, 1), (-1, 1)),
    "S180": ((-1, 1),),
    "S181": ((-1, 1), (-1, 1), (-1, 1)),
}


# ---- the rule ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((3.0, 3.1, 2.9), "holds"),
        ((1.0, 1.1, 0.9), "holds weaker"),
        ((0.1, -0.1, 0.0), "fails here"),
        ((-1.0, -1.1, -0.9), "fails here"),
        ((5.0, -2.0, 1.0), "undecided"),
        ((3.0,), "holds"),
        ((2.0, 2.0), "holds"),
        ((0.0, 0.0), "fails here"),
    ],
)
def test_verdict_follows_the_rule(values: tuple[float, ...], verdict: str) -> None:
    assert Effect("x", none=0.0, said=2.0).judge(values).verdict == verdict


def test_interval_is_students() -> None:
    values = (1.0, 2.5, 2.0, 4.0)
    found = Effect("x", 0.0, 2.0).judge(values)
    low, high = stats.t.interval(0.95, 3, statistics.fmean(values), stats.sem(values))
    assert found.mean == pytest.approx(2.375) and found.interval == pytest.approx((low, high))


def test_ratios_are_averaged_as_logarithms() -> None:
    found = Effect("x", 1.0, 2.0, "ratio").judge((1.0, 4.0))
    assert found.mean == pytest.approx(2.0) and found.interval[0] * found.interval[1] == pytest.approx(4.0)
    assert Effect("x", 1.0, 2.0, "ratio").judge((2.0, 2.1, 1.95)).verdict == "holds"


def test_a_claim_gets_the_least_verdict_of_its_effects() -> None:
    claim = read_claims()["S049"]
    _, verdict = claim.judge([Replicate((500.0, 0.95, 1.1)), Replicate((501.0, 0.95, 1.1))])
    assert verdict == "holds weaker"
    judgments, verdict = claim.judge([Replicate((500.0, -0.5, 1.1)), Replicate((501.0, -0.5, 1.1))])
    assert verdict == "fails here" and [one.verdict for one in judgments] == ["holds", "fails here", "holds weaker"]


def test_every_claim_of_the_lectures_has_an_experiment_and_a_rule() -> None:
    claims = read_claims()
    assert list(claims) == [item for item, kind in read_items().items() if kind == "claim"] and len(claims) == 31
    for claim in claims.values():
        assert callable(claim.load_experiment()) and claim.load_experiment().__doc__ == f"{claim.item}."
        assert all(effect.none <= effect.said and (effect.scale != "ratio" or effect.none > 0) for effect in claim.effects)
        assert 1 < claim.seeds[0] <= claim.seeds[1]


# ---- the experiments -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(["digits"], TINY, tmp_path_factory.mktemp("claims"))


@pytest.mark.parametrize(
    "item",
    [
        pytest.param("S003", marks=pytest.mark.item("S003")),
        pytest.param("S008", marks=pytest.mark.item("S008")),
        pytest.param("S017", marks=[pytest.mark.item("S017"), pytest.mark.slow]),
        pytest.param("S026", marks=pytest.mark.item("S026")),
        pytest.param("S027", marks=pytest.mark.item("S027")),
        pytest.param("S049", marks=pytest.mark.item("S049")),
        pytest.param("S052", marks=pytest.mark.item("S052")),
        pytest.param("S053", marks=pytest.mark.item("S053")),
        pytest.param("S058", marks=pytest.mark.item("S058")),
        pytest.param("S060", marks=pytest.mark.item("S060")),
        pytest.param("S064", marks=pytest.mark.item("S064")),
        pytest.param("S069", marks=pytest.mark.item("S069")),
        pytest.param("S077", marks=[pytest.mark.item("S077"), pytest.mark.slow]),
        pytest.param("S085", marks=pytest.mark.item("S085")),
        pytest.param("S088", marks=pytest.mark.item("S088")),
        pytest.param("S093", marks=pytest.mark.item("S093")),
        pytest.param("S102", marks=pytest.mark.item("S102")),
        pytest.param("S111", marks=pytest.mark.item("S111")),
        pytest.param("S122", marks=pytest.mark.item("S122")),
        pytest.param("S123", marks=pytest.mark.item("S123")),
        pytest.param("S125", marks=pytest.mark.item("S125")),
        pytest.param("S127", marks=pytest.mark.item("S127")),
        pytest.param("S129", marks=pytest.mark.item("S129")),
        pytest.param("S134", marks=pytest.mark.item("S134")),
        pytest.param("S146", marks=pytest.mark.item("S146")),
        pytest.param("S149", marks=pytest.mark.item("S149")),
        pytest.param("S170", marks=[pytest.mark.item("S170"), pytest.mark.slow]),
        pytest.param("S172", marks=pytest.mark.item("S172")),
        pytest.param("S175", marks=pytest.mark.item("S175")),
        pytest.param("S180", marks=pytest.mark.item("S180")),
        pytest.param("S181", marks=pytest.mark.item("S181")),
    ],
)
def test_an_experiment_shows_what_it_must(laboratory: Laboratory, item: str) -> None:
    claim = find_claim(item)
    found = claim.load_experiment()(laboratory, 0)
    assert len(found.effects) == len(claim.effects) == len(SHOWS[item])
    for value, (low, high), effect in zip(found.effects, SHOWS[item], claim.effects, strict=True):
        assert low - 1e-9 <= value <= high + 1e-9, effect.name
    assert found.numbers and all(math.isfinite(x) for x in found.numbers.values())


def test_an_experiment_repeats_to_the_bit(laboratory: Laboratory) -> None:
    experiment = find_claim("S129").load_experiment()
    assert experiment(laboratory, 1) == experiment(laboratory, 1) != experiment(laboratory, 2)


def test_a_laboratory_trains_as_long_as_its_extent_says(laboratory: Laboratory) -> None:
    trained = laboratory.train(0, 50, BASE.but(size=8))
    assert len(trained.losses) == 2 and not trained.diverged
    assert max(trained.data.class_counts()) <= TINY.limit
    assert trained.steps_until(0.0) == 3 and trained.steps_until(INFINITY) == 1
    assert laboratory.train(0, 100, BASE.but(size=8, model="mlp((8,))", optimizer="sgd(1e30)")).accuracy() == pytest.approx(0.1)


def test_running_means_are_over_the_last_values() -> None:
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert curve([1.0, 3.0], 1) == [(0.0, 1.0), (1.0, 3.0)] and curve([]) == []
    thinned = curve([float(x) for x in range(1000)], 1)
    assert len(thinned) == 200 and thinned[0] == (0.0, 0.0) and thinned[-1] == (999.0, 999.0)


# ---- the notebook --------------------------------------------------------------------------------------------------------------------


def write_pages(folder: Path, claim: Claim, seeds: int) -> Notebook:
    """A notebook with experiments that were never done."""
    notebook = Notebook(folder, ["digits"], TINY.name)
    for seed in range(seeds):
        found = Replicate((5.0 + seed, 0.95, 1.3), {"a": 1.0 + seed}, {("Loss", "step", "x"): [(0.0, 2.0 + seed), (1.0, 1.0)]})
        notebook.add(Page(claim.item, seed, notebook.key(claim), found, 2.0, "a machine", "2026-12-01T00:00:00+00:00"))
    return notebook


def test_what_is_written_down_is_not_done_again(tmp_path: Path) -> None:
    claim = find_claim("S049")
    written = write_pages(tmp_path, claim, claim.seeds[0])
    again = Notebook(tmp_path, ["digits"], TINY.name)
    assert again.pages == written.pages
    (finding,) = inquire([claim], ["digits"], TINY, tmp_path, 1)
    assert isinstance(finding, Finding) and finding.judgments[0].values == (5.0, 6.0, 7.0, 8.0, 9.0)
    assert finding.numbers == {"a": 3.0}
    (chart,) = finding.charts()
    assert chart.series[0].points == [(0.0, 4.0), (1.0, 1.0)]


def test_other_data_extents_and_code_are_other_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = find_claim("S049")
    write_pages(tmp_path, claim, 1)
    assert Notebook(tmp_path, ["digits"], TINY.name).find(claim, 0)
    assert not Notebook(tmp_path, ["cifar10"], TINY.name).find(claim, 0)
    assert not Notebook(tmp_path, ["digits"], "full").find(claim, 0)
    assert not Notebook(tmp_path, ["digits"], TINY.name).find(claim, 1)
    monkeypatch.setattr("goodfit.lab.notebook.SHARED", ("laboratory.py",))
    assert not Notebook(tmp_path, ["digits"], TINY.name).find(claim, 0)


def test_a_line_that_a_kill_has_cut_is_done_again(tmp_path: Path) -> None:
    claim = find_claim("S049")
    write_pages(tmp_path, claim, 3)
    file = tmp_path / FILE
    file.write_text(file.read_text()[:-40] + "\n[]\n{}\n")
    notebook = Notebook(tmp_path, ["digits"], TINY.name)
    assert [bool(notebook.find(claim, seed)) for seed in range(3)] == [True, True, False]


def test_pages_and_lines_tell_all(tmp_path: Path) -> None:
    claim = find_claim("S049")
    finding = judge(claim, write_pages(tmp_path, claim, 2), TINY)
    content = json.loads(json.dumps(finding.to_dict()))
    assert content["verdict"] == finding.verdict == "holds weaker" and content["seconds"] == 4.0
    line = format_result(content)
    assert line.startswith("S049  holds weaker") and "first layer's gradient" in line and "said 100x" in line
    text = "\n".join(format_finding(content, []))
    page = render_claims([content], [finding.charts()])
    for shown in (claim.slide, claim.hypothesis, claim.limits, "neurons with gradients of one sign, sigmoid less tanh", "a machine"):
        assert shown in text and shown.replace("'", "&#x27;") in page.replace("&#39;", "&#x27;")
    assert "<figure" in page


# ---- the command ---------------------------------------------------------------------------------------------------------------------


def test_the_list_loads_no_torch() -> None:
    script = "import sys; sys.argv = ['goodfit', 'lab', 'claims']; from goodfit.cli import main; main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False" and [line.split()[0] for line in lines if line.startswith("S")] == list(read_claims())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("S999",), 'Unknown claim "S999"'),
        (("S052", "--quick", "--full"), "Expected --quick or --full, received both."),
        (("S052", "--workers", "-1"), "Expected --workers to be 1 or more"),
        (("S052", "--out", "file"), "Expected --out to be a folder"),
    ],
)
def test_wrong_words_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    said = command("lab", "claims", *words)
    assert said.code == 2 and sentence in said.sentence


def test_a_claim_that_these_images_do_not_allow(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    said = command("lab", "claims", "S180", "--data", photos, "--out", tmp_path / "out", "--workers", "1")
    assert said.code == 2 and "Expected images of four classes or more" in said.sentence


def test_a_killed_inquiry_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "goodfit", "lab", "claims", "S053", "--data", "digits", "--out", str(tmp_path), "--workers", "2"]
    process = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    file = tmp_path / FILE
    for _ in wait_up_to(120):
        if file.exists() and file.read_text().count("\n") >= 1:
            break
    children = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children
    for _ in wait_up_to(30):
        if not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
            break
    done = file.read_text().splitlines()
    said = command("lab", "claims", "S053", "--data", "digits", "--out", tmp_path, "--workers", "1", "--json")
    assert said.code == 0, said.err
    content = json.loads(said.out)
    assert content["seeds"] == 5 and content["effects"][0]["mean"] == 1.0 and content["effects"][0]["verdict"] == "holds"
    assert file.read_text().splitlines()[: len(done)] == done
    assert (tmp_path / "claims.html").read_text().startswith("<!doctype html>")


def wait_up_to(seconds: float) -> Iterator[None]:
    """Yield ten times a second until the test should give up.

    Raises:
        AssertionError: the time is over.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.1)
    raise AssertionError("waited in vain")
