"""The scores of labels and numbers against scikit-learn, thresholds against all there are, intervals against their promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

from goodfit.core.class_scores import score_classes
from goodfit.core.figures import FIGURES
from goodfit.core.fitted_task import deployed_task, plain_task, read_task, temper_task, unfitted_task
from goodfit.core.label_scores import RankedLabels, average_precisions, count_draws, fit_thresholds, score_labels
from goodfit.core.number_scores import fit_half_widths, measure_coverage, score_numbers, summarize_errors
from goodfit.core.predictions import Predictions
from goodfit.core.task import Classes, Labels, Numbers, TaskLoss, task_of
from goodfit.losses.binary import Binary
from goodfit.losses.mse import Mse
from goodfit.losses.regression import L1, Huber
from goodfit.predict import paired
from goodfit.predict.calibration import apply_temperature, measure_calibration
from goodfit.predict.paired import compare_predictions
from goodfit.recipe.transfer import probe


def label_answers(n: int = 300, ties: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 4)) < [0.5, 0.2, 0.05, 0.8]
    answers = 1 / (1 + np.exp(-(2 * truth - 1 + rng.normal(0, 1.5, truth.shape))))
    return (np.round(answers, 1) if ties else answers), truth


def number_answers(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.stack([rng.normal(1e6, 50, n), rng.gamma(2, 3, n)], axis=1)
    return truth + rng.normal(0, [30, 2], truth.shape), truth


# ---- labels ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties: bool) -> None:
    answers, truth = label_answers(ties=ties)
    expected = [average_precision_score(truth[:, k], answers[:, k]) for k in range(4)]
    assert average_precisions(answers, truth) == pytest.approx(expected, abs=1e-12)
    weights = np.random.default_rng(1).integers(0, 4, len(truth)).astype(float)
    weighted = [average_precision_score(truth[:, k], answers[:, k], sample_weight=weights) for k in range(4)]
    assert RankedLabels(answers, truth).average_precisions(weights) == pytest.approx(weighted, abs=1e-12)
    truth[:, 1] = False
    without = RankedLabels(answers, truth).average_precisions(weights * ~truth[:, 2])
    assert np.isnan(without).tolist() == [False, True, True, False], "of labels that no weighed image has"


@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_have_the_highest_f1_of_all(ties: bool) -> None:
    answers, truth = label_answers(ties=ties)
    for k, threshold in enumerate(fit_thresholds(answers, truth)):
        reached = f1_score(truth[:, k], answers[:, k] >= threshold)
        assert reached == pytest.approx(max(f1_score(truth[:, k], answers[:, k] >= x) for x in np.unique(answers[:, k])))
    nothing = fit_thresholds(answers, np.zeros_like(truth))
    assert (nothing == 0.5).all()


def test_label_scores_are_scikit_learns_at_given_thresholds() -> None:
    answers, truth = label_answers()
    thresholds = [0.4, 0.5, 0.3, 0.6]
    found = score_labels(answers, truth, 1.5, "abcd", thresholds)
    chosen = answers >= thresholds
    precision, recall, f1, _ = precision_recall_fscore_support(truth, chosen, average=None)
    assert [row["precision"] for row in found["labels"]] == pytest.approx(precision.tolist())
    assert [row["recall"] for row in found["labels"]] == pytest.approx(recall.tolist())
    assert [row["f1"] for row in found["labels"]] == pytest.approx(f1.tolist())
    assert found["f1"] == pytest.approx(f1.mean())
    assert found["exact_match"] == pytest.approx((chosen == truth).all(1).mean())
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(truth, answers, average="macro"))
    low, high = found["interval"]
    assert low < found["mean_average_precision"] < high and high - low < 0.2


def test_the_interval_of_rare_labels_lies_around_the_figure() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = rng.random((70, 30)) < 0.07
        found = score_labels(rng.random((70, 30)) + 0.3 * truth, truth, 0.0, [str(k) for k in range(30)])
        low, high = found["interval"]
        assert abs((low + high) / 2 - found["mean_average_precision"]) < 0.25 * (high - low)


def test_scores_on_validation_are_not_flattered_by_thresholds_fitted_there() -> None:
    gaps = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth, answers = rng.random((60, 3)) < 0.3, rng.random((60, 3))  # answers that know nothing
        fitted = score_labels(answers, truth, 0.0, "abc")
        flattered = score_labels(answers, truth, 0.0, "abc", [row["threshold"] for row in fitted["labels"]])
        gaps.append(flattered["f1"] - fitted["f1"])
    assert np.mean(gaps) > 0.02


def test_temperature_and_thresholds_choose_the_same_labels() -> None:
    answers, truth = label_answers()
    task = Labels(tuple("abcd")).fit(torch.from_numpy(answers), torch.from_numpy(truth).double())
    cooler = apply_temperature(torch.from_numpy(answers), 1.7, task)
    assert torch.allclose(cooler, torch.sigmoid(torch.logit(torch.from_numpy(answers)) / 1.7))
    tempered = temper_task(task, 1.7)
    assert [tempered.chosen(row) for row in cooler.tolist()] == [task.chosen(row) for row in answers.tolist()]  # type: ignore[attr-defined]
    found = measure_calibration(torch.from_numpy(answers), torch.from_numpy(truth).double(), task=task)
    assert found["log_loss"] == pytest.approx(-np.log(np.where(truth, answers, 1 - answers)).mean())
    assert found["log_loss_after"] <= found["log_loss"] + 1e-3


# ---- numbers -----------------------------------------------------------------------------------------------------------------------


def test_number_scores_are_scikit_learns() -> None:
    answers, truth = number_answers()
    found = score_numbers(answers, truth, 0.5, ("a", "b"))
    for key, expected in (
        ("r2", r2_score(truth, answers, multioutput="raw_values")),
        ("rmse", np.sqrt(mean_squared_error(truth, answers, multioutput="raw_values"))),
        ("mae", mean_absolute_error(truth, answers, multioutput="raw_values")),
    ):
        assert [row[key] for row in found["numbers"]] == pytest.approx(expected.tolist(), rel=1e-9)
        assert found[key] == pytest.approx(expected.mean())
        assert all(row[f"{key}_interval"][0] < row[key] < row[f"{key}_interval"][1] for row in found["numbers"])
    assert len(found["numbers"][0]["points"]) == 200
    constant = score_numbers(np.ones((5, 1)), np.ones((5, 1)), 0.0, ("a",))
    assert constant["r2"] == r2_score(np.ones(5), np.ones(5)) == 1.0


def test_bootstrap_interval_covers_the_error_of_the_population() -> None:
    hits = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        errors = rng.normal(0, 2, (150, 1))
        low, high = score_numbers(errors, np.zeros((150, 1)) + rng.normal(0, 1e-9, (150, 1)), 0.0, ("a",))["numbers"][0]["mae_interval"]
        hits.append(low <= 2 * np.sqrt(2 / np.pi) <= high)
    assert np.mean(hits) > 0.8


def test_half_widths_hold_nine_of_ten_new_numbers() -> None:
    shares = []
    for seed in range(30):
        answers, truth = number_answers(100, seed)
        new_answers, new_truth = number_answers(1000, seed + 1000)
        widths = fit_half_widths(answers, truth)
        shares.append((np.abs(new_answers - new_truth) <= widths).mean())
        assert measure_coverage(new_answers, new_truth, widths)["coverage"] == pytest.approx(
            (np.abs(new_answers - new_truth) <= widths).mean(0)
        )
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_noise_of_r2_is_that_of_its_bootstrap() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 2000)
    answers = truth + rng.normal(0, 0.5, 2000)
    low, _ = score_numbers(answers[:, None], truth[:, None], 0.0, ("a",))["interval"]
    r2 = r2_score(truth, answers)
    figure = FIGURES["numbers"]
    assert figure.is_clearly_below(r2 - 1.5 * (r2 - low), r2, 2000) and not figure.is_clearly_below(r2 - 0.5 * (r2 - low), r2, 2000)


@pytest.mark.item("S193")
def test_losses_of_numbers_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(6, 3, dtype=torch.float64, generator=generator) * 2 for _ in range(2))
    assert torch.allclose(L1()(s, t), torch.nn.L1Loss(reduction="none")(s, t).mean(1))
    assert torch.allclose(Huber(0.7)(s, t), torch.nn.HuberLoss(reduction="none", delta=0.7)(s, t).mean(1))
    assert torch.allclose(Mse()(s, t), torch.nn.MSELoss(reduction="none")(s, t).mean(1))
    for loss in (L1(), Huber(0.7), Mse()):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, t), s.clone().requires_grad_())


# ---- tasks -------------------------------------------------------------------------------------------------------------------------


def test_answers_and_logits_are_inverse() -> None:
    logits = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    numbers = Numbers(("a", "b"), (5.0, -300.0), (2.0, 40.0))
    for task, loss in ((Labels(("a", "b")), Binary()), (numbers, Mse())):
        bound = task.with_loss(loss)
        assert task_of(bound) is task and isinstance(bound, TaskLoss)
        assert torch.allclose(task.to_logits(bound.probabilities(logits)), logits)
    assert torch.allclose(numbers.to_answers(logits).mean(0), logits.mean(0) * torch.tensor([2.0, 40.0]) + torch.tensor([5.0, -300.0]))
    assert Classes(("a", "b")).with_loss(Mse()) == Mse(), "the losses of classes are what they were"


def test_a_task_is_read_back_from_json() -> None:
    numbers = Numbers(("a", "b"), (5.0, -3.0), (2.0, 4.0), (1.0, 1.5))
    assert read_task(plain_task(numbers), ("a", "b")) == numbers
    assert unfitted_task(numbers) == Numbers(("a", "b"), (5.0, -3.0), (2.0, 4.0))
    assert read_task(None, ("a",)) == Classes(("a",)), "runs before there were tasks"


def test_the_lead_of_labels_and_numbers_is_that_of_their_figures() -> None:
    names = np.array([str(k) for k in range(300)])
    answers, truth = label_answers()
    worse = np.clip(answers + np.random.default_rng(5).normal(0, 0.4, answers.shape), 0, 1)
    one, other = (Predictions(names, truth.astype(float), x.astype(np.float32), tuple("abcd"), "labels") for x in (answers, worse))
    found = compare_predictions([one], [other])
    lead = average_precision_score(truth, one.probabilities) - average_precision_score(truth, other.probabilities)
    assert found.difference == pytest.approx(lead, abs=1e-9) and found.interval[0] < lead < found.interval[1]
    assert compare_predictions([one], [one]).interval == (0, 0)


def test_the_lead_is_drawn_in_pieces_and_less_often_of_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [count_draws(values) for values in (1, 200_000, 10**7)] == [1000, 300, 100]
    shapes: list[tuple[int, ...]] = []

    def watched(answers: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        shapes.append(weights.shape)
        return summarize_errors(answers, truth, weights)

    answers, truth = number_answers()
    names = np.array([f"{k:03d}" for k in range(len(truth))])
    noisier = truth + 2 * (answers - truth)
    one, other = (Predictions(names, truth, x, ("a", "b"), "numbers") for x in (answers, noisier))
    monkeypatch.setattr(paired, "summarize_errors", watched)
    monkeypatch.setattr(paired, "FIGURES_AT_ONCE", 70)
    monkeypatch.setattr(paired, "count_draws", lambda values: 150 if values == answers.size else 0)
    found = compare_predictions([one], [other])
    assert [shape[0] for shape in shapes] == [70, 70, 70, 70, 10, 10, 1, 1]
    counts = np.random.Generator(np.random.PCG64(0)).multinomial(200, np.full(200, 1 / 200), size=150)
    leads = [r2_score(truth, answers, sample_weight=row) - r2_score(truth, noisier, sample_weight=row) for row in counts]
    assert found.interval == pytest.approx(np.quantile(leads, [0.025, 0.975]), abs=1e-6), "the same draws as at once"


def test_ridge_is_scikit_learns_at_its_penalty() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, [1, 2, 3, 4, 5], (400, 5)), rng.normal(0, 1, (400, 2))
    y += x @ rng.normal(0, 1, (5, 2))
    unit = ((x - x.mean(0)) ** 2).sum(0).mean()
    for share in (0.1, 1.0):
        ridge = probe.fit_ridge(torch.from_numpy(x), torch.from_numpy(y), (share,))
        expected = Ridge(alpha=share * unit).fit(x, y)
        assert ridge(torch.from_numpy(x)).numpy() == pytest.approx(expected.predict(x), abs=1e-8)
    chosen = probe.fit_ridge(torch.from_numpy(x), torch.from_numpy(y))
    errors = (chosen(torch.from_numpy(x)).numpy() - y) ** 2
    assert errors.mean() < 1.02 * ((LinearRegression().fit(x, y).predict(x) - y) ** 2).mean() and 0.8 < chosen.held_error < 1.3


@pytest.mark.parametrize(("n", "width"), [(30, 6), (12, 40), (9, 9)])
def test_ridge_predicts_each_image_by_the_others_as_scikit_learn_fitted_anew(n: int, width: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(3, 1, (n, width)), rng.normal(5, 1, (n, 2))
    y += x @ rng.normal(0, 1, (width, 2)) / 3
    unit, errors = ((x - x.mean(0)) ** 2).sum() / width, []
    for share in (0.03, 0.3, 3.0):
        others = [np.delete(np.arange(n), k) for k in range(n)]
        guesses = [Ridge(alpha=share * unit).fit(x[rows], y[rows]).predict(x[k : k + 1])[0] for k, rows in enumerate(others)]
        errors.append(((np.array(guesses) - y) ** 2).mean())
        found = probe.fit_ridge(torch.from_numpy(x), torch.from_numpy(y), (share,))
        assert found.held_error == pytest.approx(errors[-1], rel=1e-8)
        expected = Ridge(alpha=share * unit).fit(x, y)
        assert found.theta.numpy() == pytest.approx(expected.coef_.T, abs=1e-9)
        assert found.bias.numpy() == pytest.approx(expected.intercept_, abs=1e-8)
    assert probe.fit_ridge(torch.from_numpy(x), torch.from_numpy(y), (0.03, 0.3, 3.0)).held_error == pytest.approx(min(errors))
    alone = probe.fit_ridge(torch.ones(1, 4), torch.full((1, 2), 7.0))
    assert torch.equal(alone(torch.zeros(1, 4)), torch.full((1, 2), 7.0)), "of one image, its answer"


def test_precision_recall_and_f1_per_class_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    labels[labels == 3] = 2  # a class without images
    logits = torch.from_numpy(rng.normal(0, 1, (300, 4)) + 2 * np.eye(4)[labels])
    found = score_classes(logits, torch.from_numpy(labels), 0.5, tuple("abcd"))
    precision, recall, f1, images = precision_recall_fscore_support(labels, logits.argmax(1).numpy(), labels=range(4), zero_division=0)
    assert [row["images"] for row in found["classes"]] == images.tolist()
    assert [row["precision"] for row in found["classes"]] == pytest.approx(precision.tolist())
    assert [row["recall"] for row in found["classes"][:3]] == pytest.approx(recall[:3].tolist()) and found["classes"][3]["recall"] is None
    assert [row["f1"] for row in found["classes"]] == pytest.approx(f1.tolist())
    assert found["f1"] == pytest.approx(f1[:3].mean())


def test_calibration_of_labels_scales_each_half_of_the_images_by_the_other() -> None:
    """Two labels, one over- and one underconfident; halves of the flat list of choices would be the labels."""
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 2, (400, 2)))
    truth = (torch.from_numpy(rng.random((400, 2))) < (logits * torch.tensor([0.3, 3.0])).sigmoid()).double()
    task = Labels(("over", "under"))
    found = measure_calibration(logits.sigmoid(), truth, task=task)
    odd = torch.arange(400) % 2 == 1
    losses = []
    for half, other in ((odd, ~odd), (~odd, odd)):
        temperature = measure_calibration(logits[other].sigmoid(), truth[other], task=task)["temperature"]
        p = (logits[half] / temperature).sigmoid()
        losses.append(-(truth[half] * p.log() + (1 - truth[half]) * (1 - p).log()).mean())
    assert found["log_loss_after"] == pytest.approx(float(sum(losses)) / 2, rel=1e-4)
    assert found["rejection"] == []  # of images, which have several answers


def test_nothing_is_fitted_to_the_images_of_a_model_without_intervals() -> None:
    answers, truth = (torch.from_numpy(values) for values in number_answers())
    task = Numbers(("x", "y"), (0.0, 0.0), (1.0, 1.0))
    assert measure_calibration(answers, truth, 1.0, task)["coverage"] == []
    assert deployed_task(Labels(("a", "b"))).thresholds == (0.5, 0.5)


def test_a_low_r2_is_not_clearly_below_another_by_nothing() -> None:
    figure = FIGURES["numbers"]
    assert not figure.is_clearly_below(-0.011, -0.010, 36) and not figure.is_clearly_below(-0.1, 0.1, 36)
    assert figure.is_clearly_below(0.2, 0.8, 100)
