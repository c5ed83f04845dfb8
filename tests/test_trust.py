"""No code from elsewhere runs unasked: whatever a run folder or recipe names, no file appears without --trust, and by it only what may."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import goodfit
from goodfit.api import lr_range
from goodfit.cli import read_trust
from goodfit.core import trust as register
from goodfit.core.dotted_names import dotted_names
from goodfit.core.errors import UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.core.trust import Trust, UntrustedCode, trust_own_code, use_trust
from goodfit.core.user_code import import_file
from goodfit.recipe.prepare import prepare, with_absolute_paths
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
FAST_VALUES = {**FAST, "size": 16, "batch_size": 8, "threads": 1}


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


def test_networks_and_optimizers_of_torch_are_known_and_what_takes_their_name_is_not(
    elsewhere: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with use_trust(Trust()):
        register.require_trust("x", ["torch.optim.Adadelta", "torch.nn.Linear"])
        for name in ("torch.optimizer.Adadelta", "torch.hub.load", "torchvision.models.resnet18"):
            with pytest.raises(UntrustedCode):
                register.require_trust("x", [name])
        with pytest.raises(UntrustedCode):
            register.require_call_trust("torch.nn.init.eye_(1)", "torch.nn.init")
        monkeypatch.setattr(register, "_import_place", lambda name: str(tmp_path / "torch" / "__init__.py"))
        with pytest.raises(UntrustedCode):
            register.require_trust("x", ["torch.optim.Adadelta"])


def test_a_damaged_register_knows_the_rest(elsewhere: Callable[[], None]) -> None:
    register._remember(("a.b", ""), "a.b")
    file = register._register_file()
    assert file is not None and file.stat().st_mode & 0o077 == 0
    file.write_bytes(b'\xff\n["sha256"\n{}\n' + file.read_bytes() + b'\n["torn", "')
    register._known_now.clear()
    register._remember(("c.d", ""), "c.d")
    assert register._read_register() == {("a.b", ""), ("c.d", "")}
    assert json.loads(file.read_text(errors="replace").splitlines()[-1]) == ["c.d", "", "c.d"]


def test_what_a_program_names_is_its_own(elsewhere: Callable[[], None]) -> None:
    with use_trust(Trust()):
        with pytest.raises(UntrustedCode):
            register.require_trust("x", ["theirs.Net"])
        trust_own_code(["sam(theirs.Net(3))"])
        register.require_trust("x", ["theirs.Net"])


WORDS_THAT_NAME_NO_CODE: list[Callable[[str], list[str]]] = [  # of a file or dotted name
    lambda name: ["train", name, "--dry"],
    lambda name: ["train", "digits", "--out", name, "--dry"],
    lambda name: ["train", "digits", "--validation", name, "--dry"],
    lambda name: ["train", "digits", f"--device={name}", "--dry"],
    lambda name: ["train", "digits", "--set", f"validation={name}", "--dry"],
    lambda name: ["lr", name],
    lambda name: ["show", name],
]


@pytest.mark.parametrize("words", WORDS_THAT_NAME_NO_CODE)
def test_a_word_that_is_not_for_code_names_none(
    words: Callable[[str], list[str]], package: str, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(PART.format(mark=str(tmp_path / "mark")))
    Path("file.toml").write_text('model = "mine"\nuse = ["evil.py"]\n')
    Path("name.toml").write_text(f'model = "{package}.Net"\n')
    for recipe, name in (("file.toml", "evil.py"), ("name.toml", f"{package}.Net")):
        refused(command(*words(name), "--recipe", recipe), 2, "was not named on this machine before", name)
        assert not (tmp_path / "mark").exists()


def test_a_recipe_that_names_itself_does_not_run(tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is both TOML and Python."""
    monkeypatch.chdir(tmp_path)
    both = "use = ['both.py']\ndata = 'digits\\' # ', open('mark', 'w')\n"
    Path("both.py").write_text(both)
    refused(command("train", "--recipe", "both.py", "--dry"), 2, "was not named on this machine before", "both.py")
    assert not Path("mark").exists()


