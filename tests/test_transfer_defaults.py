"""The defaults of a training from pretrained weights, on a net that is pretrained here: never worse than its probe, no jump at first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import goodfit as package
from goodfit.core.errors import Diverged, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.models.weights.files import Weights
from goodfit.models.weights.stages import find_stages
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.defaults import (
    budget_lengths,
    choose_cached_views,
    choose_source_size,
    choose_trainable,
    trained_share,
)
from goodfit.recipe.transfer.probe import fit_probe
from goodfit.recipe.transfer.rates import find_safe_rate
from goodfit.recipe.transfer.start import neutralize_constant_channels
from goodfit.runs.finish import falls_behind
from goodfit.runs.train import best_weights
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.rescue import RATE_FACTOR, WINDOW, go_back, rescue_if_worse
from goodfit.training.rules.stop import None_, Patience
from goodfit.training.state import SOFTMAX
from goodfit.training.step import train_step
from tests.support.command import goodfit

FAST: dict[str, Any] = {"threads": 1, "precision": "fp32", "layout": "contiguous", "pieces": 1, "device": "cpu"}


def gratings(file: Path, angles: tuple[float, ...], frequency: float, each: int, seed: int, noise: float = 0.6) -> Path:
    """Stripes of a class's direction with a random phase, color and noise: a linear classifier of pixels cannot tell them apart."""
    rng = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[0:16, 0:16] / 16.0
    labels = np.repeat(np.arange(len(angles)), each)
    phases, colors = rng.uniform(0, 2 * np.pi, len(labels)), rng.uniform(0.3, 1, (len(labels), 1, 1, 3))
    waves = [
        np.sin(2 * np.pi * frequency * (x * np.cos(angles[k]) + y * np.sin(angles[k])) + p) for k, p in zip(labels, phases, strict=True)
    ]
    images = np.stack(waves)[..., None] * colors + noise * rng.normal(size=(len(labels), 16, 16, 3))
    np.savez(file, images=(np.clip(images * 60 + 128, 0, 255)).astype(np.uint8), labels=labels)
    return file


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned eight directions of coarse stripes."""
    folder = tmp_path_factory.mktemp("pretrained")
    data = gratings(folder / "coarse.npz", tuple(np.pi * k / 8 for k in range(8)), 2.0, 60, seed=0)
    recipe = Recipe(model="convnet(8)", budget="12 epochs", augment="crop(2)", batch_size=32, **FAST)
    run = package.train(data, recipe, out=folder / "run")
    assert run is not None and run.read("scores.json")["validation"]["accuracy"] > 0.8
    return Path(run.path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four other directions of finer stripes."""
    return gratings(
        tmp_path_factory.mktemp("fine") / "fine.npz", tuple(np.pi * (k + 0.5) / 4 for k in range(4)), 3.0, 50, seed=1, noise=2.5
    )


def prepared(data: Path, pretrained: Path, **changes: Any) -> Prepared:
    return prepare(Recipe(data=str(data), source=str(pretrained), **{**FAST, **changes}), SilentReporter())


def probe_accuracy(made: Prepared) -> float:
    """The accuracy on the validation images of a probe of the features that the pretrained net computes, without our own feature code."""
    model, dataset = made.training.state.model.eval(), made.data
    inputs: list[torch.Tensor] = []
    hook = model.get_submodule("head").register_forward_pre_hook(lambda module, args: inputs.append(args[0].flatten(1)))
    for split in ("train", "validation"):
        images = dataset.pixels.read_exact(dataset.rows(split)).permute(0, 3, 1, 2)  # type: ignore[arg-type]
        with torch.no_grad():
            model(dataset.preprocess.normalize(dataset.preprocess.center_crop(images)))
    hook.remove()
    labels = [dataset.labels[dataset.rows(split)] for split in ("train", "validation")]  # type: ignore[arg-type]
    probe = fit_probe(inputs[0], labels[0], len(dataset.classes))
    return float((probe(inputs[1]).argmax(1) == labels[1]).double().mean())


@pytest.mark.thorough
def test_defaults_are_never_below_the_probe(data: Path, pretrained: Path, tmp_path: Path) -> None:
    made = prepared(data, pretrained)
    probe = probe_accuracy(made)
    run = package.train(data, Recipe(source=str(pretrained), **FAST), out=tmp_path / "run")
    assert run is not None
    log, scores = run.log(), run.read("scores.json")
    first = next(row for row in log if row["kind"] == "evaluate")
    assert (first["step"], first["validation"]["accuracy"]) == (0, pytest.approx(probe)), "the start is the probe"
    assert scores["validation"]["accuracy"] >= probe
    assert 0.3 < probe < 0.999, "there is something to lose, and something to gain"


