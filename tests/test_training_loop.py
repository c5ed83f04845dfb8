"""The loop with plain torch things: rates, plateaus, evaluations, stopping, saving, and a training that diverges."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import goodfit
from goodfit.core.errors import Diverged, UsageError
from goodfit.core.progress import Length, Lengths, Period
from goodfit.core.run import Run
from goodfit.optim.groups import make_optimizer
from goodfit.recipe.parts import load_catalog
from goodfit.schedules.compose import compose
from goodfit.schedules.shapes import Cosine, Warmup
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.loop import END_SECONDS, fit
from goodfit.training.metric_log import MAX_ROWS_HELD, MetricLog
from goodfit.training.rescue import RATE_FACTOR
from goodfit.training.rules.average import Ema, Polyak
from goodfit.training.rules.stop import Patience
from goodfit.training.state import State
from goodfit.training.step import set_rates, train_step
from tests.support.command import goodfit as command
from tests.support.loop import K, listed, net, plan, run, sgd, told

# ---- steps ------------------------------------------------------------------------------------------------------------------------


def test_fit_is_the_loop_a_user_would_write() -> None:
    """A plain module, a plain optimizer, batches from a list: the weights of the plain loop, short last batches included."""
    state, source = sgd(net()), listed()
    rows = run(state, plan())
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, accuracies = [], []
    for _ in range(4):
        for batch in source.batches:
            optimizer.zero_grad()
            logits = model(batch.images)
            loss = nn.functional.cross_entropy(logits, batch.targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            accuracies.append((logits.argmax(1) == batch.targets.argmax(1)).double().mean().item())
    for found, expected in zip(state.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    assert told(rows, "loss") == pytest.approx(losses, rel=1e-5)
    assert told(rows, "accuracy") == pytest.approx(accuracies, rel=1e-5)
    assert told(rows, "step") == list(range(1, 21))
    assert told(rows, "epoch") == [n // 5 for n in range(20)]
    assert told(rows, "t") == pytest.approx([n / 20 for n in range(20)])
    assert all(0 < share < 1 for share in told(rows, "data_share"))


MODELS = {"linear": lambda w, x: x @ w[0].T + w[1], "mlp((8,))": lambda w, x: (x @ w[0].T + w[1]).relu() @ w[2].T + w[3]}
LOSSES = {"softmax": nn.functional.cross_entropy, "svm": lambda scores, labels: K * nn.functional.multi_margin_loss(scores, labels)}
OPTIMIZERS = {
    "sgd(0.05, momentum=0.9)": lambda w: torch.optim.SGD(w, 0.05, momentum=0.9),
    "adam(0.01)": lambda w: torch.optim.Adam(w, 0.01),
}


@pytest.mark.item("S010")
@pytest.mark.parametrize(("model", "loss", "optimizer"), [*itertools.product(MODELS, LOSSES, OPTIMIZERS)])
def test_score_function_loss_and_optimizer_are_each_exchangeable(model: str, loss: str, optimizer: str) -> None:
    """The three parts of a classifier: every combination trains to the weights that formulas of torch's lead to."""
    known, source = load_catalog(), listed()
    torch.manual_seed(0)
    net: nn.Module = known.make(model, "model")(K, 2, (3, 3))  # type: ignore[operator]
    by_hand = [p.detach().clone().requires_grad_() for p in net.parameters()]
    rows = run(State.start(net, make_optimizer(net, known.make(optimizer, "optimizer"))), plan(loss=known.make(loss, "loss")), source)  # type: ignore[arg-type]
    rule, losses = OPTIMIZERS[optimizer](by_hand), []
    for batch in source.batches * 4:
        value = LOSSES[loss](MODELS[model](by_hand, batch.images.flatten(1)), batch.targets.argmax(1))
        rule.zero_grad()
        value.backward()
        rule.step()
        losses.append(value.item())
    assert told(rows, "loss") == pytest.approx(losses, rel=1e-4)
    for found, expected in zip(net.parameters(), by_hand, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    assert told(rows, "elapsed") == sorted(told(rows, "elapsed"))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_batch_without_its_chance_is_refused() -> None:
    with pytest.raises(UsageError, match="Expected a training batch with its chance"):
        train_step(sgd(net()), listed().batches[0], plan(), 0.0, 1.0)


PLAIN: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 0.02},
    "Adagrad": {"lr": 0.1},
    "RMSprop": {"lr": 0.01},
    "LBFGS": {"lr": 1.0, "max_iter": 3, "line_search_fn": "strong_wolfe"},
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_torch_optimizers_are_welcome(name: str) -> None:
    """On the whole set at once, so that those with line searches are at home too."""
    model = net()
    state = State.start(model, getattr(torch.optim, name)(model.parameters(), **PLAIN[name]))
    rows = run(state, plan("40 steps"), listed((71,)))
    assert told(rows, "loss")[-1] < told(rows, "loss")[0] / 2
    assert state.step == 40


