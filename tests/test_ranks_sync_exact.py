"""Processes that average their weights once in a while train what as many workers do that are simulated in one process."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import SilentReporter
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.training.freezing import Phase
from goodfit.training.merge import Merger, rank_tree
from goodfit.training.metric_log import MetricLog
from goodfit.training.rescue import rescue_if_worse
from goodfit.training.state import Plan, State
from tests.support.ranks import (
    EXACT,
    exact_results,
    in_double,
)

# ---- what is trained, against workers simulated in one process ----------------------------------------------------------------------

MLP = {"model": "mlp((16,))", "optimizer": "sgd(0.05)"}
# Of 110 images batches of 72 and 38 are 5 and 3 blocks of 16; of 48 the third has one block, which all workers then compute alone.
OFTEN: dict[str, dict[str, str]] = {
    "average": {"sync": "average(3)", **MLP},
    "average, norms, momentum, ema": {"sync": "average(3)", "average": "ema(0.9)"},
    "short batch": {"sync": "average(4)", **MLP, "batch_size": "48"},
    "post-local": {"sync": "post_local(2, start=0.4)", **MLP},
    "elastic": {"sync": "elastic(3, beta=0.7)", "optimizer": "sgd(0.05, momentum=0.9)"},
    "class weights, penalty, clip, pieces": {
        "sync": "average(2)", **MLP, "class_weights": "balanced", "penalty": "l2(0.01)", "clip": "0.5", "pieces": "2",
    },
}  # fmt: skip


def simulate(changes: dict[str, str], workers: int) -> dict[str, Tensor]:
    """The weights after the training of a case, of so many workers in this process, from what the papers say."""
    torch.set_default_dtype(torch.float64)
    try:
        prepared = prepare(Recipe().but_text({**EXACT, **changes}), SilentReporter())
    finally:
        torch.set_default_dtype(torch.float32)
    recipe, training, sync = prepared.recipe, prepared.training, prepared.parts["sync"]
    plan, rate = in_double(training.plan), float(changes.get("optimizer", EXACT["optimizer"])[4:8])
    momentum = 0.9 if "momentum" in changes.get("optimizer", EXACT["optimizer"]) else 0.0
    models = [copy.deepcopy(training.state.model).double().train() for _ in range(workers)]
    optimizers = [torch.optim.SGD(model.parameters(), rate, momentum) for model in models]
    center, averages = copy.deepcopy(models[0]), [copy.deepcopy(model) for model in models]
    total = plan.lengths.total_steps
    stream = training.loader.stream(0)
    for step in range(total):
        t, batch = step / total, next(stream)
        apart = not hasattr(sync, "start") or t >= sync.start or not changes["sync"].startswith("post")
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * t)) / 2
            optimizer.zero_grad()
            lines = rows_of(len(batch), int(recipe.pieces), rank, workers) if apart else [slice(0, len(batch))]
            mean_gradient(model, [plan.prepare(batch[rows], t) for rows in lines], changes, plan)
            optimizer.step()
        if apart and ((step + 1) % sync.every == 0 or step + 1 == total):
            merge(models, center, changes["sync"])
        for model, average in zip(models, averages, strict=True):
            keep = min(0.9, (1 + step) / (10 + step))
            for a, x in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                a.copy_(keep * a + (1 - keep) * x)
    kept = averages if "average" in changes else [center] if "elastic" in changes["sync"] else models
    return {name: sum(x.state_dict()[name] for x in kept) / len(kept) for name in kept[0].state_dict()}  # type: ignore[misc]


def rows_of(n: int, pieces: int, rank: int, workers: int) -> list[slice]:
    """The rows of a batch of n that a worker computes: of each piece its whole blocks of 16, or all where there are too few."""
    length = math.ceil(math.ceil(n / 16) / pieces) * 16
    lines = []
    for start in range(0, n, length):
        end = min(n, start + length)
        blocks = math.ceil((end - start) / 16)
        first, last = (start + 16 * (k * blocks // workers) for k in (rank, rank + 1))
        lines.append(slice(first, min(last, end)) if blocks >= workers else slice(start, end))
    return lines


def mean_gradient(model: nn.Module, pieces: list[Batch], changes: dict[str, str], plan: Plan) -> None:
    """Fill `.grad` with that of the mean cross-entropy over the images of one worker, with what the case adds."""
    loss, weight = torch.zeros(()), 0.0
    for piece in pieces:
        losses = -(piece.targets * model(piece.images).log_softmax(1)).sum(1)
        weights = plan.loss.weigh(piece.targets)
        weights = torch.ones_like(losses) if weights is None else weights
        loss, weight = loss + (weights * losses).sum(), weight + float(weights.sum())
    loss = loss / weight
    if "penalty" in changes:
        loss = loss + 0.01 * sum(p.square().sum() for p in model.parameters() if p.dim() > 1)
    loss.backward()  # type: ignore[no-untyped-call]
    if "clip" in changes:
        nn.utils.clip_grad_norm_(model.parameters(), float(changes["clip"]))


@torch.no_grad()
def merge(models: list[nn.Module], center: nn.Module, sync: str) -> None:
    """Average the weights and statistics, or pull workers and center to each other by the formulas of Zhang et al. 2015."""
    beta, workers = 0.7, len(models)
    for name, c in center.state_dict().items():
        weights = [model.state_dict()[name] for model in models]
        if not c.is_floating_point():
            c.copy_(weights[0])
            continue
        before, old = c.clone(), [x.clone() for x in weights]
        if sync.startswith("elastic"):
            for x, y in zip(weights, old, strict=True):
                x.copy_(y - beta / workers * (y - before))
            c.copy_(before + beta / workers * sum(y - before for y in old))
        else:
            for x in weights:
                x.copy_(sum(old) / workers)


def assert_as_simulated(size: int, folder: Path, cases: dict[str, dict[str, str]]) -> None:
    results = exact_results(size, folder, cases)
    for name, changes in cases.items():
        expected = simulate(changes, size)
        if "average" in changes:  # whose statistics are computed anew
            expected = {key: x for key, x in expected.items() if "running" not in key and "tracked" not in key}
        for rank in range(size):
            unequal = [key for key, x in results[0][name].items() if key != "losses" and not torch.equal(x, results[rank][name][key])]
            assert not unequal, (name, rank, unequal)
        far = {key: float((results[0][name][key] - x).abs().max() / x.abs().max().clamp(min=0.01)) for key, x in expected.items()}
        assert max(far.values()) < 1e-9, (name, far)


@pytest.mark.item("S096")
@pytest.mark.thorough
def test_two_ranks_train_as_two_simulated_workers(tmp_path: Path) -> None:
    assert_as_simulated(2, tmp_path / "two", OFTEN)


@pytest.mark.slow
@pytest.mark.item("S096")
@pytest.mark.parametrize("size", [3, 4])
def test_more_ranks_train_as_so_many_simulated_workers(size: int, tmp_path: Path) -> None:
    assert_as_simulated(size, tmp_path / "many", OFTEN)


@pytest.mark.item("S096")
@pytest.mark.thorough
def test_averaging_after_each_step_of_sgd_is_averaging_gradients(tmp_path: Path) -> None:
    """With equal shares: of 32 images each rank has a block."""
    case = {**MLP, "batch_size": "32", "budget": "3 steps"}
    cases = {"weights": {**case, "sync": "average(1)"}, "gradients": case, "seldom": {**case, "sync": "average(3)"}}
    results = exact_results(2, tmp_path / "two", cases)[0]
    weights, gradients, seldom = ({key: x for key, x in results[name].items() if key != "losses"} for name in cases)
    assert max(float((weights[key] - x).abs().max()) for key, x in gradients.items()) < 1e-12
    assert max(float((seldom[key] - x).abs().max()) for key, x in gradients.items()) > 1e-6, "else the test sees nothing"


# ---- the merging itself ---------------------------------------------------------------------------------------------------------------


def test_frozen_weights_keep_their_bits() -> None:
    """Of three equal numbers the sum by three is another number now and then."""
    prepared = prepare(Recipe().but_text({**EXACT, "model": "convnet(4)", "sync": "average(4)"}), SilentReporter())
    state, names = prepared.training.state, [name for name, _ in prepared.training.state.model.named_parameters()]
    frozen = {*names[:4], "stem.norm"}
    phase = Phase(0.0, frozenset(names) - frozen, frozenset({"stem.norm"}))
    plan = dataclasses.replace(prepared.training.plan, ranks=Ranks(0, 3), trainable=(phase,))
    state.model.stem.norm.running_mean.normal_()
    before = {name: x.clone() for name, x in state.model.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.all_reduce", lambda flat: flat.mul_(3))
        merger, state.step = Merger(state, plan), 4
        merger.merge_if_due(0.4, MetricLog())
    changed = {name for name, x in state.model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed and not changed & {*frozen, "stem.norm.running_mean", "stem.norm.running_var"}


def test_tied_weights_are_sent_and_pulled_once() -> None:
    prepared = prepare(Recipe().but_text({**EXACT, "model": "convnet(4)", "sync": "elastic(4)"}), SilentReporter())
    plan = dataclasses.replace(prepared.training.plan, ranks=Ranks(0, 2))
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    state = State(model, torch.optim.SGD(model.parameters(), 0.1), step=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.all_reduce", lambda flat: flat.mul_(2))
        merger, start = Merger(state, plan), model[0].weight.detach().clone()
        model[0].weight.data.add_(1)
        merger.merge_if_due(0.4, MetricLog())
    torch.testing.assert_close(model[0].weight.detach(), start + 1 - 0.9 / 2)
    assert state.bytes_sent == 4 * 9


def test_each_rank_goes_on_from_its_own_part_of_a_checkpoint() -> None:
    """Of two ranks; three find no parts of their own, and go on from what all have in common."""
    prepared = prepare(Recipe().but_text({**EXACT, "sync": "average(4)", **MLP}), SilentReporter())
    state, trees = prepared.training.state, []
    for losses in ([0.5], [0.25, 0.125]):
        nn.init.normal_(state.model.head.weight)
        state.recent_losses = losses
        trees.append(rank_tree(state))
    for size, losses, weight in ((2, [0.25, 0.125], trees[1]["model"]["head.weight"]), (3, [], torch.zeros(10, 16))):
        nn.init.zeros_(state.model.head.weight)
        state.rank_trees, state.recent_losses, state.step = trees, [], 2
        Merger(state, dataclasses.replace(prepared.training.plan, ranks=Ranks(1, size)))
        assert (state.recent_losses, state.rank_trees) == (losses, [])
        assert torch.equal(state.model.head.weight, weight)


def test_the_end_merges_once() -> None:
    """Though the end of a budget in minutes may move while the model is evaluated, what was evaluated stays as it is."""
    prepared = prepare(Recipe().but_text({**EXACT, "sync": "elastic(4)", **MLP}), SilentReporter())
    state, weights = prepared.training.state, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.all_reduce", lambda flat: flat.mul_(2))
        patch.setattr(Ranks, "gather", lambda self, value: [value, value])
        merger = Merger(state, dataclasses.replace(prepared.training.plan, ranks=Ranks(0, 2)))
        state.model.head.weight.data.add_(1)
        state.step = 6
        for _ in range(2):
            state.stopped = "enough"
            with merger.merged(MetricLog()):
                state.stopped = ""
            weights.append(state.model.head.weight.detach().clone())
    assert torch.equal(*weights) and state.messages == 1


def test_a_worse_start_is_noticed_by_the_mean_loss_when_ranks_meet() -> None:
    """The losses of this rank alone would go back; with another's of zero they do not, and nothing is compared before step 12."""
    prepared = prepare(Recipe().but_text({**EXACT, "sync": "average(4)", "budget": "20 steps", **MLP}), SilentReporter())
    state, rises = prepared.training.state, [0.5] * 5 + [1.8] * 7
    plan = dataclasses.replace(prepared.training.plan, ranks=Ranks(0, 2), start=dict(state.model.state_dict()))
    lengths, other = [], 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.all_reduce", lambda flat: flat.add_(other * flat))
        patch.setattr("torch.distributed.broadcast", lambda flat, source: None)
        for state.step, loss in enumerate(rises, 1):
            assert rescue_if_worse(state, plan, torch.tensor(loss)) == []
            lengths.append(len(state.recent_losses))
        assert lengths == [*range(1, 12), 0] and state.start_loss == 0.25
        other, state.start_loss, events = 1.0, 0.5, []
        for state.step, loss in enumerate(rises, 1):
            events += rescue_if_worse(state, plan, torch.tensor(loss))
    assert len(events) == 1 and state.rescue_factor < 1
