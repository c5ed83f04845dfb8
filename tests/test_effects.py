"""No part and no setting is silently ignored: each setting, at two values, changes the numbers of a small training.

The parts come from the catalog and the second values from the settings' own types, so a new part is tested by existing. Trainings go
through recipe and build, as a user's do. Numbers are the weights, the averaged weights and what was logged; a sentence that refuses
a value is an effect too. The largest nets are trained by the slow tests; the default ones compare what they would compute, by its shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from goodfit.core.errors import Diverged, UsageError
from goodfit.core.parts import Part, spell
from goodfit.core.settings import INVALID, Range, Setting, convert, settings_of
from goodfit.data.dataset import Dataset
from goodfit.losses.scores import split_outputs
from goodfit.predict.scoring import score_views
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training import loop
from goodfit.training.metric_log import MetricLog
from goodfit.training.steering import Steering, commands_in
from tests.support.build import build_training

KNOWN = load_catalog()
SIDE, CLASSES, EACH = 8, 3, 14
BASE = Recipe(
    size=SIDE, channels=3, model="mlp((5,))", augment="none", optimizer="sgd(0.05, momentum=0.9, weight_decay=0.0005)",
    schedule="constant", budget="20 steps",
    batch_size=8, evaluate_every="1 step", probes="none", precision="fp32", layout="contiguous", device="cpu", threads=1, workers=0,
    validation=0.3, resolution="full", views="center",
)  # fmt: skip

# Where a part is at work when its seat alone is not enough: other fields of the recipe, by kind or by (kind, name).
BRIEF = {"budget": "6 steps", "evaluate_every": "6 steps"}
AROUND: dict[Any, dict[str, Any]] = {
    "augment": BRIEF,
    "loss": BRIEF,
    "penalty": BRIEF,
    "rates": BRIEF,
    "optimizer": {"evaluate_every": "5 steps"},
    "schedule": {"evaluate_every": "5 steps"},
    "model": {"budget": "2 steps"},
    ("model", "vgg"): {
        "budget": "2 steps",
        "optimizer": "sgd(0.0001, momentum=0.9)",
    },  # some initializations of sixteen layers diverge at once
    "norm": {"model": "convnet(4)", **BRIEF},
    "pool": {"model": "convnet(2)", **BRIEF},
    "init": {"model": "convnet(2)", **BRIEF},
    "noise": BRIEF,
    "activation": {"model": "mlp((5, 4))", "evaluate_every": "5 steps"},
    "trainable": {"model": "convnet(2)", "evaluate_every": "5 steps"},
    "views": {"model": "convnet(2)", "budget": "2 steps"},
    "resolution": {"model": "convnet(2)", "size": 16},
    ("noise", "stochastic_depth"): {"model": "resnet(20)", "budget": "2 steps"},
    ("optimizer", "newton"): {"budget": "12 steps"},
    ("optimizer", "muon"): {"model": "mlp((5, 4))", "evaluate_every": "5 steps"},
    ("rates", "norm_biases"): {"model": "convnet(2)", "evaluate_every": "5 steps"},
    ("plateau", "plateau"): {"optimizer": "sgd(0.3, momentum=0.9, weight_decay=0.0005)"},  # a rate at which validation rises now and then
}
SLOT = {("noise", "stochastic_depth"): "branch"}  # which setting of the model, where several take the kind

# Settings that let the others of their part be seen; they hold for every training of that part.
WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("model", "mobilenet_v2"): {"width": 0.25},
    ("model", "resnet"): {"depth": 20},
    ("plateau", "plateau"): {"patience": 1, "factor": 0.5},
    ("optimizer", "sgd"): {"momentum": 0.9},
    ("stop", "patience"): {"evaluations": 2},
    ("norm", "group"): {"groups": 2},
    ("rates", "by_stage"): {"stages": ("layer1",), "factors": (0.5,)},
    ("trainable", "since"): {"stage": "stage1"},
    ("probe", "update_ratio"): {"every": 5},
    ("views", "five_crop"): {"scales": (SIDE + 2,)},
    ("views", "ten_crop"): {"scales": (SIDE + 2,)},
}
# ... and those that one setting needs.
WITH_FOR: dict[tuple[str, str, str], dict[str, Any]] = {
    **{("model", name, "order"): {"norm": KNOWN.make("batch", "norm")} for name in ("alexnet", "mlp", "vgg")},
    ("model", "nearest", "metric"): {"k": 9},
    ("optimizer", "newton", "products"): {"exact": 0},
    ("optimizer", "rmsprop", "alpha"): {"lr": 0.01},
    ("schedule", "constant", "length"): {"length": 0.25, "factor": 0.5},
    ("schedule", "constant", "factor"): {"length": 0.25},
    ("schedule", "warmup", "length"): {"length": 0.25},
    ("schedule", "warmup", "start"): {"length": 0.25},
    ("schedule", "warmup", "rise"): {"length": 0.25},
    ("trainable", "all", "length"): {"length": 0.25},
    ("trainable", "head", "length"): {"length": 0.25},
    ("trainable", "gradual", "length"): {"length": 0.25},
    ("trainable", "last", "length"): {"length": 0.25},
    ("trainable", "since", "length"): {"length": 0.25},
    ("trainable", "last", "stages"): {"length": 0.25},
}
# What follows in the pipe: a length shows only where something comes after it.
THEN = {
    ("schedule", "constant"): "cosine",
    ("schedule", "warmup"): "cosine",
    ("trainable", "all"): "head",
    ("trainable", "head"): "all",
    ("trainable", "gradual"): "all",
    ("trainable", "last"): "all",
    ("trainable", "since"): "all",
}
# Values that no type tells.
VALUES: dict[str, tuple[Any, ...]] = {
    "layers": ("head",),
    "scales": ((SIDE + 4,),),
    "stages": (("head",), 0),
    "stage": ("head",),
    "exact": (100,),
    "most": (10,),
    "products": (2,),
}

# Parts that give the same numbers as another, and why.
ALIKE: dict[tuple[str, str, str], str] = {
    ("loss", "kl", "softmax"): "for hard targets the divergence is the cross-entropy, and nothing here makes targets soft",
    ("trainable", "since", "last"): "stage1 is the last of the net's two stages",
}
LARGE = ("alexnet", "alexnet2012", "googlenet", "inception_v3", "vgg", "vgg_f", "vgg_m", "vgg_s")  # trained by the slow tests


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Noisy color stripes in three classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), EACH)
    images = rng.integers(0, 200, (len(labels), SIDE, SIDE, 3))
    for k in range(CLASSES):
        images[labels == k, :: k + 2, :, k] += 50
    path = tmp_path_factory.mktemp("effects") / "stripes.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    recipe = BASE.but(data=str(path))
    return open_images(recipe)


# ---- trainings ---------------------------------------------------------------------------------------------------------------------


def seats() -> dict[str, str]:
    """The field of the recipe that takes parts of a kind, for those that have one."""
    return {kind: s.name for s in settings_of(Recipe) for kind in KNOWN.kinds if s.name.rstrip("s") == kind.rstrip("s") and _takes_parts(s)}


def _takes_parts(setting: Setting) -> bool:
    return Part in typing.get_args(setting.hint)


def slots(kind: str, model: Part) -> list[str]:
    """The settings of a model that take parts of a kind."""
    return [s.name for s in settings_of(type(model)) if s.kind == kind]


def around(part: Part, kind: str, name: str) -> Recipe:
    """The recipe in which a part is at work."""
    recipe = BASE.but(**{**AROUND.get(kind, {}), **AROUND.get((kind, name), {})})
    if kind in SEATS:
        follows = THEN.get((kind, name))
        ends_early = follows and getattr(part, "length", 1.0) != 1.0
        recipe = recipe.but(**{SEATS[kind]: part | KNOWN.make(follows, kind) if ends_early and follows else part})
        return recipe.but(batch_size="all") if getattr(part, "full_batch", False) else recipe
    model = KNOWN.make(recipe.model, "model")
    slot = SLOT.get((kind, name), slots(kind, model)[0])
    return recipe.but(model=dataclasses.replace(model, **{slot: part}))  # type: ignore[type-var]


def numbers(recipe: Recipe, data: Dataset) -> str:
    """A digest of everything a training comes to, or the sentence that refuses or ends it."""
    rows: list[dict[str, Any]] = []
    torch.manual_seed(0)
    try:
        plain = recipe.but(penalty="none", average="none")
        # Penalties and averages that need pretrained weights get those that training starts from anyway.
        built = build_training(recipe, data, KNOWN, build_training(plain, data, KNOWN).state.model if recipe != plain else None)
        steering = Steering(Path("none"), commands_in(KNOWN.make(recipe.steering, "steering")))
        state = loop.fit(built.state, built.loader, built.plan, built.watch, MetricLog((rows.extend,)), steering=steering)
    except (UsageError, Diverged) as error:
        return f"refused: {error}"
    digest = hashlib.sha256()
    for module in (state.model, state.average):
        for name, tensor in module.state_dict().items() if module is not None else ():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    seen = score_views(built.evaluator, state.model, data.rows("validation"), KNOWN.make(recipe.views, "views"))
    digest.update(seen.probabilities.numpy().tobytes())
    digest.update(repr(state.snapshots).encode())
    timed = ("elapsed", "seconds", "images_per_s", "data_share")
    digest.update(repr([{k: v for k, v in row.items() if k not in timed} for row in rows]).encode())
    return digest.hexdigest()


class Operations(TorchDispatchMode):
    """Records what is computed: each operation with the shapes of its tensors and its other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = [tuple(x.shape) if isinstance(x, Tensor) else x for x in (*args, *(kwargs or {}).values())]
        self.lines.append(f"{func} {words}")
        return func(*args, **(kwargs or {}))


