"""No code from elsewhere runs unasked: whatever a run folder or recipe names, no file appears without --trust, and by it only what may."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import goodfit
from goodfit.core import trust as register
from goodfit.core.run import Run
from goodfit.core.trust import Trust, UntrustedCode, dotted_names, trust_words, use_trust
from goodfit.recipe.recipe import Recipe
from goodfit.study.search.plan import BASE_FILE, SearchPlan
from tests.support.command import FAST, Said, refused, train
from tests.support.command import goodfit as command

NET = """
from pathlib import Path
from torch import nn

Path({mark!r}).touch()

class Net(nn.Sequential):
    def __init__(self, classes, channels, size):
        super().__init__(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))

def make(classes, channels, size):
    return Net(classes, channels, size)
"""
PART = """
import dataclasses
from pathlib import Path
from goodfit.core.contracts import Model
from torch import nn

Path({mark!r}).touch()

@dataclasses.dataclass(frozen=True)
class Mine(Model):
    '''One matrix.'''

    def __call__(self, classes, channels, size):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
"""
FAST_WORDS = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
VERBS: dict[str, Callable[[Path, Path, Path], list[str | Path]]] = {  # of a run, a folder of photos and a place to write to
    "predict": lambda run, photos, out: ["predict", run, photos / "red" / "000.png"],
    "evaluate": lambda run, photos, out: ["evaluate", run],
    "export": lambda run, photos, out: ["export", run, "--onnx", out / "net.onnx"],
    "features": lambda run, photos, out: ["features", run, photos, "--out", out / "features.npz"],
    "train --from": lambda run, photos, out: ["train", photos, "--from", run, "--epochs", "1", "--out", out / "new"],
    "train --recipe": lambda run, photos, out: ["train", "--recipe", run / "recipe.toml", "--dry"],
    "train --resume": lambda run, photos, out: ["train", photos, *FAST_WORDS, "--out", run, "--resume", "auto"],
    "describe": lambda run, photos, out: ["describe", run],
    "describe --signals": lambda run, photos, out: ["describe", run, "--signals"],
    "doctor": lambda run, photos, out: ["doctor", run],
    "ensemble": lambda run, photos, out: ["ensemble", run, out / "other", "--soup", "uniform", "--out", out / "soup"],
    "search": lambda run, photos, out: ["search", "--recipe", run / "recipe.toml", "--trials", "1", "--out", out / "search"],
    "search --resume": lambda run, photos, out: ["search", "--resume", out / "search"],
    "lr": lambda run, photos, out: ["lr", "--recipe", run / "recipe.toml"],
    "show": lambda run, photos, out: ["show", "--recipe", run / "recipe.toml", "--out", out / "sheet.png"],
}
BY_VERB = list(VERBS)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Become another user, or another machine: nothing is known there."""
    users = itertools.count()

    def leave() -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / f"settings of {next(users)}"))
        monkeypatch.setattr(register, "_known_now", set())

    leave()
    return leave