def test_one_step_does_not_raise_the_loss(data: Path, pretrained: Path) -> None:
    """The loss of the first batch, before a first step at the full rate and after it."""
    made = prepared(data, pretrained, schedule="constant")
    training = made.training
    batch = training.plan.prepare(training.loader.batch(0), 0.0)

    def loss() -> float:
        with torch.no_grad():
            return float(training.plan.loss(training.state.model.eval()(batch.images), batch.targets).mean())

    before = loss()
    fit(training.state, training.loader, training.plan, halt=lambda: training.state.step >= 1)
    assert training.state.step == 1
    assert abs(loss() - before) > 0 and loss() <= 1.1 * before


def test_a_rate_that_is_far_too_high_is_noticed(data: Path, pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"threads": "1", "precision": "fp32", "layout": "contiguous", "pieces": "1", "device": "cpu", "batch-size": "16"}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    done = goodfit("train", data, "--from", pretrained, "--out", out, "--optimizer", "sgd(0.3, momentum=0.9)", "--epochs", "10", *words)
    assert done.code == 0, done
    log, scores = Run(out).log(), Run(out).read("scores.json")
    events = [row for row in log if row["kind"] == "event"]
    assert len([row for row in events if "back to the last good weights" in row["text"]]) == 1, events
    assert events[0]["step"] <= 3 * WINDOW
    rates = {row["step"]: row["lr"] for row in log if row["kind"] == "train"}
    at = events[0]["step"]
    assert rates[at + 2] < 2 * RATE_FACTOR * rates[at], "the rate is a tenth from then on"
    start = next(row["validation"]["accuracy"] for row in log if row["kind"] == "evaluate")
    assert scores["validation"]["accuracy"] >= start - 1e-7, "the log has seven digits"


def test_constant_channels_no_longer_explode() -> None:
    """The outputs stay the same; a change before the norm then comes through as it is, not multiplied."""
    norm = nn.BatchNorm2d(2).eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.5, 1.0]))  # type: ignore[union-attr]
        norm.running_var.copy_(torch.tensor([1e-20, 4.0]))  # type: ignore[union-attr]
        norm.weight.copy_(torch.tensor([3.0, 2.0]))
    x = torch.full((1, 2, 2, 2), 0.5)
    before, moved = norm(x).detach(), norm(x + 0.01).detach()
    assert neutralize_constant_channels(norm) == 1
    assert torch.equal(norm(x), before)
    assert float((moved - before)[0, 0].max()) > 5
    assert float((norm(x + 0.01).detach() - before)[0, 0].max()) == pytest.approx(0.03, rel=1e-3)


