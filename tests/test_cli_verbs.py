"""The other verbs and what all verbs share: --help at once, JSON alone on stdout, runs, parts and describe."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from goodfit.cli import VERBS, main
from goodfit.core.files import lock
from goodfit.core.run import Run
from goodfit.recipe.recipe import Recipe
from goodfit.runs.listing import prune_runs, summarize_runs
from tests.support.command import FAST, copied, goodfit, refused, train
from tests.support.process import Forked

BARE = "import sys; {}; print(sorted({{'torch', 'numpy', 'PIL'}} & set(sys.modules)), file=sys.stderr)"


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(photos, out).code == 0
    return out


# ---- at once -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["", "train", "predict", "describe"])
def test_help_is_quick_and_loads_no_torch(verb: str) -> None:
    call = f"sys.argv = ['goodfit', {verb!r}, '--help'] if {verb!r} else ['goodfit', '--help']; from goodfit.cli import main; main()"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", BARE.format(call)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage: goodfit" in done.stdout
    assert done.stderr.strip() == "[]", "nothing heavy was imported"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_import_goodfit_loads_no_torch() -> None:
    call = "import goodfit; goodfit.Recipe(model='resnet(18)').but(seed=3).to_toml()"
    done = subprocess.run([sys.executable, "-c", BARE.format(call)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str) -> None:
    said = goodfit(verb, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"Usage: goodfit {verb} " in said.out
    assert "[default: False]" not in said.out
    assert '[default: ""]' not in said.out
    assert goodfit("help", verb) == said


def test_no_words_and_wrong_words() -> None:
    assert "Usage: goodfit COMMAND" in goodfit().out
    assert goodfit("help") == goodfit("--help")
    refused(goodfit("trian", "digits"), 2, 'Did you mean "train"?', "goodfit --help")
    assert goodfit("--version").out.strip()


# ---- streams -----------------------------------------------------------------------------------------------------------------------


def test_json_is_all_there_is_on_stdout(photos: Path, finished: Path, tmp_path: Path) -> None:
    """Everything else goes to stderr; off a terminal there is no bar and no color there, with or without NO_COLOR."""
    image = photos / "red" / "000.png"
    commands = [
        ("evaluate", finished, "--json"),
        ("evaluate", copied(finished, tmp_path / "copy"), "--test", "--json"),
        ("predict", finished, image, "--json"),
        ("parts", "--json"),
        ("describe", "linear", "--json"),
        ("runs", finished.parent, "--json"),
    ]
    for said in [train(photos, tmp_path / "run", "--json"), *(goodfit(*words) for words in commands)]:
        assert said.code == 0, said
        assert said.out.count("\n") == 1
        json.loads(said.out)
        assert "\x1b" not in said.err
        assert "\r" not in said.err
    for words in commands:
        assert not goodfit(*words[:-1]).out.startswith(("{", "["))


def test_train_json_has_the_run_and_its_scores(photos: Path, tmp_path: Path) -> None:
    said = train(photos, tmp_path / "run", "--json")
    result = json.loads(said.out)
    assert result["path"] == str(tmp_path / "run")
    assert {"accuracy", "loss", "balanced_accuracy", "interval", "images"} <= result["scores"]["validation"].keys()
    assert json.loads(goodfit("evaluate", tmp_path / "run", "--json").out)["accuracy"] == result["scores"]["validation"]["accuracy"]
    assert "packing" not in said.err
    assert sum(line.lstrip()[0].isdigit() for line in said.err.splitlines()) == 2, "a line for each evaluation"
    assert json.loads(train(photos, tmp_path / "dry", "--dry", "--json").out) == {}
    about, rows = Run(tmp_path / "run").read("about.json"), Run(tmp_path / "run").log("evaluate")
    assert about["seconds"]["evaluation"] > sum(row["seconds"] for row in rows) > 0, "and the final scores"
    assert about["seconds"]["training"] < rows[-1]["elapsed"], "evaluations are booked apart"
    assert rows[0]["best"] is True


def run_on_terminal(terminal: str, words: tuple[str, ...]) -> None:
    os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
    sys.argv = ["goodfit", *words]
    main()


def test_no_color_on_a_terminal(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real terminal: the bar is drawn there; with NO_COLOR without colors, and the words are whole lines."""
    monkeypatch.setenv("TERM", "xterm-256color")
    options = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
    head, tail = pty.openpty()
    process = Forked(
        tmp_path / "printed", run_on_terminal, os.ttyname(tail), ("train", str(photos), "--out", str(tmp_path / "run"), *options)
    )
    seen = b""
    while process.poll() is None or select.select([head], [], [], 0)[0]:
        if select.select([head], [], [], 0.01)[0]:
            seen += os.read(head, 65536)
    os.close(head)
    os.close(tail)
    assert process.wait() == 0 and process.out.startswith("Validation accuracy ")
    assert b"\x1b[3" not in seen, "no color"
    assert b"\r" in seen, "a bar"
    assert b"length: 2 epochs" in seen


