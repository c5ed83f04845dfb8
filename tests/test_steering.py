"""The plateau rule, what is trained when, rates by layer; and that a resume does not change any of it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Penalty, Trainable
from goodfit.core.errors import UsageError
from goodfit.core.parts import ExternalPart, spell
from goodfit.core.progress import Length, Lengths, Period
from goodfit.core.run import Run
from goodfit.core.trust import trust_code
from goodfit.losses.penalty import L2
from goodfit.models.convnet import Convnet
from goodfit.optim.first_order import Adam, Sgd
from goodfit.optim.groups import make_optimizer
from goodfit.recipe.parts import load_catalog
from goodfit.schedules.compose import compose
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.freezing import disable_fused_momentum, freezing_phases, phase_at, set_trainable
from goodfit.training.rules.average import Ema, bind_cycles
from goodfit.training.rules.plateau import Plateau
from goodfit.training.state import State
from tests.support.command import train
from tests.support.loop import net, normed, plan, run, sgd, told

KNOWN: Catalog = load_catalog()


# ---- plateaus ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S101")
@pytest.mark.parametrize(
    ("patience", "least", "cooldown", "lowest"), [(1, 0.0, 0, 0.0), (2, 0.0, 0, 0.0), (3, 0.05, 2, 0.0), (2, 0.01, 1, 0.02)]
)
def test_plateau_equals_torch(patience: int, least: float, cooldown: int, lowest: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = (torch.linspace(0, 1, 60).sqrt() + 0.05 * torch.randn(60, generator=generator)).clamp(max=0.8).tolist()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", 0.1, patience - 1, threshold=least, threshold_mode="abs", cooldown=cooldown, min_lr=lowest, eps=0
    )
    ours = Plateau(0.1, patience, least=least, cooldown=cooldown, lowest=lowest)
    for n, score in enumerate(scores, start=1):
        theirs.step(score)
        assert ours(scores[:n]) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours(scores) < 0.2


@pytest.mark.item("S101")
def test_a_plateau_divides_the_rate_by_ten_and_says_so() -> None:
    """Validation stands still from the second epoch on: AlexNet's policy."""
    state = sgd(net(), lr=1e-2)
    used = plan("8 epochs", every="1 epoch", parts={"plateau": Plateau(0.1, patience=2)}, evaluate=lambda model, is_last: {"score": 0.5})
    rows = run(state, used)
    assert told(rows, "lr") == pytest.approx([1e-2] * 15 + [1e-3] * 10 + [1e-4] * 10 + [1e-5] * 5)
    events = [(row["step"], row["text"]) for row in rows if row["kind"] == "event"]
    assert [step for step, _ in events] == [15, 25, 35]
    assert events[0][1] == "The learning rate is multiplied by 0.1: validation stopped improving; by 0.1 in all."


# ---- what learns ----------------------------------------------------------------------------------------------------------------------


def frozen_of(text: str, model: nn.Module, t: float = 0.0) -> set[str]:
    phase = phase_at(freezing_phases(KNOWN.make(text, "trainable"), model), t)
    return set() if phase is None else {name for name, _ in model.named_parameters()} - phase.trainable


def test_which_parameters_learn() -> None:
    model = Convnet(4)(3, 3, (16, 16))
    names = [name for name, _ in model.named_parameters()]
    stems = {"stem": {n for n in names if n.startswith("stem.")}, "stage1": {n for n in names if n.startswith("stage1.")}}
    body = {n for n in names if not n.startswith("head.")}
    assert frozen_of("all", model) == set()
    assert frozen_of("head", model) == frozen_of("last(0)", model) == body
    assert frozen_of("since(stage2)", model) == frozen_of("last(1)", model) == stems["stem"] | stems["stage1"]
    assert frozen_of("since(stem)", model) == set()
    pipe = "head(0.2) | last(1, length=0.3) | all"
    assert [len(frozen_of(pipe, model, t)) for t in (0, 0.19, 0.2, 0.49, 0.5, 1)] == [
        len(body), len(body), *[len(stems["stem"] | stems["stage1"])] * 2, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("last(9)", "at most 3 stages"),
        ("since(stage8)", 'Did you mean "stage'),
        ("all | head", "nothing can follow"),
        ("head(0.5) | gradual", r'"head\(0\.5\) \| gradual": .* gradual takes until 1 of it: give it a shorter length'),
        ("head(0.7) | gradual(0.4)", "before the end of the budget, but .* takes until 1.1 of it"),
    ],
)
def test_what_cannot_learn_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        freezing_phases(KNOWN.make(text, "trainable"), Convnet(4)(3, 3, (16, 16)))