def test_options_for_code_name_it(photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(PART.format(mark=str(tmp_path / "mark 2")))
    net = f"{package}.Net"
    for words in (
        ["--model", net],
        ["--set", f"model={net}"],
        [f"--model={net}"],
        ["--use", mine, "--model", "mine"],
        ["--set", "model=mine", "--use", mine],
    ):
        elsewhere()
        said = command("train", photos, *FAST_WORDS[:2], *words, "--budget", "1 epoch", "--dry")
        assert said.code == 0, (words, said)


def test_only_files_of_python_hold_parts(tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    (tmp_path / "parts.txt").write_text(PART.format(mark=str(tmp_path / "mark")))
    refused(command("parts", "--use", tmp_path / "parts.txt"), 2, ".py")


@pytest.mark.parametrize("is_folder", [False, True])
def test_links_out_of_a_run_are_refused(
    is_folder: bool, plain_run: Path, photos: Path, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    """They would run a file of the user's own, which is known, as a part of a run from elsewhere."""
    known = tmp_path / "scripts" / "00-mine.py"
    known.parent.mkdir()
    known.write_text(PART.format(mark=str(tmp_path / "mark")))
    trust_own_code([], [known])
    run = plant(plain_run, tmp_path / "run", "mine", "pass")
    (run / "use" / "00-mine.py").unlink()
    if is_folder:
        (run / "use").rmdir()
        (run / "use").symlink_to(known.parent)
    else:
        (run / "use" / "00-mine.py").symlink_to(known)
    refused(command("predict", run, photos / "red" / "000.png"), 2, "leads out of it")
    assert not (tmp_path / "mark").exists()


def test_a_function_is_known_with_its_arguments_alone(photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    source = tmp_path / "packages" / f"{package}.py"
    source.write_text(
        source.read_text() + "\ndef load(url, sizes=(), *, classes, channels, size):\n    return Net(classes, channels, size)\n"
    )
    own = f"{package}.load('mine', [1, 2])"
    assert train(photos, tmp_path / "own", model=own).code == 0
    register._known_now.clear()
    for model in (own, f'{package}.load("mine", (1,2,))'):
        (tmp_path / "recipe.toml").write_text(f"model = {json.dumps(model)}\n")
        assert command("train", photos, "--recipe", tmp_path / "recipe.toml", "--budget", "1 epoch", "--dry").code == 0, model
    (tmp_path / "recipe.toml").write_text(f"model = \"{package}.load('theirs')\"\n")
    refused(command("train", photos, "--recipe", tmp_path / "recipe.toml", "--dry"), 2, f"--trust={package}")


def test_loaders_of_code_need_their_module_named(elsewhere: Callable[[], None]) -> None:
    call = "torch.hub.load('theirs/nets', 'net')"
    trust_own_code([call])
    for packages in ((), ("torch",)):
        with use_trust(Trust(True, frozenset(packages))), pytest.raises(UntrustedCode, match=r"--trust=torch\.hub"):
            register.require_call_trust(call, "torch.hub")
    with use_trust(Trust(True, frozenset({"torch"}))), pytest.raises(UntrustedCode, match=r"--trust=torch\.hub"):
        register.require_call_trust("torch.utils.model_zoo.load_url('x')", "torch.hub")
    with goodfit.trust_code("torch.hub"):
        register.require_call_trust(call, "torch.hub")


@pytest.mark.parametrize(
    "copied",
    [
        dataclasses.replace,
        lambda read: dataclasses.replace(read, seed=1),
        copy.deepcopy,
        lambda read: pickle.loads(pickle.dumps(read)),
        lambda read: read.but(seed=1),
        with_absolute_paths,
    ],
)
def test_a_copy_of_a_recipe_is_as_read(
    copied: Callable[[Recipe], Recipe], photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    (tmp_path / "evil.py").write_text(PART.format(mark=str(tmp_path / "mark")))
    for text in (f'model = "{package}.Net"', f'brake = "{package}.Net"', f'use = ["{tmp_path / "evil.py"}"]'):
        (tmp_path / "recipe.toml").write_text(text)
        with use_trust(Trust()), pytest.raises(UntrustedCode):
            goodfit.train(photos, copied(Recipe.from_toml(tmp_path / "recipe.toml")), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "mark").exists()


def test_what_was_checked_is_what_runs(tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process exchanges after its first reading."""
    file, harmless, harm = tmp_path / "parts.py", b"fine = 1\n", b"harm = 1\n"
    file.write_bytes(harmless)
    read_bytes, contents = Path.read_bytes, iter([harmless, harm, harm, harm])
    monkeypatch.setattr(Path, "read_bytes", lambda path: next(contents) if path == file else read_bytes(path))
    with goodfit.trust_code():
        module = import_file(file)
    assert hasattr(module, "fine") and not hasattr(module, "harm")
    known = {value for _, value in register._read_register()}
    assert known == {hashlib.sha256(harmless).hexdigest()}


def test_a_file_that_does_not_read_is_never_remembered(
    tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "parts.py").write_text("")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with goodfit.trust_code(), pytest.raises(UsageError, match="Permission denied"):
        import_file(tmp_path / "parts.py")
    trust_own_code([], [tmp_path / "parts.py"])
    assert not register._known_now


def test_a_text_too_long_for_a_part_is_refused() -> None:
    assert len(dotted_names(f"[{','.join(f'a{i}.b' for i in range(2000))}]")) == 2000
    assert dotted_names("a" + ".b" * 400) == ["a" + ".b" * 400]
    refused(command("train", "digits", "--model", f"x({'.y' * 20_000})", "--dry"), 2, "at most 20,000 characters")


def test_what_a_program_sets_runs_at_each_level(photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    """`prepare` and the learning-rate range test, as docs/python.md teaches them."""
    own = Recipe(data=str(photos), **{**FAST_VALUES, "model": f"{package}.Net(3)"})
    with use_trust(Trust()):
        (tmp_path / "recipe.toml").write_text(own.to_toml())
        read = Recipe.from_toml(tmp_path / "recipe.toml")
        for call in (prepare, lambda recipe: lr_range(recipe, SilentReporter(), 1e-3, 1.0, 10)):
            elsewhere()
            with pytest.raises(UntrustedCode):
                call(read)
        elsewhere()
        with pytest.raises(UsageError, match="cannot be called"):
            prepare(own)
        own = own.but(model=f"{package}.Net")
        assert prepare(own).recipe.model == f"{package}.Net()"
        elsewhere()
        assert lr_range(own, SilentReporter(), 1e-3, 1.0, 10)


def test_trials_of_a_search_trust_no_more_than_it(
    plain_run: Path, photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / BASE_FILE).write_text((plain_run / "recipe.toml").read_text())
    SearchPlan({"model": f"one_of({package}.Net, {package}.make)"}, "random", 1, "1 epoch", "1 epoch", 0).write(tmp_path / "search")
    said = command("search", "--resume", tmp_path / "search")
    assert (said.code, (tmp_path / "mark").exists()) == (2, False) and f"{package}.make" in said.sentence, said


def test_workers_know_what_the_search_knows(
    photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the register cannot be written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")]))
    options = {**FAST, "model": f"{package}.Net", "budget": "", "evaluate_every": "", "space": "lr=log(0.001, 0.1)", "method": "random"}
    options |= {"trials": "2", "full": "1 epoch", "each": "1 epoch", "keep": "1", "seeds": "1", "workers": "2"}
    words = [word for key, value in options.items() if value for word in (f"--{key.replace('_', '-')}", value)]
    said = command("search", photos, *words, "--out", tmp_path / "search")
    logs = [log.read_text() for log in (tmp_path / "search" / "workers").glob("*.log")]
    assert said.code == 0 and logs and not any("--trust" in log for log in logs) and "Warning: a worker" not in said.err, (said, logs)


def test_trust_as_options() -> None:
    for words in ([], ["--trust"], ["--trust=a,b.c"]):
        trust, rest = read_trust(["predict", *words])
        assert (trust.to_options(), rest) == (words, ["predict"])


def test_a_call_that_fails_ends_in_a_sentence(photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    source = tmp_path / "packages" / f"{package}.py"
    source.write_text(source.read_text() + "\ndef broken(classes):\n    raise LookupError('no such net')\n")
    refused(train(photos, tmp_path / "run", model=f"{package}.broken"), 1, f"{package}.broken", "LookupError: no such net")


def test_a_search_may_draw_the_arguments_of_a_function(
    photos: Path, package: str, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that its user named, also when it goes on later; that of a search which was changed since is refused."""
    source = tmp_path / "packages" / f"{package}.py"
    source.write_text(source.read_text() + "\ndef load(scale, *, classes, channels, size):\n    return Net(classes, channels, size)\n")
    options = {**FAST, "space": f"model={package}.load(uniform(0, 1))", "method": "random", "trials": "1", "full": "1 epoch", "keep": "0"}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if key not in ("model", "budget", "evaluate_every")]
    assert command("search", photos, *words, "--out", tmp_path / "search").code == 0
    register._known_now.clear()
    said = command("search", "--resume", tmp_path / "search", "--trials", "2")
    assert said.code == 0 and "failed" not in said.out, said
    register._known_now.clear()
    plan = SearchPlan.read(tmp_path / "search")
    dataclasses.replace(plan, space={"model": f"{package}.load(uniform(2, 3))"}).write(tmp_path / "search")
    said = command("search", "--resume", tmp_path / "search", "--trials", "3")
    assert f"--trust={package}" in said.out + said.err, said
