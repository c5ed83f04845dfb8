"""`goodfit train` with options, recipes and run folders that cannot be: exit code 2, one sentence, nothing trained, nothing lost."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

import pytest

from goodfit import load
from goodfit.core.files import lock
from goodfit.core.run import Run
from goodfit.runs.resume import LOCK_FILE
from tests.support.command import FAST, copied, goodfit, refused, train
from tests.support.runs import assert_equal_weights

LENGTH = 'like "30 epochs"'


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("size", "0", 'Expected a size like "96" or "128x96"'),
        ("size", "abc", 'received "abc"'),
        ("size", "1x2x3", 'received "1x2x3"'),
        ("size", "-4", 'received "-4"'),
        ("size", "100000", "at most 8192 pixels a side"),
        ("budget", "soon", 'received "soon"'),
        ("budget", "0 epochs", LENGTH),
        ("budget", "0.5", LENGTH),
        ("budget", "10", LENGTH),
        ("budget", "1e999 epochs", LENGTH),
        ("evaluate_every", "never", 'received "never"'),
        ("evaluate_every", "2", 'received "2"'),
        ("evaluate_every", "0", "above 0"),
        ("save_every", "0", "above 0"),
        ("precision", "fp16", 'expected precision to be "auto" or "fp32" or "bf16", received "fp16"'),
        ("aspect", "fit", 'expected aspect to be "auto" or "crop" or "pad" or "stretch"'),
        ("batch_size", "0", "expected batch_size to be a whole number from 1"),
        ("batch_size", "8.5", "expected batch_size to be a whole number from 1"),
        ("limit", "-1", "expected limit to be a whole number from 0"),
        ("workers", "many", "expected workers to be a whole number"),
        ("cache", "0", "expected cache to be a number above 0"),
        ("clip", "nan", "expected clip to be a number from 0"),
        ("device", "nowhere", 'The device "nowhere" is not there: expected auto, cpu, cuda'),
        ("device", "meta", "holds no numbers"),
        ("model", "linaer", 'Unknown model "linaer". Did you mean "linear"?'),
        ("model", "linear(", "does not read as a model"),
        ("model", "adam", 'Unknown model "adam"'),
        ("model", "resnet(19)", "expected depth to be 18 or 20 or 32 or 34 or 44 or 50 or 56 or 101 or 110 or 152, received 19"),
        ("model", "resnet(dept=18)", 'Unknown setting of resnet "dept". Did you mean "depth"?'),
        ("model", "resnet(18, depth=18)", "twice"),
        ("model", "none", "Expected one model"),
        ("model", "linear | linear", "Expected one model"),
        ("model", "nowhere.Net()", '"nowhere.Net" does not import'),
        ("model", "math.pi", "is of Python's own library"),
        ("model", "os.getcwd", "is of Python's own library"),
        ("model", "numpy.pi", 'Expected "numpy.pi" to be a class or function, received a float'),
        ("model", "numpy.ndarray", "to be an nn.Module, an Optimizer, a Part or a function, received another class"),
        ("model", "torch.nn.Flatten()", "to return scores of shape [1, 3] for one image, received [1, 768]"),
        ("model", "torch.nn.Linear(5, 3)", "does not take images of 3x16x16"),
        ("loss", "softmax | mse", "Expected one loss"),
        ("loss", "none", "Expected one loss"),
        ("optimizer", "none", "Expected one optimizer"),
        ("optimizer", "sgd(lr=fast)", "expected lr to be a number above 0"),
        ("optimizer", "torch.optim.SGD(lrr=1)", "cannot be called: got an unexpected keyword argument 'lrr'"),
        ("optimizer", "torch.optim.sgd.sgd()", "cannot be called"),
        ("augment", "flip |", "does not read as a"),
        ("augment", "flip(p=2)", "expected p to be a number from 0 to 1, received 2"),
        ("augment", "flip(*x)", "not by * or **"),
        ("augment", "__import__('os')", "Unknown augment"),
        ("schedule", "none", "Expected a schedule"),
        ("schedule", "warmup('5 min') | cosine", 'A length of "5 min" is not known under a budget in epochs'),
        ("penalty", "l3(1)", 'Unknown penalty "l3". Did you mean "l2"?'),
        ("probes", "xyz", 'Unknown probe "xyz"'),
        ("stop", "patience(0)", "from 1, received 0"),
    ],
)  # fmt: skip
def test_wrong_values(photos: Path, tmp_path: Path, key: str, text: str, said: str) -> None:
    refused(train(photos, tmp_path / "run", **{key: text}), 2, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "modell=linear"), 'Unknown recipe key "modell". Did you mean "model"?'),
        (("--set", "seed"), 'Expected --set key=value, received "seed"'),
        (("--set", "seed=abc"), 'expected seed to be a whole number from 0, received "abc"'),
        (("--modl", "linear"), 'Unknown option "--modl". Did you mean --model?'),
        (("--recipe", "nope"), 'found none at "nope". Presets: '),
        (("--recipe", "nope.toml"), 'found none at "nope.toml"'),
        (("--use", "nope.py"), 'Expected a Python file with your parts at "nope.py"'),
        (("--epochs", "3"), "Expected one of --epochs and --budget"),
        (("--seeds", "0"), "Expected --seeds to be 1 or more, received 0"),
        (("--seeds", "x"), '"x" into int'),
        (("--lr", "abc"), '"abc" into float'),
        (("--lr", "-1"), "expected lr to be a number above 0"),
        (("--resume", "sometimes"), 'Expected --resume to be auto or never, received "sometimes"'),
        (("min",), 'Expected no more, found "min": put a value with spaces in quotes'),
    ],
)  # fmt: skip
def test_wrong_options(photos: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    refused(train(photos, tmp_path / "run", *words), 2, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", "2", "--budget", "3 epochs"), "Expected one of --epochs and --budget"),
        (("--epochs", "2", "--set", "budget=9 steps"), 'budget once, received it twice, once by "--set budget=9 steps"'),
        (("--set", "batch-size=8", "--batch-size", "4"), "Expected batch_size once"),
        (("--set", "seed=1", "--set", "seed=2"), "Expected seed once"),
        (("--set", "brake=none", "--plateau", "none"), "Expected plateau once"),
        (("--set", "data=digits"), "Expected data once"),
        (("--lr", "0.1", "--optimizer", "sgd(0.2)"), 'Expected one learning rate, received --lr 0.1 and that of "sgd(0.2)"'),
    ],
)
def test_what_is_given_twice_is_refused(photos: Path, words: tuple[str, ...], said: str) -> None:
    refused(goodfit("train", photos, "--dry", *words), 2, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modell = "linear"', 'Unknown recipe key "modell"'),
        ('seed = "x"', "expected seed to be a whole number from 0"),
        ("seed = ", "is not TOML"),
        ("seed = true", "expected seed to be a whole number from 0"),
        ('[model]\nname = "linear"', "expected model to be"),
        ('budget = "soon"', 'received "soon"'),
    ],
)
def test_wrong_recipe_files(photos: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    refused(goodfit("train", photos, "--out", tmp_path / "run", "--recipe", tmp_path / "my.toml"), 2, said)
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_import(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nowhere_at_all\n")
    refused(train(photos, tmp_path / "run", "--use", tmp_path / "mine.py"), 2, "do not import", "nowhere_at_all")
    (tmp_path / "mine.py").write_text("def (:\n")
    refused(train(photos, tmp_path / "run", "--use", tmp_path / "mine.py"), 2, "do not import", "SyntaxError")


def test_recipe_file_then_options(photos: Path, tmp_path: Path) -> None:
    """--set and options win over a file; --lr changes the optimizer's rate alone; a preset is a file by name."""
    lines = {**FAST, "optimizer": "sgd(0.5, momentum=0.8)", "budget": "3 epochs"}
    numbers = ("size", "batch_size", "threads")
    (tmp_path / "my.toml").write_text("".join(f"{k} = {v if k in numbers else repr(v)}\n" for k, v in lines.items()))
    words = ("--recipe", tmp_path / "my.toml", "--set", "seed=5", "--budget", "1 epochs", "--lr", "0.02")
    said = goodfit("train", photos, "--out", tmp_path / "run", *words)
    assert said.code == 0, said
    asked = Run(tmp_path / "run").read("about.json")["asked"]
    assert (asked["seed"], asked["budget"], asked["model"]) == (5, "1 epochs", "linear")
    assert asked["optimizer"].startswith("sgd(0.02, momentum=0.8")
    assert train(photos, tmp_path / "preset", "--recipe", "linear", "--dry").code == 0
    assert not (tmp_path / "preset").exists(), "--dry leaves nothing"


