"""Losses and penalties: laws over the whole catalog, and the lecture's worked examples."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.contracts import Loss
from goodfit.core.errors import UsageError
from goodfit.core.facts import Facts
from goodfit.core.progress import Length, Lengths
from goodfit.losses.binary import Binary
from goodfit.losses.class_weights import WeightedLoss, compute_class_weights, with_class_weights
from goodfit.losses.kl import Kl
from goodfit.losses.mse import Mse
from goodfit.losses.penalty import L1, L2, ElasticNet, L2Sp, StartPenalty
from goodfit.losses.softmax import Softmax
from goodfit.losses.svm import Svm
from goodfit.optim.first_order import Sgd
from goodfit.optim.groups import make_optimizer
from goodfit.training.gradient import gradient, piece_slices
from goodfit.training.state import Plan, State
from goodfit.training.step import Objective

CATALOG = Catalog(["goodfit.losses"])
OF_CLASSES = {name: cls for name, cls in CATALOG.kinds["loss"].items() if "classes" in cls.tasks}
LOSSES = [pytest.param(cls(), id=name) for name, cls in OF_CLASSES.items()] + [pytest.param(Svm(0.5, True), id="svm squared")]
SLIDE = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]], dtype=torch.float64)  # cat, car, frog
RIGHT = torch.eye(3, dtype=torch.float64)


def scores(rows: int = 5, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def soft(rows: int = 5, classes: int = 4) -> Tensor:
    return scores(rows, classes, seed=1).softmax(dim=1)


# ---- laws ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_one_number_per_example(loss: Loss) -> None:
    together = loss(scores(), soft())
    assert together.shape == (5,)
    alone = torch.cat([loss(s[None], t[None]) for s, t in zip(scores(), soft(), strict=True)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_right(loss: Loss) -> None:
    assert torch.autograd.gradcheck(lambda s: loss(s, soft()), scores().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda s: loss(s, soft()), scores().requires_grad_())


@pytest.mark.item("S036")
@pytest.mark.parametrize("loss", LOSSES)
def test_tends_to_zero_as_the_aim_is_met_and_grows_with_distance(loss: Loss) -> None:
    targets = one_hot(torch.arange(4), 4).double()
    s = scores(4).requires_grad_()
    far = loss(s, targets).sum().item()
    optimizer = torch.optim.LBFGS([s], max_iter=500, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(s, targets).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)
    met = s.detach()
    assert far > 1
    assert 0 <= loss(met, targets).max() < 1e-6
    values = [loss(met + x * (scores(4) - met), targets).sum().item() for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == sorted(values) and values[-1] > values[0]
    assert torch.equal(loss.probabilities(met).argmax(dim=1), torch.arange(4))


@pytest.mark.parametrize("loss", LOSSES)
def test_soft_targets_weigh_the_hard_losses(loss: Loss) -> None:
    s, t = scores(), soft()
    hard = torch.stack([loss(s, one_hot(torch.full((5,), k), 4)) for k in range(4)], dim=1)
    gap = loss(s, t) - (t * hard).sum(dim=1)
    # Every loss is linear in the targets but for a term that no score can change: mse their variance, kl their entropy.
    variance = (t * (1 - t)).mean(dim=1) if isinstance(loss, Mse) else torch.zeros(5)
    variance = -(t * t.log()).sum(dim=1) if isinstance(loss, Kl) else variance
    torch.testing.assert_close(gap, -variance.double())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_probabilities_sum_to_one_and_keep_the_order(loss: Loss, scale: float) -> None:
    p = loss.probabilities(scores().float() * scale - scale)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(5))
    assert (p >= 0).all()
    top = scores().argmax(dim=1, keepdim=True)
    torch.testing.assert_close(p.gather(1, top)[:, 0], p.amax(dim=1))  # sigmoids far out may tie with it, none may pass it


@pytest.mark.parametrize("loss", LOSSES)
def test_finite_and_wide_under_autocast(loss: Loss) -> None:
    value = loss(scores().bfloat16() * 50, soft().float())
    assert value.dtype == torch.float32
    assert value.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_scores_are_not_hidden(loss: Loss) -> None:
    s = scores()
    s[2, 1] = math.nan
    assert loss(s, soft()).isnan().tolist() == [False, False, True, False, False]


# ---- the lecture -----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S018", "S019", "S020", "S021")
def test_svm_of_the_slide() -> None:
    values = Svm()(SLIDE, RIGHT)
    np.testing.assert_allclose(values, [2.9, 0.0, 12.9], atol=1e-12)
    assert values[1] == 0
    assert values.mean().item() == pytest.approx(5.2666666667)  # the slide prints 5.26, cut off rather than rounded
    torchs = nn.MultiMarginLoss()(SLIDE, torch.arange(3))  # divides by the number of classes
    assert torchs.item() == pytest.approx(1.7555555556)


@pytest.mark.item("S022")
def test_svm_is_zero_once_the_right_class_leads_by_delta() -> None:
    s = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    loss = Svm(1.0)(s, torch.tensor([[1.0, 0.0, 0.0]]))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None
    assert loss.item() == 0 and not s.grad.any()
    assert Svm(1.01)(s.detach(), torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("squared", [False, True])
def test_svm_equals_all_margins_for_many_classes(squared: bool) -> None:
    s, t = scores(7, 300, seed=3), soft(7, 300)
    margins = np.maximum(0, s.numpy()[:, None, :] - s.numpy()[:, :, None] + 0.7)  # [B, right class, other class]
    margins[:, np.arange(300), np.arange(300)] = 0
    expected = (t.numpy() * (margins ** (2 if squared else 1)).sum(axis=2)).sum(axis=1)
    np.testing.assert_allclose(Svm(0.7, squared)(s, t), expected, rtol=1e-10)
    np.testing.assert_allclose(Svm(0.7, squared)(s.float(), t.float()), expected, rtol=1e-4)


@pytest.mark.item("S028", "S029")
def test_softmax_of_the_slide() -> None:
    p = Softmax().probabilities(SLIDE[:1])[0]
    np.testing.assert_allclose(p, [0.12998, 0.86905, 0.00097], atol=5e-6)
    loss = Softmax()(SLIDE[:1], RIGHT[:1]).item()
    assert loss == pytest.approx(2.040355, abs=1e-6)
    assert loss / math.log(10) == pytest.approx(0.886115, abs=1e-6)  # the slide's 0.89 is to base 10


@pytest.mark.item("S030")
def test_softmax_is_finite_for_a_hopeless_class() -> None:
    gap = -math.log(1e-30)
    value = Softmax()(torch.tensor([[0.0, gap]]), torch.tensor([[1.0, 0.0]])).item()
    assert value == pytest.approx(gap, rel=1e-6)
    assert Softmax()(torch.tensor([[2 * gap, 0.0]]), torch.tensor([[1.0, 0.0]])).item() == 0


@pytest.mark.item("S031")
def test_softmax_ratio_is_the_exponential_of_the_gap() -> None:
    p = Softmax().probabilities(SLIDE)
    np.testing.assert_allclose(p[:, 0] / p[:, 1], np.exp(SLIDE.numpy()[:, 0] - SLIDE.numpy()[:, 1]))


@pytest.mark.item("S033")
def test_softmax_and_mse_equal_their_formulas() -> None:
    s, t = scores().numpy(), soft().numpy()
    p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Softmax()(scores(), soft()), -(t * np.log(p)).sum(axis=1))
    e = np.exp(SLIDE.numpy())
    np.testing.assert_allclose(Softmax()(SLIDE, RIGHT), -np.log(np.diag(e) / e.sum(axis=1)))
    np.testing.assert_allclose(Mse()(scores(), soft()), ((s - t) ** 2).mean(axis=1))


@pytest.mark.item("S035")
def test_two_class_softmax_is_the_sigmoid_of_the_difference() -> None:
    s = scores(6, 2)
    torch.testing.assert_close(Softmax().probabilities(s)[:, 0], torch.sigmoid(s[:, 0] - s[:, 1]))


def test_binary_equals_its_formula() -> None:
    s, t = scores().numpy(), soft().numpy()
    q = 1 / (1 + np.exp(-s))
    np.testing.assert_allclose(Binary()(scores(), soft()), -(t * np.log(q) + (1 - t) * np.log(1 - q)).sum(axis=1))
    np.testing.assert_allclose(Binary().probabilities(scores()), q / q.sum(axis=1, keepdims=True))


def test_mse_probabilities_are_the_nearest_distribution() -> None:
    p = Mse().probabilities(torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, -3.0], [0.2, 0.3, 0.5], [9.0, 9.0, -9.0]]))
    np.testing.assert_allclose(p, [[1, 0, 0], [0.55, 0.45, 0], [0.2, 0.3, 0.5], [0.5, 0.5, 0]], atol=1e-6)


# ---- penalties -------------------------------------------------------------------------------------------------------------------


def with_weights(values: list[float]) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1), nn.LayerNorm((1, 1)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([values]))
        model[0].bias.fill_(7.0)  # type: ignore[operator, union-attr]
    return model


@pytest.mark.item("S024", "S025")
def test_penalties_of_the_slide() -> None:
    first, second = [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]
    assert sum(first) == sum(second) == 1  # both give the same score for an image of ones
    assert [L2(1.0)(with_weights(w)).item() for w in (first, second)] == [1.0, 0.25]
    assert [L1(1.0)(with_weights(w)).item() for w in (first, second)] == [1.0, 1.0]
    assert [ElasticNet(1.0, beta=3.0)(with_weights(w)).item() for w in (first, second)] == [3.0 + 1, 3.0 / 4 + 1]


@pytest.mark.item("S023")
def test_gradient_of_l2_is_twice_strength_times_the_weight() -> None:
    model = with_weights([1.0, -2.0, 0.5, 0.0])
    L2(0.1)(model).backward()  # type: ignore[no-untyped-call]
    assert isinstance(model[0], nn.Linear) and model[0].weight.grad is not None
    torch.testing.assert_close(model[0].weight.grad, 0.2 * model[0].weight.detach())
    assert model[0].bias.grad is None and model[1].weight.grad is None and model[2].weight.grad is None


def penalty_of(name: str, start: dict[str, Tensor], layers: Any = ()) -> Any:
    """The penalty of a name, with the weights of its start where it needs them."""
    cls: Any = CATALOG.kinds["penalty"][name]
    part = cls(layers=layers)
    return part.with_start(start) if isinstance(part, StartPenalty) else part


@pytest.mark.parametrize("name", CATALOG.kinds["penalty"])
def test_penalty_is_a_scalar_that_counts_only_weights(name: str) -> None:
    penalty = penalty_of(name, {"0.weight": torch.zeros(1, 4), "0.bias": torch.zeros(1)})
    assert penalty(with_weights([0.0] * 4)).item() == 0
    value = penalty(with_weights([1.0] * 4))
    assert value.shape == () and value.item() > 0


def three_layers() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3))
    model.add_module("stage1", nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    model.add_module("stage10", nn.Conv2d(4, 4, 1))
    model.add_module("head", nn.Linear(4, 2))
    return model.double()


@pytest.mark.parametrize("name", CATALOG.kinds["penalty"])
def test_penalties_on_chosen_layers(name: str) -> None:
    model = three_layers()
    cls = functools.partial(penalty_of, name, {"stem.weight": torch.ones(4, 3, 3, 3).double()})
    alone = {layer: cls(layers=layer)(model).item() for layer in ("stem", "stage1", "stage10", "head")}
    assert cls()(model).item() == pytest.approx(sum(alone.values()))
    assert cls(layers=("stem", "head"))(model).item() == pytest.approx(alone["stem"] + alone["head"])
    cls(layers="stage1")(model).backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["stage1.0.weight"], "stage10 is another layer"
    with pytest.raises(UsageError, match=r'received "stage2"\. There is: stem\.weight, stage1\.0\.weight'):
        cls(layers=("head", "stage2"))(model)
    with pytest.raises(UsageError, match=r'received "stage1\.1"'):
        cls(layers="stage1.1")(model)


def test_l2_sp_is_the_papers_formula_in_float64() -> None:
    """alpha / 2 |w - w0|^2 over what was pretrained, beta / 2 |w|^2 over what was not; no biases, no norms; and its gradient."""
    model, alpha, beta = three_layers(), 0.3, 0.7
    start = {name: torch.full_like(x, 0.25) for name, x in model.state_dict().items() if not name.startswith("head.")}
    penalty = L2Sp(alpha, beta=beta).with_start(start)
    value = penalty(model)
    value.backward()
    expected, weights = 0.0, {name: x.detach().numpy() for name, x in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if name.endswith(".bias") or name == "stage1.1.weight":
            assert parameter.grad is None, name
            continue
        factor, origin = (beta, 0.0) if name == "head.weight" else (alpha, 0.25)
        expected += factor / 2 * ((weights[name] - origin) ** 2).sum()
        assert parameter.grad is not None
        assert np.allclose(parameter.grad.numpy(), factor * (weights[name] - origin), rtol=1e-13), name
    assert value.item() == pytest.approx(expected, rel=1e-13)
    assert penalty == L2Sp(alpha, beta=beta) and hash(penalty) == hash(L2Sp(alpha, beta=beta)), "the start is no setting"


def test_l2_sp_alone_leads_back_to_the_start() -> None:
    model = three_layers()
    start = {name: x.clone() for name, x in model.state_dict().items() if not name.startswith("head.")}
    penalty, before = L2Sp(1.0, beta=0.5).with_start(start), {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        penalty(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, p in model.named_parameters():
        if name == "head.weight":
            assert p.detach().abs().max() < 1e-6
        else:
            goal = before[name] if p.ndim == 4 else before[name] + 1
            torch.testing.assert_close(p.detach(), goal)


def test_l2_sp_without_pretrained_weights() -> None:
    with pytest.raises(UsageError, match=r"^l2_sp: expected pretrained weights .*, received none: give --from, or [^.]*\.$"):
        L2Sp()(three_layers())


@pytest.mark.item("S023")
def test_l2_is_weight_decay_of_twice_the_strength_for_sgd() -> None:
    """The penalty as a term of the loss and as decay: the same steps for sgd, with momentum too."""
    x, y = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    found = []
    for decay, penalties in ((0.2, ()), (0.0, (L2(0.1),))):
        torch.manual_seed(0)
        model = nn.Linear(4, 3).double()
        optimizer = make_optimizer(model, Sgd(0.1, weight_decay=decay))
        for _ in range(10):
            optimizer.zero_grad()
            gradient(model, iter([Batch(x, one_hot(y, 3).double(), torch.arange(20))]), 20, Softmax(), penalties)
            optimizer.step()
        found.append(model.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


# ---- class weights ---------------------------------------------------------------------------------------------------------------

GIVEN = (0.5, 3.0, 1.0, 2.0)


def facts(counts: tuple[int, ...] = (30, 5, 15, 10)) -> Facts:
    lengths = Lengths(1, 1, Length.read("1 epoch"))
    return Facts(("cat", "dog", "red fox", "owl"), counts, 3, (2, 2), (0.5,) * 3, (0.2,) * 3, ((1.0,) * 3,) * 3, lengths)


def unequal(n: int = 50, soft_share: float = 0.0) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    labels = torch.arange(n) ** 2 % 4
    targets = (1 - soft_share) * one_hot(labels, 4).double() + soft_share * soft(n, 4)
    chance = Chance.of(0, torch.arange(n))
    return nn.Linear(6, 4).double(), Batch(torch.randn(n, 6, dtype=torch.float64), targets, torch.arange(n), chance)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [64, 50, 17])
def test_class_weights_in_pieces_give_torchs_weighted_mean(n: int, number: int) -> None:
    """The sum of weighted losses over the sum of the weights of the whole batch, whatever the pieces; penalties are not weighed."""
    model, batch = unequal(n)
    plain = nn.functional.cross_entropy(model(batch.images), batch.targets.argmax(1), weight=torch.tensor(GIVEN).double())
    (plain + L2(0.1)(model)).backward()  # type: ignore[no-untyped-call]
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    pieces = (batch[rows] for rows in piece_slices(n, number))
    outcome = gradient(model, pieces, n, WeightedLoss(Softmax(), GIVEN), (L2(0.1),))  # type: ignore[arg-type]
    for p, wanted in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, wanted, rtol=1e-12, atol=1e-14)
    assert float(outcome.loss) == pytest.approx(float(plain) + 0.1 * float(model.weight.square().sum()), rel=1e-12)  # type: ignore[union-attr, operator]
    each = Softmax()(model(batch.images), batch.targets)
    torch.testing.assert_close(outcome.losses, each.detach())


@pytest.mark.parametrize("loss", LOSSES)
def test_class_weights_go_with_every_loss_and_soft_targets(loss: Loss) -> None:
    model, batch = unequal(40, 0.3)
    w = batch.targets.numpy() @ np.array(GIVEN)
    each = loss(model(batch.images), batch.targets).detach().numpy()
    made = WeightedLoss(loss, GIVEN)
    outcome = gradient(model, iter([batch]), 40, made)  # type: ignore[arg-type]
    assert float(outcome.loss) == pytest.approx((w * each).sum() / w.sum(), rel=1e-12)
    assert torch.equal(made.probabilities(scores()), loss.probabilities(scores()))
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    gradient(model, iter([batch]), 40, WeightedLoss(loss, tuple(7 * x for x in GIVEN)))  # type: ignore[arg-type]
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, old)  # only ratios count


def test_weighted_hessian_is_that_of_the_weighted_mean() -> None:
    model, batch = unequal(40)

    def plan(loss: Loss) -> Plan:
        lengths = Lengths(1, 40, Length.read("1 epoch"))
        return Plan(loss, lengths, lambda batch, chance, t: batch, lambda images: images, lambda t: 1.0, (L2(0.1),))

    state = State.start(model, torch.optim.SGD(model.parameters(), lr=0.1), pieces=2)
    objective = Objective(state, batch, plan(WeightedLoss(Softmax(), GIVEN)), 0.0)  # type: ignore[arg-type]
    parameters = tuple(p.detach().clone() for p in model.parameters())

    def plain(weight: Tensor, bias: Tensor) -> Tensor:
        logits = batch.images @ weight.T + bias
        weights = torch.tensor(GIVEN).double()
        return nn.functional.cross_entropy(logits, batch.targets.argmax(1), weight=weights) + 0.1 * weight.square().sum()

    blocks = torch.autograd.functional.hessian(plain, parameters)
    sizes = [p.numel() for p in parameters]
    rows = [torch.cat([b.reshape(n, m) for b, m in zip(row, sizes, strict=True)], 1) for row, n in zip(blocks, sizes, strict=True)]
    torch.testing.assert_close(objective.hessian(), torch.cat(rows), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("norm", "value"), [(0.0, 0.003), (0.05, 0.0), (0.05, 0.004)])
def test_the_objective_clips_by_norm_and_then_by_value(norm: float, value: float) -> None:
    model, batch = unequal(40)
    gradient(model, iter([batch]), 40, Softmax())
    parameters = list(model.parameters())
    if norm:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
    expected = [p.grad.clamp(-value, value) if value else p.grad.clone() for p in parameters if p.grad is not None]
    lengths = Lengths(1, 40, Length.read("1 epoch"))
    plan = Plan(Softmax(), lengths, lambda batch, chance, t: batch, lambda images: images, lambda t: 1.0, clip=norm, clip_value=value)
    Objective(State.start(model, torch.optim.SGD(parameters, lr=0.1)), batch, plan, 0.0)()
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(4), [30, 5, 15, 10])
    made = with_class_weights(Softmax(), "balanced", facts())
    assert isinstance(made, WeightedLoss)
    np.testing.assert_allclose(made.weights, compute_class_weight("balanced", classes=np.arange(4), y=labels))


def test_class_weights_by_name_and_number() -> None:
    known, counts = facts().classes, facts().counts
    assert with_class_weights(Softmax(), "none", facts()) == Softmax()
    assert compute_class_weights("red fox = 2, dog=0.5", known, counts) == (1.0, 0.5, 2.0, 1.0)
    assert compute_class_weights((1, 2, 3, 4), known, counts) == (1.0, 2.0, 3.0, 4.0)
    for wrong in ("dog", "dog=0", "dog=-1", "dog=x", "=2"):
        with pytest.raises(UsageError, match="class_weights to be none, balanced"):
            compute_class_weights(wrong, known, counts)
    with pytest.raises(UsageError, match=r'Unknown class "dgo"\. Did you mean "dog"'):
        compute_class_weights("dgo=2", known, counts)
    with pytest.raises(UsageError, match="each of the 4 classes, received 2"):
        compute_class_weights((1.0, 2.0), known, counts)