@pytest.fixture(scope="module")
def plain_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(photos, run).code == 0
    return run


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that leaves a mark when it is imported, which it is not yet."""
    name = f"nets_{abs(hash(str(tmp_path))):x}"
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / f"{name}.py").write_text(NET.format(mark=str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return name


def plant(run: Path, place: Path, text: str, use: str = "") -> Path:
    """A copy of a run whose model is another text, everywhere it stands, and with a file of parts."""
    copy = Run(Path(shutil.copytree(run, place)))
    (copy.path / "other").mkdir()
    files = {}
    if use:
        (copy.path / "use").mkdir()
        (copy.path / "use" / "00-mine.py").write_text(use)
        files = {"use": ["00-mine.py"]}
    config = copy.read("config.json")
    copy.write("config.json", {**{key: value for key, value in config.items() if key != "files"}, "model": text, **files})
    recipe = Recipe.of_run(run).but(model=text, use=tuple(map(str, (copy.path / "use").glob("*.py"))))
    (copy.path / "recipe.toml").write_text(recipe.to_toml())
    about = {key: value for key, value in copy.read("about.json").items() if key not in ("files", "recipe_sha256")}
    copy.write("about.json", {**about, "recipe": recipe.plain(), "state": "interrupted"})
    return copy.path


def attack(verb: str, run: Path, photos: Path, out: Path, *more: str) -> Said:
    out.mkdir(exist_ok=True)
    if verb == "ensemble":
        shutil.copytree(run, out / "other")
    if verb == "search --resume":
        (out / "search").mkdir()
        shutil.copy(run / "recipe.toml", out / "search" / BASE_FILE)
        SearchPlan({"lr": "log(0.001, 0.1)"}, "random", 1, "1 epoch", "1 epoch", 0).write(out / "search")
    return command(*VERBS[verb](run, photos, out), *more)


@pytest.mark.parametrize("verb", BY_VERB)
def test_no_file_appears_without_trust(
    verb: str, plain_run: Path, photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model of a run or recipe is, and a file of parts of a run."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    touch = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    own = [f"builtins.eval({touch!r})", f"os.system({f'touch {mark}'!r})", f"subprocess.getoutput({f'touch {mark}'!r})"]
    own += [f"posix.system({f'touch {mark}'!r})", f"pathlib.Path.touch({str(mark)!r})", "os.path.exists('.')"]
    theirs = [f"{package}.Net", f"{package}.make", f"torch.hub.os.system({f'touch {mark}'!r})", f"torch.os.system({f'touch {mark}'!r})"]
    theirs += [f"torch.utils.collect_env.run({f'touch {mark}'!r})", f"numpy.testing.runstring({touch!r}, {{}})"]
    for number, text in enumerate([*own, *theirs]):
        run = plant(plain_run, tmp_path / f"run {number}", text)
        said = attack(verb, run, photos, tmp_path / f"out {number}")
        assert (said.code, "Traceback" in said.err, mark.exists()) == (2, False, False), (text, said)
        assert dotted_names(text)[0] in said.sentence, said
        if text in own:
            again = attack(verb, run, photos, tmp_path / f"trusted {number}", "--trust", "--trust=os,builtins")
            assert (again.code, mark.exists()) == (2, False) and "Python's own library" in again.sentence, (text, again)
    run = plant(plain_run, tmp_path / "with parts", "mine", PART.format(mark=str(mark)))
    said = attack(verb, run, photos, tmp_path / "out")
    assert (said.code, mark.exists()) == (2, False) and "00-mine.py" in said.sentence and "--trust" in said.sentence, said


def test_functions_need_their_package_named(
    plain_run: Path, photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    run, image = plant(plain_run, tmp_path / "run", f"{package}.make"), photos / "red" / "000.png"
    named = command("predict", run, image, "--trust")
    refused(named, 2, f"--trust={package}")
    (run / "model.safetensors").write_bytes(weights_of(plain_run, "1."))
    assert command("predict", run, image, f"--trust={package}").code == 0
    assert command("predict", run, image).code == 0, "it is known from then on"


def weights_of(run: Path, prefix: str) -> bytes:
    """The weights of a linear net under the names that they have in a Sequential."""
    from safetensors.torch import load_file, save

    return save({prefix + name.rpartition(".")[2]: x for name, x in load_file(run / "model.safetensors").items()})


def test_what_is_trusted_runs_and_is_known_from_then_on(
    plain_run: Path, photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    image, mark = photos / "red" / "000.png", tmp_path / "mark"
    for number, (text, use) in enumerate([(f"{package}.Net", ""), ("mine", PART.format(mark=str(mark)))]):
        run = plant(plain_run, tmp_path / f"run {number}", text, use)
        (run / "model.safetensors").write_bytes(weights_of(plain_run, "1."))
        refused(command("predict", run, image), 2, "was not named on this machine before", "--trust")
        said = command("predict", run, image, "--trust")
        assert said.code == 0 and mark.exists(), said
        assert command("predict", run, image).code == 0
        elsewhere()
        refused(command("predict", run, image), 2, "--trust")


def test_what_is_made_here_works_without(photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    """A file named by --use and a net by its dotted name: training, resuming, and all that reads the run."""
    (tmp_path / "mine.py").write_text(PART.format(mark=str(tmp_path / "mark 2")))
    cases = {"net": {"model": f"{package}.Net"}, "function": {"model": f"{package}.make"}, "file": {"model": "mine"}}
    for name, changes in cases.items():
        out = tmp_path / name
        more = ["--use", str(tmp_path / "mine.py")] if name == "file" else []
        assert train(photos, out, *more, **changes).code == 0
        register._known_now.clear()
        assert command("predict", out, photos / "red" / "000.png").code == 0
        assert command("evaluate", out).code == 0
        assert command("train", "--recipe", out / "recipe.toml", "--dry").code == 0
        said = train(photos, out, *more, "--resume", "auto", **{**changes, "budget": "3 epochs"})
        assert said.code == 0, said.err
        copy = Path(shutil.copytree(out, tmp_path / f"{name} copied"))
        assert command("predict", copy, photos / "red" / "000.png").code == 0, "its code is known, wherever the folder lies"


def test_the_same_name_from_another_place_is_another(
    plain_run: Path, photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(photos, tmp_path / "own", model=f"{package}.Net").code == 0
    (tmp_path / "mark").unlink()
    other = tmp_path / "downloaded"
    other.mkdir()
    shutil.copy(tmp_path / "packages" / f"{package}.py", other)
    monkeypatch.syspath_prepend(other)
    monkeypatch.delitem(__import__("sys").modules, package)
    run = plant(plain_run, tmp_path / "run", f"{package}.Net")
    refused(command("predict", run, photos / "red" / "000.png"), 2, f"{package}.Net")
    assert not (tmp_path / "mark").exists()


def test_a_compiled_file_beside_the_copy_is_not_run(plain_run: Path, photos: Path, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    import py_compile

    harmless, harm = PART.format(mark=str(tmp_path / "fine")), PART.format(mark=str(tmp_path / "mark"))
    run = plant(plain_run, tmp_path / "run", "mine", harm)
    file = run / "use" / "00-mine.py"
    py_compile.compile(str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    file.write_text(harmless)
    (run / "model.safetensors").write_bytes(weights_of(plain_run, "1."))
    assert command("predict", run, photos / "red" / "000.png", "--trust").code == 0
    assert (tmp_path / "fine").exists() and not (tmp_path / "mark").exists()


def test_from_python(photos: Path, package: str, plain_run: Path, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    """What a program passes runs; what it reads does not, unless within `trust_code`."""
    with use_trust(Trust()):
        run = plant(plain_run, tmp_path / "run", f"{package}.Net")
        (run / "model.safetensors").write_bytes(weights_of(plain_run, "1."))
        read = Recipe.from_toml(run / "recipe.toml")
        for untrusted in (lambda: goodfit.load(run), lambda: goodfit.train(photos, read, out=tmp_path / "a", quiet=True)):
            with pytest.raises(UntrustedCode, match="trust_code"):
                untrusted()
        assert not (tmp_path / "mark").exists()
        with goodfit.trust_code():
            assert goodfit.load(run).classes
        register._known_now.clear()
        register._register_file().unlink()  # type: ignore[union-attr]
        goodfit.train(photos, read.but(model=f"{package}.Net"), out=tmp_path / "b", quiet=True)
        assert goodfit.load(tmp_path / "b").classes, "what was trained here is known"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sam(torch.optim.Adadelta(lr=0.5))", ["torch.optim.Adadelta"]),
        ("flip | theirs.Blur(0.2) | theirs.deep.Cut", ["theirs.deep.Cut", "theirs.Blur"]),
        ("resnet(18, act=leaky_relu(0.1))", []),
        ("theirs.net('a.b.c', 1.5)", ["theirs.net"]),
        ("not a part(", []),
    ],
)
def test_dotted_names_in_a_text(text: str, names: list[str]) -> None:
    assert sorted(dotted_names(text)) == sorted(names)


def test_words_name_names_and_files(tmp_path: Path) -> None:
    trust = Trust(("--model=sam(theirs.Net(3))", f"--use={tmp_path / 'a.py'}", "mytheirs.Other", "x" * 5000, "\0"))
    assert trust.names("theirs.Net") and not trust.names("theirs.Other") and not trust.names("theirs.Ne")
    assert trust.names_file(tmp_path / "a.py") and not trust.names_file(tmp_path / "b.py")


def test_a_damaged_register_knows_the_rest(elsewhere: Callable[[], None]) -> None:
    register._remember(("a.b", ""), "a.b")
    file = register._register_file()
    assert file is not None and file.stat().st_mode & 0o077 == 0
    file.write_bytes(b'\xff\n["sha256"\n{}\n' + file.read_bytes() + b'\n["torn", "')
    register._known_now.clear()
    register._remember(("c.d", ""), "c.d")
    assert register._read_register() == {("a.b", ""), ("c.d", "")}
    assert json.loads(file.read_text(errors="replace").splitlines()[-1]) == ["c.d", "", "c.d"]


def test_words_of_a_program_are_its_own(elsewhere: Callable[[], None]) -> None:
    with use_trust(Trust()), pytest.raises(UntrustedCode):
        register.require_trust("x", ["theirs.Net"])
    with use_trust(Trust()), trust_words(["theirs.Net"]):
        register.require_trust("x", ["theirs.Net"])
