"""What the lecture says of gradients: of inputs that are all positive, of batches of any size, of the noise of small ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch, one_hot
from goodfit.data.loader import Loader
from goodfit.data.pixels import RawPixels
from goodfit.data.preprocess import Preprocess
from goodfit.losses.softmax import Softmax
from goodfit.models.mlp import Mlp
from goodfit.recipe.recipe import Recipe
from goodfit.training.gradient import gradient

SIDE, K, N = 6, 4, 256


def pictures(n: int = N) -> tuple[np.ndarray, Tensor]:
    """Bright, noisy pictures uint8 [n, SIDE, SIDE, 3] of K classes, no pixel black."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % K
    images = rng.integers(90, 200, (n, SIDE, SIDE, 3))
    for k in range(K):
        images[labels == k, k] += 50
    return images.astype(np.uint8), torch.from_numpy(labels)


def mapped(images: np.ndarray, folder: Path) -> RawPixels:
    """The pictures as packed data has them."""
    (folder / "pixels").write_bytes(images.tobytes())
    return RawPixels(folder / "pixels", images.shape)


def batch_of(images: Tensor, labels: Tensor) -> Batch:
    return Batch(images, one_hot(labels, K).double(), torch.arange(len(labels)))


def flat_gradient(model: nn.Module, batch: Batch) -> Tensor:
    """The gradient [D] of the mean loss over a batch, as the training loop takes it."""
    model.zero_grad()
    gradient(model, iter([batch]), len(batch), Softmax())
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# ---- zero-mean data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S009")
def test_positive_inputs_give_each_neuron_gradients_of_one_sign_and_centered_ones_do_not() -> None:
    """dL/dw_i = delta x_i: with all x_i > 0 every weight of a neuron moves the same way. Taking the mean off, as Goodfit does, ends it."""
    images, labels = pictures()
    stored = torch.from_numpy(images).permute(0, 3, 1, 2)
    mean, std = (images.reshape(-1, 3) / 255).mean(0), (images.reshape(-1, 3) / 255).std(0)
    as_they_are = Preprocess((SIDE, SIDE), (SIDE, SIDE))
    centered = Preprocess((SIDE, SIDE), (SIDE, SIDE), mean=tuple(mean), std=tuple(std))
    torch.manual_seed(0)
    model = Mlp((10,))(K, 3, (SIDE, SIDE)).double()
    first = model.get_parameter("layer1.linear.weight")

    def one_signed(preprocess: Preprocess) -> list[bool]:
        """For each image and each neuron that got a gradient: whether all its weights' gradients have one sign."""
        found = []
        for i in range(32):
            flat_gradient(model, batch_of(preprocess.normalize(stored[i : i + 1]).double(), labels[i : i + 1]))
            assert first.grad is not None
            found += [bool((row > 0).all() or (row < 0).all()) for row in first.grad if bool(row.any())]
        return found

    assert float(as_they_are.normalize(stored).min()) > 0
    assert len(one_signed(as_they_are)) > 50 and all(one_signed(as_they_are))
    assert not any(one_signed(centered))


@pytest.mark.item("S009")
def test_the_path_zigzags_where_inputs_are_positive() -> None:
    """A neuron whose best weights lie at (+1, -1): positive inputs can only step into (+, +) or (-, -), so the path is longer."""

    def path(shift: float) -> tuple[float, Tensor, int]:
        """How long the path of single-image steps to within 0.05 of the best weights is, its steps, and how many it took."""
        chance = torch.Generator().manual_seed(1)
        best, w = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        steps = []
        while float((w - best).norm()) > 0.05:
            x = torch.rand(2, dtype=torch.float64, generator=chance) - shift
            steps.append(-0.4 * 2 * (w - best).dot(x) * x)
            w = w + steps[-1]
        return float(sum(step.norm() for step in steps)), torch.stack(steps), len(steps)

    positive, steps, many = path(0.0)
    centered, free, few = path(0.5)
    assert bool((steps[:, 0] * steps[:, 1] >= 0).all()), "never toward (+, -)"
    assert bool((free[:, 0] * free[:, 1] < 0).any())
    assert positive > 1.5 * centered >= 1.5 * (2**0.5 - 0.05)
    assert many > 0 and few > 0


# ---- mini-batches ------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S073")
def test_the_gradient_of_a_batch_is_the_mean_of_its_images_gradients() -> None:
    images, labels = pictures(32)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - 0.5
    torch.manual_seed(0)
    model = Mlp((7,))(K, 3, (SIDE, SIDE)).double()
    whole = flat_gradient(model, batch_of(floats, labels))
    each = torch.stack([flat_gradient(model, batch_of(floats[i : i + 1], labels[i : i + 1])) for i in range(32)])
    assert torch.allclose(whole, each.mean(0), rtol=0, atol=1e-14)
    assert not torch.allclose(whole, each[0], atol=1e-3), "one image is another gradient"


@pytest.mark.item("S073")
@pytest.mark.parametrize("size", [1, 32, 64, 128, 256])
def test_the_lectures_batch_sizes_can_be_chosen(size: int, tmp_path: Path) -> None:
    """32, 64 and 128 are common, Krizhevsky took 256, and 1 is stochastic gradient descent: each image once an epoch."""
    images, labels = pictures(200)
    loader = Loader(mapped(images, tmp_path), labels, torch.arange(200), K, Recipe(batch_size=size).images_per_step(200), seed=0, workers=0)
    assert loader.epoch_steps == -(-200 // size)
    batches = list(itertools.islice(loader.stream(), loader.epoch_steps))
    assert {len(b) for b in batches[:-1]} <= {size}
    assert len(batches[-1]) == 200 - size * (loader.epoch_steps - 1)
    assert sorted(torch.cat([b.ids for b in batches]).tolist()) == list(range(200))


@pytest.mark.item("S074")
def test_a_mini_batch_is_a_noisy_but_fair_estimate_of_the_full_gradient(tmp_path: Path) -> None:
    """Over an epoch the mean of the batches' gradients is the full gradient; its variance falls as 1 / B.

    An epoch draws without putting back, so the variance is sigma^2 / B times (N - B) / (N - 1): nothing is left at B = N.
    """
    images, labels = pictures()
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - 0.5
    torch.manual_seed(0)
    model = Mlp((5,))(K, 3, (SIDE, SIDE)).double()
    each = torch.stack([flat_gradient(model, batch_of(floats[i : i + 1], labels[i : i + 1])) for i in range(N)])  # [N, D]
    full = flat_gradient(model, batch_of(floats, labels))
    sigma2 = (each - full).square().sum(1).mean()
    variances = {}
    for size in (1, 4, 16, 64):
        loader = Loader(mapped(images, tmp_path), labels, torch.arange(N), K, size, seed=3, workers=0)
        errors = []
        for epoch in range(40):
            drawn = each[loader.order(epoch)].view(N // size, size, -1).mean(1) - full  # a batch's gradient is the mean of its images'
            assert float(drawn.mean(0).abs().max()) < 1e-14, "fair: the mean over an epoch is the full gradient"
            errors.append(drawn.square().sum(1))
        found = torch.cat(errors)
        variances[size] = float(found.mean())
        expected = float(sigma2) / size * (N - size) / (N - 1)
        # the batches of an epoch depend on each other, so the standard error is taken over epochs
        spread = torch.stack(errors).mean(1)
        assert variances[size] == pytest.approx(expected, abs=max(3.5 * float(spread.std()) / 40**0.5, 1e-12 * expected))
    assert variances[4] / variances[16] == pytest.approx(4 * (N - 4) / (N - 16), rel=0.1)
    assert variances[64] > 0
