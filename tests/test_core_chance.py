"""Chance: the hash itself, the distributions it makes, and that nothing depends on how places are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from goodfit.core.chance import GOLDEN, MASK64, MIX64_FIRST, MIX64_SECOND, MIXING_BLOCK, Chance, fold, mix64, mix64_tensor

N = 20_000
RARE = 1e-4  # the seeds are fixed, so a test that passes passes always; a wrong hash gives p-values far below


def chance(*words: int | str, n: int = N, seed: int = 0) -> Chance:
    return Chance.of(seed, torch.arange(n), *words)


def chi_square(counts: np.ndarray) -> float:
    return float(stats.chisquare(counts.ravel()).pvalue)


def splitmix(x: int) -> int:
    """SplitMix64's finalizer in plain big integers, written from the paper."""
    x %= 2**64
    x = (x ^ (x // 2**30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x // 2**27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x // 2**31)


EDGES = [0, 1, 2, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF, -0x0123456789ABCDEF, GOLDEN - 2**64]


def test_the_finalizer_is_splitmix64_with_wraparound() -> None:
    words = EDGES + np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 500).tolist()
    found = mix64_tensor(torch.tensor(words, dtype=torch.int64)).tolist()
    assert [x % 2**64 for x in found] == [splitmix(w) for w in words]
    assert [mix64(w & MASK64) for w in words] == [splitmix(w) for w in words]


def test_the_stream_is_the_published_splitmix64() -> None:
    """The first outputs of SplitMix64 seeded with 1234567, as its reference code prints them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [mix64((1234567 + n * GOLDEN) & MASK64) for n in range(1, 6)] == known
    assert (MIX64_FIRST, MIX64_SECOND) == (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def test_bits_equal_plain_integers() -> None:
    """Rows and columns by big-integer arithmetic alone: what another language would have to compute."""
    places = [0, 1, 5, 2**40 + 3, 2**62]
    drawn = Chance.of(7, torch.tensor(places), "flip", 3).bits(4)
    key = fold(7, "flip", 3)
    for row, place in enumerate(places):
        base = splitmix(place * GOLDEN + key)
        for column in range(4):
            expected = splitmix(base + (column + 1) * (fold(key, "column") | 1))
            assert int(drawn[row, column]) % 2**64 == expected


def test_fold_tells_words_numbers_and_orders_apart() -> None:
    keys = [fold(0), fold(1), fold(0, 0), fold(0, 1), fold(0, "0"), fold(0, "a", "b"), fold(0, "b", "a"), fold(0, "ab"), fold(0, "a", 1)]
    keys += [fold(0, 1, 2), fold(0, 2, 1), fold(0, -1), fold(0, "flip", 0), fold(0, "flip", 1), fold(0, "crop", 0)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key <= MASK64 for key in keys)
    assert fold(fold(5, "a"), "b") == fold(5, "a", "b")


# ---- distributions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("flip",), ("crop", 3), (0,), (12345, "x", -9)])
def test_uniform_is_uniform(words: tuple[int | str, ...]) -> None:
    x = chance(*words).uniform().double().numpy()
    assert x.min() >= 0
    assert x.max() < 1
    assert chi_square(np.histogram(x, 256, (0, 1))[0]) > RARE
    assert stats.kstest(x, "uniform").pvalue > RARE


def test_every_bit_is_fair_and_changes_half_of_the_time() -> None:
    bits = chance("bits").bits()[:, 0].numpy().view(np.uint64)
    table = (bits[:, None] >> np.arange(64, dtype=np.uint64)) & 1
    assert np.abs(table.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(N)
    changes = (table[1:] != table[:-1]).mean(0)
    assert np.abs(changes - 0.5).max() < 5 * 0.5 / math.sqrt(N)


def test_uniform_between_and_shapes() -> None:
    c = chance("range")
    x = c.uniform(-3.0, 5.0, 3)
    assert x.shape == (N, 3)
    assert x.dtype == torch.float32
    assert torch.equal(x[:, 0], c.uniform(-3.0, 5.0))
    assert -3.0 <= float(x.min()) < -2.99
    assert 4.99 < float(x.max()) <= 5.0
    doubles = c.double(2)
    assert doubles.dtype == torch.float64
    assert float(doubles.min()) > 0
    assert float(doubles.max()) < 1


PAIRS = {
    "purposes": (chance("flip", 0), chance("crop", 0)),
    "positions in the pipe": (chance("flip", 0), chance("flip", 1)),
    "epochs": (chance("augment", 4), chance("augment", 5)),
    "seeds": (chance("flip", seed=0), chance("flip", seed=1)),
    "neighbors": (chance("flip"), Chance.of(0, torch.arange(1, N + 1), "flip")),
    "distant places": (chance("flip"), Chance.of(0, torch.arange(N) + 2**32, "flip")),
    "negative words": (chance("flip", 1), chance("flip", -1)),
}


@pytest.mark.parametrize("name", [*PAIRS, "columns", "distant columns"])
def test_independent_across(name: str) -> None:
    if "columns" in name:
        table = chance("columns").uniform(n=40).numpy()
        x, y = table[:, 0], table[:, 1 if name == "columns" else 39]
    else:
        x, y = (c.uniform().numpy() for c in PAIRS[name])
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / math.sqrt(N)
    assert chi_square(np.histogram2d(x, y, 16, ((0, 1), (0, 1)))[0]) > RARE
    ranks = stats.spearmanr(np.abs(x - 0.5), np.abs(y - 0.5)).statistic
    assert abs(ranks) < 4 / math.sqrt(N)


def test_normal_against_scipy() -> None:
    c = chance("normal")
    x = c.normal(2.0, 3.0, 2)
    assert x.shape == (N, 2)
    assert x.dtype == torch.float32
    assert stats.kstest(x[:, 0].double().numpy(), "norm", (2.0, 3.0)).pvalue > RARE
    assert np.allclose(c.normal().numpy(), stats.norm.ppf(c.double().numpy()), atol=1e-6)
    assert torch.isfinite(Chance.of(0, torch.arange(200_000), "tails").normal()).all()


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (1.0, 1.0), (2.0, 5.0)])
def test_beta_against_scipy(a: float, b: float) -> None:
    x = chance("beta").beta(a, b)
    assert x.shape == (N,)
    assert x.dtype == torch.float32
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    edges = stats.beta.ppf(np.linspace(0, 1, 33), a, b)[1:-1]
    edges = edges[edges < 0.9999]  # nearer to 1, float32 has few numbers
    found = np.histogram(x.double().numpy(), [-1.0, *edges, 2.0])[0]
    expected = np.diff([0.0, *stats.beta.cdf(edges, a, b), 1.0]) * N
    assert stats.chisquare(found, expected).pvalue > RARE


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-4, 5), (0, 7), (10, 11), (0, 1000), (0, 2**31)])
def test_integers_are_in_range_and_fair(low: int, high: int) -> None:
    x = chance("integers").integers(low, high, 2)
    assert x.dtype == torch.int64
    assert low <= int(x.min())
    assert int(x.max()) < high
    counts = np.bincount(((x[:, 0] - low) * min(high - low, 100) // (high - low)).numpy(), minlength=min(high - low, 100))
    assert chi_square(counts) > RARE if high - low > 1 else counts.tolist() == [N]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_chosen(p: float) -> None:
    share = float(chance("chosen").chosen(p).double().mean())
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / N)


# ---- orders -----------------------------------------------------------------------------------------------------------------------


def test_permutation_is_a_permutation() -> None:
    order = chance("order").permutation()
    assert torch.equal(order.sort().values, torch.arange(N))
    assert not torch.equal(order, chance("order", 1).permutation())
    assert abs(np.corrcoef(order.numpy(), np.arange(N))[0, 1]) < 4 / math.sqrt(N)


def test_permutations_of_few_are_uniform() -> None:
    orders = [tuple(Chance.of(seed, torch.arange(4), "order", seed % 7).permutation().tolist()) for seed in range(4800)]
    counts = np.unique([4**3 * a + 4**2 * b + 4 * c + d for a, b, c, d in orders], return_counts=True)[1]
    assert len(counts) == 24
    assert chi_square(counts) > RARE


@pytest.mark.parametrize("n", [1, 5, 16, 17, 40, 128])
def test_partners_are_permutations_within_blocks(n: int) -> None:
    partners = chance("mixup", n=n).partners()
    for start in range(0, n, MIXING_BLOCK):
        places = torch.arange(start, min(start + MIXING_BLOCK, n))
        assert torch.equal(partners[places].sort().values, places)


def test_partners_are_uniform_within_their_block() -> None:
    partners = chance("mixup", n=16 * 2000).partners().view(2000, 16) % 16
    counts = np.zeros((16, 16))
    for column in range(16):
        counts[column] = np.bincount(partners[:, column].numpy(), minlength=16)
    assert chi_square(counts) > RARE


def test_the_same_in_any_piece() -> None:
    """Any cut draws the same; partners the same in pieces of whole blocks."""
    whole = chance("crop", 2, n=100)
    for rows in (slice(0, 16), slice(16, 96), slice(96, 100), torch.tensor([99, 3, 50])):
        piece = Chance(whole.key, whole.places[rows])
        for draw in ("bits", "uniform", "double", "normal"):
            assert torch.equal(getattr(piece, draw)(), getattr(whole, draw)()[rows]), draw
            assert torch.equal(getattr(piece, draw)(n=3), getattr(whole, draw)(n=3)[rows]), draw
        assert torch.equal(piece.integers(0, 9), whole.integers(0, 9)[rows])
        assert torch.equal(piece.beta(0.2, 0.3), whole.beta(0.2, 0.3)[rows])
    for start, stop in ((0, 16), (16, 96), (96, 100)):
        piece = Chance(whole.key, whole.places[start:stop])
        assert torch.equal(piece.partners() + start, whole.partners()[start:stop])


def test_at_is_of_and_draws_leave_no_trace() -> None:
    c = Chance.of(3, torch.arange(50), "augment", 2)
    assert torch.equal(c.at("flip", 1).bits(), Chance.of(3, torch.arange(50), "augment", 2, "flip", 1).bits())
    before = torch.random.get_rng_state()
    first = c.uniform()
    assert torch.equal(first, c.uniform())
    assert torch.equal(before, torch.random.get_rng_state())


def test_draws_are_on_the_device_of_the_places() -> None:
    draws = Chance.of(3, torch.arange(32, device="meta"), "noise").uniform(n=5)
    assert (draws.device.type, draws.shape) == ("meta", (32, 5))


def test_the_chance_of_an_epoch_also_knows_the_images() -> None:
    """At the places it draws as `of` does; `per_image` draws the same for an image in every epoch, wherever it stands."""
    ids = torch.arange(50).flip(0)
    for epoch in (0, 5):
        c = Chance.for_epoch(3, "augment", epoch, torch.arange(50), ids).at("flip", 1)
        assert c.epoch == epoch and c.per_image is not None
        assert torch.equal(c.bits(), Chance.of(3, torch.arange(50), "augment", epoch, "flip", 1).bits())
        assert torch.equal(c.per_image.bits(), Chance.of(3, ids, "augment", "flip", 1).bits())
        piece = c[torch.tensor([4, 7])]
        assert torch.equal(piece.uniform(), c.uniform()[[4, 7]]) and piece.epoch == epoch
        assert piece.per_image is not None and torch.equal(piece.per_image.uniform(), c.per_image.uniform()[[4, 7]])
        assert torch.equal(c[10:20].per_image.bits(), c.per_image.bits()[10:20])  # type: ignore[union-attr]
    plain = Chance.of(3, torch.arange(5))
    assert plain.per_image is None and plain.epoch == 0 and plain[1:3].per_image is None and plain.at("x").per_image is None


def test_negative_and_large_seeds() -> None:
    draws = {seed: Chance.of(seed, torch.arange(64), "x").bits() for seed in (-1, 0, 1, 2**63, 2**64 - 2)}
    found = list(draws.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
