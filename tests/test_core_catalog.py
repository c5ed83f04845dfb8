"""The catalog: every part reads back what it writes, a mistake is answered with what there is, and no text is ever run."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from goodfit.core import trust
from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.core.parts import ExternalPart, Part, Pipe, part_name, pipe_parts, snake_case, spell
from goodfit.core.settings import settings_of, takes_many
from goodfit.core.trust import trust_code
from goodfit.recipe.parts import load_catalog
from tests.support.laws import holds_for

KNOWN = load_catalog()
ALL = [(kind, name, cls) for kind, found in sorted(KNOWN.kinds.items()) for name, cls in sorted(found.items())]
LITERALS = (int, float, str, bool, tuple, type(None))


every_part = holds_for({f"{kind} {name}": (kind, name, cls) for kind, name, cls in ALL})


# ---- laws of every part -----------------------------------------------------------------------------------------------------------


@every_part
def test_reads_what_it_writes(kind: str, name: str, cls: type[Part]) -> None:
    part = cls()
    assert KNOWN.make(name, kind) == part
    for full in (False, True):
        text = spell(part, full)
        assert KNOWN.make(text, kind) == part, text
        assert spell(KNOWN.make(text, kind), full) == text
    assert str(part) == spell(part) == name
    assert all(setting.name in spell(part, True) for setting in settings_of(cls)[1:])


def other(value: object, hint: Any) -> object:
    """A value of a setting that is not its default."""
    choices = re.findall(r"Literal\[(.*?)\]", str(hint))
    match value:
        case bool():
            return not value
        case int() if not choices:
            return value + 1
        case float():
            return value / 2 + 0.0625
        case tuple():
            return tuple(other(x, None) for x in value)
        case None:
            return 0.125
    allowed = [x for option in (hint, *getattr(hint, "__args__", ())) for x in getattr(option, "__args__", ()) if x != value]
    return next((x for x in allowed if isinstance(x, type(value))), value)


@every_part
def test_reads_changed_settings(kind: str, name: str, cls: type[Part]) -> None:
    """With each setting changed by itself: the text names it, and reads back equal."""
    for setting in settings_of(cls):
        if setting.kind:
            continue
        value = other(setting.default, setting.hint)
        try:
            part = cls(**{setting.name: value})
        except UsageError:  # one setting may forbid another's default (nesterov without momentum)
            continue
        if value != setting.default:
            assert part != cls()
            assert spell(part) != name
        assert KNOWN.make(spell(part), kind) == part
        assert KNOWN.make(spell(part, full=True), kind) == part


@every_part
def test_has_a_card_and_typed_defaults(kind: str, name: str, cls: type[Part]) -> None:
    card = inspect.cleandoc(cls.__dict__["__doc__"] or "")
    first, *rest = card.split("\n\n")
    assert first.endswith("."), first
    for word in ("Helps", "Hurts", "Cost", "Source"):
        assert re.search(rf"^{word}: \S", rest[-1], re.MULTILINE), f"{name}: no line {word}:"
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for setting in settings_of(cls):
        assert setting.default is not dataclasses.MISSING, setting.name
        assert isinstance(setting.default, Part if setting.kind else LITERALS), setting.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        object.__getattribute__(cls(), "__setattr__")("anything", 1)


@every_part
def test_refuses_a_wrong_type_and_an_unknown_setting(kind: str, name: str, cls: type[Part]) -> None:
    settings = settings_of(cls)
    with pytest.raises(UsageError, match=f"Unknown setting of {name} "):
        KNOWN.make(f"{name}(colour=1)", kind)
    if not (settings and takes_many(settings[0])):
        with pytest.raises(UsageError, match=f"{name} takes {len(settings)} settings"):
            KNOWN.make(f"{name}({', '.join('1' * (len(settings) + 1))})", kind)
    for setting in settings:
        with pytest.raises(
            UsageError, match=f"expected {setting.name} to be|Unknown {setting.kind}|Expected the name of|Expected a number"
        ):
            KNOWN.make(f"{name}({setting.name}={{1: 2}})", kind)
        if settings[0] is setting:
            value = spell(setting.default, True)
            with pytest.raises(UsageError, match=f'{name} received the setting "{setting.name}" twice'):
                KNOWN.make(f"{name}({value}, {setting.name}={value})", kind)


def test_cards_tell_every_part() -> None:
    told = KNOWN.cards()
    assert [(card["kind"], card["name"]) for card in told] == [(kind, name) for kind, name, _ in ALL]
    for card in told:
        assert KNOWN.make(card["spelling"], card["kind"]) == KNOWN.kinds[card["kind"]][card["name"]]()


# ---- the text form ----------------------------------------------------------------------------------------------------------------

FORMS = [
    ("flip(0.25) | crop(3, border='edge') | mixup(0.3, p=0.5)", "augment"),
    ("warmup(0.1) | cosine(0.01)", "schedule"),
    ("sgd(1e-05, momentum=0.5)", "optimizer"),
    ("adam(betas=(0.8, 0.99))", "optimizer"),
    ("mlp((32,), act=leaky_relu(0.2), drop=dropout(0.1))", "model"),
    ("mlp((512, 256), norm=batch(0.2))", "model"),
    ("jitter(brightness=0.1, contrast=0.0)", "augment"),
    ("warmup('10 epochs') | step('5 epochs', factor=0.5)", "schedule"),
]


@pytest.mark.parametrize(("text", "kind"), FORMS)
def test_forms_read_and_write(text: str, kind: str) -> None:
    assert spell(KNOWN.make(text, kind)) == text


@dataclasses.dataclass(frozen=True)
class Shapes(Part):
    """One of each sort of value."""

    kind = "shapes"
    a: float = 0.0
    b: int = 0
    word: str = ""
    pair: tuple[float, float] = (0.0, 0.0)
    many: tuple[int, ...] = ()
    choice: Literal["x", "y"] = "x"
    maybe: float | None = None


def shapes() -> Catalog:
    known = Catalog()
    known.kinds["shapes"] = {"shapes": Shapes}
    return known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shapes(-1.5e-3, b=-4)", Shapes(a=-0.0015, b=-4)),
        ("shapes(1E3)", Shapes(a=1000.0)),
        ("shapes(+2)", Shapes(a=2.0)),
        ("shapes(1_000)", Shapes(a=1000.0)),
        ("shapes(word=edge, choice=y)", Shapes(word="edge", choice="y")),
        ("shapes(word='two words | (x)')", Shapes(word="two words | (x)")),
        ("shapes(pair=(1, -2), many=[1, 2, 3])", Shapes(pair=(1.0, -2.0), many=(1, 2, 3))),
        ("shapes(many=(5,))", Shapes(many=(5,))),
        ("shapes(maybe=None)", Shapes()),
        ("  shapes ( )  ", Shapes()),
    ],
)
def test_literals(text: str, expected: Shapes) -> None:
    made = shapes().make(text, "shapes")
    assert made == expected
    assert [type(x) for x in dataclasses.astuple(made)] == [type(x) for x in dataclasses.astuple(expected)]  # type: ignore[call-overload]
    assert shapes().make(spell(made), "shapes") == expected


@pytest.mark.parametrize(
    "text", ["shapes('1')", "shapes(b=1.0)", "shapes(b=True)", "shapes(pair=(1,))", "shapes(choice=z)", "shapes(many=(1, 'a'))"]
)
def test_wrong_types(text: str) -> None:
    with pytest.raises(UsageError, match=r"Shapes: expected \w+ to be .*, received"):
        shapes().make(text, "shapes")


def test_a_first_setting_of_many_values_takes_them_one_by_one() -> None:
    assert KNOWN.make("ten_crop(224, 256, average=logit)", "views") == KNOWN.make("ten_crop((224, 256), average=logit)", "views")
    assert KNOWN.make("ten_crop(224)", "views") == KNOWN.make("ten_crop([224])", "views")
    assert KNOWN.make("mlp(64, 32, drop=dropout)", "model") == KNOWN.make("mlp((64, 32), drop=dropout)", "model")
    with pytest.raises(UsageError, match="expected scales to be a tuple"):
        KNOWN.make("ten_crop(224, logit)", "views")


def test_none_and_pipes() -> None:
    assert KNOWN.make("none", "augment") == KNOWN.make("None", "augment") == Pipe()
    assert spell(Pipe()) == "none"
    assert type(KNOWN.make("none", "stop")) is KNOWN.kinds["stop"]["none"]
    pipe = KNOWN.make("flip | (crop | smooth)", "augment")
    assert [part_name(part) for part in pipe_parts(pipe)] == ["flip", "crop", "smooth"]
    assert KNOWN.make("flip", "augment") | KNOWN.make("crop | smooth", "augment") == pipe
    assert KNOWN.make(pipe, "augment") is pipe
    assert KNOWN.make("none | flip", "augment") == Pipe((KNOWN.make("flip", "augment"),))


def test_nested_parts_by_value_and_text_are_equal() -> None:
    drop, act = KNOWN.make("dropout(0.25)", "noise"), KNOWN.make("tanh", "activation")
    assert KNOWN.kinds["model"]["mlp"](hidden=[8, 4], drop=drop, act=act) == KNOWN.make(
        "mlp([8, 4], drop=dropout(0.25), act=tanh)", "model"
    )


def test_snake_case() -> None:
    assert [snake_case(x) for x in ("ResizedCrop", "None_", "Resnet", "OneCycle", "L2", "UpdateRatio")] == [
        "resized_crop", "none", "resnet", "one_cycle", "l2", "update_ratio",
    ]  # fmt: skip


# ---- mistakes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("flipp", "augment", r'Unknown augment "flipp"\. Did you mean "flip"\? There is: .*crop.*'),
        ("sdg(0.1)", "optimizer", 'Did you mean "sgd"'),
        ("sgd(0.1, momentun=0.9)", "optimizer", r'Unknown setting of sgd "momentun"\. Did you mean "momentum"\? There is: lr, momentum'),
        ("cosine", "optimizer", 'Unknown optimizer "cosine"'),
        ("sgd('fast')", "optimizer", "sgd: expected lr to be a number above 0, received 'fast'"),
        ("sgd(-0.1)", "optimizer", "expected lr to be a number above 0, received -0.1"),
        ("sgd(1e999)", "optimizer", "expected lr to be a number above 0, received inf"),
        ("sgd(nesterov=1)", "optimizer", "expected nesterov to be True or False, received 1"),
        ("resnet(21)", "model", "expected depth to be 18 or 20 or 32 or 34 or 44 or 50 or 56 or 101 or 110 or 152, received 21"),
        ("mlp(act=flip)", "model", 'Unknown activation "flip"'),
        ("mlp(act=3)", "model", "expected act to be an activation, received 3"),
        ("sgd(*(1, 2))", "optimizer", r"one by one, not by \* or \*\*"),
        ("sgd(**{'lr': 1})", "optimizer", r"one by one, not by \* or \*\*"),
        ("sgd(lr=0.1, lr=0.2)", "optimizer", 'sgd received the setting "lr" twice'),
        ("flip |", "augment", "does not read as an augment"),
        ("", "augment", "does not read"),
        ("flip & crop", "augment", 'Expected the name of an augment, received "flip & crop"'),
        ("flip\x00", "augment", "does not read"),
        ("'flip'", "augment", "Expected the name of an augment"),
        ("3", "model", 'Expected the name of a model, received "3"'),
        ("sgd(0.1 + 0.2)", "optimizer", "Expected a number, text or part"),
        ("linear | mlp", "model", 'Expected one model, received "linear | mlp"'),
        ("none", "model", 'Expected one model, received "none"'),
        ("none", "optimizer", "Expected one optimizer"),
        ("softmax | svm", "loss", "Expected one loss"),
        ("goodfit.augment.flip.Flip", "model", 'Expected a part of the kind model, received "flip", of the kind augment'),
    ],
)
def test_mistakes_are_answered(text: str, kind: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        KNOWN.make(text, kind)


@pytest.mark.parametrize("text", ["flip | " * 20_000 + "flip", "(" * 5000 + "flip" + ")" * 5000, "crop(" + "-" * 50_000 + "1)"])
def test_absurdly_long_text_is_a_usage_error_too(text: str) -> None:
    with pytest.raises(UsageError) as error:
        KNOWN.make(text, "augment")
    assert len(str(error.value)) < 1000


def test_a_part_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match='kind model, received "flip", of the kind augment'):
        KNOWN.make(KNOWN.make("flip", "augment"), "model")
    with pytest.raises(UsageError, match='kind augment, received "tanh", of the kind activation'):
        KNOWN.make(KNOWN.make("flip", "augment") | KNOWN.make("tanh", "activation"), "augment")


EVIL = [
    "__import__('os').system('touch {file}')",
    "flip(__import__('os').system('touch {file}'))",
    "flip(p=open('{file}', 'w'))",
    "flip(p=[open('{file}', 'w') for _ in (1,)])",
    "(lambda: open('{file}', 'w'))()",
    "exec(\"open('{file}', 'w')\")",
    "eval('1')",
    'crop(4, border=f\'{{open("{file}", "w")}}\')',
    "(x := open('{file}', 'w'))",
    "flip()(open('{file}', 'w'))",
    "flip.__class__.__subclasses__()",
    "().__class__.__mro__[1].__subclasses__()",
]


@pytest.mark.parametrize("text", EVIL)
def test_code_is_never_run(text: str, tmp_path: Path) -> None:
    file = tmp_path / "evil"
    with pytest.raises(UsageError):
        KNOWN.make(text.format(file=file), "augment")
    assert not file.exists()


# ---- the user's own ---------------------------------------------------------------------------------------------------------------

OWN = '''
import dataclasses
from goodfit.core.contracts import Augment

@dataclasses.dataclass(frozen=True)
class Flip(Augment):
    """Ours no more."""
    share: float = 0.75
    def __call__(self, batch, chance, t):
        return batch

@dataclasses.dataclass(frozen=True)
class DarkRoom(Augment):
    """New."""
    def __call__(self, batch, chance, t):
        return batch

class Halfway(Augment):
    """Abstract: no __call__, so no part."""
'''


def test_an_augment_written_for_version_01_keeps_its_strength_and_its_progress(tmp_path: Path) -> None:
    call = "    def __call__(self, batch, chance, t):\n        return batch\n"
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom goodfit.core.contracts import Augment\n"
        f"@dataclasses.dataclass(frozen=True)\nclass Old(Augment):\n    dial = 'amount'\n    amount: float = 0.8\n{call}"
        "    def now(self, t):\n        return self.scaled(t)\n"
    )
    part: Any = load_catalog([str(tmp_path / "mine.py")]).make("old", "augment")
    assert part.scaled(0.5).amount == part.at_progress(0.5).amount == 0.4
    assert part.at_progress(1.0) == part


def test_a_users_file_wins_over_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    known = load_catalog([str(tmp_path / "mine.py")])
    assert spell(known.make("flip(share=0.5) | dark_room", "augment")) == "flip(0.5) | dark_room"
    assert "halfway" not in known.kinds["augment"]
    assert load_catalog().make("flip", "augment") == KNOWN.make("flip", "augment")
    again = load_catalog([str(tmp_path / "mine.py")])
    assert again.make("flip", "augment") == known.make("flip", "augment"), "the same file is the same class"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("class Half(:\n", r'Your parts in ".*mine\.py" do not import: SyntaxError: .*line 1'),
        ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_users_file_that_does_not_import_says_why(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    modules = set(sys.modules)
    with pytest.raises(UsageError, match=said):
        load_catalog([str(tmp_path / "mine.py")])
    assert not {name for name in set(sys.modules) - modules if name.startswith("goodfit_use")}


def test_a_users_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Expected a Python file with your parts"):
        load_catalog([str(tmp_path / "none.py")])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"theirs_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "nets.py").write_text(
        "import dataclasses\nfrom goodfit.core.contracts import Activation\nimport torch\n"
        "def net(classes, size, depth=3): return (classes, size, depth)\n"
        "@dataclasses.dataclass(frozen=True)\nclass Snake(Activation):\n    '''x + sin x.'''\n    a: float = 1.0\n"
        "    def __call__(self): return torch.nn.ReLU()\n"
    )
    (tmp_path / name / "broken.py").write_text("def half(:\n")
    (tmp_path / name / "failing.py").write_text("raise RuntimeError('no license')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with trust_code(name):
        yield name


def test_a_function_of_keywords_is_told_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm.create_model and torchvision's functions hand on what they are called with."""
    facts = {"classes": 10, "num_classes": 10, "channels": 1, "in_chans": 1, "in_channels": 1, "size": (8, 8), "img_size": (8, 8)}

    def create_model(name: str, depth: int = 1, **given: Any) -> tuple[Any, ...]:
        return name, depth, given

    def named(classes: int, **given: Any) -> tuple[Any, ...]:
        return classes, given

    for package, told in (("timm", {"num_classes": 10, "in_chans": 1}), ("theirs", {"num_classes": 10})):
        module = ModuleType(package)
        module.create_model, module.named = create_model, named  # type: ignore[attr-defined]
        create_model.__module__ = named.__module__ = package
        monkeypatch.setitem(sys.modules, package, module)
        monkeypatch.setattr(trust, "_known_now", set())
        calls = ["create_model('a', depth=2)", "create_model('a', num_classes=3)", "named"]
        trust.trust_own_code(f"{package}.{call}" for call in calls)
        part = KNOWN.make(f"{package}.create_model('a', depth=2)", "model")
        assert isinstance(part, ExternalPart)
        assert part.with_facts(facts)() == ("a", 2, told)
        chosen = KNOWN.make(f"{package}.create_model('a', num_classes=3)", "model")
        assert isinstance(chosen, ExternalPart)
        assert chosen.with_facts(facts)() == ("a", 1, {**told, "num_classes": 3})
        apart = KNOWN.make(f"{package}.named", "model")
        assert isinstance(apart, ExternalPart)
        assert apart.with_facts(facts)() == (10, {})


def test_dotted_names(package: str) -> None:
    part = KNOWN.make(f"{package}.nets.net(depth=5)", "model")
    assert isinstance(part, ExternalPart)
    assert spell(part) == f"{package}.nets.net(depth=5)"
    assert part.with_facts({"classes": 10, "channels": 3, "size": (8, 8)})() == (10, (8, 8), 5)
    act = KNOWN.make(f"mlp(act={package}.nets.Snake(a=2))", "model")
    assert spell(act) == f"mlp(act={package}.nets.Snake(2.0))"
    assert KNOWN.make(spell(act), "model") == act


@pytest.mark.parametrize(
    ("name", "said"), [("nets.nothing", "nothing"), ("nowhere.net", "nowhere"), ("broken.half", "SyntaxError"), ("failing.x", "no license")]
)
def test_dotted_names_that_do_not_import(package: str, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=rf'"{package}\.{name}" does not import: .*{said}'):
        KNOWN.make(f"{package}.{name}", "model")