def test_the_schedule_and_the_plateau_factor_reach_every_group() -> None:
    model = net()
    groups = [{"params": model[1].parameters(), "lr": 0.4}, {"params": model[3].parameters(), "lr": 0.1}]
    state = State.start(model, torch.optim.SGD(groups))
    state.plateau_factor = 0.5
    seen: list[list[float]] = []
    step = state.optimizer.step

    def noted(closure: Any) -> Any:
        seen.append([group["lr"] for group in state.optimizer.param_groups])
        return step(closure)

    state.optimizer.step = noted  # type: ignore[method-assign, assignment]
    rows = run(state, plan(schedule=compose(Warmup(0.25) | Cosine())))
    factors = [4 * n / 20 if n < 5 else (1 + math.cos(math.pi * (n - 5) / 15)) / 2 for n in range(20)]
    assert told(rows, "lr") == pytest.approx([0.4 * 0.5 * f for f in factors], abs=1e-6)
    assert [rates[0] for rates in seen] == pytest.approx([0.2 * f for f in factors])
    assert [rates[1] for rates in seen] == pytest.approx([0.05 * f for f in factors])


def test_set_rates_multiplies_the_peak_not_the_last_rate() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    rates = []
    for factor in (0.5, 0.5, 0.0, 1.0):
        set_rates(optimizer, factor)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.15, 0.15, 0.0, 0.3])


@pytest.mark.item("S126")
@pytest.mark.parametrize("average", [Ema(0.9), Polyak(0.5)])
def test_the_average_is_what_is_evaluated(average: Any) -> None:
    weights: list[Tensor] = []
    evaluated: list[nn.Module] = []

    def evaluate(model: nn.Module, is_last: bool) -> dict[str, Any]:
        evaluated.append(model)
        weights.append(state.model[1].weight.detach().double().clone())  # type: ignore[index]
        return {"score": 0.0}

    model = net()
    start = model[1].weight.detach().double().clone()
    state = State.start(model, torch.optim.SGD(model.parameters(), lr=0.3), average)
    run(state, plan(every="1 step", average=average, evaluate=evaluate))
    assert state.average is not None
    assert all(model is state.average for model in evaluated)
    expected = start
    if isinstance(average, Ema):
        for n, w in enumerate(weights):
            keep = min(0.9, (1 + n) / (10 + n))
            expected = keep * expected + (1 - keep) * w
    else:
        expected = torch.stack(weights[9:]).mean(0)
    assert torch.allclose(state.average[1].weight.double(), expected, atol=1e-6)  # type: ignore[index]
    assert not torch.allclose(state.average[1].weight, model[1].weight, atol=1e-4)  # type: ignore[index]
    assert not any(p.requires_grad for p in state.average.parameters())
    assert not state.average.training


# ---- evaluating, stopping, saving -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("1 epoch", [5, 10, 15, 20]),
        ("2 epochs", [10, 20]),
        ("3 epochs", [15, 20]),
        ("8 steps", [8, 16, 20]),
        ("128 examples", [8, 16, 20]),
        ("0.25", [5, 10, 15, 20]),
        ("0.3", [6, 12, 18, 20]),
        ("1 h", [20]),
    ],
)
def test_evaluations_come_as_often_as_asked_and_at_the_end(every: str, steps: list[int]) -> None:
    state = sgd(net())
    modes: list[bool] = []
    used = plan(every=every, evaluate=lambda model, is_last: {"score": 0.5, "validation": {"loss": 1.0}})
    model = state.model
    model.register_forward_hook(lambda *_: modes.append(model.training))
    rows = run(state, used)
    assert told(rows, "step", "evaluate") == steps
    assert told(rows, "validation", "evaluate") == [{"loss": 1.0}] * len(steps)
    assert all(modes)
    assert state.history == [0.5] * len(steps)


