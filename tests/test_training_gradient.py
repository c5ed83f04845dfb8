"""The gradient of a logical batch: whole or in pieces, with penalties and clipping; short memory; numbers that stop being finite."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.augment.crop import Crop
from goodfit.augment.flip import Flip
from goodfit.augment.mix import Mixup
from goodfit.augment.pipeline import Pipeline
from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import MIXING_BLOCK, Chance
from goodfit.core.contracts import Augment, Loss
from goodfit.core.errors import Diverged, GoodfitError
from goodfit.core.progress import Length, Lengths
from goodfit.losses.penalty import L1, L2
from goodfit.losses.softmax import Softmax
from goodfit.training.gradient import gradient, piece_slices
from goodfit.training.state import Plan, State
from goodfit.training.step import Objective

K, SIDE = 5, 6
FULL_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GB."


def net(*extra: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 24), *extra, nn.Tanh(), nn.Linear(24, K))


def batch(n: int, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(n)
    images = torch.rand(n, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    images = (images * 255).to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)
    targets = torch.rand(n, K, generator=generator).double().softmax(1)
    return Batch(images, targets, torch.arange(n) + 1000)


def pieces(whole: Batch, n: int) -> Iterator[Batch]:
    return (whole[rows] for rows in piece_slices(len(whole), n))


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    assert len(a) == len(b) > 0
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


# ---- gradient() -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [64, 50, 17, 5])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_pieces_give_the_gradient_of_a_plain_loop(n: int, number: int) -> None:
    """In float64, with penalties: pieces of any size, a short last one among them, equal one backward of the mean."""
    model = net().double()
    whole = batch(n)
    penalties = (L2(0.1), L1(0.01))
    plain = F.cross_entropy(model(whole.images), whole.targets)
    weights = [model[1].weight, model[3].weight]
    plain = plain + 0.1 * sum((w**2).sum() for w in weights) + 0.01 * sum(w.abs().sum() for w in weights)
    plain.backward()
    plain = plain.detach()
    expected = grads(model)
    model.zero_grad()
    outcome = gradient(model, pieces(whole, number), n, Softmax(), penalties)
    assert distance(grads(model), expected) < 1e-12
    assert float(outcome.loss) == pytest.approx(float(plain), abs=1e-12)
    assert float(outcome.norm) == pytest.approx(float(torch.cat([g.flatten() for g in expected]).norm()), rel=1e-12)
    each = F.cross_entropy(model(whole.images), whole.targets, reduction="none")
    assert torch.allclose(outcome.losses, each, atol=1e-12)
    assert torch.equal(outcome.correct, model(whole.images).argmax(1) == whole.targets.argmax(1))


@pytest.mark.parametrize("clip", [1e-3, 0.1, 1e6])
def test_clipping_is_torchs(clip: float) -> None:
    model, whole = net().double(), batch(32)
    F.cross_entropy(model(whole.images), whole.targets).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    expected = grads(model)
    model.zero_grad()
    outcome = gradient(model, pieces(whole, 2), 32, Softmax(), clip=clip)
    assert distance(grads(model), expected) < 1e-12
    assert float(outcome.norm) == pytest.approx(float(norm)), "the norm is told as it was before clipping"


def test_the_norm_that_is_clipped_includes_the_penalties() -> None:
    model, whole = net().double(), batch(32)
    outcome = gradient(model, pieces(whole, 1), 32, Softmax(), (L2(10.0),), clip=0.5)
    assert float(torch.cat([g.flatten() for g in grads(model)]).norm()) == pytest.approx(0.5, rel=1e-5)
    assert float(outcome.norm) > 1


class TwoHeads(nn.Module):
    """Gives its logits, and those of an auxiliary head with the weight 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.side = nn.Linear(3 * SIDE * SIDE, 8), nn.Linear(8, K), nn.Linear(8, K)

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, float]]]:
        hidden = self.body(x.flatten(1)).tanh()
        return self.head(hidden), [(self.side(hidden), 0.3)]