def operations(model: Any) -> str:
    """What a model computes for a training batch, on the meta device."""
    with torch.device("meta"), Operations() as trace:
        try:
            net = make_model(model, CLASSES, 3, (SIDE, SIDE))
        except UsageError as error:
            return f"refused: {error}"
        _, auxiliary = split_outputs(net(torch.empty(4, 3, SIDE, SIDE)))
    return "\n".join([*trace.lines, *(f"weight {weight}" for _, weight in auxiliary)])


@functools.cache
def computed(part: Part, kind: str, name: str, data: Dataset, slow: bool = False) -> str:
    """What a part comes to: for the large models their operations, unless there is time to train them."""
    return operations(part) if kind == "model" and name in LARGE and not slow else trained(part, kind, name, data)


@functools.cache
def trained(part: Part, kind: str, name: str, data: Dataset) -> str:
    return numbers(around(part, kind, name), data)


def base(kind: str, name: str, setting: str = "") -> Part:
    """The part with the settings that let one of them be seen."""
    return KNOWN.kinds[kind][name](**{**WITH.get((kind, name), {}), **WITH_FOR.get((kind, name, setting), {})})


# ---- second values -----------------------------------------------------------------------------------------------------------------


def others(setting: Setting, value: Any) -> Iterator[Any]:
    """Values of a setting's type other than `value`, the plainest first."""
    named = VALUES.get(setting.name, ())
    yield from (x for x in named if convert(x, setting.hint) is not INVALID and x != value)
    if setting.kind:
        for name, cls in sorted(KNOWN.kinds[setting.kind].items()):
            if name != "none" and not getattr(cls, "full_batch", False) and cls() != value:
                yield cls()
        return
    if not named:
        yield from (x for x in _others(setting.hint, value) if x != value)