# ---- runs --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def house(finished: Path, tmp_path: Path) -> Path:
    """A folder of runs: finished, interrupted, killed long ago, training now, and one whose about.json does not read."""
    for name, state in (("done", "finished"), ("stopped", "interrupted"), ("killed", "running"), ("now", "running"), ("odd", "finished")):
        run = Run(copied(finished, tmp_path / "runs" / name))
        run.update("about.json", {"state": state})
    (run.path / "about.json").write_text("{")
    for path in (tmp_path / "runs" / "killed", *(tmp_path / "runs" / "killed").iterdir()):
        os.utime(path, (time.time() - 86400,) * 2)
    (tmp_path / "runs" / "latest").symlink_to("done")
    return tmp_path / "runs"


def test_runs_lists_states_and_sizes(house: Path) -> None:
    rows = {Path(row["path"]).name: row for row in json.loads(goodfit("runs", house, "--json").out)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "finished", "stopped": "interrupted", "killed": "running", "now": "running", "odd": "damaged",
    }  # fmt: skip
    assert rows["done"]["bytes"] == sum(file.stat().st_size for file in (house / "done").rglob("*") if file.is_file())
    assert rows["done"]["accuracy"] == Run(house / "done").read("scores.json")["validation"]["accuracy"]
    lines = goodfit("runs", house).out.splitlines()
    assert len(lines) == 6 and lines[0].split() == ["run", "started", "data", "model", "state", "accuracy", "size"]
    assert sum("finished" in line and "linear" in line and "%" in line for line in lines) == 1


def test_prune_says_then_deletes(house: Path, photos: Path) -> None:
    """Only what cannot go on goes: a run that was killed before its first checkpoint, and the checkpoints of a finished one."""
    Run(copied(house / "done", house / "failed")).update("about.json", {"state": "failed"})
    begun = Run(copied(house / "killed", house / "begun"))
    shutil.rmtree(begun.checkpoints)
    before = {file for file in house.rglob("*") if file.is_file()}
    said = goodfit("runs", house, "--prune")
    assert said.code == 0
    for name in ("stopped", "killed", "failed", "now"):
        assert f"kept {house / name}: it can be continued with --resume auto" in said.out
    assert f"would delete {house / 'done' / 'checkpoints'} (" in said.out
    assert "run again with --yes" in said.out
    assert {file for file in house.rglob("*") if file.is_file()} == before
    said = goodfit("runs", house, "--prune", "--yes")
    assert "freed" in said.out
    assert {path.name for path in house.iterdir()} == {"done", "now", "odd", "stopped", "killed", "failed", "latest"}
    assert f"kept {house / 'odd'}" in said.out
    assert not (house / "done" / "checkpoints").exists()
    assert {f for f in before if "done" not in f.parts and "begun" not in f.parts} <= {file for file in house.rglob("*") if file.is_file()}
    assert goodfit("predict", house / "latest", photos / "red" / "000.png").code == 0, "the model stays"
    assert goodfit("runs", house, "--prune", "--yes").out.startswith("kept"), "nothing more to free"


def test_a_run_that_could_go_on_is_pruned_by_its_name_alone(house: Path) -> None:
    said = goodfit("runs", house / "killed", "--prune")
    assert f"would delete {house / 'killed'} (" in said.out and (house / "killed").is_dir()
    assert f"deleted {house / 'killed'} (" in goodfit("runs", house / "killed", "--prune", "--yes").out
    assert {path.name for path in house.iterdir()} == {"done", "stopped", "now", "odd", "latest"}
    (house / "latest").unlink()
    (house / "latest").symlink_to("stopped")
    assert "deleted" in goodfit("runs", house / "stopped", "--prune", "--yes").out
    assert {path.name for path in house.iterdir()} == {"done", "now", "odd"}, "the run goes, and the link to it"