def test_auxiliary_heads_count_with_their_weight() -> None:
    torch.manual_seed(0)
    model, whole = TwoHeads().double(), batch(40)
    main, ((side, weight),) = model(whole.images)
    plain = F.cross_entropy(main, whole.targets) + weight * F.cross_entropy(side, whole.targets)
    plain.backward()
    plain = plain.detach()
    expected = grads(model)
    model.zero_grad()
    outcome = gradient(model, pieces(whole, 2), 40, Softmax())
    assert distance(grads(model), expected) < 1e-12
    assert float(outcome.loss) == pytest.approx(float(plain), abs=1e-12)
    assert torch.equal(outcome.correct, main.argmax(1) == whole.targets.argmax(1)), "the main head answers"


def test_under_bf16_the_loss_is_taken_in_fp32() -> None:
    seen: list[torch.dtype] = []

    @dataclasses.dataclass(frozen=True)
    class Looking(Loss):
        """Notes the type of the logits."""

        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            seen.append(logits.dtype)
            return Softmax()(logits, targets)

    model, whole = net(), batch(16, torch.float32)
    exact = gradient(model, pieces(whole, 1), 16, Looking())
    expected = grads(model)
    model.zero_grad()
    rough = gradient(model, pieces(whole, 1), 16, Looking(), precision="bf16")
    assert seen == [torch.float32] * 2
    assert 0 < abs(float(exact.loss - rough.loss)) < 0.02
    assert 0 < distance(grads(model), expected) < 0.02


@pytest.mark.parametrize("n", [1, 15, 16, 17, 80, 128, 130])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 64])
def test_cuts_are_of_whole_blocks(n: int, number: int) -> None:
    rows = piece_slices(n, number)
    assert torch.cat([torch.arange(n)[r] for r in rows]).tolist() == list(range(n))
    assert all(r.start % MIXING_BLOCK == 0 for r in rows)
    assert len(rows) <= number
    assert len(rows) == 1 or rows[0].stop < n


# ---- Objective --------------------------------------------------------------------------------------------------------------------


def plan(augment: Any = None, **changes: Any) -> Plan:
    parts = (Flip(), Crop(2), Mixup(0.5)) if augment is None else augment
    return Plan(
        loss=Softmax(),
        lengths=Lengths(10, 64, Length.read("1 epoch")),
        augment=Pipeline(parts, (SIDE, SIDE)),
        normalize=lambda images: images.float() / (255 if images.dtype == torch.uint8 else 1) - 0.5,
        schedule=lambda t: 1.0,
        **changes,
    )


def objective(
    model: nn.Module, n: int = 64, pieces: int = 1, step: int = 3, used: Plan | None = None, given: Batch | None = None
) -> Objective:
    state = State.start(model, torch.optim.SGD(model.parameters(), lr=0.1), pieces=pieces)
    state.step = step
    given = (given or batch(n, torch.uint8)).but(chance=Chance.of(0, torch.arange(n), "augment", 0))
    return Objective(state, given, used or plan(), 0.5)


@pytest.mark.parametrize("number", [1, 2])
def test_calls_within_a_step_see_the_same_noise(number: int) -> None:
    goal = objective(net(nn.Dropout(0.5), nn.BatchNorm1d(24)), pieces=number)
    first, expected = float(goal()), grads(goal.state.model)
    outcome, buffers = goal.outcome, [b.clone() for b in goal.state.model.buffers()]
    torch.rand(100)
    assert float(goal()) == first
    assert distance(grads(goal.state.model), expected) == 0
    assert goal.outcome is outcome
    assert all(torch.equal(a, b) for a, b in zip(goal.state.model.buffers(), buffers, strict=True))
    assert int(goal.state.model[3].num_batches_tracked) == number