def test_a_function_of_the_users_own_names_what_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "what_learns.py").write_text("def some(model): return {'1.bias'}\ndef none(model): return ()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with trust_code("what_learns"):
        assert frozen_of("what_learns.some", net()) == {"1.weight", "3.weight", "3.bias"}
        with pytest.raises(UsageError, match="nothing would be trained"):
            freezing_phases(ExternalPart("what_learns.none"), net())


@pytest.mark.parametrize("optimizer", [Sgd(0.1, momentum=0.9, weight_decay=0.1), Adam(0.01, weight_decay=0.1)])
@pytest.mark.parametrize("penalties", [(), (L2(0.1),)])
def test_what_is_frozen_stays_bit_for_bit(optimizer: Any, penalties: tuple[Penalty, ...]) -> None:
    """No decay, no momentum from before, no batch statistics: frozen in the middle, with all of them at work before and after."""
    model = normed()
    state = State.start(model, make_optimizer(model, optimizer))
    kept: dict[int, dict[str, Tensor]] = {}

    def save(state: State) -> None:
        kept[state.step] = {name: x.detach().clone() for name, x in model.state_dict().items()}

    pipe = KNOWN.make("since('1', 0.25) | head(0.5) | all", "trainable")
    often = Period(Length.read("1 step"), Lengths(5, 16, Length.read("4 epochs")))
    run(state, plan(penalties=penalties, trainable=freezing_phases(pipe, model), save_every=often), save=save)
    body = [name for name in kept[20] if not name.startswith("5.")]
    for name in body:
        for step in range(6, 16):
            assert torch.equal(kept[step][name], kept[5][name]), (name, step)
        assert not torch.equal(kept[4][name], kept[5][name])
        assert not torch.equal(kept[16][name], kept[15][name])
    for step in range(1, 20):
        assert not torch.equal(kept[step]["5.weight"], kept[step + 1]["5.weight"])


def test_statistics_of_frozen_layers_move_when_asked() -> None:
    model = normed()
    used = freezing_phases(KNOWN.make("head(statistics=moving)", "trainable"), model)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    run(State.start(model, torch.optim.SGD(model.parameters(), lr=0.1)), plan(trainable=used))
    assert not torch.equal(model[2].running_mean, before["2.running_mean"])  # type: ignore[index, arg-type]
    assert torch.equal(model[2].weight, before["2.weight"])  # type: ignore[index, arg-type]


def test_gradual_adds_a_stage_at_equal_steps_last_to_first() -> None:
    """By hand for a stem and two stages: at 0, 1/3, 2/3 and all of its length, after what comes before it in the pipe."""
    model = Convnet(4)(3, 3, (16, 16))
    stages_by_t = {0: {"head"}, 1: {"head", "stage2"}, 2: {"head", "stage2", "stage1"}, 3: {"head", "stage2", "stage1", "stem"}}
    for text, begin, length in (("gradual", 0.0, 0.5), ("gradual(0.3)", 0.0, 0.3), ("head(0.2) | gradual(0.6)", 0.2, 0.6)):
        phases = freezing_phases(KNOWN.make(text, "trainable"), model)
        for k, stages in stages_by_t.items():
            for t in (begin + length * k / 3, begin + length * (k + 0.9) / 3 if k < 3 else 1.0):
                phase = phase_at(phases, t)
                assert phase is not None
                assert {name.split(".")[0] for name in phase.trainable} == stages, (text, t)
                assert {name.split(".")[0] for name in phase.fixed} == {"stem", "stage1", "stage2"} - stages
        assert phases[-1].trainable == {name for name, _ in model.named_parameters()}
    assert frozen_of("gradual(0.3) | head", model, 0.29) < frozen_of("gradual(0.3) | head", model, 0.3), "what follows it begins at its end"


def test_gradual_trains_what_its_phase_names_and_nothing_else() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    kept: dict[int, dict[str, Tensor]] = {0: {name: x.detach().clone() for name, x in model.state_dict().items()}}

    def save(state: State) -> None:
        kept[state.step] = {name: x.detach().clone() for name, x in model.state_dict().items()}

    often = Period(Length.read("1 step"), Lengths(5, 16, Length.read("4 epochs")))
    used = plan(trainable=freezing_phases(KNOWN.make("gradual(0.5)", "trainable"), model), save_every=often)
    run(State.start(model, make_optimizer(model, Adam(0.01, weight_decay=0.1))), used, save=save)
    first = {
        layer: next(n for n in range(1, 21) if not torch.equal(kept[n][f"{layer}.weight"], kept[0][f"{layer}.weight"])) for layer in "135"
    }
    assert first == {"5": 1, "3": 6, "1": 11}, "20 steps: the head from the first, one more after 5 and after 10"


def test_a_users_own_rule_may_have_phases() -> None:
    @dataclasses.dataclass(frozen=True)
    class Biases(Trainable):
        def __call__(self, model: nn.Module) -> set[str]:
            return {"1.bias"}

        def phases(self, model: nn.Module) -> list[tuple[float, set[str]]]:
            return [(0.0, self(model)), (0.25, {"1.bias", "3.bias"})]

    phases = freezing_phases(Biases(), net())
    assert [(phase.start, set(phase.trainable)) for phase in phases] == [(0.0, {"1.bias"}), (0.25, {"1.bias", "3.bias"})]


@pytest.mark.parametrize(("text", "moves"), [("all", True), ("all(statistics=all_fixed)", False), ("last(2, statistics=all_fixed)", False)])
def test_norms_that_learn_keep_their_statistics_when_asked(text: str, moves: bool) -> None:
    """Their scale and shift learn all the same, and they normalize by the running statistics: equal to an affine layer, in float64."""
    model = normed().double().eval()
    with torch.no_grad():
        model[2].running_mean += torch.arange(8) / 10  # type: ignore[index, operator, union-attr]
    before = {name: x.clone() for name, x in model.state_dict().items()}
    phases = freezing_phases(KNOWN.make(text, "trainable"), model)
    assert [set(phase.fixed) for phase in phases] == ([] if moves else [{"2"}])
    model.train()
    set_trainable(model, phases, 0.0)
    assert model[2].training is moves and model[4].training, "noise stays at work"  # type: ignore[index]
    x = torch.randn(7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mean, var = (before[f"2.{name}"].numpy() for name in ("running_mean", "running_var"))
    expected = (x.numpy() - mean) / np.sqrt(var + 1e-5) * before["2.weight"].numpy() + before["2.bias"].numpy()
    assert np.allclose(copy.deepcopy(model)[2](x).detach().numpy(), expected, atol=1e-12) is not moves  # type: ignore[index]
    model.float()
    used = plan(every="5 steps", trainable=phases, evaluate=lambda model, is_last: {"score": 0.0})
    run(State.start(model, torch.optim.SGD(model.parameters(), lr=0.1)), used)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(model.state_dict()[f"2.{name}"], before[f"2.{name}"].to(model.state_dict()[f"2.{name}"].dtype)) is not moves
    assert not torch.equal(model.state_dict()["2.weight"], before["2.weight"].float())
    assert not torch.equal(model.state_dict()["2.bias"], before["2.bias"].float())


def test_an_average_does_not_recompute_fixed_statistics() -> None:
    model = normed()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    used = freezing_phases(KNOWN.make("all(statistics=all_fixed)", "trainable"), model)
    state = State.start(model, torch.optim.SGD(model.parameters(), lr=0.1), Ema(0.5))
    run(state, plan(trainable=used, average=Ema(0.5)))
    assert state.average is not None
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(state.average.state_dict()[f"2.{name}"], before[f"2.{name}"])
    assert not torch.equal(state.average.state_dict()["2.weight"], before["2.weight"])


def test_an_evaluation_on_the_way_does_not_wake_frozen_statistics() -> None:
    model = normed()
    used = freezing_phases(KNOWN.make("head", "trainable"), model)
    mean = model[2].running_mean.clone()  # type: ignore[index, union-attr, operator]
    run(
        State.start(model, torch.optim.SGD(model.parameters(), lr=0.1)),
        plan(every="1 step", trainable=used, evaluate=lambda model, is_last: {"score": 0.0}),
    )
    assert torch.equal(model[2].running_mean, mean)  # type: ignore[index, arg-type]


def test_dropout_of_frozen_layers_stays_at_work() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    set_trainable(model, freezing_phases(KNOWN.make("head", "trainable"), model), 0.0)
    assert model[2].training
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


# ---- rates by layer -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("none", {"stem": 1, "stage1": 1, "stage2": 1, "head": 1}),
        ("layer_decay(0.5)", {"stem": 0.125, "stage1": 0.25, "stage2": 0.5, "head": 1}),
        ("backbone(0.1)", {"stem": 0.1, "stage1": 0.1, "stage2": 0.1, "head": 1}),
        ("by_stage(('stem', 'head'), (0.5, 2.0))", {"stem": 0.5, "stage1": 1, "stage2": 1, "head": 2}),
    ],
)
def test_rates_reach_each_stage(text: str, factors: dict[str, float]) -> None:
    model = Convnet(4)(3, 3, (16, 16))
    part: Any = KNOWN.make(text, "rates")
    optimizer = make_optimizer(model, Sgd(0.2), part(model))
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    for name, rate in found.items():
        assert rate == pytest.approx(0.2 * factors[name.split(".")[0]]), name