def test_nothing_behind_a_link_is_pruned(house: Path, tmp_path: Path) -> None:
    """Neither a run that a link points to, nor the runs in a folder behind one; the sentence names what to name instead."""
    (tmp_path / "link").symlink_to(house)
    before = {file for file in house.rglob("*") if file.is_file()}
    for named, real in ((house / "latest", house / "done"), (tmp_path / "link", house), (tmp_path / "link" / "killed", house)):
        for more in ((), ("--yes",)):
            refused(goodfit("runs", named, "--prune", *more), 2, "is a link", f'name "{real}" instead')
    assert {file for file in house.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_run_whose_checkpoints_cannot_be_read_now_is_kept(house: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A disk that fails for a moment, for the files or for their folder, deletes no run that could go on."""
    read, iterate = Path.read_bytes, Path.iterdir

    def fail(path: Path) -> bytes:
        if path.parent.name == "checkpoints":
            raise OSError(number, os.strerror(number))
        return read(path)

    def fail_to_list(path: Path) -> Iterator[Path]:
        if path.name == "checkpoints":
            raise OSError(number, os.strerror(number))
        return iterate(path)

    for function, failing in (("pathlib.Path.read_bytes", fail), ("pathlib.Path.iterdir", fail_to_list)):
        with monkeypatch.context() as patch:
            patch.setattr(function, failing)
            said = goodfit("runs", house, "--prune", "--yes")
        for name in ("stopped", "killed"):
            assert f"kept {house / name}: its checkpoints cannot be read now ({os.strerror(number)})" in said.out, said
    assert {path.name for path in house.iterdir()} == {"done", "stopped", "killed", "now", "odd", "latest"}


def test_the_state_that_counts_for_pruning_is_read_under_the_lock(house: Path) -> None:
    """Not that of the list, which another process may have gone on from: a finished run is deleted no more."""
    rows = summarize_runs(house)
    for name in ("killed", "stopped"):
        Run(house / name).update("about.json", {"state": "finished"})
    prune_runs([row for row in rows if row["state"] in ("running", "interrupted")], delete=True, is_named=True)
    assert (house / "killed" / "model.safetensors").is_file() and (house / "stopped" / "model.safetensors").is_file()


def test_a_busy_run_is_never_pruned(house: Path) -> None:
    """Whatever its about.json says, and though it has been still for days, as a stopped process is."""
    for name in ("done", "killed"):
        with lock(house / name / ".lock", wait=False) as held:
            assert held
            for place in (house, house / name):
                said = goodfit("runs", place, "--prune", "--yes")
                assert said.code == 0 and f"{name}: it is being trained" in said.out.replace("/checkpoints", ""), said
            assert (house / name / "checkpoints").is_dir()


def test_without_locks_what_may_be_running_is_kept(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def no_lock(path: Path, wait: bool = True) -> Iterator[None]:
        yield None

    monkeypatch.setattr("goodfit.runs.listing.lock", no_lock)
    shutil.rmtree(house / "now" / "checkpoints")
    assert f"kept {house / 'now'}: it may still be running" in goodfit("runs", house, "--prune", "--yes").out


def test_links_do_not_break_pruning(house: Path, tmp_path: Path) -> None:
    """A folder of checkpoints on another disk, runs that are links, and a file in place of the checkpoints."""
    (house / "done" / "checkpoints").rename(tmp_path / "disk")
    (house / "done" / "checkpoints").symlink_to(tmp_path / "disk")
    (house / "far").symlink_to(tmp_path / "nowhere")
    (house / "near").symlink_to("stopped")
    shutil.rmtree(house / "stopped" / "checkpoints")
    (house / "stopped" / "checkpoints").write_text("x")
    files = set((tmp_path / "disk").iterdir())
    said = goodfit("runs", house, "--prune", "--yes")
    assert said.code == 0 and f'its checkpoints are a link to "{tmp_path / "disk"}"' in said.out, said
    assert set((tmp_path / "disk").iterdir()) == files and not (house / "stopped").exists()
    assert goodfit("runs", tmp_path / "runs", "--prune").code == 0


def test_runs_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(goodfit("runs", tmp_path / "none"), 3, "Expected a folder of runs", "found none")
    monkeypatch.chdir(tmp_path)
    refused(goodfit("runs"), 3, 'Expected a folder of runs at "runs"')
    (tmp_path / "runs").mkdir()
    assert json.loads(goodfit("runs", "--json").out) == []
    assert goodfit("runs").code == 0


# ---- parts and describe ------------------------------------------------------------------------------------------------------------


def test_parts_by_kind_and_name(tmp_path: Path) -> None:
    everything = json.loads(goodfit("parts", "--json").out)
    kinds = {card["kind"] for card in everything}
    assert {"augment", "loss", "optimizer", "schedule", "model"} <= kinds
    said = goodfit("parts").out
    assert all(f"  {card['spelling']}\n" in said for card in everything)
    assert [line for line in said.splitlines() if line and line[0] != " "] == sorted(kinds), "kinds stand at the margin, nothing else"
    augment = json.loads(goodfit("parts", "augment", "--json").out)
    assert {card["kind"] for card in augment} == {"augment"}
    assert "Hurts:" in goodfit("parts", "flip").out
    refused(goodfit("parts", "flop"), 2, 'Unknown kind or part "flop". Did you mean "flip"?')
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import dataclasses\nfrom goodfit.core.contracts import Loss\n\n"
        '@dataclasses.dataclass(frozen=True)\nclass MyOwn(Loss):\n    """Mine."""\n'
        "    def __call__(self, logits, targets):\n        return logits.sum(1)\n"
    )
    assert "my_own\n      Mine." in goodfit("parts", "loss", "--use", mine).out


def test_describe_counts_resnet18() -> None:
    totals = json.loads(goodfit("describe", "resnet(18)", "--json").out)["totals"]
    assert totals["parameters"] == 11_689_512
    small = json.loads(goodfit("describe", "resnet(18)", "--classes", "10", "--size", "32x48", "--channels", "1", "--json").out)
    assert small["input"] == [1, 1, 32, 48]
    assert "11,689,512" in goodfit("describe", "resnet(18)").out


def test_describe_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By dotted name from the folder one stands in, and as a part with --use."""
    (tmp_path / "mynets_here.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self, classes, depth=1):\n        super().__init__()\n"
        "        self.body = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 1) for _ in range(depth)])\n"
        "        self.head = torch.nn.Linear(3, classes)\n\n"
        "    def forward(self, x):\n        return self.head(self.body(x).mean((2, 3)))\n"
    )
    (tmp_path / "mine.py").write_text(
        "import dataclasses, torch\nfrom goodfit.core.contracts import Model\n\n"
        '@dataclasses.dataclass(frozen=True)\nclass Flat(Model):\n    """Flat."""\n    def __call__(self, classes, channels, size):\n'
        "        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size[0] * size[1], classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    said = goodfit("describe", "mynets_here.Net(depth=2)", "--classes", "5", "--json")
    assert said.code == 0, said
    assert json.loads(said.out)["totals"]["parameters"] == 2 * 12 + 20
    said = goodfit("describe", "flat", "--use", "mine.py", "--size", "4", "--classes", "2", "--json")
    assert json.loads(said.out)["totals"]["parameters"] == (48 + 1) * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("resnet(19)",), "expected depth to be"),
        (("resnot",), 'Did you mean "resnet"?'),
        (("linear", "--size", "0"), "Expected a size"),
        (("linear", "--classes", "0"), "--classes and --channels to be 1 or more, received 0 and 3"),
        (("linear", "--channels", "0"), "received 1000 and 0"),
        (("torch.nn.Linear(3, 4)",), "does not take images of 3x224x224"),
        (("nowhere.Net",), "does not import"),
        ((), "Expected a model"),
    ],
)
def test_describe_refuses(words: tuple[str, ...], said: str) -> None:
    refused(goodfit("describe", *words), 2, said)


