"""`--json` prints what Python returns for the same, under the same names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import goodfit
from goodfit import api
from goodfit.cli import NOUNS, VERBS
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import ENSEMBLE_FILE, Run
from goodfit.doctor.gradcheck import check_gradients
from goodfit.doctor.gradcheck_parts import find_part, part_subject
from goodfit.doctor.run_examination import diagnose_run
from goodfit.lab import read_claims, run_lesson, trace
from goodfit.models.anatomy.account import compare_accounts
from goodfit.predict.export import export
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import open_source
from goodfit.recipe.transfer.advise import advise
from goodfit.runs.listing import summarize_runs
from goodfit.runs.look import LookOptions, look_at_run
from goodfit.runs.train import RunOptions
from goodfit.runs.zoo import add_to_zoo, list_zoo
from goodfit.study.compare import compare_runs, read_entries
from goodfit.study.cross_validation import train_folds
from goodfit.study.ensemble.assembly import make_ensemble
from goodfit.study.networks import NetworkOptions, compare_networks, describe_network
from goodfit.study.search.defaults import make_cards
from goodfit.study.search.plan import SearchOptions
from goodfit.study.search.run import run_search
from goodfit.study.seeds import train_seeds
from tests.support.command import FAST
from tests.support.command import goodfit as command

SMALL = {**FAST, "limit": "12"}
RECIPE = goodfit.Recipe(data="digits").but_text({**SMALL, "budget": "2 steps"})
DIGITS = ["digits", *(word for key, value in SMALL.items() if key != "budget" for word in (f"--{key.replace('_', '-')}", value))]
TRAIN = ["train", *DIGITS, "--budget", "2 steps", "--out"]
SEARCH = ["--trials", "2", "--space", "lr=log(0.001, 0.1)", "--each", "1 step", "--full", "1 step", "--keep", "0"]
SILENT = SilentReporter()


def take_advice() -> Any:
    opened, net = open_source(goodfit.Recipe(data="digits", source="runs/0", limit=12), SILENT)
    return advise(opened.chooser, net, opened.data)


def make_search() -> Any:
    options = SearchOptions(space=("lr=log(0.001, 0.1)",), trials=2, each="1 step", full="1 step", keep=0, out=Path("searches/b"))
    return run_search(RECIPE, options, SILENT, 0.0)


def make_ensemble_of_two() -> dict[str, Any]:
    run = make_ensemble(["runs/0", "runs/1"], Path("runs/b-two"))
    return {"path": run.path, "scores": run.scores, **run.read(ENSEMBLE_FILE)}


def check_mlp() -> Any:
    part, kind = find_part("mlp((3,))", "", load_catalog())
    return check_gradients(part_subject(part, kind, 10, 3, (4, 4)), 1)


# What Python returns for a command, in a folder with the runs 0 and 1; of a list, the rows are compared.
PYTHON: list[tuple[list[str], Callable[[], Any]]] = [
    ([*TRAIN, "runs/a"], lambda: goodfit.train(recipe=RECIPE, out="runs/b")),
    ([*TRAIN, "seeds/a", "--seeds", "2"], lambda: train_seeds(RECIPE, RunOptions(Path("seeds/b")), 2)),
    ([*TRAIN, "folds/a", "--folds", "2"], lambda: train_folds(RECIPE, RunOptions(Path("folds/b")), 2)),
    (["evaluate", "runs/0"], lambda: goodfit.evaluate("runs/0")),
    (["predict", "runs/0", "runs/0/worst"], lambda: goodfit.load("runs/0").predict("runs/0/worst/00.png")),
    (["predict", "runs/0", "no.png", "runs/0/worst"], lambda: goodfit.load("runs/0").predict("no.png")),
    (["look", "runs/0"], lambda: look_at_run(Run.open("runs/0"), [], LookOptions(), SILENT)),
    (["export", "runs/0"], lambda: export("runs/0")),
    (["lr", *DIGITS, "--steps", "20"], lambda: api.lr_range(RECIPE, SILENT, 1e-5, 10.0, 20)),
    (["audit", "digits", "--quick"], lambda: api.audit("digits", quick=True, reporter=SILENT).plain()),
    (["doctor", "runs/0"], lambda: diagnose_run(Run.open("runs/0"), SILENT).to_json(Run.open("runs/0"))),
    (["advise", "digits", "--from", "runs/0", "--limit", "12"], take_advice),
    (["search", *DIGITS, *SEARCH, "--out", "searches/a"], make_search),
    (["ensemble", "runs/0", "runs/1", "--out", "runs/a-two"], make_ensemble_of_two),
    (["compare", "runs/0", "runs/1"], lambda: compare_runs(read_entries(["runs/0", "runs/1"]))),
    (["runs"], lambda: summarize_runs(Path("runs"))),
    (["zoo"], lambda: list_zoo(Path("zoo"))),
    (["parts"], make_cards),
    (["describe", "linear"], lambda: {"model": "linear", **describe_network("linear", NetworkOptions(), "sgd")[0].to_dict()}),
    (["describe", "--compare", "linear", "lenet"], lambda: compare_accounts(*compare_networks(["linear", "lenet"], NetworkOptions()))),
    (["lab", "claims"], lambda: [{"item": claim.item, "topic": claim.topic, "slide": claim.slide} for claim in read_claims().values()]),
    (["lab", "lessons", "losses"], lambda: run_lesson("losses")),
    (["lab", "trace", "x * y", "--set", "x=2", "--set", "y=3"], lambda: trace("x * y", {"x": 2, "y": 3})),
    (["gradcheck", "mlp((3,))", "--size", "4", "--samples", "1"], check_mlp),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("home"))
        for seed in (0, 1):
            goodfit.train(recipe=RECIPE.but(seed=seed), out=f"runs/{seed}")
        add_to_zoo(Run(Path("runs/0")), Path("zoo"), "CC0")
        Path("no.png").write_text("not an image")
        yield Path.cwd()


@pytest.mark.parametrize(("words", "python"), PYTHON, ids=[" ".join(words[:2]) for words, _ in PYTHON])
def test_the_keys_of_json_are_the_names_of_python(home: Path, words: list[str], python: Callable[[], Any]) -> None:
    said = command(*words, "--json")
    assert said.code == 0, said.err
    printed, returned = json.loads(said.out), python()
    printed = printed["tensors"] if words[0] == "gradcheck" else printed
    if isinstance(returned, list):
        printed, returned = printed[0], returned[0]
    if isinstance(returned, dict):
        assert list(printed) == list(returned)
        return
    fields = {field.name for field in dataclasses.fields(returned)}
    assert fields <= printed.keys()
    assert not [key for key in printed if not hasattr(returned, key)]


def test_every_verb_with_json_is_among_them() -> None:
    verbs = [(verb, *noun) for verb in VERBS for noun in ([(noun,) for noun in NOUNS[verb]] if verb in NOUNS else [()])]
    shown = {words for words in verbs if "--json" in command(*words, "--help").out}
    assert len(shown) > 10 and shown == {tuple(words[:2] if words[0] in NOUNS else words[:1]) for words, _ in PYTHON}