def test_biases_of_norms_may_learn_faster() -> None:
    """Theirs alone: not those of convs and linear layers, nor the norms' scales."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, affine=False), nn.Linear(4, 3))
    part: Any = KNOWN.make("norm_biases(8)", "rates")
    names = {id(p): name for name, p in model.named_parameters()}
    groups = make_optimizer(model, Sgd(0.2), part(model)).param_groups
    peaks = {names[id(p)]: group["peak"] for group in groups for p in group["params"]}
    assert {name for name, peak in peaks.items() if peak == pytest.approx(1.6)} == {"1.bias", "2.bias"}
    assert len(peaks) == len(names) and set(peaks.values()) == {0.2, 1.6}


def test_rates_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="a factor for each of 2 stages, received 1"):
        KNOWN.make("by_stage(('stem', 'head'), (0.5,))", "rates")
    part: Any = KNOWN.make("by_stage(('stam',), (0.5,))", "rates")
    with pytest.raises(UsageError, match='Did you mean "stem"'):
        part(Convnet(4)(3, 3, (16, 16)))


# ---- in a run, and resumed ------------------------------------------------------------------------------------------------------------


def test_the_recipe_s_fields_reach_the_run(photos: Path, tmp_path: Path) -> None:
    words = {
        "model": "convnet(4)",
        "trainable": "head(0.5) | all",
        "rates": "backbone(0.1)",
        "plateau": "plateau(patience=1)",
        "average": "swa(0.3)",
    }
    said = train(photos, tmp_path / "run", **words, schedule="sgdr(2)", budget="4 epochs")
    assert said.code == 0, said
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    for word in ("head(0.5, statistics='fixed') | all(1.0, statistics='moving')", "backbone(0.1)", "plateau(0.1, patience=1"):
        assert word in recipe
    updates = [row["update_ratio"] for row in Run(tmp_path / "run").log("train") if "update_ratio" in row]
    assert updates[0]["stem.conv.weight"] == 0 < updates[0]["head.weight"]


TEXTS = {
    "schedule": [f"warmup(0.2) | {name}" for name in KNOWN.kinds["schedule"]],
    "average": [*KNOWN.kinds["average"], "swa(0.0, every=0.1)"],
    "plateau": ["none", "plateau(0.5, patience=1)"],
    "trainable": [
        "head(0.3) | last(1, length=0.3) | all",
        "head",
        "head(0.3, statistics=moving) | all",
        "head(0.2) | gradual(0.6)",
        "all(statistics=all_fixed)",
    ],
    "rates": ["layer_decay", "backbone", "norm_biases(8)", "by_stage(('1',), (0.5,))"],
}


def checksum(model: nn.Module) -> float:
    return float(sum(x.double().sum() for x in model.state_dict().values()))


def state_and_plan(kind: str, text: str) -> tuple[State, Any]:
    parts: dict[str, Any] = {
        "schedule": "constant",
        "average": "ema(0.9)",
        "plateau": "none",
        "trainable": "all",
        "rates": "none",
        kind: text,
    }
    made: dict[str, Any] = {kind: KNOWN.make(text, kind) for kind, text in parts.items()}
    model, scores = normed(), [0.2, 0.1, 0.4, 0.3, 0.5, 0.4, 0.3, 0.6, 0.5, 0.4, 0.3]
    schedule = compose(made["schedule"])
    average = bind_cycles(made["average"], schedule.cycle_ends())
    optimizer = make_optimizer(model, Sgd(0.1), made["rates"](model))
    disable_fused_momentum(optimizer)
    state = State.start(model, optimizer, average)
    used = plan(
        every="2 steps", schedule=schedule, average=average, parts={"plateau": made["plateau"]},
        trainable=freezing_phases(made["trainable"], model), start=normed(seed=5).state_dict(),
        evaluate=lambda model, is_last: {"score": scores[len(state.history)], "seen": checksum(model)},
    )  # fmt: skip
    return state, used


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in TEXTS.items() for text in texts])
def test_a_resume_is_bit_equal(kind: str, text: str, tmp_path: Path) -> None:
    whole, used = state_and_plan(kind, text)
    expected = run(whole, used)
    first, used = state_and_plan(kind, text)
    rows = run(first, used, halt=lambda: first.step == 9, save=Checkpoints(tmp_path).save)
    second, used = state_and_plan(kind, text)
    Checkpoints(tmp_path).restore(second)
    rows += run(second, used)
    for state in (second.model, second.average):
        other = whole.model if state is second.model else whole.average
        if state is not None and other is not None:
            assert all(torch.equal(x, other.state_dict()[name]) for name, x in state.state_dict().items())
    for key in ("lr", "loss"):
        assert told(rows, key) == told(expected, key)
    for key in ("seen", "step"):
        assert told(rows, key, "evaluate") == told(expected, key, "evaluate")
    assert told(rows, "text", "event") == told(expected, "text", "event")
    assert second.plateau_factor == whole.plateau_factor


def test_spelled_and_read_back() -> None:
    for kind, texts in TEXTS.items():
        for text in texts:
            part = KNOWN.make(text, kind)
            assert KNOWN.make(spell(part, full=True), kind) == part