def test_steps_and_pieces_see_different_noise() -> None:
    losses = {float(objective(net(nn.Dropout(0.5)), step=step)()) for step in (3, 4, 5)}
    assert len(losses) == 3
    masks: list[Tensor] = []
    drop = nn.Dropout(0.5)
    drop.register_forward_hook(lambda module, inputs, out: masks.append(out == 0))
    objective(net(drop), pieces=2)()
    assert not torch.equal(masks[0], masks[1])


def test_a_second_call_is_asked_at_the_weights_of_then_and_leaves_the_first_outcome() -> None:
    """As SAM and line searches do: move, ask again, get another gradient; the step is told by the first."""
    goal = objective(net())
    first = goal()
    numbers = {key: float(x) for key, x in goal.numbers().items()}
    with torch.no_grad():
        for p in goal.state.model.parameters():
            p.add_(0.1)
    second, moved = goal(), grads(goal.state.model)
    assert float(second) != float(first)
    assert {key: float(x) for key, x in goal.numbers().items()} == numbers
    alone = objective(copy.deepcopy(goal.state.model))
    assert float(alone()) == float(second)
    assert distance(grads(alone.state.model), moved) == 0, "gradients of the first call are not added to"


def test_pieces_are_the_same_batch() -> None:
    """Augmented, mixed and normalized in pieces: the same images, and the same gradient to rounding."""
    whole = objective(net(), n=70)
    loss, expected = float(whole()), grads(whole.state.model)
    for number in (2, 4):
        other = objective(net(), n=70, pieces=number)
        assert torch.equal(torch.cat([p.images for p in other.pieces()]), next(whole.pieces()).images)
        assert torch.equal(torch.cat([p.targets for p in other.pieces()]), next(whole.pieces()).targets)
        assert float(other()) == pytest.approx(loss, rel=1e-6)
        assert distance(grads(other.state.model), expected) < 1e-6


class Greedy(nn.Module):
    """Runs out of memory above so many images, as torch says it; `late` only in the backward pass."""

    def __init__(self, most: int, late: bool = False) -> None:
        super().__init__()
        self.most, self.late = most, late

    def forward(self, x: Tensor) -> Tensor:
        if len(x) <= self.most:
            return x
        if not self.late:
            raise RuntimeError(FULL_MEMORY)

        def fail(grad: Tensor) -> Tensor:
            raise RuntimeError(FULL_MEMORY)

        x = x * 1.0
        x.register_hook(fail)
        return x


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("n", "most", "number", "made", "per"), [(64, 16, 4, 4, 16), (64, 40, 2, 2, 32), (80, 32, 4, 3, 32), (70, 16, 8, 5, 16)]
)
def test_out_of_memory_goes_on_in_smaller_pieces(n: int, most: int, number: int, made: int, per: int, late: bool) -> None:
    calm = objective(net(nn.Identity()), n)
    loss, expected = float(calm()), grads(calm.state.model)
    short = objective(net(Greedy(most, late)), n)
    assert float(short()) == pytest.approx(loss, rel=1e-6)
    assert distance(grads(short.state.model), expected) < 1e-6
    assert short.state.pieces == number, "the next steps begin with what fits"
    assert short.events[-1].startswith(
        f"Memory ran out: going on in {made} pieces of up to {per} images, with the same {n} images a step; batch norm"
    )
    assert len(short.events) == {4: 2, 2: 1, 8: 3}[number]
    assert len(list(short.pieces())) == made


def test_out_of_memory_leaves_batch_statistics_as_if_it_had_not_been() -> None:
    """The first tries fail after their batch norm has run; its statistics are those of the pieces that succeeded, once each."""
    short = objective(net(nn.BatchNorm1d(24), Greedy(16)))
    short()
    calm = objective(net(nn.BatchNorm1d(24), nn.Identity()), pieces=4)
    calm()
    for found, expected in zip(short.state.model.buffers(), calm.state.model.buffers(), strict=True):
        assert torch.equal(found, expected)
    assert int(short.state.model[2].num_batches_tracked) == 4