def test_evaluations_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves a quarter of a second at each look: half a second a step, and the evaluation's own."""
    now = iter(n / 4 for n in range(10_000))
    monkeypatch.setattr("goodfit.training.loop.time.perf_counter", lambda: next(now))
    state = sgd(net())
    rows = run(state, plan("12 s", every="3 s", evaluate=lambda model, is_last: {"score": 0.0}))
    elapsed = told(rows, "elapsed", "evaluate")
    assert [int(x // 3) for x in elapsed[:-1]] == list(range(1, len(elapsed)))
    assert told(rows, "t")[-1] < 1
    assert state.elapsed + state.reserve >= 12, "time for the final evaluation is kept"
    assert state.reserve == pytest.approx(END_SECONDS + 2 * 0.25), "twice what an evaluation took"
    assert state.elapsed <= 12 - state.reserve + 1, "at most one more step, and its evaluation"


@pytest.mark.parametrize(("every", "tenth"), [("0.05", True), ("2 s", False)])
def test_evaluations_take_a_tenth_of_a_budget_in_seconds_unless_asked_for(monkeypatch: pytest.MonkeyPatch, every: str, tenth: bool) -> None:
    """Each takes a second and a quarter; twenty of them are due."""
    now = iter(n / 4 for n in range(10_000))
    clock = lambda: next(now)  # noqa: E731
    monkeypatch.setattr("goodfit.training.loop.time.perf_counter", clock)
    state = sgd(net())
    rows = run(state, plan("60 s", every=every, evaluate=lambda model, is_last: {"score": 0.0, "seen": sum(clock() for _ in range(4))}))
    seconds = told(rows, "seconds", "evaluate")
    assert seconds == [1.25] * len(seconds)
    assert state.evaluation_seconds == sum(seconds)
    assert (sum(seconds) <= 6 and len(seconds) == 4) is tenth, "three on the way and the last"
    assert tenth or len(seconds) > 12
    assert state.elapsed + state.reserve >= 60, "the last one ends the training"


@pytest.mark.item("S136")
@pytest.mark.parametrize("budget", ["10 s", "0.05 EUR at 18/h"])
def test_a_budget_in_seconds_or_in_money_is_a_cap(budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(n / 4 for n in range(10_000))
    monkeypatch.setattr("goodfit.training.loop.time.perf_counter", lambda: next(now))
    state = sgd(net())
    state.elapsed = state.startup = 4.0  # packing the images
    rows = run(state, plan(budget, schedule=lambda t: 1 - t))
    assert state.step == 12
    assert told(rows, "t")[0] == 0, "the first step is the beginning of everything that follows t, whatever came before it"
    assert told(rows, "lr") == pytest.approx([0.1 * (1 - n / 12) for n in range(12)])


@pytest.mark.item("S136")
def test_patience_stops_and_the_best_weights_can_be_had_back(tmp_path: Path) -> None:
    state, scores = sgd(net()), [0.2, 0.5, 0.8, 0.7, 0.8, 0.6, 0.1, 0.9]
    kept: dict[int, Tensor] = {}

    def evaluate(model: nn.Module, is_last: bool) -> dict[str, Any]:
        kept[state.step] = model[1].weight.detach().clone()  # type: ignore[index]
        return {"score": scores[len(state.history)]}

    rows = run(state, plan("100 epochs", every="1 epoch", evaluate=evaluate, parts={"stop": Patience(4)}), save=Checkpoints(tmp_path).save)
    assert state.step == 35, "four evaluations after the third, which was the first of the best"
    assert state.stopped == "no better score for 4 evaluations"
    assert state.best == {"step": 25, "score": 0.8}, "of equals the later one, trained for longer"
    assert len(told(rows, "step", "evaluate")) == 7
    back = sgd(net(1))
    Checkpoints(tmp_path).restore(back, state.best["step"])
    assert torch.equal(back.model[1].weight, kept[25])  # type: ignore[index]


@pytest.mark.item("S136")
def test_patience_counts_evaluations_since_the_first_best() -> None:
    stop = Patience(2)
    assert [stop(list(scores)) for scores in ([], [1], [1, 0], [1, 0, 0], [0, 1, 1, 1], [0, 1, 2, 1])] == [
        False,
        False,
        False,
        True,
        True,
        False,
    ]


def test_saves_come_between_evaluations_and_at_the_end() -> None:
    state = sgd(net())
    saved: list[int] = []
    used = plan(save_every=Period(Length.read("3 steps"), Lengths(5, 16, Length.read("4 epochs"))))
    run(state, used, save=lambda state: saved.append(state.step))
    assert saved == [3, 6, 9, 12, 15, 18, 20]


def test_halting_saves_and_going_on_starts_at_the_step() -> None:
    state, source, saved = sgd(net()), listed(), []
    rows = run(state, plan(), source, halt=lambda: state.step == 7, save=lambda state: saved.append(state.step))
    assert (state.step, saved) == (7, [7])
    rows += run(state, plan(), source)
    assert source.begun == [0, 7]
    assert told(rows, "step") == list(range(1, 21))
    whole = sgd(net())
    run(whole, plan())
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), whole.model.parameters(), strict=True))


