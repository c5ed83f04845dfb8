"""Scores against scikit-learn, intervals against closed forms and simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor, nn

from goodfit.core.batch import Batch, one_hot
from goodfit.core.class_scores import balanced_interval
from goodfit.core.interval import wilson_interval
from goodfit.data.preprocess import Preprocess
from goodfit.losses.softmax import Softmax
from goodfit.training.evaluate import Outputs, collect_outputs, compute_scores


def answers(n: int, k: int, seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, n, p=rng.dirichlet(np.ones(k) * 2))
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    tensors = torch.from_numpy(labels), torch.from_numpy(logits).float()
    return Outputs(torch.arange(n), tensors[0], tensors[1], torch.from_numpy(rng.gamma(1.0, size=n)).float())


def names(k: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(k))


@pytest.mark.parametrize(("n", "k"), [(500, 10), (60, 3), (37, 2), (2000, 100)])
def test_scores_equal_scikit_learns(n: int, k: int) -> None:
    given = answers(n, k)
    found = compute_scores(given, names(k))
    labels, logits = given.labels.numpy(), given.logits.numpy()
    guesses = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guesses), abs=1e-12)
    assert given.accuracy == found["accuracy"]
    assert np.array_equal(found["confusion"], metrics.confusion_matrix(labels, guesses, labels=range(k)))
    present = sorted(set(labels))
    recalls = metrics.recall_score(labels, guesses, labels=present, average=None)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)
    if len(present) == k:
        assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, guesses), abs=1e-12)
        top = metrics.top_k_accuracy_score(labels, logits, k=min(5, k - 1), labels=range(k)) if k > 5 else 1.0
        assert found["top5"] == pytest.approx(top, abs=1e-12)
    assert found["loss"] == pytest.approx(given.losses.double().mean().item(), abs=1e-12)
    assert found["images"] == n
    assert [c["name"] for c in found["classes"]] == list(names(k))
    assert [c["images"] for c in found["classes"]] == np.bincount(labels, minlength=k).tolist()
    assert [c["accuracy"] for c in found["classes"] if c["images"]] == pytest.approx(recalls.tolist())


def test_a_class_without_images_counts_for_nothing() -> None:
    given = Outputs(torch.arange(4), torch.tensor([0, 0, 2, 2]), torch.eye(3)[[0, 0, 1, 2]], torch.zeros(4))
    found = compute_scores(given, names(3))
    assert found["classes"][1] == {"name": "class 1", "images": 0, "accuracy": None, "recall": None, "precision": 0.0, "f1": 0.0}
    assert found["balanced_accuracy"] == 0.75
    assert found["top5"] == 1.0
    assert found["balanced_interval"][0] < 0.75 < found["balanced_interval"][1]


# ---- intervals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (50, 100, 0.40383, 0.59617), (1, 10, 0.01788, 0.40415), (15, 148, 0.06243, 0.16053)],
)
def test_wilson_known_values(right: int, n: int, low: float, high: float) -> None:
    """As printed in Newcombe 1998 and by statsmodels' proportion_confint(method="wilson")."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (3, 7), (98, 100), (9850, 10_000), (7, 10_000)])
def test_wilson_solves_its_equation(right: int, n: int) -> None:
    """Its ends are where the share lies exactly 1.96 standard errors away, and as SciPy has them."""
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1
    ends = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((ends.low, ends.high), abs=1e-12)
    for end in (low, high):
        if 0 < end < 1:
            assert abs(right / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959963984540054)


def test_the_balanced_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    for images, truth in (([200, 50, 20], [0.9, 0.7, 0.8]), ([40] * 8, [0.95] * 8), ([10, 10], [0.5, 0.9])):
        right = rng.binomial(images, truth, (300, len(images)))
        ends = [balanced_interval(r, np.array(images)) for r in right]
        covered = np.mean([low <= np.mean(truth) <= high for low, high in ends])
        assert 0.88 <= covered <= 0.995, (images, covered)
        assert all(low < high for low, high in ends)


def test_the_balanced_interval_of_one_class_is_near_wilsons() -> None:
    found = balanced_interval(np.array([160]), np.array([200]))
    assert found == pytest.approx(wilson_interval(160, 200), abs=0.01)
    assert found == balanced_interval(np.array([160]), np.array([200])), "the same each time"


# ---- asking the model -------------------------------------------------------------------------------------------------------------


def batches(sizes: tuple[int, ...], k: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made, start = [], 0
    for n in sizes:
        images = torch.randint(0, 256, (n, 3, 5, 5), generator=generator, dtype=torch.uint8)
        made.append(Batch(images, one_hot(torch.randint(0, k, (n,), generator=generator), k), torch.arange(start, start + n)))
        start += n
    return made


def normalize(images: Tensor) -> Tensor:
    return images.float() / 255 - 0.5


def model(k: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(75), nn.Linear(75, k))


@pytest.mark.item("S012")
def test_pixels_are_numbers_from_0_to_1_before_the_mean_is_taken_off() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 32, 32, 3).permute(0, 3, 1, 2)
    seen = Preprocess((32, 32), (32, 32)).normalize(images)
    assert seen.shape == (1, 3, 32, 32)
    assert seen.dtype == torch.float32
    assert torch.allclose(seen.double(), images.double() / 255, atol=1e-7)
    assert (float(seen.min()), float(seen.max())) == (0.0, 1.0)


@pytest.mark.item("S006")
@pytest.mark.parametrize("training", [True, False])
def test_evaluate_asks_without_touching_the_model(training: bool) -> None:
    net = model().train(training)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = collect_outputs(net, batches((7, 5)), Softmax(), normalize, torch.device("cpu"))
    assert net.training is training
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert not any(p.grad is not None for p in net.parameters())
    again = collect_outputs(net, batches((7, 5)), Softmax(), normalize, torch.device("cpu"))
    assert torch.equal(found.logits, again.logits), "no dropout"
    assert not found.logits.requires_grad
    whole = batches((7, 5))
    images = torch.cat([b.images for b in whole])
    expected = net.eval()(normalize(images))
    assert torch.allclose(found.logits, expected, atol=1e-6)
    labels = torch.cat([b.targets for b in whole]).argmax(1)
    assert torch.equal(found.labels, labels)
    assert torch.allclose(found.losses, nn.functional.cross_entropy(expected, labels, reduction="none"), atol=1e-6)
    assert found.ids.tolist() == list(range(12))


def test_the_training_flag_comes_back_after_an_error() -> None:
    net = model().train()

    def broken() -> Any:
        yield batches((4,))[0]
        raise KeyError

    with pytest.raises(KeyError):
        collect_outputs(net, broken(), Softmax(), normalize, torch.device("cpu"))
    assert net.training


def test_the_main_head_answers_and_bf16_gives_fp32_logits() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x: Tensor) -> Any:
            return self.net(x), [(torch.full((len(x), 4), 9.0), 0.3)]

    two = Two()
    exact = collect_outputs(two, batches((6,)), Softmax(), normalize, torch.device("cpu"))
    rough = collect_outputs(two, batches((6,)), Softmax(), normalize, torch.device("cpu"), "bf16")
    assert exact.logits.shape == (6, 4)
    assert rough.logits.dtype == torch.float32
    assert 0 < (exact.logits - rough.logits).abs().max() < 0.05