def test_out_of_memory_with_one_block_gives_up_in_a_sentence() -> None:
    goal = objective(net(Greedy(8)))
    with pytest.raises(
        GoodfitError, match=f"Memory ran out even with pieces of {MIXING_BLOCK} images: choose a smaller --model or --size"
    ) as error:
        goal()
    assert error.value.exit_code == 1
    assert "DefaultCPUAllocator" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_error_is_not_taken_for_short_memory() -> None:
    goal = objective(nn.Sequential(nn.Flatten(), nn.Linear(7, K)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        goal()
    assert goal.state.pieces == 1


# ---- numbers that stop being finite -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spoil(Augment):
    """Puts a number into one pixel of some places."""

    places: tuple[int, ...]
    value: float

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        images = batch.images.float() / 255
        for place in self.places:
            images[(chance.places == place).nonzero().flatten(), 0, 2, 3] = self.value
        return batch.but(images=images)


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_spoiled_image_is_named(number: int, value: float) -> None:
    model = net(nn.BatchNorm1d(24))
    before = [b.clone() for b in model.buffers()]
    goal = objective(model, pieces=number, used=plan((Spoil((5, 20), value),)))
    with pytest.raises(Diverged, match=r"diverged at step 3: the input is not finite\. Images: 1005, 1020\. What was saved") as error:
        goal()
    assert error.value.exit_code == 4
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True)), "batch statistics are as before the step"


def test_a_weight_is_named_and_no_image_is_blamed() -> None:
    """The weight has as many rows as the batch images; a row of a weight is no image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 64), nn.Linear(64, K))
    with torch.no_grad():
        model[1].weight[7, 3] = float("inf")
    with pytest.raises(Diverged, match=r"at step 3: the parameter 1\.weight is not finite\. What was saved"):
        objective(model)()


class Explode(nn.Module):
    """Multiplies bright images until they overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x.amax(1, keepdim=True) > 1e3, 1e38, 1.0)


def test_the_first_tensor_is_named_with_its_images() -> None:
    model = nn.Sequential(nn.Flatten(), Explode(), nn.Linear(3 * SIDE * SIDE, K))
    goal = objective(model, used=plan((Spoil((9,), 2e3),)))
    with pytest.raises(Diverged, match=r"the output of 1 is not finite\. Images: 1009\."):
        goal()


class Detour(torch.autograd.Function):
    """Finite forward, not a number backward."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(context: Any, *grad: Tensor) -> Tensor:
        return grad[0] * float("nan")


class Backward(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Detour.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def test_a_gradient_is_named_the_last_layer_first() -> None:
    with pytest.raises(Diverged, match=r"the gradient of 1\.bias is not finite"):
        objective(net(Backward()))()


def test_a_loss_that_is_not_finite_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Log(Loss):
        """Minus infinity where the target's first class is most of it."""

        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            return logits.sum(1) * 0 + torch.where(targets[:, 0] > 0.5, torch.inf, 1.0)

    given = batch(64, torch.uint8)
    given = given.but(targets=one_hot(torch.tensor([1, 2, 0] + [3] * 61), K))
    with pytest.raises(Diverged, match=r"the loss is not finite\. Images: 1002\."):
        objective(net(), used=dataclasses.replace(plan(()), loss=Log()), given=given)()


def test_numbers_of_a_step() -> None:
    goal = objective(net())
    loss = goal()
    outcome = goal.outcome
    assert outcome is not None
    numbers = goal.numbers()
    assert numbers["loss"] == loss
    assert float(numbers["accuracy"]) == pytest.approx(outcome.correct.sum().item() / 64)
    assert numbers["grad_norm"] == outcome.norm
    assert loss == pytest.approx(outcome.losses.mean().item(), rel=1e-6)
