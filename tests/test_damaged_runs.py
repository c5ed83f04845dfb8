"""Every file of a run, damaged in every way, put through every verb that reads runs: a sentence or the right result, never a traceback."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from goodfit.core.run import STEERING_FOLDER, Run
from goodfit.core.steering import post
from goodfit.predict import export
from goodfit.predict.export import OnnxModel
from goodfit.predict.predictor import Predictor
from tests.support.command import FAST, Said, goodfit, refused
from tests.support.damage import BY_HAND, DAMAGES

MINE = """
import dataclasses
from goodfit.core.contracts import Augment

@dataclasses.dataclass(frozen=True)
class Darker(Augment):
    '''Darkens.'''
    by: int = 2

    def __call__(self, batch, chance, t):
        return batch.but(images=batch.images // self.by)
"""
CHANGES = {"model": "convnet(4)", "augment": "flip | darker", "snapshots": "2", "budget": "4 epochs", "save_every": "2 steps"}
STATES = ("stopped", "finished", "ensemble")
SAMPLES = 16  # that are tried by default
SLOW_SAMPLES = int(os.environ.get("DAMAGES", "40"))  # of each state and verb, by the slow tests; DAMAGES=10000 tries all, for hours
FLIPS, SLOW_FLIPS = 24, 600  # single bits of a model and its config
NOT_EXPORTED = (
    "about.json",
    "augment.json",
    "baselines.json",
    "findings.json",
    "look.json",
    "scores.json",
    "worst.json",
    "start.safetensors",
)
LOST = "so the result is NOT that of the undamaged run"


class House:
    """A run that was stopped and one that has finished, with a change of the rate by hand, snapshots and parts of the user's own, another
    run to compare and combine them with, and an ensemble of both; and what each verb makes of them undamaged.
    """

    def __init__(self, photos: Path, folder: Path) -> None:
        self.photos, self.folder, self.results = photos, folder, dict[tuple[str, str], Any]()
        (folder / "mine.py").write_text(MINE)
        assert self.train(folder / "other", seed="1").code == 0
        self.stop_at(folder / "stopped", 5)
        post(folder / "stopped" / STEERING_FOLDER, "lr", 0.5)
        self.stop_at(folder / "stopped", 12)
        shutil.copytree(folder / "stopped", folder / "finished")
        assert self.train(folder / "finished", "--resume", "auto").code == 0
        assert Run(folder / "finished").read("about.json")["state"] == "finished"
        assert goodfit("ensemble", folder / "finished", folder / "other", "--final", "--out", folder / "ensemble").code == 0

    def train(self, out: Path, *more: str, **changes: str) -> Said:
        options = [word for key, value in {**FAST, **CHANGES, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
        return goodfit("train", self.photos, "--out", out, "--use", self.folder / "mine.py", *options, *more)

    def stop_at(self, out: Path, step: int) -> None:
        append = Run.append

        def append_and_stop(run: Run, lines: list[dict[str, Any]]) -> None:
            append(run, lines)
            if any(line["step"] >= step for line in lines):
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "append", append_and_stop)
            assert self.train(out, "--resume", "auto").code == 143

    def files(self, state: str) -> list[Path]:
        """The files of a run, relative to it, but for all but one of many alike."""
        run = self.folder / state
        found = (
            file.relative_to(run) for file in sorted(run.rglob("*")) if file.is_file() and not file.name.endswith((".lock", "report.html"))
        )
        return [file for file in found if file.parent.name != "worst" or file.name == "00.png"]

    def undamaged(self, state: str, verb: str) -> Any:
        if (state, verb) not in self.results:
            self.results[state, verb] = self.use(self.copy(state, "undamaged"), state, verb)[1]
            shutil.rmtree(self.folder / "undamaged")
        return self.results[state, verb]

    def copy(self, state: str, name: str) -> Path:
        return Path(shutil.copytree(self.folder / state, self.folder / name / state))

    def use(self, run: Path, state: str, verb: str) -> tuple[Said, Any]:
        """What a verb says of a run, and its result: weights, scores, predictions or what is left of the run."""
        said = VERBS[verb](self, run)
        return said, RESULTS[verb](run, said) if verb in RESULTS and said.code == 0 else None

    def try_damage(self, state: str, file: Path, damage: str, verb: str, seed: int = 0) -> str:
        """Damage a copy of a run, use it, and check what comes of it; returns what kind of end it took."""
        expected, run = self.undamaged(state, verb), self.copy(state, "damaged")
        DAMAGES[damage](run / file, random.Random(f"{file} {damage} {verb} {seed}"))
        try:
            said, result = self.use(run, state, verb)
        except Exception as error:
            raise AssertionError(f"{verb} of a {state} run whose {file} is {damage}: {type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(self.folder / "damaged")
        where = (state, str(file), damage, verb, said)
        assert said.code in (0, 1, 2, 3, 4), where
        assert "Traceback" not in said.err, where
        if said.code:
            assert said.sentence.startswith("goodfit: "), where
            return "refused"
        if expected is not None and damage != BY_HAND and not same(expected, result):
            assert LOST in said.err or "kept no predictions" in said.out, where
            return "said to differ"
        return "right"


def same(one: Any, other: Any) -> bool:
    """Whether two results are the same; tensors bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def weights(run: Path, said: Said) -> Any:
    return load_file(run / "model.safetensors")


def scores(run: Path, said: Said) -> Any:
    found = json.loads(said.out)
    return [found[key] for key in ("accuracy", "loss", "images", "confusion")]


def kept(run: Path, said: Said) -> Any:
    """Whether a run that had a model has one, and one that is to be continued its checkpoints."""
    return (run / "model.safetensors").exists() or (run / "checkpoints").is_dir()


def ensemble(run: Path, said: Said) -> Any:
    return [[row["weight"], row["accuracy"]] for row in json.loads(said.out)["candidates"]]


VERBS: dict[str, Callable[[House, Path], Said]] = {
    "resume": lambda house, run: house.train(run, "--resume", "auto"),
    "extend": lambda house, run: house.train(run, "--resume", "auto", budget="5 epochs"),
    "evaluate": lambda house, run: goodfit("evaluate", run, "--json"),
    "evaluate --test": lambda house, run: goodfit("evaluate", run, "--test", "--json"),
    "predict": lambda house, run: goodfit("predict", run, house.photos / "red" / "000.png", house.photos / "blue", "--json"),
    "report": lambda house, run: goodfit("report", run),
    "runs": lambda house, run: goodfit("runs", run.parent, "--json"),
    "runs --prune": lambda house, run: goodfit("runs", run.parent, "--prune", "--yes"),
    "compare": lambda house, run: goodfit("compare", run, house.folder / "other", "--json"),
    "ensemble": lambda house, run: goodfit("ensemble", run, house.folder / "other", "--out", run.parent / "made", "--json"),
    "steer": lambda house, run: goodfit("steer", run, "--rate", "0.5"),
    "train --from": lambda house, run: house.train(run.parent / "new", "--from", str(run), "--dry", model="auto"),
    "train --recipe": lambda house, run: goodfit("train", "--recipe", run / "recipe.toml", "--dry"),
    "features": lambda house, run: goodfit("features", run, house.photos, "--out", run.parent / "features.npz"),
    "describe": lambda house, run: goodfit("describe", run, "--json"),
    "audit": lambda house, run: goodfit("audit", house.photos, "--run", run, "--json"),
    "doctor": lambda house, run: goodfit("doctor", run, "--json"),
}
if importlib.util.find_spec("onnxruntime"):
    VERBS["export"] = lambda house, run: goodfit("export", run)
RESULTS: dict[str, Callable[[Path, Said], Any]] = {
    "resume": weights, "extend": weights, "evaluate": scores, "evaluate --test": scores, "predict": lambda run, said: json.loads(said.out),
    "runs --prune": kept, "compare": lambda run, said: json.loads(said.out)["pairs"], "ensemble": ensemble,
    "export": lambda run, said: hashlib.sha256((run / "model.onnx").read_bytes()).hexdigest(),
}  # fmt: skip


def remembering(make: Callable[[Predictor, Path], OnnxModel]) -> Callable[[Predictor, Path], OnnxModel]:
    """The same, but torch traces each network once: what is traced hangs on these files alone, which have been read by then."""
    made: dict[str, OnnxModel] = {}

    def make_once(predictor: Predictor, folder: Path) -> OnnxModel:
        files = sorted(file for pattern in ("*.json", "*.safetensors", "use/*", "members/*/*") for file in folder.glob(pattern))
        used = [file for file in files if file.is_file() and file.name not in NOT_EXPORTED]
        key = hashlib.sha256(b"".join(file.read_bytes() for file in used)).hexdigest()
        if key not in made:
            made[key] = make(predictor, folder)
        return made[key]

    return make_once


@pytest.fixture(scope="module")
def house(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "make_onnx", remembering(export.make_onnx))
        yield House(photos, tmp_path_factory.mktemp("damaged"))


def test_some_damages(house: House) -> None:
    verbs = [verb for verb in VERBS if verb != "export"]  # which reads what predict reads
    cases = list(itertools.product(STATES, DAMAGES, verbs))
    ends = Counter[str]()
    rng = random.Random(0)
    for state, damage, verb in rng.sample(cases, SAMPLES):
        ends[house.try_damage(state, rng.choice(house.files(state)), damage, verb)] += 1
    print(f"{SAMPLES} cases: {dict(ends)}")
    assert sum(ends.values()) == SAMPLES and len(ends) > 1


@pytest.mark.parametrize(
    ("end", "damage"), [("safetensors", "a folder"), ("safetensors", "deleted"), ("json", "half"), ("json", "deleted")]
)
def test_an_extension_is_that_of_the_undamaged_run(house: House, tmp_path: Path, end: str, damage: str) -> None:
    """The newest checkpoint of a finished run is lost: what led to it is trained again by the budget it had, and it is said."""
    run = Path(shutil.copytree(house.folder / "finished", tmp_path / "run"))
    newest = max((run / "checkpoints").glob(f"*.{end}"))
    DAMAGES[damage](newest, random.Random(0))
    said = VERBS["extend"](house, run)
    assert said.code == 0, said
    assert f"to {int(newest.stem)} are trained again by the budget they had, before the run is extended." in said.err
    assert same(weights(run, said), house.undamaged("finished", "extend"))
    steps = [row["step"] for row in Run(run).log("train")]
    assert steps == list(range(1, len(steps) + 1))


def test_an_extension_by_another_schedule_is_said_to_differ(house: House, tmp_path: Path) -> None:
    """A run that was stopped cannot be brought back to where it was and then go on otherwise: it is said first, last and in the report."""
    run = Path(shutil.copytree(house.folder / "stopped", tmp_path / "run"))
    newest = max((run / "checkpoints").glob("*.safetensors"))
    newest.unlink()
    said = VERBS["extend"](house, run)
    assert said.code == 0 and said.err.count(LOST) == 2 and LOST in said.sentence
    assert LOST in (run / "report.html").read_text()
    assert f"the state after step {int(newest.stem)} is lost; the steps from 10 on are trained again" in said.err


def test_a_finished_run_without_checkpoints_stays_as_it_is(house: House, tmp_path: Path) -> None:
    run = Path(shutil.copytree(house.folder / "finished", tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    before = (run / "model.safetensors").read_bytes()
    said = VERBS["resume"](house, run)
    assert said.code == 0 and "its model stays as it is, but it cannot be extended" in said.sentence
    assert (run / "model.safetensors").read_bytes() == before
    refused(VERBS["extend"](house, run), 2, "are gone, so it cannot continue")
    (run / "model.safetensors").write_bytes(before[:-1])
    refused(VERBS["resume"](house, run), 1, 'model.safetensors" does not read (its checksum differs)')


def test_gaps_in_the_log_are_named(house: House, tmp_path: Path) -> None:
    run = Path(shutil.copytree(house.folder / "stopped", tmp_path / "run"))
    rows = [row for row in Run(run).log() if row["step"] not in (3, 7, 8, 9) or row["kind"] == "event"]
    lost = [row for row in Run(run).log("evaluate") if row["step"] in (3, 7, 8, 9)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (run / "log.jsonl").write_bytes(b'[1]\n3\n{"kind": 5}\n\xff\xfe\n' + text + b'{"kind": "tra')
    said = VERBS["resume"](house, run)
    evaluations = f" and {len(lost)} evaluation{'s' * (len(lost) > 1)}" if lost else ""
    assert said.code == 0 and f"it lacks steps 3, 7 to 9{evaluations}: the curves have gaps, the weights do not change." in said.err
    assert same(weights(run, said), house.undamaged("stopped", "resume"))
    again = VERBS["resume"](house, Path(shutil.copytree(house.folder / "stopped", tmp_path / "whole")))
    assert "it lacks" not in again.err, "a whole log has no gaps"


def test_a_run_whose_state_is_lost_is_not_pruned(house: House, tmp_path: Path) -> None:
    """Without its about.json no one knows how a run ended; without its model its checkpoints are all there is."""
    for name, file in (("a", "about.json"), ("b", "model.safetensors"), ("c", "config.json")):
        (Path(shutil.copytree(house.folder / "finished", tmp_path / name)) / file).unlink()
    said = goodfit("runs", tmp_path, "--prune", "--yes")
    assert said.code == 0 and said.out.count("files of the run cannot be read") == 3
    assert all((tmp_path / name / "checkpoints").is_dir() for name in "abc")


@pytest.mark.parametrize("flips", [FLIPS, pytest.param(SLOW_FLIPS, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_a_model_is_refused_or_without_effect(house: House, tmp_path: Path, flips: int) -> None:
    """In the weights, the config with the preprocessing, and the members of an ensemble and its record."""
    rng, ends = random.Random(0), Counter[str]()
    image = house.photos / "red" / "000.png"
    runs = {state: Path(shutil.copytree(house.folder / state, tmp_path / state)) for state in ("finished", "ensemble")}
    answers = {state: goodfit("predict", run, image, "--json").out for state, run in runs.items()}
    files = [(state, file) for state, run in runs.items() for file in house.files(state)
             if file.name in ("model.safetensors", "config.json", "ensemble.json") or file.parent.name == "use"]  # fmt: skip
    for _ in range(flips):
        state, file = rng.choice(files)
        before = (runs[state] / file).read_bytes()
        DAMAGES["one bit"](runs[state] / file, rng)
        said = goodfit("predict", runs[state], image, "--json")
        (runs[state] / file).write_bytes(before)
        assert "Traceback" not in said.err and (said.code != 0 or said.out == answers[state]), (state, file, said)
        ends[f"{file.name} {'without effect' if said.code == 0 else 'refused'}"] += 1
    print(f"{flips} flipped bits: {dict(ends)}")
    assert ends["model.safetensors refused"] and not ends["model.safetensors without effect"]


SHAPES_OF_OTHERS = {
    "about.json": [("openings", None), ("openings", 3), ("data", []), ("files", {"use/a.py": 3}), ("recipe_sha256", {})],
    "scores.json": [("validation", []), ("validation", {"accuracy": "high"}), ("validation", {"interval": [1]}), ("snapshots", {})],
    "config.json": [("views", None), ("use", ["../../mine.py"]), ("temperature", -1.0), ("preprocess", {}), ("files", None)],
    "ensemble.json": [("members", {}), ("classes", [3]), ("single", {"path": 3}), ("tests_seen", None)],
}


def test_values_of_another_shape_are_named(house: House, tmp_path: Path) -> None:
    """Whoever wrote them, without a checksum: the one reader says which file and which value it is."""
    for state, name in (
        ("finished", "about.json"),
        ("finished", "scores.json"),
        ("finished", "config.json"),
        ("ensemble", "ensemble.json"),
    ):
        run = Run(Path(shutil.copytree(house.folder / state, tmp_path / name)))
        whole = json.loads((run.path / name).read_text())
        del whole["sha256"]
        for key, value in SHAPES_OF_OTHERS[name]:
            (run.path / name).write_text(json.dumps({**whole, key: value}))
            words = ("compare", run.path, house.folder / "other") if name == "scores.json" else ("evaluate", run.path, "--test")
            said = goodfit(*words)
            assert said.code in (1, 2), (name, key, value)
            refused(said, said.code, f'{name}" does not read (')


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", STATES)
def test_many_damages(house: House, state: str, verb: str) -> None:
    ends, faults = Counter[str](), list[str]()
    cases = list(itertools.product(house.files(state), DAMAGES))
    for file, damage in random.Random(f"{state} {verb}").sample(cases, min(SLOW_SAMPLES, len(cases))):
        try:
            ends[house.try_damage(state, file, damage, verb)] += 1
        except AssertionError as error:
            faults.append(str(error).splitlines()[0])
    print(f"{verb} of a {state} run: {dict(ends)}, {len(faults)} faults")
    assert not faults, "\n".join(faults)