# ---- the log ----------------------------------------------------------------------------------------------------------------------


def test_the_log_hands_on_plain_numbers_in_order() -> None:
    batches: list[list[dict[str, Any]]] = []
    log = MetricLog((batches.append,))
    for step in range(MAX_ROWS_HELD + 3):
        log.add({"kind": "train", "step": step, "loss": torch.tensor(1 / 3), "grad_norm": 0.1, "nested": {"a": torch.tensor(2.0)}})
    assert [len(rows) for rows in batches] == [MAX_ROWS_HELD]
    log.add_events(99, ["said"])
    assert log.flush() is None
    assert log.flush() is None
    assert [len(rows) for rows in batches] == [MAX_ROWS_HELD, 4]
    rows = [row for rows in batches for row in rows]
    assert [row["step"] for row in rows] == [*range(MAX_ROWS_HELD + 3), 99]
    assert rows[0]["loss"] == 0.3333333
    assert rows[0]["nested"] == {"a": 2.0}
    assert rows[-1] == {"kind": "event", "step": 99, "text": "said"}
    json.dumps(rows)


@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_the_log_finds_the_first_step_that_is_not_finite(key: str) -> None:
    seen: list[dict[str, Any]] = []
    log = MetricLog((seen.extend,))
    for step in range(8):
        row = {"kind": "train", "step": step, "loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)}
        log.add({**row, key: torch.tensor(float("inf" if step == 5 else "nan"))} if step >= 5 else row)
    assert log.flush() == 5
    assert seen[5][key] is None
    assert "NaN" not in json.dumps(seen)


def test_the_loop_hands_nothing_to_save_once_a_row_is_not_finite() -> None:
    """As on a GPU, where steps are not asked one by one."""
    log = MetricLog()
    log.add({"kind": "train", "step": 3, "loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(1.0)})
    state, saved = sgd(net()), []
    with pytest.raises(Diverged, match=r"diverged at step 2: its loss or gradient is not finite"):
        fit(state, listed(), plan(), log=log, save=saved.append, halt=lambda: state.step == 2)
    assert saved == []


def test_a_number_that_is_not_finite_is_not_forgotten_when_a_sentence_fills_the_log() -> None:
    log = MetricLog()
    log.add({"kind": "train", "step": 3, "loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(1.0)})
    log.add_events(4, ["said"] * 25)
    assert log.add({"kind": "event", "step": 5, "text": "more"}) == 3 and log.flush() == 3 and log.flush() is None


@pytest.mark.parametrize("held", [19, 1])
def test_late_numbers_that_are_not_finite_send_a_pretrained_start_back_once(held: int) -> None:
    """As on a GPU: they are seen when the log is full, or before a checkpoint is saved."""
    log, state, saved = MetricLog(), sgd(net()), []
    good = {name: x.clone() for name, x in state.model.state_dict().items()}
    scored: list[bool] = []

    def evaluate(model: nn.Module, is_last: bool) -> dict[str, float]:
        scored.append(all(torch.equal(x, good[name]) for name, x in model.state_dict().items()))
        return {"score": 0.5}

    every = Period(Length.read("1 step"), Lengths(5, 16, Length.read("8 steps")))
    used = dataclasses.replace(plan("8 steps"), start=good, evaluate=evaluate, evaluate_every=every)
    state.history.append(0.5)
    for _ in range(held):
        log.add({"kind": "train", "step": 3, "loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(1.0)})
    fit(state, listed(), used, log=log, save=lambda state: saved.append(dict(state.model.state_dict())), halt=lambda: state.step == 1)
    assert state.rescue_factor == RATE_FACTOR and scored == [True], "what is evaluated is what it went back to"
    assert all(torch.equal(x, good[name]) for name, x in saved[-1].items())
    log.add({"kind": "train", "step": 5, "loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(1.0)})
    with pytest.raises(Diverged, match="diverged at step 4"):
        fit(state, listed(), used, log=log, halt=lambda: state.step == 2)


# ---- divergence ---------------------------------------------------------------------------------------------------------------------


def test_a_rate_that_explodes_is_noticed_and_nothing_of_it_is_saved(tmp_path: Path) -> None:
    state = sgd(net(), lr=1e10)
    used = plan("40 epochs", save_every=Period(Length.read("1 step"), Lengths(5, 16, Length.read("4 epochs"))))
    with pytest.raises(Diverged, match=r"Training diverged (at|by) step \d+: .* not finite") as error:
        run(state, used, save=Checkpoints(tmp_path).save)
    assert "lower learning rate" in str(error.value) or "last checkpoint" in str(error.value)
    back = sgd(net(1))
    if Checkpoints(tmp_path).steps():
        Checkpoints(tmp_path).restore(back)
    assert all(bool(torch.isfinite(p).all()) for p in back.model.parameters())


WORDS = ["--size", "16", "--model", "mlp((16,))", "--batch-size", "24", "--precision", "fp32", "--threads", "1"]
WORDS += [
    "--layout",
    "contiguous",
    "--schedule",
    "constant",
    "--save-every",
    "1 step",
    "--evaluate-every",
    "1 step",
    "--budget",
    "3 epochs",
]
MINE = '''
import dataclasses
import torch
from goodfit.core.contracts import Augment

@dataclasses.dataclass(frozen=True)
class Spoil(Augment):
    """Makes one pixel of some images not a number from half of the budget on."""
    def __call__(self, batch, chance, t):
        images = batch.images.float() / 255
        images[(batch.ids < 6).nonzero().flatten(), 0, 0, 0] = float("nan") if t >= 0.5 else 0.0
        return batch.but(images=images)
'''


def test_diverging_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    """Exit code 4, one sentence, the state said, the last checkpoint finite, also when validation's loss is no number by then."""
    done = command(
        "train",
        photos,
        "--out",
        tmp_path / "run",
        *WORDS,
        "--optimizer",
        "sgd(1e10, momentum=0.0)",
        "--augment",
        "flip",
        "--probes",
        "none",
    )
    assert done.code == 4, done.err
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("goodfit: Training diverged ")
    left = Run(tmp_path / "run")
    assert left.read("about.json")["state"] == "diverged"
    assert not (left.path / "model.safetensors").exists()
    for file in left.checkpoints.glob("*.safetensors"):
        assert all(bool(torch.isfinite(x).all()) for x in load_file(file).values() if x.is_floating_point())


def test_a_spoiled_image_ends_the_run_at_its_step_and_the_checkpoint_before_is_good(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = command(
        "train",
        photos,
        "--out",
        tmp_path / "run",
        *WORDS,
        "--use",
        str(tmp_path / "mine.py"),
        "--augment",
        "spoil",
        "--optimizer",
        "sgd(0.01)",
    )
    assert done.code == 4, done.err
    last = done.err.splitlines()[-1]
    left = Run(tmp_path / "run")
    saved = max(int(path.stem) for path in left.checkpoints.glob("*.json"))
    named = re.search(rf"Training diverged at step {saved}: the input is not finite\. Images: ([0-5, ]+)\. What was saved", last)
    assert named is not None, last
    assert saved >= 4
    assert [row["step"] for row in left.log("train")] == list(range(1, saved + 1)), "the log is whole up to there"
    weights = load_file(left.checkpoints / f"{saved:08d}.safetensors")
    assert all(bool(torch.isfinite(x).all()) for x in weights.values() if x.is_floating_point())
    again = goodfit.Recipe.from_toml(left.path / "recipe.toml").but(augment="flip", use=())
    assert goodfit.train(recipe=again, out=tmp_path / "again", quiet=True).read("about.json")["state"] == "finished"
