"""The size at which training shows the images: its landmarks, what the model sees, and what does not go with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from goodfit.core.errors import UsageError
from goodfit.core.progress import Length, Lengths
from goodfit.data.dataset import Dataset
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.loop import fit
from goodfit.training.rules.resolution import Full, Progressive
from tests.support.build import build_training

SMALL = Recipe(
    model="swift(4)", size=20, augment="none", optimizer="sgd(0.05)", schedule="constant", budget="6 epochs", batch_size=30,
    precision="fp32", layout="channels_last", device="cpu", threads=1, evaluate_every="1 epoch", probes="none", pieces=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(photos: Path) -> Dataset:
    return open_images(SMALL.but(data=str(photos), channels=3))


@pytest.mark.parametrize(
    ("part", "sides"),
    [
        (Full(), [(0.0, 32), (0.5, 32), (1.0, 32)]),
        (Progressive(), [(0.0, 20), (0.2, 24), (0.4, 28), (0.7, 32), (1.0, 32)]),
        (Progressive(0.5, start=0.5, multiple=8), [(0.0, 16), (0.26, 24), (0.49, 32), (0.5, 32)]),
        (Progressive(0.5, start=0.9, multiple=1), [(0.0, 29), (0.25, 30), (0.5, 32)]),
        (Progressive(0.0), [(0.0, 32)]),
    ],
)
def test_sides_at_their_landmarks(part: Full | Progressive, sides: list[tuple[float, int]]) -> None:
    assert [part((32, 32), t)[0] for t, _ in sides] == [side for _, side in sides]
    widths = [part((30, 45), t) for t in np.linspace(0, 1, 50)]
    assert widths == sorted(widths) and widths[-1] == (30, 45) and all(h <= 30 and w <= 45 for h, w in widths)


def test_a_length_in_epochs_becomes_a_share(data: Dataset) -> None:
    bound = Progressive("3 epochs").bind(data.facts(Lengths(10, 30.0, Length(6.0, "epoch"))))
    assert bound.length == 0.5
    with pytest.raises(UsageError, match="before the budget is known"):
        Progressive("3 epochs")((32, 32), 0.1)


def test_the_model_sees_images_that_grow_as_pillow_shrinks_them(data: Dataset) -> None:
    training = build_training(SMALL.but(resolution="progressive(0.9, start=0.6)"), data)
    plan, batch = training.plan, training.loader.batch(0)
    shown = plan.prepare(batch, 0.0).images
    assert shown.shape[2:] == (12, 12) and plan.prepare(batch, 0.9).images.shape[2:] == (20, 20)
    assert torch.equal(plan.prepare(batch, 0.9).images, build_training(SMALL, data).plan.prepare(batch, 0.0).images)
    for own, small in zip(batch.images, shown, strict=True):
        expected = Image.fromarray(own.permute(1, 2, 0).numpy()).resize((12, 12), Image.Resampling.BILINEAR)
        pixels = data.preprocess.normalize(torch.from_numpy(np.asarray(expected).copy()).permute(2, 0, 1)[None])[0]
        assert float((small - pixels).abs().max()) < 1.5 / 255 / min(data.preprocess.std)
    sides: list[int] = []
    training.state.model.register_forward_hook(lambda model, inputs, output: sides.append(inputs[0].shape[2]) if model.training else None)
    fit(training.state, training.loader, plan)
    assert sides == sorted(sides) and set(sides) == {12, 16, 20}


def test_pieces_of_a_batch_are_shrunk_alike(data: Dataset) -> None:
    training = build_training(SMALL.but(resolution="progressive"), data)
    batch = training.loader.batch(0)
    whole = training.plan.prepare(batch, 0.1).images
    cut_up = torch.cat([training.plan.prepare(batch[rows], 0.1).images for rows in (slice(0, 16), slice(16, 30))])
    assert whole.shape[2] < 20 and torch.equal(whole, cut_up)


def test_what_does_not_go_with_it_is_said(data: Dataset, photos: Path) -> None:
    with pytest.raises(UsageError, match=r'"progressive" shows the model images of 12x12, which it does not take .* --resolution full'):
        build_training(SMALL.but(resolution="progressive", model="mlp((4,))"), data)
    with pytest.raises(UsageError, match="the resolution progressive: turn that off with --resolution full"):
        build_training(SMALL.but(resolution="progressive", model="linear", optimizer="lbfgs", batch_size="all"), data)


@pytest.mark.parametrize(("resolution", "times"), [("progressive(0.9, start=0.6)", 2), ("full", 0)])
def test_freed_memory_is_returned_where_the_images_become_larger(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, resolution: str, times: int
) -> None:
    """From 12 to 16 and to 20 pixels: what smaller images left would stay beside what larger ones need."""
    calls: list[None] = []
    monkeypatch.setattr("goodfit.training.clock.release_freed_pages", lambda: calls.append(None))
    training = build_training(SMALL.but(resolution=resolution), data)
    fit(training.state, training.loader, training.plan)
    assert len(calls) == times