def test_runs_of_several_seeds_say_the_plan_once(photos: Path, tmp_path: Path) -> None:
    """The plan stands before the first run, a line before each, and a dry run says no more of the others."""
    said = train(photos, tmp_path / "run", "--seeds", "3", "--plot-schedule")
    lines = [line for line in said.err.splitlines() if line.startswith("Run ")]
    assert said.code == 0 and lines == [f"Run {k + 1} of 3: seed {k}." for k in range(3)]
    for words in ("classes, in order", "What was chosen", "length: 2 epochs", "learning rate"):
        assert said.err.count(words) == 1, words
    assert said.err.index("length: 2 epochs") < said.err.index("Run 2 of 3")
    assert said.err.count("100 %   ") == said.err.count("Report: ") == 3
    dry = train(photos, tmp_path / "dry", "--seeds", "3", "--dry")
    assert dry.code == 0 and dry.err.count("storage = ") == 1


def test_lr_needs_an_optimizer_with_a_rate(photos: Path, tmp_path: Path) -> None:
    refused(train(photos, tmp_path / "run", "--lr", "0.1", optimizer="torch.optim.Adadelta(lr=0.5)"), 2, "has no setting lr to replace")


# ---- where the run goes ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(photos, out).code == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_out_is_a_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    said = train(photos, tmp_path / "run")
    refused(said, 2, "Expected a folder for the run", "found a file")
    assert len(said.err.splitlines()) == 1, "it is said before any work"
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_out_holds_something_else(photos: Path, tmp_path: Path, resume: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    said = train(photos, tmp_path / "run", "--resume", resume)
    refused(said, 2, "is not empty: choose another --out.")
    assert "classes, in order" not in said.err, "it is said before any work"
    assert contents(tmp_path / "run") == {"thesis.txt": b"mine"}


def test_out_is_another_run(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    before = contents(run)
    refused(train(photos, run), 2, "is not empty", "--resume auto")
    refused(train(photos, run, "--resume", "auto", optimizer="sgd(0.5)"), 2, "another optimizer", "only budget,", "may change")
    refused(train(photos, run, "--resume", "auto", size="12", seed="3"), 2, "another size, seed")
    assert contents(run) == before


def test_resume_with_other_images_is_refused(photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    assert train(data, tmp_path / "run").code == 0
    (data / "red" / "000.png").unlink()
    before = contents(tmp_path / "run")
    refused(train(data, tmp_path / "run", "--resume", "auto", budget="3 epochs"), 3, "have changed", "another --out")
    assert contents(tmp_path / "run") == before


def test_a_run_goes_on_with_its_own_copy_of_parts_that_changed(photos: Path, tmp_path: Path) -> None:
    """It says so; and the run's recipe trains by that copy, also where what it was copied from is gone."""
    text = (
        "import dataclasses, torch\nfrom goodfit.core.contracts import Activation\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(Activation):\n    '''An activation.'''\n"
        "    def __call__(self):\n        return torch.nn.Tanh()\n"
    )
    (mine := tmp_path / "mine.py").write_text(text)
    options = {"model": "mlp((8,), act=mine)", "budget": "1 epoch"}
    assert train(photos, tmp_path / "run", "--use", mine, **options).code == 0
    assert "mine.py" not in train(photos, tmp_path / "run", "--use", mine, "--resume", "auto", **options).err
    mine.write_text(text.replace("Tanh", "ReLU"))
    said = train(photos, tmp_path / "run", "--use", mine, "--resume", "auto", **options | {"budget": "2 epochs"})
    assert (
        said.code == 0 and f'mine.py changed since the run began: it goes on with its own copy in "{tmp_path / "run" / "use"}".' in said.err
    )
    assert "Tanh" in repr(load(tmp_path / "run").members[0].model)
    mine.unlink()
    assert goodfit("train", "--recipe", tmp_path / "run" / "recipe.toml", "--out", tmp_path / "again").code == 0
    assert "Tanh" in repr(load(tmp_path / "again").members[0].model)
    again = goodfit("train", "--recipe", tmp_path / "run" / "recipe.toml", "--out", tmp_path / "run", "--resume", "auto")
    assert again.code == 0 and "changed" not in again.err


CHANGED = {"seed": "1", "clip": "2.5", "batch_size": "4", "augment": "flip", "loss": "svm", "optimizer": "sgd(0.5)", "budget": "9 epochs"}


def edited(run: Path, key: str, value: str) -> None:
    """Change a key of a run's recipe.toml by hand."""
    text = value if value.replace(".", "").isdigit() else json.dumps(value)
    recipe = re.sub(rf"(?m)^{key} = .*$", lambda found: f"{key} = {text}", (run / "recipe.toml").read_text())
    (run / "recipe.toml").write_text(recipe)


@pytest.mark.parametrize("key", CHANGED)
def test_a_recipe_that_was_edited_is_refused_on_a_resume(photos: Path, finished: Path, tmp_path: Path, key: str) -> None:
    run = copied(finished, tmp_path / "run")
    edited(run, key, CHANGED[key])
    before = contents(run)
    refused(train(photos, run, "--resume", "auto", budget="3 epochs"), 2, f"was changed since its run was started ({key})", "--recipe")
    assert contents(run).keys() == before.keys() and contents(run) == before
    assert goodfit("train", "--recipe", run / "recipe.toml", "--dry").code == 0, "it may be trained as a new run"


def test_a_recipe_that_is_damaged_is_written_anew_on_a_resume(photos: Path, finished: Path, tmp_path: Path) -> None:
    """Cut at any line end, or no TOML: it is said, and the weights are those of the undamaged run."""
    whole = copied(finished, tmp_path / "whole")
    assert train(photos, whole, "--resume", "auto", budget="3 epochs").code == 0
    lines = (finished / "recipe.toml").read_text().splitlines(keepends=True)
    for number, text in enumerate(["", *("".join(lines[:n]) for n in (1, 7, 30, len(lines) - 1)), "seed = -1\n", "\0"]):
        run = copied(finished, tmp_path / f"run {number}")
        (run / "recipe.toml").write_text(text)
        said = train(photos, run, "--resume", "auto", budget="3 epochs")
        assert said.code == 0 and 'recipe.toml" is damaged (' in said.err and "written anew from about.json" in said.err, (text, said)
        assert_equal_weights(whole, run)
        assert contents(run)["recipe.toml"] == contents(whole)["recipe.toml"].replace(b"whole", f"run {number}".encode())


def test_an_edited_recipe_that_has_lost_a_line_is_refused(photos: Path, finished: Path, tmp_path: Path) -> None:
    """What was edited is not overwritten because something else is gone."""
    run = copied(finished, tmp_path / "run")
    edited(run, "seed", "1")
    lines = (run / "recipe.toml").read_text().splitlines(keepends=True)
    (run / "recipe.toml").write_text("".join(line for line in lines if not line.startswith("clip = ")))
    before = contents(run)
    refused(train(photos, run, "--resume", "auto", budget="3 epochs"), 2, "was changed since its run was started (seed)")
    assert contents(run) == before


def test_a_damaged_recipe_is_said_to_be_written_only_where_it_is(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    (run / "recipe.toml").write_text("")
    said = train(photos, run, "--resume", "auto", "--dry", budget="3 epochs")
    assert said.code == 0 and 'recipe.toml" is damaged (' in said.err and "written anew" not in said.err, said
    assert (run / "recipe.toml").read_text() == ""


def test_the_recipe_of_before_that_a_kill_leaves_is_no_edit(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    before = (run / "recipe.toml").read_bytes()
    assert train(photos, run, "--resume", "auto", budget="3 epochs").code == 0
    (run / "recipe.toml").write_bytes(before)
    said = train(photos, run, "--resume", "auto", budget="4 epochs")
    assert said.code == 0 and "damaged" not in said.err, said


def test_resume_of_a_pruned_run_is_refused(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "runs" / "run")
    assert goodfit("runs", tmp_path / "runs", "--prune", "--yes").code == 0
    before = contents(run)
    refused(train(photos, run, "--resume", "auto", budget="3 epochs"), 2, "The checkpoints of", "are gone")
    assert contents(run) == before


def test_resume_that_starts_anew_says_why(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]

    def resumed(*more: str | Path) -> str:
        said = goodfit("train", photos, *words, "--resume", "auto", *more)
        assert said.code == 0, said
        return next(iter(line for line in said.err.splitlines() if line.startswith("Starting anew: ")), "")

    assert resumed() == 'Starting anew: there is no unfinished run in "runs".'
    run = Run((tmp_path / "runs" / "latest").resolve())
    assert resumed("--seed", "1") == 'Starting anew: there is no unfinished run in "runs".', "the first has finished"
    run.update("about.json", {"state": "interrupted"})
    assert resumed("--seed", "2", "--clip", "3") == f'Starting anew: the newest unfinished run, "runs/{run.name}", has another clip, seed.'
    with lock(run.path / LOCK_FILE):
        assert resumed() == f'Starting anew: the unfinished run "runs/{run.name}" is being trained by another process.'
    assert resumed() == "" and run.read("about.json")["state"] == "finished", "it goes on"
    assert resumed("--out", tmp_path / "new") == f'Starting anew: there is no run at "{tmp_path / "new"}" yet.'
    assert resumed("--out", tmp_path / "new") == ""


def test_a_recipe_on_other_images_than_its_runs_is_noted(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run").code == 0
    words = ("--recipe", tmp_path / "run" / "recipe.toml", "--dry")
    assert "Note:" not in goodfit("train", *words).err
    shutil.copytree(photos, tmp_path / "others")
    assert "Note:" not in goodfit("train", tmp_path / "others", *words).err, "the same images elsewhere"
    (tmp_path / "others" / "red" / "000.png").unlink()
    note = f'  Note: the recipe is that of "{tmp_path / "run"}", which was trained on other images, "photos" of 3 classes'
    said = goodfit("train", tmp_path / "others", *words)
    assert said.code == 0 and note in said.err
    shutil.copyfile(tmp_path / "run" / "recipe.toml", tmp_path / "alone.toml")
    assert "Note:" not in goodfit("train", tmp_path / "others", "--recipe", tmp_path / "alone.toml", "--dry").err, "not known"


def test_resume_passes_over_a_run_that_does_not_read(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert goodfit("train", photos, *words).code == 0
    first = Run((tmp_path / "runs" / "latest").resolve())
    (first.path / "about.json").write_text("{")
    said = goodfit("train", photos, *words, "--resume", "auto")
    assert said.code == 0, said
    assert (tmp_path / "runs" / "latest").resolve() != first.path


def test_runs_folder_that_cannot_be_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def denied(self: Path, *args: int, **named: bool) -> None:
        if tmp_path / "runs" in self.parents:
            raise OSError(errno.EROFS, "Read-only file system")
        mkdir(self, *args, **named)

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(train(photos, tmp_path / "runs" / "run"), 1, "cannot be written (Read-only file system); choose another folder")


def test_relative_paths_work_from_elsewhere(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained with relative data, validation and parts from one folder; evaluated and trained again from another."""
    home = tmp_path / "a home"
    shutil.copytree(photos, home / "my photos")
    (home / "mine.py").write_text("")
    monkeypatch.chdir(home)
    assert train("my photos", "first").code == 0
    shutil.copyfile("first/splits.csv", "mine.csv")
    said = train("my photos", "run", "--use", "mine.py", validation="mine.csv")
    assert said.code == 0, said
    monkeypatch.chdir("/")
    assert goodfit("evaluate", home / "run", "--json").code == 0
    again = goodfit("train", "--recipe", home / "run" / "recipe.toml", "--out", tmp_path / "again")
    assert again.code == 0, again


def test_a_plateau_rule_of_its_own_gets_a_rate_that_stays(photos: Path) -> None:
    """A plateau beside a cosine would anneal twice."""
    assert "schedule = warmup(0.05) | constant  (" in goodfit("train", photos, "--dry", "--plateau", "plateau").err
    assert "schedule = warmup(0.05) | cosine  (" in goodfit("train", photos, "--dry").err


def test_the_former_key_brake_is_the_field_plateau(photos: Path, tmp_path: Path) -> None:
    """As an option, with --set, in a recipe file, and as what a run was asked for that is resumed."""
    (tmp_path / "my.toml").write_text('brake = "plateau(0.5, patience=3)"\n')
    for words in (
        ("--brake", "plateau(0.5, patience=3)"),
        ("--plateau", "plateau(0.5, patience=3)"),
        ("--set", "brake=plateau(0.5, patience=3)"),
        ("--recipe", tmp_path / "my.toml"),
        ("--recipe", tmp_path / "my.toml", "--brake", "plateau(0.5, patience=3)"),
    ):
        assert "the plateau rule is plateau(0.5, patience=3)" in goodfit("train", photos, "--dry", *words).err, words
    run = Run(tmp_path / "run")
    assert train(photos, run.path, plateau="plateau(0.5, patience=3)").code == 0
    assert "\nplateau = " in (run.path / "recipe.toml").read_text()
    asked = run.read("about.json")["asked"]
    run.update("about.json", {"asked": {("brake" if key == "plateau" else key): value for key, value in asked.items()}})
    recipe = (run.path / "recipe.toml").read_text()
    (run.path / "recipe.toml").write_text(recipe.replace("\nplateau = ", "\nbrake = "))
    resumed = train(photos, run.path, "--resume", "auto", budget="3 epochs", brake="plateau(0.5, patience=3)")
    assert resumed.code == 0 and "Continuing" in resumed.err, resumed
    refused(train(photos, run.path, "--resume", "auto", budget="4 epochs"), 2, "another plateau")


def test_rules_of_ones_own_may_derive_from_the_former_kinds(photos: Path, tmp_path: Path) -> None:
    part = "@dataclasses.dataclass(frozen=True)\nclass {}({}):\n    def __call__(self, scores) -> {}:\n        return {}\n"
    parts = (("Halving", "Brake", "float", "0.5"), ("Never", "Stop", "bool", "False"))
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom goodfit.core.contracts import Brake, Stop\n" + "".join(part.format(*words) for words in parts)
    )
    said = train(photos, tmp_path / "run", "--use", tmp_path / "mine.py", plateau="halving", stop="never")
    assert said.code == 0, said
    assert "The learning rate is multiplied by 0.5" in said.err


def test_snapshots_get_a_cycle_each(photos: Path) -> None:
    assert "schedule = sgdr(3, growth=1" in goodfit("train", photos, "--dry", "--snapshots", "3").err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("train", "digits", "--optimizer", "sgd(lr=0,001)"), "0.001 for 0,001"),
        (("train", "digits", "--augment", "flip, crop"), 'written "flip | crop"'),
        (("train", "digits", "--resume"), 'Did you mean "--resume auto"?'),
        (("train", "digits", "--pretrained"), "Did you mean --from?"),
        (("train", "digits", "--model", "nearest", "--penalty", "l2(1e-4)", "--epochs", "1"), "leave the penalty out"),
        (("predict", "photo.jpg"), "goodfit predict runs/latest photo.jpg"),
        (("train", "digits", "resume"), 'did you mean "--resume auto"?'),
        (("train", "digits", "--lr", "0,001"), "Did you mean 0.001?"),
    ],
)
def test_a_sentence_names_what_is_meant(words: tuple[str, ...], hint: str) -> None:
    refused(goodfit(*words), 2, hint)


def test_the_plan_is_short_unless_asked_for(photos: Path, tmp_path: Path) -> None:
    short, whole = (
        goodfit("train", photos, "--epochs", "1", "--size", "16", "--out", tmp_path / k, *more) for k, more in (("a", ()), ("b", ("-v",)))
    )
    plan = short.err.partition("training  ")[0].splitlines()
    assert len(plan) < 12 and "  network: convnet" in short.err and "optimizer = " not in short.err
    assert "    optimizer = sgd(" in whole.err
    assert "optimizer" in (tmp_path / "a" / "report.html").read_text()