def test_a_budget_in_seconds_begins_at_the_first_step(data: Path, pretrained: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    made = prepared(data, pretrained, budget="4 s")
    made.training.state.elapsed = made.training.state.startup = 2.0
    fit(made.training.state, made.training.loader, made.training.plan, log=MetricLog((rows.extend,)))
    trained = [row for row in rows if row["kind"] == "train"]
    assert trained[0]["t"] == 0 and trained[0]["lr"] < 0.2 * max(row["lr"] for row in trained), "it warms up"


# ---- the rules of what is chosen ---------------------------------------------------------------------------------------------------


def size_for(budget: str, own: int = 500, device: str = "cpu", spent: float = 5.0, **of_weights: Any) -> str:
    """The size that is chosen for 3,000 images under a budget, on a machine that does 100 forward passes a second at 224 pixels."""
    chooser = Chooser(Recipe(source="net.pth", model="convnet(4)", budget=budget, device=device, channels=3), load_catalog())
    weights = Weights("net.pth", "", {}, **{"size": (224, 224), **of_weights})
    sides = np.full(3000, own)
    headers = SimpleNamespace(usable=sides > 0, median_side=own)
    choose_source_size(chooser, weights, headers, spent)  # type: ignore[arg-type]
    return str(chooser.recipe.size)


def test_the_size_follows_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four passes over 3,000 images take 120 s at 224 pixels, 88 at 192, 61 at 160, 39 at 128, 22 at 96."""
    monkeypatch.setattr("goodfit.recipe.transfer.defaults.time_forward", lambda part, size, channels: 0.01)
    sizes = {budget: size_for(budget) for budget in ("20 s", "1 min", "80 s", "2 min", "3 min", "8 epochs", "auto")}
    assert sizes == {"20 s": "96", "1 min": "128", "80 s": "160", "2 min": "192", "3 min": "224", "8 epochs": "224", "auto": "224"}
    assert size_for("1 min", spent=30.0) == "96", "what is over is over"
    assert size_for("3 min", own=32) == "128", "small images are not enlarged further than four times"
    assert size_for("20 s", device="cuda") == size_for("20 s", has_fixed_size=True) == "224"
    assert size_for("20 s", size=(32, 32)) == "32"
    assert size_for("20 s", size=(64, 128)) == "64x128"
    assert size_for("20 s", size=()) == "auto", "nothing is known of them"


def test_a_rate_that_raises_the_loss_is_lowered(data: Path, pretrained: Path) -> None:
    made = prepared(data, pretrained)
    model, catalog = made.training.state.model, load_catalog()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    trainable, augment = catalog.make("all(statistics=all_fixed)", "trainable"), catalog.make("none", "augment")

    parts = {"trainable": trainable, "augment": augment, "loss": SOFTMAX, "rates": catalog.make("none", "rates")}

    def optimizer_at(rate: float) -> Any:
        return catalog.make(f"sgd({rate})", "optimizer")

    assert find_safe_rate(model, made.data, parts, optimizer_at, 1e-3) == (1e-3, True)
    rate, is_safe = find_safe_rate(model, made.data, parts, optimizer_at, 0.25)
    twice, is_twice_safe = find_safe_rate(model, made.data, parts, optimizer_at, 2 * rate)
    assert is_safe and rate < 0.25 and (twice, is_twice_safe) == (rate, True), "it is the largest"
    assert find_safe_rate(model, made.data, parts, optimizer_at, 1e9) == (1e9 / 2**6, False)

    factors: list[float] = []

    def recording_step(state: Any, batch: Any, plan: Any, t: float, factor: float) -> Any:
        factors.append(factor)
        return train_step(state, batch, plan, t, factor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goodfit.recipe.transfer.rates.train_step", recording_step)
        for warms_up in (True, False):
            find_safe_rate(model, made.data, parts, optimizer_at, 1e-3, warms_up)
    assert factors == [0.2, 0.4, 0.6, 0.8, 1.0, 0.0, *[1.0] * 5, 0.0]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items()), "the model is as it was"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_few_stages_learn_at_a_higher_rate(pretrained: Path, data: Path) -> None:
    model, catalog = prepared(data, pretrained).training.state.model, load_catalog()
    shares = {text: trained_share(model, catalog.make(text, "trainable")) for text in ("all", "last(1)", "head", "head(0.5) | all")}
    n = len(find_stages(model)) + 1
    assert shares == {"all": 1.0, "last(1)": 2 / n, "head": 1 / n, "head(0.5) | all": 1 / n}


def test_a_probe_sees_no_more_images_than_it_needs(data: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodfit.recipe.transfer.start.MAX_PROBE_IMAGES", 20)
    notes = prepared(data, pretrained).training.notes
    assert any("a linear probe of 20 training images" in note for note in notes), notes


@pytest.mark.parametrize(
    ("per_class", "shift", "epochs", "expected"),
    [
        (11, 0.3, 8, "head"),
        (11, None, 8, "head"),
        (11, 0.4, 8, 'last(2, statistics="all_fixed")'),
        (12, 0.3, 8, 'last(2, statistics="all_fixed")'),
        (12, 0.4, 2, 'all(statistics="all_fixed")'),
        (12, 0.4, 1, 'last(1, statistics="all_fixed")'),
        (49, 0.3, 8, 'last(2, statistics="all_fixed")'),
        (50, 0.0, 8, 'all(statistics="all_fixed")'),
        (50, None, 8, 'all(statistics="all_fixed")'),
        (50, 0.3, 7, 'last(2, statistics="all_fixed")'),
    ],
)
def test_what_is_trained_follows_the_images_their_shift_and_the_passes(
    per_class: int, shift: float | None, epochs: int, expected: str
) -> None:
    catalog = load_catalog()
    chooser = Chooser(Recipe(source="x", budget=f"{epochs} epochs", batch_size=10), catalog)
    data: Any = SimpleNamespace(class_counts=lambda: (1, per_class, 9999), splits=SimpleNamespace(train=range(100)))
    choose_trainable(chooser, make_model(catalog.make("convnet(8)", "model"), 3, 3, (16, 16)), data, 60.0, shift)
    assert chooser.recipe.trainable == expected
    assert f"a median of {per_class} images a class" in chooser.choices[-1].evidence
    assert ("pretraining" in chooser.choices[-1].evidence) == (shift is not None)


def test_stages_are_left_out_where_the_time_is_short(data: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 and 5 ms an image, 136 images once take 1.4 and 0.7 s."""

    def cost(model: nn.Module, trainable: Any, data: Any) -> float:
        return 0.01 if trainable.stages == 2 else 0.005

    monkeypatch.setattr("goodfit.recipe.transfer.defaults.time_training", cost)
    made = prepared(data, pretrained)
    chosen = {}
    for left in (100.0, 1.5, 0.2):
        chooser = Chooser(Recipe(source="x", budget="1 min", batch_size=32), load_catalog())
        choose_trainable(chooser, made.training.state.model, made.data, left)
        chosen[left] = str(chooser.recipe.trainable).partition(",")[0]
    assert chosen == {100.0: "last(2", 1.5: "last(1", 0.2: "last(1"}


def test_views_are_cached_where_that_buys_passes(data: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """136 images at 10 ms a forward pass: two views take 2.7 s, which pays in 8 s where the step costs hardly more than the pass."""
    made = prepared(data, pretrained)
    monkeypatch.setattr("goodfit.recipe.transfer.defaults.time_evaluation", lambda *_: 0.01)
    views = {}
    for left, cost in ((8.0, 0.0105), (8.0, 0.03), (2.0, 0.0105)):
        monkeypatch.setattr("goodfit.recipe.transfer.defaults.time_training", lambda *_, cost=cost: cost)
        chooser = Chooser(Recipe(source="x", budget=f"{left} s", trainable="last(1)"), load_catalog())
        lengths = budget_lengths(chooser.recipe.but(batch_size=32), 136)
        choose_cached_views(chooser, made.training.state.model, made.data, made.data.facts(lengths), left)
        views[left, cost] = chooser.recipe.cached_views
    assert views == {(8.0, 0.0105): 2, (8.0, 0.03): 0, (2.0, 0.0105): 0}


def test_preparing_leaves_the_statistics_of_the_source(data: Path, pretrained: Path) -> None:
    """Also where the norms of stages that learn would move: what is timed and tried must not."""
    source = load_file(pretrained / "model.safetensors")
    for trainable in ("last(1)", "all"):
        model = prepared(data, pretrained, trainable=trainable, budget="20 s").training.state.model
        for name, x in model.state_dict().items():
            if "running_" in name:
                assert torch.equal(x, source[name]), (trainable, name)


def test_what_the_user_asks_for_stands(data: Path, pretrained: Path) -> None:
    """Lengths in epochs, snapshots, plateau and the head's start beside --from."""
    made = prepared(data, pretrained, trainable="head('2 epochs') | all", augment="ramp(crop(2), end='3 epochs')", budget="6 epochs")
    assert made.training.plan.trainable[1].start == pytest.approx(1 / 3)
    assert "sgdr" in str(prepared(data, pretrained, snapshots=2).recipe.schedule)
    assert "constant" in str(prepared(data, pretrained, plateau="plateau").recipe.schedule)
    assert prepared(data, pretrained, head_init="random").recipe.rates == "backbone(0.1)"
    with pytest.raises(UsageError, match="Expected the classes"):
        prepared(data, pretrained, head_init="source")
    with pytest.raises(UsageError, match="Expected --from beside --head-init probe"):
        prepare(Recipe(data=str(data), head_init="probe", model="convnet(4)", **FAST), SilentReporter())


def test_the_head_of_the_same_classes_is_kept_unless_asked(pretrained: Path) -> None:
    source = load_file(pretrained / "model.safetensors")["head.weight"]
    coarse = Path(str(Recipe.from_toml(pretrained / "recipe.toml").data))
    kept = {
        init: prepared(coarse, pretrained, head_init=init).training.state.model.get_parameter("head.weight") for init in ("auto", "random")
    }
    assert torch.equal(kept["auto"], source) and not torch.equal(kept["random"], source)


def test_a_spelled_default_resumes(data: Path, tmp_path: Path) -> None:
    options = ("--model", "linear", "--size", "8", "--trainable", "all", "--out", tmp_path / "run", "--resume", "auto", "--threads", "1")
    assert goodfit("train", data, *options, "--epochs", "1").code == 0
    done = goodfit("train", data, *options, "--epochs", "2")
    assert done.code == 0, done


def test_few_images_train_the_head_alone(pretrained: Path, tmp_path: Path) -> None:
    few = gratings(tmp_path / "few.npz", (0.2, 1.0, 1.8), 3.0, 12, seed=2)
    made = prepared(few, pretrained)
    assert max(made.data.class_counts()) < 12 and str(made.recipe.trainable).startswith("head(")


def test_what_is_worse_than_its_start() -> None:
    def worse(*history: float, start: Any = True, stop: Any = None) -> bool:
        plan = SimpleNamespace(start=start or None, parts={"stop": stop or None_()})
        return falls_behind(SimpleNamespace(history=list(history)), plan, 100)  # type: ignore[arg-type]

    low = 0.8256  # of the 95 % interval of 90 in 100 (Wilson)
    assert worse(0.8, 0.85, 0.79), "any loss against a pretrained start counts"
    assert not worse(0.8, 0.85, 0.79, start=False) and not worse(0.8, 0.7, 0.8)
    for start in (True, False):
        assert worse(0.5, 0.9, low - 0.001, start=start) and not worse(0.5, 0.9, low + 0.001, start=start)
        assert worse(0.5, 0.9, 0.89, start=start, stop=Patience(2)), "a stop rule asks for the best"
        assert not worse(0.5, 0.9, 0.9, start=start, stop=Patience(2))
    assert worse(1.0, 0.9) and not worse(1.0, 0.97, start=False) and not worse()


def test_a_loss_that_rises_without_diverging_goes_back(data: Path, pretrained: Path) -> None:
    training = prepared(data, pretrained).training
    state, plan = training.state, training.plan
    with torch.no_grad():
        next(state.model.parameters()).add_(1)
    events = [event for loss in [0.5] * 5 + [5.0] * 5 for event in rescue_if_worse(state, plan, torch.tensor(loss))]
    assert len(events) == 1 and state.rescue_factor == RATE_FACTOR
    assert all(torch.equal(x, plan.start[name]) for name, x in state.model.state_dict().items())  # type: ignore[index]
    assert not any(rescue_if_worse(state, plan, torch.tensor(9.0)) for _ in range(2 * WINDOW)), "once"


def test_it_goes_back_to_the_best_weights_on_the_way(data: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they do not read, to the start."""
    found: dict[str, Any] = {}

    def at_the_end(state: Any, plan: Any, loss: torch.Tensor) -> list[str]:
        if plan.t(state) > 0.95 and not found:
            events = go_back(state, plan, Diverged("Told to"))
            found.update(best=state.best["step"], weights={name: x.clone() for name, x in state.model.state_dict().items()})
            found["start"] = plan.start
            found["unread"] = best_weights(plan, Checkpoints(tmp_path / "none"), state)
            return events
        return []

    monkeypatch.setattr("goodfit.training.loop.rescue_if_worse", at_the_end)
    run = package.train(data, Recipe(source=str(pretrained), budget="3 epochs", **FAST), out=tmp_path / "run")
    assert run is not None and found["best"] > 0, "it had learned something"
    saved = Checkpoints(Run(tmp_path / "run").checkpoints).weights(found["best"])
    assert all(torch.equal(x, saved[name]) for name, x in found["weights"].items())
    assert not all(torch.equal(x, found["start"][name]) for name, x in found["weights"].items())
    assert found["unread"] is found["start"]


def test_the_rate_is_tried_as_the_schedule_begins(data: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def recording(model: nn.Module, data: Any, parts: Any, optimizer_at: Any, rate: float, warms_up: bool) -> tuple[float, bool]:
        asked.append(warms_up)
        return rate, True

    monkeypatch.setattr("goodfit.recipe.transfer.defaults.find_safe_rate", recording)
    for changes in ({}, {"schedule": "constant"}, {"snapshots": 2}):
        prepared(data, pretrained, **changes)
    assert asked == [True, False, False]


def test_a_frozen_net_has_cached_views_by_default(data: Path, pretrained: Path) -> None:
    assert prepared(data, pretrained, trainable="head", budget="10 epochs").recipe.cached_views == 4
    assert prepared(data, pretrained, trainable="all", budget="10 epochs").recipe.cached_views == 0