def _others(hint: Any, value: Any) -> Iterator[Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [x for x in inner[1:] if isinstance(x, Range)]
        ends = [end for r in ranges for end in (r.low, r.high, r.above, r.below) if isinstance(value, float) and math.isfinite(end)]
        yield from (x for x in (*_others(inner[0], value), *((value + end) / 2 for end in ends)) if all(r.holds(x) for r in ranges))
    elif origin in (Union, types.UnionType):
        for option in inner:
            yield from _others(option, value)
    elif origin is Literal:
        yield from inner
    elif origin is tuple:
        yield from _tuples(inner, value)
    elif hint is bool:
        yield not value
    elif hint is int:
        yield from (value + 1, value - 1, 2 * value, value // 2, 2) if isinstance(value, int) else (2, 3)
    elif hint is float:
        known = value if isinstance(value, float) and value else 0.25
        yield from (known / 2, 2 * known, known * 100, known / 100, 0.25, 0.75)


def _tuples(inner: tuple[Any, ...], value: Any) -> Iterator[tuple[Any, ...]]:
    """Tuples that differ in one place, and longer ones where any length goes."""
    some_length = len(inner) == 2 and inner[1] is Ellipsis
    for place, old in enumerate(value if isinstance(value, tuple) else ()):
        new = next((x for x in _others(inner[0] if some_length else inner[place], old) if x != old), old)
        yield (*value[:place], new, *value[place + 1 :])
    if some_length and value:
        yield (*value, value[-1])


def replaced(part: Part, setting: Setting) -> Iterator[Part]:
    """The part with other values of one setting, where it takes them."""
    for value in others(setting, getattr(part, setting.name)):
        try:
            yield dataclasses.replace(part, **{setting.name: value})  # type: ignore[type-var]
        except UsageError:
            continue


# ---- the laws ------------------------------------------------------------------------------------------------------------------------

SEATS = seats()
KINDS = [kind for kind in sorted(KNOWN.kinds) if kind in SEATS or any(slots(kind, cls()) for cls in KNOWN.kinds["model"].values())]
ONE_PROCESS_KINDS = [kind for kind in KINDS if kind != "sync"]  # whose effect is between processes: test_ranks_sync_exact.py
PARTS = [(kind, name) for kind in ONE_PROCESS_KINDS for name in sorted(KNOWN.kinds[kind])]
SETTINGS = [(kind, name, s) for kind, name in PARTS for s in settings_of(KNOWN.kinds[kind][name])]
TRIES = 4


def effect(kind: str, name: str, setting: Setting, data: Dataset, slow: bool) -> tuple[str, list[str]]:
    """The first value of a setting that changes the numbers ("" if none does), and all that were tried."""
    part = base(kind, name, setting.name)
    before = computed(part, kind, name, data, slow)
    assert not before.startswith("refused"), before
    tried = []
    for other, _ in zip(replaced(part, setting), range(TRIES), strict=False):
        tried.append(spell(getattr(other, setting.name)))
        if computed(other, kind, name, data, slow) != before:
            return tried[-1], tried
    return "", tried


def test_every_kind_has_a_seat() -> None:
    """Parts that no field of the recipe and no setting of a model takes would be silently ignored."""
    assert [kind for kind in sorted(KNOWN.kinds) if kind not in KINDS] == []


def silent(kind: str, name: str, data: Dataset, slow: bool = False) -> list[str]:
    """The settings of a part without an effect, and the values that were tried."""
    found = []
    for setting in settings_of(KNOWN.kinds[kind][name]):
        changed, tried = effect(kind, name, setting, data, slow)
        if not tried:
            found.append(f"no second value of {setting.name} is known; add one to VALUES")
        elif not changed:
            found.append(f"{setting.name} is silently ignored at {', '.join(tried)}")
    return found


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=[f"{k}.{n}" for k, n in PARTS])
@pytest.mark.thorough
def test_every_setting_changes_the_numbers(kind: str, name: str, data: Dataset) -> None:
    assert silent(kind, name, data) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_setting_of_a_large_model_changes_the_numbers(name: str, data: Dataset) -> None:
    assert silent("model", name, data, slow=True) == []


@pytest.mark.parametrize("kind", ONE_PROCESS_KINDS)
@pytest.mark.thorough
def test_every_part_changes_the_numbers(kind: str, data: Dataset) -> None:
    """Parts of one kind in the same place differ in what they come to."""
    for around_it in {tuple(sorted(AROUND.get((kind, name), {}).items())) for name in KNOWN.kinds[kind]}:
        seen: dict[str, str] = {}
        for name in sorted(KNOWN.kinds[kind]):
            if tuple(sorted(AROUND.get((kind, name), {}).items())) != around_it:
                continue
            found = computed(base(kind, name), kind, name, data)
            assert not found.startswith("refused"), f"{name}: {found}"
            other = seen.setdefault(found, name)
            alike = {(kind, name, other), (kind, other, name)} & ALIKE.keys()
            assert other == name or alike, f"{kind}: {name} and {other} give the same numbers"


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(k, n, marks=[pytest.mark.slow] if n in LARGE else [], id=f"{k}.{n}") for k, n in PARTS]
)
@pytest.mark.thorough
def test_the_same_settings_give_the_same_numbers(kind: str, name: str, data: Dataset) -> None:
    """Without this the laws above would hold of noise."""
    part = base(kind, name)
    assert numbers(around(part, kind, name), data) == trained(part, kind, name, data)


def test_exceptions_name_what_there_is() -> None:
    known = {(kind, name, setting.name) for kind, name, setting in SETTINGS}
    assert set(WITH_FOR) <= known
    assert set(WITH) | set(THEN) | set(SLOT) | {("model", name) for name in LARGE} <= set(PARTS)
    assert {(kind, name) for kind, *names in ALIKE for name in names} <= set(PARTS)
    assert all(reason.strip() for reason in ALIKE.values())


def test_an_ignored_setting_is_caught(data: Dataset) -> None:
    """A part with a setting that nobody reads, and one that is read."""
    source = KNOWN.kinds["activation"]["leaky_relu"]

    @dataclasses.dataclass(frozen=True)
    class Idle(source):  # type: ignore[misc, valid-type]
        unread: float = 0.5

    part = Idle()
    before = numbers(around(part, "activation", "idle"), data)
    found: Callable[[str], list[bool]] = lambda setting: [  # noqa: E731
        numbers(around(other, "activation", "idle"), data) != before
        for other in replaced(part, next(s for s in settings_of(Idle) if s.name == setting))
    ]
    assert any(found("slope"))
    assert not any(found("unread"))