def test_tensorboard_events(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra, events; without it, one sentence before anything is trained."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(train(photos, tmp_path / "none", "--tensorboard"), 2, 'pip install "goodfit[tensorboard]"')
    assert not (tmp_path / "none").exists()
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    assert train(photos, tmp_path / "run", "--tensorboard").code == 0
    assert any(path.name.startswith("events.") for path in (tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("train", "nothing/here"), 3, "found nothing there"),
        (("train", "digits", "--model", "resnt(18)"), 2, 'Unknown model "resnt". Did you mean "resnet"?'),
        (("train", "digits", "--augment", "flip | crp(2)"), 2, 'Unknown augment "crp"'),
        (("train", "digits", "--out", "taken"), 2, '"taken" is not empty'),
        (("evaluate", "nothing"), 2, 'Expected a run folder at "nothing"'),
        (("export", "nothing"), 2, 'Expected a run folder at "nothing"'),
        (("predict", "nothing", "a.jpg"), 2, 'Expected a run folder at "nothing"'),
        (("steer", "nothing", "--rate", "2"), 2, 'Expected a run folder at "nothing"'),
    ],
)
def test_what_is_not_there_is_refused_before_torch_is_loaded(tmp_path: Path, words: tuple[str, ...], code: int, sentence: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    script = f"import sys; sys.argv = ['goodfit', *{words}]; from goodfit.cli import main\n"
    script += "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"{code} False\n" and sentence in done.stderr


@pytest.mark.parametrize("verb", ["train", "search"])
def test_help_with_all_lists_every_field_of_the_recipe(verb: str) -> None:
    """In a process of its own, which reads --all as it starts."""
    done = subprocess.run([sys.executable, "-m", "goodfit", verb, "--help", "--all"], capture_output=True, text=True, check=True)
    elsewhere = {"data", "use"} | ({"budget", "workers", "keep"} if verb == "search" else set())
    names = {"source": "from", "source_by": "from-by"}
    for field in set(Recipe().plain()) - elsewhere:
        assert f"--{names.get(field, field).replace('_', '-')} " in done.stdout, field
    short = goodfit(verb, "--help").out
    assert "--clip " not in short and "--optimizer " in short and len(short.splitlines()) < 75
